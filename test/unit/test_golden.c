/*
 * test_golden.c
 *	  Every golden case of a folder, on every kernel path that the processor
 *	  runs: every array of the file is compared.
 *
 * The error of an array is its largest difference over its largest entry, or
 * the difference itself where all of what is expected is 0.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case.h"
#include "check.h"
#include "math/metrics.h"

#ifdef LIMAML_DOUBLE
#define TOLERANCE 1e-9
#else
#define TOLERANCE 1e-4
#endif

/* How a file did, over all kernel paths. */
typedef struct Outcome
{
	Case	   *given;
	const char *kernels;
	double		worst;
	char		worst_name[64];
	const char *worst_kernels;
	int			bad;			/* arrays missing, misshapen, unknown or off */
} Outcome;

/* Compares an array of the file with what was computed. */
static void
compare(Outcome *outcome, const char *prefix, const char *name,
		int dimensions, int rows, int columns, const double *got)
{
	char		full[64];
	CaseArray  *array;
	double		largest = 0;
	double		error = 0;
	size_t		at = 0;

	snprintf(full, sizeof(full), "%s%s", prefix, name);
	array = case_array(outcome->given, full);
	if (!array || array->dimensions != dimensions || array->size[0] != rows ||
		array->size[1] != columns)
	{
		note("%s is %s", full, array ? "of another size" : "missing");
		outcome->bad++;
		return;
	}
	array->used = true;

	for (size_t i = 0; i < array->count; i++)
	{
		double		difference = fabs(got[i] - array->numbers[i]);

		if (fabs(array->numbers[i]) > largest)
			largest = fabs(array->numbers[i]);
		if (isnan(difference))
			difference = INFINITY;
		if (difference > error)
		{
			error = difference;
			at = i;
		}
	}
	if (largest > 0)
		error /= largest;
	if (error > TOLERANCE)
	{
		outcome->bad++;
		note("%s on %s: relative error %.2g, at %zu %.17g instead of %.17g",
			 full, outcome->kernels, error, at, got[at], array->numbers[at]);
	}
	if (error >= outcome->worst)
	{
		outcome->worst = error;
		snprintf(outcome->worst_name, sizeof(outcome->worst_name), "%s", full);
		outcome->worst_kernels = outcome->kernels;
	}
}

static void
compare_reals(Outcome *outcome, const char *name, int dimensions, int rows,
			  int columns, const real *got)
{
	double	   *numbers = allocate((size_t) rows * columns * sizeof(double));

	for (int i = 0; i < rows * columns; i++)
		numbers[i] = got[i];
	compare(outcome, "out.", name, dimensions, rows, columns, numbers);
	free(numbers);
}

/* Embeddings and support losses, step by step as the inner loop has them. */
static void
compare_inner_loop(Outcome *outcome, const Loaded *loaded)
{
	const NetworkShape *shape = &loaded->network.shape;
	const LoadedTask *task = &loaded->task[0];
	int			K = shape->steps;
	int			E = network_embedding_size(shape);
	size_t		size = inner_loop_size(shape, 1, task->support.n) +
		global_pass_size(shape, task->support.n);
	real	   *memory = allocate_reals(size);
	real	   *embeddings = allocate_reals((size_t) (K + 1) * E);
	real	   *losses = allocate_reals(K + 1);
	Arena		arena = {memory, memory + size};
	InnerLoop	loop;

	inner_loop_take(&loop, shape, 1, task->support.n, &arena);
	global_pass_take(&loop.global[0], shape, task->support.n, &arena);
	for (int k = 1; k < K; k++)
		loop.global[k] = loop.global[0];
	loop.entity[0].x = task->x;
	loop.entity[0].rows = &task->support;
	inner_loop_run(&loaded->network, true, &loop);
	if (loop.entity[0].diverged_at)
	{
		note("the inner loop diverges on %s", outcome->kernels);
		outcome->bad++;
	}
	else
	{
		for (int k = 0; k <= K; k++)
		{
			/* rows without weight let the loop end at once */
			int			step = k < loop.entity[0].steps ? k :
				loop.entity[0].steps;

			memcpy(embeddings + (size_t) k * E,
				   loop.meta[step].h[shape->meta_layers], E * sizeof(real));
			losses[k] = loop.entity[0].loss[step];
		}
		compare_reals(outcome, "embeddings", 2, K + 1, E, embeddings);
		compare_reals(outcome, "support_losses", 1, 1, K + 1, losses);
	}
	free(memory);
	free(embeddings);
	free(losses);
}

/* The same by adapt, of networks with fewer steps. */
static void
compare_adapt(Outcome *outcome, const Loaded *loaded, real *embedding)
{
	const NetworkShape *shape = &loaded->network.shape;
	const RowSet *rows = &loaded->problem->support[0];
	int			K = shape->steps;
	int			E = network_embedding_size(shape);
	real	   *embeddings = allocate_reals((size_t) (K + 1) * E);
	real	   *losses = allocate_reals(K + 1);
	double		weight = 0;
	Loaded		shorter = *loaded;

	for (int i = 0; i < rows->n; i++)
		weight += rows->weight[i];
	for (int k = 0; k <= K; k++)
	{
		Adaptation	adaptation;

		shorter.network.shape.steps = k;
		adaptation = loaded_adapt(&shorter, 0, embeddings + (size_t) k * E);

		/* these are means, where the file has the loss that is descended */
		losses[k] = adaptation.loss_after *
			inner_scale(shape->weighting, weight) * weight;
		if (adaptation.diverged_at)
			outcome->bad++;
	}
	compare_reals(outcome, "embeddings", 2, K + 1, E, embeddings);
	compare_reals(outcome, "support_losses", 1, 1, K + 1, losses);
	memcpy(embedding, embeddings + (size_t) K * E, E * sizeof(real));
	free(embeddings);
	free(losses);
}

/* Scores of the query rows, and their mean loss. */
static void
compare_scores(Outcome *outcome, const Loaded *loaded, const real *embedding)
{
	const NetworkShape *shape = &loaded->network.shape;
	const LoadedTask *task = &loaded->task[0];
	int			q = task->query.n;
	real	   *score = allocate_reals(q);
	MeanLoss	mean = {0};
	double		loss;

	loaded_scores(loaded, embedding, &task->query, score);
	compare_reals(outcome, "query_logits", 1, 1, q, score);
	for (int i = 0; i < q; i++)
		mean_loss_add(&mean, shape->loss, score[i], task->query.label[i],
					  task->query.weight[i]);
	loss = mean_loss(&mean);
	compare(outcome, "out.", "query_loss", 1, 1, 1, &loss);
	free(score);
}

static void
compare_gradient(Outcome *outcome, const Loaded *loaded, int order)
{
	const Problem *problem = loaded->problem;
	double	   *gradient = allocate(problem->count * sizeof(double));
	char		prefix[8];
	double		loss;

	snprintf(prefix, sizeof(prefix), "grad%d.", order);
	if (loaded_gradient(loaded, order, gradient, &loss))
	{
		note("the inner loop diverges on %s", outcome->kernels);
		outcome->bad++;
	}
	compare(outcome, "out.", "query_loss", 1, 1, 1, &loss);
	for (int p = 0; p < problem->parts; p++)
		compare(outcome, prefix, problem->part[p].name,
				problem->part[p].dimensions, problem->part[p].rows,
				problem->part[p].columns, gradient + problem->part[p].offset);
	free(gradient);
}

static void
test_file(const char *folder, const char *file)
{
	char		path[4096];
	char		error[256];
	Case		given;
	Outcome		outcome = {.given = &given, .worst_name = "nothing"};

	if (snprintf(path, sizeof(path), "%s/%s", folder, file) >=
		(int) sizeof(path) ||
		!case_read(path, &given, error, sizeof(error)))
	{
		check(false, "%s: %s", file, error);
		return;
	}
	for (int p = 0; (outcome.kernels = select_kernels(p)); p++)
	{
		Loaded		loaded;
		int			E = network_embedding_size(&given.problem.shape);
		real	   *embedding = allocate_reals(E);

		problem_load(&loaded, &given.problem);
		compare_inner_loop(&outcome, &loaded);
		compare_adapt(&outcome, &loaded, embedding);
		compare_scores(&outcome, &loaded, embedding);
		compare_gradient(&outcome, &loaded, 2);
		compare_gradient(&outcome, &loaded, 1);
		loaded_free(&loaded);
		free(embedding);
	}
	for (int i = 0; i < given.arrays; i++)
		if (!given.array[i].used)
		{
			note("unknown array %s", given.array[i].name);
			outcome.bad++;
		}
	check(outcome.bad == 0 && outcome.worst_kernels,
		  "%s: worst relative error %.2g in %s on %s", file, outcome.worst,
		  outcome.worst_name, outcome.worst_kernels);
	case_free(&given);
}

static int
is_case(const struct dirent *entry)
{
	size_t		length = strlen(entry->d_name);

	return length > 9 && strncmp(entry->d_name, "case-", 5) == 0 &&
		strcmp(entry->d_name + length - 4, ".txt") == 0;
}

int
main(int count, char **arguments)
{
	struct dirent **entry;
	int			files = -1;

	if (count == 2)
		files = scandir(arguments[1], &entry, is_case, alphasort);
	if (files <= 0)
	{
		check(false, "a folder with case-*.txt files: %s",
			  count == 2 ? arguments[1] : "not given");
		return check_end();
	}
	for (int i = 0; i < files; i++)
	{
		test_file(arguments[1], entry[i]->d_name);
		free(entry[i]);
	}
	free(entry);
	return check_end();
}
