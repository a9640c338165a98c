/*
 * kernel_avx2.c
 *	  The kernels for AVX2 and FMA.
 */
#ifdef __x86_64__

#define KERNEL_NAME avx2
#define KERNEL_BYTES 32
#define KERNEL_SUMS 12
#define KERNEL_VECTORS 2
#define KERNEL_CHAINS 2

#include "kernel_body.h"

#endif
