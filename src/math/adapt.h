/*
 * adapt.h
 *	  The inner loop: a few gradient steps on one entity's own interactions
 *	  (the support rows) move the meta block, and with it the meta embedding
 *	  (arXiv 2403.00803, section 3.2).
 *
 *		phi_0 = phi;  phi_k+1 = phi_k - alpha grad L_S(phi_k)
 *
 * An entity has one input x, so every weight gradient is a rank-one matrix:
 * delta_l of layer l's output times h of its input.  After k steps layer l is
 *
 *		A_l h + a_l - alpha_l sum over j < k of delta_l^j (h^j . h + 1),
 *
 * and the adapted weights are never formed: k pairs of short vectors are all
 * that an entity has of its own.
 *
 * Some entities adapt side by side, so that a product of the meta block meets
 * a block of rows, one an entity; its weights are read once for all of them.
 * An entity's bits do not depend on the others.
 */
#ifndef MATH_ADAPT_H
#define MATH_ADAPT_H

#include "network.h"

/* Entities that may adapt side by side: a multiple of all blocks' rows. */
#define ADAPT_TOGETHER 12

/*
 * The meta block at one step: a row per entity.  A layer's h and delta of all
 * steps follow one another: pairs for the kernels.
 */
typedef struct MetaPass
{
	real	   *u[NETWORK_MAX_LAYERS + 1];	/* layers 1 ... L */
	real	   *h[NETWORK_MAX_LAYERS + 1];	/* h[0] = x, h[L] = the embedding */
	real	   *b[NETWORK_MAX_LAYERS + 1];	/* dL_S/dh of layers 1 ... L - 1 */
	real	   *delta[NETWORK_MAX_LAYERS + 1];	/* dL_S/du of layers 1 ... L */
} MetaPass;

/* One entity of an inner loop, and where it has been. */
typedef struct LoopEntity
{
	const real *x;				/* dx numbers */
	const Rows *rows;
	int			steps;			/* K, or 0 where the rows have no weight */
	real		weight;			/* the rows' weight in all */
	real		scale;			/* c of the support loss */
	real		loss[NETWORK_MAX_STEPS + 1];	/* L_S at phi_k */
	int			rises;			/* steps after which L_S was larger */
	double		at_zero;		/* what knowing nothing costs */
	real		along;			/* x . x + 1 */
	int			diverged_at;	/* 0, or the step after which it had */
	RowShift	shift;
} LoopEntity;

/* An inner loop, step by step. */
typedef struct InnerLoop
{
	int			count;			/* entities, at most ADAPT_TOGETHER */
	LoopEntity	entity[ADAPT_TOGETHER];
	MetaPass	meta[NETWORK_MAX_STEPS + 1];
	GlobalPass	global[NETWORK_MAX_STEPS];	/* all the same one, or of one
											 * entity all kept; the first
											 * serves the last loss, too */

	/* a row per entity, of the embeddings' halves and their gradients */
	real	   *first;
	real	   *factor;
	real	   *scratch;
} InnerLoop;

/*
 * Memory of an inner loop of so many entities with at most n rows each, in
 * numbers; its global passes are the caller's.
 */
extern size_t inner_loop_size(const NetworkShape *shape, int count, int n);
extern void inner_loop_take(InnerLoop *loop, const NetworkShape *shape,
							int count, int n, Arena *arena);

/*
 * Runs the loop for its entities, of which x and rows are set.  loss[0 ... K -
 * 1] are filled in, and where last_loss asks for one more pass loss[K].  An
 * entity has diverged when its embedding or its loss is not finite, or its loss
 * a hundred times the larger of what it was and what knowing nothing costs.
 */
extern void inner_loop_run(const Network *network, bool last_loss,
						   InnerLoop *loop);

/*
 * u of layer l (2 ... L) after k steps, for any inputs h of that layer, a row
 * per entity, whose bias input is 1, or 0 for a tangent.
 */
extern void inner_loop_layer(const Network *network, const InnerLoop *loop,
							 int k, int l, const real *h, bool tangent,
							 real *u);

/* The same backwards: b = A_l' delta after k steps. */
extern void inner_loop_layer_back(const Network *network,
								  const InnerLoop *loop, int k, int l,
								  const real *delta, real *b);

/* What adapting one entity gives. */
typedef struct Adaptation
{
	real		loss_before;	/* mean loss of the support rows at phi_0; 0
								 * without rows */
	real		loss_after;		/* the same at phi_K */
	int			rises;			/* steps after which the loss was larger */
	int			diverged_at;	/* 0, or the step: the embedding is no good */
} Adaptation;

/* Numbers of memory for adapting so many entities, of n support rows each. */
extern size_t adapt_size(const NetworkShape *shape, int count, int n);

/*
 * Adapts `count` entities (at most ADAPT_TOGETHER): each one's x (dx numbers)
 * and support rows, oldest first, to its embedding (E numbers).
 */
extern void adapt_together(const Network *network, int count,
						   const real *const *x, const Rows *support,
						   real *memory, real *const *embedding,
						   Adaptation *result);

/* The same of one. */
extern Adaptation adapt(const Network *network, const real *x,
						const Rows *support, real *memory, real *embedding);

/*
 * Multiplies the weight of each of n rows, oldest first, with exp(-a /
 * recency), a being the number of newer rows.  same_time[i] says that row i is
 * no newer than row i - 1; where it is NULL none is.  Rows that are sampled
 * are no newer than the row before them, and nobody's newer rows; where that is
 * NULL none is.
 */
extern void recency_weights(int n, real recency, const bool *same_time,
							const bool *sampled, real *weight);

#endif							/* MATH_ADAPT_H */
