/*
 * peak.h
 *	  What the processor could do.
 */
#ifndef CORE_PEAK_H
#define CORE_PEAK_H

#include "math/real.h"

/*
 * GFLOP/s of independent multiply-adds on an instruction set (its name as
 * kernel.h has it), nothing loaded or stored.
 */
extern double peak_gflops(const char *kernels);

/*
 * GB/s of reading `bytes` bytes from memory again and again, by as long loads as
 * the instruction set has.
 */
extern double peak_bandwidth(const char *kernels, const real *memory,
							 size_t bytes);

/* Seconds of processor time of this process. */
extern double cpu_seconds(void);

#endif							/* CORE_PEAK_H */
