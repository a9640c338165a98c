/*
 * check.h
 *	  How the unit tests report: a line per check in the Test Anything
 *	  Protocol, lines of explanation behind a #, and an exit status.
 */
#ifndef UNIT_CHECK_H
#define UNIT_CHECK_H

#include "math/kernel.h"

/* The precision under test, and its distance from 1 to the next number. */
#ifdef LIMAML_DOUBLE
#define PRECISION "double"
#define REAL_EPSILON 0x1p-52
#else
#define PRECISION "float"
#define REAL_EPSILON 0x1p-23
#endif

#define LIKE_PRINTF __attribute__((format(printf, 2, 3)))

/* Reports a check, described as by printf, and returns whether it holds. */
extern bool check(bool holds, const char *format, ...) LIKE_PRINTF;

/* A line that explains; many a failure shows only the first few of them. */
extern void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* To be returned from main: 0 if everything held. */
extern int	check_end(void);

/*
 * Selects, in the environment, the kernels that network_pack is to use: the
 * path-th that this processor runs, from 0, or of those the only one that is
 * KERNELS there.  Returns its name, or NULL after the last, where the
 * processor's own choice is back.
 */
extern const char *select_kernels(int path);

/* How many random problems to try: the environment variable SEEDS, or this. */
extern int	seed_count(int usual);

/* |got - expected| over the larger of |expected| and `scale`; NaN is infinite. */
extern double relative_error(double got, double expected, double scale);

/* A denormal number, on which most processors are slow. */
extern bool is_denormal(real number);

/* malloc that does not fail; of n numbers, each of them NaN. */
extern void *allocate(size_t bytes);
extern real *allocate_reals(size_t n);

#endif							/* UNIT_CHECK_H */
