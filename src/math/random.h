/*
 * random.h
 *	  Seeded random numbers.  The state is the caller's: nothing here is
 *	  global, so that a seed gives one sequence whatever else runs.
 */
#ifndef MATH_RANDOM_H
#define MATH_RANDOM_H

#include "real.h"

typedef struct Random
{
	uint64_t	state[4];
} Random;

extern void random_seed(Random *random, uint64_t seed);

/* A stream of its own for the stream-th part of a seeded whole. */
extern void random_seed_stream(Random *random, uint64_t seed, uint64_t stream);
extern uint64_t random_bits(Random *random);

/* Uniform in [0, 1), on the grid of 2^-53. */
extern double random_uniform(Random *random);

/* Uniform in 0 ... n - 1, without the bias of a remainder; n > 0. */
extern uint32_t random_below(Random *random, uint32_t n);

/* Standard normal. */
extern double random_normal(Random *random);

/* Orders the n numbers at random, every order being as likely. */
extern void random_shuffle(Random *random, int n, int *items);

#endif							/* MATH_RANDOM_H */
