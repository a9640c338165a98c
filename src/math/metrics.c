/*
 * metrics.c
 *	  AUC, calibration and losses.
 */
#include "metrics.h"

#include <stdlib.h>

void
calibration_sum_add(CalibrationSum *sum, double probability, int64_t rows,
					int64_t positives)
{
	for (int64_t left = rows; left > 0;)
	{
		int64_t		taken;

		if (sum->room == 0)
		{
			sum->error += fabs(sum->probabilities - sum->labels);
			sum->probabilities = sum->labels = 0;
			sum->room = sum->rows / CALIBRATION_BINS +
				(sum->bin < sum->rows % CALIBRATION_BINS ? 1 : 0);
			sum->bin++;
		}
		taken = left < sum->room ? left : sum->room;
		sum->probabilities += taken * probability;
		sum->labels += (double) taken * positives / rows;
		sum->room -= taken;
		left -= taken;
	}
}

double
calibration_sum_error(const CalibrationSum *sum)
{
	return (sum->error + fabs(sum->probabilities - sum->labels)) / sum->rows;
}

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
	PairSum		sum = {0};

	qsort(rows, n, sizeof(Scored), compare_scores);
	for (size_t i = 0; i < n;)
	{
		int64_t		positives = 0;
		int64_t		negatives = 0;
		float		score = rows[i].score;

		if (isnan(score))
			return NAN;
		do
		{
			if (rows[i].label > 0.5f)
				positives++;
			else
				negatives++;
		} while (++i < n && rows[i].score == score);
		pair_sum_add(&sum, positives, negatives);
	}
	return pair_sum_auc(&sum);
}

void
rank_metrics(int64_t higher, int64_t equal, int k, double *hit_rate,
			 double *ndcg)
{
	int64_t		places = equal + 1;
	int			hits = 0;
	double		gain = 0;

	for (int64_t rank = higher + 1; rank <= higher + places && rank <= k; rank++)
	{
		hits++;
		gain += 1 / log2(rank + 1.0);
	}
	*hit_rate = (double) hits / places;
	*ndcg = gain / places;
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
