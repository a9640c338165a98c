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
		test_special();
		test_nan(ACTIVATION_TANH, "tanh");
		test_nan(ACTIVATION_RELU, "relu");
		test_nan(ACTIVATION_GELU, "gelu");
		test_tanh();
	}
	test_blas();
	return check_end();
}
