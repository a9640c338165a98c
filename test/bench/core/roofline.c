/*
 * roofline.c
 *	  Each kernel alone, beside what the processor's multiply-adds and its
 *	  caches allow.
 *
 *		roofline [small|large]
 *
 * Prints one line of what the processor does at best,
 *
 *		roof KERNELS GFLOP/s L1-GB/s L2-GB/s
 *
 * and one line per kernel and number of rows,
 *
 *		KERNEL ROWS FLOPS BYTES L1|L2 GFLOP/s ROOF
 *
 * Both counts follow from what a kernel is defined to do: a multiplication, an
 * addition or a division is one, a comparison none, and the functions beside
 * products count as many as the series in kernel_body.h have; a number that is
 * read or written is four bytes once, however often a kernel comes back to it.
 * ROOF is what these allow: as many GFLOP/s as multiply-adds alone reach, or as
 * come with the bytes that the cache delivers in which all of them fit.
 *
 * The kernels are timed in turns; the median of 15 timings counts.  The
 * environment variable LIMAML_KERNELS forces an instruction set.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "math/kernel.h"
#include "math/random.h"
#include "peak.h"

#define TIMINGS 15
#define SECONDS_PER_TIMING 0.004
#define TERMS 4					/* pairs: an entity's after four steps */

/* Operations per number, as kernel_body.h forms them. */
#define TANH_FLOPS 26
#define LOSS_FLOPS 53
#define SIGMOID_FLOPS 26

/* What a kernel is given: the widths of a layer, and all there may be of it. */
typedef struct Layer
{
	const Kernels *kernels;
	int			n;
	int			inner;
	int			width;
	real	   *a;				/* n x inner, 0 on average */
	real	   *w;				/* inner x width */
	real	   *back;			/* width x inner */
	real	   *row;			/* the longer of both */
	real	   *h;				/* n x width, half of it positive */
	real	   *out;			/* n x the longer */
	real	   *zeros;			/* inner */
	real	   *u;				/* n x width, and what comes after it */
	real	   *next;
	uint64_t   *mask;			/* of a */
	real	   *sum;			/* the longer */
	real	   *score;			/* n each */
	real	   *label;
	real	   *residual;
} Layer;

static void
run_multiply(const Layer *x)
{
	x->kernels->multiply(x->n, x->inner, x->width, x->a, x->inner, x->w,
						 x->row, x->out);
}

static void
run_layer(const Layer *x)
{
	x->kernels->layer(ACTIVATION_RELU, x->n, x->inner, x->width, x->a,
					  x->inner, x->w, x->row, NULL, x->out);
}

static void
run_layer_tanh(const Layer *x)
{
	x->kernels->layer(ACTIVATION_TANH, x->n, x->inner, x->width, x->a,
					  x->inner, x->w, x->row, NULL, x->out);
}

static void
run_layer_back(const Layer *x)
{
	x->kernels->layer_back(ACTIVATION_RELU, x->n, x->width, x->inner, x->h,
						   x->width, x->back, NULL, x->a, NULL, x->out,
						   x->sum);
}

static void
run_layer_back_sum(const Layer *x)
{
	x->kernels->layer_back_sum(x->n, x->width, x->inner, x->h, x->width, x->w,
							   x->a, x->inner, x->sum);
}

static void
run_masked_layer(const Layer *x)
{
	x->kernels->masked_layer(x->n, x->inner, x->width, x->a, x->inner, x->sum,
							 x->w, x->h, NULL, x->out);
}

/* No unit flips after the first time: what it takes at the least. */
static void
run_shift_layers(const Layer *x)
{
	x->kernels->shift_layers(x->n, x->inner, x->width, x->a, x->inner,
							 x->zeros, x->zeros, x->w, x->row, x->mask, x->out,
							 x->u, x->next);
}

static void
run_layer_tangent(const Layer *x)
{
	x->kernels->layer_tangent(ACTIVATION_RELU, x->n, x->inner, x->width, x->a,
							  x->inner, x->w, NULL, x->h, NULL, x->out);
}

static void
run_layer_back_tangent(const Layer *x)
{
	x->kernels->layer_back_tangent(ACTIVATION_RELU, x->n, x->width, x->inner,
								   x->h, x->width, x->back, NULL, x->a, NULL,
								   NULL, 0, NULL, x->out, x->sum);
}

static void
run_first_layer(const Layer *x)
{
	x->kernels->first_layer(ACTIVATION_RELU, x->n, x->inner, x->a, x->inner,
							x->row, NULL, x->out);
}

static void
run_last_layer(const Layer *x)
{
	x->kernels->last_layer(x->n, x->width, x->h, x->row, 0, NULL, 0, NULL, 0,
						   NULL, x->score);
}

static void
run_last_layer_back(const Layer *x)
{
	x->kernels->last_layer_back(ACTIVATION_RELU, x->n, x->width, x->label,
								x->row, NULL, x->h, NULL, x->out, x->sum);
}

static void
run_losses(const Layer *x)
{
	x->kernels->losses(LOSS_BINARY, x->n, 0.1, x->a, x->label, NULL,
					   x->residual, NULL);
}

static void
run_sigmoid(const Layer *x)
{
	x->kernels->sigmoid(x->n, x->a, x->residual);
}

static void
run_add_pairs(const Layer *x)
{
	/* of a tiny rate, or what they are added to would not stay finite */
	x->kernels->add_pairs(TERMS, 1e-9, x->inner, x->w, x->inner, x->a, NULL,
						  x->width, x->back, x->width, x->sum);
}

static void
run_activate(const Layer *x)
{
	x->kernels->activate(ACTIVATION_TANH, x->n, x->inner, x->a, x->out);
}

static void
run_sum_rows(const Layer *x)
{
	x->kernels->sum_rows(x->n, x->inner, NULL, x->a, x->inner, x->sum);
}

/*
 * Flops are a for each product of a row and the weights, b for each number of
 * a row of in_width; bytes count numbers in that many rows of each width, in
 * single rows, in a score per row, and in the weights.
 */
typedef struct Kernel
{
	const char *name;
	void		(*run) (const Layer *layer);
	bool		alone;			/* it is of one row only */
	double		per_weight;
	double		per_inner;
	double		per_width;
	double		per_row;
	int			inner_rows;		/* numbers */
	int			width_rows;
	int			inner_once;
	int			width_once;
	int			scores;
	bool		weights;
} Kernel;

static const Kernel kernels[] = {
	{"multiply", run_multiply,
		.per_weight = 2, .inner_rows = 1, .width_rows = 1, .width_once = 1,
		.weights = true},
	{"layer", run_layer,
		.per_weight = 2, .inner_rows = 1, .width_rows = 1, .width_once = 1,
		.weights = true},
	{"layer_tanh", run_layer_tanh,
		.per_weight = 2, .per_width = TANH_FLOPS, .inner_rows = 1,
		.width_rows = 1, .width_once = 1, .weights = true},
	{"layer_back", run_layer_back,
		.per_weight = 2, .per_inner = 1, .inner_rows = 2, .width_rows = 1,
		.inner_once = 1, .weights = true},
	{"layer_back_sum", run_layer_back_sum,
		.per_weight = 2, .per_inner = 1, .inner_rows = 1, .width_rows = 1,
		.inner_once = 1, .weights = true},
	{"masked_layer", run_masked_layer,
		.per_weight = 2, .inner_rows = 1, .width_rows = 2, .inner_once = 1,
		.weights = true},
	{"shift_layers", run_shift_layers,
		.per_weight = 2, .per_inner = 1, .inner_rows = 2, .width_rows = 2,
		.inner_once = 2, .width_once = 1, .weights = true},
	{"layer_tangent", run_layer_tangent,
		.per_weight = 2, .inner_rows = 1, .width_rows = 2, .weights = true},
	{"layer_back_tangent", run_layer_back_tangent,
		.per_weight = 2, .per_inner = 1, .inner_rows = 2, .width_rows = 1,
		.inner_once = 1, .weights = true},
	{"first_layer", run_first_layer,
		.per_inner = 1, .inner_rows = 2, .inner_once = 1},
	{"last_layer", run_last_layer,
		.per_width = 2, .width_rows = 1, .width_once = 1, .scores = 1},
	{"last_layer_back", run_last_layer_back,
		.per_width = 2, .width_rows = 2, .width_once = 2, .scores = 1},
	{"activate_tanh", run_activate,
		.per_inner = TANH_FLOPS, .inner_rows = 2},
	{"losses", run_losses,
		.per_row = LOSS_FLOPS, .scores = 3},
	{"sigmoid", run_sigmoid,
		.per_row = SIGMOID_FLOPS, .scores = 2},
	{"sum_rows", run_sum_rows,
		.per_inner = 1, .inner_rows = 1, .inner_once = 1},
	{"add_pairs", run_add_pairs,
		.alone = true, .per_inner = 2 * TERMS, .per_width = 2 * TERMS,
		.inner_rows = TERMS, .width_rows = TERMS, .inner_once = 1,
		.width_once = 2},
};

#define KERNELS ((int) (sizeof(kernels) / sizeof(kernels[0])))

static double
flops(const Kernel *k, const Layer *x)
{
	return x->n * (k->per_weight * x->inner * x->width +
				   k->per_inner * x->inner + k->per_width * x->width +
				   k->per_row);
}

static double
bytes(const Kernel *k, const Layer *x)
{
	return sizeof(real) * ((double) x->n *
						   (k->inner_rows * x->inner +
							k->width_rows * x->width + k->scores) +
						   k->inner_once * x->inner +
						   k->width_once * x->width +
						   (k->weights ? (double) x->inner * x->width : 0));
}

/* Zeros, on a cache line. */
static real *
reals(size_t n)
{
	size_t		size = (n * sizeof(real) + 63) / 64 * 64;
	real	   *numbers = aligned_alloc(64, size);

	if (numbers == NULL)
	{
		fputs("roofline: out of memory\n", stderr);
		exit(2);
	}
	memset(numbers, 0, size);
	return numbers;
}

static real *
normals(size_t n, Random *random)
{
	real	   *numbers = reals(n);

	for (size_t i = 0; i < n; i++)
		numbers[i] = random_normal(random);
	return numbers;
}

static double
seconds(const Kernel *k, const Layer *x, long calls)
{
	double		start = cpu_seconds();

	for (long i = 0; i < calls; i++)
		k->run(x);
	return cpu_seconds() - start;
}

static int
by_size(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static long
cache_size(int name, long otherwise)
{
	long		size = sysconf(name);

	return size > 0 ? size : otherwise;
}

int
main(int argc, char **argv)
{
	Layer		layer = {.n = 32, .inner = 64, .width = 32};
	long		l1 = cache_size(_SC_LEVEL1_DCACHE_SIZE, 32 * 1024);
	long		l2 = cache_size(_SC_LEVEL2_CACHE_SIZE, 512 * 1024);
	long		l2_block;
	double		peak,
				l1_bandwidth,
				l2_bandwidth;
	real	   *memory;
	Layer		layers[2];
	long		calls[2 * KERNELS];
	double		timings[2 * KERNELS][TIMINGS];
	Random		random;
	int			most;

	if (argc == 2 && strcmp(argv[1], "large") == 0)
		layer = (Layer) {.n = 64, .inner = 256, .width = 128};
	else if (argc > 2 || (argc == 2 && strcmp(argv[1], "small") != 0))
	{
		fputs("usage: roofline [small|large]\n", stderr);
		return 2;
	}

	random_seed(&random, 1);
	most = layer.inner > layer.width ? layer.inner : layer.width;
	layer.kernels = kernels_for_processor();
	layer.a = normals((size_t) layer.n * layer.inner, &random);
	layer.w = normals((size_t) layer.inner * layer.width, &random);
	layer.back = normals((size_t) layer.inner * layer.width, &random);
	layer.row = normals(most, &random);
	layer.h = normals((size_t) layer.n * layer.width, &random);
	layer.out = reals((size_t) layer.n * most);
	layer.sum = reals(most);
	layer.zeros = reals(layer.inner);
	layer.u = reals((size_t) layer.n * layer.width);
	layer.next = reals((size_t) layer.n * layer.width);
	layer.mask = calloc((size_t) layer.n * kernel_masks(layer.inner),
						sizeof(uint64_t));
	if (layer.mask == NULL)
	{
		fputs("roofline: out of memory\n", stderr);
		return 2;
	}
	layer.score = reals(layer.n);
	layer.label = reals(layer.n);
	layer.residual = reals(layer.n);
	for (int i = 0; i < layer.n; i++)
		layer.label[i] = i % 2;
	layers[0] = layers[1] = layer;
	layers[0].n = 1;

	/* half of a cache, or what else is in it would push some out */
	l2_block = l2 / 2 < 4 * l1 ? l2 / 2 : 4 * l1;
	memory = reals((l1 > l2_block ? l1 : l2_block) / sizeof(real));
	peak = peak_gflops(layer.kernels->name);
	l1_bandwidth = peak_bandwidth(layer.kernels->name, memory, l1 / 2);
	l2_bandwidth = peak_bandwidth(layer.kernels->name, memory,
								  l2_block);
	printf("roof %s %.1f %.1f %.1f\n", layer.kernels->name, peak,
		   l1_bandwidth, l2_bandwidth);

	for (int i = 0; i < 2 * KERNELS; i++)
		for (calls[i] = 1; seconds(&kernels[i / 2], &layers[i % 2], calls[i]) <
			 SECONDS_PER_TIMING; calls[i] *= 2);
	for (int t = 0; t < TIMINGS; t++)
		for (int i = 0; i < 2 * KERNELS; i++)
			timings[i][t] = seconds(&kernels[i / 2], &layers[i % 2],
									calls[i]) / calls[i];

	for (int i = 0; i < 2 * KERNELS; i++)
	{
		const Kernel *k = &kernels[i / 2];
		const Layer *x = &layers[i % 2];
		bool		in_l1 = bytes(k, x) <= l1;
		double		by_bytes = flops(k, x) / bytes(k, x) *
			(in_l1 ? l1_bandwidth : l2_bandwidth);

		if (x->n > 1 && k->alone)
			continue;
		qsort(timings[i], TIMINGS, sizeof(double), by_size);
		printf("%s %d %.0f %.0f %s %.2f %.2f\n", k->name, x->n, flops(k, x),
			   bytes(k, x), in_l1 ? "L1" : "L2",
			   flops(k, x) / timings[i][TIMINGS / 2] * 1e-9,
			   by_bytes < peak ? by_bytes : peak);
	}
	return 0;
}
