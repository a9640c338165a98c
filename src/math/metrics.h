/*
 * metrics.h
 *	  How well scores rank and predict labels.
 */
#ifndef MATH_METRICS_H
#define MATH_METRICS_H

#include "network.h"

/*
 * Pairs of a positive and a negative row, and how many are in order: a row's
 * ties are added together, in the order of their scores.  Counts of pairs are
 * exact; twice as many are kept, since a tied pair counts half.
 */
typedef struct PairSum
{
	int64_t		positives;
	int64_t		negatives;
	unsigned __int128 in_order;
} PairSum;

static inline void
pair_sum_add(PairSum *sum, int64_t positives, int64_t negatives)
{
	sum->in_order += (unsigned __int128) positives *
		(2 * (unsigned __int128) sum->negatives + negatives);
	sum->positives += positives;
	sum->negatives += negatives;
}

/*
 * Area under the ROC curve: the chance that a positive row scores above a
 * negative one.  NaN where a class is missing.
 */
static inline double
pair_sum_auc(const PairSum *sum)
{
	return (double) sum->in_order /
		(2.0 * sum->positives * sum->negatives);
}

/*
 * Expected calibration error over ten bins of equally many rows, the first
 * ones larger by one where ten does not divide them: the mean over rows of
 * |mean probability - mean label| of their bin.  Rows that tie are added
 * together, in the order of their probabilities; where a bin ends among them
 * each counts with their mean label.
 */
#define CALIBRATION_BINS 10

typedef struct CalibrationSum
{
	int64_t		rows;			/* there will be in all */
	int			bin;
	int64_t		room;			/* rows that the bin still takes */
	double		probabilities;	/* sums over the bin */
	double		labels;
	double		error;
} CalibrationSum;

extern void calibration_sum_add(CalibrationSum *sum, double probability,
								int64_t rows, int64_t positives);
extern double calibration_sum_error(const CalibrationSum *sum);

/* A row's score and label; metric_auc orders an array of these. */
typedef struct Scored
{
	float		score;
	float		label;
} Scored;

/*
 * Area under the ROC curve: the chance that a row labelled over 0.5 scores
 * above one that is not, ties counting half.  NaN where a class is missing or a
 * score is NaN.  Orders the rows by score.
 */
extern double metric_auc(size_t n, Scored *rows);

/*
 * A positive row among candidates, of which so many score higher and so many
 * the same: whether it is among the first k, and its discounted gain if it is
 * (1 / log2(rank + 1), the best there is being 1).  Both are expectations over
 * all orders of the candidates that tie.
 */
extern void rank_metrics(int64_t higher, int64_t equal, int k,
						 double *hit_rate, double *ndcg);

/* A running mean of row losses. */
typedef struct MeanLoss
{
	double		sum;
	double		weight;
} MeanLoss;

extern void mean_loss_add(MeanLoss *mean, Loss loss, real score, real label,
						  real weight);

/* NaN without rows. */
extern double mean_loss(const MeanLoss *mean);

#endif							/* MATH_METRICS_H */
