/*
 * metrics.c
 *	  AUC and log loss.
 */
#include "metrics.h"

#include <stdlib.h>

static int
compare_scores(const void *a, const void *b)
{
	float		x = ((const Scored *) a)->score;
	float		y = ((const Scored *) b)->score;

	return (x > y) - (x < y);
}

double
metric_auc(size_t n, Scored *rows)
{
	double		positives = 0;
	double		negatives = 0;
	double		above = 0;

	qsort(rows, n, sizeof(Scored), compare_scores);
	for (size_t i = 0; i < n;)
	{
		double		tied_positives = 0;
		double		tied_negatives = 0;
		float		score = rows[i].score;

		if (isnan(score))
			return NAN;
		do
		{
			if (rows[i].label > 0.5f)
				tied_positives++;
			else
				tied_negatives++;
		} while (++i < n && rows[i].score == score);
		above += tied_positives * (negatives + tied_negatives / 2);
		positives += tied_positives;
		negatives += tied_negatives;
	}
	return above / (positives * negatives);
}

void
mean_loss_add(MeanLoss *mean, Loss loss, real score, real label, real weight)
{
	mean->sum += (double) weight * loss_value(loss, score, label);
	mean->weight += weight;
}

double
mean_loss(const MeanLoss *mean)
{
	return mean->sum / mean->weight;
}
