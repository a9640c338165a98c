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

/* Times that entities of a problem adapt side by side. */
#define TOGETHER 4

/* Two sums of the same terms in different orders. */
#ifdef LIMAML_DOUBLE
#define CLOSE 1e-10
#else
#define CLOSE 1e-3
#endif

static Random random_state;

/* How often something changed that must not. */
typedef struct Changes
{
	int			halves;
	int			embeddings;
	int			scores;
	int			adapted;		/* embeddings tried */
	int			together;
	int			diverged;		/* tried side by side */
} Changes;

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

static bool
same_adaptation(int E, const Adaptation *a, const real *embedding,
				const Adaptation *b, const real *other)
{
	/* one that diverged leaves no embedding */
	return a->diverged_at == b->diverged_at && a->rises == b->rises &&
		same_bits(1, &a->loss_before, &b->loss_before) &&
		same_bits(1, &a->loss_after, &b->loss_after) &&
		(a->diverged_at > 0 || same_bits(E, embedding, other));
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

	same = same_adaptation(E, adaptation, embedding, &again, result.numbers);
	free(x.memory);
	free(rows.memory);
	free(label.memory);
	free(weight.memory);
	free(offset.memory);
	free(result.memory);
	return same;
}

/*
 * Entities side by side, which come at random: some with a part of their rows
 * or with none, and some that diverge.
 */
static bool
test_together(const Loaded *loaded, Changes *changes)
{
	const NetworkShape *shape = &loaded->problem->shape;
	int			E = network_embedding_size(shape);
	int			dx = shape->meta_width[0];
	int			count = 1 + random_below(&random_state, ADAPT_TOGETHER);
	int			most = 0;
	Moved		x[ADAPT_TOGETHER];
	Moved		embedding[ADAPT_TOGETHER];
	const real *inputs[ADAPT_TOGETHER];
	real	   *embeddings[ADAPT_TOGETHER];
	Rows		support[ADAPT_TOGETHER];
	Adaptation	together[ADAPT_TOGETHER];
	real	   *alone = allocate_reals(E);
	Moved		memory;
	bool		same = true;

	for (int i = 0; i < count; i++)
	{
		const LoadedTask *t = &loaded->task[random_below(&random_state,
														 loaded->problem->tasks)];

		x[i] = moved(dx, t->x);
		if (random_below(&random_state, 8) == 0)
			for (int j = 0; j < dx; j++)
				x[i].numbers[j] *= (real) 1e30;
		embedding[i] = moved(E, NULL);
		inputs[i] = x[i].numbers;
		embeddings[i] = embedding[i].numbers;
		support[i] = t->support;
		support[i].n = random_below(&random_state, t->support.n + 1);
		most = support[i].n > most ? support[i].n : most;
	}
	memory = moved(adapt_size(shape, count, most), NULL);
	adapt_together(&loaded->network, count, inputs, support, memory.numbers,
				   embeddings, together);
	for (int i = 0; i < count; i++)
	{
		Moved		of_one = moved(adapt_size(shape, 1, most), NULL);
		Adaptation	adaptation = adapt(&loaded->network, inputs[i],
									   &support[i], of_one.numbers, alone);

		same &= same_adaptation(E, &adaptation, alone, &together[i],
								embeddings[i]);
		changes->diverged += adaptation.diverged_at > 0;
		free(of_one.memory);
		free(x[i].memory);
		free(embedding[i].memory);
	}
	free(memory.memory);
	free(alone);
	return same;
}

/*
 * Whether scores in random blocks of `least` ... `most` rows, from z or, where
 * that is NULL, from halves, are the same.
 */
static bool
same_scores(const Network *network, const real *entity, const Rows *rows,
			const real *z, int ldz, int least, int most, const real *score)
{
	const NetworkShape *shape = &network->shape;
	Moved		memory = moved(network_score_size(shape, most), NULL);
	Moved		again = moved(rows->n, NULL);
	bool		same;

	for (int i = 0; i < rows->n;)
	{
		int			block = least + random_below(&random_state,
												 most - least + 1);
		const real *offset = rows->offset ? rows->offset + i : NULL;

		if (block > rows->n - i)
			block = rows->n - i;
		if (z)
			network_score(network, entity, block, z + (size_t) i * ldz, ldz,
						  offset, memory.numbers, again.numbers + i);
		else
			network_score_halves(network, entity, block, rows->half +
								 (size_t) i * network_half_size(shape),
								 offset, memory.numbers, again.numbers + i);
		i += block;
	}
	same = same_bits(rows->n, score, again.numbers);
	free(memory.memory);
	free(again.memory);
	return same;
}

/* A training pass's scores, and loss, residuals and what it keeps. */
static bool
same_pass(const Network *network, const real *embedding, const Rows *rows,
		  const real *score)
{
	const NetworkShape *shape = &network->shape;
	int			n = rows->n;
	size_t		size = global_pass_size(shape, n);
	size_t		kept_size = global_pass_kept_size(shape, n);
	Moved		memory = moved(size, NULL);
	Moved		kept_memory = moved(kept_size, NULL);
	Moved		scratch = moved(network_scratch_size(shape), NULL);
	Moved		h_memory[NETWORK_MAX_LAYERS];
	Moved		delta_memory[NETWORK_MAX_LAYERS];
	real	   *h[NETWORK_MAX_LAYERS] = {NULL};
	real	   *delta[NETWORK_MAX_LAYERS] = {NULL};
	Arena		arena = {memory.numbers, memory.numbers + size};
	Arena		kept_arena = {kept_memory.numbers,
	kept_memory.numbers + kept_size};
	GlobalPass	pass;
	GlobalPass	kept;
	real		loss;
	real		kept_loss;
	bool		same;

	for (int l = 1; l < shape->global_layers; l++)
	{
		size_t		count = (size_t) n * kernel_stride(shape->global_width[l]);

		h_memory[l] = moved(count, NULL);
		delta_memory[l] = moved(count, NULL);
		h[l] = h_memory[l].numbers;
		delta[l] = delta_memory[l].numbers;
	}
	global_pass_take(&pass, shape, n, &arena);
	global_pass_take_kept(&kept, shape, n, h, delta, &kept_arena);
	loss = network_forward(network, embedding, rows, 0.7, &pass,
						   scratch.numbers);
	kept_loss = network_forward(network, embedding, rows, 0.7, &kept,
								scratch.numbers);
	same = same_bits(n, score, pass.score) &&
		same_bits(n, score, kept.score) &&
		same_bits(n, pass.residual, kept.residual) &&
		same_bits(1, &loss, &kept_loss);

	free(memory.memory);
	free(kept_memory.memory);
	free(scratch.memory);
	for (int l = 1; l < shape->global_layers; l++)
	{
		free(h_memory[l].memory);
		free(delta_memory[l].memory);
	}
	return same;
}

/*
 * Scores of many rows from z, from their halves and by a training pass, all at
 * once, one by one and in random blocks: at whatever place.
 */
static bool
test_scores(const Loaded *loaded, const LoadedTask *task,
			const real *embedding)
{
	const Network *network = &loaded->network;
	const NetworkShape *shape = &network->shape;
	int			n = task->query.n;
	int			dz = network_candidate_size(shape);
	int			ldz = dz + random_below(&random_state, 3);
	Moved		entity = moved(network_entity_size(shape), NULL);
	Moved		z = moved((size_t) n * ldz, NULL);
	Moved		halves = moved((size_t) n * network_half_size(shape),
							   task->query.half);
	Moved		offset = moved(n, task->query.offset);
	Moved		score = moved(n, NULL);
	Moved		by_half = moved(n, NULL);
	Moved		memory = moved(network_score_size(shape, n), NULL);
	Rows		rows = task->query;
	bool		same = true;

	rows.half = halves.numbers;
	rows.offset = task->query.offset ? offset.numbers : NULL;
	for (int i = 0; i < n; i++)
		memcpy(z.numbers + (size_t) i * ldz, task->query_z + (size_t) i * dz,
			   dz * sizeof(real));
	network_entity(network, embedding, entity.numbers);
	network_score(network, entity.numbers, n, z.numbers, ldz, rows.offset,
				  memory.numbers, score.numbers);
	network_score_halves(network, entity.numbers, n, rows.half, rows.offset,
						 memory.numbers, by_half.numbers);
	for (int halved = 0; halved <= 1; halved++)
	{
		const real *from = halved ? NULL : z.numbers;
		const real *as = halved ? by_half.numbers : score.numbers;

		same &= same_scores(network, entity.numbers, &rows, from, ldz, n, n,
							as);
		same &= same_scores(network, entity.numbers, &rows, from, ldz, 1, 1,
							as);
		same &= same_scores(network, entity.numbers, &rows, from, ldz, 1, n,
							as);
	}
	same &= same_pass(network, embedding, &rows, by_half.numbers);

	/* the factor part is summed in another order */
	if (shape->factor_size == 0)
		same &= same_bits(n, score.numbers, by_half.numbers);
	for (int i = 0; i < n; i++)
		same &= relative_error(score.numbers[i], by_half.numbers[i], 1) <
			CLOSE || !isfinite(by_half.numbers[i]);

	/* and what is predicted from them */
	memcpy(memory.numbers, score.numbers, n * sizeof(real));
	network_predict(network, n, score.numbers);
	for (int i = 0; i < n; i++)
		network_predict(network, 1, memory.numbers + i);
	same &= same_bits(n, score.numbers, memory.numbers);

	free(entity.memory);
	free(z.memory);
	free(halves.memory);
	free(offset.memory);
	free(score.memory);
	free(by_half.memory);
	free(memory.memory);
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
	elsewhere->network.kernels = loaded->network.kernels;
}

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

	memory = moved(adapt_size(shape, 1, most), NULL);
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

	for (int i = 0; i < TOGETHER; i++)
		changes->together += !test_together(&loaded, changes);

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
	/* rows for some of the blocks that candidates are scored in */
	static const ProblemLimits limits = {4, 70, 90, 6};
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
			if (changes.halves + changes.embeddings + changes.scores +
				changes.together > before.halves + before.embeddings +
				before.scores + before.together)
				note("seed %d: %s", seed, problem_describe(&problem));
			problem_free(&problem);
		}
		check(changes.halves == 0, "candidate halves on %s: whatever the "
			  "block and the place (seeds 1 ... %d)", kernels, seeds);
		check(changes.embeddings == 0 && changes.adapted > 0,
			  "%d embeddings on %s: whatever the company and the place",
			  changes.adapted, kernels);
		check(changes.together == 0 && changes.diverged > 0,
			  "and side by side on %s, %d of them diverging", kernels,
			  changes.diverged);
		check(changes.scores == 0, "scores on %s: of one row as of many, "
			  "in whatever blocks, from z or halves or a pass", kernels);
	}
	return check_end();
}
