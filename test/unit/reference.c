/*
 * reference.c
 *	  The method, plainly.
 */
#include "reference.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Layers of one block: weights and biases are where network_tensors says. */
typedef struct Block
{
	Activation	activation;
	int			layers;
	const int  *width;
	const double *numbers;		/* weight, bias, weight, bias ... */
} Block;

/* What went into and came out of each layer. */
typedef struct BlockPass
{
	double	   *u[NETWORK_MAX_LAYERS + 1];
	double	   *h[NETWORK_MAX_LAYERS + 1];
} BlockPass;

static double
activation_value(Activation activation, double u)
{
	switch (activation)
	{
		case ACTIVATION_TANH:
			return tanh(u);
		case ACTIVATION_RELU:
			return u > 0 ? u : 0;
		case ACTIVATION_GELU:
			return u * erfc(-u / sqrt(2)) / 2;
	}
	return NAN;
}

static double
activation_slope(Activation activation, double u)
{
	switch (activation)
	{
		case ACTIVATION_TANH:
			return 1 / (cosh(u) * cosh(u));
		case ACTIVATION_RELU:
			return u > 0;
		case ACTIVATION_GELU:
			return erfc(-u / sqrt(2)) / 2 +
				u * exp(-u * u / 2) / sqrt(2 * M_PI);
	}
	return NAN;
}

static size_t
layer_size(const int *width, int l)
{
	return (size_t) width[l + 1] * (width[l] + 1);
}

static size_t
block_size(int layers, const int *width)
{
	size_t		size = 0;

	for (int l = 0; l < layers; l++)
		size += layer_size(width, l);
	return size;
}

static Block
meta_block(const NetworkShape *shape, const double *numbers)
{
	return (Block) {shape->activation, shape->meta_layers, shape->meta_width,
		numbers};
}

static Block
global_block(const NetworkShape *shape, const double *numbers)
{
	return (Block) {shape->activation, shape->global_layers,
		shape->global_width,
		numbers + block_size(shape->meta_layers, shape->meta_width)};
}

/* P, which p follows and then the inner rates. */
static const double *
factor_map(const NetworkShape *shape, const double *numbers)
{
	return global_block(shape, numbers).numbers +
		block_size(shape->global_layers, shape->global_width);
}

static const double *
inner_rates(const NetworkShape *shape, const double *numbers)
{
	return factor_map(shape, numbers) +
		shape->factor_size * (network_candidate_size(shape) + 1);
}

static void
pass_allocate(BlockPass *pass, const Block *block)
{
	for (int l = 0; l <= block->layers; l++)
	{
		pass->u[l] = allocate(block->width[l] * sizeof(double));
		pass->h[l] = allocate(block->width[l] * sizeof(double));
	}
}

static void
pass_free(BlockPass *pass, const Block *block)
{
	for (int l = 0; l <= block->layers; l++)
	{
		free(pass->u[l]);
		free(pass->h[l]);
	}
}

/* From pass->h[0] to pass->h[layers]; the last layer is linear. */
static void
block_forward(const Block *block, BlockPass *pass)
{
	const double *weight = block->numbers;

	for (int l = 0; l < block->layers; l++)
	{
		int			in = block->width[l];
		int			out = block->width[l + 1];
		const double *bias = weight + (size_t) out * in;

		for (int o = 0; o < out; o++)
		{
			double		u = bias[o];

			for (int i = 0; i < in; i++)
				u += weight[(size_t) o * in + i] * pass->h[l][i];
			pass->u[l + 1][o] = u;
			pass->h[l + 1][o] = l + 1 == block->layers ? u :
				activation_value(block->activation, u);
		}
		weight = bias + out;
	}
}

/*
 * Backwards from `above`, the gradient of what comes out.  Sets `below`, that
 * of what went in, and `gradient`, that of weights and biases, unless NULL.
 */
static void
block_backward(const Block *block, const BlockPass *pass, const double *above,
			   double *below, double *gradient)
{
	size_t		at = block_size(block->layers, block->width);
	int			widest = 1;
	double	   *delta;
	double	   *b;

	for (int l = 0; l <= block->layers; l++)
		widest = block->width[l] > widest ? block->width[l] : widest;
	delta = allocate(widest * sizeof(double));
	b = allocate(widest * sizeof(double));
	memcpy(b, above, block->width[block->layers] * sizeof(double));

	for (int l = block->layers - 1; l >= 0; l--)
	{
		int			in = block->width[l];
		int			out = block->width[l + 1];

		at -= layer_size(block->width, l);
		for (int o = 0; o < out; o++)
			delta[o] = l + 1 == block->layers ? b[o] :
				b[o] * activation_slope(block->activation, pass->u[l + 1][o]);
		if (gradient)
			for (int o = 0; o < out; o++)
			{
				for (int i = 0; i < in; i++)
					gradient[at + (size_t) o * in + i] =
						delta[o] * pass->h[l][i];
				gradient[at + (size_t) out * in + o] = delta[o];
			}
		for (int i = 0; i < in; i++)
		{
			b[i] = 0;
			for (int o = 0; o < out; o++)
				b[i] += delta[o] * block->numbers[at + (size_t) o * in + i];
		}
	}
	if (below)
		memcpy(below, b, block->width[0] * sizeof(double));
	free(delta);
	free(b);
}

/* A candidate's factor part, f = P z + p. */
static double
factor_of(const NetworkShape *shape, const double *numbers, const double *z,
		  int j)
{
	const double *P = factor_map(shape, numbers);
	int			dz = network_candidate_size(shape);
	double		f = P[shape->factor_size * dz + j];

	for (int i = 0; i < dz; i++)
		f += P[j * dz + i] * z[i];
	return f;
}

/*
 * A row's score, and its gradient with respect to the embedding unless NULL.
 */
static double
score_and_slope(const NetworkShape *shape, const double *numbers,
				const double *embedding, const double *z, double offset,
				double *slope)
{
	Block		block = global_block(shape, numbers);
	int			concatenated = network_concatenated_size(shape);
	int			dz = network_candidate_size(shape);
	double		one = 1;
	double		score;
	BlockPass	pass;

	pass_allocate(&pass, &block);
	for (int i = 0; i < concatenated; i++)
		pass.h[0][i] = embedding[i];
	for (int i = 0; i < dz; i++)
		pass.h[0][concatenated + i] = z[i];
	block_forward(&block, &pass);
	score = pass.h[shape->global_layers][0] + offset;
	for (int j = 0; j < shape->factor_size; j++)
		score += embedding[concatenated + j] * factor_of(shape, numbers, z, j);

	if (slope)
	{
		double	   *below = allocate(block.width[0] * sizeof(double));

		block_backward(&block, &pass, &one, below, NULL);
		for (int i = 0; i < concatenated; i++)
			slope[i] = below[i];
		for (int j = 0; j < shape->factor_size; j++)
			slope[concatenated + j] = factor_of(shape, numbers, z, j);
		free(below);
	}
	pass_free(&pass, &block);
	return score;
}

double
reference_score(const NetworkShape *shape, const double *numbers,
				const double *embedding, const double *z, double offset)
{
	return score_and_slope(shape, numbers, embedding, z, offset, NULL);
}

double
reference_loss(Loss loss, double score, double label)
{
	if (loss == LOSS_SQUARED)
		return (score - label) * (score - label) / 2;
	return (score > 0 ? score : 0) + log1p(exp(-fabs(score))) - label * score;
}

static double
loss_slope_of(Loss loss, double score, double label)
{
	if (loss == LOSS_SQUARED)
		return score - label;
	return 1 / (1 + exp(-score)) - label;
}

static double
scale_of(InnerWeighting weighting, double weight)
{
	if (weight == 0)
		return 0;
	switch (weighting)
	{
		case WEIGHTING_MEAN:
			return 1 / weight;
		case WEIGHTING_SQRT:
			return 1 / sqrt(5 * weight);
		case WEIGHTING_DAMPED:
			return 1 / (weight + 10);
		case WEIGHTING_SQRT_DAMPED:
			return 1 / sqrt(5 * (weight + 10));
	}
	return NAN;
}

/* L_S at an embedding, and its gradient with respect to it. */
static double
support_loss(const Problem *problem, const double *numbers, int task,
			 const double *embedding, double *gradient)
{
	const NetworkShape *shape = &problem->shape;
	const RowSet *rows = &problem->support[task];
	const double *z = numbers + task_part(problem, task, PART_SUPPORT_Z)->offset;
	const double *offset = numbers +
		task_part(problem, task, PART_SUPPORT_OFFSET)->offset;
	int			E = network_embedding_size(shape);
	int			dz = network_candidate_size(shape);
	double		weight = 0;
	double		scale;
	double		loss = 0;
	double	   *slope = allocate(E * sizeof(double));

	for (int i = 0; i < rows->n; i++)
		weight += rows->weight[i];
	scale = scale_of(shape->weighting, weight);
	for (int j = 0; j < E; j++)
		gradient[j] = 0;
	for (int i = 0; i < rows->n; i++)
	{
		double		score = score_and_slope(shape, numbers, embedding,
											z + (size_t) i * dz, offset[i],
											slope);
		double		w = scale * rows->weight[i];

		loss += w * reference_loss(shape->loss, score, rows->label[i]);
		for (int j = 0; j < E; j++)
			gradient[j] += slope[j] * w *
				loss_slope_of(shape->loss, score, rows->label[i]);
	}
	free(slope);
	return loss;
}

void
reference_run(const Problem *problem, const double *numbers, int task,
			  const ReferenceRun *frozen, ReferenceRun *run)
{
	const NetworkShape *shape = &problem->shape;
	const double *rate = inner_rates(shape, numbers);
	const double *x = numbers + task_part(problem, task, PART_X)->offset;
	int			L = shape->meta_layers;
	int			E = network_embedding_size(shape);
	size_t		count = block_size(L, shape->meta_width);
	double	   *phi = allocate(count * sizeof(double));
	double	   *e_gradient = allocate(E * sizeof(double));
	Block		block = meta_block(shape, phi);
	BlockPass	pass;

	run->embedding = allocate((shape->steps + 1) * E * sizeof(double));
	run->loss = allocate((shape->steps + 1) * sizeof(double));
	run->step = allocate(shape->steps * count * sizeof(double));
	pass_allocate(&pass, &block);
	for (int i = 0; i < shape->meta_width[0]; i++)
		pass.h[0][i] = x[i];
	memcpy(phi, numbers, count * sizeof(double));

	for (int k = 0; k <= shape->steps; k++)
	{
		double	   *step = run->step + k * count;
		size_t		at = 0;

		block_forward(&block, &pass);
		memcpy(run->embedding + k * E, pass.h[L], E * sizeof(double));
		run->loss[k] = support_loss(problem, numbers, task, pass.h[L],
									e_gradient);
		if (k == shape->steps)
			break;

		if (frozen)
			memcpy(step, frozen->step + k * count, count * sizeof(double));
		else
		{
			block_backward(&block, &pass, e_gradient, NULL, step);

			/* but for the last layer's bias, which ends the block */
			if (shape->adapts == ADAPTS_EMBEDDING)
				for (size_t i = 0; i < count - E; i++)
					step[i] = 0;
		}
		for (int l = 0; l < L; l++)
			for (size_t i = 0; i < layer_size(shape->meta_width, l); i++, at++)
				phi[at] -= rate[l] * step[at];
	}
	pass_free(&pass, &block);
	free(phi);
	free(e_gradient);
}

void
reference_free(ReferenceRun *run)
{
	free(run->embedding);
	free(run->loss);
	free(run->step);
}

/* The weighted sum of a task's query losses. */
static double
query_loss(const Problem *problem, const double *numbers, int task,
		   const double *embedding)
{
	const NetworkShape *shape = &problem->shape;
	const RowSet *rows = &problem->query[task];
	const double *z = numbers + task_part(problem, task, PART_QUERY_Z)->offset;
	const double *offset = numbers +
		task_part(problem, task, PART_QUERY_OFFSET)->offset;
	double		loss = 0;

	for (int i = 0; i < rows->n; i++)
		loss += rows->weight[i] *
			reference_loss(shape->loss,
						   reference_score(shape, numbers, embedding,
										   z + (size_t) i *
										   network_candidate_size(shape),
										   offset[i]),
						   rows->label[i]);
	return loss;
}

double
reference_objective(const Problem *problem, const double *numbers,
					const ReferenceRun *frozen)
{
	int			E = network_embedding_size(&problem->shape);
	double		loss = 0;

	for (int t = 0; t < problem->tasks; t++)
	{
		ReferenceRun run;

		reference_run(problem, numbers, t, frozen ? &frozen[t] : NULL, &run);
		loss += query_loss(problem, numbers, t,
						   run.embedding + problem->shape.steps * E);
		loss += problem->prior_loss *
			query_loss(problem, numbers, t, run.embedding);
		reference_free(&run);
	}
	return loss * problem_scale(problem) / (1 + problem->prior_loss);
}

/* Whether a parameter adapts, by the name of its tensor. */
static bool
adapts_of(const NetworkShape *shape, MamlPart part, const char *name)
{
	if (strcmp(name, "inner_rate") == 0)
		return false;
	switch (part)
	{
		case MAML_META:
			return strncmp(name, "meta.", 5) == 0 &&
				(shape->adapts == ADAPTS_META_BLOCK ||
				 (atoi(name + 5) == shape->meta_layers - 1 &&
				  strcmp(name + strlen(name) - 4, "bias") == 0));
		case MAML_HEAD:
			return strncmp(name, "global.", 7) == 0 &&
				(shape->global_layers == 1 ||
				 strncmp(name, "global.0.", 9) != 0);
		case MAML_FULL:
			return true;
	}
	return false;
}

/* grad L_S with respect to all parameters, one row at a time. */
static void
support_gradient(const Problem *problem, const double *parameters,
				 const double *numbers, int task, double *gradient)
{
	const NetworkShape *shape = &problem->shape;
	const RowSet *rows = &problem->support[task];
	const double *x = numbers + task_part(problem, task, PART_X)->offset;
	const double *zs = numbers +
		task_part(problem, task, PART_SUPPORT_Z)->offset;
	const double *offset = numbers +
		task_part(problem, task, PART_SUPPORT_OFFSET)->offset;
	Block		meta = meta_block(shape, parameters);
	Block		global = global_block(shape, parameters);
	int			concatenated = network_concatenated_size(shape);
	int			dz = network_candidate_size(shape);
	int			F = shape->factor_size;
	size_t		meta_size = block_size(meta.layers, meta.width);
	size_t		global_size = block_size(global.layers, global.width);
	size_t		count = problem->part[problem->tensors].offset;
	double	   *part = allocate((meta_size + global_size) * sizeof(double));
	double	   *below = allocate(global.width[0] * sizeof(double));
	double	   *e_slope = allocate((concatenated + F) * sizeof(double));
	double		weight = 0;
	BlockPass	meta_pass;
	BlockPass	pass;

	pass_allocate(&meta_pass, &meta);
	pass_allocate(&pass, &global);
	for (int i = 0; i < shape->meta_width[0]; i++)
		meta_pass.h[0][i] = x[i];
	block_forward(&meta, &meta_pass);
	for (size_t i = 0; i < count; i++)
		gradient[i] = 0;
	for (int i = 0; i < rows->n; i++)
		weight += rows->weight[i];

	for (int i = 0; i < rows->n; i++)
	{
		const double *e = meta_pass.h[shape->meta_layers];
		const double *z = zs + (size_t) i * dz;
		double	   *factor_gradient = gradient + meta_size + global_size;
		double		score = reference_score(shape, parameters, e, z, offset[i]);
		double		residual = scale_of(shape->weighting, weight) *
			rows->weight[i] * loss_slope_of(shape->loss, score, rows->label[i]);

		for (int j = 0; j < concatenated; j++)
			pass.h[0][j] = e[j];
		for (int j = 0; j < dz; j++)
			pass.h[0][concatenated + j] = z[j];
		block_forward(&global, &pass);
		block_backward(&global, &pass, &residual, below, part);
		for (size_t j = 0; j < global_size; j++)
			gradient[meta_size + j] += part[j];
		for (int j = 0; j < concatenated; j++)
			e_slope[j] = below[j];
		for (int f = 0; f < F; f++)
		{
			double		f_slope = residual * e[concatenated + f];

			e_slope[concatenated + f] = residual *
				factor_of(shape, parameters, z, f);
			for (int j = 0; j < dz; j++)
				factor_gradient[f * dz + j] += f_slope * z[j];
			factor_gradient[F * dz + f] += f_slope;
		}
		block_backward(&meta, &meta_pass, e_slope, NULL, part);
		for (size_t j = 0; j < meta_size; j++)
			gradient[j] += part[j];
	}
	pass_free(&meta_pass, &meta);
	pass_free(&pass, &global);
	free(part);
	free(below);
	free(e_slope);
}

void
reference_maml(const Problem *problem, const double *numbers, int task,
			   MamlPart part, const double *frozen, double *parameters,
			   double *step)
{
	const NetworkShape *shape = &problem->shape;
	const double *rate = inner_rates(shape, numbers);
	size_t		count = problem->part[problem->tensors].offset;

	memcpy(parameters, numbers, count * sizeof(double));
	for (int k = 0; k < shape->steps; k++)
	{
		double	   *now = parameters + k * count;

		if (frozen)
			memcpy(step + k * count, frozen + k * count,
				   count * sizeof(double));
		else
			support_gradient(problem, now, numbers, task, step + k * count);
		memcpy(now + count, now, count * sizeof(double));
		for (int t = 0; t < problem->tensors; t++)
		{
			const Part *tensor = &problem->part[t];

			if (adapts_of(shape, part, tensor->name))
				for (size_t i = 0; i < tensor->count; i++)
					now[count + tensor->offset + i] -=
						rate[part == MAML_META ? atoi(tensor->name + 5) : 0] *
						step[k * count + tensor->offset + i];
		}
	}
}

/* The weighted sum of a task's query losses with these parameters. */
static double
query_loss_with(const Problem *problem, const double *parameters,
				const double *numbers, int task)
{
	const NetworkShape *shape = &problem->shape;
	const double *x = numbers + task_part(problem, task, PART_X)->offset;
	double	   *all = allocate(problem->count * sizeof(double));
	Block		meta = meta_block(shape, parameters);
	BlockPass	pass;
	double		loss;

	pass_allocate(&pass, &meta);
	for (int i = 0; i < shape->meta_width[0]; i++)
		pass.h[0][i] = x[i];
	block_forward(&meta, &pass);
	memcpy(all, numbers, problem->count * sizeof(double));
	memcpy(all, parameters,
		   problem->part[problem->tensors].offset * sizeof(double));
	loss = query_loss(problem, all, task, pass.h[shape->meta_layers]);
	pass_free(&pass, &meta);
	free(all);
	return loss;
}

double
reference_maml_objective(const Problem *problem, const double *numbers,
						 MamlPart part, const double *frozen)
{
	const NetworkShape *shape = &problem->shape;
	size_t		count = problem->part[problem->tensors].offset;
	int			K = shape->steps;
	double	   *parameters = allocate((K + 1) * count * sizeof(double));
	double	   *step = allocate(K * count * sizeof(double));
	double		loss;

	reference_maml(problem, numbers, 0, part, frozen, parameters, step);
	loss = query_loss_with(problem, parameters + K * count, numbers, 0) +
		problem->prior_loss * query_loss_with(problem, parameters, numbers, 0);
	free(parameters);
	free(step);
	return loss * problem_scale(problem) / (1 + problem->prior_loss);
}
