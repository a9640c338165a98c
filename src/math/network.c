/*
 * network.c
 *	  Shape, parameters, and the global block forwards and backwards.
 */
#include "network.h"

#include <stdio.h>
#include <string.h>

/* Scale of the factor map's first weights; larger ones cost accuracy. */
#define FACTOR_SCALE 0.03

/* Slopes under this are denormal after a few products more. */
#define SMALLEST_SLOPE ((real) 1e-18)

static void
add_tensor(NetworkTensor *tensor, int *count, const char *block, int layer,
		   const char *part, int dimensions, int rows, int columns)
{
	NetworkTensor *t = &tensor[*count];

	if (layer >= 0)
		snprintf(t->name, sizeof(t->name), "%s.%d.%s", block, layer, part);
	else if (part)
		snprintf(t->name, sizeof(t->name), "%s.%s", block, part);
	else
		snprintf(t->name, sizeof(t->name), "%s", block);
	t->dimensions = dimensions;
	t->rows = rows;
	t->columns = columns;
	t->offset = *count == 0 ? 0 :
		t[-1].offset + (size_t) t[-1].rows * t[-1].columns;
	(*count)++;
}

static void
add_block(NetworkTensor *tensor, int *count, const char *block, int layers,
		  const int *width)
{
	for (int l = 0; l < layers; l++)
	{
		add_tensor(tensor, count, block, l, "weight", 2, width[l + 1],
				   width[l]);
		add_tensor(tensor, count, block, l, "bias", 1, 1, width[l + 1]);
	}
}

int
network_tensors(const NetworkShape *shape, NetworkTensor *tensors)
{
	int			count = 0;

	add_block(tensors, &count, "meta", shape->meta_layers, shape->meta_width);
	add_block(tensors, &count, "global", shape->global_layers,
			  shape->global_width);
	add_tensor(tensors, &count, "factor", -1, "weight", 2, shape->factor_size,
			   network_candidate_size(shape));
	add_tensor(tensors, &count, "factor", -1, "bias", 1, 1,
			   shape->factor_size);
	add_tensor(tensors, &count, "inner_rate", -1, NULL, 1, 1,
			   shape->meta_layers);
	return count;
}

size_t
network_parameter_count(const NetworkShape *shape)
{
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	NetworkTensor *last = &tensors[network_tensors(shape, tensors) - 1];

	return last->offset + (size_t) last->rows * last->columns;
}

static void
draw(Random *random, double scale, size_t n, real *numbers)
{
	for (size_t i = 0; i < n; i++)
		numbers[i] = scale * random_normal(random);
}

void
network_initialize(const NetworkShape *shape, real inner_rate,
				   Random *random, real *parameters)
{
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	int			count = network_tensors(shape, tensors);

	for (int t = 0; t < count; t++)
	{
		real	   *numbers = parameters + tensors[t].offset;
		size_t		n = (size_t) tensors[t].rows * tensors[t].columns;

		if (t == INNER_RATE(shape))
			for (size_t i = 0; i < n; i++)
				numbers[i] = inner_rate;
		else if (tensors[t].dimensions == 1)
			memset(numbers, 0, n * sizeof(real));
		else if (t == FACTOR_WEIGHT(shape))
			draw(random, FACTOR_SCALE, n, numbers);
		else
			draw(random, 1 / sqrt(tensors[t].columns), n, numbers);
	}
}

static void
layer_widths(PackedLayer *layer, int in, int out)
{
	layer->in = in;
	layer->out = out;
	layer->in_stride = kernel_stride(in);
	layer->out_stride = kernel_stride(out);
}

/* The layers' widths, from which both the memory and its use follow. */
static void
network_layers(Network *network)
{
	const NetworkShape *shape = &network->shape;
	int			first = shape->global_width[1];

	for (int l = 0; l < shape->meta_layers; l++)
		layer_widths(&network->meta[l], shape->meta_width[l],
					 shape->meta_width[l + 1]);
	layer_widths(&network->entity, network_concatenated_size(shape), first);
	layer_widths(&network->candidate, network_candidate_size(shape),
				 network_half_size(shape));
	for (int l = 1; l < shape->global_layers - 1; l++)
		layer_widths(&network->hidden[l], shape->global_width[l],
					 shape->global_width[l + 1]);
}

static size_t
layer_size(const PackedLayer *layer)
{
	return (size_t) layer->in * layer->out_stride +
		(size_t) layer->out * layer->in_stride + layer->out_stride;
}

size_t
network_packed_size(const NetworkShape *shape)
{
	Network		network = {.shape = *shape};
	size_t		size;

	network_layers(&network);
	size = layer_size(&network.entity) + layer_size(&network.candidate) +
		kernel_stride(shape->global_width[shape->global_layers - 1]);
	for (int l = 0; l < shape->meta_layers; l++)
		size += layer_size(&network.meta[l]);
	for (int l = 1; l < shape->global_layers - 1; l++)
		size += layer_size(&network.hidden[l]);
	return size + KERNEL_PAD;	/* to align the first */
}

static void
layer_take(PackedLayer *layer, Arena *arena)
{
	layer->forward = arena_take(arena, (size_t) layer->in * layer->out_stride);
	layer->backward = arena_take(arena, (size_t) layer->out * layer->in_stride);
	layer->bias = arena_take(arena, layer->out_stride);
}

/*
 * Puts `rows` rows of weights, ld apart, into a zeroed layer, its outputs
 * beginning at `at`.
 */
static void
layer_pack(PackedLayer *layer, int at, int rows, const real *weight, int ld,
		   const real *bias)
{
	for (int o = 0; o < rows; o++)
	{
		for (int i = 0; i < layer->in; i++)
		{
			real		w = weight[(size_t) o * ld + i];

			layer->forward[(size_t) i * layer->out_stride + at + o] = w;
			layer->backward[(size_t) (at + o) * layer->in_stride + i] = w;
		}
		if (bias)
			layer->bias[at + o] = bias[o];
	}
}

void
network_pack(Network *network, const NetworkShape *shape,
			 const real *parameters, real *memory)
{
	size_t		size = network_packed_size(shape);
	Arena		arena = {memory, memory + size};
	int			G = shape->global_layers;
	const real *first_weight;

#define TENSOR(t) (parameters + network->tensors[t].offset)

	memset(memory, 0, size * sizeof(real));
	network->shape = *shape;
	network->kernels = kernels_for_processor();
	network->parameters = parameters;
	network_tensors(shape, network->tensors);
	network->inner_rate = TENSOR(INNER_RATE(shape));
	network_layers(network);

	for (int l = 0; l < shape->meta_layers; l++)
	{
		layer_take(&network->meta[l], &arena);
		layer_pack(&network->meta[l], 0, network->meta[l].out,
				   TENSOR(META_WEIGHT(shape, l)), network->meta[l].in,
				   TENSOR(META_BIAS(shape, l)));
	}

	first_weight = TENSOR(GLOBAL_WEIGHT(shape, 0));
	layer_take(&network->entity, &arena);
	layer_pack(&network->entity, 0, shape->global_width[1], first_weight,
			   shape->global_width[0], NULL);
	layer_take(&network->candidate, &arena);
	layer_pack(&network->candidate, 0, shape->global_width[1],
			   first_weight + network_concatenated_size(shape),
			   shape->global_width[0], TENSOR(GLOBAL_BIAS(shape, 0)));
	layer_pack(&network->candidate, kernel_stride(shape->global_width[1]),
			   shape->factor_size, TENSOR(FACTOR_WEIGHT(shape)),
			   network->candidate.in, TENSOR(FACTOR_BIAS(shape)));

	for (int l = 1; l < G - 1; l++)
	{
		layer_take(&network->hidden[l], &arena);
		layer_pack(&network->hidden[l], 0, network->hidden[l].out,
				   TENSOR(GLOBAL_WEIGHT(shape, l)), network->hidden[l].in,
				   TENSOR(GLOBAL_BIAS(shape, l)));
	}

	network->last = NULL;
	network->last_bias = 0;
	if (G > 1)
	{
		network->last = arena_take(&arena,
								   kernel_stride(shape->global_width[G - 1]));
		memcpy(network->last, TENSOR(GLOBAL_WEIGHT(shape, G - 1)),
			   shape->global_width[G - 1] * sizeof(real));
		network->last_bias = *TENSOR(GLOBAL_BIAS(shape, G - 1));
	}
#undef TENSOR
}

real *
arena_take(Arena *arena, size_t n)
{
	uintptr_t	alignment = KERNEL_PAD * sizeof(real);
	uintptr_t	at = ((uintptr_t) arena->next + alignment - 1) & ~(alignment - 1);
	real	   *taken = (real *) at;

	if (taken > arena->end || n > (size_t) (arena->end - taken))
		return NULL;
	arena->next = taken + n;
	return taken;
}

void
network_candidate_half(const Network *network, int n, const real *z, int ldz,
					   real *half)
{
	const PackedLayer *candidate = &network->candidate;

	network->kernels->multiply(n, candidate->in, candidate->out_stride, z, ldz,
							   candidate->forward, candidate->bias, half);
}

void
network_entity_half(const Network *network, const real *embedding, real *half)
{
	const PackedLayer *entity = &network->entity;

	network->kernels->multiply(1, entity->in, entity->out_stride, embedding,
							   entity->in, entity->forward, NULL, half);
}

size_t
global_pass_size(const NetworkShape *shape, int n)
{
	size_t		size = 2 * kernel_stride(n) + KERNEL_PAD;

	for (int l = 1; l < shape->global_layers; l++)
		size += 4 * (size_t) n * kernel_stride(shape->global_width[l]);
	return size;
}

void
global_pass_take(GlobalPass *pass, const NetworkShape *shape, int n,
				 Arena *arena)
{
	for (int l = 1; l < shape->global_layers; l++)
	{
		size_t		size = (size_t) n * kernel_stride(shape->global_width[l]);

		pass->u[l] = arena_take(arena, size);
		pass->h[l] = arena_take(arena, size);
		pass->b[l] = arena_take(arena, size);
		pass->delta[l] = arena_take(arena, size);
	}
	pass->score = arena_take(arena, kernel_stride(n));
	pass->residual = arena_take(arena, kernel_stride(n));
}

size_t
network_scratch_size(const NetworkShape *shape)
{
	return kernel_stride(shape->global_width[1]) +
		kernel_stride(network_embedding_size(shape)) +
		kernel_stride(shape->factor_size) + KERNEL_PAD;
}

void
network_forward_half(const Network *network, const real *entity_half,
					 const real *embedding_factor, const Rows *rows,
					 GlobalPass *pass)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *k = network->kernels;
	int			G = shape->global_layers;
	int			first = kernel_stride(shape->global_width[1]);
	int			factor = kernel_stride(shape->factor_size);
	int			ld = network_half_size(shape);

	if (G > 1)
	{
		k->add_row(rows->n, first, rows->half, ld, entity_half, pass->u[1]);
		k->activate(shape->activation, rows->n, first, pass->u[1], pass->h[1]);
	}
	for (int l = 1; l < G - 1; l++)
	{
		const PackedLayer *layer = &network->hidden[l];

		k->multiply(rows->n, layer->in, layer->out_stride, pass->h[l],
					layer->in_stride, layer->forward, layer->bias,
					pass->u[l + 1]);
		k->activate(shape->activation, rows->n, layer->out_stride,
					pass->u[l + 1], pass->h[l + 1]);
	}

	for (int i = 0; i < rows->n; i++)
	{
		const real *half = rows->half + (size_t) i * ld;
		int			last = kernel_stride(shape->global_width[G - 1]);
		real		score;

		if (G > 1)
			score = k->dot(last, pass->h[G - 1] + (size_t) i * last,
						   network->last) + network->last_bias;
		else
			score = half[0] + entity_half[0];
		if (factor > 0)
			score += k->dot(factor, embedding_factor, half + first);
		if (rows->offset)
			score += rows->offset[i];
		pass->score[i] = score;
	}
}

void
network_forward(const Network *network, const real *embedding,
				const Rows *rows, GlobalPass *pass, real *scratch)
{
	const NetworkShape *shape = &network->shape;
	real	   *entity_half = scratch;
	real	   *factor = scratch + kernel_stride(shape->global_width[1]);

	network_entity_half(network, embedding, entity_half);

	/* the factor part on its own, where its padding is zero */
	memset(factor, 0, kernel_stride(shape->factor_size) * sizeof(real));
	memcpy(factor, embedding + network_concatenated_size(shape),
		   shape->factor_size * sizeof(real));
	network_forward_half(network, entity_half, factor, rows, pass);
}

void
network_backward(const Network *network, const Rows *rows, GlobalPass *pass,
				 real *embedding_gradient, real *scratch)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *k = network->kernels;
	const PackedLayer *entity = &network->entity;
	int			G = shape->global_layers;
	int			first = kernel_stride(shape->global_width[1]);
	int			factor = kernel_stride(shape->factor_size);
	real	   *sum = scratch;
	real	   *part = scratch + first;

	if (G > 1)
	{
		int			last = kernel_stride(shape->global_width[G - 1]);

		/* b of the last hidden layer is r times the last layer's row */
		for (int i = 0; i < rows->n; i++)
			for (int j = 0; j < last; j++)
				pass->b[G - 1][(size_t) i * last + j] =
					pass->residual[i] * network->last[j];

		for (int l = G - 1; l >= 1; l--)
		{
			k->backward(shape->activation, rows->n,
						kernel_stride(shape->global_width[l]),
						pass->u[l], pass->h[l], pass->b[l], pass->delta[l]);
			if (l > 1)
			{
				const PackedLayer *layer = &network->hidden[l - 1];

				k->multiply(rows->n, layer->out, layer->in_stride,
							pass->delta[l], layer->out_stride,
							layer->backward, NULL, pass->b[l - 1]);
			}
		}
		k->sum_rows(rows->n, first, NULL, pass->delta[1], first, sum);
	}
	else
	{
		memset(sum, 0, first * sizeof(real));
		for (int i = 0; i < rows->n; i++)
			sum[0] += pass->residual[i];
	}

	/* de_c = C_e' (sum of delta_1), de_f = sum of r f */
	k->multiply(1, entity->out, entity->in_stride, sum, first,
				entity->backward, NULL, part);
	memcpy(embedding_gradient, part, entity->in * sizeof(real));
	if (factor > 0)
	{
		k->sum_rows(rows->n, factor, pass->residual, rows->half + first,
					network_half_size(shape), part);
		memcpy(embedding_gradient + entity->in, part,
			   shape->factor_size * sizeof(real));
	}
}

real
sigmoid(real score)
{
	/* exp of a positive number could overflow, of a negative one not */
	if (score >= 0)
		return 1 / (1 + REAL(exp) (-score));
	else
	{
		real		odds = REAL(exp) (score);

		return odds / (1 + odds);
	}
}

real
loss_value(Loss loss, real score, real label)
{
	if (loss == LOSS_SQUARED)
		return (score - label) * (score - label) / 2;

	/* softplus(s) = max(s, 0) + log(1 + exp(-|s|)) */
	return (score > 0 ? score : 0) - label * score +
		REAL(log1p) (REAL(exp) (-REAL(fabs) (score)));
}

real
loss_slope(Loss loss, real score, real label)
{
	real		slope;

	if (loss == LOSS_SQUARED)
		slope = score - label;
	else if (label == 1)
		slope = -sigmoid(-score);	/* exact where sigmoid(s) - 1 is not */
	else
		slope = sigmoid(score) - label;
	return REAL(fabs) (slope) < SMALLEST_SLOPE ? 0 : slope;
}

real
loss_curvature(Loss loss, real score)
{
	real		curvature;

	if (loss == LOSS_SQUARED)
		return 1;
	curvature = sigmoid(score) * sigmoid(-score);
	return curvature < SMALLEST_SLOPE ? 0 : curvature;
}

real
loss_at_zero(Loss loss, real label)
{
	return loss == LOSS_SQUARED ? label * label / 2 : (real) M_LN2;
}

real
inner_scale(InnerWeighting weighting, real weight)
{
	if (weight <= 0)
		return 0;
	switch (weighting)
	{
		case WEIGHTING_MEAN:
			return 1 / weight;
		case WEIGHTING_SQRT:
			return 1 / REAL(sqrt) (5 * weight);
		case WEIGHTING_DAMPED:
			return 1 / (weight + 10);
		case WEIGHTING_SQRT_DAMPED:
			return 1 / REAL(sqrt) (5 * (weight + 10));
	}
	return 0;
}
