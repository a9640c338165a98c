/*-------------------------------------------------------------------------
 *
 * assessment.h
 *	  Metrics of tested rows, by segment, with errors by bootstrap.
 *
 * For binary labels: auc, gauc, mean_auc, log_loss and calibration_error, as
 * the aggregates of these names have them; for others rmse and mae.  Weights
 * of rows play no part.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_ASSESSMENT_H
#define QUERY_ASSESSMENT_H

#include "postgres.h"

#include "math/network.h"
#include "query/predictor.h"

typedef struct Assessment Assessment;

/* An assessment in the current memory context. */
extern Assessment *AssessmentCreate(Loss loss);

/*
 * Adds the segment "all", of this number, to which each row is added first.
 * A segment that has the same label by chance is another.
 */
#define SEGMENT_ALL 0

extern void AssessmentAddAll(Assessment *assessment);

/* The segment of this label (NULL is one), which is added if it is new. */
extern int	AssessmentSegment(Assessment *assessment, const char *label);

/*
 * Adds a tested row to a segment.  Rows of one entity follow one another;
 * entities count from 0.  Scores are logits where the loss is binary.
 */
extern void AssessmentAdd(Assessment *assessment, int segment, int entity,
						  float adapted, float prior, float label);

/* Puts segments but "all" in the order of their labels, NULL last. */
extern void AssessmentSortSegments(Assessment *assessment);

/*
 * Adds the segments of entities by the number of their support rows, in that
 * order.
 */
extern void AssessmentAddSupportSegments(Assessment *assessment);
extern int	AssessmentSupportSegment(Assessment *assessment, int rows);

/*
 * Adapts to the rows of an entity that train and are older than all others,
 * and adds these to "all" and to the segment that segment_of says for each, or
 * that of the support.
 * `scores` has room for twice as many.  Returns false where the inner loop
 * diverged: the rows are then those of the prior.
 */
extern bool AssessEntity(Assessment *assessment, Predictor *predictor,
						 int entity, const Examples *examples,
						 const int *segment_of, float *scores);

/* Room in `scores` that will do for all entities. */
extern float *AssessmentScores(const ExampleStore *store);

/* A metric of a segment; NaN where it is not defined. */
typedef struct Figure
{
	const char *segment;		/* NULL is one */
	int64		entities;
	int64		interactions;
	const char *metric;
	double		value;
	double		unadapted;
	double		standard_error; /* NaN of fewer than two entities or resamples */
} Figure;

/*
 * The figures of all segments that have rows, in the order of the segments.
 * The standard error is the deviation of the value over so many resamples of
 * the segment's entities.
 */
extern Figure *AssessmentFigures(Assessment *assessment, int resamples,
								 int *count);

#endif							/* QUERY_ASSESSMENT_H */
