/*
 * gradient.c
 *	  The meta-gradient, exact or first order.
 *
 * Words of this file: a *direction* is a vector in the space of the meta
 * block's parameters (v of the method); the *tangent* of a quantity (x_dot)
 * is its derivative along rates times direction; and
 *
 *		m = <grad L_S(phi_k, psi), alpha v>
 *
 * is what a step back through the inner loop differentiates.  m is the
 * tangent of L_S, so the gradient of m with respect to anything is the
 * tangent of L_S's gradient with respect to it, negated here because the
 * inner loop steps downhill.
 */
#include "gradient.h"

#include <string.h>

#include "blas.h"

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

typedef struct Workspace
{
	InnerLoop	loop;
	GlobalPass	query;
	Direction	direction;
	real	   *scratch;

	/* tangents, one entity */
	real	   *u_dot[NETWORK_MAX_LAYERS + 1];	/* meta layers 1 ... L */
	real	   *h_dot[NETWORK_MAX_LAYERS + 1];	/* 0 ... L */
	real	   *delta_dot[NETWORK_MAX_LAYERS + 1];	/* 1 ... L */
	real	   *b_dot;			/* widest meta layer */
	real	   *back;			/* widest meta layer */
	real	   *first_dot;		/* C_e e_c's tangent */
	real	   *sum;			/* first global width */
	real	   *sum_dot;
	real	   *factor;			/* F, padded */
	real	   *factor_dot;

	/* tangents, rows */
	real	   *row_u_dot[NETWORK_MAX_LAYERS];	/* hidden layers 2 ... G - 1 */
	real	   *row_h_dot[NETWORK_MAX_LAYERS];	/* 1 ... G - 1 */
	real	   *row_b_dot[NETWORK_MAX_LAYERS];
	real	   *row_delta_dot[NETWORK_MAX_LAYERS];
	real	   *residual_dot;
} Workspace;

static int
widest_meta(const NetworkShape *shape)
{
	int			widest = 0;

	for (int l = 0; l <= shape->meta_layers; l++)
		if (shape->meta_width[l] > widest)
			widest = shape->meta_width[l];
	return kernel_stride(widest);
}

/* Two terms a step, the query's and the prior's. */
static int
most_terms(const NetworkShape *shape)
{
	return 2 * shape->steps + 2;
}

static size_t
workspace_take(Workspace *w, const NetworkShape *shape, int n, int q,
			   Arena *arena)
{
	int			first = kernel_stride(shape->global_width[1]);
	int			factor = kernel_stride(shape->factor_size);
	int			widest = widest_meta(shape);
	int			terms = most_terms(shape);
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

	size += inner_loop_size(shape, n, true) + global_pass_size(shape, q);
	if (arena)
	{
		inner_loop_take(&w->loop, shape, n, true, arena);
		global_pass_take(&w->query, shape, q, arena);
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
	TAKE(w->direction.embedding,
		 kernel_stride(network_embedding_size(shape)));
	TAKE(w->b_dot, widest);
	TAKE(w->back, widest);
	TAKE(w->first_dot, first);
	TAKE(w->sum, first);
	TAKE(w->sum_dot, first);
	TAKE(w->factor, factor);
	TAKE(w->factor_dot, factor);
	for (int l = 1; l < shape->global_layers; l++)
	{
		size_t		rows = (size_t) n * kernel_stride(shape->global_width[l]);

		if (l > 1)
			TAKE(w->row_u_dot[l], rows);
		TAKE(w->row_h_dot[l], rows);
		TAKE(w->row_b_dot[l], rows);
		TAKE(w->row_delta_dot[l], rows);
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

/* Adds scale a b' to the first columns of a tensor of the gradient. */
static void
add_outer(const Network *network, int tensor, real scale, const real *a,
		  const real *b, int columns, real *gradient)
{
	const NetworkTensor *t = &network->tensors[tensor];

	for (int r = 0; r < t->rows; r++)
	{
		real	   *g = gradient + t->offset + (size_t) r * t->columns;
		real		s = scale * a[r];

		for (int c = 0; c < columns; c++)
			g[c] += s * b[c];
	}
}

/* Adds scale (sum over n rows of a b') to a tensor of the gradient. */
static void
add_products(const Network *network, int tensor, real scale, int n,
			 const real *a, const real *b, real *gradient)
{
	const NetworkTensor *t = &network->tensors[tensor];

	blas_multiply_add(true, false, t->rows, t->columns, n, scale,
					  a, kernel_stride(t->rows), b, kernel_stride(t->columns),
					  gradient + t->offset, t->columns);
}

/* Adds scale (sum of n rows of a) to a bias of the gradient. */
static void
add_row_sums(const Network *network, int tensor, real scale, int n,
			 const real *a, real *gradient)
{
	const NetworkTensor *t = &network->tensors[tensor];
	int			ld = kernel_stride(t->columns);
	real	   *g = gradient + t->offset;

	for (int i = 0; i < n; i++)
		for (int j = 0; j < t->columns; j++)
			g[j] += scale * a[(size_t) i * ld + j];
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
 * to the global block (added), the rows' halves and offsets (added), and the
 * embedding (set, E numbers).
 */
static double
query_gradient(const Network *network, Workspace *w, const Task *task, int k,
			   real scale, real *gradient, real *embedding_gradient)
{
	const NetworkShape *shape = &network->shape;
	const Rows *rows = &task->query;
	GlobalPass *pass = &w->query;
	const real *e = w->loop.meta[k].h[shape->meta_layers];
	int			G = shape->global_layers;
	int			first = kernel_stride(shape->global_width[1]);
	int			ld = network_half_size(shape);
	double		loss = 0;
	real		residuals = 0;

	network_forward(network, e, rows, pass, w->scratch);
	for (int i = 0; i < rows->n; i++)
	{
		real		weight = rows->weight ? rows->weight[i] : 1;

		loss += (double) weight *
			loss_value(shape->loss, pass->score[i], rows->label[i]);
		pass->residual[i] = scale * weight *
			loss_slope(shape->loss, pass->score[i], rows->label[i]);
		residuals += pass->residual[i];
	}
	network_backward(network, rows, pass, embedding_gradient, w->scratch);

	/* the last layer, which is also the first where there is but one */
	if (G > 1)
	{
		int			last = kernel_stride(shape->global_width[G - 1]);

		for (int i = 0; i < rows->n; i++)
			add_to(network, GLOBAL_WEIGHT(shape, G - 1),
				   shape->global_width[G - 1], pass->residual[i],
				   pass->h[G - 1] + (size_t) i * last, gradient);
		add_to(network, GLOBAL_BIAS(shape, G - 1), 1, 1, &residuals, gradient);
	}
	for (int l = 1; l < G - 1; l++)
	{
		add_products(network, GLOBAL_WEIGHT(shape, l), 1, rows->n,
					 pass->delta[l + 1], pass->h[l], gradient);
		add_row_sums(network, GLOBAL_BIAS(shape, l), 1, rows->n,
					 pass->delta[l + 1], gradient);
	}

	/* C_e; the rest of the first layer goes through the halves */
	if (G > 1)
		network->kernels->sum_rows(rows->n, first, NULL, pass->delta[1], first,
								   w->sum);
	else
		w->sum[0] = residuals;
	add_outer(network, GLOBAL_WEIGHT(shape, 0), 1, w->sum, e,
			  network_concatenated_size(shape), gradient);

	for (int i = 0; i < rows->n; i++)
	{
		if (task->query_half_gradient)
		{
			real	   *half = task->query_half_gradient + (size_t) i * ld;

			for (int j = 0; j < shape->global_width[1]; j++)
				half[j] += G > 1 ? pass->delta[1][(size_t) i * first + j] :
					pass->residual[i];
			for (int j = 0; j < shape->factor_size; j++)
				half[first + j] += pass->residual[i] *
					e[network_concatenated_size(shape) + j];
		}
		if (task->query_offset_gradient)
			task->query_offset_gradient[i] += pass->residual[i];
	}
	return loss;
}

/* One more outer product for layer l of a direction; see direction_end. */
static void
direction_add(Direction *direction, const NetworkShape *shape, int l,
			  real scale, const real *p, const real *q)
{
	int			in = kernel_stride(shape->meta_width[l - 1]);
	int			out = kernel_stride(shape->meta_width[l]);
	real	   *p_t = direction->p[l] + (size_t) direction->terms * out;

	for (int j = 0; j < out; j++)
		p_t[j] = scale * p[j];
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
		direction_add(&w->direction, shape, l, 1, delta, pass->h[l - 1]);
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
 * embedding, the tangent of every gradient of L_S at step k.  Subtracts those
 * with respect to the global block, the rows' halves and offsets, and sets
 * that with respect to the embedding.
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
	int			last = kernel_stride(shape->global_width[G - 1]);
	int			factor = kernel_stride(shape->factor_size);
	int			ld = network_half_size(shape);
	real		residual_dots = 0;

	/* forwards: the first layer's tangent is the same for every row */
	network_entity_half(network, e_dot, w->first_dot);
	take_factor(shape, e, w->factor);
	take_factor(shape, e_dot, w->factor_dot);
	if (G > 1)
		kernels->tangent(shape->activation, rows->n, first, pass->u[1],
						 pass->h[1], w->first_dot, 0, w->row_h_dot[1]);
	for (int l = 1; l < G - 1; l++)
	{
		const PackedLayer *layer = &network->hidden[l];

		kernels->multiply(rows->n, layer->in, layer->out_stride,
						  w->row_h_dot[l], layer->in_stride, layer->forward,
						  NULL, w->row_u_dot[l + 1]);
		kernels->tangent(shape->activation, rows->n, layer->out_stride,
						 pass->u[l + 1], pass->h[l + 1], w->row_u_dot[l + 1],
						 layer->out_stride, w->row_h_dot[l + 1]);
	}
	for (int i = 0; i < rows->n; i++)
	{
		real		score_dot = w->first_dot[0];

		if (G > 1)
			score_dot = kernels->dot(last,
									 w->row_h_dot[G - 1] + (size_t) i * last,
									 network->last);
		if (factor > 0)
			score_dot += kernels->dot(factor, w->factor_dot,
									  rows->half + (size_t) i * ld + first);
		w->residual_dot[i] = w->loop.scale *
			(rows->weight ? rows->weight[i] : 1) *
			loss_curvature(shape->loss, pass->score[i]) * score_dot;
		residual_dots += w->residual_dot[i];
	}

	/* and backwards */
	if (G > 1)
	{
		for (int i = 0; i < rows->n; i++)
		{
			size_t		at = (size_t) i * last;

			add_to(network, GLOBAL_WEIGHT(shape, G - 1),
				   shape->global_width[G - 1], -w->residual_dot[i],
				   pass->h[G - 1] + at, gradient);
			add_to(network, GLOBAL_WEIGHT(shape, G - 1),
				   shape->global_width[G - 1], -pass->residual[i],
				   w->row_h_dot[G - 1] + at, gradient);
			for (int j = 0; j < last; j++)
				w->row_b_dot[G - 1][at + j] =
					w->residual_dot[i] * network->last[j];
		}
		add_to(network, GLOBAL_BIAS(shape, G - 1), 1, -1, &residual_dots,
			   gradient);
	}
	for (int l = G - 1; l >= 1; l--)
	{
		kernels->backward_tangent(shape->activation, rows->n,
								  kernel_stride(shape->global_width[l]),
								  pass->u[l], pass->h[l], pass->b[l],
								  w->row_b_dot[l],
								  l > 1 ? w->row_u_dot[l] : w->first_dot,
								  l > 1 ? kernel_stride(shape->global_width[l]) : 0,
								  w->row_delta_dot[l]);
		if (l > 1)
		{
			const PackedLayer *layer = &network->hidden[l - 1];

			add_products(network, GLOBAL_WEIGHT(shape, l - 1), -1, rows->n,
						 w->row_delta_dot[l], pass->h[l - 1], gradient);
			add_products(network, GLOBAL_WEIGHT(shape, l - 1), -1, rows->n,
						 pass->delta[l], w->row_h_dot[l - 1], gradient);
			add_row_sums(network, GLOBAL_BIAS(shape, l - 1), -1, rows->n,
						 w->row_delta_dot[l], gradient);
			kernels->multiply(rows->n, layer->out, layer->in_stride,
							  w->row_delta_dot[l], layer->out_stride,
							  layer->backward, NULL, w->row_b_dot[l - 1]);
		}
	}

	memset(w->sum, 0, first * sizeof(real));
	memset(w->sum_dot, 0, first * sizeof(real));
	if (G > 1)
	{
		kernels->sum_rows(rows->n, first, NULL, pass->delta[1], first, w->sum);
		kernels->sum_rows(rows->n, first, NULL, w->row_delta_dot[1], first,
						  w->sum_dot);
	}
	else
	{
		for (int i = 0; i < rows->n; i++)
			w->sum[0] += pass->residual[i];
		w->sum_dot[0] = residual_dots;
	}
	add_outer(network, GLOBAL_WEIGHT(shape, 0), -1, w->sum_dot, e,
			  concatenated, gradient);
	add_outer(network, GLOBAL_WEIGHT(shape, 0), -1, w->sum, e_dot,
			  concatenated, gradient);

	kernels->multiply(1, network->entity.out, network->entity.in_stride,
					  w->sum_dot, first, network->entity.backward, NULL,
					  w->back);
	memcpy(embedding_tangent, w->back, concatenated * sizeof(real));
	if (factor > 0)
	{
		kernels->sum_rows(rows->n, factor, w->residual_dot,
						  rows->half + first, ld, w->back);
		memcpy(embedding_tangent + concatenated, w->back,
			   shape->factor_size * sizeof(real));
	}

	for (int i = 0; i < rows->n; i++)
	{
		if (task->support_half_gradient)
		{
			real	   *half = task->support_half_gradient + (size_t) i * ld;

			for (int j = 0; j < shape->global_width[1]; j++)
				half[j] -= G > 1 ?
					w->row_delta_dot[1][(size_t) i * first + j] :
					w->residual_dot[i];
			for (int j = 0; j < shape->factor_size; j++)
				half[first + j] -= w->residual_dot[i] * w->factor[j] +
					pass->residual[i] * w->factor_dot[j];
		}
		if (task->support_offset_gradient)
			task->support_offset_gradient[i] -= w->residual_dot[i];
	}
}

/*
 * u_dot += rate D h, D being the direction's matrix of layer l and h its
 * input at step k, whose bias input is 1.  Also subtracts v . grad L_S from
 * the layer's inner rate's gradient, which takes the same products.
 */
static void
direction_forward(const Network *network, Workspace *w, int k, int l,
				  real *u_dot, real *rate_gradient)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];
	const Direction *direction = &w->direction;
	const MetaPass *pass = &w->loop.meta[k];
	real		rate = network->inner_rate[l - 1];

	for (int t = 0; t < direction->terms; t++)
	{
		const real *p = direction->p[l] + (size_t) t * layer->out_stride;
		const real *q = direction->q[l] + (size_t) t * layer->in_stride;
		real		along = kernels->dot(layer->in_stride, q, pass->h[l - 1]) +
			direction->q_bias[t];

		*rate_gradient -= along *
			kernels->dot(layer->out_stride, p, pass->delta[l]);
		if (u_dot)
			kernels->add_scaled(layer->out_stride, rate * along, p, u_dot);
	}
}

/* b_dot += rate D' delta. */
static void
direction_backward(const Network *network, Workspace *w, int l,
				   const real *delta, real *b_dot)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];
	const Direction *direction = &w->direction;

	for (int t = 0; t < direction->terms; t++)
	{
		const real *p = direction->p[l] + (size_t) t * layer->out_stride;
		real		along = kernels->dot(layer->out_stride, p, delta);

		kernels->add_scaled(layer->in_stride,
							network->inner_rate[l - 1] * along,
							direction->q[l] + (size_t) t * layer->in_stride,
							b_dot);
	}
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
			inner_loop_layer(network, &w->loop, k, l, w->h_dot[l - 1], 0,
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
				task->x_gradient[j] -= w->b_dot[j];
	}

	/* the tangent of delta h' is delta_dot h' + delta h_dot' */
	for (int l = 1; l <= L; l++)
		direction_add(&w->direction, shape, l, -1, w->delta_dot[l],
					  pass->h[l - 1]);
	direction_end(&w->direction, 1);
	for (int l = 1; l <= L; l++)
		direction_add(&w->direction, shape, l, -1, pass->delta[l],
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
		w->h_dot[L][j] = network->inner_rate[L - 1] * v[j];
	memset(w->delta_dot[L], 0, width * sizeof(real));
	support_tangent(network, w, task, k, w->h_dot[L], gradient,
					w->delta_dot[L]);
	for (int j = 0; j < width; j++)
		v[j] -= w->delta_dot[L][j];
}

/* Adds a direction's matrices, the gradient of the meta block. */
static void
add_direction(const Network *network, const Direction *direction,
			  real *gradient)
{
	const NetworkShape *shape = &network->shape;

	for (int l = 1; l <= shape->meta_layers; l++)
	{
		const PackedLayer *layer = &network->meta[l - 1];

		add_products(network, META_WEIGHT(shape, l - 1), 1, direction->terms,
					 direction->p[l], direction->q[l], gradient);
		for (int t = 0; t < direction->terms; t++)
			add_to(network, META_BIAS(shape, l - 1), layer->out,
				   direction->q_bias[t],
				   direction->p[l] + (size_t) t * layer->out_stride, gradient);
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

	loss.diverged_at = inner_loop_run(network, task->x, &task->support, false,
									  &w.loop);
	if (loss.diverged_at)
		return loss;
	K = w.loop.steps;

	v = w.direction.embedding;
	memset(v, 0, E * sizeof(real));
	loss.query = query_gradient(network, &w, task, K, scale, gradient, v);

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
									scale * outer->prior_loss, gradient,
									prior);
		for (int j = 0; j < E; j++)
			v[j] += prior[j];
	}

	/* what is left in v came to the embedding at phi_0 itself */
	if (shape->adapts == ADAPTS_EMBEDDING || outer->prior_loss > 0)
		meta_gradient(network, &w, 0, v, task->x_gradient);
	add_direction(network, &w.direction, gradient);
	return loss;
}

void
gradient_candidate_half(const Network *network, int n, const real *z,
						real *half)
{
	const PackedLayer *candidate = &network->candidate;

	for (int i = 0; i < n; i++)
		memcpy(half + (size_t) i * candidate->out_stride, candidate->bias,
			   candidate->out_stride * sizeof(real));
	blas_multiply_add(false, false, n, candidate->out_stride, candidate->in, 1,
					  z, candidate->in, candidate->forward,
					  candidate->out_stride, half, candidate->out_stride);
}

void
gradient_candidate(const Network *network, int n, const real *z,
				   const real *half_gradient, real *gradient,
				   real *z_gradient)
{
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *weight = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
	int			dz = network_candidate_size(shape);
	int			ld = network_half_size(shape);
	int			first = kernel_stride(shape->global_width[1]);
	const real *parameters = network->parameters;
	const size_t c_z = weight->offset + network_concatenated_size(shape);
	const size_t p = network->tensors[FACTOR_WEIGHT(shape)].offset;

	blas_multiply_add(true, false, weight->rows, dz, n, 1, half_gradient, ld,
					  z, dz, gradient + c_z, weight->columns);
	blas_multiply_add(true, false, shape->factor_size, dz, n, 1,
					  half_gradient + first, ld, z, dz, gradient + p, dz);
	for (int i = 0; i < n; i++)
	{
		add_to(network, GLOBAL_BIAS(shape, 0), weight->rows, 1,
			   half_gradient + (size_t) i * ld, gradient);
		add_to(network, FACTOR_BIAS(shape), shape->factor_size, 1,
			   half_gradient + (size_t) i * ld + first, gradient);
	}

	zero(z_gradient, (size_t) n * dz);
	blas_multiply_add(false, false, n, dz, weight->rows, 1, half_gradient, ld,
					  parameters + c_z, weight->columns, z_gradient, dz);
	blas_multiply_add(false, false, n, dz, shape->factor_size, 1,
					  half_gradient + first, ld, parameters + p, dz,
					  z_gradient, dz);
}
