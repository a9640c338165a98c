/*-------------------------------------------------------------------------
 *
 * adapt.h
 *	  Adapting entities on the rows of a model's declared relation, one batch
 *	  at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_ADAPT_H
#define QUERY_ADAPT_H

#include "postgres.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/nodes.h"
#include "utils/sortsupport.h"

#include "model/trained_network.h"
#include "query/source.h"

/* A network, the source of its rows, and room to work in. */
typedef struct Adapter
{
	const TrainedNetwork *trained;
	Source		source;
	SPIPlanPtr	rows_plan;		/* once it is needed, and so the others: to */
	SPIPlanPtr	one_plan;		/* prepare one takes rights on its relation */
	SPIPlanPtr	many_plan;		/* for more than are adapted at a time */
	SPIPlanPtr	entities_plan;
	ColumnReader *readers;
	ColumnReader *meta_readers;
	SortSupportData time_order;
	MemoryContext context;		/* holds all of it */
	MemoryContext batch;		/* reset by every batch */
	MemoryContext part;			/* of it, that is adapted at a time */
	int			part_entities;	/* 500, unless the owner of it sets another */

	float	   *x;
	float	   *z;				/* support_rows x dz, and so on */
	float	   *half;
	float	   *label;
	float	   *weight;
	float	   *offset;
	bool	   *same_time;
	float	   *memory;			/* of adapt() */

	/* what it has done so far */
	double		reading_seconds;
	double		adapting_seconds;
	int64		rows_read;
} Adapter;

/*
 * An entity's newest rows, and up to as many older ones that go when the
 * buffer is full; in the adapter's context `part`.
 */
typedef struct KeptRow KeptRow;

typedef struct KeptRows
{
	char	   *rows;
	int			count;
	int			room;
	int64		interactions;	/* all that were seen */
	uint64		seed;			/* of the hash that orders rows of one time */
} KeptRows;

typedef struct AdaptedEntity
{
	float	   *embedding;
	int64		interactions;	/* rows it has; the newest were used */
	Datum		adapted_through;	/* event time of the newest */
	float		loss_before;	/* mean loss of the rows used */
	float		loss_after;
} AdaptedEntity;

/*
 * Prepares for a model's network, which must live as long.  With SPI
 * connected; the adapter and its plans live in the current memory context.
 */
extern void AdapterInit(Adapter *adapter, const Model *model,
						const TrainedNetwork *trained);

/*
 * Prepares to adapt on rows that come from elsewhere, and, once the source's
 * event time is set, to order them; reading them takes its other columns and a
 * reader per feature.
 */
extern void AdapterPrepare(Adapter *adapter, const TrainedNetwork *trained);
extern void AdapterOrderRows(Adapter *adapter);

/* Room for a row. */
extern KeptRow *AdapterNewRow(const Adapter *adapter);

/*
 * Reads a row that has a label and a time from values: event time, label,
 * weight?, features.  A time that is no value is not copied.  Errors name the
 * entity by its key, which may be NULL.
 */
extern void AdapterReadRow(Adapter *adapter, const Datum *values,
						   const bool *isnull, const Datum *key, KeptRow *row);

/* No rows yet, of the entity whose encoding is adapter->x. */
extern void AdapterStartRows(const Adapter *adapter, KeptRows *kept);

/* Keeps a row, whose time is copied where it is no value. */
extern void AdapterKeepRow(Adapter *adapter, KeptRows *kept,
						   const KeptRow *row);

/* Keeps those of another process' or part's, of the same entity. */
extern void AdapterKeepRows(Adapter *adapter, KeptRows *kept,
							const KeptRows *others);

/*
 * Rows as bytes, for the same program on a machine of this kind.  Receiving
 * trusts nothing: it returns false, or throws, where they cannot be rows of the
 * network's, and adds them to rows that were started.
 */
extern void AdapterSendRows(Adapter *adapter, KeptRows *kept,
							StringInfo buffer);
extern bool AdapterReceiveRows(Adapter *adapter, KeptRows *kept,
							   StringInfo buffer);

/*
 * Adapts the entity whose encoding is adapter->x on its newest rows.  The
 * embedding is in the adapter's context `part`.
 */
extern void AdaptKeptRows(Adapter *adapter, KeptRows *kept, const Datum *key,
						  AdaptedEntity *adapted);

/* Takes `count` entities that have been adapted, from place `first` on. */
typedef void (*AdaptedReceiver) (void *argument, int first, int count,
								 const AdaptedEntity *adapted);

/*
 * Adapts `count` entities, key[k] being the values of key column k, with
 * whoever's rights are in force.  Their rows are read by one query, by index
 * or in one pass over the relation, as the planner finds cheaper.  They are
 * handed over in parts, in their order; those of a part that is yet to come
 * wait on disk.  What is handed over lives until the receiver returns.  An
 * entity that diverges is an error naming it.
 */
extern void AdaptEntities(Adapter *adapter, int count, Datum **key,
						  bool read_only, AdaptedReceiver receive,
						  void *argument);

/*
 * How many entities may be adapted at a time with about this much memory at
 * most, however many rows they have; at least 1.
 */
extern int	AdapterPartEntities(const Adapter *adapter, Size memory);

/* What the planner thinks it costs to read the rows of entities. */
extern Cost AdapterReadingCost(Adapter *adapter, int count, Datum **key);

/* Codes of an entity about which nothing is known. */
extern void UnknownEntityCodes(const Encoder *encoder, FeatureCode *codes);

/*
 * Codes of the entities' meta features, one entity's after the other's; those
 * of an entity that is not there are an unknown one's.
 */
extern void EntityCodes(Adapter *adapter, int count, Datum **key,
						bool read_only, FeatureCode *codes);

#endif							/* QUERY_ADAPT_H */
