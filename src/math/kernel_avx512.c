/*
 * kernel_avx512.c
 *	  The kernels for AVX-512 (F, BW, DQ and VL).
 */
#ifdef __x86_64__

#define KERNEL_NAME avx512
#define KERNEL_BYTES 64
#define KERNEL_SUMS 16
#define KERNEL_VECTORS 2
#define KERNEL_CHAINS 2

#include "kernel_body.h"

#endif
