/*
 * test_optimizer.c
 *	  AdamW against a plain implementation in double.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "math/optimizer.h"
#include "math/random.h"

#define GROUPS 2
#define COUNT 7

#ifdef LIMAML_DOUBLE
#define TOLERANCE 1e-12
#else
#define TOLERANCE 2e-5
#endif

static const double total_decay[GROUPS] = {0.2, 2.5};

/* Two groups of parameters, and the same in double. */
typedef struct Model
{
	real		value[GROUPS][COUNT];
	real		gradient[GROUPS][COUNT];
	real		mean[GROUPS][COUNT];
	real		square[GROUPS][COUNT];
	real		average[GROUPS][COUNT];
	ParameterGroup group[GROUPS];
} Model;

typedef struct Plain
{
	double		value[GROUPS][COUNT];
	double		mean[GROUPS][COUNT];
	double		square[GROUPS][COUNT];
} Plain;

static void
start(Model *model, Plain *plain, Random *random)
{
	memset(model, 0, sizeof(*model));
	memset(plain, 0, sizeof(*plain));
	for (int g = 0; g < GROUPS; g++)
	{
		for (int i = 0; i < COUNT; i++)
			plain->value[g][i] = model->value[g][i] = random_normal(random);
		model->group[g] = (ParameterGroup)
		{
			.n = COUNT,
			.value = model->value[g],
			.gradient = model->gradient[g],
			.mean = model->mean[g],
			.square = model->square[g],
			.average = model->average[g],
			.total_decay = total_decay[g]
		};
	}
}

/* The learning rate falls linearly from the first step to 5 % at the last. */
static double
plain_rate(double learning_rate, int step, int steps)
{
	if (steps == 1)
		return learning_rate;
	return learning_rate * (1 - 0.95 * step / (steps - 1));
}

/* One step; t counts from 0. */
static double
plain_step(Plain *plain, const Model *model, double learning_rate,
		   double clip_norm, int t, int steps)
{
	double		rate = plain_rate(learning_rate, t, steps);
	double		rates = 0;
	double		norm = 0;
	double		clip;

	for (int s = 0; s < steps; s++)
		rates += plain_rate(learning_rate, s, steps);
	for (int g = 0; g < GROUPS; g++)
		for (int i = 0; i < COUNT; i++)
			norm += pow(model->gradient[g][i], 2);
	norm = sqrt(norm);
	clip = clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1;

	for (int g = 0; g < GROUPS; g++)
		for (int i = 0; i < COUNT; i++)
		{
			double		x = clip * model->gradient[g][i];
			double	   *value = &plain->value[g][i];
			double	   *m = &plain->mean[g][i];
			double	   *v = &plain->square[g][i];

			*m = 0.9 * *m + 0.1 * x;
			*v = 0.999 * *v + 0.001 * x * x;
			*value -= fmin(rate * total_decay[g] / rates, 1) * *value;
			*value -= rate * (*m / (1 - pow(0.9, t + 1))) /
				(sqrt(*v / (1 - pow(0.999, t + 1))) + 1e-8);
		}
	return norm;
}

static void
test_steps(int steps, double clip_norm)
{
	Optimizer	optimizer = {.learning_rate = 0.01, .clip_norm = clip_norm,
	.steps = steps};
	double		worst = 0;
	int			kept = 0;
	int			clipped = 0;
	Random		random;
	Model		model;
	Plain		plain;

	random_seed(&random, steps);
	start(&model, &plain, &random);
	for (int t = 0; t < steps; t++)
	{
		double		expected;
		double		norm;
		double		size = random_uniform(&random) * 2;

		for (int g = 0; g < GROUPS; g++)
			for (int i = 0; i < COUNT; i++)
				model.gradient[g][i] = i == 0 ? 0 :
					size * (0.3 + random_normal(&random));
		worst = fmax(worst, relative_error(optimizer_rate(&optimizer),
										   plain_rate(0.01, t, steps), 0));
		expected = plain_step(&plain, &model, 0.01, clip_norm, t, steps);
		norm = optimizer_step(&optimizer, GROUPS, model.group);
		clipped += clip_norm > 0 && norm > clip_norm;
		worst = fmax(worst, relative_error(norm, expected, 0));
		for (int g = 0; g < GROUPS; g++)
			for (int i = 0; i < COUNT; i++)
			{
				worst = fmax(worst, relative_error(model.value[g][i],
												   plain.value[g][i], 0.1));
				kept += model.gradient[g][i] != 0;
			}
	}
	check(worst < TOLERANCE && kept == 0 && optimizer.step == steps,
		  "AdamW: %d steps, norm limited to %g in %d of them: worst relative "
		  "error %.2g", steps, clip_norm, clipped, worst);
}

/*
 * Without a gradient a value shrinks by its decay alone: a share of rate x
 * decay at each step, their sum being what was asked for.
 */
static void
test_total_decay(int steps, double total)
{
	Optimizer	optimizer = {.learning_rate = 0.003, .steps = steps};
	real		value = 1;
	real		gradient = 0;
	real		mean = 0;
	real		square = 0;
	ParameterGroup group = {
		.n = 1,
		.value = &value,
		.gradient = &gradient,
		.mean = &mean,
		.square = &square,
		.total_decay = total
	};
	double		sum = 0;

	for (int t = 0; t < steps; t++)
	{
		value = 1;				/* where what is taken off is best seen */
		optimizer_step(&optimizer, 1, &group);
		sum += 1 - value;
	}

	/* each share is rounded to half a unit of a number under 1 */
	check(fabs(sum - total) <= steps * REAL_EPSILON / 4 + 1e-9 * total,
		  "decays of %d steps add up to %.6g of %.6g", steps, sum, total);
}

/*
 * The average of constant values is that from the first step on; of others it
 * is the mean of all as long as they are no more than the horizon, and then
 * each new one counts its share.
 */
static void
test_average(int horizon)
{
	Optimizer	optimizer = {.step = 0};
	Random		random;
	Model		model;
	Plain		plain;
	double		expected[GROUPS][COUNT] = {0};
	double		worst = 0;

	random_seed(&random, horizon);
	start(&model, &plain, &random);
	memset(model.average, 0, sizeof(model.average));
	for (optimizer.step = 1; optimizer.step <= 3 * horizon; optimizer.step++)
	{
		double		share = 1 / fmin(optimizer.step, horizon);

		for (int g = 0; g < GROUPS; g++)
			for (int i = 0; i < COUNT; i++)
			{
				model.value[g][i] = i == 0 ? 1.5 : random_normal(&random);
				expected[g][i] = (1 - share) * expected[g][i] +
					share * model.value[g][i];
			}
		optimizer_average(&optimizer, horizon, GROUPS, model.group);
		for (int g = 0; g < GROUPS; g++)
			for (int i = 0; i < COUNT; i++)
				worst = fmax(worst, relative_error(model.average[g][i],
												   expected[g][i], 0.1));
	}
	check(worst < TOLERANCE && fabs(model.average[1][0] - 1.5) < TOLERANCE,
		  "averages over %d steps: worst relative error %.2g", horizon, worst);
}

static void
test_not_finite(double bad, const char *name)
{
	Optimizer	optimizer = {.learning_rate = 0.01, .clip_norm = 1,
	.steps = 100};
	Random		random;
	Model		model;
	Model		before;
	Plain		plain;
	Optimizer	optimizer_before;
	double		norm;

	random_seed(&random, 3);
	start(&model, &plain, &random);
	for (int t = 0; t < 3; t++)
	{
		for (int i = 0; i < COUNT; i++)
			model.gradient[0][i] = model.gradient[1][i] =
				random_normal(&random);
		if (t < 2)
			optimizer_step(&optimizer, GROUPS, model.group);
	}
	model.gradient[1][COUNT - 1] = bad;
	before = model;
	optimizer_before = optimizer;
	norm = optimizer_step(&optimizer, GROUPS, model.group);
	check(!isfinite(norm) && memcmp(&model, &before, sizeof(model)) == 0 &&
		  memcmp(&optimizer, &optimizer_before, sizeof(optimizer)) == 0,
		  "a gradient with %s changes nothing", name);
}

static void
test_rate(void)
{
	Optimizer	optimizer = {.learning_rate = 2, .steps = 11};
	double		first = optimizer_rate(&optimizer);
	double		middle;
	double		last;

	optimizer.step = 5;
	middle = optimizer_rate(&optimizer);
	optimizer.step = 10;
	last = optimizer_rate(&optimizer);
	optimizer.step = 20;
	check(first == 2 && fabs(middle - 1.05) < 1e-12 &&
		  fabs(last - 0.1) < 1e-12 &&
		  fabs(optimizer_rate(&optimizer) - 0.1) < 1e-12,
		  "the rate falls linearly to 5 %% and stays there");
}

int
main(void)
{
	test_steps(1, 0);
	test_steps(2, 0);
	test_steps(200, 0);
	test_steps(200, 3);
	test_steps(50, 1e-3);
	test_total_decay(1, 0.2);
	test_total_decay(2, 0.2);
	test_total_decay(1000, 0.2);
	test_total_decay(5000, 2.5);
	test_total_decay(30000, 0.2);
	test_average(1);
	test_average(7);
	test_not_finite(NAN, "a NaN");
	test_not_finite(INFINITY, "an infinity");
	test_not_finite(-INFINITY, "a negative infinity");
	test_rate();
	return check_end();
}
