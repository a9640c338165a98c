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
inner_loop_size(const NetworkShape *shape)
{
	size_t		size = kernel_stride(shape->meta_width[0]) +
		kernel_stride(network_scratch_size(shape));

	for (int l = 1; l <= shape->meta_layers; l++)
		size += (shape->steps + 1) * 4 * kernel_stride(shape->meta_width[l]);
	return size + KERNEL_PAD;
}

void
inner_loop_take(InnerLoop *loop, const NetworkShape *shape, Arena *arena)
{
	int			passes = shape->steps + 1;
	real	   *x = arena_take(arena, kernel_stride(shape->meta_width[0]));

	loop->scratch = arena_take(arena,
							   kernel_stride(network_scratch_size(shape)));
	for (int k = 0; k < passes; k++)
		loop->meta[k].h[0] = x;
	for (int l = 1; l <= shape->meta_layers; l++)
	{
		int			stride = kernel_stride(shape->meta_width[l]);
		real	   *u = arena_take(arena, passes * stride);
		real	   *h = arena_take(arena, passes * stride);
		real	   *b = arena_take(arena, passes * stride);
		real	   *delta = arena_take(arena, passes * stride);

		for (int k = 0; k < passes; k++)
		{
			loop->meta[k].u[l] = u + k * stride;
			loop->meta[k].h[l] = h + k * stride;
			loop->meta[k].b[l] = b + k * stride;
			loop->meta[k].delta[l] = delta + k * stride;
		}
	}
}

void
inner_loop_layer(const Network *network, const InnerLoop *loop, int k, int l,
				 const real *h, bool tangent, real *u)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];

	kernels->multiply(1, layer->in, layer->out_stride, h, layer->in_stride,
					  layer->forward, tangent ? NULL : layer->bias, u);
	if (network->shape.adapts == ADAPTS_META_BLOCK)
		kernels->add_pairs(k, -network->inner_rate[l - 1],
						   layer->in_stride, loop->meta[0].h[l - 1],
						   layer->in_stride, h, tangent ? NULL : ones,
						   layer->out_stride, loop->meta[0].delta[l],
						   layer->out_stride, u);
}

void
inner_loop_layer_back(const Network *network, const InnerLoop *loop, int k,
					  int l, const real *delta, real *b)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];

	kernels->multiply(1, layer->out, layer->in_stride, delta,
					  layer->out_stride, layer->backward, NULL, b);
	if (network->shape.adapts == ADAPTS_META_BLOCK)
		kernels->add_pairs(k, -network->inner_rate[l - 1],
						   layer->out_stride, loop->meta[0].delta[l],
						   layer->out_stride, delta, NULL,
						   layer->in_stride, loop->meta[0].h[l - 1],
						   l > 1 ? layer->in_stride : 0, b);
}

/* The first layer at phi_k; its input is x at every step. */
static void
first_layer(const Network *network, InnerLoop *loop, int k)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[0];
	MetaPass   *pass = &loop->meta[k];

	if (k == 0)
		kernels->multiply(1, layer->in, layer->out_stride, pass->h[0],
						  layer->in_stride, layer->forward, layer->bias,
						  pass->u[1]);
	else
	{
		memcpy(pass->u[1], pass[-1].u[1], layer->out_stride * sizeof(real));
		kernels->add_scaled(layer->out_stride,
							-network->inner_rate[0] * loop->along,
							pass[-1].delta[1], pass->u[1]);
	}
}

/* The meta block at phi_k, from x to the embedding. */
static void
meta_forward(const Network *network, InnerLoop *loop, int k)
{
	const NetworkShape *shape = &network->shape;
	MetaPass   *pass = &loop->meta[k];
	int			L = shape->meta_layers;
	int			embedding = kernel_stride(shape->meta_width[L]);

	if (k > 0 && shape->adapts == ADAPTS_EMBEDDING)
	{
		/* the hidden layers are where they were */
		memcpy(pass->h[L], loop->meta[k - 1].h[L], embedding * sizeof(real));
		network->kernels->add_scaled(embedding, -network->inner_rate[L - 1],
									 loop->meta[k - 1].delta[L], pass->h[L]);
		return;
	}

	for (int l = 1; l <= L; l++)
	{
		int			width = kernel_stride(shape->meta_width[l]);

		if (l == 1)
			first_layer(network, loop, k);
		else
			inner_loop_layer(network, loop, k, l, pass->h[l - 1], false,
							 pass->u[l]);
		if (l < L)
			network->kernels->activate(shape->activation, 1, width,
									   pass->u[l], pass->h[l]);
		else
			memcpy(pass->h[l], pass->u[l], width * sizeof(real));
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
		network->kernels->backward(shape->activation, 1,
								   kernel_stride(shape->meta_width[l - 1]),
								   pass->u[l - 1], pass->h[l - 1],
								   pass->b[l - 1], pass->delta[l - 1]);
	}
}

/* A saturated activation would hide what is not finite from the loss. */
static bool
all_finite(int n, const real *numbers)
{
	for (int i = 0; i < n; i++)
		if (!isfinite(numbers[i]))
			return false;
	return true;
}

int
inner_loop_run(const Network *network, const real *x, const Rows *rows,
			   bool last_loss, InnerLoop *loop)
{
	const NetworkShape *shape = &network->shape;
	const PackedLayer *first = &network->meta[0];
	int			L = shape->meta_layers;
	double		weight = 0;
	double		at_zero = 0;
	real	   *x_padded = loop->meta[0].h[0];

	for (int i = 0; i < rows->n; i++)
	{
		real		w = rows->weight ? rows->weight[i] : 1;

		weight += w;
		at_zero += (double) w * loss_at_zero(shape->loss, rows->label[i]);
	}
	loop->weight = weight;
	loop->scale = inner_scale(shape->weighting, weight);
	loop->steps = loop->scale > 0 ? shape->steps : 0;
	loop->rises = 0;
	at_zero *= loop->scale;

	memset(x_padded, 0, first->in_stride * sizeof(real));
	if (first->in > 0)
		memcpy(x_padded, x, first->in * sizeof(real));
	loop->along = network->kernels->dot(first->in_stride, x_padded, x_padded) +
		1;

	/* padding of delta[L] is read by the products, and never written */
	for (int k = 0; k <= loop->steps; k++)
		memset(loop->meta[k].delta[L], 0,
			   kernel_stride(shape->meta_width[L]) * sizeof(real));

	for (int k = 0; k <= loop->steps; k++)
	{
		MetaPass   *meta = &loop->meta[k];
		GlobalPass *pass = &loop->global[k < loop->steps ? k : 0];

		meta_forward(network, loop, k);
		if (k > 0 && !all_finite(network_embedding_size(shape), meta->h[L]))
			return k;
		if (k == loop->steps && !last_loss)
			break;

		loop->loss[k] = loop->scale *
			network_forward(network, meta->h[L], rows, loop->scale, pass,
							loop->scratch);
		if (k > 0)
		{
			real		most = loop->loss[0] > at_zero ? loop->loss[0] : at_zero;

			if (loop->loss[k] > loop->loss[k - 1])
				loop->rises++;
			if (!(loop->loss[k] <= DIVERGENCE * most))
				return k;
		}
		if (k == loop->steps)
			break;

		network_backward(network, rows, pass, meta->delta[L], loop->scratch);
		meta_backward(network, loop, k);
	}
	return 0;
}

size_t
adapt_size(const NetworkShape *shape, int n)
{
	return inner_loop_size(shape) + global_pass_size(shape, n);
}

Adaptation
adapt(const Network *network, const real *x, const Rows *support,
	  real *memory, real *embedding)
{
	const NetworkShape *shape = &network->shape;
	Arena		arena = {memory, memory + adapt_size(shape, support->n)};
	Adaptation	result = {0};
	InnerLoop	loop;

	inner_loop_take(&loop, shape, &arena);
	global_pass_take(&loop.global[0], shape, support->n, &arena);
	for (int k = 1; k < shape->steps; k++)
		loop.global[k] = loop.global[0];
	result.diverged_at = inner_loop_run(network, x, support, true, &loop);
	if (result.diverged_at == 0)
	{
		memcpy(embedding, loop.meta[loop.steps].h[shape->meta_layers],
			   network_embedding_size(shape) * sizeof(real));
		result.rises = loop.rises;
		if (loop.scale > 0)
		{
			real		to_mean = 1 / (loop.scale * loop.weight);

			result.loss_before = loop.loss[0] * to_mean;
			result.loss_after = loop.loss[loop.steps] * to_mean;
		}
	}
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
