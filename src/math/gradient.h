/*
 * gradient.h
 *	  The outer loop's gradient: how the loss on an entity's query rows, after
 *	  the inner loop on its support rows, depends on every parameter.
 *
 * Exact second order: back through the inner loop by one Hessian-vector
 * product per step, each a forward-over-reverse sweep (Pearlmutter, Fast
 * Exact Multiplication by the Hessian, 1994).  The direction in the space of
 * the meta block starts as a rank-one matrix per layer and gains two at each
 * step, so it too is kept as pairs of vectors and never formed.
 */
#ifndef MATH_GRADIENT_H
#define MATH_GRADIENT_H

#include "adapt.h"

/* One entity's part in a batch. */
typedef struct Task
{
	const real *x;				/* dx */
	Rows		support;		/* what it adapts on; offsets as given */
	Rows		query;			/* what judges the adaptation */

	/* the gradient with respect to its inputs; each array may be NULL */
	real	   *x_gradient;		/* dx; added to */
	real	   *support_half_gradient;	/* n x network_half_size; overwritten */
	real	   *query_half_gradient;	/* q x network_half_size; overwritten */
	real	   *support_offset_gradient;	/* n; overwritten */
	real	   *query_offset_gradient;	/* q; overwritten */
} Task;

typedef struct OuterLoss
{
	int			order;			/* 2: exact; 1: inner gradients as constants */
	real		prior_loss;		/* lambda: the unadapted network's share */
	real		scale;			/* 1 / weight of the batch's query rows */
} OuterLoss;

typedef struct TaskLoss
{
	double		query;			/* weighted sum of query losses at phi_K */
	double		prior;			/* the same at phi_0; 0 where lambda is */
	int			diverged_at;	/* as inner_loop_run has it */
} TaskLoss;

/* Numbers of memory for a task of n support and q query rows. */
extern size_t gradient_size(const NetworkShape *shape, int n, int q);

/*
 * Adds to `gradient` (network_parameter_count numbers) the task's part of the
 * gradient of
 *
 *		J = scale / (1 + lambda) (sum of w l at phi_K + lambda at phi_0)
 *
 * over query rows, except with respect to C_z and P, which follow from the
 * half gradients of many tasks at once by gradient_candidate.
 */
extern TaskLoss gradient_task(const Network *network, const OuterLoss *outer,
							  Task *task, real *memory, real *gradient);

/*
 * Adds the gradient of C_z and P given the gradient of n rows' candidate halves,
 * as gradient_task leaves it (its padding is zeros), and their z (n x dz); fills
 * in z_gradient (n x dz) unless it is NULL.  Any number of calls come between a
 * beginning and an end, of one network, whose parameters stay: `memory`
 * (gradient_candidate_size numbers) is theirs, and part of the gradient waits
 * there.
 */
extern size_t gradient_candidate_size(const NetworkShape *shape);
extern void gradient_candidate_begin(const Network *network, real *memory);
extern void gradient_candidate(const Network *network, int n, const real *z,
							   const real *half_gradient, real *memory,
							   real *gradient, real *z_gradient);
extern void gradient_candidate_end(const Network *network, const real *memory,
								   real *gradient);

/* Adds one sum of gradients, of n numbers, to another. */
extern void gradient_add(size_t n, const real *gradient, real *sum);

#endif							/* MATH_GRADIENT_H */
