/*
 * kernel.c
 *	  Which version of the kernels this processor runs.
 */
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
extern const Kernels kernels_sse2;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#else
extern const Kernels kernels_generic;
#endif

const Kernels *
kernels_for_processor(void)
{
#if defined(__x86_64__)
	const char *asked = getenv("LIMAML_KERNELS");
	bool		avx512 = __builtin_cpu_supports("avx512f") &&
		__builtin_cpu_supports("avx512bw") &&
		__builtin_cpu_supports("avx512dq") &&
		__builtin_cpu_supports("avx512vl");
	bool		avx2 = __builtin_cpu_supports("avx2") &&
		__builtin_cpu_supports("fma");

	if (asked && strcmp(asked, "sse2") == 0)
		return &kernels_sse2;
	if (asked && strcmp(asked, "avx2") == 0)
		avx512 = false;
	return avx512 ? &kernels_avx512 : avx2 ? &kernels_avx2 : &kernels_sse2;
#else
	return &kernels_generic;
#endif
}
