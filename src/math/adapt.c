/*
 * adapt.c
 *	  The inner loop.
 */
#include "adapt.h"

#include <string.h>

/* A support loss this many times what it was is no descent. */
#define DIVERGENCE 100

/* Weights under this add nothing, and soon are denormal and slow. */
#define SMALLEST_WEIGHT ((real) 1e-18)

/* Bias inputs of the pairs of all steps. */
static const real ones[NETWORK_MAX_STEPS] = {
#define EIGHT 1, 1, 1, 1, 1, 1, 1, 1
	EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT, EIGHT
#undef EIGHT
};

size_t
inner_loop_size(const NetworkShape *shape, int count, int n)
{
	size_t		size = kernel_stride(shape->meta_width[0]) +
		network_half_size(shape) +
		kernel_stride(network_embedding_size(shape)) +
		row_shift_size(shape, n);

	for (int l = 1; l <= shape->meta_layers; l++)
		size += (shape->steps + 1) * 4 * kernel_stride(shape->meta_width[l]);
	return count * size + KERNEL_PAD;
}

void
inner_loop_take(InnerLoop *loop, const NetworkShape *shape, int count, int n,
				Arena *arena)
{
	int			passes = shape->steps + 1;
	real	   *x = arena_take(arena, (size_t) count *
							   kernel_stride(shape->meta_width[0]));

	loop->count = count;
	loop->first = arena_take(arena, (size_t) count *
							 kernel_stride(shape->global_width[1]));
	loop->factor = arena_take(arena, (size_t) count *
							  kernel_stride(shape->factor_size));
	loop->scratch = arena_take(arena, (size_t) count *
							   kernel_stride(network_embedding_size(shape)));
	for (int i = 0; i < count; i++)
		row_shift_take(&loop->entity[i].shift, shape, n, arena);
	for (int k = 0; k < passes; k++)
		loop->meta[k].h[0] = x;
	for (int l = 1; l <= shape->meta_layers; l++)
	{
		size_t		rows = (size_t) count *
			kernel_stride(shape->meta_width[l]);
		real	   *u = arena_take(arena, passes * rows);
		real	   *h = arena_take(arena, passes * rows);
		real	   *b = arena_take(arena, passes * rows);
		real	   *delta = arena_take(arena, passes * rows);

		for (int k = 0; k < passes; k++)
		{
			loop->meta[k].u[l] = u + k * rows;
			loop->meta[k].h[l] = h + k * rows;
			loop->meta[k].b[l] = b + k * rows;
			loop->meta[k].delta[l] = delta + k * rows;
		}
	}
}

/*
 * Adds to the rows y of a layer's outputs what its pairs of k steps do to rows
 * of inputs: an entity's own do it to its own.
 */
static void
add_pairs(const Network *network, const InnerLoop *loop, int k, int l,
		  int q_width, const real *q, const real *inputs, const real *one,
		  int width, const real *p, int p_rows, real *y)
{
	for (int i = 0; i < loop->count; i++)
		network->kernels->add_pairs(k, -network->inner_rate[l - 1], q_width,
									q + i * q_width, loop->count * q_width,
									inputs + i * q_width, one, width,
									p + i * width, p_rows * width,
									y + i * width);
}

void
inner_loop_layer(const Network *network, const InnerLoop *loop, int k, int l,
				 const real *h, bool tangent, real *u)
{
	const PackedLayer *layer = &network->meta[l - 1];

	network->kernels->multiply(loop->count, layer->in, layer->out_stride, h,
							   layer->in_stride, layer->forward,
							   tangent ? NULL : layer->bias, u);
	if (network->shape.adapts == ADAPTS_META_BLOCK)
		add_pairs(network, loop, k, l, layer->in_stride,
				  loop->meta[0].h[l - 1], h, tangent ? NULL : ones,
				  layer->out_stride, loop->meta[0].delta[l], loop->count, u);
}

void
inner_loop_layer_back(const Network *network, const InnerLoop *loop, int k,
					  int l, const real *delta, real *b)
{
	const PackedLayer *layer = &network->meta[l - 1];

	network->kernels->multiply(loop->count, layer->out, layer->in_stride,
							   delta, layer->out_stride, layer->backward, NULL,
							   b);

	/* x is the same at every step */
	if (network->shape.adapts == ADAPTS_META_BLOCK)
		add_pairs(network, loop, k, l, layer->out_stride,
				  loop->meta[0].delta[l], delta, NULL, layer->in_stride,
				  loop->meta[0].h[l - 1], l > 1 ? loop->count : 0, b);
}

/* The first layer at phi_k; its input is x at every step. */
static void
first_layer(const Network *network, InnerLoop *loop, int k)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[0];
	int			width = layer->out_stride;
	MetaPass   *pass = &loop->meta[k];

	if (k == 0)
	{
		kernels->multiply(loop->count, layer->in, width, pass->h[0],
						  layer->in_stride, layer->forward, layer->bias,
						  pass->u[1]);
		return;
	}
	memcpy(pass->u[1], pass[-1].u[1], loop->count * width * sizeof(real));
	for (int i = 0; i < loop->count; i++)
		kernels->add_scaled(width,
							-network->inner_rate[0] * loop->entity[i].along,
							pass[-1].delta[1] + i * width,
							pass->u[1] + i * width);
}

/* The meta block at phi_k, from x to the embedding. */
static void
meta_forward(const Network *network, InnerLoop *loop, int k)
{
	const NetworkShape *shape = &network->shape;
	MetaPass   *pass = &loop->meta[k];
	int			L = shape->meta_layers;
	size_t		embeddings = (size_t) loop->count *
		kernel_stride(shape->meta_width[L]);

	if (k > 0 && shape->adapts == ADAPTS_EMBEDDING)
	{
		/* the hidden layers are where they were */
		memcpy(pass->h[L], loop->meta[k - 1].h[L], embeddings * sizeof(real));
		network->kernels->add_scaled((int) embeddings,
									 -network->inner_rate[L - 1],
									 loop->meta[k - 1].delta[L], pass->h[L]);
		return;
	}

	for (int l = 1; l <= L; l++)
	{
		if (l == 1)
			first_layer(network, loop, k);
		else
			inner_loop_layer(network, loop, k, l, pass->h[l - 1], false,
							 pass->u[l]);
		if (l < L)
			network->kernels->activate(shape->activation, loop->count,
									   kernel_stride(shape->meta_width[l]),
									   pass->u[l], pass->h[l]);
		else
			memcpy(pass->h[l], pass->u[l], embeddings * sizeof(real));
	}
}

/* The meta block at phi_k, back from the embedding's gradient, delta[L]. */
static void
meta_backward(const Network *network, InnerLoop *loop, int k)
{
	const NetworkShape *shape = &network->shape;
	MetaPass   *pass = &loop->meta[k];

	if (shape->adapts == ADAPTS_EMBEDDING)
		return;
	for (int l = shape->meta_layers; l > 1; l--)
	{
		inner_loop_layer_back(network, loop, k, l, pass->delta[l],
							  pass->b[l - 1]);
		network->kernels->backward(shape->activation, loop->count,
								   kernel_stride(shape->meta_width[l - 1]),
								   pass->u[l - 1], pass->h[l - 1],
								   pass->b[l - 1], pass->delta[l - 1]);
	}
}

static bool
all_finite(int n, const real *numbers)
{
	for (int i = 0; i < n; i++)
		if (!isfinite(numbers[i]))
			return false;
	return true;
}

/* A saturated activation would hide what is not finite from the loss. */
static void
check_embeddings(const NetworkShape *shape, InnerLoop *loop, int k)
{
	int			E = network_embedding_size(shape);

	for (int i = 0; i < loop->count; i++)
	{
		LoopEntity *entity = &loop->entity[i];

		if (entity->diverged_at == 0 && k > 0 && k <= entity->steps &&
			!all_finite(E, loop->meta[k].h[shape->meta_layers] +
						i * kernel_stride(E)))
			entity->diverged_at = k;
	}
}

/* An entity's rows, and its own x as the first layer's input. */
static void
start_entity(const Network *network, LoopEntity *entity, real *x)
{
	const NetworkShape *shape = &network->shape;
	const PackedLayer *first = &network->meta[0];
	const Rows *rows = entity->rows;
	double		weight = 0;
	double		at_zero = 0;

	for (int i = 0; i < rows->n; i++)
	{
		real		w = rows->weight ? rows->weight[i] : 1;

		weight += w;
		at_zero += (double) w * loss_at_zero(shape->loss, rows->label[i]);
	}
	entity->weight = weight;
	entity->scale = inner_scale(shape->weighting, weight);
	entity->steps = entity->scale > 0 ? shape->steps : 0;
	entity->rises = 0;
	entity->at_zero = at_zero * entity->scale;
	entity->diverged_at = 0;
	entity->shift.begun = false;

	memset(x, 0, first->in_stride * sizeof(real));
	if (first->in > 0)
		memcpy(x, entity->x, first->in * sizeof(real));
	entity->along = network->kernels->dot(first->in_stride, x, x) + 1;
}

/* An entity's loss at phi_k. */
static void
take_loss(LoopEntity *entity, int k, real loss)
{
	real		most;

	entity->loss[k] = loss;
	if (k == 0)
		return;
	most = entity->loss[0] > entity->at_zero ? entity->loss[0] :
		entity->at_zero;
	if (loss > entity->loss[k - 1])
		entity->rises++;
	if (!(loss <= DIVERGENCE * most))
		entity->diverged_at = k;
}

/*
 * The rows of entity i at phi_k, forwards and, unless it ends there, backwards.
 * Where it has ended its gradient is zero.
 */
static void
entity_step(const Network *network, InnerLoop *loop, int i, int k,
			bool last_loss)
{
	const NetworkShape *shape = &network->shape;
	LoopEntity *entity = &loop->entity[i];
	int			width = kernel_stride(shape->global_width[1]);
	int			factor_width = kernel_stride(shape->factor_size);
	real	   *first = loop->first + i * width;
	real	   *factor = loop->factor + i * factor_width;
	GlobalPass *pass = &loop->global[k < entity->steps ? k : 0];

	if (entity->diverged_at == 0 &&
		(k < entity->steps || (k == entity->steps && last_loss)))
		take_loss(entity, k, entity->scale *
				  network_rows_forward(network, first, factor, entity->rows,
									   entity->scale, &entity->shift, pass));
	if (entity->diverged_at == 0 && k < entity->steps)
		network_rows_backward(network, entity->rows, pass, first, factor);
	else
	{
		memset(first, 0, width * sizeof(real));
		memset(factor, 0, factor_width * sizeof(real));
	}
}

/* Whether any entity goes on from phi_k. */
static bool
any_goes_on(const InnerLoop *loop, int k)
{
	for (int i = 0; i < loop->count; i++)
		if (loop->entity[i].diverged_at == 0 && k < loop->entity[i].steps)
			return true;
	return false;
}

void
inner_loop_run(const Network *network, bool last_loss, InnerLoop *loop)
{
	const NetworkShape *shape = &network->shape;
	int			L = shape->meta_layers;
	int			E = kernel_stride(shape->meta_width[L]);

	for (int i = 0; i < loop->count; i++)
		start_entity(network, &loop->entity[i], loop->meta[0].h[0] +
					 i * kernel_stride(shape->meta_width[0]));

	/* padding of delta[L] is read by the products, and never written */
	for (int k = 0; k <= shape->steps; k++)
		memset(loop->meta[k].delta[L], 0, loop->count * E * sizeof(real));

	for (int k = 0;; k++)
	{
		MetaPass   *meta = &loop->meta[k];

		meta_forward(network, loop, k);
		check_embeddings(shape, loop, k);
		if (!last_loss && !any_goes_on(loop, k))
			break;
		network_entities(network, loop->count, meta->h[L], E, loop->first,
						 loop->factor);
		for (int i = 0; i < loop->count; i++)
			entity_step(network, loop, i, k, last_loss);
		if (!any_goes_on(loop, k))
			break;
		network_entities_backward(network, loop->count, loop->first,
								  loop->factor, meta->delta[L], E,
								  loop->scratch);
		meta_backward(network, loop, k);
	}
}

size_t
adapt_size(const NetworkShape *shape, int count, int n)
{
	return inner_loop_size(shape, count, n) + global_pass_size(shape, n);
}

void
adapt_together(const Network *network, int count, const real *const *x,
			   const Rows *support, real *memory, real *const *embedding,
			   Adaptation *result)
{
	const NetworkShape *shape = &network->shape;
	int			L = shape->meta_layers;
	int			most = 0;
	InnerLoop	loop;
	Arena		arena;

	for (int i = 0; i < count; i++)
	{
		loop.entity[i].x = x[i];
		loop.entity[i].rows = &support[i];
		if (support[i].n > most)
			most = support[i].n;
	}
	arena.next = memory;
	arena.end = memory + adapt_size(shape, count, most);
	inner_loop_take(&loop, shape, count, most, &arena);
	global_pass_take(&loop.global[0], shape, most, &arena);
	for (int k = 1; k < shape->steps; k++)
		loop.global[k] = loop.global[0];
	inner_loop_run(network, true, &loop);
	for (int i = 0; i < count; i++)
	{
		const LoopEntity *entity = &loop.entity[i];

		result[i] = (Adaptation) {.diverged_at = entity->diverged_at};
		if (entity->diverged_at > 0)
			continue;
		memcpy(embedding[i], loop.meta[entity->steps].h[L] +
			   i * kernel_stride(shape->meta_width[L]),
			   network_embedding_size(shape) * sizeof(real));
		result[i].rises = entity->rises;
		if (entity->scale > 0)
		{
			real		to_mean = 1 / (entity->scale * entity->weight);

			result[i].loss_before = entity->loss[0] * to_mean;
			result[i].loss_after = entity->loss[entity->steps] * to_mean;
		}
	}
}

Adaptation
adapt(const Network *network, const real *x, const Rows *support,
	  real *memory, real *embedding)
{
	Adaptation	result;

	adapt_together(network, 1, &x, support, memory, &embedding, &result);
	return result;
}

void
recency_weights(int n, real recency, const bool *same_time,
				const bool *sampled, real *weight)
{
	int			newer = 0;
	int			counted = 0;	/* rows after row i that are not sampled */

	for (int i = n - 1; i >= 0; i--)
	{
		if (i < n - 1 && !(same_time && same_time[i + 1]))
			newer = counted;
		if (!(sampled && sampled[i]))
			counted++;
		weight[i] *= REAL(exp) (-newer / recency);
		if (weight[i] < SMALLEST_WEIGHT)
			weight[i] = 0;
	}
}
