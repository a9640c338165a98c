/*
 * maml.h
 *	  Plain MAML, to compare with: other parts of the network adapt than the
 *	  meta block alone.
 *
 *		theta_0 = theta;  theta_k+1 = theta_k - alpha M grad L_S(theta_k)
 *
 * theta is every dense parameter (meta block, global block, factor map), M
 * keeps those that adapt, L_S is the support loss of adapt.h:
 *
 *		MAML_META	the meta block, each layer at its own rate, as adapt.h has
 *					it (`adapts` included) but computed the long way: for tests
 *		MAML_HEAD	the global block from its second layer on, or its only
 *					layer (Lee et al., MeLU, KDD 2019: the decision layers)
 *		MAML_FULL	all of theta (Finn, Abbeel, Levine, ICML 2017)
 *
 * alpha of the last two is the first inner rate.  Inner rates, category vectors
 * (in x and z) and offsets do not adapt.
 *
 * The adapted weights are formed, once per step: what an entity has of its own
 * is maml_adapted_count numbers, where adapt.h has an embedding.  Of a Network
 * only shape, kernels, tensors and parameters are read, never what is packed.
 */
#ifndef MATH_MAML_H
#define MATH_MAML_H

#include "gradient.h"

typedef enum MamlPart
{
	MAML_META,
	MAML_HEAD,
	MAML_FULL
} MamlPart;

/* Rows of one entity. */
typedef struct MamlRows
{
	int			n;
	const real *z;				/* n x dz */
	const real *label;			/* n */
	const real *weight;			/* n or NULL: all ones */
	const real *offset;			/* n or NULL: all zeros */

	/* the gradient, by maml_task; each array may be NULL */
	real	   *z_gradient;		/* n x dz; overwritten */
	real	   *offset_gradient;	/* n; overwritten */
} MamlRows;

/* One entity's part in a batch. */
typedef struct MamlTask
{
	const real *x;				/* dx */
	MamlRows	support;		/* what it adapts on */
	MamlRows	query;			/* what judges the adaptation */
	real	   *x_gradient;		/* dx; added to; may be NULL */
} MamlTask;

/* How many numbers an entity has of its own. */
extern size_t maml_adapted_count(const NetworkShape *shape, MamlPart part);

/* Numbers of memory for a task of n support and q query rows. */
extern size_t maml_size(const NetworkShape *shape, MamlPart part, int n,
						int q);

/*
 * Adds to `gradient` (network_parameter_count numbers) the task's part of the
 * gradient of gradient_task's J, with respect to all of theta: C_z, c_1, P and
 * p too.  That of the inner rates is added for MAML_META alone.  A task that
 * diverged adds nothing, and its rows' gradients are zero.
 */
extern TaskLoss maml_task(const Network *network, MamlPart part,
						  const OuterLoss *outer, MamlTask *task,
						  real *memory, real *gradient);

/* Numbers of memory for adapting with at most n support rows. */
extern size_t maml_adapt_size(const NetworkShape *shape, int n);

/*
 * Adapts one entity: fills in `parameters` (network_parameter_count numbers),
 * which are no good where the result says that it diverged.  That is so by the
 * rule of inner_loop_run, or if a parameter is not finite.
 */
extern Adaptation maml_adapt(const Network *network, MamlPart part,
							 const real *x, const MamlRows *support,
							 real *memory, real *parameters);

/* Numbers of memory for scoring at most n rows. */
extern size_t maml_score_size(const NetworkShape *shape, int n);

/*
 * Scores n rows z (n x dz), offset or NULL, of the entity x with parameters of
 * its own, which stand in for the network's.
 */
extern void maml_score(const Network *network, const real *parameters,
					   const real *x, int n, const real *z,
					   const real *offset, real *memory, real *score);

#endif							/* MATH_MAML_H */
