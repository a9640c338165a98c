/*-------------------------------------------------------------------------
 *
 * training_rows.h
 *	  The rows of a training run: read, described and kept as codes.
 *
 * Two passes over the source.  The first, over training rows alone, fits the
 * encoders: means, deviations, vocabularies.  The second turns all rows to
 * codes in an example store.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_TRAINING_ROWS_H
#define QUERY_TRAINING_ROWS_H

#include "postgres.h"

#include "model/encoder.h"
#include "model/options.h"
#include "query/examples.h"
#include "query/source.h"

/*
 * An entity with more interactions than this trains with the newest ones: the
 * bound on one batch's memory.
 */
#define MOST_ENTITY_ROWS 4096

typedef struct TrainingRows
{
	const ModelOptions *options;
	Source		source;
	Encoder    *interaction;	/* fitted, their vectors zero */
	Encoder    *entity;
	bool	   *saw_null;		/* per feature, whether a training row had it */
	bool	   *meta_saw_null;
	ExampleStore *store;

	int64		entities;
	int64		training_rows;
	int64		validation_rows;
	int64		positives;		/* training rows labelled over 0.5 */
	double		weight;			/* of training rows */

	ColumnReader *readers;		/* features */
	ColumnReader *meta_readers;
	MemoryContext row_context;	/* reset between fetches */
} TrainingRows;

/*
 * Reads a model's declared rows and fits the encoders to them.  With SPI
 * connected.  Errors name what cannot be trained on.
 */
extern void TrainingRowsRead(TrainingRows *training, const Model *model,
							 const ModelOptions *options,
							 Encoder *interaction, Encoder *entity);

/* How a message names entity e of the store: reads the rows once more. */
extern char *TrainingRowsEntity(TrainingRows *training, int e);

/* Memory for so many numbers, zeroed; not bounded by palloc's limit. */
extern float *ZeroNumbers(Size count);

#endif							/* QUERY_TRAINING_ROWS_H */
