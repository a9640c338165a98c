/*-------------------------------------------------------------------------
 *
 * model_use.h
 *	  A model as one call site of one query uses it: everything that is found
 *	  out once instead of once per row.
 *
 * A use is valid for one model name, type of key, user and snapshot.  A
 * query has one snapshot, so it has one version from its first row to its
 * last; an expression that outlives a query (PL/pgSQL keeps some) finds out
 * anew.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_MODEL_USE_H
#define QUERY_MODEL_USE_H

#include "postgres.h"

#include "fmgr.h"

#include "model/catalog.h"
#include "model/entity_key.h"
#include "model/network_cache.h"
#include "model/trained_network.h"
#include "query/adapt.h"

/* An entity as scoring wants it. */
typedef struct EntityVector
{
	float	   *embedding;		/* E numbers */
	float	   *entity;			/* what it is to candidates (network_entity) */
	int32		id;				/* row of the vector of the arm `id` */
	bool		stored;			/* it is the embeddings table's */
} EntityVector;

/* Who found something out, and the snapshot that it was found out under. */
typedef struct Moment
{
	Oid			user;
	TransactionId xmin;
	TransactionId xmax;
	CommandId	curcid;
	uint64		completed;
} Moment;

typedef struct ModelUse
{
	MemoryContext context;		/* holds all of it, but the struct itself */
	text	   *name;
	Model	   *model;			/* NULL where a network was given by itself */
	Version    *version;
	const TrainedNetwork *trained;
	NetworkValue value;			/* of one that was */
	const char *title;			/* "model "ctr"", or "network 1a2b3c4d" */
	EntityKey	key;
	KeyBinding	binding;
	KeyReader	key_reader;		/* of the arm `id` */
	Oid			embedding_type; /* meta_embedding */

	Moment		moment;			/* when this was found out */

	Adapter    *adapter;		/* once something is adapted */
	SPIPlanPtr	embedding_plan; /* once one is looked up */
	struct entities_hash *entities;
	MemoryContext entities_context;
	EntityVector *last;			/* of last_key, or NULL */
	Datum	   *last_key;
	EntityVector *unknown;		/* of NULL, once one was scored */

	float	   *scoring;		/* memory of network_score of one candidate */
	float	   *half;			/* a candidate's, once there is one */
	struct Candidate *candidate;	/* once there is one */
} ModelUse;

/*
 * The use of a model at this call site; arguments are the model's name and,
 * if key_argument is not negative, an entity's key.
 */
extern ModelUse *UseModelOf(FunctionCallInfo fcinfo, int model_argument,
							int key_argument);

/* The same where the name is the first argument. */
#define UseModel(fcinfo, key_argument) UseModelOf(fcinfo, 0, key_argument)

/* Now, and whether what was found out then is so. */
extern Moment CurrentMoment(void);
extern bool IsCurrentMoment(const Moment *then);

/*
 * The use of a network that an argument gives: of the fields above, there are
 * those for embeddings at hand.  It looks up nothing.
 */
extern ModelUse *UseNetwork(FunctionCallInfo fcinfo, int network_argument);

/* Whether a use is of the model of this name. */
extern bool IsUseOf(const ModelUse *use, const text *name);

/*
 * The vector of the entity that an argument names: its stored embedding, or
 * the prior of what is known about it.
 */
extern EntityVector *UseEntity(ModelUse *use, Datum argument, bool isnull);

/* The prior of the entity that an argument names, stored or not. */
extern EntityVector *UsePrior(ModelUse *use, Datum argument, bool isnull);

/* "member_id 42", or NULL where the argument names no entity. */
extern char *UseEntityText(ModelUse *use, Datum argument, bool isnull);

/* The halves of any embedding of the version. */
extern EntityVector *UseEmbedding(ModelUse *use, const float *embedding);

/* The adapter, with SPI connected. */
extern Adapter *UseAdapter(ModelUse *use);

#endif							/* QUERY_MODEL_USE_H */
