/*
 * test_network.c
 *	  Order and names of the parameters, how they are drawn, and where packing
 *	  puts them; what an entity, a pass's loss and a prediction are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "problem.h"

#define SEEDS 40

/* The names are those of the safetensors file: a change breaks old files. */
static void
test_tensors(void)
{
	static const struct
	{
		const char *name;
		int			dimensions;
		int			rows;
		int			columns;
	}			expected[] =

	{
		{"meta.0.weight", 2, 5, 3}, {"meta.0.bias", 1, 1, 5},
		{"meta.1.weight", 2, 6, 5}, {"meta.1.bias", 1, 1, 6},
		{"global.0.weight", 2, 7, 8}, {"global.0.bias", 1, 1, 7},
		{"global.1.weight", 2, 1, 7}, {"global.1.bias", 1, 1, 1},
		{"factor.weight", 2, 2, 4}, {"factor.bias", 1, 1, 2},
		{"inner_rate", 1, 1, 2}
	};
	NetworkShape shape = {
		.meta_layers = 2, .meta_width = {3, 5, 6},
		.global_layers = 2, .global_width = {8, 7, 1},
		.factor_size = 2
	};
	NetworkTensor tensor[NETWORK_MAX_TENSORS];
	int			count = network_tensors(&shape, tensor);
	size_t		offset = 0;
	int			wrong = count != 11;

	for (int t = 0; t < 11 && t < count; t++)
	{
		wrong += strcmp(tensor[t].name, expected[t].name) != 0 ||
			tensor[t].dimensions != expected[t].dimensions ||
			tensor[t].rows != expected[t].rows ||
			tensor[t].columns != expected[t].columns ||
			tensor[t].offset != offset;
		offset += (size_t) expected[t].rows * expected[t].columns;
	}
	check(wrong == 0 && network_parameter_count(&shape) == offset &&
		  META_WEIGHT(&shape, 1) == 2 && META_BIAS(&shape, 1) == 3 &&
		  GLOBAL_WEIGHT(&shape, 1) == 6 && GLOBAL_BIAS(&shape, 1) == 7 &&
		  FACTOR_WEIGHT(&shape) == 8 && FACTOR_BIAS(&shape) == 9 &&
		  INNER_RATE(&shape) == 10, "tensors: names, sizes and order");
	check(network_embedding_size(&shape) == 6 &&
		  network_concatenated_size(&shape) == 4 &&
		  network_candidate_size(&shape) == 4 &&
		  network_half_size(&shape) == 2 * KERNEL_PAD, "sizes of a network");
}

/* Root mean square of a tensor. */
static double
spread(const NetworkTensor *tensor, const real *parameters)
{
	size_t		n = (size_t) tensor->rows * tensor->columns;
	double		sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += pow(parameters[tensor->offset + i], 2);
	return sqrt(sum / n);
}

static void
test_initialize(void)
{
	NetworkShape shape = {
		.meta_layers = 2, .meta_width = {100, 120, 90},
		.global_layers = 3, .global_width = {150, 80, 70, 1},
		.factor_size = 40
	};
	NetworkTensor tensor[NETWORK_MAX_TENSORS];
	int			count = network_tensors(&shape, tensor);
	size_t		n = network_parameter_count(&shape);
	real	   *parameters = allocate_reals(n);
	real	   *again = allocate_reals(n);
	double		worst = 0;
	int			wrong = 0;
	Random		random;

	random_seed(&random, 5);
	network_initialize(&shape, 0.25, &random, parameters);
	random_seed(&random, 5);
	network_initialize(&shape, 0.25, &random, again);
	for (int t = 0; t < count; t++)
	{
		double		expected = 1 / sqrt(tensor[t].columns);
		double		size = (double) tensor[t].rows * tensor[t].columns;

		if (t == FACTOR_WEIGHT(&shape))
			expected = 0.03;
		if (tensor[t].dimensions == 2)
			worst = fmax(worst,
						 fabs(spread(&tensor[t], parameters) / expected - 1) *
						 sqrt(2 * size));
		else
			for (int i = 0; i < tensor[t].columns; i++)
				wrong += parameters[tensor[t].offset + i] !=
					(t == INNER_RATE(&shape) ? (real) 0.25 : 0);
	}
	check(worst < 5 && wrong == 0,
		  "first weights: spread at most %.2f standard errors off, biases 0",
		  worst);
	check(memcmp(parameters, again, n * sizeof(real)) == 0,
		  "a seed gives the same first weights");
	free(parameters);
	free(again);
}

/* What a packed layer has at (o, i), both ways; false if they differ. */
static bool
packed_at(const PackedLayer *layer, int o, int i, real weight)
{
	return layer->forward[kernel_weight(layer->in, i, o)] == weight &&
		(layer->backward == NULL ||
		 layer->backward[kernel_weight(layer->out, o, i)] == weight);
}

/* How many numbers of a packed layer are not 0. */
static size_t
packed_count(const PackedLayer *layer)
{
	size_t		count = 0;

	for (size_t i = 0; i < (size_t) layer->in * layer->out_stride; i++)
		count += layer->forward[i] != 0;
	for (size_t i = 0; layer->backward &&
		 i < (size_t) layer->out * layer->in_stride; i++)
		count += layer->backward[i] != 0;
	for (int i = 0; i < layer->out_stride; i++)
		count += layer->bias[i] != 0;
	return count;
}

/*
 * Every weight is where the kernels look for it, and what pads them is 0,
 * whatever was in the memory.  The weights are 1, 2, 3 ..., so that none is 0
 * or comes twice.  Who adopts what was packed has the same network.
 */
static int
packing_errors(const NetworkShape *shape)
{
	size_t		n = network_parameter_count(shape);
	real	   *parameters = allocate_reals(n);
	real	   *memory = allocate_reals(network_packed_size(shape));
	int			concatenated = network_concatenated_size(shape);
	int			first = shape->global_width[1];
	int			errors = 0;
	Network		network;
	Network		adopted;
	const NetworkTensor *w;
	const NetworkTensor *b;

#define WEIGHT(o, i) parameters[w->offset + (size_t) (o) * w->columns + (i)]
#define BIAS(o) parameters[b->offset + (o)]
	for (size_t i = 0; i < n; i++)
		parameters[i] = i + 1;
	for (size_t i = 0; i < network_packed_size(shape); i++)
		memory[i] = -1;
	memset(&network, 0, sizeof(network));
	memset(&adopted, 0, sizeof(adopted));
	network_pack(&network, shape, parameters, memory);
	network_adopt(&adopted, shape, parameters, memory);
	errors += memcmp(&network, &adopted, sizeof(network)) != 0;

	for (int l = 0; l < shape->meta_layers; l++)
	{
		const PackedLayer *layer = &network.meta[l];

		w = &network.tensors[META_WEIGHT(shape, l)];
		b = &network.tensors[META_BIAS(shape, l)];
		for (int o = 0; o < w->rows; o++)
		{
			for (int i = 0; i < w->columns; i++)
				errors += !packed_at(layer, o, i, WEIGHT(o, i));
			errors += layer->bias[o] != BIAS(o);
		}
		errors += packed_count(layer) !=
			(size_t) w->rows * (2 * w->columns + 1);
	}
	for (int l = 1; l < shape->global_layers - 1; l++)
	{
		const PackedLayer *layer = &network.hidden[l];

		w = &network.tensors[GLOBAL_WEIGHT(shape, l)];
		b = &network.tensors[GLOBAL_BIAS(shape, l)];
		for (int o = 0; o < w->rows; o++)
		{
			for (int i = 0; i < w->columns; i++)
				errors += !packed_at(layer, o, i, WEIGHT(o, i));
			errors += layer->bias[o] != BIAS(o);
		}
		errors += packed_count(layer) !=
			(size_t) w->rows * (2 * w->columns + 1);
	}

	/* the first global layer is halved; the factor map joins its right half */
	w = &network.tensors[GLOBAL_WEIGHT(shape, 0)];
	b = &network.tensors[GLOBAL_BIAS(shape, 0)];
	for (int o = 0; o < w->rows; o++)
	{
		for (int i = 0; i < concatenated; i++)
			errors += !packed_at(&network.entity, o, i, WEIGHT(o, i));
		for (int i = concatenated; i < w->columns; i++)
			errors += !packed_at(&network.candidate, o, i - concatenated,
								 WEIGHT(o, i));
		errors += network.candidate.bias[o] != BIAS(o);
	}
	w = &network.tensors[FACTOR_WEIGHT(shape)];
	b = &network.tensors[FACTOR_BIAS(shape)];
	for (int o = 0; o < w->rows; o++)
	{
		int			at = kernel_stride(first) + o;

		for (int i = 0; i < w->columns; i++)
			errors += !packed_at(&network.candidate, at, i, WEIGHT(o, i));
		errors += network.candidate.bias[at] != BIAS(o);
	}
	errors += packed_count(&network.entity) != (size_t) 2 * first * concatenated;
	errors += packed_count(&network.candidate) !=
		(size_t) (first + shape->factor_size) *
		(network_candidate_size(shape) + 1);

	if (shape->global_layers > 1)
	{
		int			last = shape->global_layers - 1;

		w = &network.tensors[GLOBAL_WEIGHT(shape, last)];
		b = &network.tensors[GLOBAL_BIAS(shape, last)];
		for (int i = 0; i < kernel_stride(w->columns); i++)
			errors += network.last[i] != (i < w->columns ? WEIGHT(0, i) : 0);
		errors += network.last_bias != BIAS(0);
	}
	w = &network.tensors[INNER_RATE(shape)];
	for (int l = 0; l < shape->meta_layers; l++)
		errors += network.inner_rate[l] != WEIGHT(0, l);
#undef WEIGHT
#undef BIAS
	free(parameters);
	free(memory);
	return errors;
}

static void
test_pack(void)
{
	static const ProblemLimits limits = {1, 40, 1, 1};
	int			seeds = seed_count(SEEDS);
	int			wrong = 0;

	for (int seed = 1; seed <= seeds; seed++)
	{
		Problem		problem;

		problem_draw(&problem, &limits, seed);
		if (packing_errors(&problem.shape) > 0)
		{
			note("seed %d: %s", seed, problem_describe(&problem));
			wrong++;
		}
		problem_free(&problem);
	}
	check(wrong == 0, "packed weights, and zeros around them (seeds 1 ... %d)",
		  seeds);
}

/* An arena aligns what it hands out, and never hands out what it has not. */
static void
test_arena(void)
{
	real	   *memory = allocate_reals(8 * KERNEL_PAD);
	int			wrong = 0;

	for (int shift = 0; shift <= KERNEL_PAD; shift++)
	{
		Arena		arena = {memory + shift, memory + 8 * KERNEL_PAD};
		real	   *a = arena_take(&arena, 3);
		real	   *b = arena_take(&arena, 2 * KERNEL_PAD);

		wrong += (uintptr_t) a % (KERNEL_PAD * sizeof(real)) != 0 ||
			(uintptr_t) b % (KERNEL_PAD * sizeof(real)) != 0 ||
			a < memory + shift || b < a + 3;
		wrong += arena_take(&arena, 8 * KERNEL_PAD) != NULL;
	}
	check(wrong == 0, "an arena aligns, and knows its end");
	free(memory);
}

/*
 * [C_e e_c ; e_f] by its definition, and zeros around them; then, where there is
 * a factor part, P' e_f and e_f . p.
 */
static bool
entity_is_right(const Loaded *loaded, const real *embedding)
{
	const Network *network = &loaded->network;
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *w = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
	int			size = network_half_size(shape);
	int			at = kernel_stride(shape->global_width[1]);
	int			concatenated = network_concatenated_size(shape);
	int			whole = network_entity_size(shape);
	int			dz = network_candidate_size(shape);
	const NetworkTensor *p = &network->tensors[FACTOR_WEIGHT(shape)];
	const NetworkTensor *p_bias = &network->tensors[FACTOR_BIAS(shape)];
	real	   *entity = allocate_reals(whole + 1);
	bool		right = true;

	network_entity(network, embedding, entity);
	for (int o = 0; o < at; o++)
	{
		long double sum = 0;
		long double magnitude = 0;

		for (int i = 0; i < concatenated && o < w->rows; i++)
		{
			long double term = (long double) embedding[i] *
				network->parameters[w->offset + (size_t) o * w->columns + i];

			sum += term;
			magnitude += fabsl(term);
		}
		right &= fabsl(entity[o] - sum) <=
			(concatenated + 2) * REAL_EPSILON * magnitude;
	}
	for (int f = 0; at + f < size; f++)
		right &= entity[at + f] ==
			(f < shape->factor_size ? embedding[concatenated + f] : 0);
	for (int j = 0; size + j < whole; j++)
	{
		long double sum = 0;
		long double magnitude = 0;

		for (int f = 0; f < shape->factor_size; f++)
		{
			long double term = (long double) embedding[concatenated + f] *
				network->parameters[j == dz ? p_bias->offset + f :
									p->offset + (size_t) f * dz + j];

			sum += term;
			magnitude += fabsl(term);
		}
		right &= fabsl(entity[size + j] - sum) <=
			(shape->factor_size + 2) * REAL_EPSILON * magnitude;
	}
	right &= isnan(entity[whole]);
	free(entity);
	return right;
}

/*
 * The loss of a pass against its rows' own losses, and residuals and
 * curvatures `scale` times those of scale 1.  A power of two costs no bit.
 */
static bool
forward_is_right(const Loaded *loaded, const Rows *rows, const real *embedding)
{
	const NetworkShape *shape = &loaded->network.shape;
	int			n = rows->n;
	size_t		size = global_pass_size(shape, n);
	real	   *memory = allocate_reals(size);
	real	   *scratch = allocate_reals(network_scratch_size(shape));
	real	   *residual = allocate_reals(n);
	Arena		arena = {memory, memory + size};
	bool		right = true;
	double		expected = 0;
	double		magnitude = 0;
	GlobalPass	pass;
	real		loss;

	global_pass_take(&pass, shape, n, &arena);
	loss = network_forward(&loaded->network, embedding, rows, 1, &pass,
						   scratch);
	memcpy(residual, pass.residual, n * sizeof(real));
	for (int i = 0; i < n; i++)
	{
		double		w = rows->weight ? rows->weight[i] : 1;
		double		value = loss_value(shape->loss, pass.score[i],
									   rows->label[i]);

		expected += w * value;
		magnitude += w * (value + fabs(pass.score[i]));
	}
	right &= fabs(loss - expected) <= (n + 10) * REAL_EPSILON * magnitude;

	/* the loss is not scaled */
	right &= network_forward(&loaded->network, embedding, rows, 0.25, &pass,
							 scratch) == loss;
	for (int i = 0; i < n; i++)
		right &= pass.residual[i] == residual[i] / 4;
	free(memory);
	free(scratch);
	free(residual);
	return right;
}

/*
 * Rows that come back from so far that nothing of them is left in rounded sums,
 * or from what is not finite, have the bits they had before.
 */
static bool
returns(const Loaded *loaded, const Rows *rows, const real *embedding, real far)
{
	const NetworkShape *shape = &loaded->network.shape;
	int			n = rows->n;
	size_t		pass_size = global_pass_size(shape, n);
	size_t		size = pass_size + row_shift_size(shape, n) + KERNEL_PAD;
	real	   *memory = allocate_reals(size);
	int			width = kernel_stride(shape->global_width[1]);
	real	   *first = allocate_reals(width);
	real	   *away = allocate_reals(width);
	real	   *factor = allocate_reals(kernel_stride(shape->factor_size));
	real	   *score = allocate_reals(n);
	Arena		arena = {memory, memory + size};
	GlobalPass	pass;
	RowShift	shift;
	bool		same;

	global_pass_take(&pass, shape, n, &arena);
	row_shift_take(&shift, shape, n, &arena);
	network_entities(&loaded->network, 1, embedding,
					 network_embedding_size(shape), first, factor);

	/* one unit alone, or rows of which many flip would be formed anew anyway */
	memcpy(away, first, width * sizeof(real));
	away[0] = far;
	network_rows_forward(&loaded->network, first, factor, rows, 1, &shift,
						 &pass);
	memcpy(score, pass.score, n * sizeof(real));
	network_rows_forward(&loaded->network, away, factor, rows, 1, &shift,
						 &pass);
	network_rows_forward(&loaded->network, first, factor, rows, 1, &shift,
						 &pass);
	same = memcmp(score, pass.score, n * sizeof(real)) == 0;
	free(memory);
	free(first);
	free(away);
	free(factor);
	free(score);
	return same;
}

/* The most rows that are shifted, rather than multiplied afresh. */
#define MOST_SHIFTED 512

/*
 * Whether the scores of n rows, as many as these make when repeated, have other
 * bits after a step than without one before it; *error is how far they are off,
 * at most, in parts of 1 + |score|.
 */
static bool
shifts(const Loaded *loaded, const Rows *rows, const real *embedding, int n,
	   double *error)
{
	const NetworkShape *shape = &loaded->network.shape;
	int			width = kernel_stride(shape->global_width[1]);
	int			ld = network_half_size(shape);
	size_t		size = global_pass_size(shape, n) + row_shift_size(shape, n) +
		KERNEL_PAD;
	real	   *memory = allocate_reals(size);
	real	   *first = allocate_reals(width);
	real	   *factor = allocate_reals(kernel_stride(shape->factor_size));
	real	   *half = allocate_reals((size_t) n * ld);
	real	   *label = allocate_reals(n);
	real	   *score = allocate_reals(n);
	Arena		arena = {memory, memory + size};
	Rows		repeated = {.n = n, .half = half, .label = label};
	GlobalPass	pass;
	RowShift	shift;
	bool		other;

	for (int i = 0; i < n; i++)
	{
		memcpy(half + (size_t) i * ld,
			   rows->half + (size_t) (i % rows->n) * ld, ld * sizeof(real));
		label[i] = rows->label[i % rows->n];
	}
	global_pass_take(&pass, shape, n, &arena);
	row_shift_take(&shift, shape, n, &arena);
	network_entities(&loaded->network, 1, embedding,
					 network_embedding_size(shape), first, factor);
	network_rows_forward(&loaded->network, first, factor, &repeated, 1,
						 &shift, &pass);
	for (int j = 0; j < shape->global_width[1]; j++)
		first[j] += (real) 0.1;
	network_rows_forward(&loaded->network, first, factor, &repeated, 1, NULL,
						 &pass);
	memcpy(score, pass.score, n * sizeof(real));
	network_rows_forward(&loaded->network, first, factor, &repeated, 1,
						 &shift, &pass);
	other = memcmp(score, pass.score, n * sizeof(real)) != 0;
	*error = 0;
	for (int i = 0; i < n; i++)
		*error = fmax(*error, fabs((double) score[i] - pass.score[i]) /
					  (1 + fabs(score[i])));
	free(memory);
	free(first);
	free(factor);
	free(half);
	free(label);
	free(score);
	return other;
}

static void
test_passes(void)
{
	static const ProblemLimits limits = {1, 40, 40, 1};
	int			seeds = seed_count(SEEDS);
	const char *kernels;

	for (int p = 0; (kernels = select_kernels(p)); p++)
	{
		int			wrong_entities = 0;
		int			wrong_losses = 0;
		int			lost = 0;
		int			shifted = 0;
		int			too_many = 0;
		double		worst = 0;

		for (int seed = 1; seed <= seeds; seed++)
		{
			int			E;
			real	   *embedding;
			bool		entity;
			bool		loss;
			bool		back;
			double		error;
			Random		random;
			Problem		problem;
			Loaded		loaded;

			problem_draw(&problem, &limits, seed);
			problem_load(&loaded, &problem);
			E = network_embedding_size(&problem.shape);
			embedding = allocate_reals(E);
			random_seed(&random, seed);
			for (int i = 0; i < E; i++)
				embedding[i] = random_normal(&random);
			entity = entity_is_right(&loaded, embedding);
			loss = forward_is_right(&loaded, &loaded.task[0].query, embedding);
			back = returns(&loaded, &loaded.task[0].query, embedding, 1e6) &&
				returns(&loaded, &loaded.task[0].query, embedding, INFINITY);
			if (!entity || !loss || !back)
				note("seed %d: %s", seed, problem_describe(&problem));
			shifted += shifts(&loaded, &loaded.task[0].query, embedding,
							  MOST_SHIFTED, &error);
			worst = fmax(worst, error);
			too_many += shifts(&loaded, &loaded.task[0].query, embedding,
							   MOST_SHIFTED + 1, &error);
			wrong_entities += !entity;
			wrong_losses += !loss;
			lost += !back;
			free(embedding);
			loaded_free(&loaded);
			problem_free(&problem);
		}
		check(wrong_entities == 0, "entities on %s, and zeros around them "
			  "(seeds 1 ... %d)", kernels, seeds);
		check(wrong_losses == 0, "a pass's loss on %s, and what scales with "
			  "it (seeds 1 ... %d)", kernels, seeds);
		check(lost == 0, "rows that come back from afar on %s are what they "
			  "were (seeds 1 ... %d)", kernels, seeds);
		check((shifted > 0 || seeds < SEEDS) && too_many == 0 &&
			  worst < 1000 * REAL_EPSILON, "%d rows are shifted on %s, %.0f "
			  "epsilons off at most, and one more are not (in %d and %d "
			  "networks of %d)", MOST_SHIFTED, kernels, worst / REAL_EPSILON,
			  shifted, too_many, seeds);
	}
}

/* A probability of log loss; the score itself, to the bit, of squared. */
static void
test_predict(void)
{
	enum
	{
		ROWS = 37
	};
	const char *name;

	for (int p = 0; (name = select_kernels(p)); p++)
	{
		Network		network = {.kernels = kernels_for_processor()};
		int			wrong = 0;

		for (int n = 0; n <= ROWS; n++)
		{
			real		score[ROWS + 1];
			real		kept[ROWS + 1];

			for (int i = 0; i <= ROWS; i++)
				kept[i] = score[i] = (i - 18) * (real) 0.75 + n;
			network.shape.loss = LOSS_SQUARED;
			network_predict(&network, n, score);
			wrong += memcmp(score, kept, sizeof(score)) != 0;
			network.shape.loss = LOSS_BINARY;
			network_predict(&network, n, score);
			for (int i = 0; i <= ROWS; i++)
				wrong += relative_error(score[i], i >= n ? kept[i] :
										1 / (1 + exp(-(double) kept[i])), 0) >
					(i >= n ? 0 : 4 * REAL_EPSILON);
		}
		check(wrong == 0, "predictions of both losses on %s", name);
	}
}

int
main(void)
{
	test_tensors();
	test_initialize();
	test_pack();
	test_arena();
	test_passes();
	test_predict();
	return check_end();
}
