/*
 * test_metrics.c
 *	  AUC against its definition; losses and their derivatives, also where
 *	  exp would overflow or a difference cancel.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "math/metrics.h"

#ifdef LIMAML_DOUBLE
#define TOLERANCE 1e-14
#else
#define TOLERANCE 1e-6
#endif

/* The share of pairs, one of each class, that are ordered rightly. */
static double
plain_auc(size_t n, const Scored *rows)
{
	double		right = 0;
	double		pairs = 0;

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			if (rows[i].label > 0.5 && !(rows[j].label > 0.5))
			{
				pairs++;
				right += rows[i].score > rows[j].score ? 1 :
					rows[i].score == rows[j].score ? 0.5 : 0;
			}
	return right / pairs;
}

static void
test_auc(void)
{
	static const float thresholds[] = {0, 0.5f, 0.50001f, 1, 3.5f, -2};
	double		worst = 0;
	int			unordered = 0;
	int			with_ties = 0;
	Random		random;

	random_seed(&random, 1);
	for (int trial = 0; trial < 500; trial++)
	{
		Scored		rows[200];
		size_t		n = 2 + random_below(&random, 199);
		bool		ties = random_below(&random, 2);
		double		expected;

		for (size_t i = 0; i < n; i++)
		{
			rows[i].label = thresholds[random_below(&random, 6)];
			rows[i].score = rows[i].label / 4 + random_normal(&random);
			if (ties)
				rows[i].score = roundf(rows[i].score);
			if (rows[i].score == 0 && random_below(&random, 2))
				rows[i].score = -0.0f;	/* ties with 0 */
		}
		rows[0].label = 1;
		rows[1].label = 0;
		with_ties += ties;
		expected = plain_auc(n, rows);
		worst = fmax(worst, fabs(metric_auc(n, rows) - expected));
		for (size_t i = 1; i < n; i++)
			unordered += rows[i].score < rows[i - 1].score;
	}
	check(worst < 1e-12 && unordered == 0,
		  "AUC, %d of 500 with ties: %.2g off its definition", with_ties, worst);
}

static void
test_auc_edges(void)
{
	Scored		perfect[] = {{3, 1}, {-1, 0}, {2, 1}, {0, 0}};
	Scored		inverse[] = {{3, 0}, {-1, 1}, {2, 0}, {0, 1}};
	Scored		tied[] = {{1, 0}, {1, 1}, {1, 0}};
	Scored		infinite[] = {{INFINITY, 1}, {-INFINITY, 0}, {INFINITY, 0}};
	Scored		likes[] = {{1, 1}, {2, 1}};
	Scored		dislikes[] = {{1, 0}, {2, 0}};

	check(metric_auc(4, perfect) == 1 && metric_auc(4, inverse) == 0 &&
		  metric_auc(3, tied) == 0.5 && metric_auc(3, infinite) == 0.75,
		  "AUC: 1, 0, 0.5 and infinite scores");
	check(isnan(metric_auc(2, likes)) && isnan(metric_auc(2, dislikes)) &&
		  isnan(metric_auc(0, likes)), "AUC of one class or no rows is NaN");
}

/* In a process of its own, so that an endless loop ends. */
static void
test_auc_nan(void)
{
	pid_t		child = fork();
	int			status = 0;

	if (child == 0)
	{
		Scored		rows[] = {{1, 1}, {NAN, 0}, {2, 1}, {0, 0}};

		alarm(2);
		metric_auc(4, rows);
		_exit(0);
	}
	waitpid(child, &status, 0);
	check(child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0,
		  "AUC ends where a score is NaN");
}

/* Where long double has digits to spare. */
static long double
plain_loss(long double s, long double y)
{
	return (s > 0 ? s : 0) - y * s + log1pl(expl(-fabsl(s)));
}

static void
test_binary_loss(void)
{
	static const real labels[] = {0, 1, 0.25, 0.75, 0.5};
	static const real far[] = {150, 1000, 1e4, 1e30};
	double		worst = 0;
	int			wrong = 0;

	for (real s = -60; s <= 60; s += 0.0625)
		for (int l = 0; l < 5; l++)
			worst = fmax(worst,
						 relative_error(loss_value(LOSS_BINARY, s, labels[l]),
										plain_loss(s, labels[l]), 0));
	check(worst < TOLERANCE, "log loss: %.2g", worst);

	/* far out it is |s| or 0, to the bit */
	for (int i = 0; i < 4; i++)
	{
		real		s = far[i];

		wrong += loss_value(LOSS_BINARY, s, 1) > 1e-60 ||
			loss_value(LOSS_BINARY, -s, 0) > 1e-60 ||
			loss_value(LOSS_BINARY, s, 0) != s ||
			loss_value(LOSS_BINARY, -s, 1) != s ||
			loss_value(LOSS_BINARY, s, 0.5) != s / 2 ||
			loss_value(LOSS_BINARY, -s, 0.5) != s / 2;
	}
	check(wrong == 0 && isnan(loss_value(LOSS_BINARY, NAN, 1)),
		  "log loss is exact far out, and of NaN is NaN");
}

static void
test_squared_loss(void)
{
	check(loss_value(LOSS_SQUARED, 3, 1) == 2 &&
		  loss_value(LOSS_SQUARED, -1, 0.5) == 1.125 &&
		  isnan(loss_value(LOSS_SQUARED, NAN, 1)), "squared loss");
	check(loss_at_zero(LOSS_SQUARED, 3) == 4.5 &&
		  relative_error(loss_at_zero(LOSS_BINARY, 1), log(2), 0) < TOLERANCE &&
		  relative_error(loss_at_zero(LOSS_BINARY, 0.3), log(2), 0) < TOLERANCE,
		  "what knowing nothing costs");
}

static void
test_inner_scale(void)
{
	double		worst = 0;

	for (real w = 0.125; w < 1000; w *= 1.5)
	{
		worst = fmax(worst, relative_error(inner_scale(WEIGHTING_MEAN, w),
										   1.0 / w, 0));
		worst = fmax(worst, relative_error(inner_scale(WEIGHTING_SQRT, w),
										   1 / sqrt(5.0 * w), 0));
		worst = fmax(worst, relative_error(inner_scale(WEIGHTING_DAMPED, w),
										   1 / (w + 10.0), 0));
		worst = fmax(worst,
					 relative_error(inner_scale(WEIGHTING_SQRT_DAMPED, w),
									1 / sqrt(5 * (w + 10.0)), 0));
	}
	for (InnerWeighting w = WEIGHTING_MEAN; w <= WEIGHTING_SQRT_DAMPED; w++)
		if (inner_scale(w, 0) != 0)
			worst = INFINITY;
	check(worst < TOLERANCE, "weightings of the support loss: %.2g", worst);
}

static void
test_mean_loss(void)
{
	MeanLoss	mean = {0};
	double		sum = 0;
	double		weight = 0;

	check(isnan(mean_loss(&mean)), "the mean loss of no rows is NaN");
	for (int i = 0; i < 100; i++)
	{
		real		s = (i - 50) / 8.0;
		real		w = i % 7 / 4.0;

		mean_loss_add(&mean, LOSS_BINARY, s, i % 2, w);
		sum += w * plain_loss(s, i % 2);
		weight += w;
	}
	check(relative_error(mean_loss(&mean), sum / weight, 0) < TOLERANCE,
		  "the mean loss is weighted");
}

/* By counting: the positive is at each of the places of its ties as often. */
static void
test_ranks(void)
{
	double		worst = 0;
	double		hit_rate;
	double		ndcg;

	for (int higher = 0; higher < 15; higher++)
		for (int equal = 0; equal < 30; equal++)
			for (int k = 1; k < 20; k += 3)
			{
				double		hits = 0;
				double		gain = 0;

				for (int place = 0; place <= equal; place++)
					if (higher + place < k)
					{
						hits++;
						gain += 1 / log2(higher + place + 2.0);
					}
				rank_metrics(higher, equal, k, &hit_rate, &ndcg);
				worst = fmax(worst, fabs(hit_rate - hits / (equal + 1)));
				worst = fmax(worst, fabs(ndcg - gain / (equal + 1)));
			}
	check(worst < 1e-14, "ranks: %.2g off the mean over places", worst);
	rank_metrics(0, 99, 10, &hit_rate, &ndcg);
	check(hit_rate == 0.1, "a constant score gets what chance gives");
	rank_metrics(0, 0, 1, &hit_rate, &ndcg);
	check(hit_rate == 1 && ndcg == 1, "the first rank is the best");
	rank_metrics(INT64_C(1) << 40, INT64_C(1) << 40, 10, &hit_rate, &ndcg);
	check(hit_rate == 0 && ndcg == 0, "far down there is nothing");
}

int
main(void)
{
	test_ranks();
	test_auc();
	test_auc_edges();
	test_auc_nan();
	test_binary_loss();
	test_squared_loss();
	test_inner_scale();
	test_mean_loss();
	return check_end();
}
