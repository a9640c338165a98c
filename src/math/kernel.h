/*
 * kernel.h
 *	  The small products of the hot path, what happens to a row before and
 *	  after them, and the losses, in one version per instruction set.
 *
 * Layout: a matrix of rows is row-major, and every row is padded with zeros to
 * a multiple of KERNEL_PAD numbers (kernel_stride), so that no kernel has a
 * tail.  A padded weight is zero and every activation maps 0 to 0, so padding
 * stays zero all the way through.  Weights lie in panels (kernel_weight).
 *
 * Order: every number is summed over its terms in one fixed order, which
 * depends on no other row.  A row therefore has the same bits alone and in
 * any block of rows; adaptation and scoring rest on that.
 *
 * Nothing here allocates, and nothing here fails.
 */
#ifndef MATH_KERNEL_H
#define MATH_KERNEL_H

#include "real.h"

/* A cache line of floats; also the alignment of a workspace, in numbers. */
#define KERNEL_PAD 16

static inline int
kernel_stride(int width)
{
	return (width + KERNEL_PAD - 1) / KERNEL_PAD * KERNEL_PAD;
}

typedef enum Activation
{
	ACTIVATION_TANH,
	ACTIVATION_RELU,
	ACTIVATION_GELU				/* the exact one, by erf */
} Activation;

typedef enum Loss
{
	LOSS_BINARY,				/* softplus(s) - y s */
	LOSS_SQUARED				/* (s - y)^2 / 2 */
} Loss;

/*
 * The weights of a product, inner x width, lie in panels of KERNEL_PAD columns,
 * each inner x KERNEL_PAD and one run of memory, of whole lines of cache.  This
 * is where w(k, j) lies.
 */
static inline size_t
kernel_weight(int inner, int k, int j)
{
	return ((size_t) (j / KERNEL_PAD) * inner + k) * KERNEL_PAD +
		j % KERNEL_PAD;
}

/* Columns of a row whose masks fit a word, and words of so many columns. */
#define KERNEL_MASK 64

static inline int
kernel_masks(int width)
{
	return (width + KERNEL_MASK - 1) / KERNEL_MASK;
}

/* Rows from which on layer_back_sum is faster than layer_back. */
#define KERNEL_SUM_ROWS 12

/*
 * Below, n counts rows, `width` is a padded row length, u is what goes into
 * an activation and h = a(u) what comes out.  An ld is a distance between
 * rows; 0 repeats one row.  The width of sum_rows and add_scaled_rows and
 * last_layer's factor_width need not be padded where the rows are, with zeros;
 * not all of the result's padding is set then.
 *
 * Where u is not wanted it may be NULL, but for ACTIVATION_GELU: the others'
 * derivatives follow from h.
 */
typedef struct Kernels
{
	const char *name;

	/* C = A W + bias; A is n x inner, W inner x width, bias a row or NULL */
	void		(*multiply) (int n, int inner, int width,
							 const real *a, int lda, const real *w,
							 const real *bias, real *c);

	/* a layer forwards: u = A W + bias, h = a(u) */
	void		(*layer) (Activation activation, int n, int inner, int width,
						  const real *a, int lda, const real *w,
						  const real *bias, real *u, real *h);

	/*
	 * A layer backwards: b = delta W, delta_in = b a'(u), and sum its rows
	 * added up.  b and delta_in may be NULL, but for b where the activation is
	 * not relu; there b is delta_in where that is NULL.
	 */
	void		(*layer_back) (Activation activation, int n, int inner,
							   int width, const real *delta, int ld,
							   const real *w, const real *u, const real *h,
							   real *b, real *delta_in, real *sum);

	/*
	 * The sum alone, where the activation is relu: faster from
	 * KERNEL_SUM_ROWS rows on.  w are the layer's weights forwards, and
	 * neither they nor width are padded, but sum is.
	 */
	void		(*layer_back_sum) (int n, int inner, int width,
								   const real *delta, int ld, const real *w,
								   const real *h, int ldh, real *sum);

	/*
	 * Where the activation is relu, and before a'(u) of the layer's input a
	 * row is the same for all: c = scale a'(u) ((a'(u_in) row) W), scale being
	 * a number per row or NULL.  That is h_dot after the first layer, and
	 * before the last delta.  Faster than the product from KERNEL_SUM_ROWS
	 * rows on.
	 */
	void		(*masked_layer) (int n, int inner, int width, const real *h_in,
								 int ldh, const real *row, const real *w,
								 const real *h, const real *scale, real *c);

	/*
	 * And C += (a'(u) row)' A, being the sum over rows of row(j) A_i where
	 * h_i(j) > 0: width x inner.
	 */
	void		(*add_masked_products) (int n, int inner, int width,
										const real *a, int lda,
										const real *h, int ldh,
										const real *row, real *c);

	/* h = r A + s h where h > 0, r and s being a number per row */
	void		(*mix_rows) (int n, int width, const real *r, const real *a,
							 int lda, const real *s, real *h);

	/* the first layer, whose products are known: u = A + row, h = a(u) */
	void		(*first_layer) (Activation activation, int n, int width,
								const real *a, int lda, const real *row,
								real *u, real *h);

	/*
	 * relu's first layer as the inner loop meets it, and the next: h as above,
	 * which columns' u are above zero (mask: bits, n x kernel_masks(inner)),
	 * and u = H W + bias and h_next of the next layer.
	 */
	void		(*first_layers) (int n, int inner, int width, const real *a,
								 int lda, const real *row, const real *w,
								 const real *bias, uint64_t *mask, real *h,
								 real *u, real *h_next);

	/*
	 * The same, where mask and u are of the call before with the same n, A, W
	 * and bias, and row was row - shift, which is finite.  u is moved, not formed
	 * anew, and so rounded otherwise; but of a row of which much has changed it
	 * is.  Faster from shift_rows rows and inner x width = shift_weights on.
	 */
	int			shift_rows;
	int			shift_weights;
	void		(*shift_layers) (int n, int inner, int width, const real *a,
								 int lda, const real *row, const real *shift,
								 const real *w, const real *bias,
								 uint64_t *mask, real *h, real *u,
								 real *h_next);

	/* both at once: u = A W + bias + row, of which h has the same bits */
	void		(*whole_first_layer) (Activation activation, int n, int inner,
									  int width, const real *a, int lda,
									  const real *w, const real *bias,
									  const real *row, real *h);

	/* the last: s = H last + F factor + bias + offset (NULL: none) */
	void		(*last_layer) (int n, int width, const real *h,
							   const real *last, int factor_width,
							   const real *f, int ldf, const real *factor,
							   real bias, const real *offset, real *s);

	/* s += A v + bias; rows and v need no padding */
	void		(*add_dots) (int n, int width, const real *a, int lda,
							 const real *v, real bias, real *s);

	/*
	 * The last layer backwards from r = dL/ds: b = r last, delta = b a'(u), and
	 * sum its rows added up.  b may be NULL, and of relu delta.
	 */
	void		(*last_layer_back) (Activation activation, int n, int width,
									const real *r, const real *last,
									const real *u, const real *h,
									real *b, real *delta, real *sum);

	/*
	 * The tangents of these: u_dot = A_dot W, h_dot = a'(u) u_dot.  u_dot may
	 * be NULL where the activation is relu, which has no curvature.
	 */
	void		(*layer_tangent) (Activation activation, int n, int inner,
								  int width, const real *a_dot, int lda,
								  const real *w, const real *u, const real *h,
								  real *u_dot, real *h_dot);

	/*
	 * b_dot = delta_dot W, delta_in_dot = b_dot a'(u) + b a''(u) u_dot, and sum
	 * its rows added up.  Of relu b, u_dot and b_dot may be NULL.
	 */
	void		(*layer_back_tangent) (Activation activation, int n, int inner,
									   int width, const real *delta_dot,
									   int ld, const real *w, const real *u,
									   const real *h, const real *b,
									   const real *u_dot, int ld_dot,
									   real *b_dot, real *delta_in_dot,
									   real *sum);

	/* The same of the last layer; b_dot, and of relu delta_dot, may be NULL. */
	void		(*last_layer_back_tangent) (Activation activation, int n,
											int width, const real *r_dot,
											const real *last, const real *u,
											const real *h, const real *b,
											const real *u_dot, int ld_dot,
											real *b_dot, real *delta_dot,
											real *sum);

	/*
	 * Returns the sum of w l(s), w being weights (NULL: 1).  Fills in r = scale
	 * w dl/ds, and where it is not NULL c = scale w d2l/ds2.  Those under
	 * 1e-18 are zero: a saturated score's would be denormal a few products
	 * later, and slow everything by forty times.
	 */
	real		(*losses) (Loss loss, int n, real scale, const real *s,
						   const real *label, const real *weight, real *r,
						   real *c);

	/* p = 1 / (1 + exp(-s)); p may be s */
	void		(*sigmoid) (int n, const real *s, real *p);

	/*
	 * y += scale times the sum over t < terms of (q_t . h + one_t) p_t; rows
	 * q_t are q_width long and ldq apart, p_t width and ldp, one NULL for zeros.
	 */
	void		(*add_pairs) (int terms, real scale, int q_width,
							  const real *q, int ldq, const real *h,
							  const real *one, int width, const real *p,
							  int ldp, real *y);

	/* sum of a[j] b[j] */
	real		(*dot) (int width, const real *a, const real *b);

	/* y += scale x */
	void		(*add_scaled) (int width, real scale, const real *x, real *y);

	/* the same of rows, each with its own scale (NULL: 1) */
	void		(*add_scaled_rows) (int n, int width, const real *scale,
									const real *x, int ldx, real *y, int ldy);

	/* sum = the sum of the rows of A, each times its weight (NULL: 1) */
	void		(*sum_rows) (int n, int width, const real *weight,
							 const real *a, int lda, real *sum);

	/* h = a(u) */
	void		(*activate) (Activation activation, int n, int width,
							 const real *u, real *h);

	/* delta = b a'(u) */
	void		(*backward) (Activation activation, int n, int width,
							 const real *u, const real *h, const real *b,
							 real *delta);

	/* h_dot = a'(u) u_dot: the tangent through an activation */
	void		(*tangent) (Activation activation, int n, int width,
							const real *u, const real *h,
							const real *u_dot, int ld_dot, real *h_dot);

	/* delta_dot = b_dot a'(u) + b a''(u) u_dot: the tangent of backward */
	void		(*backward_tangent) (Activation activation, int n, int width,
									 const real *u, const real *h,
									 const real *b, const real *b_dot,
									 const real *u_dot, int ld_dot,
									 real *delta_dot);
} Kernels;

/*
 * The fastest version that this processor runs; the environment variable
 * LIMAML_KERNELS (sse2, avx2, avx512) asks for a lower one.
 */
extern const Kernels *kernels_for_processor(void);

#endif							/* MATH_KERNEL_H */
