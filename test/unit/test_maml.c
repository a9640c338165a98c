/*
 * test_maml.c
 *	  Plain MAML: where the meta block adapts, against gradient_task, adapt and
 *	  the golden cases; where other parts do, against a plain implementation
 *	  and finite differences of it, for every single number; and at its edges.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case.h"
#include "check.h"
#include "reference.h"

#define SEEDS 160

/* The step, and where it ends up while differences of two steps disagree. */
#define STEP 2e-4
#define SMALLEST_STEP 1e-6

/* Of the part's largest entry, and where all of it is small. */
#ifdef LIMAML_DOUBLE
#define GOLDEN_TOLERANCE 1e-9
#define TOLERANCE 1e-6
#define TOLERANCE_ZERO 1e-9
#define SAME_TOLERANCE 1e-12
#define SAME_ZERO 1e-14
#else
#define GOLDEN_TOLERANCE 1e-4
#define TOLERANCE 1e-3
#define TOLERANCE_ZERO 2e-6
#define SAME_TOLERANCE 1e-3
#define SAME_ZERO 2e-6
#endif

static const char *const part_name[] = {"meta", "head", "full"};

/* How many numbers were compared. */
typedef struct Tally
{
	double		worst;			/* error over what is tolerated */
	int			good;
	int			bad;
	int			kinks;			/* left out */
} Tally;

static void
tally(Tally *sum, double error, double tolerated)
{
	double		share = isnan(error) ? INFINITY : error / tolerated;

	if (share > sum->worst)
		sum->worst = share;
	if (share > 1)
		sum->bad++;
	else
		sum->good++;
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

static MamlRows
load_rows(const Rows *rows, const real *z)
{
	return (MamlRows) {.n = rows->n, .z = z, .label = rows->label,
		.weight = rows->weight, .offset = rows->offset};
}

static Adaptation
load_adapt(const Loaded *loaded, int task, MamlPart part, real *parameters)
{
	const LoadedTask *given = &loaded->task[task];
	MamlRows	support = load_rows(&given->support, given->support_z);
	real	   *memory = allocate_reals(maml_adapt_size(&loaded->network.shape,
														given->support.n));
	Adaptation	result = maml_adapt(&loaded->network, part, given->x,
									&support, memory, parameters);

	free(memory);
	return result;
}

static void
put_part(const Problem *problem, int task, int part, const real *numbers,
		 double *gradient)
{
	const Part *p = task_part(problem, task, part);

	for (size_t i = 0; i < p->count; i++)
		gradient[p->offset + i] = numbers[i];
}

/* loaded_gradient by maml_task. */
static int
load_gradient(const Loaded *loaded, MamlPart part, int order,
			  double *gradient, double *objective)
{
	const Problem *problem = loaded->problem;
	const NetworkShape *shape = &problem->shape;
	size_t		count = network_parameter_count(shape);
	int			dz = network_candidate_size(shape);
	int			dx = shape->meta_width[0];
	real	   *parameters = calloc(count, sizeof(real));
	OuterLoss	outer = {order, problem->prior_loss, problem_scale(problem)};
	double		loss = 0;
	int			diverged_at = 0;

	for (int t = 0; t < problem->tasks; t++)
	{
		const LoadedTask *given = &loaded->task[t];
		int			n = given->support.n;
		int			q = given->query.n;
		real	   *memory = allocate_reals(maml_size(shape, part, n, q));
		MamlTask	task = {
			.x = given->x,
			.support = load_rows(&given->support, given->support_z),
			.query = load_rows(&given->query, given->query_z),
			.x_gradient = allocate_reals(dx)
		};
		TaskLoss	result;

		task.support.z_gradient = allocate_reals((size_t) n * dz);
		task.support.offset_gradient = allocate_reals(n);
		task.query.z_gradient = allocate_reals((size_t) q * dz);
		task.query.offset_gradient = allocate_reals(q);
		if (dx > 0)
			memset(task.x_gradient, 0, dx * sizeof(real));

		result = maml_task(&loaded->network, part, &outer, &task, memory,
						   parameters);
		loss += result.query + problem->prior_loss * result.prior;
		if (diverged_at == 0)
			diverged_at = result.diverged_at;
		put_part(problem, t, PART_X, task.x_gradient, gradient);
		put_part(problem, t, PART_SUPPORT_Z, task.support.z_gradient,
				 gradient);
		put_part(problem, t, PART_SUPPORT_OFFSET,
				 task.support.offset_gradient, gradient);
		put_part(problem, t, PART_QUERY_Z, task.query.z_gradient, gradient);
		put_part(problem, t, PART_QUERY_OFFSET, task.query.offset_gradient,
				 gradient);
		free(memory);
		free(task.x_gradient);
		free(task.support.z_gradient);
		free(task.support.offset_gradient);
		free(task.query.z_gradient);
		free(task.query.offset_gradient);
	}
	for (size_t i = 0; i < count; i++)
		gradient[i] = parameters[i];
	free(parameters);
	*objective = loss * problem_scale(problem) / (1 + problem->prior_loss);
	return diverged_at;
}

/* Halves the inner rates until no support loss rises. */
static void
calm(Problem *problem, MamlPart part)
{
	const Part *rate = &problem->part[INNER_RATE(&problem->shape)];
	bool		wild;

	do
	{
		real	   *parameters =
			allocate_reals(network_parameter_count(&problem->shape));
		Loaded		loaded;

		wild = false;
		problem_load(&loaded, problem);
		for (int t = 0; t < problem->tasks; t++)
		{
			Adaptation	result = load_adapt(&loaded, t, part, parameters);

			wild |= result.diverged_at > 0 || result.rises > 0;
		}
		for (size_t i = 0; i < rate->count && wild; i++)
			problem->numbers[rate->offset + i] /= 2;
		loaded_free(&loaded);
		free(parameters);
	} while (wild && problem->numbers[rate->offset] > 1e-6);
}

static void
compare_parts(const Problem *problem, const double *got,
			  const double *expected, double tolerance, double tolerance_zero,
			  Tally *sum)
{
	for (int p = 0; p < problem->parts; p++)
	{
		const Part *part = &problem->part[p];
		double		largest = largest_of(part->count,
										 expected + part->offset);
		int			before = sum->bad;

		for (size_t i = part->offset; i < part->offset + part->count; i++)
			tally(sum, fabs(got[i] - expected[i]),
				  tolerance * largest + tolerance_zero);
		if (sum->bad > before && sum->bad <= 20)
			note("%s differs (largest %.3g)", part->name, largest);
	}
}

/* The meta block alone adapts: what adapt and gradient_task have. */
static void
compare_with_own(const Problem *problem, const Loaded *loaded, Tally *sum)
{
	const NetworkShape *shape = &problem->shape;
	int			E = network_embedding_size(shape);
	double	   *got = allocate(problem->count * sizeof(double));
	double	   *expected = allocate(problem->count * sizeof(double));
	real	   *parameters = allocate_reals(network_parameter_count(shape));
	real	   *embedding = allocate_reals(E);

	for (int order = 1; order <= 2; order++)
	{
		double		loss;
		double		expected_loss;

		tally(sum, load_gradient(loaded, MAML_META, order, got, &loss), 0.5);
		loaded_gradient(loaded, order, expected, &expected_loss);
		tally(sum, fabs(loss - expected_loss),
			  SAME_TOLERANCE * (1 + expected_loss));
		compare_parts(problem, got, expected, SAME_TOLERANCE, SAME_ZERO, sum);
	}

	/* scores with the parameters and with the embedding */
	for (int t = 0; t < problem->tasks; t++)
	{
		const LoadedTask *task = &loaded->task[t];
		int			q = task->query.n;
		Adaptation	own = loaded_adapt(loaded, t, embedding);
		Adaptation	plain = load_adapt(loaded, t, MAML_META, parameters);
		real	   *plain_memory = allocate_reals(maml_score_size(shape, q));
		real	   *score = allocate_reals(q);
		real	   *own_score = allocate_reals(q);

		loaded_scores(loaded, embedding, &task->query, own_score);
		maml_score(&loaded->network, parameters, task->x, q, task->query_z,
				   task->query.offset, plain_memory, score);
		for (int i = 0; i < q; i++)
			tally(sum, fabs(score[i] - own_score[i]),
				  SAME_TOLERANCE * (1 + fabs(own_score[i])));
		tally(sum, fabs(own.loss_before - plain.loss_before),
			  SAME_TOLERANCE * (1 + own.loss_before));
		tally(sum, fabs(own.loss_after - plain.loss_after),
			  SAME_TOLERANCE * (1 + own.loss_after));
		tally(sum, abs(own.diverged_at - plain.diverged_at), 0.5);
		free(own_score);
		free(plain_memory);
		free(score);
	}
	free(got);
	free(expected);
	free(parameters);
	free(embedding);
}

static void
test_own(int seeds)
{
	Tally		sum = {0};

	for (int seed = 1; seed <= seeds; seed++)
	{
		static const ProblemLimits small = {3, 9, 8, 5};
		static const ProblemLimits large = {2, 70, 40, 5};
		int			bad = sum.bad;
		Problem		problem;
		Loaded		loaded;

		problem_draw(&problem, seed % 8 == 0 ? &large : &small, seed);
		calm(&problem, MAML_META);
		problem_load(&loaded, &problem);
		compare_with_own(&problem, &loaded, &sum);
		if (sum.bad > bad)
			note("seed %d: %s", seed, problem_describe(&problem));
		loaded_free(&loaded);
		problem_free(&problem);
	}
	check(sum.bad == 0 && sum.good > 0, "adapting the meta block: %d numbers "
		  "agree with adapt and gradient_task, %d do not, worst %.2g of the "
		  "tolerance (seeds 1 ... %d)", sum.good, sum.bad, sum.worst, seeds);
}

/*
 * Parameters after the inner loop and scores with them against the plain
 * implementation; what does not adapt keeps its bits.
 */
static void
compare_adapted(const Problem *problem, const Loaded *loaded, MamlPart part,
				Tally *sum)
{
	const NetworkShape *shape = &problem->shape;
	const LoadedTask *task = &loaded->task[0];
	size_t		count = network_parameter_count(shape);
	int			K = shape->steps;
	int			q = task->query.n;
	int			dz = network_candidate_size(shape);
	const double *z = problem->numbers +
		task_part(problem, 0, PART_QUERY_Z)->offset;
	const double *offset = problem->numbers +
		task_part(problem, 0, PART_QUERY_OFFSET)->offset;
	double	   *expected = allocate((K + 1) * count * sizeof(double));
	double	   *step = allocate(K * count * sizeof(double));
	real	   *parameters = allocate_reals(count);
	real	   *memory = allocate_reals(maml_score_size(shape, q));
	real	   *score = allocate_reals(q);
	Adaptation	result = load_adapt(loaded, 0, part, parameters);
	size_t		moved = 0;
	Problem		adapted = *problem;
	ReferenceRun run;

	reference_maml(problem, problem->numbers, 0, part, NULL, expected, step);
	tally(sum, result.diverged_at, 0.5);
	for (int t = 0; t < problem->tensors; t++)
	{
		const Part *tensor = &problem->part[t];
		const double *numbers = expected + K * count;
		double		largest = largest_of(tensor->count,
										 numbers + tensor->offset);

		for (size_t i = tensor->offset; i < tensor->offset + tensor->count;
			 i++)
		{
			tally(sum, fabs(parameters[i] - numbers[i]),
				  TOLERANCE * (largest + 0.1));
			moved += parameters[i] != loaded->parameters[i];
		}
	}
	tally(sum, moved > maml_adapted_count(shape, part), 0.5);

	/* the plain network at the adapted parameters, whose loop has no step */
	adapted.shape.steps = 0;
	adapted.numbers = allocate(problem->count * sizeof(double));
	memcpy(adapted.numbers, problem->numbers, problem->count * sizeof(double));
	memcpy(adapted.numbers, expected + K * count, count * sizeof(double));
	reference_run(&adapted, adapted.numbers, 0, NULL, &run);
	maml_score(&loaded->network, parameters, task->x, q, task->query_z,
			   task->query.offset, memory, score);
	for (int i = 0; i < q; i++)
	{
		double		s = reference_score(shape, adapted.numbers, run.embedding,
										z + (size_t) i * dz, offset[i]);

		tally(sum, fabs(score[i] - s), TOLERANCE * (1 + fabs(s)));
	}
	reference_free(&run);
	free(adapted.numbers);
	free(expected);
	free(step);
	free(parameters);
	free(memory);
	free(score);
}

/* The objective's derivative with respect to one number. */
static double
difference(const Problem *problem, MamlPart part, const double *frozen,
		   size_t i, double h)
{
	double		kept = problem->numbers[i];
	double		objective[2];

	for (int side = 0; side < 2; side++)
	{
		problem->numbers[i] = kept + (side == 0 ? -h : h);
		objective[side] = reference_maml_objective(problem, problem->numbers,
												   part, frozen);
	}
	problem->numbers[i] = kept;
	return (objective[1] - objective[0]) / (2 * h);
}

/* A gradient against differences, number by number. */
static void
compare_differences(const Problem *problem, MamlPart part,
					const double *frozen, const double *gradient, Tally *sum)
{
	for (int p = 0; p < problem->parts; p++)
	{
		const Part *tensor = &problem->part[p];
		double		largest = largest_of(tensor->count,
										 gradient + tensor->offset);

		for (size_t i = tensor->offset; i < tensor->offset + tensor->count;
			 i++)
		{
			double		expected = 0;
			bool		agree = false;

			/* that of the inner rates is not computed, and is to stay zero */
			for (double h = STEP; h >= SMALLEST_STEP && !agree &&
				 p != INNER_RATE(&problem->shape); h /= 10)
			{
				double		wide = difference(problem, part, frozen, i, h);
				double		narrow = difference(problem, part, frozen, i,
												h / 2);

				agree = fabs(wide - narrow) < 2e-7 * largest + 2e-10;
				expected = (4 * narrow - wide) / 3;
			}
			if (problem->shape.activation == ACTIVATION_RELU && !agree &&
				p != INNER_RATE(&problem->shape))
			{
				sum->kinks++;
				continue;
			}
			tally(sum, fabs(gradient[i] - expected),
				  TOLERANCE * largest + TOLERANCE_ZERO);
			if (fabs(gradient[i] - expected) >
				TOLERANCE * largest + TOLERANCE_ZERO && sum->bad <= 10)
				note("%s: %s: %.10g, by differences %.10g (largest %.3g)",
					 part_name[part], tensor->name, gradient[i], expected,
					 largest);
		}
	}
}

static void
test_other(MamlPart part, int seeds)
{
	Tally		adapted = {0};
	Tally		exact = {0};
	Tally		first_order = {0};

	for (int seed = 1; seed <= seeds; seed++)
	{
		static const ProblemLimits limits = {1, 5, 5, 4};
		int			bad = adapted.bad + exact.bad + first_order.bad;
		size_t		count;
		Problem		problem;
		double	   *gradient;
		double	   *parameters;
		double	   *step;
		double		loss;
		double		expected;
		Loaded		loaded;

		problem_draw(&problem, &limits, seed);
		calm(&problem, part);
		count = network_parameter_count(&problem.shape);
		problem_load(&loaded, &problem);
		compare_adapted(&problem, &loaded, part, &adapted);

		gradient = allocate(problem.count * sizeof(double));
		parameters = allocate((problem.shape.steps + 1) * count *
							  sizeof(double));
		step = allocate(problem.shape.steps * count * sizeof(double));
		reference_maml(&problem, problem.numbers, 0, part, NULL, parameters,
					   step);
		expected = reference_maml_objective(&problem, problem.numbers, part,
											NULL);
		for (int order = 1; order <= 2; order++)
		{
			tally(&adapted,
				  load_gradient(&loaded, part, order, gradient, &loss), 0.5);
			tally(&adapted, fabs(loss - expected), TOLERANCE * (1 + expected));
			compare_differences(&problem, part, order == 1 ? step : NULL,
								gradient, order == 1 ? &first_order : &exact);
		}
		if (adapted.bad + exact.bad + first_order.bad > bad)
			note("seed %d: %s", seed, problem_describe(&problem));
		loaded_free(&loaded);
		free(gradient);
		free(parameters);
		free(step);
		problem_free(&problem);
	}
	check(adapted.bad == 0 && adapted.good > 0, "%s: %d parameters, losses "
		  "and scores agree with a plain implementation, %d do not, worst "
		  "%.2g of the tolerance (seeds 1 ... %d)", part_name[part],
		  adapted.good, adapted.bad, adapted.worst, seeds);
	check(exact.bad == 0 && exact.good > 0 && exact.kinks < exact.good / 4,
		  "%s: exact gradient by differences: %d agree, %d do not, %d at "
		  "kinks, worst %.2g of the tolerance", part_name[part], exact.good,
		  exact.bad, exact.kinks, exact.worst);
	check(first_order.bad == 0 && first_order.good > 0 &&
		  first_order.kinks < first_order.good / 4, "%s: first-order gradient "
		  "by differences: %d agree, %d do not, %d at kinks, worst %.2g of "
		  "the tolerance", part_name[part], first_order.good, first_order.bad,
		  first_order.kinks, first_order.worst);
}

/* A golden case, whose arrays are named gradN.part. */
static void
test_case(const char *folder, const char *file)
{
	char		path[4096];
	char		error[256];
	Tally		sum = {0};
	double	   *got;
	double	   *expected;
	Case		given;
	Loaded		loaded;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	if (!case_read(path, &given, error, sizeof(error)))
	{
		check(false, "%s: %s", file, error);
		return;
	}
	got = allocate(given.problem.count * sizeof(double));
	expected = allocate(given.problem.count * sizeof(double));
	problem_load(&loaded, &given.problem);
	for (int order = 1; order <= 2; order++)
	{
		double		loss;

		tally(&sum, load_gradient(&loaded, MAML_META, order, got, &loss), 0.5);
		for (int p = 0; p < given.problem.parts; p++)
		{
			const Part *part = &given.problem.part[p];
			char		name[64];
			CaseArray  *array;

			snprintf(name, sizeof(name), "grad%d.%s", order, part->name);
			array = case_array(&given, name);
			if (!array || array->count != part->count)
			{
				note("%s is missing, or of another size", name);
				sum.bad++;
			}
			else if (part->count > 0)
				memcpy(expected + part->offset, array->numbers,
					   part->count * sizeof(double));
		}
		if (sum.bad == 0)
			compare_parts(&given.problem, got, expected, GOLDEN_TOLERANCE,
						  1e-300, &sum);
	}
	compare_with_own(&given.problem, &loaded, &sum);
	check(sum.bad == 0 && sum.good > 0, "%s: %d numbers agree, %d do not, "
		  "worst %.2g of the tolerance", file, sum.good, sum.bad, sum.worst);
	loaded_free(&loaded);
	free(got);
	free(expected);
	case_free(&given);
}

static int
is_case(const struct dirent *entry)
{
	size_t		length = strlen(entry->d_name);

	return length > 9 && strncmp(entry->d_name, "case-", 5) == 0 &&
		strcmp(entry->d_name + length - 4, ".txt") == 0;
}

static void
test_golden(const char *folder)
{
	struct dirent **entry;
	int			files = scandir(folder, &entry, is_case, alphasort);

	if (files <= 0)
	{
		check(false, "a folder with case-*.txt files: %s", folder);
		return;
	}
	for (int i = 0; i < files; i++)
	{
		test_case(folder, entry[i]->d_name);
		free(entry[i]);
	}
	free(entry);
}

/* A problem with support rows whose weight is not zero. */
static void
draw_adapting(Problem *problem)
{
	static const ProblemLimits limits = {1, 5, 6, 4};
	uint64_t	seed = 1;

	for (;; seed++)
	{
		double		weight = 0;

		problem_draw(problem, &limits, seed);
		for (int i = 0; i < problem->support[0].n; i++)
			weight += problem->support[0].weight[i];
		if (weight > 1 && problem->shape.steps >= 3 &&
			problem->shape.global_layers >= 2 &&
			problem->shape.factor_size > 0 &&
			network_candidate_size(&problem->shape) > 0 &&
			problem->shape.activation == ACTIVATION_TANH)
			return;
		problem_free(problem);
	}
}

/* Without weight nothing adapts: no rows, or weights of zero. */
static void
test_no_weight(MamlPart part, bool no_rows)
{
	Problem		problem;
	Loaded		loaded;
	double	   *got;
	double	   *expected;
	real	   *parameters;
	double		loss;
	double		expected_loss;
	Adaptation	result;
	bool		kept = true;
	Tally		sum = {0};

	draw_adapting(&problem);
	problem_load(&loaded, &problem);
	got = allocate(problem.count * sizeof(double));
	expected = allocate(problem.count * sizeof(double));
	parameters = allocate_reals(network_parameter_count(&problem.shape));

	/* expected: the meta block's method with no step */
	loaded.network.shape.steps = 0;
	loaded_gradient(&loaded, 2, expected, &expected_loss);
	loaded.network.shape.steps = problem.shape.steps;

	if (no_rows)
		loaded.task[0].support.n = 0;
	else
	{
		real	   *weight = allocate_reals(problem.support[0].n);

		for (int i = 0; i < problem.support[0].n; i++)
			weight[i] = 0;
		free((real *) loaded.task[0].support.weight);
		loaded.task[0].support.weight = weight;
	}
	if (no_rows)
	{
		size_t		count = network_parameter_count(&problem.shape);
		real	   *gradient = calloc(count, sizeof(real));
		real	   *memory;
		MamlTask	task = {
			.x = loaded.task[0].x,
			.support = {.n = 0},
			.query = load_rows(&loaded.task[0].query, loaded.task[0].query_z)
		};
		OuterLoss	outer = {2, problem.prior_loss, problem_scale(&problem)};
		TaskLoss	part_loss;

		/* and no array that may be missing */
		memory = allocate_reals(maml_size(&problem.shape, part, 0,
										  task.query.n));
		part_loss = maml_task(&loaded.network, part, &outer, &task, memory,
							  gradient);
		tally(&sum, part_loss.diverged_at, 0.5);
		memset(got, 0, problem.count * sizeof(double));
		for (size_t i = 0; i < count; i++)
			got[i] = gradient[i];
		for (int p = problem.tensors; p < problem.parts; p++)
			memcpy(got + problem.part[p].offset,
				   expected + problem.part[p].offset,
				   problem.part[p].count * sizeof(double));
		loss = (part_loss.query + problem.prior_loss * part_loss.prior) *
			problem_scale(&problem) / (1 + problem.prior_loss);
		free(memory);
		free(gradient);
	}
	else
		tally(&sum, load_gradient(&loaded, part, 2, got, &loss), 0.5);
	tally(&sum, fabs(loss - expected_loss),
		  SAME_TOLERANCE * (1 + expected_loss));
	compare_parts(&problem, got, expected, SAME_TOLERANCE, SAME_ZERO, &sum);

	result = load_adapt(&loaded, 0, part, parameters);
	for (size_t i = 0; i < network_parameter_count(&problem.shape); i++)
		kept &= parameters[i] == loaded.parameters[i];
	check(sum.bad == 0 && kept && result.diverged_at == 0 &&
		  result.loss_before == 0 && result.loss_after == 0,
		  "%s: %s: nothing adapts", part_name[part],
		  no_rows ? "no support rows" : "support rows without weight");
	loaded_free(&loaded);
	free(got);
	free(expected);
	free(parameters);
	problem_free(&problem);
}

/* A rate that is far too large; with one step no later loss shows it. */
static void
test_divergence(MamlPart part, double rate, int steps)
{
	Problem		problem;
	const Part *rates;
	Loaded		loaded;
	double	   *gradient;
	double		loss;
	real	   *parameters;
	int			diverged_at;
	bool		zero = true;
	Adaptation	result;

	draw_adapting(&problem);
	problem.shape.loss = LOSS_SQUARED;
	problem.shape.steps = steps;
	rates = &problem.part[INNER_RATE(&problem.shape)];
	for (size_t i = 0; i < rates->count; i++)
		problem.numbers[rates->offset + i] = rate;
	problem_load(&loaded, &problem);
	gradient = allocate(problem.count * sizeof(double));
	parameters = allocate_reals(network_parameter_count(&problem.shape));

	diverged_at = load_gradient(&loaded, part, 2, gradient, &loss);
	for (size_t i = 0; i < problem.count; i++)
		zero &= gradient[i] == 0;
	result = load_adapt(&loaded, 0, part, parameters);
	check(diverged_at >= 1 && zero && loss == 0 &&
		  result.diverged_at == diverged_at,
		  "%s: at a rate of %.0g the inner loop diverges at step %d, and "
		  "nothing is added", part_name[part], rate, diverged_at);

	/* the meta block's own method says the same */
	if (part == MAML_META)
	{
		double		own;

		check(loaded_gradient(&loaded, 2, gradient, &own) == diverged_at,
			  "meta: gradient_task says the same");
	}
	loaded_free(&loaded);
	free(gradient);
	free(parameters);
	problem_free(&problem);
}

/* No query rows: nothing to learn from; and nothing to score. */
static void
test_no_query(MamlPart part)
{
	Problem		problem;
	Loaded		loaded;
	size_t		count;
	real	   *gradient;
	real	   *memory;
	bool		zero = true;
	OuterLoss	outer = {2, 0.2, 1};
	MamlTask	task = {0};
	TaskLoss	loss;

	draw_adapting(&problem);
	calm(&problem, part);
	problem_load(&loaded, &problem);
	count = network_parameter_count(&problem.shape);
	gradient = calloc(count, sizeof(real));
	task.x = loaded.task[0].x;
	task.support = load_rows(&loaded.task[0].support,
							 loaded.task[0].support_z);
	memory = allocate_reals(maml_size(&problem.shape, part, task.support.n,
									  0));
	loss = maml_task(&loaded.network, part, &outer, &task, memory, gradient);
	for (size_t i = 0; i < count; i++)
		zero &= gradient[i] == 0;
	free(memory);
	memory = allocate_reals(maml_score_size(&problem.shape, 0));
	maml_score(&loaded.network, loaded.parameters, task.x, 0, NULL, NULL,
			   memory, NULL);
	check(zero && loss.query == 0 && loss.prior == 0 && loss.diverged_at == 0,
		  "%s: no query rows, no gradient", part_name[part]);
	free(memory);
	free(gradient);
	loaded_free(&loaded);
	problem_free(&problem);
}

/* By hand: a 3-4-2 meta block, a 1 + 5 -> 6 -> 1 global block, F = 1. */
static void
test_count(void)
{
	NetworkShape shape = {
		.meta_layers = 2, .meta_width = {3, 4, 2},
		.global_layers = 2, .global_width = {6, 6, 1}, .factor_size = 1
	};
	size_t		meta = 3 * 4 + 4 + 4 * 2 + 2;

	check(maml_adapted_count(&shape, MAML_META) == meta &&
		  maml_adapted_count(&shape, MAML_HEAD) == 6 + 1 &&
		  maml_adapted_count(&shape, MAML_FULL) ==
		  meta + 6 * 6 + 6 + 6 + 1 + 5 + 1, "numbers of an entity's own");
	shape.adapts = ADAPTS_EMBEDDING;
	check(maml_adapted_count(&shape, MAML_META) == 2 &&
		  maml_adapted_count(&shape, MAML_HEAD) == 6 + 1,
		  "only where the meta block adapts can its last bias do so alone");
	shape.global_layers = 1;
	shape.global_width[1] = 1;
	check(maml_adapted_count(&shape, MAML_HEAD) == 6 + 1,
		  "the only global layer is the head");
}

int
main(int count, char **arguments)
{
	int			seeds = seed_count(SEEDS);

	if (count == 2)
		test_golden(arguments[1]);
	else
		check(false, "a folder with golden cases: not given");
	test_own(seeds);
	test_other(MAML_HEAD, seeds);
	test_other(MAML_FULL, seeds);
	for (MamlPart part = MAML_META; part <= MAML_FULL; part++)
	{
		test_no_weight(part, true);
		test_no_weight(part, false);
		test_no_query(part);
		test_divergence(part, 1e3, 3);
		test_divergence(part, 1e30, 3);
		test_divergence(part, INFINITY, 1);
	}
	test_count();
	return check_end();
}
