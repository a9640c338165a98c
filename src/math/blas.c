/*
 * blas.c
 *	  Matrix products by OpenBLAS.
 */
#include "blas.h"

#include <cblas.h>

void
blas_multiply_add(bool transpose_a, bool transpose_b,
				  int rows, int columns, int inner, real scale,
				  const real *a, int lda, const real *b, int ldb,
				  real *c, int ldc)
{
	/* BLAS refuses the empty products that a feature-less block has */
	if (rows == 0 || columns == 0 || inner == 0)
		return;

#ifdef LIMAML_DOUBLE
	cblas_dgemm(CblasRowMajor,
#else
	cblas_sgemm(CblasRowMajor,
#endif
				transpose_a ? CblasTrans : CblasNoTrans,
				transpose_b ? CblasTrans : CblasNoTrans,
				rows, columns, inner, scale, a, lda, b, ldb, 1, c, ldc);
}

bool
blas_is_serial(void)
{
	return openblas_get_parallel() == OPENBLAS_SEQUENTIAL;
}
