/*
 * standardize.c
 *	  Numbers as distances from a mean, in standard deviations.
 */
#include "standardize.h"

/* A number at any address. */
typedef float loose_float __attribute__((aligned(1), may_alias));

/*
 * A file of its own, so that it is compiled as the rest of math/ is: into a
 * loop over vectors.
 */
void
standardize_all(int count, const void *restrict number,
				const double *restrict mean, const double *restrict scale,
				double clip, float *restrict standard)
{
	const loose_float *from = number;

	for (int i = 0; i < count; i++)
		standard[i] = standardize(from[i], mean[i], scale[i], clip);
}
