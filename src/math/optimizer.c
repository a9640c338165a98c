/*
 * optimizer.c
 *	  AdamW.
 */
#include "optimizer.h"

#include <string.h>

#define BETA1 0.9
#define BETA2 0.999
#define EPSILON 1e-8

/* The rate falls linearly to this share of the first. */
#define LAST_SHARE 0.05

/* Rate at step t of T, as a share of the first. */
static double
share_at(int64_t step, int64_t steps)
{
	if (steps <= 1 || step >= steps)
		return step == 0 ? 1 : LAST_SHARE;
	return 1 - (1 - LAST_SHARE) * step / (double) (steps - 1);
}

double
optimizer_rate(const Optimizer *optimizer)
{
	return optimizer->learning_rate *
		share_at(optimizer->step, optimizer->steps);
}

/* Of gradients; in so many sums that they fit the processor's registers. */
static double
sum_of_squares(size_t n, const real *x)
{
	double		part[8] = {0};
	double		sum = 0;
	size_t		i = 0;

	for (; i + 8 <= n; i += 8)
		for (int j = 0; j < 8; j++)
			part[j] += (double) x[i + j] * x[i + j];
	for (; i < n; i++)
		sum += (double) x[i] * x[i];
	for (int j = 0; j < 8; j++)
		sum += part[j];
	return sum;
}

double
optimizer_step(Optimizer *optimizer, int groups, ParameterGroup *group)
{
	double		rate = optimizer_rate(optimizer);
	double		square = 0;
	double		norm;
	double		clip = 1;
	double		average_share;
	double		step_size;
	double		root_correction;

	for (int g = 0; g < groups; g++)
		square += sum_of_squares(group[g].n, group[g].gradient);
	norm = sqrt(square);
	if (!isfinite(norm))
		return norm;
	if (optimizer->clip_norm > 0 && norm > optimizer->clip_norm)
		clip = optimizer->clip_norm / norm;

	optimizer->step++;
	step_size = rate / (1 - pow(BETA1, optimizer->step));
	root_correction = 1 / sqrt(1 - pow(BETA2, optimizer->step));

	/* the shares fall linearly, so their mean is that of the two ends */
	average_share = optimizer->steps > 1 ? (1 + LAST_SHARE) / 2 : 1;

	for (int g = 0; g < groups; g++)
	{
		ParameterGroup *p = &group[g];
		double		decay = p->total_decay /
			(optimizer->learning_rate * average_share * optimizer->steps);
		real		keep = rate * decay < 1 ? 1 - rate * decay : 0;

		for (size_t i = 0; i < p->n; i++)
		{
			real		gradient = (real) clip * p->gradient[i];

			p->mean[i] += (real) (1 - BETA1) * (gradient - p->mean[i]);
			p->square[i] += (real) (1 - BETA2) *
				(gradient * gradient - p->square[i]);
			p->value[i] = p->value[i] * keep - (real) step_size * p->mean[i] /
				(REAL(sqrt) (p->square[i]) * (real) root_correction +
				 (real) EPSILON);
		}
		memset(p->gradient, 0, p->n * sizeof(real));
	}
	return norm;
}

void
optimizer_average(const Optimizer *optimizer, int64_t horizon, int groups,
				  ParameterGroup *group)
{
	real		share = 1.0 / (optimizer->step < horizon ? optimizer->step :
							   horizon);

	for (int g = 0; g < groups; g++)
	{
		ParameterGroup *p = &group[g];

		for (size_t i = 0; i < p->n; i++)
			p->average[i] += share * (p->value[i] - p->average[i]);
	}
}
