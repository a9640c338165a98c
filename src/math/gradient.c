/*
 * gradient.c
 *	  The meta-gradient, exact or first order.
 *
 * Words of this file: a *direction* is a vector in the space of the meta
 * block's parameters (v of the method); the *tangent* of a quantity (x_dot)
 * is its derivative along minus rates times direction, downhill as the inner
 * loop steps; and
 *
 *		m = <grad L_S(phi_k, psi), -alpha v>
 *
 * is what a step back through the inner loop differentiates.  m is the
 * tangent of L_S, so the gradient of m with respect to anything is the
 * tangent of L_S's gradient with respect to it.
 *
 * The gradient of a hidden layer's weights is a sum of products delta' h over
 * rows: of the query's, and per step of delta' h_dot and delta_dot' h over the
 * support's.  All of a task's lie one after another (PairedRows), so that a
 * layer's is one matrix product.
 *
 * Through relu a score is linear in what its row is, so delta is r times a
 * *slope*, ds/du, and delta_dot r_dot times the same.  Of the support's steps
 * slopes are what is kept then: delta_dot costs no product, and delta' h_dot +
 * delta_dot' h is a single one of slopes with r h_dot + r_dot h.
 */
#include "gradient.h"

#include <string.h>

#include "blas.h"

/* OpenBLAS is at its best where a product takes no more than 10^6 terms. */
#define CANDIDATE_ROWS 256

/*
 * A direction, per layer the sum of `terms` outer products p q', where q has
 * one number more for the bias: q_bias.
 */
typedef struct Direction
{
	int			terms;
	real	   *p[NETWORK_MAX_LAYERS + 1];	/* terms x stride of layer's out */
	real	   *q[NETWORK_MAX_LAYERS + 1];	/* terms x stride of layer's in */
	real	   *q_bias;			/* terms: 1, or 0 for a tangent */
	real	   *embedding;		/* a direction of the embedding itself, which
								 * has not gone through the meta block */
} Direction;

/*
 * Rows of the prior, of the query, and of the support at each step: delta_dot
 * beside h or, with slopes, a slope beside r h_dot + r_dot h.  Without slopes
 * delta beside h_dot of each step comes after all of these.
 */
typedef struct PairedRows
{
	real	   *delta[NETWORK_MAX_LAYERS];	/* layers 1 ... G - 1 */
	real	   *h[NETWORK_MAX_LAYERS];
} PairedRows;

typedef struct Workspace
{
	int			n;				/* support rows */
	int			q;				/* query rows */
	int			steps;			/* K of the shape */
	bool		slopes;			/* the steps keep slopes */
	InnerLoop	loop;
	PairedRows	pairs;
	GlobalPass	query;			/* at phi_K */
	GlobalPass	prior;			/* at phi_0 */
	Direction	direction;
	real	   *scratch;

	/* outer products that are the gradient of C_e, as rows */
	int			terms;
	real	   *first_delta;	/* terms x stride of the first global width */
	real	   *first_e;		/* terms x stride of E */

	/* tangents, one entity */
	real	   *u_dot[NETWORK_MAX_LAYERS + 1];	/* meta layers 1 ... L */
	real	   *h_dot[NETWORK_MAX_LAYERS + 1];	/* 0 ... L */
	real	   *delta_dot[NETWORK_MAX_LAYERS + 1];	/* 1 ... L */
	real	   *b_dot;			/* widest meta layer */
	real	   *back;			/* widest meta layer */
	real	   *entity_dot;		/* [C_e e_c ; e_f]'s tangent */
	real	   *factor;			/* F, padded */
	real	   *sum;			/* widest global layer */
	real	   *products;		/* slopes: the gradient of the last hidden
								 * layer's weights, out x stride of in */

	/* tangents, rows; u_dot and b_dot NULL for relu, which has no curvature */
	real	   *row_u_dot[NETWORK_MAX_LAYERS];	/* hidden layers 2 ... G - 1 */
	real	   *row_b_dot;
	real	   *row_h_dot[NETWORK_MAX_LAYERS];	/* slopes: layers 2 ... G - 1 */
	real	   *residual_dot;
} Workspace;

static int
widest(int n, const int *width)
{
	int			most = 0;

	for (int l = 0; l < n; l++)
		if (width[l] > most)
			most = width[l];
	return kernel_stride(most);
}

/* Two terms a step, the query's and the prior's. */
static int
most_terms(const NetworkShape *shape)
{
	return 2 * shape->steps + 2;
}

/* The first row of delta_dot, or a slope, beside h at step k. */
static size_t
dot_beside_h(const Workspace *w, int k)
{
	return 2 * (size_t) w->q + (size_t) k * w->n;
}

/* And of delta beside h_dot. */
static size_t
delta_beside_dot(const Workspace *w, int k)
{
	return dot_beside_h(w, w->steps + k);
}

/* A pass of n rows, its delta and h being paired rows from these on. */
static size_t
paired_pass_take(Workspace *w, GlobalPass *pass, const NetworkShape *shape,
				 int n, size_t delta_row, size_t h_row, Arena *arena)
{
	real	   *delta[NETWORK_MAX_LAYERS];
	real	   *h[NETWORK_MAX_LAYERS];

	if (arena)
	{
		for (int l = 1; l < shape->global_layers; l++)
		{
			int			width = kernel_stride(shape->global_width[l]);

			delta[l] = w->pairs.delta[l] + delta_row * width;
			h[l] = w->pairs.h[l] + h_row * width;
		}
		global_pass_take_kept(pass, shape, n, h, delta, arena);
	}
	return global_pass_kept_size(shape, n);
}

static size_t
workspace_take(Workspace *w, const NetworkShape *shape, int n, int q,
			   Arena *arena)
{
	int			G = shape->global_layers;
	int			first = kernel_stride(shape->global_width[1]);
	int			factor = kernel_stride(shape->factor_size);
	int			meta = widest(shape->meta_layers + 1, shape->meta_width);
	int			embedding = kernel_stride(network_embedding_size(shape));
	int			terms = most_terms(shape);
	bool		curved = shape->activation != ACTIVATION_RELU;
	size_t		size = 0;

	/* counts where there is no arena yet, so that the sum is written once */
#define TAKE(field, numbers) \
	do { \
		size_t count_ = kernel_stride(1) * \
			(((size_t) (numbers) + KERNEL_PAD - 1) / KERNEL_PAD); \
		size += count_; \
		if (arena) \
			(field) = arena_take(arena, count_); \
	} while (0)

	w->n = n;
	w->q = q;
	w->steps = shape->steps;
	w->slopes = !curved && G > 2 && n >= KERNEL_SUM_ROWS;
	for (int l = 1; l < G; l++)
	{
		size_t		numbers = (w->slopes ? dot_beside_h(w, shape->steps) :
							   delta_beside_dot(w, shape->steps)) *
			kernel_stride(shape->global_width[l]);

		TAKE(w->pairs.delta[l], numbers);
		TAKE(w->pairs.h[l], numbers);
	}
	size += inner_loop_size(shape, 1, n);
	if (arena)
		inner_loop_take(&w->loop, shape, 1, n, arena);
	size += paired_pass_take(w, &w->prior, shape, q, 0, 0, arena);
	size += paired_pass_take(w, &w->query, shape, q, q, q, arena);
	for (int k = 0; k < shape->steps; k++)
	{
		size_t		h_row = dot_beside_h(w, k);

		size += paired_pass_take(w, &w->loop.global[k], shape, n,
								 w->slopes ? h_row : delta_beside_dot(w, k),
								 h_row, arena);
		if (arena)
			w->loop.global[k].slopes = w->slopes;
	}
	TAKE(w->scratch, network_scratch_size(shape));

	w->direction.terms = 0;
	for (int l = 1; l <= shape->meta_layers; l++)
	{
		int			in = kernel_stride(shape->meta_width[l - 1]);
		int			out = kernel_stride(shape->meta_width[l]);

		TAKE(w->direction.p[l], (size_t) terms * out);
		TAKE(w->direction.q[l], (size_t) terms * in);
		TAKE(w->u_dot[l], out);
		TAKE(w->delta_dot[l], out);
	}
	for (int l = 0; l <= shape->meta_layers; l++)
		TAKE(w->h_dot[l], kernel_stride(shape->meta_width[l]));
	TAKE(w->direction.q_bias, terms);
	TAKE(w->direction.embedding, embedding);
	w->terms = 0;
	TAKE(w->first_delta, (size_t) terms * first);
	TAKE(w->first_e, (size_t) terms * embedding);
	TAKE(w->b_dot, meta);
	TAKE(w->back, meta > embedding ? meta : embedding);
	TAKE(w->entity_dot, first + factor);
	TAKE(w->factor, factor);
	TAKE(w->sum, widest(G, shape->global_width + 1));
	w->products = NULL;
	if (w->slopes)
		TAKE(w->products, (size_t) shape->global_width[G - 1] *
			 kernel_stride(shape->global_width[G - 2]));
	w->row_b_dot = NULL;
	if (curved)
		TAKE(w->row_b_dot, (size_t) n * widest(G, shape->global_width + 1));
	for (int l = 1; l < G; l++)
	{
		w->row_h_dot[l] = NULL;
		if (w->slopes && l > 1)
			TAKE(w->row_h_dot[l], (size_t) n *
				 kernel_stride(shape->global_width[l]));
		w->row_u_dot[l] = NULL;
		if (curved && l > 1)
			TAKE(w->row_u_dot[l], (size_t) n *
				 kernel_stride(shape->global_width[l]));
	}
	TAKE(w->residual_dot, n);
#undef TAKE
	return size + KERNEL_PAD;
}

size_t
gradient_size(const NetworkShape *shape, int n, int q)
{
	Workspace	w;

	return workspace_take(&w, shape, n, q, NULL);
}

/* Adds x to a tensor of the gradient, element by element. */
static void
add_to(const Network *network, int tensor, int count, real scale,
	   const real *x, real *gradient)
{
	real	   *g = gradient + network->tensors[tensor].offset;

	for (int i = 0; i < count; i++)
		g[i] += scale * x[i];
}

/* The same of one row of a matrix. */
static void
add_to_row(const Network *network, int tensor, int row, const real *x,
		   real *gradient)
{
	const NetworkTensor *t = &network->tensors[tensor];
	real	   *g = gradient + t->offset + (size_t) row * t->columns;

	for (int i = 0; i < t->columns; i++)
		g[i] += x[i];
}

/* Adds the sum over n rows of a b' to a tensor's first columns. */
static void
add_products(const Network *network, int tensor, int columns, int n,
			 const real *a, const real *b, int ldb, real *gradient)
{
	const NetworkTensor *t = &network->tensors[tensor];

	blas_multiply_add(true, false, t->rows, columns, n, 1,
					  a, kernel_stride(t->rows), b, ldb,
					  gradient + t->offset, t->columns);
}

/* One more outer product of C_e's gradient. */
static void
first_add(const NetworkShape *shape, Workspace *w, const real *delta,
		  const real *e)
{
	int			first = kernel_stride(shape->global_width[1]);
	int			embedding = kernel_stride(network_embedding_size(shape));

	/* where the first layer is the last, delta is a single number */
	memset(w->first_delta + (size_t) w->terms * first, 0,
		   first * sizeof(real));
	memcpy(w->first_delta + (size_t) w->terms * first, delta,
		   shape->global_width[1] * sizeof(real));
	memcpy(w->first_e + (size_t) w->terms * embedding, e,
		   network_concatenated_size(shape) * sizeof(real));
	w->terms++;
}

/*
 * Adds the first layer's delta, each times its scale (NULL: 1), to the halves';
 * of a single layer, dL/ds.
 */
static void
add_to_halves(const Network *network, int n, const real *scale,
			  const real *delta, const real *residual, real *half_gradient)
{
	const NetworkShape *shape = &network->shape;
	int			first = kernel_stride(shape->global_width[1]);
	int			ld = network_half_size(shape);

	if (shape->global_layers > 1)
		network->kernels->add_scaled_rows(n, first, scale, delta, first,
										  half_gradient, ld);
	else
		for (int i = 0; i < n; i++)
			half_gradient[(size_t) i * ld] += residual[i];
}

/* Adds residual_i factor' to the factor part of each row's. */
static void
add_to_factors(const Network *network, int n, const real *residual,
			   const real *factor, real *half_gradient)
{
	const NetworkShape *shape = &network->shape;
	int			first = kernel_stride(shape->global_width[1]);

	if (shape->factor_size > 0)
		network->kernels->add_scaled_rows(n, shape->factor_size, residual,
										  factor, 0, half_gradient + first,
										  network_half_size(shape));
}

/* Adds the gradient of the last layer: of rows h, each times its weight. */
static void
add_last(const Network *network, Workspace *w, int n, const real *weight,
		 const real *h, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	int			G = shape->global_layers;
	int			last = kernel_stride(shape->global_width[G - 1]);

	network->kernels->sum_rows(n, last, weight, h, last, w->sum);
	add_to(network, GLOBAL_WEIGHT(shape, G - 1), shape->global_width[G - 1],
		   1, w->sum, gradient);
}

/* e_f in its padded place. */
static void
take_factor(const NetworkShape *shape, const real *embedding, real *factor)
{
	memset(factor, 0, kernel_stride(shape->factor_size) * sizeof(real));
	memcpy(factor, embedding + network_concatenated_size(shape),
		   shape->factor_size * sizeof(real));
}

/*
 * The loss of the query rows at step k and its direct gradient: with respect
 * to the global block and the rows' halves and offsets (added, but for what
 * waits in pairs), and to the embedding (set, E numbers).
 */
static double
query_gradient(const Network *network, Workspace *w, const Task *task, int k,
			   real scale, GlobalPass *pass, real *gradient,
			   real *embedding_gradient)
{
	const NetworkShape *shape = &network->shape;
	const Rows *rows = &task->query;
	const real *e = w->loop.meta[k].h[shape->meta_layers];
	int			G = shape->global_layers;
	double		loss = network_forward(network, e, rows, scale, pass,
									   w->scratch);

	network_backward(network, rows, pass, embedding_gradient, w->scratch);
	if (G > 1)
		add_last(network, w, rows->n, pass->residual, pass->h[G - 1],
				 gradient);
	add_to(network, GLOBAL_BIAS(shape, G - 1), 1, 1, &pass->residuals,
		   gradient);
	for (int l = 1; l < G; l++)
		add_to(network, GLOBAL_BIAS(shape, l - 1), shape->global_width[l], 1,
			   pass->sum[l], gradient);
	add_to(network, FACTOR_BIAS(shape), shape->factor_size, pass->residuals,
		   e + network_concatenated_size(shape), gradient);
	first_add(shape, w, G > 1 ? pass->sum[1] : &pass->residuals, e);

	if (task->query_half_gradient)
	{
		take_factor(shape, e, w->factor);
		add_to_halves(network, rows->n, NULL, pass->delta[1], pass->residual,
					  task->query_half_gradient);
		add_to_factors(network, rows->n, pass->residual, w->factor,
					   task->query_half_gradient);
	}
	if (task->query_offset_gradient)
		for (int i = 0; i < rows->n; i++)
			task->query_offset_gradient[i] += pass->residual[i];
	return loss;
}

/* One more outer product for layer l of a direction; see direction_end. */
static void
direction_add(Direction *direction, const NetworkShape *shape, int l,
			  const real *p, const real *q)
{
	int			in = kernel_stride(shape->meta_width[l - 1]);
	int			out = kernel_stride(shape->meta_width[l]);

	memcpy(direction->p[l] + (size_t) direction->terms * out, p,
		   out * sizeof(real));
	memcpy(direction->q[l] + (size_t) direction->terms * in, q,
		   in * sizeof(real));
}

/* Ends a term that direction_add gave every layer. */
static void
direction_end(Direction *direction, real bias)
{
	direction->q_bias[direction->terms++] = bias;
}

/*
 * The gradient of an embedding's gradient through the meta block at step k:
 * a rank-one term per layer, and x's part.  `delta` is the gradient with
 * respect to the embedding, padded.
 */
static void
meta_gradient(const Network *network, Workspace *w, int k, const real *delta,
			  real *x_gradient)
{
	const NetworkShape *shape = &network->shape;
	const MetaPass *pass = &w->loop.meta[k];

	for (int l = shape->meta_layers; l >= 1; l--)
	{
		direction_add(&w->direction, shape, l, delta, pass->h[l - 1]);
		if (l == 1 && !x_gradient)
			break;
		inner_loop_layer_back(network, &w->loop, k, l, delta, w->back);
		if (l > 1)
		{
			network->kernels->backward(shape->activation, 1,
									   kernel_stride(shape->meta_width[l - 1]),
									   pass->u[l - 1], pass->h[l - 1],
									   w->back, w->delta_dot[l - 1]);
			delta = w->delta_dot[l - 1];
		}
		else
			for (int j = 0; j < shape->meta_width[0]; j++)
				x_gradient[j] += w->back[j];
	}
	direction_end(&w->direction, 1);
}

/*
 * The support rows' part of a step back: given e_dot, the tangent of the
 * embedding, the tangent of every gradient of L_S at step k.  Adds those with
 * respect to the global block and the rows' halves and offsets, but for what
 * waits in pairs, and sets that with respect to the embedding.
 */
static void
support_tangent(const Network *network, Workspace *w, const Task *task, int k,
				const real *e_dot, real *gradient, real *embedding_tangent)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *kernels = network->kernels;
	const Rows *rows = &task->support;
	const GlobalPass *pass = &w->loop.global[k];
	const real *e = w->loop.meta[k].h[shape->meta_layers];
	int			G = shape->global_layers;
	int			concatenated = network_concatenated_size(shape);
	int			first = kernel_stride(shape->global_width[1]);
	int			factor = shape->factor_size;
	int			ld = network_half_size(shape);
	real		residual_dots = 0;
	real	   *h_dot[NETWORK_MAX_LAYERS];
	real	   *delta_dot[NETWORK_MAX_LAYERS];

	/* beside what each is multiplied with */
	for (int l = 1; l < G; l++)
	{
		int			width = kernel_stride(shape->global_width[l]);

		h_dot[l] = w->slopes ? w->row_h_dot[l] :
			w->pairs.h[l] + delta_beside_dot(w, k) * width;
		delta_dot[l] = w->pairs.delta[l] + dot_beside_h(w, k) * width;
	}

	/* forwards: the first layer's tangent is the same for every row */
	network_entity_half(network, e_dot, w->entity_dot);
	if (G > 1 && !w->slopes)
		kernels->tangent(shape->activation, rows->n, first, pass->u[1],
						 pass->h[1], w->entity_dot, 0, h_dot[1]);
	for (int l = 1; l < G - 1; l++)
	{
		const PackedLayer *layer = &network->hidden[l];

		if (l == 1 && w->slopes)
		{
			kernels->masked_layer(rows->n, layer->in, layer->out_stride,
								  pass->h[1], first, w->entity_dot,
								  layer->forward, pass->h[2], NULL, h_dot[2]);
			continue;
		}
		kernels->layer_tangent(shape->activation, rows->n, layer->in,
							   layer->out_stride, h_dot[l], layer->in_stride,
							   layer->forward, pass->u[l + 1], pass->h[l + 1],
							   w->row_u_dot[l + 1], h_dot[l + 1]);
	}
	kernels->last_layer(rows->n,
						G > 1 ? kernel_stride(shape->global_width[G - 1]) : 0,
						G > 1 ? h_dot[G - 1] : NULL, network->last, factor,
						rows->half + first, ld, w->entity_dot + first,
						G > 1 ? 0 : w->entity_dot[0], NULL, w->residual_dot);
	for (int i = 0; i < rows->n; i++)
	{
		w->residual_dot[i] *= pass->curvature[i];
		residual_dots += w->residual_dot[i];
	}

	/* and backwards */
	if (G > 1)
	{
		add_last(network, w, rows->n, w->residual_dot, pass->h[G - 1],
				 gradient);
		add_last(network, w, rows->n, pass->residual, h_dot[G - 1], gradient);
	}
	add_to(network, GLOBAL_BIAS(shape, G - 1), 1, 1, &residual_dots, gradient);
	add_to(network, FACTOR_BIAS(shape), shape->factor_size, residual_dots,
		   e + concatenated, gradient);
	add_to(network, FACTOR_BIAS(shape), shape->factor_size, pass->residuals,
		   e_dot + concatenated, gradient);
	for (int l = G - 1; l >= 1; l--)
	{
		int			width = kernel_stride(shape->global_width[l]);
		const real *u_dot = l > 1 ? w->row_u_dot[l] : w->entity_dot;
		int			ld_dot = l > 1 ? width : 0;

		if (l == G - 1)
			kernels->last_layer_back_tangent(shape->activation, rows->n, width,
											 w->residual_dot, network->last,
											 pass->u[l], pass->h[l],
											 pass->b[l], u_dot, ld_dot, NULL,
											 w->slopes ? NULL : delta_dot[l],
											 w->sum);
		else if (w->slopes)
			kernels->sum_rows(rows->n, width, w->residual_dot, pass->delta[l],
							  width, w->sum);
		else
		{
			const PackedLayer *layer = &network->hidden[l];

			kernels->layer_back_tangent(shape->activation, rows->n, layer->out,
										width, delta_dot[l + 1],
										layer->out_stride, layer->backward,
										pass->u[l], pass->h[l], pass->b[l],
										u_dot, ld_dot, w->row_b_dot,
										delta_dot[l], w->sum);
		}
		add_to(network, GLOBAL_BIAS(shape, l - 1), shape->global_width[l], 1,
			   w->sum, gradient);
	}
	if (G == 1)
		w->sum[0] = residual_dots;
	first_add(shape, w, w->sum, e);
	first_add(shape, w, G > 1 ? pass->sum[1] : &pass->residuals, e_dot);

	kernels->multiply(1, network->entity.out, network->entity.in_stride,
					  w->sum, first, network->entity.backward, NULL, w->back);
	memcpy(embedding_tangent, w->back, concatenated * sizeof(real));
	if (factor > 0)
	{
		kernels->sum_rows(rows->n, factor, w->residual_dot,
						  rows->half + first, ld, w->back);
		memcpy(embedding_tangent + concatenated, w->back,
			   factor * sizeof(real));
	}

	/* the rows' h are not needed from here on */
	for (int l = 1; l < G - 1 && w->slopes; l++)
	{
		int			width = kernel_stride(shape->global_width[l]);

		kernels->mix_rows(rows->n, width, pass->residual,
						  l > 1 ? h_dot[l] : w->entity_dot, l > 1 ? width : 0,
						  w->residual_dot, pass->h[l]);
		if (l == G - 2)
			kernels->add_masked_products(rows->n, width,
										 shape->global_width[G - 1],
										 pass->h[l], width, pass->h[G - 1],
										 kernel_stride(shape->global_width[G - 1]),
										 network->last, w->products);
	}

	if (task->support_half_gradient)
	{
		take_factor(shape, e, w->factor);
		add_to_halves(network, rows->n, w->slopes ? w->residual_dot : NULL,
					  w->slopes ? pass->delta[1] : delta_dot[1],
					  w->residual_dot, task->support_half_gradient);
		add_to_factors(network, rows->n, w->residual_dot, w->factor,
					   task->support_half_gradient);
		add_to_factors(network, rows->n, pass->residual,
					   w->entity_dot + first, task->support_half_gradient);
	}
	if (task->support_offset_gradient)
		for (int i = 0; i < rows->n; i++)
			task->support_offset_gradient[i] += w->residual_dot[i];
}

/*
 * u_dot -= rate D h, D being the direction's matrix of layer l and h its input
 * at step k, whose bias input is 1.  Also subtracts v . grad L_S, which is
 * delta . D h, from the gradient of the layer's inner rate.
 */
static void
direction_forward(const Network *network, Workspace *w, int k, int l,
				  real *u_dot, real *rate_gradient)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];
	const Direction *direction = &w->direction;
	const MetaPass *pass = &w->loop.meta[k];
	real	   *d_h = w->back;

	memset(d_h, 0, layer->out_stride * sizeof(real));
	kernels->add_pairs(direction->terms, 1, layer->in_stride, direction->q[l],
					   layer->in_stride, pass->h[l - 1], direction->q_bias,
					   layer->out_stride, direction->p[l], layer->out_stride,
					   d_h);
	*rate_gradient -= kernels->dot(layer->out_stride, d_h, pass->delta[l]);
	if (u_dot)
		kernels->add_scaled(layer->out_stride, -network->inner_rate[l - 1],
							d_h, u_dot);
}

/* b_dot -= rate D' delta. */
static void
direction_backward(const Network *network, Workspace *w, int l,
				   const real *delta, real *b_dot)
{
	const PackedLayer *layer = &network->meta[l - 1];
	const Direction *direction = &w->direction;

	network->kernels->add_pairs(direction->terms, -network->inner_rate[l - 1],
								layer->out_stride, direction->p[l],
								layer->out_stride, delta, NULL,
								layer->in_stride, direction->q[l],
								layer->in_stride, b_dot);
}

/* v_k from v_k+1 where the whole meta block adapts. */
static void
step_back(const Network *network, Workspace *w, const Task *task, int k,
		  int order, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *kernels = network->kernels;
	const MetaPass *pass = &w->loop.meta[k];
	real	   *rate_gradient = gradient +
		network->tensors[INNER_RATE(shape)].offset;
	int			L = shape->meta_layers;

	if (order == 1)
	{
		for (int l = 1; l <= L; l++)
			direction_forward(network, w, k, l, NULL, &rate_gradient[l - 1]);
		return;
	}

	memset(w->h_dot[0], 0, kernel_stride(shape->meta_width[0]) * sizeof(real));
	for (int l = 1; l <= L; l++)
	{
		int			width = kernel_stride(shape->meta_width[l]);

		if (l == 1)
			memset(w->u_dot[1], 0, width * sizeof(real));
		else
			inner_loop_layer(network, &w->loop, k, l, w->h_dot[l - 1], true,
							 w->u_dot[l]);
		direction_forward(network, w, k, l, w->u_dot[l], &rate_gradient[l - 1]);
		if (l < L)
			kernels->tangent(shape->activation, 1, width, pass->u[l],
							 pass->h[l], w->u_dot[l], 0, w->h_dot[l]);
		else
			memcpy(w->h_dot[l], w->u_dot[l], width * sizeof(real));
	}

	memset(w->delta_dot[L], 0,
		   kernel_stride(shape->meta_width[L]) * sizeof(real));
	support_tangent(network, w, task, k, w->h_dot[L], gradient,
					w->delta_dot[L]);

	for (int l = L; l >= 1; l--)
	{
		if (l == 1 && !task->x_gradient)
			break;
		inner_loop_layer_back(network, &w->loop, k, l, w->delta_dot[l],
							  w->b_dot);
		direction_backward(network, w, l, pass->delta[l], w->b_dot);
		if (l > 1)
			kernels->backward_tangent(shape->activation, 1,
									  kernel_stride(shape->meta_width[l - 1]),
									  pass->u[l - 1], pass->h[l - 1],
									  pass->b[l - 1], w->b_dot,
									  w->u_dot[l - 1], 0,
									  w->delta_dot[l - 1]);
		else
			for (int j = 0; j < shape->meta_width[0]; j++)
				task->x_gradient[j] += w->b_dot[j];
	}

	/* the tangent of delta h' is delta_dot h' + delta h_dot' */
	for (int l = 1; l <= L; l++)
		direction_add(&w->direction, shape, l, w->delta_dot[l],
					  pass->h[l - 1]);
	direction_end(&w->direction, 1);
	for (int l = 1; l <= L; l++)
		direction_add(&w->direction, shape, l, pass->delta[l],
					  w->h_dot[l - 1]);
	direction_end(&w->direction, 0);
}

/* v_k from v_k+1 where the embedding alone adapts. */
static void
step_back_embedding(const Network *network, Workspace *w, const Task *task,
					int k, int order, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	int			L = shape->meta_layers;
	int			width = kernel_stride(shape->meta_width[L]);
	real	   *v = w->direction.embedding;

	gradient[network->tensors[INNER_RATE(shape)].offset + L - 1] -=
		network->kernels->dot(width, v, w->loop.meta[k].delta[L]);
	if (order == 1)
		return;

	for (int j = 0; j < width; j++)
		w->h_dot[L][j] = -network->inner_rate[L - 1] * v[j];
	memset(w->delta_dot[L], 0, width * sizeof(real));
	support_tangent(network, w, task, k, w->h_dot[L], gradient,
					w->delta_dot[L]);
	for (int j = 0; j < width; j++)
		v[j] += w->delta_dot[L][j];
}

/* Adds a direction's matrices, the gradient of the meta block. */
static void
add_direction(const Network *network, Workspace *w, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	const Direction *direction = &w->direction;

	for (int l = 1; l <= shape->meta_layers; l++)
	{
		const PackedLayer *layer = &network->meta[l - 1];

		add_products(network, META_WEIGHT(shape, l - 1), layer->in,
					 direction->terms, direction->p[l], direction->q[l],
					 layer->in_stride, gradient);
		network->kernels->sum_rows(direction->terms, layer->out_stride,
								   direction->q_bias, direction->p[l],
								   layer->out_stride, w->back);
		add_to(network, META_BIAS(shape, l - 1), layer->out, 1, w->back,
			   gradient);
	}
}

/*
 * Adds what has waited in pairs: the prior's rows or not, and the steps' unless
 * there are none.
 */
static void
add_pairs(const Network *network, Workspace *w, bool prior, bool steps,
		  real *gradient)
{
	const NetworkShape *shape = &network->shape;
	size_t		from = prior ? 0 : w->q;
	int			G = shape->global_layers;

	add_products(network, GLOBAL_WEIGHT(shape, 0),
				 network_concatenated_size(shape), w->terms, w->first_delta,
				 w->first_e, kernel_stride(network_embedding_size(shape)),
				 gradient);
	for (int l = 1; l < G - 1; l++)
	{
		int			in = kernel_stride(shape->global_width[l]);
		int			out = kernel_stride(shape->global_width[l + 1]);
		bool		apart = w->slopes && l == G - 2;
		int			count = (!steps || apart ? dot_beside_h(w, 0) :
							 w->slopes ? dot_beside_h(w, w->steps) :
							 delta_beside_dot(w, w->steps)) - from;

		add_products(network, GLOBAL_WEIGHT(shape, l), shape->global_width[l],
					 count, w->pairs.delta[l + 1] + from * out,
					 w->pairs.h[l] + from * in, in, gradient);
		for (int o = 0; apart && steps && o < shape->global_width[l + 1]; o++)
			add_to_row(network, GLOBAL_WEIGHT(shape, l), o,
					   w->products + (size_t) o * in, gradient);
	}
}

static void
zero(real *numbers, size_t n)
{
	if (numbers)
		memset(numbers, 0, n * sizeof(real));
}

TaskLoss
gradient_task(const Network *network, const OuterLoss *outer, Task *task,
			  real *memory, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	int			L = shape->meta_layers;
	int			half = network_half_size(shape);
	int			E = kernel_stride(network_embedding_size(shape));
	real		scale = outer->scale / (1 + outer->prior_loss);
	Arena		arena = {memory, memory + gradient_size(shape, task->support.n,
														task->query.n)};
	TaskLoss	loss = {0};
	Workspace	w;
	real	   *v;
	int			K;

	workspace_take(&w, shape, task->support.n, task->query.n, &arena);
	zero(task->support_half_gradient, (size_t) task->support.n * half);
	zero(task->query_half_gradient, (size_t) task->query.n * half);
	zero(task->support_offset_gradient, task->support.n);
	zero(task->query_offset_gradient, task->query.n);

	w.loop.entity[0].x = task->x;
	w.loop.entity[0].rows = &task->support;
	inner_loop_run(network, false, &w.loop);
	loss.diverged_at = w.loop.entity[0].diverged_at;
	if (loss.diverged_at)
		return loss;
	K = w.loop.entity[0].steps;
	if (w.slopes)
		zero(w.products, (size_t)
			 shape->global_width[shape->global_layers - 1] *
			 kernel_stride(shape->global_width[shape->global_layers - 2]));

	v = w.direction.embedding;
	memset(v, 0, E * sizeof(real));
	loss.query = query_gradient(network, &w, task, K, scale, &w.query,
								gradient, v);

	if (shape->adapts == ADAPTS_EMBEDDING)
	{
		for (int k = K - 1; k >= 0; k--)
			step_back_embedding(network, &w, task, k, outer->order, gradient);
	}
	else
	{
		meta_gradient(network, &w, K, v, task->x_gradient);
		memset(v, 0, E * sizeof(real));
		for (int k = K - 1; k >= 0; k--)
			step_back(network, &w, task, k, outer->order, gradient);
	}

	if (outer->prior_loss > 0)
	{
		real	   *prior = w.h_dot[L];

		memset(prior, 0, E * sizeof(real));
		loss.prior = query_gradient(network, &w, task, 0,
									scale * outer->prior_loss, &w.prior,
									gradient, prior);
		for (int j = 0; j < E; j++)
			v[j] += prior[j];
	}

	/* what is left in v came to the embedding at phi_0 itself */
	if (shape->adapts == ADAPTS_EMBEDDING || outer->prior_loss > 0)
		meta_gradient(network, &w, 0, v, task->x_gradient);
	add_direction(network, &w, gradient);
	add_pairs(network, &w, outer->prior_loss > 0, outer->order > 1 && K > 0,
			  gradient);
	return loss;
}

/*
 * What takes z to a candidate half, and its gradient: rows x dz numbers, a row
 * ld numbers from the next.
 */
typedef struct CandidateMap
{
	int			rows;
	int			ld;
	const real *weight;
	real	   *gradient;
} CandidateMap;

/* C_z is part of a tensor. */
static size_t
candidate_offset(const Network *network)
{
	const NetworkShape *shape = &network->shape;

	return network->tensors[GLOBAL_WEIGHT(shape, 0)].offset +
		network_concatenated_size(shape);
}

/* Rows of C_z and P one below the other, and those that pad a half between. */
static int
map_rows(const NetworkShape *shape)
{
	return kernel_stride(shape->global_width[1]) + shape->factor_size;
}

static size_t
map_size(const NetworkShape *shape)
{
	return (size_t) map_rows(shape) * network_candidate_size(shape);
}

size_t
gradient_candidate_size(const NetworkShape *shape)
{
	return shape->factor_size > 0 ? 2 * map_size(shape) : 0;
}

/*
 * C_z where it is; or with P below it in memory, for one product each way takes
 * less time than two.
 */
static CandidateMap
candidate_map(const Network *network, real *memory, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *first = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
	size_t		c_z = candidate_offset(network);

	if (shape->factor_size == 0)
		return (CandidateMap)
	{
		first->rows, first->columns, network->parameters + c_z, gradient + c_z
	};
	return (CandidateMap)
	{
		map_rows(shape), network_candidate_size(shape), memory,
			memory + map_size(shape)
	};
}

void
gradient_candidate_begin(const Network *network, real *memory)
{
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *first = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
	const NetworkTensor *factor = &network->tensors[FACTOR_WEIGHT(shape)];
	const real *c_z = network->parameters + candidate_offset(network);
	int			dz = network_candidate_size(shape);

	if (shape->factor_size == 0)
		return;
	memset(memory, 0, gradient_candidate_size(shape) * sizeof(real));
	for (int i = 0; i < first->rows; i++)
		memcpy(memory + (size_t) i * dz, c_z + (size_t) i * first->columns,
			   dz * sizeof(real));
	memcpy(memory + (size_t) kernel_stride(first->rows) * dz,
		   network->parameters + factor->offset,
		   (size_t) factor->rows * dz * sizeof(real));
}

void
gradient_candidate(const Network *network, int n, const real *z,
				   const real *half_gradient, real *memory, real *gradient,
				   real *z_gradient)
{
	int			dz = network_candidate_size(&network->shape);
	int			ld = network_half_size(&network->shape);
	CandidateMap map = candidate_map(network, memory, gradient);

	zero(z_gradient, (size_t) n * dz);
	for (int i = 0; i < n; i += CANDIDATE_ROWS)
	{
		int			rows = n - i < CANDIDATE_ROWS ? n - i : CANDIDATE_ROWS;
		const real *half_i = half_gradient + (size_t) i * ld;

		blas_multiply_add(true, false, map.rows, dz, rows, 1, half_i, ld,
						  z + (size_t) i * dz, dz, map.gradient, map.ld);
		if (z_gradient)
			blas_multiply_add(false, false, rows, dz, map.rows, 1, half_i, ld,
							  map.weight, map.ld,
							  z_gradient + (size_t) i * dz, dz);
	}
}

void
gradient_candidate_end(const Network *network, const real *memory,
					   real *gradient)
{
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *first = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
	const real *sum = memory + map_size(shape);
	real	   *c_z = gradient + candidate_offset(network);
	int			dz = network_candidate_size(shape);

	if (shape->factor_size == 0)
		return;
	for (int i = 0; i < first->rows; i++)
		for (int j = 0; j < dz; j++)
			c_z[(size_t) i * first->columns + j] += sum[(size_t) i * dz + j];
	add_to(network, FACTOR_WEIGHT(shape), shape->factor_size * dz, 1,
		   sum + (size_t) kernel_stride(first->rows) * dz, gradient);
}

void
gradient_add(size_t n, const real *gradient, real *sum)
{
	for (size_t i = 0; i < n; i++)
		sum[i] += gradient[i];
}
