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

/* Whether nothing was written before or after the array. */
static bool
array_intact(const Array *array)
{
	for (const real *p = array->memory; p < array->numbers; p++)
		if (!isnan(*p))
			return false;
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
						b.numbers[kernel_weight(inner, k, j)];

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

/* Zeros in place of what pads n rows of so many numbers. */
static void
clear_padding(Array *a, int n, int width, int lda)
{
	for (int i = 0; i < n; i++)
		for (int j = width; j < kernel_stride(width); j++)
			a->numbers[(size_t) i * lda + j] = 0;
}

/* add_scaled_rows onto rows that lie further apart than they are wide */
static void
add_scaled_rows_errors(int n, int width, const Array *scale, const Array *x,
					   int ldx, double *worst, int *broken)
{
	int			ldy = kernel_stride(width) + draw(5);
	Array		y = array_of((size_t) n * ldy, 1, draw(KERNEL_PAD));
	Array		got = array_of((size_t) n * ldy, 1, draw(KERNEL_PAD));

	memcpy(got.numbers, y.numbers, y.n * sizeof(real));
	kernels->add_scaled_rows(n, width, scale ? scale->numbers : NULL,
							 x->numbers, ldx, got.numbers, ldy);
	for (int i = 0; i < n; i++)
		for (int j = 0; j < ldy; j++)
		{
			size_t		at = (size_t) i * ldy + j;
			long double term;

			if (j >= width)
			{
				*broken += got.numbers[at] != y.numbers[at];
				continue;
			}
			term = (scale ? scale->numbers[i] : 1) *
				(long double) x->numbers[(size_t) i * ldx + j];
			add_error(worst, got.numbers[at], y.numbers[at] + term,
					  fabsl(y.numbers[at]) + fabsl(term), 1);
		}
	*broken += !array_intact(&got);
	free(y.memory);
	free(got.memory);
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
		int			some = width - draw(KERNEL_PAD);
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

		/* rows of any width, whose padding is zeros */
		clear_padding(&a, n, some, lda);
		kernels->sum_rows(n, some, weighted ? weight.numbers : NULL,
						  a.numbers, lda, sum.numbers);
		for (int j = 0; j < some; j++)
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
		add_scaled_rows_errors(n, some, weighted ? &weight : NULL, &a, lda,
							   &worst, &broken);
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

/* How many of n numbers are NaN. */
static int
nans(size_t n, const real *numbers)
{
	int			count = 0;

	for (size_t i = 0; i < n; i++)
		count += isnan(numbers[i]) != 0;
	return count;
}

/* A NaN is handed on by the row that has it, and by no other. */
static void
test_nan(Activation activation, const char *name, int width)
{
	enum
	{
		ROWS = 15,				/* blocks of every size, and a row alone */
		INNER = 5
	};
	bool		gelu = activation == ACTIVATION_GELU;
	Array		w = array_of(INNER * width, 1, 0);
	Array		row = array_of(width, 1, 0);
	Array		u = array_of(ROWS * width, 1, 0);
	Array		h = array_of(ROWS * width, 1, 0);
	Array		s = array_of(ROWS, 1, 0);
	int			wrong = 0;

	check(isnan(activated(activation, NAN)), "%s of NaN is NaN on %s", name,
		  kernels->name);
	for (int i = 0; i < ROWS; i++)
		for (int with_u = gelu; with_u <= 1; with_u++)
		{
			Array		a = array_of(ROWS * INNER, 1, 0);
			Array		half = array_of(ROWS * width, 1, 0);
			real	   *h_i = h.numbers + i * width;
			real	   *u_given = with_u ? u.numbers : NULL;
			int			j = draw(width);

			a.numbers[i * INNER + draw(INNER)] = NAN;
			kernels->layer(activation, ROWS, INNER, width, a.numbers, INNER,
						   w.numbers, row.numbers, u_given, h.numbers);
			wrong += nans(width, h_i) != width ||
				nans(ROWS * width, h.numbers) != width ||
				(with_u && nans(ROWS * width, u.numbers) != width);

			half.numbers[i * width + j] = NAN;
			kernels->first_layer(activation, ROWS, width, half.numbers, width,
								 row.numbers, u_given, h.numbers);
			wrong += !isnan(h_i[j]) || nans(ROWS * width, h.numbers) != 1 ||
				(with_u && nans(ROWS * width, u.numbers) != 1);

			kernels->last_layer(ROWS, width, h.numbers, row.numbers, 0, NULL,
								0, NULL, 0, NULL, s.numbers);
			wrong += !isnan(s.numbers[i]) || nans(ROWS, s.numbers) != 1;
			free(a.memory);
			free(half.memory);
		}
	check(wrong == 0, "%s layers of %d on %s hand a NaN on, in its row alone",
		  name, width, kernels->name);
	free(w.memory);
	free(row.memory);
	free(u.memory);
	free(h.memory);
	free(s.memory);
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

/* What a product gives for column j of a row. */
static long double
product_of(int inner, const real *a, const real *w, int j,
		   long double *magnitude)
{
	long double sum = 0;

	*magnitude = 0;
	for (int k = 0; k < inner; k++)
	{
		long double term = (long double) a[k] * w[kernel_weight(inner, k, j)];

		sum += term;
		*magnitude += fabsl(term);
	}
	return sum;
}

/* Products of all n rows, as a kernel has put them out. */
static void
add_product_errors(double *worst, int n, int inner, int width, const real *a,
				   int lda, const real *w, const real *bias, const real *got)
{
	for (int i = 0; i < n; i++)
		for (int j = 0; j < width; j++)
		{
			long double size;
			long double product = product_of(inner, a + (size_t) i * lda, w,
											 j, &size);
			long double bias_j = bias ? bias[j] : 0;

			add_error(worst, got[(size_t) i * width + j], product + bias_j,
					  size + fabsl(bias_j), inner);
		}
}

/* Rows added up: `sum` by its definition from the rows put out with it. */
static void
add_sum_errors(double *worst, int n, int width, const real *rows,
			   const real *sum)
{
	for (int j = 0; j < width; j++)
	{
		long double total = 0;
		long double size = 0;

		for (int i = 0; i < n; i++)
		{
			total += rows[(size_t) i * width + j];
			size += fabsl((long double) rows[(size_t) i * width + j]);
		}
		add_error(worst, sum[j], total, size, n);
	}
}

/* h = a(u) of `count` numbers. */
static void
add_value_errors(double *worst, Activation activation, size_t count,
				 const real *u, const real *h)
{
	for (size_t i = 0; i < count; i++)
		add_error(worst, h[i], value_of(activation, u[i]),
				  fmaxl(fabsl((long double) u[i]), 1), 2);
}

/* delta = b a'(u) of `count` numbers. */
static void
add_slope_errors(double *worst, Activation activation, size_t count,
				 const real *u, const real *b, const real *delta)
{
	for (size_t i = 0; i < count; i++)
		add_error(worst, delta[i], b[i] * slope_of(activation, u[i]),
				  fabsl((long double) b[i]), 4);
}

/* delta_dot = b_dot a'(u) + b a''(u) u_dot of n rows. */
static void
add_bend_errors(double *worst, Activation activation, int n, int width,
				const real *u, const real *b, const real *b_dot,
				const real *u_dot, int ld_dot, const real *delta_dot)
{
	for (int i = 0; i < n; i++)
		for (int j = 0; j < width; j++)
		{
			size_t		at = (size_t) i * width + j;
			long double b_u_dot = (long double) b[at] *
				u_dot[(size_t) i * ld_dot + j];

			add_error(worst, delta_dot[at],
					  b_dot[at] * slope_of(activation, u[at]) +
					  curvature_of(activation, u[at]) * b_u_dot,
					  fabsl((long double) b_dot[at]) + 2 * fabsl(b_u_dot), 4);
		}
}

/* A distance between rows of n numbers, at times 0. */
static int
draw_distance(int n)
{
	return draw(8) == 0 ? 0 : n + draw(5);
}

/* n rows, ld apart, of which the last ends with its numbers. */
static Array
rows_of(int n, int width, int ld)
{
	return array_of(n > 0 ? (size_t) (n - 1) * ld + width : 0, 1,
					draw(KERNEL_PAD));
}

/* u of n rows in a place of its own, and h = a(u). */
static void
activated_rows(Activation activation, int n, int width, Array *u, Array *h)
{
	size_t		count = (size_t) n * width;

	*u = array_of(count, 2, draw(KERNEL_PAD));
	*h = array_of(count, 1, draw(KERNEL_PAD));
	kernels->activate(activation, n, width, u->numbers, h->numbers);
}

/* Where a kernel does not want u, it has the same bits without. */
static const real *
maybe_u(Activation activation, const Array *u)
{
	return activation == ACTIVATION_GELU || draw(2) ? u->numbers : NULL;
}

static void
test_layer(Activation activation, const char *name)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(20);
		int			inner = draw(40);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			lda = draw_distance(inner);
		size_t		count = (size_t) n * width;
		Array		a = rows_of(n, inner, lda);
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		bias = array_of(width, 1, draw(KERNEL_PAD));
		Array		u = array_of(count, 1, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		again = array_of(count, 1, draw(KERNEL_PAD));
		Array		row_u = array_of(width, 1, draw(KERNEL_PAD));
		Array		row_h = array_of(width, 1, draw(KERNEL_PAD));
		const real *biased = draw(2) ? bias.numbers : NULL;

		kernels->layer(activation, n, inner, width, a.numbers, lda, w.numbers,
					   biased, u.numbers, h.numbers);
		add_product_errors(&worst, n, inner, width, a.numbers, lda, w.numbers,
						   biased, u.numbers);
		add_value_errors(&worst, activation, count, u.numbers, h.numbers);
		if (activation != ACTIVATION_GELU)
		{
			kernels->layer(activation, n, inner, width, a.numbers, lda,
						   w.numbers, biased, NULL, again.numbers);
			broken += !same_bits(count, h.numbers, again.numbers);
		}
		for (int i = 0; i < n; i++)
		{
			size_t		at = (size_t) i * width;

			kernels->layer(activation, 1, inner, width,
						   a.numbers + (size_t) i * lda, lda, w.numbers,
						   biased, row_u.numbers, row_h.numbers);
			broken += !same_bits(width, row_u.numbers, u.numbers + at) +
				!same_bits(width, row_h.numbers, h.numbers + at);
		}
		broken += !array_intact(&u) + !array_intact(&h) +
			!array_intact(&again) + !array_intact(&row_u) +
			!array_intact(&row_h);
		free(a.memory);
		free(w.memory);
		free(bias.memory);
		free(u.memory);
		free(h.memory);
		free(again.memory);
		free(row_u.memory);
		free(row_h.memory);
	}
	check(worst <= 1, "%s layer on %s: %.2g of the rounding error's bound",
		  name, kernels->name, worst);
	check(broken == 0, "%s layer on %s: a row's bits are its own, nothing is "
		  "overrun", name, kernels->name);
}

/* The first layer in one: what its product and it give by turns. */
static void
test_whole_first_layer(Activation activation, const char *name)
{
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(20);
		int			inner = draw(40);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			lda = draw_distance(inner);
		size_t		count = (size_t) n * width;
		Array		a = rows_of(n, inner, lda);
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		bias = array_of(width, 1, draw(KERNEL_PAD));
		Array		row = array_of(width, 1, draw(KERNEL_PAD));
		Array		half = array_of(count, 1, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		whole = array_of(count, 1, draw(KERNEL_PAD));
		const real *biased = draw(2) ? bias.numbers : NULL;

		kernels->multiply(n, inner, width, a.numbers, lda, w.numbers, biased,
						  half.numbers);
		kernels->first_layer(activation, n, width, half.numbers, width,
							 row.numbers, NULL, h.numbers);
		kernels->whole_first_layer(activation, n, inner, width, a.numbers, lda,
								   w.numbers, biased, row.numbers,
								   whole.numbers);
		broken += !same_bits(count, whole.numbers, h.numbers) +
			!array_intact(&whole);
		free(a.memory);
		free(w.memory);
		free(bias.memory);
		free(row.memory);
		free(half.memory);
		free(h.memory);
		free(whole.memory);
	}
	check(broken == 0, "first %s layer in one on %s: the bits of its parts",
		  name, kernels->name);
}

static void
test_layer_back(Activation activation, const char *name)
{
	bool		relu = activation == ACTIVATION_RELU;
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(20);
		int			inner = draw(40);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			ld = draw_distance(inner);
		size_t		count = (size_t) n * width;
		Array		delta = rows_of(n, inner, ld);
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		b = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_in = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum = array_of(width, 1, draw(KERNEL_PAD));
		Array		b_again = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_again = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum_again = array_of(width, 1, draw(KERNEL_PAD));
		bool		with_b = !relu || draw(2);
		bool		with_delta = draw(2);
		Array		u;
		Array		h;

		activated_rows(activation, n, width, &u, &h);
		kernels->layer_back(activation, n, inner, width, delta.numbers, ld,
							w.numbers, u.numbers, h.numbers, b.numbers,
							delta_in.numbers, sum.numbers);
		add_product_errors(&worst, n, inner, width, delta.numbers, ld,
						   w.numbers, NULL, b.numbers);
		add_slope_errors(&worst, activation, count, u.numbers, b.numbers,
						 delta_in.numbers);
		add_sum_errors(&worst, n, width, delta_in.numbers, sum.numbers);

		/* without what is optional; b is no more than a place then */
		kernels->layer_back(activation, n, inner, width, delta.numbers, ld,
							w.numbers, maybe_u(activation, &u), h.numbers,
							with_b ? b_again.numbers : NULL,
							with_delta ? delta_again.numbers : NULL,
							sum_again.numbers);
		broken += !same_bits(width, sum.numbers, sum_again.numbers);
		if (with_delta)
			broken += !same_bits(count, delta_in.numbers, delta_again.numbers);
		if (with_b && (with_delta || relu))
			broken += !same_bits(count, b.numbers, b_again.numbers);

		/* a row alone is its own sum, too */
		for (int i = 0; i < n; i++)
		{
			size_t		at = (size_t) i * width;

			kernels->layer_back(activation, 1, inner, width,
								delta.numbers + (size_t) i * ld, ld, w.numbers,
								u.numbers + at, h.numbers + at,
								b_again.numbers, delta_again.numbers,
								sum_again.numbers);
			broken += !same_bits(width, b_again.numbers, b.numbers + at) +
				!same_bits(width, delta_again.numbers, delta_in.numbers + at);
			for (int j = 0; j < width; j++)
				broken += sum_again.numbers[j] != delta_again.numbers[j];
		}
		broken += !array_intact(&b) + !array_intact(&delta_in) +
			!array_intact(&sum) + !array_intact(&b_again) +
			!array_intact(&delta_again) + !array_intact(&sum_again);
		free(delta.memory);
		free(w.memory);
		free(b.memory);
		free(delta_in.memory);
		free(sum.memory);
		free(b_again.memory);
		free(delta_again.memory);
		free(sum_again.memory);
		free(u.memory);
		free(h.memory);
	}
	check(worst <= 1, "%s layer backwards on %s: %.2g of the rounding error's "
		  "bound", name, kernels->name, worst);
	check(broken == 0, "%s layer backwards on %s: a row's bits are its own, "
		  "nothing is overrun", name, kernels->name);
}

/* As many rows and columns as make several words of masks. */
static void
test_layer_back_sum(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(trial % 4 == 0 ? 80 : 12);
		int			inner = draw(6) * KERNEL_PAD;
		int			width = 1 + draw(trial % 8 == 0 ? 600 : 70);
		int			stride = kernel_stride(width);
		int			ld = draw_distance(inner);
		int			ldh = stride + draw(5);
		Array		delta = rows_of(n, inner, ld);
		Array		w = array_of((size_t) width * inner, 1, draw(KERNEL_PAD));
		Array		h = rows_of(n, stride, ldh);
		Array		sum = array_of(stride, 1, draw(KERNEL_PAD));
		Array		again = array_of(stride, 1, draw(KERNEL_PAD));

		/* a NaN is not above zero, and zero is not either */
		for (size_t i = 0; i < h.n; i++)
			if (draw(10) == 0)
				h.numbers[i] = draw(2) ? 0 : NAN;
		kernels->layer_back_sum(n, inner, width, delta.numbers, ld, w.numbers,
								h.numbers, ldh, sum.numbers);
		for (int j = 0; j < width; j++)
		{
			long double total = 0;
			long double size = 0;

			for (int i = 0; i < n; i++)
				for (int o = 0; o < inner; o++)
				{
					long double term = (long double)
						delta.numbers[(size_t) i * ld + o] *
						w.numbers[kernel_weight(width, j, o)];

					if (!(h.numbers[(size_t) i * ldh + j] > 0))
						continue;
					total += term;
					size += fabsl(term);
				}
			add_error(&worst, sum.numbers[j], total, size, n + inner);
		}
		for (int j = width; j < stride; j++)
			broken += sum.numbers[j] != 0;

		/* whatever a row is that is above zero nowhere */
		for (int i = 0; i < n; i++)
			for (int j = 0; j < stride && i % 3 == 0; j++)
				h.numbers[(size_t) i * ldh + j] = -1;
		kernels->layer_back_sum(n, inner, width, delta.numbers, ld, w.numbers,
								h.numbers, ldh, sum.numbers);
		for (int i = 0; i < n && ld > 0; i += 3)
			for (int o = 0; o < inner; o++)
				delta.numbers[(size_t) i * ld + o] = draw(2) ? NAN : INFINITY;
		kernels->layer_back_sum(n, inner, width, delta.numbers, ld, w.numbers,
								h.numbers, ldh, again.numbers);
		broken += !same_bits(stride, sum.numbers, again.numbers);
		broken += !array_intact(&sum) + !array_intact(&again);
		free(delta.memory);
		free(w.memory);
		free(h.memory);
		free(sum.memory);
		free(again.memory);
	}
	check(worst <= 1, "sums of a relu layer backwards on %s: %.2g of the "
		  "rounding error's bound", kernels->name, worst);
	check(broken == 0, "sums of a relu layer backwards on %s: only what is "
		  "above zero counts, nothing is overrun", kernels->name);
}

/* What a mask lets through of a row. */
static long double
masked(const real *h, int j, const real *row)
{
	return h[j] > 0 ? row[j] : 0;
}

static void
test_masked_layer(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 160; trial++)
	{
		int			n = draw(trial % 8 == 0 ? 300 : 14);
		int			inner = 1 + draw(trial % 8 == 1 ? 300 : 80);
		int			width = (1 + draw(5)) * KERNEL_PAD;
		int			stride = kernel_stride(inner);
		int			ldh = draw_distance(stride);
		size_t		count = (size_t) n * width;
		Array		h_in = rows_of(n, stride, ldh);
		Array		row = array_of(stride, 1, draw(KERNEL_PAD));
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		scale = array_of(n, 1, draw(KERNEL_PAD));
		Array		c = array_of(count, 1, draw(KERNEL_PAD));
		Array		alone = array_of(width, 1, draw(KERNEL_PAD));
		const real *scaled = draw(2) ? scale.numbers : NULL;

		kernels->masked_layer(n, inner, width, h_in.numbers, ldh, row.numbers,
							  w.numbers, h.numbers, scaled, c.numbers);
		for (int i = 0; i < n; i++)
		{
			const real *h_i = h_in.numbers + (size_t) i * ldh;
			size_t		at = (size_t) i * width;
			long double r = scaled ? scaled[i] : 1;

			for (int j = 0; j < width; j++)
			{
				long double sum = 0;
				long double size = 0;

				for (int k = 0; k < inner && h.numbers[at + j] > 0; k++)
				{
					long double term = r * masked(h_i, k, row.numbers) *
						w.numbers[kernel_weight(inner, k, j)];

					sum += term;
					size += fabsl(term);
				}
				add_error(&worst, c.numbers[at + j], sum, size, inner);
			}
			kernels->masked_layer(1, inner, width, h_i, ldh, row.numbers,
								  w.numbers, h.numbers + at,
								  scaled ? scaled + i : NULL, alone.numbers);
			broken += !same_bits(width, alone.numbers, c.numbers + at);
		}
		broken += !array_intact(&c) + !array_intact(&alone);
		free(h_in.memory);
		free(row.memory);
		free(w.memory);
		free(h.memory);
		free(scale.memory);
		free(c.memory);
		free(alone.memory);
	}
	check(worst <= 1, "masked layer on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
	check(broken == 0, "masked layer on %s: a row's bits are its own, nothing "
		  "is overrun", kernels->name);
}

/* A row's mask, from what goes into relu. */
static bool
same_mask(int inner, const real *a, const real *row, const uint64_t *mask)
{
	for (int k = 0; k < kernel_masks(inner) * KERNEL_MASK; k++)
		if ((mask[k / KERNEL_MASK] >> k % KERNEL_MASK & 1) !=
			(k < inner && a[k] + row[k] > 0))
			return false;
	return true;
}

/*
 * Four steps, of which one moves nothing, others little or so much that rows
 * are multiplied afresh: the first layer's bits are first_layer's, the next
 * layer's error is that of what was added up on the way.
 */
static void
test_shift_layers(void)
{
	static const double move[] = {0.03, 0, 0.3, 5};
	static const uint64_t END_OF_MASKS = 0x5a5a5a5a5a5a5a5a;
	double		worst = 0;
	int			broken = 0;
	int			anew = 0;
	int			large = 0;

	for (int trial = 0; trial < 60; trial++)
	{
		int			n = draw(trial % 8 == 0 ? 150 : 14);
		int			inner = 1 + draw(trial % 4 == 1 ? 200 : 80);
		int			stride = kernel_stride(inner);
		int			masks = kernel_masks(inner);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			lda = draw_distance(stride);
		size_t		count = (size_t) n * width;
		Array		a = rows_of(n, stride, lda);
		Array		row = array_of(stride, 1, draw(KERNEL_PAD));
		Array		shift = array_of(stride, 1, draw(KERNEL_PAD));
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		bias = array_of(width, 1, draw(KERNEL_PAD));
		Array		h = array_of((size_t) n * stride, 1, draw(KERNEL_PAD));
		Array		expected = array_of((size_t) n * stride, 1, 0);
		Array		u = array_of(count, 1, draw(KERNEL_PAD));
		Array		next = array_of(count, 1, draw(KERNEL_PAD));
		Array		h_alone = array_of(stride, 1, draw(KERNEL_PAD));
		Array		u_alone = array_of(count, 1, draw(KERNEL_PAD));
		Array		next_alone = array_of(width, 1, draw(KERNEL_PAD));
		uint64_t   *mask = calloc((size_t) n * masks + 1, sizeof(uint64_t));
		uint64_t   *mask_alone = calloc((size_t) n * masks + 1,
										sizeof(uint64_t));
		long double *size = calloc(count + 1, sizeof(long double));

		mask[(size_t) n * masks] = END_OF_MASKS;
		for (int k = inner; k < stride; k++)
		{
			row.numbers[k] = 0;
			for (int i = 0; i < n; i++)
				a.numbers[(size_t) i * lda + k] = 0;
		}
		for (int step = 0; step <= 4; step++)
		{
			for (int k = 0; k < stride && step > 0; k++)
			{
				real		before = row.numbers[k];

				if (k < inner)
					row.numbers[k] += move[step - 1] *
						random_normal(&random_state);
				shift.numbers[k] = row.numbers[k] - before;
			}
			if (step == 0)
				kernels->first_layers(n, inner, width, a.numbers, lda,
									  row.numbers, w.numbers, bias.numbers,
									  mask, h.numbers, u.numbers, next.numbers);
			else
				kernels->shift_layers(n, inner, width, a.numbers, lda,
									  row.numbers, shift.numbers, w.numbers,
									  bias.numbers, mask, h.numbers, u.numbers,
									  next.numbers);
			kernels->first_layer(ACTIVATION_RELU, n, stride, a.numbers, lda,
								 row.numbers, NULL, expected.numbers);
			broken += !same_bits((size_t) n * stride, h.numbers,
								 expected.numbers);
			for (int i = 0; i < n; i++)
			{
				const real *a_i = a.numbers + (size_t) i * lda;
				const real *h_i = h.numbers + (size_t) i * stride;
				size_t		at = (size_t) i * width;
				uint64_t   *mask_i = mask_alone + (size_t) i * masks;

				for (int j = 0; j < width; j++)
				{
					long double sum = bias.numbers[j];

					size[at + j] += fabsl(sum);
					for (int k = 0; k < inner; k++)
					{
						long double w_kj =
							w.numbers[kernel_weight(inner, k, j)];

						sum += w_kj * h_i[k];
						size[at + j] += fabsl(w_kj) *
							(fabs(a_i[k]) + fabs(row.numbers[k]));
					}
					add_error(&worst, u.numbers[at + j], sum, size[at + j],
							  inner);
					broken += next.numbers[at + j] !=
						(u.numbers[at + j] > 0 ? u.numbers[at + j] : 0);
				}

				if (step == 0)
					kernels->first_layers(1, inner, width, a_i, lda,
										  row.numbers, w.numbers, bias.numbers,
										  mask_i, h_alone.numbers,
										  u_alone.numbers + at,
										  next_alone.numbers);
				else
					kernels->shift_layers(1, inner, width, a_i, lda,
										  row.numbers, shift.numbers,
										  w.numbers, bias.numbers, mask_i,
										  h_alone.numbers,
										  u_alone.numbers + at,
										  next_alone.numbers);
				broken += !same_bits(width, u_alone.numbers + at,
									 u.numbers + at);
				broken += !same_bits(width, next_alone.numbers,
									 next.numbers + at);
				broken += !same_mask(inner, a_i, row.numbers,
									 mask + (size_t) i * masks);

				/* after the large step nearly half of the units have flipped */
				if (step == 4 && inner > 40)
				{
					kernels->layer(ACTIVATION_RELU, 1, inner, width, h_i,
								   stride, w.numbers, bias.numbers, NULL,
								   next_alone.numbers);
					anew += same_bits(width, next_alone.numbers,
									  next.numbers + at);
					large++;
				}
			}
		}
		broken += mask[(size_t) n * masks] != END_OF_MASKS;
		broken += !array_intact(&h) + !array_intact(&u) +
			!array_intact(&next) + !array_intact(&h_alone) +
			!array_intact(&u_alone) + !array_intact(&next_alone);
		free(a.memory);
		free(row.memory);
		free(shift.memory);
		free(w.memory);
		free(bias.memory);
		free(h.memory);
		free(expected.memory);
		free(u.memory);
		free(next.memory);
		free(h_alone.memory);
		free(u_alone.memory);
		free(next_alone.memory);
		free(mask);
		free(mask_alone);
		free(size);
	}
	check(worst <= 1, "shifted layers on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
	check(broken == 0, "shifted layers on %s: masks, the first layer, and a "
		  "row's bits are its own; nothing is overrun", kernels->name);
	check(anew > large * 9 / 10 && large > 100, "shifted layers on %s: %d of "
		  "%d rows that moved far are formed anew", kernels->name, anew, large);
}

/*
 * What is not a number in a sleeping unit, where no mask lets its shift
 * through, still reaches the next layer.
 */
static void
test_shift_nan(void)
{
	static const real bad[] = {NAN, INFINITY, -INFINITY};
	enum {INNER = 20, WIDTH = 2 * KERNEL_PAD, STRIDE = 2 * KERNEL_PAD};
	int			hidden = 0;
	int			broken = 0;

	for (int trial = 0; trial < 3; trial++)
	{
		Array		a = array_of(STRIDE, 1, 0);
		Array		w = array_of(INNER * WIDTH, 1, 0);
		real		row[STRIDE] = {0};
		real		shift[STRIDE] = {0};
		real		h[STRIDE];
		real		u[WIDTH];
		real		next[WIDTH];
		uint64_t	mask;

		memset(a.numbers + INNER, 0, (STRIDE - INNER) * sizeof(real));
		a.numbers[3] = -1;
		kernels->first_layers(1, INNER, WIDTH, a.numbers, STRIDE, row,
							  w.numbers, a.numbers, &mask, h, u, next);

		/* padding comes and goes as NaN, for which there are no weights */
		row[INNER] = NAN;
		kernels->shift_layers(1, INNER, WIDTH, a.numbers, STRIDE, row, shift,
							  w.numbers, a.numbers, &mask, h, u, next);
		broken += mask >> INNER != 0;
		row[INNER] = 0;
		row[3] = shift[3] = bad[trial];
		kernels->shift_layers(1, INNER, WIDTH, a.numbers, STRIDE, row, shift,
							  w.numbers, a.numbers, &mask, h, u, next);
		for (int j = 0; j < WIDTH; j++)
			hidden += bad[trial] < 0 ? !isfinite(next[j]) : isfinite(next[j]) &&
				!(next[j] == 0 && u[j] < 0);
		free(a.memory);
		free(w.memory);
	}
	check(hidden == 0 && broken == 0, "shifted layers on %s: nothing hides what "
		  "is not finite, and padding has no mask", kernels->name);
}

static void
test_masked_products(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(trial % 4 == 0 ? 80 : 12);
		int			inner = draw(6) * KERNEL_PAD;
		int			width = 1 + draw(trial % 8 == 0 ? 600 : 70);
		int			stride = kernel_stride(width);
		int			lda = draw_distance(inner);
		int			ldh = stride + draw(5);
		size_t		count = (size_t) width * inner;
		Array		a = rows_of(n, inner, lda);
		Array		h = rows_of(n, stride, ldh);
		Array		row = array_of(width, 1, draw(KERNEL_PAD));
		Array		c = array_of(count, 1, draw(KERNEL_PAD));
		Array		before = array_of(count, 1, draw(KERNEL_PAD));

		memcpy(before.numbers, c.numbers, count * sizeof(real));
		kernels->add_masked_products(n, inner, width, a.numbers, lda,
									 h.numbers, ldh, row.numbers, c.numbers);
		for (int j = 0; j < width; j++)
			for (int o = 0; o < inner; o++)
			{
				size_t		at = (size_t) j * inner + o;
				long double sum = before.numbers[at];
				long double size = fabsl(sum);

				for (int i = 0; i < n; i++)
				{
					long double term =
						masked(h.numbers + (size_t) i * ldh, j, row.numbers) *
						a.numbers[(size_t) i * lda + o];

					sum += term;
					size += fabsl(term);
				}
				add_error(&worst, c.numbers[at], sum, size, n);
			}
		broken += !array_intact(&c);
		free(a.memory);
		free(h.memory);
		free(row.memory);
		free(c.memory);
		free(before.memory);
	}
	check(worst <= 1 && broken == 0, "masked products on %s: %.2g of the "
		  "rounding error's bound", kernels->name, worst);
}

static void
test_mix_rows(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(12);
		int			width = draw(6) * KERNEL_PAD;
		int			lda = draw_distance(width);
		size_t		count = (size_t) n * width;
		Array		r = array_of(n, 1, draw(KERNEL_PAD));
		Array		s = array_of(n, 1, draw(KERNEL_PAD));
		Array		a = rows_of(n, width, lda);
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		before = array_of(count, 1, draw(KERNEL_PAD));

		memcpy(before.numbers, h.numbers, count * sizeof(real));
		kernels->mix_rows(n, width, r.numbers, a.numbers, lda, s.numbers,
						  h.numbers);
		for (int i = 0; i < n; i++)
			for (int j = 0; j < width; j++)
			{
				size_t		at = (size_t) i * width + j;
				long double x = (long double) r.numbers[i] *
					a.numbers[(size_t) i * lda + j];
				long double y = (long double) s.numbers[i] *
					before.numbers[at];

				if (before.numbers[at] > 0)
					add_error(&worst, h.numbers[at], x + y,
							  fabsl(x) + fabsl(y), 1);
				else
					broken += h.numbers[at] != 0;
			}
		broken += !array_intact(&h);
		free(r.memory);
		free(s.memory);
		free(a.memory);
		free(h.memory);
		free(before.memory);
	}
	check(worst <= 1 && broken == 0, "mixed rows on %s: %.2g of the rounding "
		  "error's bound", kernels->name, worst);
}

static void
test_layer_tangents(Activation activation, const char *name)
{
	bool		relu = activation == ACTIVATION_RELU;
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(20);
		int			inner = draw(40);
		int			width = (1 + draw(10)) * KERNEL_PAD;
		int			lda = draw_distance(inner);
		int			ld_dot = draw_distance(width);
		size_t		count = (size_t) n * width;
		Array		a = rows_of(n, inner, lda);
		Array		w = array_of((size_t) inner * width, 1, draw(KERNEL_PAD));
		Array		b = array_of(count, 1, draw(KERNEL_PAD));
		Array		u_dot_in = rows_of(n, width, ld_dot);
		Array		u_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		h_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		b_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum = array_of(width, 1, draw(KERNEL_PAD));
		Array		u_again = array_of(count, 1, draw(KERNEL_PAD));
		Array		again = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum_again = array_of(width, 1, draw(KERNEL_PAD));
		bool		optional = !relu || draw(2);
		Array		u;
		Array		h;

		activated_rows(activation, n, width, &u, &h);
		kernels->layer_tangent(activation, n, inner, width, a.numbers, lda,
							   w.numbers, u.numbers, h.numbers, u_dot.numbers,
							   h_dot.numbers);
		add_product_errors(&worst, n, inner, width, a.numbers, lda, w.numbers,
						   NULL, u_dot.numbers);
		add_slope_errors(&worst, activation, count, u.numbers, u_dot.numbers,
						 h_dot.numbers);
		kernels->layer_tangent(activation, n, inner, width, a.numbers, lda,
							   w.numbers, maybe_u(activation, &u), h.numbers,
							   optional ? u_again.numbers : NULL,
							   again.numbers);
		broken += !same_bits(count, h_dot.numbers, again.numbers);

		kernels->layer_back_tangent(activation, n, inner, width, a.numbers,
									lda, w.numbers, u.numbers, h.numbers,
									b.numbers, u_dot_in.numbers, ld_dot,
									b_dot.numbers, delta_dot.numbers,
									sum.numbers);
		add_product_errors(&worst, n, inner, width, a.numbers, lda, w.numbers,
						   NULL, b_dot.numbers);
		add_bend_errors(&worst, activation, n, width, u.numbers, b.numbers,
						b_dot.numbers, u_dot_in.numbers, ld_dot,
						delta_dot.numbers);
		add_sum_errors(&worst, n, width, delta_dot.numbers, sum.numbers);
		kernels->layer_back_tangent(activation, n, inner, width, a.numbers,
									lda, w.numbers, maybe_u(activation, &u),
									h.numbers, optional ? b.numbers : NULL,
									optional ? u_dot_in.numbers : NULL, ld_dot,
									optional ? u_again.numbers : NULL,
									again.numbers, sum_again.numbers);
		broken += !same_bits(count, delta_dot.numbers, again.numbers) +
			!same_bits(width, sum.numbers, sum_again.numbers);

		for (int i = 0; i < n; i++)
		{
			size_t		at = (size_t) i * width;
			const real *a_i = a.numbers + (size_t) i * lda;

			kernels->layer_tangent(activation, 1, inner, width, a_i, lda,
								   w.numbers, u.numbers + at, h.numbers + at,
								   u_again.numbers, again.numbers);
			broken += !same_bits(width, u_again.numbers, u_dot.numbers + at) +
				!same_bits(width, again.numbers, h_dot.numbers + at);
			kernels->layer_back_tangent(activation, 1, inner, width, a_i, lda,
										w.numbers, u.numbers + at,
										h.numbers + at, b.numbers + at,
										u_dot_in.numbers + (size_t) i * ld_dot,
										ld_dot, u_again.numbers, again.numbers,
										sum_again.numbers);
			broken += !same_bits(width, u_again.numbers, b_dot.numbers + at) +
				!same_bits(width, again.numbers, delta_dot.numbers + at);
		}
		broken += !array_intact(&u_dot) + !array_intact(&h_dot) +
			!array_intact(&b_dot) + !array_intact(&delta_dot) +
			!array_intact(&sum) + !array_intact(&u_again) +
			!array_intact(&again) + !array_intact(&sum_again);
		free(a.memory);
		free(w.memory);
		free(b.memory);
		free(u_dot_in.memory);
		free(u_dot.memory);
		free(h_dot.memory);
		free(b_dot.memory);
		free(delta_dot.memory);
		free(sum.memory);
		free(u_again.memory);
		free(again.memory);
		free(sum_again.memory);
		free(u.memory);
		free(h.memory);
	}
	check(worst <= 1, "tangents of a %s layer on %s: %.2g of the rounding "
		  "error's bound", name, kernels->name, worst);
	check(broken == 0, "tangents of a %s layer on %s: a row's bits are its "
		  "own, nothing is overrun", name, kernels->name);
}

static void
test_first_layer(Activation activation, const char *name)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(12);
		int			width = draw(6) * KERNEL_PAD;
		int			lda = draw_distance(width);
		size_t		count = (size_t) n * width;
		Array		a = rows_of(n, width, lda);
		Array		row = array_of(width, 1, draw(KERNEL_PAD));
		Array		u = array_of(count, 1, draw(KERNEL_PAD));
		Array		h = array_of(count, 1, draw(KERNEL_PAD));
		Array		again = array_of(count, 1, draw(KERNEL_PAD));
		Array		row_u = array_of(width, 1, draw(KERNEL_PAD));
		Array		row_h = array_of(width, 1, draw(KERNEL_PAD));

		kernels->first_layer(activation, n, width, a.numbers, lda,
							 row.numbers, u.numbers, h.numbers);
		add_value_errors(&worst, activation, count, u.numbers, h.numbers);
		if (activation != ACTIVATION_GELU)
		{
			kernels->first_layer(activation, n, width, a.numbers, lda,
								 row.numbers, NULL, again.numbers);
			broken += !same_bits(count, h.numbers, again.numbers);
		}
		for (int i = 0; i < n; i++)
		{
			const real *a_i = a.numbers + (size_t) i * lda;
			size_t		at = (size_t) i * width;

			for (int j = 0; j < width; j++)
				broken += u.numbers[at + j] != a_i[j] + row.numbers[j];
			kernels->first_layer(activation, 1, width, a_i, lda, row.numbers,
								 row_u.numbers, row_h.numbers);
			broken += !same_bits(width, row_u.numbers, u.numbers + at) +
				!same_bits(width, row_h.numbers, h.numbers + at);
		}
		broken += !array_intact(&u) + !array_intact(&h) +
			!array_intact(&again) + !array_intact(&row_u) +
			!array_intact(&row_h);
		free(a.memory);
		free(row.memory);
		free(u.memory);
		free(h.memory);
		free(again.memory);
		free(row_u.memory);
		free(row_h.memory);
	}
	check(worst <= 1, "first %s layer on %s: %.2g of the rounding error's "
		  "bound", name, kernels->name, worst);
	check(broken == 0, "first %s layer on %s: a row's bits are its own, "
		  "nothing is overrun", name, kernels->name);
}

/* A width of 0 is a network of one layer, which has neither h nor `last`. */
static void
test_last_layer(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 400; trial++)
	{
		int			n = draw(12);
		int			width = draw(6) * KERNEL_PAD;
		int			factor_width = draw(2 * KERNEL_PAD + 1);
		int			ldf = draw_distance(kernel_stride(factor_width));
		Array		h = array_of((size_t) n * width, 1, draw(KERNEL_PAD));
		Array		last = array_of(width, 1, draw(KERNEL_PAD));
		Array		f = rows_of(n, kernel_stride(factor_width), ldf);
		Array		factor = array_of(kernel_stride(factor_width), 1,
									  draw(KERNEL_PAD));
		Array		offset = array_of(n, 1, draw(KERNEL_PAD));
		Array		s = array_of(n, 1, draw(KERNEL_PAD));
		Array		alone = array_of(1, 1, draw(KERNEL_PAD));
		real		bias = random_normal(&random_state);
		bool		offsets = draw(2);
		const real *h_given = width > 0 ? h.numbers : NULL;
		const real *last_given = width > 0 ? last.numbers : NULL;

		clear_padding(&f, n, factor_width, ldf);
		clear_padding(&factor, 1, factor_width, 0);
		kernels->last_layer(n, width, h_given, last_given, factor_width,
							f.numbers, ldf, factor.numbers, bias,
							offsets ? offset.numbers : NULL, s.numbers);
		for (int i = 0; i < n; i++)
		{
			const real *h_i = width > 0 ? h_given + (size_t) i * width : NULL;
			const real *f_i = f.numbers + (size_t) i * ldf;
			long double sum = offsets ? offset.numbers[i] : 0;
			long double size = fabsl(sum) + fabsl((long double) bias);

			sum += bias;
			for (int j = 0; j < width; j++)
			{
				long double term = (long double) h_i[j] * last.numbers[j];

				sum += term;
				size += fabsl(term);
			}
			for (int j = 0; j < factor_width; j++)
			{
				long double term = (long double) f_i[j] * factor.numbers[j];

				sum += term;
				size += fabsl(term);
			}
			add_error(&worst, s.numbers[i], sum, size, width + factor_width);

			kernels->last_layer(1, width, h_i, last_given, factor_width, f_i,
								ldf, factor.numbers, bias,
								offsets ? offset.numbers + i : NULL,
								alone.numbers);
			broken += !same_bits(1, alone.numbers, s.numbers + i);
		}
		broken += !array_intact(&s) + !array_intact(&alone);
		free(h.memory);
		free(last.memory);
		free(f.memory);
		free(factor.memory);
		free(offset.memory);
		free(s.memory);
		free(alone.memory);
	}
	check(worst <= 1, "last layer on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
	check(broken == 0, "last layer on %s: a row's bits are its own, nothing "
		  "is overrun", kernels->name);
}

/* The last layer backwards, and the tangent of that. */
/* Rows and the vector have no padding, and nothing after the last row. */
static void
test_add_dots(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 400; trial++)
	{
		int			n = 1 + draw(12);
		int			width = 1 + draw(70);
		int			lda = width + draw(3);
		Array		a = rows_of(n, width, lda);
		Array		v = array_of(width, 1, draw(KERNEL_PAD));
		Array		before = array_of(n, 1, draw(KERNEL_PAD));
		Array		s = array_of(n, 1, draw(KERNEL_PAD));
		real		bias = random_normal(&random_state);

		memcpy(s.numbers, before.numbers, n * sizeof(real));
		kernels->add_dots(n, width, a.numbers, lda, v.numbers, bias,
						  s.numbers);
		for (int i = 0; i < n; i++)
		{
			const real *a_i = a.numbers + (size_t) i * lda;
			long double sum = (long double) before.numbers[i] + bias;
			long double size = fabsl((long double) before.numbers[i]) +
				fabsl((long double) bias);
			real		alone = before.numbers[i];

			for (int j = 0; j < width; j++)
			{
				long double term = (long double) a_i[j] * v.numbers[j];

				sum += term;
				size += fabsl(term);
			}
			add_error(&worst, s.numbers[i], sum, size, width);
			kernels->add_dots(1, width, a_i, lda, v.numbers, bias, &alone);
			broken += !same_bits(1, &alone, s.numbers + i);
		}
		broken += !array_intact(&s);
		free(a.memory);
		free(v.memory);
		free(before.memory);
		free(s.memory);
	}
	check(worst <= 1, "dots on %s: %.2g of the rounding error's bound",
		  kernels->name, worst);
	check(broken == 0, "dots on %s: a row's bits are its own, nothing is "
		  "overrun", kernels->name);
}

static void
test_last_layer_back(Activation activation, const char *name)
{
	bool		relu = activation == ACTIVATION_RELU;
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 120; trial++)
	{
		int			n = draw(12);
		int			width = draw(6) * KERNEL_PAD;
		int			ld_dot = draw_distance(width);
		size_t		count = (size_t) n * width;
		Array		r = array_of(n, 1, draw(KERNEL_PAD));
		Array		r_dot = array_of(n, 1, draw(KERNEL_PAD));
		Array		last = array_of(width, 1, draw(KERNEL_PAD));
		Array		u_dot = rows_of(n, width, ld_dot);
		Array		b = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum = array_of(width, 1, draw(KERNEL_PAD));
		Array		b_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		delta_dot = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum_dot = array_of(width, 1, draw(KERNEL_PAD));
		Array		b_again = array_of(count, 1, draw(KERNEL_PAD));
		Array		again = array_of(count, 1, draw(KERNEL_PAD));
		Array		sum_again = array_of(width, 1, draw(KERNEL_PAD));
		bool		bent = !relu || draw(2);
		Array		u;
		Array		h;

		activated_rows(activation, n, width, &u, &h);
		kernels->last_layer_back(activation, n, width, r.numbers, last.numbers,
								 u.numbers, h.numbers, b.numbers,
								 delta.numbers, sum.numbers);
		kernels->last_layer_back_tangent(activation, n, width, r_dot.numbers,
										 last.numbers, u.numbers, h.numbers,
										 b.numbers, u_dot.numbers, ld_dot,
										 b_dot.numbers, delta_dot.numbers,
										 sum_dot.numbers);
		for (int i = 0; i < n; i++)
			for (int j = 0; j < width; j++)
			{
				size_t		at = (size_t) i * width + j;

				broken += b.numbers[at] != r.numbers[i] * last.numbers[j];
				broken += b_dot.numbers[at] !=
					r_dot.numbers[i] * last.numbers[j];
			}
		add_slope_errors(&worst, activation, count, u.numbers, b.numbers,
						 delta.numbers);
		add_bend_errors(&worst, activation, n, width, u.numbers, b.numbers,
						b_dot.numbers, u_dot.numbers, ld_dot,
						delta_dot.numbers);
		add_sum_errors(&worst, n, width, delta.numbers, sum.numbers);
		add_sum_errors(&worst, n, width, delta_dot.numbers, sum_dot.numbers);

		/* without what is optional */
		kernels->last_layer_back(activation, n, width, r.numbers, last.numbers,
								 maybe_u(activation, &u), h.numbers, NULL,
								 again.numbers, sum_again.numbers);
		broken += !same_bits(count, delta.numbers, again.numbers) +
			!same_bits(width, sum.numbers, sum_again.numbers);
		kernels->last_layer_back_tangent(activation, n, width, r_dot.numbers,
										 last.numbers, maybe_u(activation, &u),
										 h.numbers, bent ? b.numbers : NULL,
										 bent ? u_dot.numbers : NULL, ld_dot,
										 NULL, again.numbers,
										 sum_again.numbers);
		broken += !same_bits(count, delta_dot.numbers, again.numbers) +
			!same_bits(width, sum_dot.numbers, sum_again.numbers);

		if (relu)
		{
			/* the sum alone */
			kernels->last_layer_back(activation, n, width, r.numbers,
									 last.numbers, NULL, h.numbers, NULL, NULL,
									 sum_again.numbers);
			broken += !same_bits(width, sum.numbers, sum_again.numbers);
			kernels->last_layer_back_tangent(activation, n, width,
											 r_dot.numbers, last.numbers, NULL,
											 h.numbers, NULL, NULL, ld_dot,
											 NULL, NULL, sum_again.numbers);
			broken += !same_bits(width, sum_dot.numbers, sum_again.numbers);
		}

		for (int i = 0; i < n; i++)
		{
			size_t		at = (size_t) i * width;

			kernels->last_layer_back(activation, 1, width, r.numbers + i,
									 last.numbers, u.numbers + at,
									 h.numbers + at, b_again.numbers,
									 again.numbers, sum_again.numbers);
			broken += !same_bits(width, b_again.numbers, b.numbers + at) +
				!same_bits(width, again.numbers, delta.numbers + at);
			for (int j = 0; j < width; j++)
				broken += sum_again.numbers[j] != again.numbers[j];
			kernels->last_layer_back_tangent(activation, 1, width,
											 r_dot.numbers + i, last.numbers,
											 u.numbers + at, h.numbers + at,
											 b.numbers + at,
											 u_dot.numbers +
											 (size_t) i * ld_dot, ld_dot,
											 b_again.numbers, again.numbers,
											 sum_again.numbers);
			broken += !same_bits(width, again.numbers, delta_dot.numbers + at);
		}
		broken += !array_intact(&b) + !array_intact(&delta) +
			!array_intact(&sum) + !array_intact(&b_dot) +
			!array_intact(&delta_dot) + !array_intact(&sum_dot) +
			!array_intact(&b_again) + !array_intact(&again) +
			!array_intact(&sum_again);
		free(r.memory);
		free(r_dot.memory);
		free(last.memory);
		free(u_dot.memory);
		free(b.memory);
		free(delta.memory);
		free(sum.memory);
		free(b_dot.memory);
		free(delta_dot.memory);
		free(sum_dot.memory);
		free(b_again.memory);
		free(again.memory);
		free(sum_again.memory);
		free(u.memory);
		free(h.memory);
	}
	check(worst <= 1, "last %s layer backwards on %s: %.2g of the rounding "
		  "error's bound", name, kernels->name, worst);
	check(broken == 0, "last %s layer backwards on %s: a row's bits are its "
		  "own, nothing is overrun", name, kernels->name);
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
		Array		q = rows_of(terms, q_width, ldq);
		Array		p = rows_of(terms, width, ldp);
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
	check(worst <= 1 && broken == 0, "pairs on %s: %.2g of the rounding "
		  "error's bound", kernels->name, worst);
}

/* The score from which on exp stays where it is, a normal number. */
#ifdef LIMAML_DOUBLE
#define SATURATED 708
#else
#define SATURATED 87
#endif

static long double
plain_sigmoid(long double s)
{
	return s >= 0 ? 1 / (1 + expl(-s)) : expl(s) / (1 + expl(s));
}

/* A row's loss, and its derivatives before those too small become 0. */
static long double
plain_loss(Loss loss, long double s, long double y, long double *slope,
		   long double *curvature)
{
	if (loss == LOSS_SQUARED)
	{
		*slope = s - y;
		*curvature = 1;
		return (s - y) * (s - y) / 2;
	}
	*slope = y == 1 ? -plain_sigmoid(-s) : plain_sigmoid(s) - y;
	*curvature = plain_sigmoid(s) * plain_sigmoid(-s);
	return (s > 0 ? s : 0) - y * s + log1pl(expl(-fabsl(s)));
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

/* Whether a number is 0 where it is small, and right where it is not. */
static bool
cut_off(real got, long double expected)
{
	if (fabsl(expected) < 0.9999e-18L)
		return got == 0;
	return fabsl(expected) < 1.0001e-18L || units_off(got, expected) <= 6;
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
	real		loss;

	for (real s = -SATURATED; s <= SATURATED; s += 0.0625)
	{
		real		p = sigmoid_of(s);

		worst[0] = fmax(worst[0], units_off(p, plain_sigmoid(s)));
		wrong += is_denormal(p);
		for (int l = 0; l < 5; l++)
		{
			real		y = labels[l];
			bool		whole = y == 0 || y == 1;
			long double bend;
			long double expected;
			long double value = plain_loss(LOSS_BINARY, s, y, &expected,
										   &bend);

			/* a fraction's loss is a difference, and so is its slope */
			loss = loss_of(LOSS_BINARY, s, y, &slope, &curvature);
			worst[1] = fmax(worst[1], fabsl(loss - value) / REAL_EPSILON /
							(whole ? value : 1 + fabsl((long double) s)));
			if (!whole)
				worst[2] = fmax(worst[2],
								fabsl(slope - expected) / REAL_EPSILON);
			else if (fabsl(expected) >= 1.0001e-18L)
				worst[2] = fmax(worst[2], units_off(slope, expected));
			if (bend >= 1.0001e-18L)
				worst[3] = fmax(worst[3], units_off(curvature, bend));
			wrong += is_denormal(loss) || is_denormal(slope) ||
				is_denormal(curvature);
		}
	}
	check(worst[0] <= 4 && worst[1] <= 6 && worst[2] <= 4 && worst[3] <= 6,
		  "sigmoid, log loss, its slope and curvature on %s: %.2g, %.2g, "
		  "%.2g, %.2g units off", kernels->name, worst[0], worst[1], worst[2],
		  worst[3]);

	for (int i = 0; i < 4; i++)
	{
		real		s = far[i];
		long double least = expl(s > SATURATED ? -SATURATED :
								 -(long double) s);

		loss = loss_of(LOSS_BINARY, s, 1, &slope, &curvature);
		wrong += units_off(loss, least) > 6 || slope != 0 || curvature != 0 ||
			is_denormal(loss);
		loss = loss_of(LOSS_BINARY, -s, 0, &slope, &curvature);
		wrong += units_off(loss, least) > 6 || slope != 0 || curvature != 0 ||
			is_denormal(loss);
		wrong += loss_of(LOSS_BINARY, s, 0, &slope, &curvature) != s ||
			slope != 1 || curvature != 0;
		wrong += loss_of(LOSS_BINARY, -s, 1, &slope, &curvature) != s ||
			slope != -1 || curvature != 0;
		wrong += loss_of(LOSS_BINARY, s, 0.5, &slope, &curvature) != s / 2 ||
			slope != 0.5 || curvature != 0;
		wrong += loss_of(LOSS_BINARY, -s, 0.5, &slope, &curvature) != s / 2 ||
			slope != -0.5 || curvature != 0;
		wrong += sigmoid_of(s) != 1 || units_off(sigmoid_of(-s), least) > 4 ||
			is_denormal(sigmoid_of(-s));
		if (s > SATURATED)
			wrong += sigmoid_of(-s) != sigmoid_of(-SATURATED);
	}
	wrong += sigmoid_of(INFINITY) != 1 ||
		sigmoid_of(-INFINITY) != sigmoid_of(-SATURATED);
	check(wrong == 0, "log loss and sigmoid on %s are exact far out, and "
		  "never denormal", kernels->name);

	wrong = 0;
	for (real s = -42; s <= -41; s += 1.0 / 1024)
	{
		long double p = plain_sigmoid(s);
		long double bend = p * plain_sigmoid(-s);

		loss_of(LOSS_BINARY, s, 0, &slope, &curvature);
		wrong += !cut_off(slope, p) || !cut_off(curvature, bend);
		loss_of(LOSS_BINARY, -s, 1, &slope, &curvature);
		wrong += !cut_off(slope, -p) || !cut_off(curvature, bend);
	}
	for (int sign = -1; sign <= 1; sign += 2)
	{
		real		below = sign * 0.99e-18;
		real		above = sign * 1.01e-18;
		real		no = 0;

		/* the size that counts is the one before scaling */
		loss_of(LOSS_SQUARED, below, 0, &slope, &curvature);
		wrong += slope != 0 || curvature != 1;
		loss_of(LOSS_SQUARED, above, 0, &slope, &curvature);
		wrong += slope != above || curvature != 1;
		kernels->losses(LOSS_SQUARED, 1, 1024, &below, &no, NULL, &slope,
						&curvature);
		wrong += slope != 0 || curvature != 1024;
		kernels->losses(LOSS_SQUARED, 1, 0x1p-10, &above, &no, NULL, &slope,
						&curvature);
		wrong += slope != above / 1024 || curvature != (real) 0x1p-10;
	}
	check(wrong == 0, "slopes and curvatures under 1e-18 are 0 on %s, others "
		  "are not", kernels->name);

	check(isnan(loss_of(LOSS_BINARY, NAN, 1, &slope, &curvature)) &&
		  isnan(slope) && isnan(curvature) &&
		  isnan(loss_of(LOSS_BINARY, NAN, 0, &slope, &curvature)) &&
		  isnan(slope) && isnan(curvature) && isnan(sigmoid_of(NAN)) &&
		  isnan(loss_of(LOSS_SQUARED, NAN, 1, &slope, &curvature)) &&
		  isnan(slope), "losses of NaN on %s are NaN", kernels->name);
	check(loss_of(LOSS_SQUARED, 3, 1, &slope, &curvature) == 2 &&
		  slope == 2 && curvature == 1 &&
		  loss_of(LOSS_SQUARED, -1, 0.5, &slope, &curvature) == 1.125 &&
		  slope == -1.5 && curvature == 1,
		  "squared loss and its derivatives on %s", kernels->name);
}

/* A score, at times one that saturates. */
static real
draw_score(void)
{
	static const real far[] = {30, 60, 100, 1e4};

	if (draw(6) == 0)
		return far[draw(4)] * (draw(2) ? 1 : -1);
	return 4 * random_normal(&random_state);
}

/*
 * Many rows, each by its definition, weight and scale included; their sum; and
 * each one's bits wherever it stands.
 */
static void
test_loss_rows(void)
{
	double		worst = 0;
	int			broken = 0;

	for (int trial = 0; trial < 400; trial++)
	{
		int			n = draw(40);
		Loss		loss = draw(2) ? LOSS_BINARY : LOSS_SQUARED;
		Array		s = array_of(n, 1, draw(KERNEL_PAD));
		Array		y = array_of(n, 1, draw(KERNEL_PAD));
		Array		weight = array_of(n, 1, draw(KERNEL_PAD));
		Array		r = array_of(n, 1, draw(KERNEL_PAD));
		Array		c = array_of(n, 1, draw(KERNEL_PAD));
		Array		p = array_of(n, 1, draw(KERNEL_PAD));
		bool		weighted = draw(2);
		bool		curved = draw(2);
		real		scale = random_normal(&random_state);
		long double total = 0;
		long double total_size = 0;
		real		sum;

		for (int i = 0; i < n; i++)
		{
			s.numbers[i] = draw_score();
			if (loss == LOSS_BINARY)
				y.numbers[i] = draw(4) == 0 ? 0.3 : draw(2);
			weight.numbers[i] = draw(4) == 0 ? 0 : fabs(weight.numbers[i]);
		}
		sum = kernels->losses(loss, n, scale, s.numbers, y.numbers,
							  weighted ? weight.numbers : NULL, r.numbers,
							  curved ? c.numbers : NULL);
		kernels->sigmoid(n, s.numbers, p.numbers);
		for (int i = 0; i < n; i++)
		{
			real		s_i = s.numbers[i];
			real		y_i = y.numbers[i];
			real		w = weighted ? weight.numbers[i] : 1;
			bool		fraction = loss == LOSS_BINARY && y_i != 0 && y_i != 1;
			real		alone = sigmoid_of(s_i);
			long double bound = fabsl((long double) scale * w);
			long double slope;
			long double curvature;
			long double value = plain_loss(loss, s_i, y_i, &slope, &curvature);
			long double size = fraction ? 1 + fabsl((long double) s_i) :
				value + 1e-30L;
			real		r_alone;
			real		c_alone;
			real		own;

			broken += !same_bits(1, &alone, p.numbers + i);
			own = kernels->losses(loss, 1, scale, &s_i, &y_i, &w, &r_alone,
								  &c_alone);
			broken += !same_bits(1, &r_alone, r.numbers + i) ||
				(curved && !same_bits(1, &c_alone, c.numbers + i));
			add_error(&worst, own, w * value, w * size, 6);
			total += w * value;
			total_size += w * size;

			/* those too small are 0 */
			if (fabsl(slope) < 1e-18L)
				slope = 0;
			if (curvature < 1e-18L)
				curvature = 0;
			add_error(&worst, r.numbers[i], scale * (long double) w * slope,
					  bound * (fraction ? 1 : fabsl(slope)), 4);
			if (curved)
				add_error(&worst, c.numbers[i],
						  scale * (long double) w * curvature,
						  bound * curvature, 6);
		}
		add_error(&worst, sum, total, total_size, n + 6);
		broken += !array_intact(&r) + !array_intact(&c) + !array_intact(&p);

		/* in place */
		kernels->sigmoid(n, s.numbers, s.numbers);
		broken += !same_bits(n, s.numbers, p.numbers) + !array_intact(&s);
		free(s.memory);
		free(y.memory);
		free(weight.memory);
		free(r.memory);
		free(c.memory);
		free(p.memory);
	}
	check(worst <= 1, "losses of rows on %s: %.2g of the rounding error's "
		  "bound", kernels->name, worst);
	check(broken == 0, "losses and sigmoids on %s: a row's bits are its own, "
		  "nothing is overrun", kernels->name);
}

/* A NaN among other scores shows in the sum and in its own row. */
static void
test_loss_nan(Loss loss)
{
	enum
	{
		ROWS = 2 * KERNEL_PAD + 5
	};
	Array		s = array_of(ROWS, 1, 0);
	Array		y = array_of(ROWS, 1, 0);
	Array		r = array_of(ROWS, 1, 0);
	Array		r_nan = array_of(ROWS, 1, 0);
	Array		c = array_of(ROWS, 1, 0);
	Array		c_nan = array_of(ROWS, 1, 0);
	Array		p = array_of(ROWS, 1, 0);
	Array		p_nan = array_of(ROWS, 1, 0);
	int			wrong = 0;

	for (int i = 0; i < ROWS; i++)
		y.numbers[i] = draw(2);
	kernels->losses(loss, ROWS, 2, s.numbers, y.numbers, NULL, r.numbers,
					c.numbers);
	kernels->sigmoid(ROWS, s.numbers, p.numbers);
	for (int i = 0; i < ROWS; i++)
	{
		real		before = s.numbers[i];

		s.numbers[i] = NAN;
		wrong += !isnan(kernels->losses(loss, ROWS, 2, s.numbers, y.numbers,
										NULL, r_nan.numbers, c_nan.numbers));
		kernels->sigmoid(ROWS, s.numbers, p_nan.numbers);
		s.numbers[i] = before;
		wrong += !isnan(r_nan.numbers[i]) || !isnan(p_nan.numbers[i]) ||
			(loss == LOSS_BINARY && !isnan(c_nan.numbers[i]));
		r_nan.numbers[i] = r.numbers[i];
		c_nan.numbers[i] = c.numbers[i];
		p_nan.numbers[i] = p.numbers[i];
		wrong += !same_bits(ROWS, r.numbers, r_nan.numbers) +
			!same_bits(ROWS, c.numbers, c_nan.numbers) +
			!same_bits(ROWS, p.numbers, p_nan.numbers);
	}
	check(wrong == 0, "a NaN among %s losses on %s is its row's alone",
		  loss == LOSS_BINARY ? "log" : "squared", kernels->name);
	free(s.memory);
	free(y.memory);
	free(r.memory);
	free(r_nan.memory);
	free(c.memory);
	free(c_nan.memory);
	free(p.memory);
	free(p_nan.memory);
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
		test_layer(ACTIVATION_TANH, "tanh");
		test_layer(ACTIVATION_RELU, "relu");
		test_layer(ACTIVATION_GELU, "gelu");
		test_whole_first_layer(ACTIVATION_TANH, "tanh");
		test_whole_first_layer(ACTIVATION_RELU, "relu");
		test_whole_first_layer(ACTIVATION_GELU, "gelu");
		test_layer_back(ACTIVATION_TANH, "tanh");
		test_layer_back(ACTIVATION_RELU, "relu");
		test_layer_back(ACTIVATION_GELU, "gelu");
		test_layer_back_sum();
		test_masked_layer();
		test_shift_layers();
		test_shift_nan();
		test_masked_products();
		test_mix_rows();
		test_layer_tangents(ACTIVATION_TANH, "tanh");
		test_layer_tangents(ACTIVATION_RELU, "relu");
		test_layer_tangents(ACTIVATION_GELU, "gelu");
		test_first_layer(ACTIVATION_TANH, "tanh");
		test_first_layer(ACTIVATION_RELU, "relu");
		test_first_layer(ACTIVATION_GELU, "gelu");
		test_last_layer();
		test_add_dots();
		test_last_layer_back(ACTIVATION_TANH, "tanh");
		test_last_layer_back(ACTIVATION_RELU, "relu");
		test_last_layer_back(ACTIVATION_GELU, "gelu");
		test_pairs();
		test_losses();
		test_loss_rows();
		test_loss_nan(LOSS_BINARY);
		test_loss_nan(LOSS_SQUARED);
		test_special();
		test_nan(ACTIVATION_TANH, "tanh", 3 * KERNEL_PAD);
		test_nan(ACTIVATION_TANH, "tanh", 9 * KERNEL_PAD);
		test_nan(ACTIVATION_RELU, "relu", 3 * KERNEL_PAD);
		test_nan(ACTIVATION_RELU, "relu", 9 * KERNEL_PAD);
		test_nan(ACTIVATION_GELU, "gelu", 3 * KERNEL_PAD);
		test_nan(ACTIVATION_GELU, "gelu", 9 * KERNEL_PAD);
		test_tanh();
	}
	test_blas();
	return check_end();
}
