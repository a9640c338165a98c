/*
 * kernel_generic.c
 *	  The kernels for processors other than x86-64.
 */
#ifndef __x86_64__

#define KERNEL_NAME generic
#define KERNEL_BYTES 16
#define KERNEL_SUMS 16
#define KERNEL_VECTORS 2
#define KERNEL_CHAINS 2

#include "kernel_body.h"

#endif
