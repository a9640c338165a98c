/*
 * kernel_sse2.c
 *	  The kernels for every x86-64 processor.
 */
#ifdef __x86_64__

#define KERNEL_NAME sse2
#define KERNEL_BYTES 16
#define KERNEL_SUMS 8
#define KERNEL_VECTORS 2
#define KERNEL_CHAINS 1

#include "kernel_body.h"

#endif
