/*
 * test_differences.c
 *	  Random networks and tasks: embeddings, losses and gradients against
 *	  finite differences of a plain implementation of the method, and kernel
 *	  paths against each other.
 *
 * The outer objective is differenced along single numbers and along a random
 * direction of every part (tensor or input).  Central differences over h and
 * h / 2 give one without their error in h^2.  Where they disagree, h was too
 * large; or, if smaller ones do too, a relu has its kink right there, which is
 * then left out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reference.h"

#define SEEDS 160

/* Every so many-th problem is wide: several vectors of each kernel a row. */
#define WIDE_EVERY 8

/* And every so many-th has as many rows as the kernels of many rows want. */
#define LONG_EVERY 2

/* Differences along single numbers, beside the direction. */
#define SINGLES 3

/* The step, and where it ends up while differences of two steps disagree. */
#define STEP 2e-4
#define SMALLEST_STEP 1e-6

/* Of the part's largest entry, and where all of it is small. */
#ifdef LIMAML_DOUBLE
#define TOLERANCE 1e-6
#define TOLERANCE_ZERO 1e-9
#define VALUE_TOLERANCE 1e-11
#define PATH_TOLERANCE 1e-11
#else
#define TOLERANCE 1e-3
#define TOLERANCE_ZERO 2e-6
#define VALUE_TOLERANCE 1e-4
#define PATH_TOLERANCE 1e-3
#endif

typedef struct Tally
{
	const char *what;
	double		worst;			/* error over what is tolerated */
	int			good;
	int			bad;
	int			kinks;			/* left out */
} Tally;

static void
tally(Tally *tally, double error, double tolerated)
{
	double		share = isnan(error) ? INFINITY : error / tolerated;

	if (share > tally->worst)
		tally->worst = share;
	if (share > 1)
		tally->bad++;
	else
		tally->good++;
}

static double
largest_of(size_t n, const double *numbers)
{
	double		largest = 0;

	for (size_t i = 0; i < n; i++)
		if (!(fabs(numbers[i]) <= largest))
			largest = fabs(numbers[i]);
	return largest;
}

/* The objective's derivative along a direction in one part. */
static double
difference(const Problem *problem, const ReferenceRun *frozen,
		   const Part *part, const double *direction, double h)
{
	double	   *numbers = allocate(problem->count * sizeof(double));
	double		objective[2];

	memcpy(numbers, problem->numbers, problem->count * sizeof(double));
	for (int side = 0; side < 2; side++)
	{
		double		along = side == 0 ? -h : h;

		for (size_t i = 0; i < part->count; i++)
			numbers[part->offset + i] =
				problem->numbers[part->offset + i] + along * direction[i];
		objective[side] = reference_objective(problem, numbers, frozen);
	}
	free(numbers);
	return (objective[1] - objective[0]) / (2 * h);
}

static void
compare_direction(const Problem *problem, const ReferenceRun *frozen,
				  const Part *part, const double *direction,
				  const double *gradient, Tally *sum)
{
	double		largest = largest_of(part->count, gradient + part->offset);
	double		tolerated = TOLERANCE * largest + TOLERANCE_ZERO;
	double		length = 0;
	double		expected = 0;
	double		wide = 0;
	double		narrow = 0;
	bool		agree = false;
	int			before = sum->bad;

	for (size_t i = 0; i < part->count; i++)
	{
		length += fabs(direction[i]);
		expected += direction[i] * gradient[part->offset + i];
	}
	tolerated *= sqrt(length);
	for (double h = STEP; h >= SMALLEST_STEP; h /= 10)
	{
		wide = difference(problem, frozen, part, direction, h);
		narrow = difference(problem, frozen, part, direction, h / 2);
		agree = fabs(wide - narrow) <
			(2e-7 * largest + 2e-10) * sqrt(length);
		if (agree)
			break;
	}
	if (problem->shape.activation == ACTIVATION_RELU && !agree)
	{
		sum->kinks++;
		return;
	}
	tally(sum, fabs(expected - (4 * narrow - wide) / 3), tolerated);
	if (sum->bad > before && sum->bad <= 10)
		note("%s: %s: %.10g, by differences %.10g (largest %.3g)", sum->what,
			 part->name, expected, (4 * narrow - wide) / 3, largest);
}

/* All parts of a gradient against differences. */
static void
compare_gradient(const Problem *problem, const ReferenceRun *frozen,
				 const double *gradient, bool wide, Random *random, Tally *sum)
{
	for (int p = 0; p < problem->parts; p++)
	{
		const Part *part = &problem->part[p];
		double	   *direction = allocate(part->count * sizeof(double));

		if (part->count == 0)
		{
			free(direction);
			continue;
		}
		for (size_t i = 0; i < part->count; i++)
			direction[i] = random_below(random, 2) ? 1 : -1;
		compare_direction(problem, frozen, part, direction, gradient, sum);
		for (int s = 0; s < SINGLES && !wide && part->count > 1; s++)
		{
			memset(direction, 0, part->count * sizeof(double));
			direction[random_below(random, part->count)] = 1;
			compare_direction(problem, frozen, part, direction, gradient, sum);
		}
		free(direction);
	}
}

/*
 * Halves the inner rates until every inner loop descends, or nearly so: where
 * it grows a hundredfold, rounding and the step of a difference do too.
 */
static void
calm(Problem *problem)
{
	const Part *rate = &problem->part[INNER_RATE(&problem->shape)];
	bool		wild;

	do
	{
		wild = false;
		for (int t = 0; t < problem->tasks; t++)
		{
			ReferenceRun run;

			reference_run(problem, problem->numbers, t, NULL, &run);
			for (int k = 1; k <= problem->shape.steps; k++)
				if (!(run.loss[k] <= 2 * run.loss[0]))
					wild = true;
			reference_free(&run);
		}
		for (size_t i = 0; i < rate->count && wild; i++)
			problem->numbers[rate->offset + i] /= 2;
	} while (wild);
}

/* Embeddings and mean support losses of all tasks against the plain ones. */
static void
compare_adaptation(const Loaded *loaded, const ReferenceRun *run, Tally *sum)
{
	const Problem *problem = loaded->problem;
	const NetworkShape *shape = &problem->shape;
	int			E = network_embedding_size(shape);
	int			K = shape->steps;
	real	   *embedding = allocate_reals(E);

	for (int t = 0; t < problem->tasks; t++)
	{
		Adaptation	adaptation = loaded_adapt(loaded, t, embedding);
		const double *expected = run[t].embedding + (size_t) K * E;
		double		largest = largest_of(E, expected);
		double		weight = 0;
		double		to_mean;

		for (int i = 0; i < problem->support[t].n; i++)
			weight += problem->support[t].weight[i];
		to_mean = weight > 0 ?
			1 / (inner_scale(shape->weighting, weight) * weight) : 0;
		for (int j = 0; j < E; j++)
			tally(sum, fabs(embedding[j] - expected[j]),
				  VALUE_TOLERANCE * (largest + 0.1));
		tally(sum, fabs(adaptation.loss_before - run[t].loss[0] * to_mean),
			  VALUE_TOLERANCE * (1 + run[t].loss[0] * to_mean));
		tally(sum, fabs(adaptation.loss_after - run[t].loss[K] * to_mean),
			  VALUE_TOLERANCE * (1 + run[t].loss[K] * to_mean));
		tally(sum, adaptation.diverged_at, 0.5);
	}
	free(embedding);
}

/* A gradient on one kernel path against that on another. */
static void
compare_paths(const Problem *problem, const double *first,
			  const double *second, Tally *sum)
{
	for (int p = 0; p < problem->parts; p++)
	{
		const Part *part = &problem->part[p];
		double		largest = largest_of(part->count, first + part->offset);

		for (size_t i = 0; i < part->count; i++)
			tally(sum, fabs(first[part->offset + i] -
							second[part->offset + i]),
				  PATH_TOLERANCE * largest + TOLERANCE_ZERO);
	}
}

static void
report(const Tally *sum, int seeds)
{
	/* too many kinks, and nothing would have been tested */
	check(sum->bad == 0 && sum->good > 0 && sum->kinks < sum->good / 4,
		  "%s: %d agree, %d do not, %d at kinks, worst %.2g of the tolerance "
		  "(seeds 1 ... %d)", sum->what, sum->good, sum->bad, sum->kinks,
		  sum->worst, seeds);
}

int
main(void)
{
	Tally		adaptation = {.what = "embeddings and support losses"};
	Tally		objective = {.what = "objective"};
	Tally		exact = {.what = "exact gradient"};
	Tally		first_order = {.what = "first-order gradient"};
	Tally		paths = {.what = "kernel paths"};
	int			seeds = seed_count(SEEDS);

	for (int seed = 1; seed <= seeds; seed++)
	{
		static const ProblemLimits small = {3, 7, 6, 5};
		static const ProblemLimits many = {3, 9, 60, 4};
		static const ProblemLimits large = {2, 70, 40, 4};
		bool		wide = seed % WIDE_EVERY == 0;
		int			bad = adaptation.bad + objective.bad + exact.bad +
			first_order.bad + paths.bad;
		ReferenceRun run[PROBLEM_MAX_TASKS];
		Problem		problem;
		double	   *gradient;
		double	   *again;
		double		loss;
		double		expected;
		Random		random;
		Loaded		loaded;
		Loaded		other;

		random_seed_stream(&random, seed, 1);
		problem_draw(&problem, wide ? &large :
					 seed % LONG_EVERY == 0 ? &many : &small, seed);
		calm(&problem);
		gradient = allocate(problem.count * sizeof(double));
		again = allocate(problem.count * sizeof(double));
		for (int t = 0; t < problem.tasks; t++)
			reference_run(&problem, problem.numbers, t, NULL, &run[t]);
		expected = reference_objective(&problem, problem.numbers, NULL);

		problem_load(&loaded, &problem);
		compare_adaptation(&loaded, run, &adaptation);
		for (int order = 2; order >= 1; order--)
		{
			Tally	   *sum = order == 2 ? &exact : &first_order;

			tally(&objective,
				  loaded_gradient(&loaded, order, gradient, &loss), 0.5);
			tally(&objective, fabs(loss - expected),
				  VALUE_TOLERANCE * (1 + expected));
			compare_gradient(&problem, order == 2 ? NULL : run, gradient, wide,
							 &random, sum);
			for (int p = 0; select_kernels(p); p++)
			{
				problem_load(&other, &problem);
				loaded_gradient(&other, order, again, &loss);
				compare_paths(&problem, gradient, again, &paths);
				loaded_free(&other);
			}
		}
		loaded_free(&loaded);

		if (adaptation.bad + objective.bad + exact.bad + first_order.bad +
			paths.bad > bad)
			note("seed %d: %s", seed, problem_describe(&problem));
		for (int t = 0; t < problem.tasks; t++)
			reference_free(&run[t]);
		free(gradient);
		free(again);
		problem_free(&problem);
	}

	report(&adaptation, seeds);
	report(&objective, seeds);
	report(&exact, seeds);
	report(&first_order, seeds);
	report(&paths, seeds);
	return check_end();
}
