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
#include "nodes/nodes.h"

#include "model/trained_network.h"
#include "query/kept_rows.h"
#include "query/negatives.h"
#include "query/source.h"

/* A network, the source of its rows, and room to work in. */
typedef struct Adapter
{
	const TrainedNetwork *trained;
	Source		source;
	SPIPlanPtr	rows_plan;		/* once it is needed, and so the others: to */
	SPIPlanPtr	one_plan;		/* prepare one takes rights on its relation */
	SPIPlanPtr	many_plan;		/* for so many that their number matters */
	SPIPlanPtr	entities_plan;
	ColumnReader *readers;
	ColumnReader *meta_readers;
	RowForm		form;
	CodeLists	lists;			/* of the row that is being read */
	MemoryContext context;		/* holds all of it */
	MemoryContext batch;		/* reset by every batch */
	MemoryContext part;			/* of it, that is adapted at a time */
	int			part_entities;	/* 500, unless the owner of it sets another */
	Size		kept_size;		/* memory for the rows of more than a part;
								 * beyond it they wait on disk */

	/* where the version was trained with negatives */
	int			negatives;		/* per positive row, or 0 */
	NegativeSampling sampling;
	int			seed;
	Items	   *items;			/* once they are needed */
	FeatureCode *codes;			/* of a negative */

	/* of the entities that adapt together, one after another */
	int			together;		/* how many at most */
	float	   *x;
	float	   *z;				/* support rows and negatives x dz, and so on */
	float	   *half;
	float	   *label;
	float	   *weight;
	float	   *offset;
	bool	   *same_time;
	bool	   *sampled;
	float	   *memory;			/* of adapt_together() */

	/* what it has done so far */
	double		reading_seconds;
	double		adapting_seconds;
	int64		rows_read;
} Adapter;

typedef struct AdaptedEntity
{
	float	   *embedding;
	int64		interactions;	/* rows it has; the newest were used */
	Datum		adapted_through;	/* event time of the newest */
	float		loss_before;	/* mean loss of the rows used */
	float		loss_after;
} AdaptedEntity;

/*
 * Prepares for a model's network, which must live as long, and for at most so
 * many entities together (ADAPT_TOGETHER), or fewer where rows are long.  With
 * SPI connected; the adapter and its plans live in the current memory context.
 */
extern void AdapterInit(Adapter *adapter, const Model *model,
						const TrainedNetwork *trained, int together);

/*
 * The same to adapt on rows that come from elsewhere, in the current memory
 * context; reading them takes the source's columns, the form of rows, and a
 * reader per feature.
 */
extern void AdapterPrepare(Adapter *adapter, const TrainedNetwork *trained,
						   int together);

/*
 * Reads a row that has a label and a time from values: event time, label,
 * weight?, features.  What is not in the row itself is in the current memory
 * context or the values'.  Errors name the entity by its key, which may be NULL.
 */
extern void AdapterReadRow(Adapter *adapter, const Datum *values,
						   const bool *isnull, const Datum *key, KeptRow *row);

/*
 * The same of a row without nulls whose features are read from a tuple's data,
 * where they have these places; values need not have them.
 */
extern void AdapterReadRowInPlace(Adapter *adapter, const Datum *values,
								  const bool *isnull, const char *data,
								  const FeaturePlaces *features,
								  const Datum *key, KeptRow *row);

/*
 * Adapts `count` entities, at most adapter->together, whose encodings are in
 * adapter->x on their newest rows; key, whose key[k] are values of key column
 * k, may be NULL.  The embeddings are in the adapter's context `part`.
 */
extern void AdaptKeptRows(Adapter *adapter, int count, KeptRows *kept,
						  Datum **key, AdaptedEntity *adapted);

/* Takes `count` entities that have been adapted, and the values of their keys. */
typedef void (*AdaptedReceiver) (void *argument, int count, Datum **key,
								 const AdaptedEntity *adapted);

/*
 * Adapts `count` entities on rows that are kept, key[k] being the values of key
 * column k, and hands them over; what is handed over lives until the receiver
 * returns.
 */
extern void AdaptKeptEntities(Adapter *adapter, int count, Datum **key,
							  KeptRows *kept, bool read_only,
							  AdaptedReceiver receive, void *argument);

/*
 * Adapts `count` entities, key[k] being the values of key column k, with
 * whoever's rights are in force.  Their rows are read by one query, by index
 * or in one pass over the relation, as the planner finds cheaper, and stay in
 * memory or wait on disk.  Entities are handed over in parts, in their order.
 * What is handed over lives until the receiver returns.  An entity that diverges
 * is an error naming it.
 */
extern void AdaptEntities(Adapter *adapter, int count, Datum **key,
						  bool read_only, AdaptedReceiver receive,
						  void *argument);

/*
 * Reads the items that negatives are drawn from, where there are negatives and
 * nobody has read them before; AdaptEntities does it by itself.
 */
extern void AdapterReadItems(Adapter *adapter, bool read_only);

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
 * of an entity that is not there are an unknown one's.  Their lists are added
 * to `lists`.
 */
extern void EntityCodes(Adapter *adapter, int count, Datum **key,
						bool read_only, FeatureCode *codes, CodeLists *lists);

#endif							/* QUERY_ADAPT_H */
