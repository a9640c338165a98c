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

static size_t
meta_pass_size(const NetworkShape *shape)
{
	size_t		size = 0;

	for (int l = 1; l <= shape->meta_layers; l++)
		size += 4 * kernel_stride(shape->meta_width[l]);
	return size;
}

static void
meta_pass_take(MetaPass *pass, const NetworkShape *shape, real *x,
			   Arena *arena)
{
	pass->h[0] = x;
	for (int l = 1; l <= shape->meta_layers; l++)
	{
		int			stride = kernel_stride(shape->meta_width[l]);

		pass->u[l] = arena_take(arena, stride);
		pass->h[l] = arena_take(arena, stride);
		pass->b[l] = arena_take(arena, stride);
		pass->delta[l] = arena_take(arena, stride);
	}
}

size_t
inner_loop_size(const NetworkShape *shape, int n, bool keep)
{
	int			passes = keep ? shape->steps : 1;

	return kernel_stride(shape->meta_width[0]) +
		kernel_stride(shape->meta_width[1]) +
		kernel_stride(network_scratch_size(shape)) +
		(shape->steps + 1) * meta_pass_size(shape) +
		passes * global_pass_size(shape, n) + KERNEL_PAD;
}

void
inner_loop_take(InnerLoop *loop, const NetworkShape *shape, int n, bool keep,
				Arena *arena)
{
	real	   *x = arena_take(arena, kernel_stride(shape->meta_width[0]));

	loop->first = arena_take(arena, kernel_stride(shape->meta_width[1]));
	loop->scratch = arena_take(arena,
							   kernel_stride(network_scratch_size(shape)));
	for (int k = 0; k <= shape->steps; k++)
		meta_pass_take(&loop->meta[k], shape, x, arena);

	/* a single pass, also where there is no step, measures the last loss */
	for (int k = 0; k < shape->steps || k == 0; k++)
	{
		if (k > 0 && !keep)
			loop->global[k] = loop->global[0];
		else if (shape->steps > 0 || !keep)
			global_pass_take(&loop->global[k], shape, n, arena);
	}
}

void
inner_loop_layer(const Network *network, const InnerLoop *loop, int k, int l,
				 const real *h, real one, real *u)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];
	real		rate = network->inner_rate[l - 1];

	if (l == 1 && h == loop->meta[0].h[0])
		memcpy(u, loop->first, layer->out_stride * sizeof(real));
	else
		kernels->multiply(1, layer->in, layer->out_stride, h, layer->in_stride,
						  layer->forward, one == 0 ? NULL : layer->bias, u);

	if (network->shape.adapts == ADAPTS_EMBEDDING)
		return;
	for (int j = 0; j < k; j++)
	{
		real		along = kernels->dot(layer->in_stride,
										 loop->meta[j].h[l - 1], h) + one;

		kernels->add_scaled(layer->out_stride, -rate * along,
							loop->meta[j].delta[l], u);
	}
}

void
inner_loop_layer_back(const Network *network, const InnerLoop *loop, int k,
					  int l, const real *delta, real *b)
{
	const Kernels *kernels = network->kernels;
	const PackedLayer *layer = &network->meta[l - 1];
	real		rate = network->inner_rate[l - 1];

	kernels->multiply(1, layer->out, layer->in_stride, delta,
					  layer->out_stride, layer->backward, NULL, b);
	if (network->shape.adapts == ADAPTS_EMBEDDING)
		return;
	for (int j = 0; j < k; j++)
	{
		real		along = kernels->dot(layer->out_stride,
										 loop->meta[j].delta[l], delta);

		kernels->add_scaled(layer->in_stride, -rate * along,
							loop->meta[j].h[l - 1], b);
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

		inner_loop_layer(network, loop, k, l, pass->h[l - 1], 1, pass->u[l]);
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

/* The scaled support loss of a pass. */
static real
support_loss(const Network *network, const Rows *rows, real scale,
			 const GlobalPass *pass)
{
	double		loss = 0;

	for (int i = 0; i < rows->n; i++)
		loss += (double) (rows->weight ? rows->weight[i] : 1) *
			loss_value(network->shape.loss, pass->score[i], rows->label[i]);
	return scale * loss;
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
	network->kernels->multiply(1, first->in, first->out_stride, x_padded,
							   first->in_stride, first->forward, first->bias,
							   loop->first);

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

		network_forward(network, meta->h[L], rows, pass, loop->scratch);
		loop->loss[k] = support_loss(network, rows, loop->scale, pass);
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

		for (int i = 0; i < rows->n; i++)
			pass->residual[i] = loop->scale *
				(rows->weight ? rows->weight[i] : 1) *
				loss_slope(shape->loss, pass->score[i], rows->label[i]);
		network_backward(network, rows, pass, meta->delta[L], loop->scratch);
		meta_backward(network, loop, k);
	}
	return 0;
}

size_t
adapt_size(const NetworkShape *shape, int n)
{
	return inner_loop_size(shape, n, false);
}

Adaptation
adapt(const Network *network, const real *x, const Rows *support,
	  real *memory, real *embedding)
{
	const NetworkShape *shape = &network->shape;
	Arena		arena = {memory, memory + adapt_size(shape, support->n)};
	Adaptation	result = {0};
	InnerLoop	loop;

	inner_loop_take(&loop, shape, support->n, false, &arena);
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
recency_weights(int n, real recency, const bool *same_time, real *weight)
{
	int			newer = 0;

	for (int i = n - 1; i >= 0; i--)
	{
		if (i < n - 1 && !(same_time && same_time[i + 1]))
			newer = n - 1 - i;
		weight[i] *= REAL(exp) (-newer / recency);
		if (weight[i] < SMALLEST_WEIGHT)
			weight[i] = 0;
	}
}
