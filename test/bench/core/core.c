/*
 * core.c
 *	  The numeric core against the clock: no server, one processor.
 *
 *		core adapt|score|block|train [small|large] [--factor]
 *
 *		adapt	five inner steps for entities one after another, their rows'
 *				candidate halves included	-> entities per second
 *		score	candidates one at a time, from features to probability
 *											-> nanoseconds per row
 *		block	the same in blocks of 1,024	-> nanoseconds per row
 *		train	second-order meta-gradient, a batch of 64 tasks, the query
 *				rows as many as the support rows	-> tasks per second
 *
 * The environment variable LIMAML_KERNELS forces an instruction set.  Prints,
 * in one line: kernels, value, GFLOP/s and the share of the processor's peak
 * on that instruction set, the median of 7 timings.  Work is counted as
 * written (2 per multiply-add of the products that the method needs once the
 * candidate half is kept), not as executed.
 *
 * With --factor two networks take turns, of which the second has half of its
 * embedding as factor part.  That prints: kernels, both values, and the time of
 * the second over the first's, the median of 25 neighbours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "math/gradient.h"
#include "peak.h"

#define BATCH 64

/* Rows that train together, as in a server's batch. */
#define TILE_ROWS 256
#define BLOCK 1024
#define TIMINGS 7
#define SECONDS_PER_TIMING 0.3
#define TURNS 25
#define SECONDS_PER_TURN 0.1

typedef struct Work
{
	NetworkShape shape;
	Network		network;
	int			rows;			/* of support, and of query */
	real	   *parameters;
	real	   *packed;
	real	   *x;				/* BATCH x dx */
	real	   *z;				/* BATCH x rows x dz, and at least BLOCK */
	real	   *label;			/* BATCH x rows */
	real	   *half;			/* of a batch's rows, twice */
	real	   *half_gradient;
	real	   *z_gradient;
	real	   *x_gradient;
	real	   *gradient;
	real	   *memory;
	real	   *candidate;		/* of gradient_candidate */
	real	   *embedding;		/* BATCH x E */
	real	   *score;			/* BLOCK */
} Work;

static const NetworkShape small = {
	.activation = ACTIVATION_RELU,
	.meta_layers = 3,
	.meta_width = {32, 64, 32, 16},
	.global_layers = 3,
	.global_width = {16 + 32, 64, 32, 1},
	.steps = 5
};

static const NetworkShape large = {
	.activation = ACTIVATION_RELU,
	.meta_layers = 3,
	.meta_width = {128, 256, 128, 64},
	.global_layers = 4,
	.global_width = {64 + 256, 256, 128, 64, 1},
	.steps = 5
};

static real *
reals(size_t n)
{
	real	   *numbers = malloc((n + 2 * KERNEL_PAD) * sizeof(real));
	Arena		arena = {numbers, numbers + n + 2 * KERNEL_PAD};

	if (numbers == NULL)
	{
		fputs("core: out of memory\n", stderr);
		exit(2);
	}
	return arena_take(&arena, n);
}

static real *
normals(size_t n, Random *random)
{
	real	   *numbers = reals(n);

	for (size_t i = 0; i < n; i++)
		numbers[i] = random_normal(random);
	return numbers;
}

/*
 * As the peer draws: weights N(0, 2 / fan in), biases N(0, 0.01); and the factor
 * map, which it has not, as a new network's (network_initialize).
 */
static void
draw_parameters(Work *work, Random *random)
{
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	int			count = network_tensors(&work->shape, tensors);

	work->parameters = normals(network_parameter_count(&work->shape), random);
	for (int t = 0; t < count; t++)
	{
		real		scale = tensors[t].dimensions == 2 ?
			sqrt(2.0 / tensors[t].columns) : 0.1;

		for (int i = 0; i < tensors[t].rows * tensors[t].columns; i++)
		{
			real	   *number = &work->parameters[tensors[t].offset + i];

			if (t == FACTOR_WEIGHT(&work->shape))
				scale = NETWORK_FACTOR_SCALE;
			*number = t == INNER_RATE(&work->shape) ? 0.1 : *number * scale;
		}
	}
}

static void
prepare(Work *work)
{
	const NetworkShape *shape = &work->shape;
	int			dz = network_candidate_size(shape);
	int			all = BATCH * work->rows;
	size_t		half = (size_t) 2 * all * network_half_size(shape);
	size_t		memory = gradient_size(shape, work->rows, work->rows);
	size_t		others[] = {adapt_size(shape, ADAPT_TOGETHER, work->rows),
	network_score_size(shape, BLOCK)};
	Random		random;

	random_seed(&random, 1);
	draw_parameters(work, &random);
	work->packed = reals(network_packed_size(shape));
	network_pack(&work->network, shape, work->parameters, work->packed);
	work->x = normals((size_t) BATCH * shape->meta_width[0], &random);
	work->z = normals((size_t) 2 * (all > BLOCK ? all : BLOCK) * dz, &random);
	work->label = reals(2 * all);
	for (int i = 0; i < 2 * all; i++)
		work->label[i] = random_below(&random, 2);
	work->half = reals(half);
	work->half_gradient = reals(half);
	work->z_gradient = reals((size_t) 2 * all * dz);
	work->x_gradient = reals((size_t) BATCH * shape->meta_width[0]);
	work->gradient = reals(network_parameter_count(shape));
	memset(work->x_gradient, 0, BATCH * shape->meta_width[0] * sizeof(real));
	memset(work->gradient, 0, network_parameter_count(shape) * sizeof(real));
	for (int i = 0; i < 2; i++)
		memory = others[i] > memory ? others[i] : memory;
	work->memory = reals(memory);
	work->candidate = reals(gradient_candidate_size(shape));
	work->embedding = normals((size_t) BATCH * network_embedding_size(shape),
							  &random);
	work->score = reals(BLOCK);
}

/* Products of the layers `from` ... of a chain, once forwards or backwards. */
static double
products(int from, int layers, const int *width)
{
	double		flops = 0;

	for (int l = from; l < layers; l++)
		flops += 2.0 * width[l] * width[l + 1];
	return flops;
}

/* Returns how much it has done. */
typedef double (*Job) (Work *work, double *flops);

static double
job_adapt(Work *work, double *flops)
{
	const NetworkShape *shape = &work->shape;
	const Network *network = &work->network;
	int			n = work->rows;
	int			dz = network_candidate_size(shape);
	int			diverged = 0;

	for (int b = 0; b < BATCH; b += ADAPT_TOGETHER)
	{
		int			count = BATCH - b < ADAPT_TOGETHER ? BATCH - b :
			ADAPT_TOGETHER;
		const real *x[ADAPT_TOGETHER];
		Rows		rows[ADAPT_TOGETHER];
		real	   *embedding[ADAPT_TOGETHER];
		Adaptation	result[ADAPT_TOGETHER];

		for (int i = 0; i < count; i++)
		{
			x[i] = work->x + (b + i) * shape->meta_width[0];
			rows[i] = (Rows)
			{
				.n = n,
				.half = work->half + (size_t) i * n *
					network_half_size(shape),
				.label = work->label + (b + i) * n
			};
			embedding[i] = work->embedding +
				(b + i) * network_embedding_size(shape);
		}
		network_candidate_half(network, count * n,
							   work->z + (size_t) b * n * dz, dz, work->half);
		adapt_together(network, count, x, rows, work->memory, embedding,
					   result);
		for (int i = 0; i < count; i++)
			diverged += result[i].diverged_at > 0;
	}
	if (diverged > 0)
	{
		fprintf(stderr, "core: %d entities diverged\n", diverged);
		exit(1);
	}
	*flops = n * 2.0 * dz * (shape->global_width[1] + shape->factor_size) +
		shape->steps * 2 *
		(products(0, shape->meta_layers, shape->meta_width) +
		 2.0 * network_concatenated_size(shape) * shape->global_width[1] +
		 n * (products(1, shape->global_layers, shape->global_width) +
			  2.0 * shape->factor_size));
	return BATCH;
}

static double
score_flops(const Work *work)
{
	const NetworkShape *shape = &work->shape;

	return products(1, shape->global_layers, shape->global_width) +
		2.0 * network_candidate_size(shape) *
		(shape->global_width[1] + shape->factor_size) +
		2.0 * shape->factor_size;
}

/* Scores BLOCK rows of one entity, `step` at a time. */
static double
score(Work *work, int step)
{
	const NetworkShape *shape = &work->shape;
	int			dz = network_candidate_size(shape);
	real	   *entity = work->half;

	network_entity(&work->network, work->embedding, entity);
	for (int i = 0; i < BLOCK; i += step)
		network_score(&work->network, entity, step,
					  work->z + (size_t) i * dz, dz, NULL, work->memory,
					  work->score + i);
	return BLOCK;
}

static double
job_score(Work *work, double *flops)
{
	*flops = score_flops(work);
	return score(work, 1);
}

static double
job_block(Work *work, double *flops)
{
	*flops = score_flops(work);
	return score(work, BLOCK);
}

static double
job_train(Work *work, double *flops)
{
	const NetworkShape *shape = &work->shape;
	const Network *network = &work->network;
	const OuterLoss outer = {.order = 2, .scale = 1.0 / (BATCH * work->rows)};
	int			n = work->rows;
	int			tasks = TILE_ROWS / (2 * n);
	int			dz = network_candidate_size(shape);
	size_t		half = network_half_size(shape);
	double		first = n * 2.0 * dz *
		(shape->global_width[1] + shape->factor_size);
	double		rest = n * products(1, shape->global_layers,
									shape->global_width);

	/* each task's query rows follow its support rows */
	gradient_candidate_begin(network, work->candidate);
	for (int b = 0; b < BATCH; b += tasks)
	{
		size_t		begin = (size_t) 2 * b * n;

		network_candidate_half(network, 2 * n * tasks, work->z + begin * dz,
							   dz, work->half);
		for (int t = 0; t < tasks; t++)
		{
			size_t		at = (size_t) 2 * t * n;
			Task		task = {
				.x = work->x + (b + t) * shape->meta_width[0],
				.support = {
					.n = n,
					.half = work->half + at * half,
					.label = work->label + begin + at
				},
				.query = {
					.n = n,
					.half = work->half + (at + n) * half,
					.label = work->label + begin + at + n
				},
				.x_gradient = work->x_gradient +
				(b + t) * shape->meta_width[0],
				.support_half_gradient = work->half_gradient + at * half,
				.query_half_gradient = work->half_gradient + (at + n) * half
			};

			gradient_task(network, &outer, &task, work->memory,
						  work->gradient);
		}
		gradient_candidate(network, 2 * n * tasks, work->z + begin * dz,
						   work->half_gradient, work->candidate,
						   work->gradient, work->z_gradient + begin * dz);
	}
	gradient_candidate_end(network, work->candidate, work->gradient);

	/*
	 * The candidate halves forwards and backwards to C_z, of both kinds of
	 * rows; the query rows forwards, backwards and to the weights; a step
	 * forwards and backwards, and its tangent forwards, backwards and twice
	 * to the weights.
	 */
	*flops = 4 * first + 3 * rest + shape->steps * 6 * rest;
	return BATCH;
}

typedef struct JobKind
{
	const char *name;
	Job			job;
	bool		per_second;
} JobKind;

/* What the job takes for each of what it does. */
static double
seconds_each(const JobKind *kind, Work *work, double at_least, double *flops)
{
	double		start = cpu_seconds();
	double		done = 0;

	do
		done += kind->job(work, flops);
	while (cpu_seconds() - start < at_least);
	return (cpu_seconds() - start) / done;
}

static int
by_size(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
median(int n, double *numbers)
{
	qsort(numbers, n, sizeof(double), by_size);
	return numbers[n / 2];
}

static void
print_value(const JobKind *kind, double seconds)
{
	if (kind->per_second)
		printf(" %.0f", 1 / seconds);
	else
		printf(" %.1f", seconds * 1e9);
}

static void
time_alone(const JobKind *kind, Work *work)
{
	double		seconds[TIMINGS];
	double		flops;
	double		each;

	for (int t = 0; t < TIMINGS; t++)
		seconds[t] = seconds_each(kind, work, SECONDS_PER_TIMING, &flops);
	each = median(TIMINGS, seconds);
	print_value(kind, each);
	printf(" %.1f %.3f", flops / each * 1e-9,
		   flops / each * 1e-9 / peak_gflops(work->network.kernels->name));
}

static void
time_in_turns(const JobKind *kind, Work *plain, Work *factor)
{
	double		without[TURNS];
	double		with[TURNS];
	double		ratio[TURNS];
	double		flops;

	for (int t = 0; t < TURNS; t++)
	{
		without[t] = seconds_each(kind, plain, SECONDS_PER_TURN, &flops);
		with[t] = seconds_each(kind, factor, SECONDS_PER_TURN, &flops);
		ratio[t] = with[t] / without[t];
	}
	print_value(kind, median(TURNS, without));
	print_value(kind, median(TURNS, with));
	printf(" %.4f", median(TURNS, ratio));
}

int
main(int argc, char **argv)
{
	static const JobKind kinds[] = {
		{"adapt", job_adapt, true},
		{"score", job_score, false},
		{"block", job_block, false},
		{"train", job_train, true}
	};
	const JobKind *kind = NULL;
	bool		in_turns = false;
	bool		understood = true;
	Work		work = {.shape = small, .rows = 32};
	Work		factor;
	double		flops;

	for (int i = 0; argc > 1 && i < 4; i++)
		if (strcmp(argv[1], kinds[i].name) == 0)
			kind = &kinds[i];
	for (int a = 2; a < argc; a++)
		if (strcmp(argv[a], "large") == 0)
		{
			work.shape = large;
			work.rows = 64;
		}
		else if (strcmp(argv[a], "--factor") == 0)
			in_turns = true;
		else if (strcmp(argv[a], "small") != 0)
			understood = false;
	if (kind == NULL || !understood)
	{
		fputs("usage: core adapt|score|block|train [small|large] [--factor]\n",
			  stderr);
		return 2;
	}

	factor = work;
	prepare(&work);
	kind->job(&work, &flops);
	printf("%s", work.network.kernels->name);
	if (in_turns)
	{
		factor.shape.factor_size = network_embedding_size(&work.shape) / 2;
		factor.shape.global_width[0] -= factor.shape.factor_size;
		prepare(&factor);
		kind->job(&factor, &flops);
		time_in_turns(kind, &work, &factor);
	}
	else
		time_alone(kind, &work);
	putchar('\n');
	return 0;
}
