/*-------------------------------------------------------------------------
 *
 * assessment.h
 *	  Metrics of tested rows, by segment, with errors by bootstrap.
 *
 * For binary labels: auc, gauc, mean_auc, log_loss and calibration_error, as
 * the aggregates of these names have them; for others rmse and mae.  Weights
 * of rows play no part.
 *
 * Where the model has items, rows are tested with their negatives, and of each
 * positive one it is told where it ranks among candidates that its entity has
 * not interacted with: hit rate and NDCG at 10, among 100 drawn with equal
 * chance, and among all of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_ASSESSMENT_H
#define QUERY_ASSESSMENT_H

#include "postgres.h"

#include "math/network.h"
#include "query/negatives.h"
#include "query/predictor.h"

typedef struct Assessment Assessment;

/* Scores n rows from `first` on: adapted, and unadapted. */
typedef void (*RowScorer) (void *scorer, const Examples *rows, int first,
						   int n, float *adapted, float *prior);

/* An assessment in the current memory context. */
extern Assessment *AssessmentCreate(Loss loss);

/*
 * Tests rows with these negatives (NULL: without), and where labels are binary
 * ranks the positive ones among the items.  Among all items too where `scans`
 * is over 0: so many times all of them would have to be scored, and where that
 * takes too long it is done for every n-th entity alone.  Returns n.
 */
extern int	AssessmentRank(Assessment *assessment, Negatives *negatives,
						   int64 scans);

/*
 * Adds the segment "all", of this number, to which each row is added first.
 * A segment that has the same label by chance is another.
 */
#define SEGMENT_ALL 0

extern void AssessmentAddAll(Assessment *assessment);

/* The segment of this label (NULL is one), which is added if it is new. */
extern int	AssessmentSegment(Assessment *assessment, const char *label);

/* Rows of an entity that are tested, and the segments that they count for. */
typedef struct TestedRows
{
	int			entity;			/* from 0; its rows follow one another */
	const Examples *examples;
	int			first;
	int			n;
	bool		all;			/* for SEGMENT_ALL too */
	const int  *segment_of;		/* for each; or NULL, and all for */
	int			segment;
} TestedRows;

/*
 * Adds tested rows.  Scores are logits where the loss is binary; unless they
 * are `adapted` those of the prior count twice.
 */
extern void AssessRows(Assessment *assessment, const TestedRows *tested,
					   RowScorer score, void *scorer, bool adapted);

/* The same with a predictor, adapted to the first `support` rows if it can be. */
extern bool AssessAfter(Assessment *assessment, const TestedRows *tested,
						Predictor *predictor, int support);

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
 * that of the support.  Returns false where the inner loop diverged: the rows
 * are then those of the prior.
 */
extern bool AssessEntity(Assessment *assessment, Predictor *predictor,
						 int entity, const Examples *examples,
						 const int *segment_of);

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
