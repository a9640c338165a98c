/*
 * blas.h
 *	  The large matrix products, and all that this project sees of BLAS.
 *
 * A product of OpenBLAS may depend in its last bits on the call's shape, so
 * these serve training, where the shape is part of the seeded run.  What must
 * give one entity the same bits in any company goes through kernel.h.
 */
#ifndef MATH_BLAS_H
#define MATH_BLAS_H

#include "real.h"

/*
 * C += scale * op(A) * op(B), row-major; C is rows x columns, the products
 * sum over `inner` terms.  op transposes where asked for.
 */
extern void blas_multiply_add(bool transpose_a, bool transpose_b,
							  int rows, int columns, int inner, real scale,
							  const real *a, int lda,
							  const real *b, int ldb,
							  real *c, int ldc);

/* Whether the BLAS that was loaded runs in the calling thread alone. */
extern bool blas_is_serial(void);

#endif							/* MATH_BLAS_H */
