/*
 * optimizer.h
 *	  AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization,
 *	  2019) with a linearly falling learning rate and clipped gradients.
 *
 * Decay is given as its sum over the whole run, sum of rate x decay, so that
 * one setting serves any number of steps.  A step takes all that is there at
 * the most.
 */
#ifndef MATH_OPTIMIZER_H
#define MATH_OPTIMIZER_H

#include "real.h"

/* Parameters that share a decay. */
typedef struct ParameterGroup
{
	size_t		n;
	real	   *value;
	real	   *gradient;		/* zeroed by a step */
	real	   *mean;			/* first moment; begins at zero */
	real	   *square;			/* second moment; begins at zero */
	real	   *average;		/* see optimizer_average; may else be NULL */
	double		total_decay;	/* sum over the run of rate x decay */
} ParameterGroup;

typedef struct Optimizer
{
	double		learning_rate;	/* of the first step; falls to 5 % of it */
	double		clip_norm;		/* of all gradients together; 0: no limit */
	int64_t		steps;			/* planned */
	int64_t		step;			/* taken */
} Optimizer;

/* The rate of the next step. */
extern double optimizer_rate(const Optimizer *optimizer);

/*
 * Takes a step in all groups.  Returns the gradients' norm before clipping;
 * where that is not finite, nothing is changed.
 */
extern double optimizer_step(Optimizer *optimizer, int groups,
							 ParameterGroup *group);

/*
 * After a step: moves each group's average towards the values that the step has
 * left.  So many steps are its horizon: what the last few batches had in
 * particular averages out (Polyak and Juditsky, Acceleration of Stochastic
 * Approximation by Averaging, 1992).
 */
extern void optimizer_average(const Optimizer *optimizer, int64_t horizon,
							  int groups, ParameterGroup *group);

#endif							/* MATH_OPTIMIZER_H */
