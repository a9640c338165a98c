/*-------------------------------------------------------------------------
 *
 * training_rows.h
 *	  The rows of a training run: read, described and kept as codes.
 *
 * Two passes over the source.  The first, over rows that train, fits the
 * encoders: means, deviations, vocabularies.  The second turns all rows to
 * codes in an example store.  Rows to evaluate a network on take the second
 * pass alone, with the network's own encoders.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_TRAINING_ROWS_H
#define QUERY_TRAINING_ROWS_H

#include "postgres.h"

#include "model/encoder.h"
#include "model/options.h"
#include "model/trained_network.h"
#include "query/examples.h"
#include "query/negatives.h"
#include "query/source.h"

/*
 * An entity with more rows than this, negatives among them, trains with the
 * newest ones: the bound on one batch's memory.
 */
#define MOST_ENTITY_ROWS 4096

/* The name of the feature that the entity itself is to the arm `id`. */
#define ENTITY_KEY_FEATURE "(entity key)"

/*
 * Which rows are for what.  Shares of an entity's rows are rounded up or down
 * by chance, so that entities with few rows have their part in all of it; and
 * chance is a hash of the key, so that it is the same every time.
 */
typedef struct RowSplit
{
	double		cold;			/* share of entities that are left out */
	double		test;			/* share of an entity's rows, the newest, that
								 * nothing learns from */
	double		validation;		/* share of its other rows, the newest, that
								 * only validate, or */
	bool		all_train;		/* which train too, though no encoder is
								 * fitted to them */
} RowSplit;

/*
 * Fewer entities than this are too few to leave some out.
 */
#define FEWEST_ENTITIES_TO_LEAVE_OUT 100

typedef struct TrainingRows
{
	const ModelOptions *options;
	RowSplit	split;			/* as it was done: cold may have become 0 */
	Source		source;
	Encoder		interaction;	/* fitted, without tables; with_id adds the
								 * entity itself as the last feature */
	Encoder		entity;
	bool		with_id;
	bool	   *saw_null;		/* per feature, whether a training row had it */
	bool	   *meta_saw_null;
	ExampleStore *store;
	int			most_rows;		/* of an entity, without negatives */
	Negatives  *negatives;		/* where the model has items, maybe none per
								 * row; or NULL */

	int64		entities;		/* that train */
	int64		left_out;		/* entities */
	int64		training_rows;
	int64		validation_rows;
	int64		positives;		/* training rows labelled over 0.5 */
	double		weight;			/* of training rows */

	ColumnReader *readers;		/* features */
	ColumnReader *meta_readers;
	KeyReader	key_reader;
	MemoryContext row_context;	/* reset after every row */
} TrainingRows;

/*
 * Reads a model's declared rows and fits encoders to them.  With SPI
 * connected.  Errors name what cannot be trained on; with `check` it is said
 * how many rows are none.
 */
extern void TrainingRowsRead(TrainingRows *training, const Model *model,
							 const ModelOptions *options,
							 const RowSplit *split, bool with_id, bool check);

/*
 * An error unless the entities relation, if there is one, has one row per
 * entity, as it promises.  With SPI connected.
 */
extern void TrainingRowsCheckEntities(const Source *source);

/*
 * Prepares to read rows with the encoders of a network, into an empty store.
 */
extern void TrainingRowsInit(TrainingRows *training, const Model *model,
							 const ModelOptions *options,
							 const TrainedNetwork *trained,
							 const RowSplit *split);

/* A row of a query, among those of its entity that count. */
typedef struct ScannedRow
{
	Datum	   *values;
	bool	   *isnull;
	int			key_at;			/* index of the first key column */
	int			features_at;	/* of the first feature */
	int			extra_at;		/* of what the query adds at the end */
	bool		first;			/* of its entity */
	int			number;			/* from 0 */
	ExampleParts parts;
	Interaction interaction;
} ScannedRow;

typedef void (*RowCallback) (TrainingRows *training, const ScannedRow *row,
							 void *state);

/* Which of the rows of an entity are read. */
typedef enum ScanEntities
{
	SCAN_ALL,					/* of any entity */
	SCAN_TRAINING,				/* but those that the split leaves out */
	SCAN_LEFT_OUT				/* of those alone */
} ScanEntities;

/*
 * Reads the rows of a query by SourceRowsQuery in its order, and parts each
 * entity's as the split says, or before those that are tested where the query
 * knows.
 */
extern void TrainingRowsScan(TrainingRows *training, const char *sql,
							 bool tested, ScanEntities which,
							 RowCallback callback, void *state);

/* How many negatives each positive row has. */
static inline int
TrainingRowsNegatives(const TrainingRows *training)
{
	return training->negatives ? training->negatives->count : 0;
}

/*
 * The codes of a row, and of its entity, as the encoders have it; their lists
 * are added to those of the store.
 */
extern void ReadInteractionCodes(TrainingRows *training, const ScannedRow *row,
								 FeatureCode *codes);
extern void ReadEntityCodes(TrainingRows *training, const ScannedRow *row,
							FeatureCode *codes);

/* How a message names entity e of the store: reads the rows once more. */
extern char *TrainingRowsEntity(TrainingRows *training, int e);

/* Memory for so many numbers, zeroed; not bounded by palloc's limit. */
extern float *ZeroNumbers(Size count);

#endif							/* QUERY_TRAINING_ROWS_H */
