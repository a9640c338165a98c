/*
 * network.c
 *	  Shape, parameters, and the global block forwards and backwards.
 */
#include "network.h"

#include <stdio.h>
#include <string.h>

/*
 * Rows that are scored together: few enough for what lies between two layers
 * to stay in the nearest cache, enough to read a layer's weights rarely, and a
 * multiple of all blocks' rows.
 */
#define SCORE_ROWS 48

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
			draw(random, NETWORK_FACTOR_SCALE, n, numbers);
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
layer_size(const PackedLayer *layer, bool backward)
{
	return (size_t) layer->in * layer->out_stride + layer->out_stride +
		(backward ? (size_t) layer->out * layer->in_stride : 0);
}

size_t
network_packed_size(const NetworkShape *shape)
{
	Network		network = {.shape = *shape};
	size_t		size;

	network_layers(&network);
	size = layer_size(&network.entity, true) +
		layer_size(&network.candidate, false) +
		kernel_stride(shape->global_width[shape->global_layers - 1]);
	for (int l = 0; l < shape->meta_layers; l++)
		size += layer_size(&network.meta[l], true);
	for (int l = 1; l < shape->global_layers - 1; l++)
		size += layer_size(&network.hidden[l], true);
	return size + KERNEL_PAD;	/* to align the first */
}

/* Nothing is touched, as somebody writes all of it or nobody wants it. */
static void
layer_take(PackedLayer *layer, bool backward, Arena *arena)
{
	layer->forward = arena_take(arena, (size_t) layer->in * layer->out_stride);
	layer->backward = !backward ? NULL :
		arena_take(arena, (size_t) layer->out * layer->in_stride);
	layer->bias = arena_take(arena, layer->out_stride);
}

/*
 * Puts `rows` rows of weights, ld apart, into a layer, from output `at` on, and
 * zeros into the padding after them.  It goes by squares that are a line of
 * cache wide both ways.
 */
static void
layer_pack(PackedLayer *layer, int at, int rows, const real *weight, int ld,
		   const real *bias)
{
	for (int o = 0; o < rows; o += KERNEL_PAD)
	{
		int			n = rows - o < KERNEL_PAD ? rows - o : KERNEL_PAD;
		const real *w = weight + (size_t) o * ld;
		real	   *forward = layer->forward +
			kernel_weight(layer->in, 0, at + o);

		for (int i = 0; i < layer->in; i += KERNEL_PAD)
		{
			int			end = layer->in - i < KERNEL_PAD ? layer->in :
				i + KERNEL_PAD;

			if (n == KERNEL_PAD)
				for (int k = i; k < end; k++)
					for (int j = 0; j < KERNEL_PAD; j++)
						forward[(size_t) k * KERNEL_PAD + j] =
							w[(size_t) j * ld + k];
			else
				for (int k = i; k < end; k++)
					for (int j = 0; j < KERNEL_PAD; j++)
						forward[(size_t) k * KERNEL_PAD + j] = j < n ?
							w[(size_t) j * ld + k] : 0;
		}
		for (int j = 0; j < KERNEL_PAD; j++)
			layer->bias[at + o + j] = bias && j < n ? bias[o + j] : 0;
	}
}

/* The same backwards, of all outputs. */
static void
layer_pack_back(PackedLayer *layer, const real *weight, int ld)
{
	memset(layer->backward, 0,
		   (size_t) layer->out * layer->in_stride * sizeof(real));
	for (int o = 0; o < layer->out; o++)
		for (int i = 0; i < layer->in; i += KERNEL_PAD)
			memcpy(layer->backward +
				   kernel_weight(layer->out, o, i),
				   weight + (size_t) o * ld + i,
				   (layer->in - i < KERNEL_PAD ? layer->in - i : KERNEL_PAD) *
				   sizeof(real));
}

#define TENSOR(t) (parameters + network->tensors[t].offset)

/* All but the packed numbers themselves, whose places in memory this finds. */
static void
network_place(Network *network, const NetworkShape *shape,
			  const real *parameters, real *memory)
{
	Arena		arena = {memory, memory + network_packed_size(shape)};
	int			G = shape->global_layers;

	network->shape = *shape;
	network->kernels = kernels_for_processor();
	network->parameters = parameters;
	network_tensors(shape, network->tensors);
	network->inner_rate = TENSOR(INNER_RATE(shape));
	network_layers(network);

	for (int l = 0; l < shape->meta_layers; l++)
		layer_take(&network->meta[l], true, &arena);
	layer_take(&network->entity, true, &arena);
	layer_take(&network->candidate, false, &arena);
	for (int l = 1; l < G - 1; l++)
		layer_take(&network->hidden[l], true, &arena);
	network->last = G == 1 ? NULL :
		arena_take(&arena, kernel_stride(shape->global_width[G - 1]));
	network->last_bias = G == 1 ? 0 : *TENSOR(GLOBAL_BIAS(shape, G - 1));
	network->packed_back = false;
}

void
network_pack_forward(Network *network, const NetworkShape *shape,
					 const real *parameters, real *memory)
{
	int			G = shape->global_layers;
	const real *first_weight;
	const real *candidate_weight;

	network_place(network, shape, parameters, memory);
	for (int l = 0; l < shape->meta_layers; l++)
		layer_pack(&network->meta[l], 0, network->meta[l].out,
				   TENSOR(META_WEIGHT(shape, l)), network->meta[l].in,
				   TENSOR(META_BIAS(shape, l)));

	first_weight = TENSOR(GLOBAL_WEIGHT(shape, 0));
	candidate_weight = first_weight + network_concatenated_size(shape);
	layer_pack(&network->entity, 0, shape->global_width[1], first_weight,
			   shape->global_width[0], NULL);
	layer_pack(&network->candidate, 0, shape->global_width[1],
			   candidate_weight, shape->global_width[0],
			   TENSOR(GLOBAL_BIAS(shape, 0)));
	layer_pack(&network->candidate, kernel_stride(shape->global_width[1]),
			   shape->factor_size, TENSOR(FACTOR_WEIGHT(shape)),
			   network->candidate.in, TENSOR(FACTOR_BIAS(shape)));
	for (int l = 1; l < G - 1; l++)
		layer_pack(&network->hidden[l], 0, network->hidden[l].out,
				   TENSOR(GLOBAL_WEIGHT(shape, l)), network->hidden[l].in,
				   TENSOR(GLOBAL_BIAS(shape, l)));

	if (G > 1)
	{
		memset(network->last, 0, kernel_stride(shape->global_width[G - 1]) *
			   sizeof(real));
		memcpy(network->last, TENSOR(GLOBAL_WEIGHT(shape, G - 1)),
			   shape->global_width[G - 1] * sizeof(real));
	}
}

void
network_pack_back(Network *network)
{
	const NetworkShape *shape = &network->shape;
	const real *parameters = network->parameters;

	for (int l = 0; l < shape->meta_layers; l++)
		layer_pack_back(&network->meta[l], TENSOR(META_WEIGHT(shape, l)),
						network->meta[l].in);
	layer_pack_back(&network->entity, TENSOR(GLOBAL_WEIGHT(shape, 0)),
					shape->global_width[0]);
	for (int l = 1; l < shape->global_layers - 1; l++)
		layer_pack_back(&network->hidden[l], TENSOR(GLOBAL_WEIGHT(shape, l)),
						network->hidden[l].in);
	network->packed_back = true;
}

#undef TENSOR

void
network_pack(Network *network, const NetworkShape *shape,
			 const real *parameters, real *memory)
{
	network_pack_forward(network, shape, parameters, memory);
	network_pack_back(network);
}

void
network_adopt(Network *network, const NetworkShape *shape,
			  const real *parameters, real *memory)
{
	network_place(network, shape, parameters, memory);
	network->packed_back = true;
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
network_entities(const Network *network, int n, const real *embedding, int ld,
				 real *first, real *factor)
{
	const NetworkShape *shape = &network->shape;
	const PackedLayer *entity = &network->entity;
	int			stride = kernel_stride(shape->factor_size);

	network->kernels->multiply(n, entity->in, entity->out_stride, embedding,
							   ld, entity->forward, NULL, first);
	memset(factor, 0, (size_t) n * stride * sizeof(real));
	if (shape->factor_size > 0)
		for (int i = 0; i < n; i++)
			memcpy(factor + (size_t) i * stride,
				   embedding + (size_t) i * ld + entity->in,
				   shape->factor_size * sizeof(real));
}

void
network_entity_half(const Network *network, const real *embedding,
					real *entity)
{
	const NetworkShape *shape = &network->shape;

	network_entities(network, 1, embedding, network_embedding_size(shape),
					 entity, entity + kernel_stride(shape->global_width[1]));
}

void
network_entity(const Network *network, const real *embedding, real *entity)
{
	const NetworkShape *shape = &network->shape;
	const real *factor = embedding + network_concatenated_size(shape);
	const NetworkTensor *weight = &network->tensors[FACTOR_WEIGHT(shape)];
	const NetworkTensor *bias = &network->tensors[FACTOR_BIAS(shape)];
	real	   *of_z = entity + network_half_size(shape);
	int			dz = network_candidate_size(shape);

	network_entity_half(network, embedding, entity);
	if (shape->factor_size == 0)
		return;
	memset(of_z, 0, (dz + 1) * sizeof(real));
	for (int f = 0; f < shape->factor_size; f++)
	{
		const real *row = network->parameters + weight->offset +
			(size_t) f * dz;

		for (int j = 0; j < dz; j++)
			of_z[j] += factor[f] * row[j];
		of_z[dz] += factor[f] * network->parameters[bias->offset + f];
	}
}

/*
 * The layers after those that are done, of which u[l] may be NULL, and the
 * scores.  `half` is that of the rows, or its first part alone, where
 * factor_size is 0; NULL where the first layer is done, too.
 */
static void
upper_layers(const Network *network, int done, const real *entity,
			 const real *factor, int n, const real *half, int factor_size,
			 const real *offset, real *const *u, real *const *h, real *score)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *k = network->kernels;
	int			G = shape->global_layers;
	int			first = kernel_stride(shape->global_width[1]);
	int			ld = first + kernel_stride(factor_size);

	if (G > 1 && done == 0)
		k->first_layer(shape->activation, n, first, half, ld, entity, u[1],
					   h[1]);
	for (int l = done > 1 ? done : 1; l < G - 1; l++)
	{
		const PackedLayer *layer = &network->hidden[l];

		k->layer(shape->activation, n, layer->in, layer->out_stride, h[l],
				 layer->in_stride, layer->forward, layer->bias, u[l + 1],
				 h[l + 1]);
	}
	k->last_layer(n, G > 1 ? kernel_stride(shape->global_width[G - 1]) : 0,
				  h[G - 1], network->last, factor_size,
				  half ? half + first : NULL, half ? ld : 0, factor,
				  network->last_bias, offset, score);

	/* a single layer is linear, and its score the halves' only number */
	if (G == 1)
		for (int i = 0; i < n; i++)
			score[i] += half[(size_t) i * ld] + entity[0];
}

static size_t
score_tile(int n)
{
	return n < SCORE_ROWS ? n : SCORE_ROWS;
}

static int
widest_hidden(const NetworkShape *shape)
{
	int			widest = 0;

	for (int l = 1; l < shape->global_layers; l++)
		if (shape->global_width[l] > widest)
			widest = shape->global_width[l];
	return kernel_stride(widest);
}

size_t
network_score_size(const NetworkShape *shape, int n)
{
	/* layers by turns in one place and another */
	return score_tile(n) *
		(network_half_size(shape) + 2 * widest_hidden(shape)) + KERNEL_PAD;
}

/* Where layers of a tile of n candidates lie, by turns. */
static void
score_take(const NetworkShape *shape, int n, Arena *arena, real **h)
{
	size_t		size = (size_t) n * widest_hidden(shape);
	real	   *by_turns[] = {arena_take(arena, size), arena_take(arena, size)};

	for (int l = 1; l < shape->global_layers; l++)
		h[l] = by_turns[l % 2];
}

void
network_score_halves(const Network *network, const real *entity, int n,
					 const real *half, const real *offset, real *memory,
					 real *score)
{
	const NetworkShape *shape = &network->shape;
	size_t		size = network_score_size(shape, n);
	const real *factor = entity + kernel_stride(shape->global_width[1]);

	for (int i = 0; i < n; i += SCORE_ROWS)
	{
		int			rows = score_tile(n - i);
		Arena		arena = {memory, memory + size};
		real	   *u[NETWORK_MAX_LAYERS] = {NULL};
		real	   *h[NETWORK_MAX_LAYERS] = {NULL};

		score_take(shape, rows, &arena, h);
		upper_layers(network, 0, entity, factor, rows,
					 half + (size_t) i * network_half_size(shape),
					 shape->factor_size, offset ? offset + i : NULL, u, h,
					 score + i);
	}
}

void
network_score(const Network *network, const real *entity, int n,
			  const real *z, int ldz, const real *offset, real *memory,
			  real *score)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *k = network->kernels;
	const PackedLayer *candidate = &network->candidate;
	int			width = kernel_stride(shape->global_width[1]);
	const real *of_z = entity + network_half_size(shape);
	size_t		size = network_score_size(shape, n);

	for (int i = 0; i < n; i += SCORE_ROWS, z += (size_t) SCORE_ROWS * ldz)
	{
		int			rows = score_tile(n - i);
		Arena		arena = {memory, memory + size};
		real	   *u[NETWORK_MAX_LAYERS] = {NULL};
		real	   *h[NETWORK_MAX_LAYERS] = {NULL};
		real	   *half = NULL;

		score_take(shape, rows, &arena, h);
		if (shape->global_layers > 1)
			k->whole_first_layer(shape->activation, rows, candidate->in, width,
								 z, ldz, candidate->forward, candidate->bias,
								 entity, h[1]);
		else
		{
			half = arena_take(&arena, (size_t) rows * width);
			k->multiply(rows, candidate->in, width, z, ldz,
						candidate->forward, candidate->bias, half);
		}
		upper_layers(network, half ? 0 : 1, entity, NULL, rows, half, 0,
					 offset ? offset + i : NULL, u, h, score + i);
		if (shape->factor_size > 0)
			k->add_dots(rows, candidate->in, z, ldz, of_z,
						of_z[candidate->in], score + i);
	}
}

void
network_predict(const Network *network, int n, real *score)
{
	if (network->shape.loss == LOSS_BINARY)
		network->kernels->sigmoid(n, score, score);
}

/*
 * Takes the arrays of a pass, or, without an arena, only counts: the sum is
 * written once.
 */
#define TAKE(field, numbers) \
	do { \
		size_t count_ = (numbers); \
		taken += count_; \
		if (arena) \
			(field) = arena_take(arena, count_); \
	} while (0)

/* What both kinds have. */
static size_t
common_take(GlobalPass *pass, const NetworkShape *shape, int n, Arena *arena)
{
	size_t		taken = KERNEL_PAD;

	for (int l = 1; l < shape->global_layers; l++)
	{
		int			width = kernel_stride(shape->global_width[l]);

		if (shape->activation == ACTIVATION_GELU)
			TAKE(pass->u[l], (size_t) n * width);
		if (shape->activation != ACTIVATION_RELU)
			TAKE(pass->b[l], (size_t) n * width);
		TAKE(pass->sum[l], width);
	}
	TAKE(pass->score, kernel_stride(n));
	TAKE(pass->residual, kernel_stride(n));
	return taken;
}

static size_t
pass_take(GlobalPass *pass, const NetworkShape *shape, int n, Arena *arena)
{
	size_t		taken = common_take(pass, shape, n, arena);
	int			G = shape->global_layers;

	for (int l = 1; l < G; l++)
	{
		size_t		size = (size_t) n * kernel_stride(shape->global_width[l]);

		TAKE(pass->h[l], size);
		if (l > 1 || G == 2)
			TAKE(pass->delta[l], size);
	}
	return taken;
}

static size_t
kept_take(GlobalPass *pass, const NetworkShape *shape, int n, Arena *arena)
{
	size_t		taken = common_take(pass, shape, n, arena);

	TAKE(pass->curvature, kernel_stride(n));
	return taken;
}
#undef TAKE

size_t
global_pass_size(const NetworkShape *shape, int n)
{
	GlobalPass	pass;

	return pass_take(&pass, shape, n, NULL);
}

void
global_pass_take(GlobalPass *pass, const NetworkShape *shape, int n,
				 Arena *arena)
{
	memset(pass, 0, sizeof(*pass));
	pass_take(pass, shape, n, arena);
}

size_t
global_pass_kept_size(const NetworkShape *shape, int n)
{
	GlobalPass	pass;

	return kept_take(&pass, shape, n, NULL);
}

void
global_pass_take_kept(GlobalPass *pass, const NetworkShape *shape, int n,
					  real *const *h, real *const *delta, Arena *arena)
{
	memset(pass, 0, sizeof(*pass));
	kept_take(pass, shape, n, arena);
	for (int l = 1; l < shape->global_layers; l++)
	{
		pass->h[l] = h[l];
		pass->delta[l] = delta[l];
	}
}

/* Rows of which the parts that are kept would not stay near. */
#define MOST_SHIFTED 512

/* A shift this many times what it leads to is formed anew. */
#define FARTHEST 16

/* Which the first layer's shift meets: the second, where that is not the last. */
static int
row_shift_rows(const NetworkShape *shape, int n)
{
	return shape->activation == ACTIVATION_RELU && shape->global_layers > 2 &&
		shape->steps > 0 ? (n < MOST_SHIFTED ? n : MOST_SHIFTED) : 0;
}

static size_t
mask_size(const NetworkShape *shape, int n)
{
	return (size_t) n * kernel_masks(shape->global_width[1]) *
		sizeof(uint64_t) / sizeof(real);
}

size_t
row_shift_size(const NetworkShape *shape, int n)
{
	int			most = row_shift_rows(shape, n);

	if (most == 0)
		return 0;
	return kernel_stride(shape->global_width[1]) +
		(mask_size(shape, most) + KERNEL_PAD - 1) / KERNEL_PAD * KERNEL_PAD +
		(size_t) most * kernel_stride(shape->global_width[2]) + KERNEL_PAD;
}

void
row_shift_take(RowShift *shift, const NetworkShape *shape, int n,
			   Arena *arena)
{
	int			width = kernel_stride(shape->global_width[1]);

	memset(shift, 0, sizeof(*shift));
	shift->most = row_shift_rows(shape, n);
	if (shift->most == 0)
		return;
	shift->first = arena_take(arena, width);
	shift->mask = (uint64_t *) arena_take(arena,
										  mask_size(shape, shift->most));
	shift->u = arena_take(arena, (size_t) shift->most *
						  kernel_stride(shape->global_width[2]));
}

/*
 * How far this step's first is from the one before.  Returns false where that is
 * so far that rounding of what was there would be left in u.
 */
static bool
find_shift(int width, const real *first, RowShift *shift)
{
	real		size = 1;
	bool		near = true;

	for (int j = 0; j < width; j++)
		if (REAL(fabs) (first[j]) > size)
			size = REAL(fabs) (first[j]);
	for (int j = 0; j < width; j++)
	{
		shift->first[j] = first[j] - shift->first[j];
		near &= isfinite(shift->first[j]) &&
			REAL(fabs) (shift->first[j]) <= FARTHEST * size;
	}
	return near;
}

/* The first two layers, whose rows have moved since the step before. */
static void
shifted_layers(const Network *network, const real *first, const Rows *rows,
			   RowShift *shift, GlobalPass *pass)
{
	const Kernels *k = network->kernels;
	const PackedLayer *layer = &network->hidden[1];
	int			ld = network_half_size(&network->shape);

	if (shift->begun && find_shift(layer->in_stride, first, shift))
		k->shift_layers(rows->n, layer->in, layer->out_stride, rows->half, ld,
						first, shift->first, layer->forward, layer->bias,
						shift->mask, pass->h[1], shift->u, pass->h[2]);
	else
		k->first_layers(rows->n, layer->in, layer->out_stride, rows->half, ld,
						first, layer->forward, layer->bias, shift->mask,
						pass->h[1], shift->u, pass->h[2]);
	memcpy(shift->first, first, layer->in_stride * sizeof(real));
	shift->begun = true;
}

real
network_rows_forward(const Network *network, const real *first,
					 const real *factor, const Rows *rows, real scale,
					 RowShift *shift, GlobalPass *pass)
{
	bool		shifts = shift && rows->n <= shift->most &&
		rows->n >= network->kernels->shift_rows &&
		network->hidden[1].in * network->hidden[1].out_stride >=
		network->kernels->shift_weights;
	real		loss;

	if (shifts)
		shifted_layers(network, first, rows, shift, pass);
	upper_layers(network, shifts ? 2 : 0, first, factor, rows->n, rows->half,
				 network->shape.factor_size, rows->offset, pass->u, pass->h,
				 pass->score);
	loss = network->kernels->losses(network->shape.loss, rows->n, scale,
									pass->score, rows->label, rows->weight,
									pass->residual, pass->curvature);
	pass->residuals = 0;
	if (network->shape.global_layers == 1 || pass->curvature)
		for (int i = 0; i < rows->n; i++)
			pass->residuals += pass->residual[i];
	return loss;
}

void
network_rows_backward(const Network *network, const Rows *rows,
					  GlobalPass *pass, real *first, real *factor)
{
	const NetworkShape *shape = &network->shape;
	const Kernels *k = network->kernels;
	int			G = shape->global_layers;
	int			width = kernel_stride(shape->global_width[1]);
	bool		masked = shape->activation == ACTIVATION_RELU &&
		rows->n >= KERNEL_SUM_ROWS;

	if (G > 1)
		k->last_layer_back(shape->activation, rows->n,
						   kernel_stride(shape->global_width[G - 1]),
						   pass->residual, network->last, pass->u[G - 1],
						   pass->h[G - 1], pass->b[G - 1],
						   pass->slopes ? NULL : pass->delta[G - 1],
						   pass->sum[G - 1]);
	for (int l = G - 2; l >= 1; l--)
	{
		const PackedLayer *layer = &network->hidden[l];
		const real *weight = pass->slopes ? pass->residual : NULL;

		if (masked && pass->delta[l] == NULL)
		{
			k->layer_back_sum(rows->n, layer->out_stride, layer->in,
							  pass->delta[l + 1], layer->out_stride,
							  layer->forward, pass->h[l], layer->in_stride,
							  pass->sum[l]);
			continue;
		}

		/* where the layer above is the last, b is r W' (a'(u) last) */
		if (masked && l == G - 2)
			k->masked_layer(rows->n, layer->out, layer->in_stride,
							pass->h[l + 1], layer->out_stride, network->last,
							layer->backward, pass->h[l],
							pass->slopes ? NULL : pass->residual,
							pass->delta[l]);
		else
			k->layer_back(shape->activation, rows->n, layer->out,
						  layer->in_stride, pass->delta[l + 1],
						  layer->out_stride, layer->backward, pass->u[l],
						  pass->h[l], pass->b[l], pass->delta[l],
						  pass->sum[l]);
		if (pass->slopes || (masked && l == G - 2))
			k->sum_rows(rows->n, layer->in_stride, weight, pass->delta[l],
						layer->in_stride, pass->sum[l]);
	}

	/* sum of delta_1, and sum of r f */
	if (G > 1)
		memcpy(first, pass->sum[1], width * sizeof(real));
	else
		first[0] = pass->residuals;
	if (shape->factor_size > 0)
		k->sum_rows(rows->n, shape->factor_size, pass->residual,
					rows->half + width, network_half_size(shape), factor);
}

void
network_entities_backward(const Network *network, int n, const real *first,
						  const real *factor, real *gradient, int ld,
						  real *scratch)
{
	const NetworkShape *shape = &network->shape;
	const PackedLayer *entity = &network->entity;
	int			stride = kernel_stride(shape->factor_size);

	/* de_c = C_e' first, de_f = factor */
	network->kernels->multiply(n, entity->out, entity->in_stride, first,
							   entity->out_stride, entity->backward, NULL,
							   scratch);
	for (int i = 0; i < n; i++, gradient += ld)
	{
		memcpy(gradient, scratch + (size_t) i * entity->in_stride,
			   entity->in * sizeof(real));
		memcpy(gradient + entity->in, factor + (size_t) i * stride,
			   shape->factor_size * sizeof(real));
	}
}

size_t
network_scratch_size(const NetworkShape *shape)
{
	return network_half_size(shape) +
		kernel_stride(network_embedding_size(shape)) + KERNEL_PAD;
}

real
network_forward(const Network *network, const real *embedding,
				const Rows *rows, real scale, GlobalPass *pass,
				real *scratch)
{
	const real *factor = scratch +
		kernel_stride(network->shape.global_width[1]);

	network_entity_half(network, embedding, scratch);
	return network_rows_forward(network, scratch, factor, rows, scale, NULL,
								pass);
}

void
network_backward(const Network *network, const Rows *rows, GlobalPass *pass,
				 real *embedding_gradient, real *scratch)
{
	const NetworkShape *shape = &network->shape;
	real	   *factor = scratch + kernel_stride(shape->global_width[1]);

	network_rows_backward(network, rows, pass, scratch, factor);
	network_entities_backward(network, 1, scratch, factor, embedding_gradient,
							  network_embedding_size(shape),
							  scratch + network_half_size(shape));
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
