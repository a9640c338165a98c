/*
 * blas.c
 *	  Matrix products by OpenBLAS.
 */
#include "blas.h"

#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "kernel.h"

/* Of OpenBLAS, where it was built for more than one processor. */
extern void gotoblas_dynamic_init(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));

/*
 * OpenBLAS chooses its kernels by a processor's family and model when it is
 * loaded, and takes those of a Prescott (2004) where they are newer than
 * itself: large products took five times as long on a server that Debian's does
 * not know.  What a
 * processor can do is told by its features, so it is made to choose again, by
 * its own variable, unless somebody has set that.
 */
static void __attribute__((constructor))
choose_kernels(void)
{
	static const char variable[] = "OPENBLAS_CORETYPE";
	const char *best = kernels_for_processor()->name;
	const char *core = strcmp(best, "avx512") == 0 ? "SkylakeX" :
		strcmp(best, "avx2") == 0 ? "Haswell" : NULL;

	if (core == NULL || getenv(variable) ||
		strcmp(openblas_get_corename(), "Prescott") != 0 ||
		!gotoblas_dynamic_init || !gotoblas_dynamic_quit)
		return;
	if (setenv(variable, core, 1) != 0)
		return;
	gotoblas_dynamic_quit();
	gotoblas_dynamic_init();
	unsetenv(variable);
}

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
