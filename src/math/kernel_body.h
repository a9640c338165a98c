/*
 * kernel_body.h
 *	  The kernels, written once in the compiler's vector types.
 *
 * Included by one file per instruction set, which defines KERNEL_NAME, the
 * vector's size KERNEL_BYTES, and the register block of multiply: KERNEL_ROWS
 * rows by KERNEL_VECTORS vectors, as many accumulators as the set's registers
 * hold beside the operands.
 */
#include "kernel.h"

#include <string.h>

#ifdef LIMAML_DOUBLE
typedef int64_t lane_int;
#define EXPONENT_SHIFT 52
#define ROUNDING_MAGIC 0x1.8p52
#define LN2_HIGH 0x1.62e42fefa38p-1
#define LN2_LOW 0x1.ef35793c7673p-45
#define TANH_LIMIT 20.0
#define EXPM1_TERMS 13
#else
typedef int32_t lane_int;
#define EXPONENT_SHIFT 23
#define ROUNDING_MAGIC 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define TANH_LIMIT 10.0f
#define EXPM1_TERMS 6
#endif

#define LANES ((int) (KERNEL_BYTES / sizeof(real)))

typedef real vector __attribute__((vector_size(KERNEL_BYTES)));
typedef lane_int ivector __attribute__((vector_size(KERNEL_BYTES)));

/* The same at any address: a caller's arrays need not be aligned. */
typedef real loose_vector __attribute__((vector_size(KERNEL_BYTES),
										 aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vector
load(const real *p)
{
	return *(const loose_vector *) p;
}

INLINE void
store(real *p, vector v)
{
	*(loose_vector *) p = v;
}

INLINE vector
splat(real x)
{
	return x - (vector) {0};
}

INLINE vector
where(ivector mask, vector yes, vector no)
{
	return (vector) ((mask & (ivector) yes) | (~mask & (ivector) no));
}

/*
 * A block of rows x vectors of C.  Both counts are constants where this is
 * inlined, so that `sum` lives in registers.
 */
INLINE void
multiply_block(const int rows, const int vectors, int inner, int width,
			   const real *a, int lda, const real *b, const real *bias,
			   real *c)
{
	vector		sum[KERNEL_ROWS][KERNEL_VECTORS];

	for (int r = 0; r < rows; r++)
		for (int v = 0; v < vectors; v++)
			sum[r][v] = bias ? load(bias + v * LANES) : splat(0);

	for (int k = 0; k < inner; k++)
	{
		vector		b_k[KERNEL_VECTORS];

		for (int v = 0; v < vectors; v++)
			b_k[v] = load(b + (size_t) k * width + v * LANES);
		for (int r = 0; r < rows; r++)
		{
			vector		a_rk = splat(a[(size_t) r * lda + k]);

			for (int v = 0; v < vectors; v++)
				sum[r][v] += a_rk * b_k[v];
		}
	}

	for (int r = 0; r < rows; r++)
		for (int v = 0; v < vectors; v++)
			store(c + (size_t) r * width + v * LANES, sum[r][v]);
}

/* All columns of `rows` rows. */
INLINE void
multiply_rows(const int rows, int inner, int width, const real *a, int lda,
			  const real *b, const real *bias, real *c)
{
	int			j = 0;

	for (; j + KERNEL_VECTORS * LANES <= width; j += KERNEL_VECTORS * LANES)
		multiply_block(rows, KERNEL_VECTORS, inner, width, a, lda, b + j,
					   bias ? bias + j : NULL, c + j);
	for (; j < width; j += LANES)
		multiply_block(rows, 1, inner, width, a, lda, b + j,
					   bias ? bias + j : NULL, c + j);
}

static void
multiply(int n, int inner, int width, const real *a, int lda, const real *b,
		 const real *bias, real *c)
{
	int			i = 0;

	for (; i + KERNEL_ROWS <= n; i += KERNEL_ROWS)
		multiply_rows(KERNEL_ROWS, inner, width, a + (size_t) i * lda, lda,
					  b, bias, c + (size_t) i * width);
	for (; i + 2 <= n; i += 2)
		multiply_rows(2, inner, width, a + (size_t) i * lda, lda,
					  b, bias, c + (size_t) i * width);
	if (i < n)
		multiply_rows(1, inner, width, a + (size_t) i * lda, lda,
					  b, bias, c + (size_t) i * width);
}

static real
dot(int width, const real *a, const real *b)
{
	vector		sum = splat(0);
	real		total = 0;

	for (int j = 0; j < width; j += LANES)
		sum += load(a + j) * load(b + j);
	for (int l = 0; l < LANES; l++)
		total += sum[l];
	return total;
}

static void
add_scaled(int width, real scale, const real *x, real *y)
{
	for (int j = 0; j < width; j += LANES)
		store(y + j, load(y + j) + scale * load(x + j));
}

static void
add_row(int n, int width, const real *a, int lda, const real *row, real *c)
{
	for (int i = 0; i < n; i++, a += lda, c += width)
		for (int j = 0; j < width; j += LANES)
			store(c + j, load(a + j) + load(row + j));
}

static void
sum_rows(int n, int width, const real *weight, const real *a, int lda,
		 real *sum)
{
	for (int j = 0; j < width; j += LANES)
	{
		vector		total = splat(0);

		if (weight)
			for (int i = 0; i < n; i++)
				total += weight[i] * load(a + (size_t) i * lda + j);
		else
			for (int i = 0; i < n; i++)
				total += load(a + (size_t) i * lda + j);
		store(sum + j, total);
	}
}

/*
 * tanh |x| = t / (t + 2) with t = exp(2 |x|) - 1, which keeps the relative
 * precision of small x.  With 2 |x| = k ln 2 + r, |r| <= ln 2 / 2,
 *
 *	  t = 2^k (exp(r) - 1) + (2^k - 1),
 *
 * and exp(r) - 1 by its Taylor series: EXPM1_TERMS terms after r leave less
 * than half a unit in the last place.
 */
INLINE vector
tanh_of(vector x)
{
	static const real inverse_factorial[] = {
		1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040,
		1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
		1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200
	};
	const vector magic = splat(ROUNDING_MAGIC);
	ivector		sign = (ivector) x & (ivector) splat(-0.0);
	vector		y = (vector) ((ivector) x & ~(ivector) splat(-0.0));
	vector		shifted,
				k,
				r,
				series,
				scale,
				t;

	/* comparisons are such that NaN stays NaN */
	y = 2 * where(y > splat(TANH_LIMIT), splat(TANH_LIMIT), y);

	/* adding the magic number leaves the nearest integer in the low bits */
	shifted = y * (real) M_LOG2E + magic;
	k = shifted - magic;
	r = y - k * LN2_HIGH;
	r = r - k * LN2_LOW;

	series = splat(inverse_factorial[EXPM1_TERMS - 1]);
	for (int i = EXPM1_TERMS - 2; i >= 0; i--)
		series = series * r + inverse_factorial[i];
	series = series * r * r + r;

	scale = (vector) ((ivector) splat(1) +
					  (((ivector) shifted - (ivector) magic)
					   << EXPONENT_SHIFT));
	t = scale * series + (scale - 1);
	t = t / (t + 2);
	return (vector) ((ivector) t | sign);
}

/* The normal distribution's density and distribution function, for gelu. */
static real
normal_density(real u)
{
	return (real) 0.39894228040143267794 * REAL(exp) (-u * u / 2);
}

static real
normal_distribution(real u)
{
	return REAL(erfc) (-u * (real) M_SQRT1_2) / 2;
}

/* a(u) */
INLINE vector
value_of(const Activation activation, vector u)
{
	vector		h;

	switch (activation)
	{
		case ACTIVATION_TANH:
			return tanh_of(u);
		case ACTIVATION_RELU:
			return where(u <= splat(0), splat(0), u);
		case ACTIVATION_GELU:
			break;
	}
	for (int l = 0; l < LANES; l++)
		h[l] = u[l] * normal_distribution(u[l]);
	return h;
}

/* a'(u); h = a(u) is enough but for gelu */
INLINE vector
slope_of(const Activation activation, vector u, vector h)
{
	vector		slope;

	switch (activation)
	{
		case ACTIVATION_TANH:
			return 1 - h * h;
		case ACTIVATION_RELU:
			return where(h > splat(0), splat(1), splat(0));
		case ACTIVATION_GELU:
			break;
	}
	for (int l = 0; l < LANES; l++)
		slope[l] = normal_distribution(u[l]) + u[l] * normal_density(u[l]);
	return slope;
}

/* a''(u) */
INLINE vector
curvature_of(const Activation activation, vector u, vector h)
{
	vector		curvature;

	switch (activation)
	{
		case ACTIVATION_TANH:
			return -2 * h * (1 - h * h);
		case ACTIVATION_RELU:
			return splat(0);
		case ACTIVATION_GELU:
			break;
	}
	for (int l = 0; l < LANES; l++)
		curvature[l] = normal_density(u[l]) * (2 - u[l] * u[l]);
	return curvature;
}

/*
 * An elementwise kernel is one loop per activation, so that the choice is
 * made outside it; LOOP names the loop and ARGUMENTS follow the activation.
 */
#define BY_ACTIVATION(LOOP, ...) \
	switch (activation) \
	{ \
		case ACTIVATION_TANH: \
			LOOP(ACTIVATION_TANH, __VA_ARGS__); \
			break; \
		case ACTIVATION_RELU: \
			LOOP(ACTIVATION_RELU, __VA_ARGS__); \
			break; \
		case ACTIVATION_GELU: \
			LOOP(ACTIVATION_GELU, __VA_ARGS__); \
			break; \
	}

INLINE void
activate_loop(const Activation activation, size_t count, const real *u,
			  real *h)
{
	for (size_t j = 0; j < count; j += LANES)
		store(h + j, value_of(activation, load(u + j)));
}

static void
activate(Activation activation, int n, int width, const real *u, real *h)
{
	BY_ACTIVATION(activate_loop, (size_t) n * width, u, h);
}

INLINE void
backward_loop(const Activation activation, size_t count, const real *u,
			  const real *h, const real *b, real *delta)
{
	for (size_t j = 0; j < count; j += LANES)
		store(delta + j,
			  load(b + j) * slope_of(activation, load(u + j), load(h + j)));
}

static void
backward(Activation activation, int n, int width, const real *u,
		 const real *h, const real *b, real *delta)
{
	BY_ACTIVATION(backward_loop, (size_t) n * width, u, h, b, delta);
}

INLINE void
tangent_loop(const Activation activation, int n, int width, const real *u,
			 const real *h, const real *u_dot, int ld_dot, real *h_dot)
{
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < width; j += LANES)
			store(h_dot + j, load(u_dot + j) *
				  slope_of(activation, load(u + j), load(h + j)));
		u += width;
		h += width;
		h_dot += width;
		u_dot += ld_dot;
	}
}

static void
tangent(Activation activation, int n, int width, const real *u,
		const real *h, const real *u_dot, int ld_dot, real *h_dot)
{
	BY_ACTIVATION(tangent_loop, n, width, u, h, u_dot, ld_dot, h_dot);
}

INLINE void
backward_tangent_loop(const Activation activation, int n, int width,
					  const real *u, const real *h, const real *b,
					  const real *b_dot, const real *u_dot, int ld_dot,
					  real *delta_dot)
{
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < width; j += LANES)
		{
			vector		u_j = load(u + j);
			vector		h_j = load(h + j);
			vector		b_j = load(b + j);

			store(delta_dot + j,
				  load(b_dot + j) * slope_of(activation, u_j, h_j) +
				  b_j * curvature_of(activation, u_j, h_j) * load(u_dot + j));
		}
		u += width;
		h += width;
		b += width;
		b_dot += width;
		u_dot += ld_dot;
		delta_dot += width;
	}
}

static void
backward_tangent(Activation activation, int n, int width, const real *u,
				 const real *h, const real *b, const real *b_dot,
				 const real *u_dot, int ld_dot, real *delta_dot)
{
	BY_ACTIVATION(backward_tangent_loop, n, width, u, h, b, b_dot, u_dot,
				  ld_dot, delta_dot);
}

#define KERNELS_OF(name) KERNELS_OF_(name)
#define KERNELS_OF_(name) kernels_##name
#define TEXT_OF(name) TEXT_OF_(name)
#define TEXT_OF_(name) #name

extern const Kernels KERNELS_OF(KERNEL_NAME);

const Kernels KERNELS_OF(KERNEL_NAME) = {
	.name = TEXT_OF(KERNEL_NAME),
	.multiply = multiply,
	.dot = dot,
	.add_scaled = add_scaled,
	.add_row = add_row,
	.sum_rows = sum_rows,
	.activate = activate,
	.backward = backward,
	.tangent = tangent,
	.backward_tangent = backward_tangent,
};
