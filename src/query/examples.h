/*-------------------------------------------------------------------------
 *
 * examples.h
 *	  Training rows as codes, entity by entity, read again in any order at
 *	  every epoch.
 *
 * Up to maintenance_work_mem they are in memory, beyond that in a temporary
 * file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_EXAMPLES_H
#define QUERY_EXAMPLES_H

#include "postgres.h"

#include "model/encoder.h"
#include "query/source.h"

typedef struct ExampleStore ExampleStore;

/*
 * An entity's rows, oldest first: the first ones train, the next validate, and
 * from the rest nothing is learned.
 */
typedef struct ExampleParts
{
	int			training;		/* rows before this train */
	int			learnable;		/* and before this validate */
	int			rows;
	uint64		hash;			/* of the entity's key */
} ExampleParts;

/* One entity's rows, valid until the next read. */
typedef struct Examples
{
	ExampleParts parts;
	const FeatureCode *meta;	/* meta features */
	const FeatureCode *lists;	/* of meta and of the rows' codes */
	const char *row;			/* see ExampleRow, ExampleCodes */
	Size		row_size;
} Examples;

/* Bytes from a row of so many features to the next. */
static inline Size
ExampleRowSize(int features)
{
	return sizeof(Interaction) + features * sizeof(FeatureCode);
}

static inline const Interaction *
ExampleRow(const Examples *examples, int i)
{
	return (const Interaction *) (examples->row + i * examples->row_size);
}

static inline const FeatureCode *
ExampleCodes(const Examples *examples, int i)
{
	return (const FeatureCode *) (ExampleRow(examples, i) + 1);
}

/*
 * How many of the rows before row i are older than it: those of its own time
 * are not.
 */
static inline int
ExampleOlderRows(const Examples *examples, int i)
{
	while (i > 0 && i < examples->parts.rows && ExampleRow(examples, i)->same_time)
		i--;
	return i;
}

/* Of the first n rows the first of the newest ones, so many without negatives. */
static inline int
ExampleNewestRows(const Examples *examples, int n, int most)
{
	int			first = n;

	while (first > 0 && most > 0)
		if (!ExampleRow(examples, --first)->sampled)
			most--;
	return first;
}

extern ExampleStore *ExampleStoreCreate(int features, int meta_features);

/*
 * Begins an entity: its meta features follow by ExampleStoreMeta, then its rows
 * by ExampleStoreAdd, oldest first.  Lists of their codes are to be added to
 * those of the store, which lets go of what was added before.
 */
extern void ExampleStoreEntity(ExampleStore *store, ExampleParts parts);
extern CodeLists *ExampleStoreLists(ExampleStore *store);
extern void ExampleStoreMeta(ExampleStore *store, const FeatureCode *meta);
extern void ExampleStoreAdd(ExampleStore *store, const Interaction *row,
							const FeatureCode *codes);

extern int	ExampleStoreEntities(const ExampleStore *store);

/* Rows of all entities that validate. */
extern int64 ExampleStoreValidationRows(const ExampleStore *store);

/* How many rows entity e has, without reading them. */
extern ExampleParts ExampleStoreParts(const ExampleStore *store, int e);
extern Examples ExampleStoreRead(ExampleStore *store, int e);
extern void ExampleStoreFree(ExampleStore *store);

#endif							/* QUERY_EXAMPLES_H */
