/*
 * test_invariance.c
 *	  What must not change a bit: the company that an entity or a row has,
 *	  where in memory anything is, and what was there before.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "problem.h"

#define SEEDS 40

static Random random_state;

/* A copy of n numbers at a random place in fresh memory, full of NaN. */
typedef struct Moved
{
	real	   *memory;
	real	   *numbers;
} Moved;

static Moved
moved(size_t n, const real *numbers)
{
	Moved		copy = {.memory = allocate_reals(n + 2 * KERNEL_PAD)};

	copy.numbers = copy.memory + random_below(&random_state, 2 * KERNEL_PAD);
	if (numbers && n > 0)
		memcpy(copy.numbers, numbers, n * sizeof(real));
	return copy;
}

static bool
same_bits(size_t n, const real *a, const real *b)
{
	return n == 0 || memcmp(a, b, n * sizeof(real)) == 0;
}

/*
 * The candidate halves of all tasks' support rows, from one call; and the same
 * from calls over random blocks.
 */
static bool
test_halves(const Loaded *loaded, int n, const real *z, const real *half)
{
	const NetworkShape *shape = &loaded->problem->shape;
	int			dz = network_candidate_size(shape);
	int			size = network_half_size(shape);
	int			ldz = dz + random_below(&random_state, 3);
	Moved		spread = moved((size_t) n * ldz, NULL);
	Moved		again = moved((size_t) n * size, NULL);
	bool		same;

	for (int i = 0; i < n; i++)
		memcpy(spread.numbers + (size_t) i * ldz, z + (size_t) i * dz,
			   dz * sizeof(real));
	for (int i = 0; i < n;)
	{
		int			block = 1 + random_below(&random_state, n - i);

		if (random_below(&random_state, 2))
			block = 1;
		network_candidate_half(&loaded->network, block,
							   spread.numbers + (size_t) i * ldz, ldz,
							   again.numbers + (size_t) i * size);
		i += block;
	}
	same = same_bits((size_t) n * size, half, again.numbers);
	free(spread.memory);
	free(again.memory);
	return same;
}

/*
 * Adapts the rows once more, with everything somewhere else, in memory that
 * is full of NaN or of the last entity's numbers, and longer than needed.
 */
static bool
test_adapt(const Loaded *loaded, const Loaded *elsewhere, int task,
		   const real *half, Moved *memory, const Adaptation *adaptation,
		   const real *embedding)
{
	const NetworkShape *shape = &loaded->problem->shape;
	const LoadedTask *t = &loaded->task[task];
	int			n = t->support.n;
	int			E = network_embedding_size(shape);
	Moved		x = moved(shape->meta_width[0], t->x);
	Moved		rows = moved((size_t) n * network_half_size(shape), half);
	Moved		label = moved(n, t->support.label);
	Moved		weight = moved(n, t->support.weight);
	Moved		offset = moved(n, t->support.offset);
	Moved		result = moved(E, NULL);
	Rows		support = {
		.n = n,
		.half = rows.numbers,
		.label = label.numbers,
		.weight = t->support.weight ? weight.numbers : NULL,
		.offset = t->support.offset ? offset.numbers : NULL
	};
	Adaptation	again = adapt(&elsewhere->network, x.numbers, &support,
							  memory->numbers, result.numbers);
	bool		same;

	/* one that diverged leaves no embedding */
	same = again.diverged_at == adaptation->diverged_at &&
		again.rises == adaptation->rises &&
		same_bits(1, &again.loss_before, &adaptation->loss_before) &&
		same_bits(1, &again.loss_after, &adaptation->loss_after) &&
		(again.diverged_at > 0 || same_bits(E, embedding, result.numbers));
	free(x.memory);
	free(rows.memory);
	free(label.memory);
	free(weight.memory);
	free(offset.memory);
	free(result.memory);
	return same;
}

/*
 * Scores of many rows from their halves, by a training pass, and from z in
 * random blocks: at whatever place.
 */
static bool
test_scores(const Loaded *loaded, const LoadedTask *task,
			const real *embedding)
{
	const Network *network = &loaded->network;
	const NetworkShape *shape = &network->shape;
	const Rows *rows = &task->query;
	int			n = rows->n;
	int			dz = network_candidate_size(shape);
	size_t		size = global_pass_size(shape, n);
	Moved		memory = moved(size, NULL);
	Moved		scoring = moved(network_score_size(shape, n), NULL);
	Moved		scratch = moved(network_scratch_size(shape), NULL);
	Moved		entity = moved(network_half_size(shape), NULL);
	Moved		z = moved((size_t) n * dz, task->query_z);
	Moved		halves = moved((size_t) n * network_half_size(shape),
							   rows->half);
	Moved		score = moved(n, NULL);
	Moved		again = moved(n, NULL);
	Arena		arena = {memory.numbers, memory.numbers + size};
	bool		same;
	GlobalPass	pass;

	global_pass_take(&pass, shape, n, &arena);
	network_forward(network, embedding, rows, 1, &pass, scratch.numbers);
	network_entity(network, embedding, entity.numbers);
	network_score_halves(network, entity.numbers, n, halves.numbers,
						 rows->offset, scoring.numbers, score.numbers);
	same = same_bits(n, pass.score, score.numbers);
	for (int i = 0; i < n;)
	{
		int			block = random_below(&random_state, 2) ? 1 :
			1 + random_below(&random_state, n - i);

		network_score(network, entity.numbers, block,
					  z.numbers + (size_t) i * dz, dz,
					  rows->offset ? rows->offset + i : NULL,
					  scoring.numbers, again.numbers + i);
		i += block;
	}
	same &= same_bits(n, score.numbers, again.numbers);

	/* and what is predicted from them */
	network_predict(network, n, score.numbers);
	for (int i = 0; i < n; i++)
		network_predict(network, 1, again.numbers + i);
	same &= same_bits(n, score.numbers, again.numbers);

	free(memory.memory);
	free(scoring.memory);
	free(scratch.memory);
	free(entity.memory);
	free(z.memory);
	free(halves.memory);
	free(score.memory);
	free(again.memory);
	return same;
}

/* The same network, its parameters and packed form at another place. */
static void
load_elsewhere(Loaded *elsewhere, const Loaded *loaded, Moved *parameters,
			   Moved *packed)
{
	const NetworkShape *shape = &loaded->problem->shape;

	*parameters = moved(network_parameter_count(shape), loaded->parameters);
	*packed = moved(network_packed_size(shape), NULL);
	network_pack(&elsewhere->network, shape, parameters->numbers,
				 packed->numbers);
}

/* How often something changed that must not. */
typedef struct Changes
{
	int			halves;
	int			embeddings;
	int			scores;
	int			adapted;		/* embeddings tried */
} Changes;

static void
test_problem(const Problem *problem, Changes *changes)
{
	const NetworkShape *shape = &problem->shape;
	int			dz = network_candidate_size(shape);
	int			E = network_embedding_size(shape);
	int			half_size = network_half_size(shape);
	int			most = 0;
	int			all = 0;
	real	   *embedding = allocate_reals(E);
	Loaded		loaded;
	Loaded		elsewhere;
	Moved		parameters;
	Moved		packed;
	Moved		memory;
	real	   *z;
	real	   *half;

	problem_load(&loaded, problem);
	load_elsewhere(&elsewhere, &loaded, &parameters, &packed);

	/* every entity's rows together, as a refresh has them */
	for (int t = 0; t < problem->tasks; t++)
	{
		int			n = problem->support[t].n;

		all += n;
		most = n > most ? n : most;
	}
	z = allocate_reals((size_t) all * dz);
	all = 0;
	for (int t = 0; t < problem->tasks; t++)
	{
		memcpy(z + (size_t) all * dz, loaded.task[t].support_z,
			   (size_t) problem->support[t].n * dz * sizeof(real));
		all += problem->support[t].n;
	}
	half = loaded_half(&loaded, all, z);
	changes->halves += !test_halves(&loaded, all, z, half);

	memory = moved(adapt_size(shape, most), NULL);
	all = 0;
	for (int t = 0; t < problem->tasks; t++)
	{
		Adaptation	adaptation = loaded_adapt(&loaded, t, embedding);

		changes->embeddings += !test_adapt(&loaded, &elsewhere, t,
										   half + (size_t) all * half_size,
										   &memory, &adaptation, embedding);
		if (adaptation.diverged_at == 0)
		{
			changes->adapted++;
			changes->scores += !test_scores(&loaded, &loaded.task[t], embedding);
		}
		all += problem->support[t].n;
	}

	free(z);
	free(half);
	free(memory.memory);
	free(parameters.memory);
	free(packed.memory);
	free(embedding);
	loaded_free(&loaded);
}

int
main(void)
{
	static const ProblemLimits limits = {4, 70, 24, 6};
	int			seeds = seed_count(SEEDS);
	const char *kernels;

	for (int p = 0; (kernels = select_kernels(p)); p++)
	{
		Changes		changes = {0};

		random_seed(&random_state, 1);
		for (int seed = 1; seed <= seeds; seed++)
		{
			Problem		problem;
			Changes		before = changes;

			problem_draw(&problem, &limits, seed);
			test_problem(&problem, &changes);
			if (changes.halves + changes.embeddings + changes.scores >
				before.halves + before.embeddings + before.scores)
				note("seed %d: %s", seed, problem_describe(&problem));
			problem_free(&problem);
		}
		check(changes.halves == 0, "candidate halves on %s: whatever the "
			  "block and the place (seeds 1 ... %d)", kernels, seeds);
		check(changes.embeddings == 0 && changes.adapted > 0,
			  "%d embeddings on %s: whatever the company and the place",
			  changes.adapted, kernels);
		check(changes.scores == 0, "scores on %s: of one row as of many",
			  kernels);
	}
	return check_end();
}
