/*-------------------------------------------------------------------------
 *
 * negatives.h
 *	  What did not happen: candidates that an entity has not interacted with,
 *	  drawn as rows labelled 0 where a table holds only what happened.
 *
 * A negative is its positive's row with the features of another item: those
 * that the items relation has a column for.  Each positive row has the same
 * number of negatives, which follow it; an entity that has interacted with all
 * there are has none.  Which items they are follows from the seed, the entity's
 * key, the place of the positive among the entity's rows, and the items in the
 * order of their keys; not from other entities' rows, nor from who draws when.
 *
 * What an entity has not interacted with is judged by the rows that it adapts
 * on, for negatives to adapt on: what is still to come may be among them, as
 * when serving.  Of rows that judge it is all of the entity's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_NEGATIVES_H
#define QUERY_NEGATIVES_H

#include "postgres.h"

#include "math/random.h"
#include "model/encoder.h"
#include "model/options.h"
#include "nodes/bitmapset.h"
#include "query/examples.h"
#include "query/source.h"

/* The candidates, in the order of their keys. */
typedef struct Items
{
	const Encoder *encoder;		/* the features' */
	int			count;
	Vocabulary	keys;			/* value i is item i's */
	ColumnReader reader;		/* of the interactions' key column */
	int			features;		/* that items have */
	int		   *feature;		/* which ones, of the encoder's */
	bool		complete;		/* all that a candidate has */
	FeatureCode *codes;			/* count x features */
	CodeLists	lists;			/* of them */
	double	   *until;			/* sum of the weights up to each, or NULL where
								 * all weigh the same */
} Items;

/*
 * Reads the items of a source, as this encoder has them, into the current
 * memory context; up to maintenance_work_mem.  With SPI connected.
 */
extern Items *ItemsRead(const Source *source, const Encoder *encoder,
						NegativeSampling sampling, bool read_only);

/* The item that an interaction is with, or NO_ITEM if it is none of these. */
extern int32 ItemOf(Items *items, Datum key, bool isnull);

/*
 * Puts an item's features in the place of another's; their lists are added to
 * `lists`, where the others of the row are.
 */
extern void ItemCodes(const Items *items, int32 item, FeatureCode *codes,
					  CodeLists *lists);

/*
 * Draws an item that is not taken, by the items' weights or (uniform) each
 * with equal chance; NO_ITEM where all are.
 */
extern int32 DrawItem(const Items *items, const Bitmapset *taken, bool uniform,
					  Random *random);

/* What negatives are drawn for: each has random numbers of its own. */
typedef enum NegativeUse
{
	NEGATIVES_ADAPT,
	NEGATIVES_JUDGE,
	NEGATIVES_RANK				/* a positive is ranked among them */
} NegativeUse;

/* Random numbers for the row of an entity, of this hash, at this place. */
extern void NegativesSeed(Random *random, int seed, uint64 hash,
						  NegativeUse use, int64 place);

/* How rows get their negatives. */
typedef struct Negatives
{
	Items	   *items;
	int			count;			/* per positive, from 0 */
	int			seed;
	MemoryContext context;		/* in which it was created */
	char	   *rows;			/* with their negatives, of one call */
	Size		size;
	CodeLists	lists;			/* of them */
} Negatives;

extern Negatives *NegativesCreate(Items *items, int count, int seed);

/* The items of the entity's first n rows. */
extern Bitmapset *TakenItems(const Examples *examples, int n);

/* Most rows that so many become. */
static inline Size
RowsWithNegatives(const Negatives *negatives, Size rows)
{
	return negatives ? rows * (1 + negatives->count) : rows;
}

/*
 * Writes the negatives of the row at `row`, of this size, after it; returns how
 * many.  There is room for all.  The row's lists are among `lists`, to which
 * those of the negatives' own are added.
 */
extern int	AddNegatives(const Negatives *negatives, const Bitmapset *taken,
						 Random *random, char *row, Size row_size,
						 CodeLists *lists);

/*
 * Rows first ... first + n - 1 of an entity and their negatives, none of which
 * is of an item of its first `known` rows; valid until the next call.  Without
 * negatives (NULL) just the rows.  They come without their entity's features.
 */
extern Examples WithNegatives(Negatives *negatives, const Examples *examples,
							  int first, int n, int known, NegativeUse use);

#endif							/* QUERY_NEGATIVES_H */
