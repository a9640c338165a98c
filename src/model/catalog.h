/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  Models and versions as the catalog has them, and whose rights apply.
 *
 * The catalog's tables are the extension owner's.  Whoever asks reads of them
 * what the views limaml.model and limaml.version show; they are written by the
 * fixed statements of catalog.c alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_CATALOG_H
#define MODEL_CATALOG_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/lock.h"
#include "utils/jsonb.h"

#include "model/options.h"
#include "model/safetensors.h"
#include "model/statement.h"

typedef struct Model
{
	int64		id;
	char	   *name;
	Oid			owner;
	Oid			interactions;	/* relation */
	int			keys;			/* columns of the entity key */
	char	  **key;
	char	   *label;			/* or NULL: every row is a positive */
	char	   *event_time;
	int			features;
	char	  **feature;		/* as given: column or column:kind */
	Oid			entities;		/* relation or InvalidOid */
	int			meta_features;
	char	  **meta_feature;
	Oid			embeddings;		/* table */
	Oid			changes;		/* table of changed keys, or InvalidOid */
	Jsonb	   *options;		/* as given */
	int			deployed;		/* version, or 0 */
} Model;

/* A version without its network. */
typedef struct Version
{
	int			number;
	uint8		digest[SAFETENSORS_DIGEST_BYTES];
} Version;

/*
 * All functions below are called with SPI connected; what they return is in
 * the caller's memory context.
 */

/*
 * The model of this name, as the active snapshot (read_only) or a new one
 * shows it.  An error where there is none, or none that the caller may see.
 */
extern Model *CatalogModel(const char *name, bool read_only);

/* The same, but NULL instead of an error. */
extern Model *CatalogFindModel(const char *name, bool read_only);

/* The name of a model, whoever may see it, or NULL. */
extern char *CatalogModelName(int64 id);

/* Whether a model has this name, whoever may see it. */
extern bool CatalogModelExists(const char *name);

/* Version `number`, or the deployed one (0), or the newest (-1). */
extern Version *CatalogVersion(const Model *model, int number,
							   bool read_only);

extern bool CatalogHasVersion(const Model *model, int number);

/* A version's network, detoasted. */
extern bytea *CatalogNetwork(const Model *model, int version, bool read_only);

/* The same of its first run, or NULL. */
extern bytea *CatalogValidationNetwork(const Model *model, int version);

/* An error unless the caller is the model's owner or a member of it. */
extern void CatalogCheckOwner(const Model *model, const char *verb);

/* An error where a model without label has a loss that needs one. */
extern void CatalogCheckLoss(const Model *model, const ModelOptions *options);

/* The model's options, those of `given` (may be NULL) laid over them. */
extern void CatalogOptions(const Model *model, const Jsonb *given,
						   ModelOptions *options);

/*
 * The options that a version was trained with (JSON); which relation its
 * negatives are drawn from is the model's matter.
 */
extern void CatalogVersionOptions(const Model *model, const char *trained,
								  ModelOptions *options);

/* What a training run says about the version it made. */
typedef struct VersionRecord
{
	bytea	   *network;
	bytea	   *validation_network; /* that of the first run, or NULL */
	uint8		digest[SAFETENSORS_DIGEST_BYTES];
	const char *options;		/* JSON */
	int64		entities;
	int64		interactions;
	int			epochs;			/* 0 for an imported one */
	double		train_loss;		/* NaN is stored as NULL, here and below */
	double		validation_loss;
	double		validation_auc;
	double		baseline_auc;
	double		seconds;
} VersionRecord;

/* A row of limaml.training_log. */
typedef struct EpochRecord
{
	bool		refit;			/* of the second run, on all rows */
	int			epoch;
	double		train_loss;
	double		validation_loss;
	double		validation_auc;
	double		baseline_auc;
	double		learning_rate;
	double		seconds;
	bool		kept;			/* the best of the first run */
} EpochRecord;

/* A row of limaml.trial. */
typedef struct TrialRecord
{
	int			search;			/* which one of the model's */
	int			trial;
	Jsonb	   *options;		/* that were drawn */
	int			epochs;			/* that it learned for */
	EpochRecord best;			/* of them */
	double		seconds;
	int			version;		/* that it became, or 0 */
} TrialRecord;

extern void CatalogInsertModel(const Model *model);
extern void CatalogDeleteModel(const Model *model);

/* Sets the model's options and its table of changed keys. */
extern void CatalogUpdateModel(const Model *model);

/* Deploys a version; with only_first, where none is deployed yet. */
extern void CatalogDeploy(const Model *model, int version, bool only_first);

/* Deletes a version and all that is known about it. */
extern void CatalogDeleteVersion(const Model *model, int version);

/*
 * How far a version, or with 0 every one, is refreshed is no longer known: the
 * next refresh looks at all entities.
 */
extern void CatalogForgetRefresh(const Model *model, int version);

/* The same for other models that record the changes of this relation. */
extern void CatalogForgetOthers(const Model *model, Oid relation);

/*
 * Adds a version and returns its number, one more than there ever was.  Two
 * at once of one model wait for each other.
 */
extern int	CatalogInsertVersion(const Model *model,
								 const VersionRecord *record);
extern void CatalogInsertEpoch(const Model *model, int version,
							   const EpochRecord *record);

/* One more than the searches that there are; in a transaction that trained. */
extern int	CatalogNextSearch(const Model *model);
extern void CatalogInsertTrial(const Model *model, const TrialRecord *record);

/*
 * Goes on with the rights of the model's owner until LeaveRights.  Where the
 * caller is another role, what could outlast that is forbidden (as while the
 * server refreshes a materialised view).
 */
extern void EnterOwner(RightsScope *scope, const Model *model);

/*
 * A lock of our own kind among the advisory ones, whose last field users set to
 * 1 or 2.  Held in share mode by whoever works on a model's refresh (or its
 * training), alone by who must not have one at the same time.
 */
#define REFRESH_LOCK 19533
#define TRAINING_LOCK 19534

extern void ModelLock(LOCKTAG *tag, int64 model_id, uint16 kind);

/* An error while the model is refreshed; no refresh begins before commit. */
extern void CatalogLockRefresh(const Model *model);

/*
 * Whether the database has the extension, and the catalog is its own: anybody
 * might call a schema limaml, and wait for a superuser to read it.
 */
extern bool CatalogExists(void);

/* The schema that the extension was created in, and the type there. */
extern Oid	ExtensionSchema(void);
extern Oid	MetaEmbeddingType(void);

/*
 * An error unless the model's embeddings table has its column `embedding`, of
 * this type.  Returns the width.
 */
extern int	CatalogCheckEmbeddings(const Model *model, Oid embedding_type);

/* Whether other servers store embeddings of the model. */
extern bool CatalogEmbeddingsAreForeign(const Model *model);

/*
 * Locks a relation, and after it its partitions or children; returns all that
 * there are, none if the relation is gone.
 */
extern List *LockRelationTree(Oid relation, LOCKMODE mode);

/* The qualified, quoted name of a relation of the model; role says which. */
extern char *ModelRelationName(const Model *model, Oid relation,
							   const char *role);

#endif							/* MODEL_CATALOG_H */
