/*
 * network.h
 *	  The recommender network: a meta block that turns what is known about an
 *	  entity into its meta embedding, and a global block that turns the meta
 *	  embedding and a candidate into a score (arXiv 2403.00803, section 3).
 *
 *		e = [e_c ; e_f] = meta(x)
 *		s = global([e_c ; z]) + e_f . (P z + p) + o
 *
 * e_f, the embedding's last F numbers, meets the candidate as in a
 * factorisation machine; o is a row's offset, the sum of the wide scalars of
 * its category values.  F = 0 is the paper's plain form.
 *
 * C_1 [e_c ; z] = C_e e_c + C_z z.  The second product does not change while
 * an entity adapts or candidates are ranked again, so a row is known here by
 * its *candidate half*, [C_z z + c_1 ; P z + p], each part padded to
 * kernel_stride.
 *
 * Parameters are one array in the order of network_tensors; a matrix is
 * out x in as in PyTorch's nn.Linear.
 */
#ifndef MATH_NETWORK_H
#define MATH_NETWORK_H

#include "kernel.h"
#include "random.h"

#define NETWORK_MAX_LAYERS 8

/* The most steps of an inner loop, whose history a workspace must hold. */
#define NETWORK_MAX_STEPS 64

/* Scale of the factor map's first weights; larger ones cost accuracy. */
#define NETWORK_FACTOR_SCALE 0.03

/* What the support loss is multiplied with, W being its rows' weight. */
typedef enum InnerWeighting
{
	WEIGHTING_MEAN,				/* 1 / W */
	WEIGHTING_SQRT,				/* 1 / sqrt(5 W) */
	WEIGHTING_DAMPED,			/* 1 / (W + 10) */
	WEIGHTING_SQRT_DAMPED		/* 1 / sqrt(5 (W + 10)) */
} InnerWeighting;

/* What the inner loop moves. */
typedef enum Adapts
{
	ADAPTS_META_BLOCK,			/* all weights and biases of the meta block */
	ADAPTS_EMBEDDING			/* the bias of its last layer alone */
} Adapts;

typedef struct NetworkShape
{
	Activation	activation;
	Loss		loss;
	int			meta_layers;	/* L, 1 ... NETWORK_MAX_LAYERS */
	int			meta_width[NETWORK_MAX_LAYERS + 1]; /* dx ... E */
	int			global_layers;	/* G */
	int			global_width[NETWORK_MAX_LAYERS + 1];	/* E - F + dz ... 1 */
	int			factor_size;	/* F, 0 ... E */

	/* the inner loop belongs to the network: it is what meta-training fits */
	Adapts		adapts;
	InnerWeighting weighting;
	int			steps;			/* K, 0 ... NETWORK_MAX_STEPS */
} NetworkShape;

/* One tensor: a matrix, or a vector as a single row. */
typedef struct NetworkTensor
{
	char		name[24];		/* PyTorch's: meta.0.weight ... inner_rate */
	int			dimensions;		/* 1 or 2 */
	int			rows;			/* 1 where dimensions is 1 */
	int			columns;
	size_t		offset;			/* of its first number in the parameters */
} NetworkTensor;

/* A weight and a bias per layer, the factor's, and the inner rates. */
#define NETWORK_MAX_TENSORS (4 * NETWORK_MAX_LAYERS + 3)

/* Where a tensor stands in that order; layers count from 0 as in names. */
#define META_WEIGHT(shape, layer) (2 * (layer))
#define META_BIAS(shape, layer) (2 * (layer) + 1)
#define GLOBAL_WEIGHT(shape, layer) (2 * ((shape)->meta_layers + (layer)))
#define GLOBAL_BIAS(shape, layer) (GLOBAL_WEIGHT(shape, layer) + 1)
#define FACTOR_WEIGHT(shape) GLOBAL_WEIGHT(shape, (shape)->global_layers)
#define FACTOR_BIAS(shape) (FACTOR_WEIGHT(shape) + 1)
#define INNER_RATE(shape) (FACTOR_WEIGHT(shape) + 2)

static inline int
network_embedding_size(const NetworkShape *shape)
{
	return shape->meta_width[shape->meta_layers];
}

/* The embedding's part that enters the global block: E - F. */
static inline int
network_concatenated_size(const NetworkShape *shape)
{
	return network_embedding_size(shape) - shape->factor_size;
}

/* dz */
static inline int
network_candidate_size(const NetworkShape *shape)
{
	return shape->global_width[0] - network_concatenated_size(shape);
}

/* Numbers in a row's candidate half. */
static inline int
network_half_size(const NetworkShape *shape)
{
	return kernel_stride(shape->global_width[1]) +
		kernel_stride(shape->factor_size);
}

/* Numbers in what an entity is to candidates: see network_entity. */
static inline int
network_entity_size(const NetworkShape *shape)
{
	return network_half_size(shape) +
		(shape->factor_size > 0 ? network_candidate_size(shape) + 1 : 0);
}

/* Fills in at most NETWORK_MAX_TENSORS tensors and returns their number. */
extern int	network_tensors(const NetworkShape *shape, NetworkTensor *tensors);

/* The number of parameters. */
extern size_t network_parameter_count(const NetworkShape *shape);

/*
 * Draws the parameters: weights N(0, 1 / fan in), P from N(0, .03^2), biases 0,
 * inner rates as given.
 */
extern void network_initialize(const NetworkShape *shape, real inner_rate,
							   Random *random, real *parameters);

/* A layer's weights where the kernels want them. */
typedef struct PackedLayer
{
	int			in;
	int			out;
	int			in_stride;
	int			out_stride;
	real	   *forward;		/* in x out_stride, the transpose, in panels */
	real	   *backward;		/* out x in_stride, in panels; not of the
								 * candidate's, which BLAS goes back through */
	real	   *bias;			/* out_stride */
} PackedLayer;

/*
 * A network ready to compute: shape, parameters, and the parameters once more
 * in the kernels' layout.  Immutable once packed, and shared freely.
 */
typedef struct Network
{
	NetworkShape shape;
	const Kernels *kernels;
	const real *parameters;
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	const real *inner_rate;		/* L */
	PackedLayer meta[NETWORK_MAX_LAYERS];
	PackedLayer entity;			/* C_e: E - F -> first global width; no bias */
	PackedLayer candidate;		/* [C_z ; P]: dz -> a candidate half; the
								 * panels of C_z come first */
	PackedLayer hidden[NETWORK_MAX_LAYERS]; /* global layers 2 ... G - 1, from
											 * [1]; no others are filled in */
	real	   *last;			/* the last global layer's row; G > 1 */
	real		last_bias;		/* G > 1 */
	bool		packed_back;	/* layers have their weights backwards, too */
} Network;

/* Numbers of memory that network_pack wants. */
extern size_t network_packed_size(const NetworkShape *shape);

/*
 * Lays the parameters out in `memory`; both must outlive the network.  What
 * adapts a network goes back through it; to score, what lies forwards will do.
 */
extern void network_pack(Network *network, const NetworkShape *shape,
						 const real *parameters, real *memory);
extern void network_pack_forward(Network *network, const NetworkShape *shape,
								 const real *parameters, real *memory);
extern void network_pack_back(Network *network);

/*
 * A network of memory that network_pack has filled, for the same shape and
 * parameters, and from as far into a KERNEL_PAD of numbers.  It is only read.
 */
extern void network_adopt(Network *network, const NetworkShape *shape,
						  const real *parameters, real *memory);

/*
 * Candidate halves of n rows z (n x dz, ldz apart) into half (n x
 * network_half_size).  Each row's bits are its own, whatever n.
 */
extern void network_candidate_half(const Network *network, int n,
								   const real *z, int ldz, real *half);

/*
 * What an embedding (E numbers) is to every candidate: [C_e e_c ; e_f], each
 * part padded as in a candidate half; and where there is a factor part P' e_f
 * and e_f . p, by which e_f . (P z + p) costs a row no more than dz terms.
 * network_entity_half leaves these two out, and network_half_size numbers.
 */
extern void network_entity(const Network *network, const real *embedding,
						   real *entity);
extern void network_entity_half(const Network *network, const real *embedding,
								real *entity);

/*
 * Scores s of n candidates given by z (n x dz, ldz apart) for an entity
 * (network_entity); offset may be NULL.  Each has the same bits in any block.
 * Memory is network_score_size(shape, n) numbers.
 */
extern size_t network_score_size(const NetworkShape *shape, int n);
extern void network_score(const Network *network, const real *entity, int n,
						  const real *z, int ldz, const real *offset,
						  real *memory, real *score);

/*
 * The same for candidates given by their halves (n x network_half_size), as a
 * training pass scores them: with a factor part the last bits differ from those
 * by z.
 */
extern void network_score_halves(const Network *network, const real *entity,
								 int n, const real *half, const real *offset,
								 real *memory, real *score);

/*
 * Turns n scores into what the model predicts: the probability of a positive
 * label, or the score itself for squared loss.
 */
extern void network_predict(const Network *network, int n, real *score);

/*
 * Rows of one entity, or candidates for it.  weight and offset may be NULL
 * (all ones, all zeros).
 */
typedef struct Rows
{
	int			n;
	const real *half;			/* n x network_half_size */
	const real *label;			/* n */
	const real *weight;			/* n or NULL */
	const real *offset;			/* n or NULL */
} Rows;

/*
 * What a pass of rows through the global block leaves behind.  Adaptation
 * wants no more of it than brings the gradient back; a pass that is *kept* for
 * the second order has the first delta and the curvature, too.
 */
typedef struct GlobalPass
{
	/* per hidden layer 1 ... G - 1, each n x stride of the layer's width */
	real	   *u[NETWORK_MAX_LAYERS];	/* before the activation; gelu alone */
	real	   *h[NETWORK_MAX_LAYERS];	/* after it */
	real	   *b[NETWORK_MAX_LAYERS];	/* dL/dh; not of relu */
	real	   *delta[NETWORK_MAX_LAYERS];	/* dL/du; of slopes ds/du of layers
											 * 1 ... G - 2 */
	real	   *sum[NETWORK_MAX_LAYERS];	/* the rows of delta added up */
	real	   *score;			/* n logits s */
	real	   *residual;		/* n: scale w dl/ds */
	real	   *curvature;		/* n: scale w d2l/ds2; kept */
	real		residuals;		/* their sum; kept, or G = 1 */
	bool		slopes;			/* relu alone, and G > 2: delta is what the
								 * residuals are not in yet */
} GlobalPass;

/*
 * What is kept of an entity's rows from one step of the inner loop to the next,
 * which moves what goes into relu's first layer alike for all rows (kernel.h,
 * shift_layers).
 */
typedef struct RowShift
{
	int			most;			/* rows that there is room for, or 0 */
	bool		begun;
	real	   *first;			/* C_e e_c of the step before, and then how far
								 * this step's is from there */
	uint64_t   *mask;			/* most x kernel_masks(first width) */
	real	   *u;				/* most x stride of the second width */
} RowShift;

/* A region of numbers that is handed out from its start. */
typedef struct Arena
{
	real	   *next;
	real	   *end;
} Arena;

/* n numbers at a multiple of KERNEL_PAD; NULL where the arena is too small. */
extern real *arena_take(Arena *arena, size_t n);

/* Numbers that global_pass_take takes from an arena. */
extern size_t global_pass_size(const NetworkShape *shape, int n);
extern void global_pass_take(GlobalPass *pass, const NetworkShape *shape,
							 int n, Arena *arena);

/* The same of a pass that is kept; its h and delta are the caller's. */
extern size_t global_pass_kept_size(const NetworkShape *shape, int n);
extern void global_pass_take_kept(GlobalPass *pass, const NetworkShape *shape,
								  int n, real *const *h, real *const *delta,
								  Arena *arena);

/* Room for n rows, or for the most that are shifted, or none of such a shape. */
extern size_t row_shift_size(const NetworkShape *shape, int n);
extern void row_shift_take(RowShift *shift, const NetworkShape *shape, int n,
						   Arena *arena);

/*
 * n embeddings (E numbers, ld apart) as candidates meet them: C_e e_c (`first`,
 * n x the stride of the first global width) and e_f, padded (`factor`, n x the
 * stride of F).  Each has the same bits among others as alone.
 */
extern void network_entities(const Network *network, int n,
							 const real *embedding, int ld, real *first,
							 real *factor);

/*
 * Scores the rows of one of them and returns the weighted sum of their losses.
 * Fills in u, h, score, and residual and curvature of `scale` times that sum.
 * shift is what was kept of the same rows with another embedding, or NULL.
 */
extern real network_rows_forward(const Network *network, const real *first,
								 const real *factor, const Rows *rows,
								 real scale, RowShift *shift,
								 GlobalPass *pass);

/*
 * Backwards from pass->residual: fills in b, delta and sum, and the gradient
 * with respect to `first` and `factor`, whose padding need not be set.
 */
extern void network_rows_backward(const Network *network, const Rows *rows,
								  GlobalPass *pass, real *first, real *factor);

/*
 * And from there to n embeddings, ld apart.  Scratch are n x the stride of E
 * numbers.
 */
extern void network_entities_backward(const Network *network, int n,
									  const real *first, const real *factor,
									  real *gradient, int ld, real *scratch);

/* Scratch numbers that network_forward and network_backward need. */
extern size_t network_scratch_size(const NetworkShape *shape);

/* All of it for one embedding of E numbers. */
extern real network_forward(const Network *network, const real *embedding,
							const Rows *rows, real scale, GlobalPass *pass,
							real *scratch);
extern void network_backward(const Network *network, const Rows *rows,
							 GlobalPass *pass, real *embedding_gradient,
							 real *scratch);

/* A row's loss at score s. */
extern real loss_value(Loss loss, real score, real label);

/* The loss a constant 0 would have: what knowing nothing costs. */
extern real loss_at_zero(Loss loss, real label);

/* c of a support loss over rows of this weight; 0 where the weight is. */
extern real inner_scale(InnerWeighting weighting, real weight);

#endif							/* MATH_NETWORK_H */
