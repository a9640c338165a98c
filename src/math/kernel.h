/*
 * kernel.h
 *	  The small products and the elementwise passes of the hot path, in one
 *	  version per instruction set.
 *
 * Layout: a matrix is row-major, and every row is padded with zeros to a
 * multiple of KERNEL_PAD numbers (kernel_stride), so that no kernel has a
 * tail.  A padded weight is zero and every activation maps 0 to 0, so padding
 * stays zero all the way through.
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

/*
 * Below, n counts rows, `width` is a padded row length, u is what goes into
 * an activation and h = a(u) what comes out.  An ld is a distance between
 * rows; 0 repeats one row.
 */
typedef struct Kernels
{
	const char *name;

	/* C = A B + bias; A is n x inner, B inner x width, bias a row or NULL */
	void		(*multiply) (int n, int inner, int width,
							 const real *a, int lda, const real *b,
							 const real *bias, real *c);

	/* sum of a[j] b[j] */
	real		(*dot) (int width, const real *a, const real *b);

	/* y += scale x */
	void		(*add_scaled) (int width, real scale, const real *x, real *y);

	/* C = A + row */
	void		(*add_row) (int n, int width, const real *a, int lda,
							const real *row, real *c);

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
