/*
 * metrics.h
 *	  How well scores rank and predict labels.
 */
#ifndef MATH_METRICS_H
#define MATH_METRICS_H

#include "network.h"

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
