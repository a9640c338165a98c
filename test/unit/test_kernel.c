/*
 * test_kernel.c
 *	  Every kernel of every path against its definition in long double, at
 *	  any alignment and for any number of rows; tanh against libm; BLAS.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "math/blas.h"
#include "math/random.h"

/* Room around an array, so that it can begin anywhere and be overrun. */
#define MARGIN 32

static const Kernels *kernels;
static Random random_state;

/* n numbers in fresh memory that begin `shift` numbers after an aligned one. */
typedef struct Array
{
	real	   *memory;
	real	   *numbers;
	size_t		n;
} Array;

static Array
array_of(size_t n, double scale, int shift)
{
	Array		array = {.n = n};

	if (posix_memalign((void **) &array.memory, 64,
					   (n + 2 * MARGIN) * sizeof(real)) != 0)
		abort();
	memset(array.memory, 0xff, (n + 2 * MARGIN) * sizeof(real));
	array.numbers = array.memory + shift;
	for (size_t i = 0; i < n; i++)
		array.numbers[i] = scale * random_normal(&random_state);
	return array;
}

/* Whether nothing was written after the array. */
static bool
array_intact(const Array *array)
{
	for (size_t i = 0; i < MARGIN; i++)
		if (!isnan(array->numbers[array->n + i]))
			return false;
	return true;
}

static bool
same_bits(size_t n, const real *a, const real *b)
{
	return memcmp(a, b, n * sizeof(real)) == 0;
}

static int
draw(int n)
{
	return random_below(&random_state, n);
}

/*
 * The worst error of sums, as a share of what rounding of this many terms may
 * do.
 */
static void
add_error(double *worst, real got, long double expected,
		  long double magnitude, int terms)
{
	double		tolerated = (terms + 2) * REAL_EPSILON * magnitude;
	double		error = fabsl(got - expected);

	if (got == expected)
		return;
	error = isnan(error) ? INFINITY : error / tolerated;
	if (error > *worst)
		*worst = error;
}

static void
test_multiply(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 400; trial++)
	{
		int			n = draw(20);
		int			inner = draw(40);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			lda = draw(8) == 0 ? 0 : inner + draw(5);
		Array		a = array_of((size_t) (n > 0 ? (n - 1) * lda + inner : 0), 1,
								 draw(KERNEL_PAD));
		Array		b = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		bias = array_of(width, 1, draw(KERNEL_PAD));
		Array		c = array_of((size_t) n * width, 1, draw(KERNEL_PAD));
		Array		row = array_of(width, 1, draw(KERNEL_PAD));
		bool		biased = draw(2);

		kernels->multiply(n, inner, width, a.numbers, lda, b.numbers,
						  biased ? bias.numbers : NULL, c.numbers);
		for (int i = 0; i < n; i++)
		{
			for (int j = 0; j < width; j++)
			{
				long double sum = biased ? bias.numbers[j] : 0;
				long double magnitude = fabsl(sum);

				for (int k = 0; k < inner; k++)
				{
					long double term = (long double) a.numbers[i * lda + k] *
						b.numbers[kernel_weight(inner, width, k, j)];

					sum += term;
					magnitude += fabsl(term);
				}
				add_error(&worst, c.numbers[(size_t) i * width + j], sum,
						  magnitude, inner);
			}

			/* the row alone, wherever its result goes */
			kernels->multiply(1, inner, width, a.numbers + i * lda, lda,
							  b.numbers, biased ? bias.numbers : NULL,
							  row.numbers);
			broken += !same_bits(width, row.numbers,
								 c.numbers + (size_t) i * width);
		}
		broken += !array_intact(&c) + !array_intact(&row);
		free(a.memory);
		free(b.memory);
		free(bias.memory);
		free(c.memory);
		free(row.memory);
	}
	check(worst <= 1, "multiply on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
	check(broken == 0, "multiply on %s: a row's bits are its own",
		  kernels->name);
}

static void
test_sums(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 400; trial++)
	{
		int			n = draw(12);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			lda = draw(8) == 0 ? 0 : width + draw(5);
		size_t		a_count = n > 0 ? (size_t) (n - 1) * lda + width : 0;
		Array		a = array_of(a_count, 1, draw(KERNEL_PAD));
		Array		x = array_of(width, 1, draw(KERNEL_PAD));
		Array		y = array_of(width, 1, draw(KERNEL_PAD));
		Array		weight = array_of(n, 1, draw(KERNEL_PAD));
		Array		sum = array_of(width, 1, draw(KERNEL_PAD));
		bool		weighted = draw(2);
		real		scale = random_normal(&random_state);
		long double dot = 0;
		long double dot_size = 0;

		for (int j = 0; j < width; j++)
		{
			dot += (long double) x.numbers[j] * y.numbers[j];
			dot_size += fabsl((long double) x.numbers[j] * y.numbers[j]);
		}
		add_error(&worst, kernels->dot(width, x.numbers, y.numbers), dot,
				  dot_size, width);

		memcpy(sum.numbers, y.numbers, width * sizeof(real));
		kernels->add_scaled(width, scale, x.numbers, sum.numbers);
		for (int j = 0; j < width; j++)
			add_error(&worst, sum.numbers[j],
					  y.numbers[j] + (long double) scale * x.numbers[j],
					  fabsl(y.numbers[j]) + fabsl(scale * x.numbers[j]), 1);
		broken += !array_intact(&sum);

		kernels->sum_rows(n, width, weighted ? weight.numbers : NULL,
						  a.numbers, lda, sum.numbers);
		for (int j = 0; j < width; j++)
		{
			long double total = 0;
			long double size = 0;

			for (int i = 0; i < n; i++)
			{
				long double term = (weighted ? weight.numbers[i] : 1) *
					(long double) a.numbers[(size_t) i * lda + j];

				total += term;
				size += fabsl(term);
			}
			add_error(&worst, sum.numbers[j], total, size, n);
		}
		broken += !array_intact(&sum);
		free(a.memory);
		free(x.memory);
		free(y.memory);
		free(weight.memory);
		free(sum.memory);
	}
	check(worst <= 1, "sums on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
	check(broken == 0, "sums on %s: nothing is overrun",
		  kernels->name);
}

/* a, a', a'' of an activation. */
static long double
value_of(Activation activation, long double u)
{
	switch (activation)
	{
		case ACTIVATION_TANH:
			return tanhl(u);
		case ACTIVATION_RELU:
			return u > 0 ? u : 0;
		case ACTIVATION_GELU:
			return u * erfcl(-u / sqrtl(2)) / 2;
	}
	return NAN;
}

static long double
density(long double u)
{
	return expl(-u * u / 2) * 0.398942280401432677939946059934381868L;
}

static long double
slope_of(Activation activation, long double u)
{
	switch (activation)
	{
		case ACTIVATION_TANH:
			return 1 - tanhl(u) * tanhl(u);
		case ACTIVATION_RELU:
			return u > 0;
		case ACTIVATION_GELU:
			return erfcl(-u / sqrtl(2)) / 2 + u * density(u);
	}
	return NAN;
}

static long double
curvature_of(Activation activation, long double u)
{
	switch (activation)
	{
		case ACTIVATION_TANH:
			return -2 * tanhl(u) * (1 - tanhl(u) * tanhl(u));
		case ACTIVATION_RELU:
			return 0;
		case ACTIVATION_GELU:
			return (2 - u * u) * density(u);
	}
	return NAN;
}

/*
 * The elementwise kernels: values to a few units of u or 1, whichever is
 * larger, derivatives to a few of 1 (1 - h h cancels).
 */
static void
test_elementwise(Activation activation, const char *name)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 60; trial++)
	{
		int			n = draw(5);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		size_t		count = (size_t) n * width;
		int			ld_dot = draw(2) ? 0 : width;
		Array		u = array_of(count, 3, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		b = array_of(count, 1, draw(KERNEL_PAD));
		Array		b_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		u_dot = array_of(ld_dot == 0 ? (size_t) width : count, 1,
									 draw(KERNEL_PAD));
		Array		delta = array_of(count, 1, draw(KERNEL_PAD));
		Array		h_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_dot = array_of(count, 1, draw(KERNEL_PAD));

		kernels->activate(activation, n, width, u.numbers, h.numbers);
		kernels->backward(activation, n, width, u.numbers, h.numbers,
						  b.numbers, delta.numbers);
		kernels->tangent(activation, n, width, u.numbers, h.numbers,
						 u_dot.numbers, ld_dot, h_dot.numbers);
		kernels->backward_tangent(activation, n, width, u.numbers, h.numbers,
								  b.numbers, b_dot.numbers, u_dot.numbers,
								  ld_dot, delta_dot.numbers);
		for (size_t i = 0; i < count; i++)
		{
			long double ui = u.numbers[i];
			long double bi = b.numbers[i];
			long double b_doti = b_dot.numbers[i];
			long double u_doti = u_dot.numbers[ld_dot == 0 ? i % width : i];
			long double slope = slope_of(activation, ui);
			long double curvature = curvature_of(activation, ui);

			add_error(&worst, h.numbers[i], value_of(activation, ui),
					  fabsl(ui) > 1 ? fabsl(ui) : 1, 2);
			add_error(&worst, delta.numbers[i], bi * slope, fabsl(bi), 4);
			add_error(&worst, h_dot.numbers[i], u_doti * slope,
					  fabsl(u_doti), 4);
			add_error(&worst, delta_dot.numbers[i],
					  b_doti * slope + bi * curvature * u_doti,
					  fabsl(b_doti) + 2 * fabsl(bi * u_doti), 4);
		}
		broken += !array_intact(&h) + !array_intact(&delta) +
			!array_intact(&h_dot) + !array_intact(&delta_dot);
		free(u.memory);
		free(h.memory);
		free(b.memory);
		free(b_dot.memory);
		free(u_dot.memory);
		free(delta.memory);
		free(h_dot.memory);
		free(delta_dot.memory);
	}
	check(worst <= 1 && broken == 0,
		  "%s and its derivatives on %s: %.2g of the rounding error's bound",
		  name, kernels->name, worst);
}

/* One number through an activation. */
static real
activated(Activation activation, real u)
{
	real		in[KERNEL_PAD] = {u};
	real		out[KERNEL_PAD];

	kernels->activate(activation, 1, KERNEL_PAD, in, out);
	return out[0];
}

static const real special[] = {
	0.0, -0.0, 1e-20, -1e-20,
#ifdef LIMAML_DOUBLE
	0x1p-1074, -0x1p-1074, 0x1p-1022, 0x1.fffffp-1023, 0x1.fffffffffffffp1023,
#else
	0x1p-149f, -0x1p-149f, 0x1p-126f, 0x1.fffep-127f, 0x1.fffffep127f,
#endif
	1.0, -1.0, 1e4, -1e4, INFINITY, -INFINITY
};

/* In all activations padding is 0, and has to stay it. */
static void
test_special(void)
{
	int			broken = 0;

	for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
	{
		real		u = special[i];
		real		h = activated(ACTIVATION_TANH, u);

		if (fabsl(h - tanhl(u)) > 2 * REAL_EPSILON * fabsl(tanhl(u)) ||
			!signbit(h) != !signbit(u) ||
			activated(ACTIVATION_RELU, u) != (u > 0 ? u : 0))
		{
			note("of %g: tanh %g, relu %g", (double) u, (double) h,
				 (double) activated(ACTIVATION_RELU, u));
			broken++;
		}
		h = activated(ACTIVATION_GELU, u);
		if (isfinite(u) && !(fabs(h - (u > 0 ? u : 0)) < 0.2))
		{
			note("gelu of %g is %g", (double) u, (double) h);
			broken++;
		}
	}
	for (Activation a = ACTIVATION_TANH; a <= ACTIVATION_GELU; a++)
		broken += activated(a, 0) != 0;
	check(broken == 0, "zero, denormal, huge and infinite inputs on %s",
		  kernels->name);
}

static void
test_nan(Activation activation, const char *name)
{
	check(isnan(activated(activation, NAN)), "%s of NaN is NaN on %s", name,
		  kernels->name);
}

/* Distance in units of the expected number's last place. */
static double
units_off(real got, long double expected)
{
	int			exponent;

	frexpl(expected, &exponent);
#ifdef LIMAML_DOUBLE
	exponent = exponent < -1021 ? -1074 : exponent - 53;
#else
	exponent = exponent < -125 ? -149 : exponent - 24;
#endif
	return isnan(got) ? INFINITY : fabsl(ldexpl(got - expected, -exponent));
}

/* A product's weights in panels, for numbers that are drawn row by row. */
static long double
product_of(int inner, int width, const real *a, const real *w, int j,
		   long double *magnitude)
{
	long double sum = 0;

	*magnitude = 0;
	for (int k = 0; k < inner; k++)
	{
		long double term = (long double) a[k] *
			w[kernel_weight(inner, width, k, j)];

		sum += term;
		*magnitude += fabsl(term);
	}
	return sum;
}

/*
 * The layers forwards and backwards, and their tangents, each by its
 * definition from what the kernel itself has put out before.  h is such that
 * relu's mask and the other slopes are beyond doubt.
 */
static void
test_layers(Activation activation, const char *name)
{
	bool		relu = activation == ACTIVATION_RELU;
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(12);
		int			inner = draw(40);
		int			width = (1 + draw(5)) * KERNEL_PAD;
		int			lda = inner + draw(4);
		size_t		count = (size_t) n * width;
		bool		optional = draw(2) || !relu;
		Array		a = array_of((size_t) n * lda, 1, draw(KERNEL_PAD));
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		bias = array_of(width, 1, draw(KERNEL_PAD));
		Array		b_in = array_of(count, 1, draw(KERNEL_PAD));
		Array		u_dot_in = array_of(count, 1, draw(KERNEL_PAD));
		Array		u = array_of(count, 1, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		b = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum = array_of(width, 1, draw(KERNEL_PAD));
		Array		u_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		h_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum_dot = array_of(width, 1, draw(KERNEL_PAD));
		Array		row = array_of(width, 1, draw(KERNEL_PAD));
		long double *total = calloc(2 * width, sizeof(long double));
		long double *total_size = calloc(2 * width, sizeof(long double));
		bool		biased = draw(2);

		/* u is wanted by gelu alone, and may be given to all */
		kernels->layer(activation, n, inner, width, a.numbers, lda, w.numbers,
					   biased ? bias.numbers : NULL, u.numbers, h.numbers);
		for (int i = 0; i < n; i++)
		{
			kernels->layer(activation, 1, inner, width,
						   a.numbers + (size_t) i * lda, lda, w.numbers,
						   biased ? bias.numbers : NULL,
						   activation == ACTIVATION_GELU ? delta.numbers : NULL,
						   row.numbers);
			broken += !same_bits(width, row.numbers,
								 h.numbers + (size_t) i * width);
		}
		kernels->layer_back(activation, n, inner, width, a.numbers, lda,
							w.numbers, u.numbers, h.numbers,
							optional ? b.numbers : NULL, delta.numbers,
							sum.numbers);
		if (relu)
		{
			memcpy(row.numbers, sum.numbers, width * sizeof(real));
			kernels->layer_back(activation, n, inner, width, a.numbers, lda,
								w.numbers, NULL, h.numbers, NULL, NULL,
								sum.numbers);
			broken += !same_bits(width, row.numbers, sum.numbers);
		}
		kernels->layer_tangent(activation, n, inner, width, a.numbers, lda,
							   w.numbers, u.numbers, h.numbers,
							   optional ? u_dot.numbers : NULL, h_dot.numbers);
		kernels->layer_back_tangent(activation, n, inner, width, a.numbers,
									lda, w.numbers, u.numbers, h.numbers,
									b_in.numbers, u_dot_in.numbers, width,
									optional ? b.numbers : NULL,
									delta_dot.numbers, sum_dot.numbers);
		for (int i = 0; i < n; i++)
			for (int j = 0; j < width; j++)
			{
				size_t		at = (size_t) i * width + j;
				long double size;
				long double product = product_of(inner, width,
												 a.numbers + (size_t) i * lda,
												 w.numbers, j, &size);
				long double slope = slope_of(activation, u.numbers[at]);
				long double bent = curvature_of(activation, u.numbers[at]) *
					b_in.numbers[at] * u_dot_in.numbers[at];

				add_error(&worst, u.numbers[at],
						  product + (biased ? bias.numbers[j] : 0),
						  size + fabsl((long double) bias.numbers[j]), inner);
				add_error(&worst, h.numbers[at],
						  value_of(activation, u.numbers[at]),
						  fabsl((long double) u.numbers[at]) + 1, 2);
				add_error(&worst, delta.numbers[at], product * slope,
						  size + fabsl(product), inner + 4);
				if (optional)
				{
					add_error(&worst, b.numbers[at], product, size, inner);
					add_error(&worst, u_dot.numbers[at], product, size, inner);
				}
				add_error(&worst, h_dot.numbers[at], product * slope,
						  size + fabsl(product), inner + 4);
				add_error(&worst, delta_dot.numbers[at], product * slope + bent,
						  size + fabsl(product) + 2 * fabsl((long double) b_in.numbers[at] * u_dot_in.numbers[at]),
						  inner + 4);
				total[j] += delta.numbers[at];
				total_size[j] += fabsl((long double) delta.numbers[at]);
				total[width + j] += delta_dot.numbers[at];
				total_size[width + j] +=
					fabsl((long double) delta_dot.numbers[at]);
			}
		for (int j = 0; j < width; j++)
		{
			add_error(&worst, sum.numbers[j], total[j], total_size[j], n);
			add_error(&worst, sum_dot.numbers[j], total[width + j],
					  total_size[width + j], n);
		}
		broken += !array_intact(&u) + !array_intact(&h) + !array_intact(&b) +
			!array_intact(&delta) + !array_intact(&sum) +
			!array_intact(&u_dot) + !array_intact(&h_dot) +
			!array_intact(&delta_dot) + !array_intact(&sum_dot) +
			!array_intact(&row);
		free(a.memory);
		free(w.memory);
		free(bias.memory);
		free(b_in.memory);
		free(u_dot_in.memory);
		free(u.memory);
		free(h.memory);
		free(b.memory);
		free(delta.memory);
		free(sum.memory);
		free(u_dot.memory);
		free(h_dot.memory);
		free(delta_dot.memory);
		free(sum_dot.memory);
		free(row.memory);
		free(total);
		free(total_size);
	}
	check(worst <= 1, "%s layers on %s: %.2g of the rounding error's bound",
		  name, kernels->name, worst);
	check(broken == 0, "%s layers on %s: a row's bits are its own, nothing is overrun",
		  name, kernels->name);
}

/* The first and the last layer, which have no matrix. */
static void
test_outer_layers(Activation activation, const char *name)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(12);
		int			width = draw(6) * KERNEL_PAD;
		int			factor_width = draw(3) * KERNEL_PAD;
		int			ld = width + factor_width + draw(3);
		size_t		count = (size_t) n * width;
		Array		half = array_of((size_t) n * ld, 1, draw(KERNEL_PAD));
		Array		entity = array_of(width + factor_width, 1, draw(KERNEL_PAD));
		Array		last = array_of(width, 1, draw(KERNEL_PAD));
		Array		offset = array_of(n, 1, draw(KERNEL_PAD));
		Array		r = array_of(n, 1, draw(KERNEL_PAD));
		Array		u = array_of(count, 1, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		s = array_of(n, 1, draw(KERNEL_PAD));
		Array		b = array_of(count, 1, draw(KERNEL_PAD));
		Array		b_in = array_of(count, 1, draw(KERNEL_PAD));
		Array		u_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum = array_of(width, 1, draw(KERNEL_PAD));
		Array		sum_dot = array_of(width, 1, draw(KERNEL_PAD));
		real		bias = random_normal(&random_state);
		bool		offsets = draw(2);
		bool		optional = draw(2);

		kernels->first_layer(activation, n, width, half.numbers, ld,
							 entity.numbers, u.numbers, h.numbers);
		kernels->last_layer(n, width, h.numbers, last.numbers, factor_width,
							half.numbers + width, ld, entity.numbers + width,
							bias, offsets ? offset.numbers : NULL, s.numbers);
		kernels->last_layer_back(activation, n, width, r.numbers, last.numbers,
								 u.numbers, h.numbers,
								 optional ? b.numbers : NULL, delta.numbers,
								 sum.numbers);
		kernels->last_layer_back_tangent(activation, n, width, r.numbers,
										 last.numbers, u.numbers, h.numbers,
										 b_in.numbers, u_dot.numbers, width,
										 optional ? b.numbers : NULL,
										 delta_dot.numbers, sum_dot.numbers);
		for (int i = 0; i < n; i++)
		{
			const real *half_i = half.numbers + (size_t) i * ld;
			long double score = bias + (offsets ? offset.numbers[i] : 0.0L);
			long double size = fabsl(score);
			real		alone;

			for (int j = 0; j < width; j++)
			{
				size_t		at = (size_t) i * width + j;
				long double ui = u.numbers[at];
				long double bi = (long double) r.numbers[i] * last.numbers[j];
				long double slope = slope_of(activation, ui);
				long double bent = curvature_of(activation, ui) *
					b_in.numbers[at] * u_dot.numbers[at];

				broken += u.numbers[at] != half_i[j] + entity.numbers[j];
				add_error(&worst, h.numbers[at], value_of(activation, ui),
						  fabsl(ui) + 1, 2);
				add_error(&worst, delta.numbers[at], bi * slope, fabsl(bi), 4);
				add_error(&worst, delta_dot.numbers[at], bi * slope + bent,
						  fabsl(bi) + 2 * fabsl((long double) b_in.numbers[at] * u_dot.numbers[at]),
						  4);
				if (optional)
					add_error(&worst, b.numbers[at], bi, fabsl(bi), 1);
				score += (long double) h.numbers[at] * last.numbers[j];
				size += fabsl((long double) h.numbers[at] * last.numbers[j]);
			}
			for (int j = 0; j < factor_width; j++)
			{
				long double term = (long double) half_i[width + j] *
					entity.numbers[width + j];

				score += term;
				size += fabsl(term);
			}
			add_error(&worst, s.numbers[i], score, size, width + factor_width);

			/* the row alone */
			kernels->last_layer(1, width, h.numbers + (size_t) i * width,
								last.numbers, factor_width, half_i + width,
								ld, entity.numbers + width, bias,
								offsets ? offset.numbers + i : NULL, &alone);
			broken += !same_bits(1, &alone, s.numbers + i);
		}
		for (int j = 0; j < width; j++)
		{
			long double total[2] = {0, 0};
			long double size[2] = {0, 0};

			for (int i = 0; i < n; i++)
			{
				total[0] += delta.numbers[(size_t) i * width + j];
				size[0] += fabsl((long double) delta.numbers[(size_t) i * width + j]);
				total[1] += delta_dot.numbers[(size_t) i * width + j];
				size[1] += fabsl((long double) delta_dot.numbers[(size_t) i * width + j]);
			}
			add_error(&worst, sum.numbers[j], total[0], size[0], n);
			add_error(&worst, sum_dot.numbers[j], total[1], size[1], n);
		}
		broken += !array_intact(&u) + !array_intact(&h) + !array_intact(&s) +
			!array_intact(&b) + !array_intact(&delta) +
			!array_intact(&delta_dot) + !array_intact(&sum) +
			!array_intact(&sum_dot);
		free(half.memory);
		free(entity.memory);
		free(last.memory);
		free(offset.memory);
		free(r.memory);
		free(u.memory);
		free(h.memory);
		free(s.memory);
		free(b.memory);
		free(b_in.memory);
		free(u_dot.memory);
		free(delta.memory);
		free(delta_dot.memory);
		free(sum.memory);
		free(sum_dot.memory);
	}
	check(worst <= 1 && broken == 0, "first and last layer of %s on %s: %.2g of "
		  "the rounding error's bound", name, kernels->name, worst);
}

static void
test_pairs(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 300; trial++)
	{
		int			terms = draw(11);
		int			q_width = draw(4) * KERNEL_PAD;
		int			width = draw(4) * KERNEL_PAD;
		int			ldq = draw(4) == 0 ? 0 : q_width + draw(3);
		int			ldp = draw(4) == 0 ? 0 : width + draw(3);
		Array		q = array_of((size_t) terms * ldq + q_width, 1, draw(KERNEL_PAD));
		Array		p = array_of((size_t) terms * ldp + width, 1, draw(KERNEL_PAD));
		Array		h = array_of(q_width, 1, draw(KERNEL_PAD));
		Array		one = array_of(terms, 1, draw(KERNEL_PAD));
		Array		y = array_of(width, 1, draw(KERNEL_PAD));
		Array		before = array_of(width, 1, draw(KERNEL_PAD));
		bool		ones = draw(2);
		real		scale = random_normal(&random_state);

		memcpy(before.numbers, y.numbers, width * sizeof(real));
		kernels->add_pairs(terms, scale, q_width, q.numbers, ldq, h.numbers,
						   ones ? one.numbers : NULL, width, p.numbers, ldp,
						   y.numbers);
		for (int j = 0; j < width; j++)
		{
			long double sum = before.numbers[j];
			long double size = fabsl(sum);

			for (int t = 0; t < terms; t++)
			{
				long double along = ones ? one.numbers[t] : 0;
				long double along_size = fabsl(along);
				long double p_j = p.numbers[(size_t) t * ldp + j];

				for (int k = 0; k < q_width; k++)
				{
					long double term = (long double) h.numbers[k] *
						q.numbers[(size_t) t * ldq + k];

					along += term;
					along_size += fabsl(term);
				}
				sum += scale * along * p_j;
				size += fabsl(scale * along_size * p_j);
			}
			add_error(&worst, y.numbers[j], sum, size, q_width + terms);
		}
		broken += !array_intact(&y);
		free(q.memory);
		free(p.memory);
		free(h.memory);
		free(one.memory);
		free(y.memory);
		free(before.memory);
	}
	check(worst <= 1 && broken == 0, "pairs on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
}

static long double
plain_sigmoid(long double s)
{
	return s >= 0 ? 1 / (1 + expl(-s)) : expl(s) / (1 + expl(s));
}

/* A single row's loss, slope and curvature, unscaled. */
static real
loss_of(Loss loss, real s, real y, real *slope, real *curvature)
{
	return kernels->losses(loss, 1, 1, &s, &y, NULL, slope, curvature);
}

static real
sigmoid_of(real s)
{
	real		p;

	kernels->sigmoid(1, &s, &p);
	return p;
}

/* Where long double has digits to spare, and far out. */
static void
test_losses(void)
{
	static const real labels[] = {0, 1, 0.25, 0.75, 0.5};
	static const real far[] = {150, 1000, 1e4, 1e30};
	double		worst[4] = {0, 0, 0, 0};
	int			wrong = 0;
	real		slope;
	real		curvature;

	for (real s = -60; s <= 60; s += 0.0625)
	{
		long double p = plain_sigmoid(s);
		long double bend = p * plain_sigmoid(-s);

		worst[0] = fmax(worst[0], units_off(sigmoid_of(s), p));
		for (int l = 0; l < 5; l++)
		{
			real		y = labels[l];
			long double value = (s > 0 ? s : 0) - y * s +
				log1pl(expl(-fabsl((long double) s)));
			long double expected = y == 1 ? -plain_sigmoid(-s) : p - y;

			/* a fraction's loss is a difference, and so is its slope */
			real		loss = loss_of(LOSS_BINARY, s, y, &slope, &curvature);

			worst[1] = fmax(worst[1], fabsl(loss - value) / REAL_EPSILON /
							(y == 0 || y == 1 ? value : 1 + fabs(s)));
			if (fabsl(expected) >= 1e-17)
				worst[2] = fmax(worst[2], fabsl(slope - expected) /
								REAL_EPSILON /
								(y == 0 || y == 1 ? fabsl(expected) : 1));
			if (bend >= 1e-17)
				worst[3] = fmax(worst[3], units_off(curvature, bend));
			wrong += is_denormal(slope) || is_denormal(curvature);
		}
	}
	check(worst[0] <= 4 && worst[1] <= 6 && worst[2] <= 4 && worst[3] <= 6,
		  "sigmoid, log loss, its slope and curvature on %s: %.2g, %.2g, %.2g, "
		  "%.2g units off", kernels->name, worst[0], worst[1], worst[2],
		  worst[3]);

	for (int i = 0; i < 4; i++)
	{
		real		s = far[i];

		wrong += loss_of(LOSS_BINARY, s, 1, &slope, &curvature) > 1e-37 ||
			slope != 0 || curvature != 0;
		wrong += loss_of(LOSS_BINARY, -s, 0, &slope, &curvature) > 1e-37 ||
			slope != 0 || curvature != 0;
		wrong += loss_of(LOSS_BINARY, s, 0, &slope, &curvature) != s ||
			slope != 1;
		wrong += loss_of(LOSS_BINARY, -s, 1, &slope, &curvature) != s ||
			slope != -1;
		wrong += loss_of(LOSS_BINARY, s, 0.5, &slope, &curvature) != s / 2;
		wrong += sigmoid_of(s) != 1 || !(sigmoid_of(-s) < 1e-37) ||
			is_denormal(sigmoid_of(-s));
	}
	check(wrong == 0, "log loss on %s is exact far out, and never denormal",
		  kernels->name);

	check(isnan(loss_of(LOSS_BINARY, NAN, 1, &slope, &curvature)) &&
		  isnan(slope) && isnan(curvature) &&
		  isnan(loss_of(LOSS_BINARY, NAN, 0, &slope, &curvature)) &&
		  isnan(slope) && isnan(sigmoid_of(NAN)) &&
		  isnan(loss_of(LOSS_SQUARED, NAN, 1, &slope, &curvature)) &&
		  isnan(slope), "losses of NaN on %s are NaN", kernels->name);
	check(loss_of(LOSS_SQUARED, 3, 1, &slope, &curvature) == 2 &&
		  slope == 2 && curvature == 1 &&
		  loss_of(LOSS_SQUARED, -1, 0.5, &slope, &curvature) == 1.125 &&
		  slope == -1.5, "squared loss and its derivatives on %s",
		  kernels->name);
}

/* Many rows: their sum, and each one's bits wherever it stands. */
static void
test_loss_rows(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 300; trial++)
	{
		int			n = draw(40);
		Loss		loss = draw(2) ? LOSS_BINARY : LOSS_SQUARED;
		Array		s = array_of(n, 4, draw(KERNEL_PAD));
		Array		y = array_of(n, 1, draw(KERNEL_PAD));
		Array		weight = array_of(n, 1, draw(KERNEL_PAD));
		Array		r = array_of(n, 1, draw(KERNEL_PAD));
		Array		c = array_of(n, 1, draw(KERNEL_PAD));
		Array		p = array_of(n, 1, draw(KERNEL_PAD));
		bool		weighted = draw(2);
		bool		curved = draw(2);
		real		scale = random_normal(&random_state);
		long double total = 0;
		long double size = 0;
		real		sum;

		for (int i = 0; i < n; i++)
		{
			y.numbers[i] = draw(2);
			weight.numbers[i] = fabs(weight.numbers[i]) * draw(2);
		}
		sum = kernels->losses(loss, n, scale, s.numbers, y.numbers,
							  weighted ? weight.numbers : NULL, r.numbers,
							  curved ? c.numbers : NULL);
		kernels->sigmoid(n, s.numbers, p.numbers);
		for (int i = 0; i < n; i++)
		{
			real		w = weighted ? weight.numbers[i] : 1;
			real		slope;
			real		curvature;
			real		alone = sigmoid_of(s.numbers[i]);
			long double value;

			broken += !same_bits(1, &alone, p.numbers + i);
			value = w * (long double) kernels->losses(loss, 1, scale,
													  s.numbers + i,
													  y.numbers + i, NULL,
													  &slope, &curvature);
			total += value;
			size += fabsl(value);
			kernels->losses(loss, 1, scale, s.numbers + i, y.numbers + i, &w,
							&slope, &curvature);
			broken += !same_bits(1, &slope, r.numbers + i) ||
				(curved && !same_bits(1, &curvature, c.numbers + i));
		}
		add_error(&worst, sum, total, size, n);
		broken += !array_intact(&r) + !array_intact(&c) + !array_intact(&p);

		/* in place */
		kernels->sigmoid(n, s.numbers, s.numbers);
		broken += !same_bits(n, s.numbers, p.numbers);
		free(s.memory);
		free(y.memory);
		free(weight.memory);
		free(r.memory);
		free(c.memory);
		free(p.memory);
	}
	check(worst <= 1 && broken == 0, "losses of rows on %s: %.2g of the rounding "
		  "error's bound, each row's bits its own", kernels->name, worst);
}

/*
 * tanh all over: every exponent evenly in bits, and the range where it bends
 * evenly in value.
 */
static void
test_tanh(void)
{
	enum
	{
		BLOCK = 4096
	};
	static real u[BLOCK];
	static real h[BLOCK];
	double		worst = 0;
	real		worst_at = 0;
	int			odd = 0;
	long		tried = 0;

#ifdef LIMAML_DOUBLE
	const uint64_t last = UINT64_C(0x4040000000000000); /* 32 */
	const uint64_t stride = last / 400000;
#else
	const uint64_t last = 0x42000000;	/* 32 */
	const uint64_t stride = last / 1000000;
#endif
	const int	blocks = 2 * (int) (last / stride / BLOCK) + 1;
	uint64_t	bits = 0;

	for (int block = 0; block < blocks; block++)
	{
		for (int i = 0; i < BLOCK; i++)
		{
			if (block % 2 == 0)
			{
#ifdef LIMAML_DOUBLE
				memcpy(&u[i], &bits, sizeof(real));
#else
				uint32_t	low = bits;

				memcpy(&u[i], &low, sizeof(real));
#endif
				bits += 1 + random_below(&random_state, 65536) * stride / 32768;
				if (bits > last)
					bits = 0;
			}
			else
				u[i] = 22 * random_uniform(&random_state);
		}
		kernels->activate(ACTIVATION_TANH, 1, BLOCK, u, h);
		for (int i = 0; i < BLOCK; i++)
		{
#ifdef LIMAML_DOUBLE
			double		off = units_off(h[i], tanhl(u[i]));
#else
			double		off = units_off(h[i], tanh(u[i]));
#endif

			if (off > worst)
			{
				worst = off;
				worst_at = u[i];
			}
			tried++;
			u[i] = -u[i];
		}
		{
			real		negative[BLOCK];

			kernels->activate(ACTIVATION_TANH, 1, BLOCK, u, negative);
			for (int i = 0; i < BLOCK; i++)
				odd += negative[i] == -h[i] && fabs(h[i]) <= 1;
		}
	}
	check(worst <= 3, "tanh on %s: at most %.2f units in the last place, at "
		  "%.9g (of %ld)", kernels->name, worst, (double) worst_at, tried);
	check(odd == tried, "tanh on %s is odd, and at most 1", kernels->name);
}

static void
test_blas(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 200; trial++)
	{
		bool		ta = draw(2);
		bool		tb = draw(2);
		int			rows = draw(20);
		int			columns = draw(20);
		int			inner = draw(20);
		int			lda = (ta ? rows : inner) + draw(4);
		int			ldb = (tb ? inner : columns) + draw(4);
		int			ldc = columns + draw(4);
		Array		a = array_of((size_t) (ta ? inner : rows) * lda, 1, 0);
		Array		b = array_of((size_t) (tb ? columns : inner) * ldb, 1, 0);
		Array		c = array_of((size_t) rows * ldc, 1, 0);
		Array		before = array_of((size_t) rows * ldc, 1, 0);
		real		scale = draw(2) ? 1 : -0.5;

		memcpy(before.numbers, c.numbers, c.n * sizeof(real));
		blas_multiply_add(ta, tb, rows, columns, inner, scale, a.numbers, lda,
						  b.numbers, ldb, c.numbers, ldc);
		for (int i = 0; i < rows; i++)
			for (int j = 0; j < ldc; j++)
			{
				size_t		at = (size_t) i * ldc + j;
				long double sum = before.numbers[at];
				long double size = fabsl(sum);

				for (int k = 0; k < inner && j < columns; k++)
				{
					long double term = (long double) scale *
						a.numbers[ta ? k * lda + i : i * lda + k] *
						b.numbers[tb ? j * ldb + k : k * ldb + j];

					sum += term;
					size += fabsl(term);
				}
				add_error(&worst, c.numbers[at], sum, size, inner);
			}
		broken += !array_intact(&c);
		free(a.memory);
		free(b.memory);
		free(c.memory);
		free(before.memory);
	}
	check(worst <= 1 && broken == 0,
		  "BLAS products: %.2g of the rounding error's bound", worst);
	check(blas_is_serial(), "BLAS is its serial flavour");
}

int
main(void)
{
	for (int p = 0; select_kernels(p); p++)
	{
		kernels = kernels_for_processor();
		random_seed(&random_state, 1);
		test_multiply();
		test_sums();
		test_elementwise(ACTIVATION_TANH, "tanh");
		test_elementwise(ACTIVATION_RELU, "relu");
		test_elementwise(ACTIVATION_GELU, "gelu");
		test_layers(ACTIVATION_TANH, "tanh");
		test_layers(ACTIVATION_RELU, "relu");
		test_layers(ACTIVATION_GELU, "gelu");
		test_outer_layers(ACTIVATION_TANH, "tanh");
		test_outer_layers(ACTIVATION_RELU, "relu");
		test_outer_layers(ACTIVATION_GELU, "gelu");
		test_pairs();
		test_losses();
		test_loss_rows();
		test_special();
		test_nan(ACTIVATION_TANH, "tanh");
		test_nan(ACTIVATION_RELU, "relu");
		test_nan(ACTIVATION_GELU, "gelu");
		test_tanh();
	}
	test_blas();
	return check_end();
}
