/*-------------------------------------------------------------------------
 *
 * learner.c
 *	  Meta-training: epochs, batches, validation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "math/gradient.h"
#include "math/metrics.h"
#include "math/optimizer.h"
#include "miscadmin.h"
#include "query/learner.h"
#include "storage/shmem.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * Scale of a category's first vectors: small for a candidate's, so that a rare
 * value says little; that of a standardised number for an entity's, which the
 * meta block begins with.
 */
#define VECTOR_SCALE 0.2
#define META_VECTOR_SCALE 1.0

/* Epochs whose AUC or loss differ by a smaller share than this are alike. */
#define NOISE 0.002

/* Streams of random numbers that are no entity's. */
#define STREAM_PARAMETERS UINT64_C(0xffffffff00000000)
#define STREAM_ORDER UINT64_C(0xfffffffe00000000)

/* Gradients of a category's learned table. */
typedef struct TableGradient
{
	float	   *vectors;		/* VocabularyRows x size */
	float	   *wide;			/* VocabularyRows, or NULL */
} TableGradient;

/* Entities that share an optimizer step, in the form that math/ reads. */
typedef struct Batch
{
	int			room;			/* rows that the arrays hold */
	FeatureCode *codes;			/* features */
	float	   *z;
	float	   *z_gradient;
	float	   *half;
	float	   *half_gradient;
	float	   *offset;
	float	   *offset_gradient;
	float	   *label;
	float	   *weight;
	bool	   *same_time;
	int			rows;

	Task	   *tasks;			/* batch_entities */
	FeatureCode *meta_codes;	/* batch_entities x meta features */
	float	   *x;
	float	   *x_gradient;
	int			count;
	float	   *memory;			/* of gradient_task, adapt and validation */
	Size		memory_size;
} Batch;

typedef struct Learner
{
	const ModelOptions *options;
	TrainedNetwork *trained;
	TrainingRows *rows;
	bool		refit;			/* this is the run on all rows */
	int64		batches;		/* per epoch */

	/* what is learned, in groups of one decay */
	float	   *gradient;		/* of trained->parameters */
	float	   *rate_logs;		/* where the inner rates are learned */
	float	   *rate_gradient;
	TableGradient *interaction_tables;	/* by feature; numeric ones unused */
	TableGradient *entity_tables;
	int			groups;
	ParameterGroup *group;
	float	  **average;		/* of each group's values over the last epoch */
	Optimizer	optimizer;
	Batch		batch;
} Learner;

/* What validation measures. */
typedef struct Validation
{
	double		loss;
	double		auc;
	double		prior_auc;		/* the same network, unadapted */
} Validation;

static void
AddGroup(Learner *learner, float *value, float *gradient, Size count,
		 double total_decay)
{
	ParameterGroup *group = &learner->group[learner->groups++];

	group->n = count;
	group->value = value;
	group->gradient = gradient;
	group->mean = ZeroNumbers(count);
	group->square = ZeroNumbers(count);
	group->total_decay = total_decay;
}

/*
 * Groups for the tables of an encoder, and their gradients.  Vectors of the
 * candidate's categories decay most: that is what keeps items with few
 * interactions from being learned by heart.  What is known about entities has
 * few values, each with many rows.
 */
static TableGradient *
AddTables(Learner *learner, Encoder *encoder)
{
	const ModelOptions *options = learner->options;
	TableGradient *tables = palloc0(sizeof(TableGradient) *
									Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];
		Size		rows;

		if (feature->kind != FEATURE_CATEGORY)
			continue;
		rows = VocabularyRows(&feature->vocabulary);
		tables[f].vectors = ZeroNumbers(mul_size(rows, feature->size));
		AddGroup(learner, feature->vectors, tables[f].vectors,
				 rows * feature->size,
				 feature->wide ? options->category_decay :
				 options->weight_decay);
		if (feature->wide)
		{
			tables[f].wide = ZeroNumbers(rows);
			AddGroup(learner, feature->wide, tables[f].wide, rows,
					 options->weight_decay);
		}
	}
	return tables;
}

/* Room for the network's parameters, and the optimizer's groups. */
static void
PrepareLearning(Learner *learner)
{
	TrainedNetwork *trained = learner->trained;
	const ModelOptions *options = learner->options;
	Batch	   *batch = &learner->batch;
	Size		count;
	Size		rates_at;

	TrainedNetworkShape(trained, options);
	count = network_parameter_count(&trained->shape);
	rates_at = count - trained->shape.meta_layers;
	trained->parameters = ZeroNumbers(count);
	TrainedNetworkPack(trained);

	learner->group = palloc0(sizeof(ParameterGroup) *
							 (2 + 2 * trained->interaction.count +
							  trained->entity.count));
	learner->gradient = ZeroNumbers(count);
	AddGroup(learner, trained->parameters, learner->gradient, rates_at,
			 options->weight_decay);

	/* rates are learned as logarithms, which keeps them above zero */
	if (options->learn_inner_rate && options->inner_rate > 0)
	{
		learner->rate_logs = ZeroNumbers(trained->shape.meta_layers);
		learner->rate_gradient = learner->gradient + rates_at;
		AddGroup(learner, learner->rate_logs, learner->rate_gradient,
				 trained->shape.meta_layers, 0);
	}
	learner->interaction_tables = AddTables(learner, &trained->interaction);
	learner->entity_tables = AddTables(learner, &trained->entity);
	learner->average = palloc(sizeof(float *) * learner->groups);
	for (int g = 0; g < learner->groups; g++)
		learner->average[g] = ZeroNumbers(learner->group[g].n);
	learner->batches = (ExampleStoreEntities(learner->rows->store) +
						options->batch_entities - 1) / options->batch_entities;

	batch->tasks = palloc_extended(mul_size(options->batch_entities,
											sizeof(Task)), MCXT_ALLOC_HUGE);
	batch->meta_codes = (FeatureCode *)
		ZeroNumbers(mul_size(options->batch_entities, trained->entity.count));
	batch->x = ZeroNumbers(mul_size(options->batch_entities,
									trained->entity.width));
	batch->x_gradient = ZeroNumbers(mul_size(options->batch_entities,
											 trained->entity.width));
}

/*
 * The first vectors of an encoder's tables.  Rows that no training row uses
 * begin, and so stay, at zero: a random vector would only be noise.
 */
static void
DrawTables(Encoder *encoder, const bool *saw_null, double scale,
		   Random *random)
{
	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		if (feature->kind != FEATURE_CATEGORY)
			continue;
		for (int row = 0; row <= feature->vocabulary.count; row++)
			if (row != VOCABULARY_NULL_ROW || saw_null[f])
				for (int i = 0; i < feature->size; i++)
					feature->vectors[(Size) row * feature->size + i] =
						scale * random_normal(random);
	}
}

/* Puts everything learned back to its start. */
static void
BeginRun(Learner *learner)
{
	TrainedNetwork *trained = learner->trained;
	const ModelOptions *options = learner->options;
	Random		random;

	for (int g = 0; g < learner->groups; g++)
	{
		ParameterGroup *group = &learner->group[g];

		memset(group->value, 0, sizeof(float) * group->n);
		memset(group->gradient, 0, sizeof(float) * group->n);
		memset(group->mean, 0, sizeof(float) * group->n);
		memset(group->square, 0, sizeof(float) * group->n);
		memset(learner->average[g], 0, sizeof(float) * group->n);
	}
	random_seed_stream(&random, options->seed, STREAM_PARAMETERS);
	DrawTables(&trained->interaction, learner->rows->saw_null, VECTOR_SCALE,
			   &random);
	DrawTables(&trained->entity, learner->rows->meta_saw_null,
			   META_VECTOR_SCALE, &random);
	network_initialize(&trained->shape, options->inner_rate, &random,
					   trained->parameters);
	if (learner->rate_logs)
		for (int l = 0; l < trained->shape.meta_layers; l++)
			learner->rate_logs[l] = log(options->inner_rate);
	TrainedNetworkRepack(trained);

	learner->optimizer = (Optimizer)
	{
		.learning_rate = options->learning_rate,
		.clip_norm = options->clip_norm,
		.steps = learner->batches * options->epochs
	};
}

/* Brings the network's other forms in line with its parameters. */
static void
Repack(Learner *learner)
{
	TrainedNetwork *trained = learner->trained;
	Network    *network = &trained->network;

	if (learner->rate_logs)
		for (int l = 0; l < trained->shape.meta_layers; l++)
			trained->parameters[network->tensors[INNER_RATE(&trained->shape)].offset + l] =
				expf(learner->rate_logs[l]);
	TrainedNetworkRepack(trained);
}

static void
ReserveRows(Learner *learner, int rows)
{
	Batch	   *batch = &learner->batch;
	const NetworkShape *shape = &learner->trained->shape;
	Size		z = learner->trained->interaction.width;
	Size		half = network_half_size(shape);

	if (rows <= batch->room)
		return;
	if (batch->room > 0)
	{
		pfree(batch->codes);
		pfree(batch->z);
		pfree(batch->z_gradient);
		pfree(batch->half);
		pfree(batch->half_gradient);
		pfree(batch->offset);
		pfree(batch->offset_gradient);
		pfree(batch->label);
		pfree(batch->weight);
		pfree(batch->same_time);
	}
	batch->room = rows;
	batch->codes = (FeatureCode *)
		ZeroNumbers(mul_size(rows, learner->trained->interaction.count));
	batch->z = ZeroNumbers(mul_size(rows, z));
	batch->z_gradient = ZeroNumbers(mul_size(rows, z));
	batch->half = ZeroNumbers(mul_size(rows, half));
	batch->half_gradient = ZeroNumbers(mul_size(rows, half));
	batch->offset = ZeroNumbers(rows);
	batch->offset_gradient = ZeroNumbers(rows);
	batch->label = ZeroNumbers(rows);
	batch->weight = ZeroNumbers(rows);
	batch->same_time = palloc_extended(rows, MCXT_ALLOC_HUGE);
}

static void
ReserveMemory(Batch *batch, Size numbers)
{
	if (numbers <= batch->memory_size)
		return;
	if (batch->memory)
		pfree(batch->memory);
	batch->memory = ZeroNumbers(numbers);
	batch->memory_size = numbers;
}

/* Adds a row to the batch's arrays; its half is computed with all others'. */
static void
AddRow(Learner *learner, const Examples *examples, int i, Random *dropout)
{
	Batch	   *batch = &learner->batch;
	const Encoder *encoder = &learner->trained->interaction;
	int			r = batch->rows++;
	FeatureCode *codes = batch->codes + (Size) r * encoder->count;

	memcpy(codes, ExampleCodes(examples, i),
		   encoder->count * sizeof(FeatureCode));
	if (dropout && learner->options->category_dropout > 0)
		for (int f = 0; f < encoder->count; f++)
		{
			const Vocabulary *v = &encoder->features[f].vocabulary;

			if (encoder->features[f].kind == FEATURE_CATEGORY &&
				random_uniform(dropout) < learner->options->category_dropout)
				codes[f].row = 1 + v->count + random_below(dropout, v->outside);
		}
	batch->offset[r] = Encode(encoder, codes,
							  batch->z + (Size) r * encoder->width);
	batch->label[r] = ExampleRow(examples, i)->label;
	batch->weight[r] = ExampleRow(examples, i)->weight;
	batch->same_time[r] = ExampleRow(examples, i)->same_time;
}

static Rows
RowsOf(const Batch *batch, int first, int n, Size half)
{
	return (Rows)
	{
		.n = n,
		.half = batch->half + first * half,
		.label = batch->label + first,
		.weight = batch->weight + first,
		.offset = batch->offset + first
	};
}

/*
 * Chooses, for this epoch, which of n training rows adapt and which judge
 * (the options of support_split): is_support[i].
 */
static void
SplitRows(const ModelOptions *options, int n, Random *random,
		  bool *is_support)
{
	int			split = options->support_split;
	int			prefix = 0;

	if (options->personalization == PERSONALIZATION_NONE)
	{
		memset(is_support, 0, n * sizeof(bool));
		return;
	}
	if (split == SPLIT_MIXED)
		split = random_uniform(random) < 0.5 ? SPLIT_RANDOM_HALF : SPLIT_PREFIX;
	if (split == SPLIT_PREFIX)
		prefix = (int) exp(random_uniform(random) * log(n + 1.0)) - 1;
	else if (split == SPLIT_FIXED)
		prefix = (int) (options->support_fraction * n);
	for (int i = 0; i < n; i++)
		is_support[i] = split == SPLIT_RANDOM_HALF ?
			random_bits(random) >> 63 : i < prefix;
}

/* Adds an entity to the batch; none where it has nothing to judge with. */
static void
AddEntity(Learner *learner, int epoch, int e)
{
	Batch	   *batch = &learner->batch;
	const ModelOptions *options = learner->options;
	const Encoder *encoder = &learner->trained->entity;
	Size		half = network_half_size(&learner->trained->shape);
	Examples	examples = ExampleStoreRead(learner->rows->store, e);
	bool		is_support[MOST_ENTITY_ROWS];
	FeatureCode *codes = batch->meta_codes + batch->count * encoder->count;
	Task	   *task = &batch->tasks[batch->count];
	int			n = learner->refit ? examples.rows : examples.training_rows;
	int			first = batch->rows;
	int			support = 0;
	int			passed = 0;
	int			query;
	Random		random;

	random_seed_stream(&random, options->seed, ((uint64) epoch << 32) | e);
	SplitRows(options, n, &random, is_support);
	for (int i = 0; i < n; i++)
		support += is_support[i];
	if (support == n)
		return;

	/* of the support rows only the newest adapt, as when serving */
	for (int i = 0; i < n; i++)
		if (is_support[i] && ++passed > support - options->support_rows)
			AddRow(learner, &examples, i, &random);
	support = batch->rows - first;
	for (int i = 0; i < n; i++)
		if (!is_support[i])
			AddRow(learner, &examples, i, &random);
	query = batch->rows - first - support;

	memcpy(codes, examples.meta, encoder->count * sizeof(FeatureCode));
	memset(task, 0, sizeof(*task));
	task->x = batch->x + batch->count * encoder->width;
	Encode(encoder, codes, batch->x + batch->count * encoder->width);
	task->support = RowsOf(batch, first, support, half);
	task->query = RowsOf(batch, first + support, query, half);
	task->x_gradient = batch->x_gradient + batch->count * encoder->width;
	task->support_half_gradient = batch->half_gradient + first * half;
	task->query_half_gradient = batch->half_gradient +
		(first + support) * half;
	task->support_offset_gradient = batch->offset_gradient + first;
	task->query_offset_gradient = batch->offset_gradient + first + support;
	batch->count++;
}

/* Hands the gradient of encodings on to the tables they were made of. */
static void
ScatterGradient(const Encoder *encoder, const TableGradient *tables,
				const FeatureCode *codes, const float *gradient, float offset)
{
	for (int f = 0; f < encoder->count; f++)
	{
		const Feature *feature = &encoder->features[f];
		float	   *row;

		if (feature->kind != FEATURE_CATEGORY)
			continue;
		row = tables[f].vectors + (Size) codes[f].row * feature->size;
		for (int i = 0; i < feature->size; i++)
			row[i] += gradient[feature->at + i];
		if (tables[f].wide)
			tables[f].wide[codes[f].row] += offset;
	}
}

static void
DivergedError(Learner *learner, int entity, int step)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("the inner loop diverged for %s at step %d",
					TrainingRowsEntity(learner->rows, entity), step),
			 errhint("Lower the option \"inner_rate\".")));
}

/*
 * Moves the averages towards the values that a step has left.  Their horizon
 * is an epoch: what the last few batches had in particular averages out.
 */
static void
UpdateAverage(Learner *learner)
{
	float		share = 1.0 / Min(learner->optimizer.step, learner->batches);

	for (int g = 0; g < learner->groups; g++)
	{
		const float *value = learner->group[g].value;
		float	   *average = learner->average[g];

		for (Size i = 0; i < learner->group[g].n; i++)
			average[i] += share * (value[i] - average[i]);
	}
}

/* Puts the averages in the place of the values, and the other way round. */
static void
SwapAverage(Learner *learner)
{
	for (int g = 0; g < learner->groups; g++)
	{
		float	   *value = learner->group[g].value;
		float	   *average = learner->average[g];

		for (Size i = 0; i < learner->group[g].n; i++)
		{
			float		v = value[i];

			value[i] = average[i];
			average[i] = v;
		}
	}
	Repack(learner);
}

/* One batch of `count` entities; adds to the epoch's loss. */
static void
TrainBatch(Learner *learner, int epoch, const int *entities, int count,
		   MeanLoss *train_loss)
{
	Batch	   *batch = &learner->batch;
	TrainedNetwork *trained = learner->trained;
	const NetworkShape *shape = &trained->shape;
	OuterLoss	outer = {
		.order = learner->options->order,
		/* nobody adapts: the loss at phi_0 is all there is */
		.prior_loss = shape->steps > 0 ? learner->options->prior_loss : 0
	};
	int			rows = 0;
	double		weight = 0;
	int		   *entity_of = palloc(sizeof(int) * count);

	for (int i = 0; i < count; i++)
		rows += ExampleStoreRows(learner->rows->store, entities[i]);
	ReserveRows(learner, rows);
	batch->rows = 0;
	batch->count = 0;
	for (int i = 0; i < count; i++)
	{
		int			before = batch->count;

		AddEntity(learner, epoch, entities[i]);
		if (batch->count > before)
			entity_of[before] = entities[i];
	}
	memset(batch->x_gradient, 0,
		   sizeof(float) * batch->count * trained->entity.width);
	for (int t = 0; t < batch->count; t++)
		for (int i = 0; i < batch->tasks[t].query.n; i++)
			weight += batch->tasks[t].query.weight[i];
	if (weight <= 0)
		return;
	outer.scale = 1 / weight;

	gradient_candidate_half(&trained->network, batch->rows, batch->z,
							batch->half);
	for (int t = 0; t < batch->count; t++)
	{
		Task	   *task = &batch->tasks[t];
		TaskLoss	loss;

		CHECK_FOR_INTERRUPTS();
		ReserveMemory(batch, gradient_size(shape, task->support.n,
										   task->query.n));
		loss = gradient_task(&trained->network, &outer, task, batch->memory,
							 learner->gradient);
		if (loss.diverged_at)
			DivergedError(learner, entity_of[t], loss.diverged_at);
		train_loss->sum += loss.query;
	}
	train_loss->weight += weight;
	gradient_candidate(&trained->network, batch->rows, batch->z,
					   batch->half_gradient, learner->gradient,
					   batch->z_gradient);

	for (int r = 0; r < batch->rows; r++)
		ScatterGradient(&trained->interaction, learner->interaction_tables,
						batch->codes + (Size) r * trained->interaction.count,
						batch->z_gradient + (Size) r * trained->interaction.width,
						batch->offset_gradient[r]);
	for (int t = 0; t < batch->count; t++)
		ScatterGradient(&trained->entity, learner->entity_tables,
						batch->meta_codes + t * trained->entity.count,
						batch->x_gradient + t * trained->entity.width, 0);
	if (learner->rate_logs)
		for (int l = 0; l < shape->meta_layers; l++)
			learner->rate_gradient[l] *= trained->network.inner_rate[l];

	if (!isfinite(optimizer_step(&learner->optimizer, learner->groups,
								 learner->group)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("training diverged in epoch %d: the gradient is not finite",
						epoch),
				 errhint("Lower the option \"learning_rate\" or \"inner_rate\".")));

	UpdateAverage(learner);

	/* rates that are not learned have a gradient all the same */
	if (!learner->rate_logs)
		memset(learner->gradient + learner->group[0].n, 0,
			   sizeof(float) * shape->meta_layers);
	Repack(learner);
	pfree(entity_of);
}

/* Adapts every entity on its training rows and scores those that validate. */
static Validation
Validate(Learner *learner)
{
	Batch	   *batch = &learner->batch;
	const TrainedNetwork *trained = learner->trained;
	const Network *network = &trained->network;
	const NetworkShape *shape = &trained->shape;
	Size		half = network_half_size(shape);
	Scored	   *adapted = NULL;
	Scored	   *prior = NULL;
	Size		scored = 0;
	MeanLoss	loss = {0};
	Validation	validation;
	float	   *embedding = ZeroNumbers(network_embedding_size(shape));
	float	   *scratch = ZeroNumbers(network_scratch_size(shape));

	if (ExampleStoreValidationRows(learner->rows->store) > 0)
	{
		Size		size = mul_size(ExampleStoreValidationRows(learner->rows->store),
									sizeof(Scored));

		adapted = palloc_extended(size, MCXT_ALLOC_HUGE);
		prior = palloc_extended(size, MCXT_ALLOC_HUGE);
	}
	for (int e = 0; e < ExampleStoreEntities(learner->rows->store); e++)
	{
		Examples	examples = ExampleStoreRead(learner->rows->store, e);
		int			first = Max(0, examples.training_rows -
								trained->support_rows);
		int			support = examples.training_rows - first;
		int			query = examples.rows - examples.training_rows;
		Rows		support_rows;
		Rows		query_rows;
		Adaptation	adaptation;

		if (query == 0)
			continue;
		CHECK_FOR_INTERRUPTS();
		ReserveRows(learner, support + query);
		ReserveMemory(batch, Max(adapt_size(shape, support),
								 global_pass_size(shape, query)));
		batch->rows = 0;
		for (int i = first; i < examples.rows; i++)
			AddRow(learner, &examples, i, NULL);
		Encode(&trained->entity, examples.meta, batch->x);
		network_candidate_half(network, batch->rows, batch->z,
							   trained->interaction.width, batch->half);
		support_rows = RowsOf(batch, 0, support, half);
		query_rows = RowsOf(batch, support, query, half);
		if (trained->recency > 0)
			recency_weights(support, trained->recency, batch->same_time,
							batch->weight);

		/* once as it is served, and once as if nothing were known of it */
		for (int pass = 0; pass < 2; pass++)
		{
			GlobalPass	global;
			Arena		arena;
			Scored	   *into = pass == 0 ? adapted : prior;

			if (pass == 1)
				support_rows.n = 0;
			adaptation = adapt(network, batch->x, &support_rows,
							   batch->memory, embedding);
			if (adaptation.diverged_at)
				DivergedError(learner, e, adaptation.diverged_at);
			arena = (Arena)
			{
				batch->memory, batch->memory + batch->memory_size
			};
			global_pass_take(&global, shape, query, &arena);
			network_forward(network, embedding, &query_rows, &global, scratch);
			for (int i = 0; i < query; i++)
			{
				into[scored + i] = (Scored)
				{
					global.score[i], query_rows.label[i]
				};
				if (pass == 0)
					mean_loss_add(&loss, shape->loss, global.score[i],
								  query_rows.label[i], query_rows.weight[i]);
			}
		}
		scored += query;
	}

	validation.loss = mean_loss(&loss);
	validation.auc = validation.prior_auc = get_float8_nan();
	if (scored > 0)
	{
		validation.auc = metric_auc(scored, adapted);
		validation.prior_auc = metric_auc(scored, prior);
		pfree(adapted);
		pfree(prior);
	}
	pfree(embedding);
	pfree(scratch);
	return validation;
}

static double
SecondsSince(TimestampTz start)
{
	return (GetCurrentTimestamp() - start) / 1e6;
}

/*
 * What an epoch is judged by: how well it ranks, or where labels are no
 * classes how well it predicts.  NaN where nothing validates.
 */
static double
Gain(const Learner *learner, const Validation *validation)
{
	return learner->options->loss == LOSS_BINARY && !isnan(validation->auc) ?
		validation->auc : -validation->loss;
}

/*
 * A run of at most so many epochs, its learning rate falling as if it went on
 * to the last that the options allow.  With `validate` it stops after
 * `patience` epochs that were no gain.  Returns the number of the epoch to
 * keep: the last one that is no worse than the best, noise aside.  Later
 * epochs have learned at lower rates.
 */
static int
RunEpochs(Learner *learner, int epochs, bool validate, TrainingLog *log)
{
	const ModelOptions *options = learner->options;
	int			entities = ExampleStoreEntities(learner->rows->store);
	int		   *order = palloc_extended(mul_size(entities, sizeof(int)),
										MCXT_ALLOC_HUGE);
	TimestampTz start = GetCurrentTimestamp();
	double		best_gain = 0;
	int			best = 0;
	int			kept = 0;

	BeginRun(learner);
	for (int e = 0; e < entities; e++)
		order[e] = e;
	for (int epoch = 1; epoch <= epochs; epoch++)
	{
		TimestampTz began = GetCurrentTimestamp();
		EpochRecord *record = &log->records[log->count++];
		MeanLoss	train_loss = {0};
		Validation	validation = {get_float8_nan(), get_float8_nan(), get_float8_nan()};
		StringInfoData text;
		double		gain;
		Random		random;

		record->learning_rate = optimizer_rate(&learner->optimizer);
		random_seed_stream(&random, options->seed, STREAM_ORDER | epoch);
		random_shuffle(&random, entities, order);
		for (int first = 0; first < entities; first += options->batch_entities)
			TrainBatch(learner, epoch, order + first,
					   Min(options->batch_entities, entities - first),
					   &train_loss);
		if (validate)
		{
			SwapAverage(learner);
			validation = Validate(learner);
			SwapAverage(learner);
		}

		record->refit = learner->refit;
		record->epoch = epoch;
		record->train_loss = mean_loss(&train_loss);
		record->validation_loss = validation.loss;
		record->validation_auc = validation.auc;
		record->baseline_auc = validation.prior_auc;
		record->seconds = SecondsSince(began);

		initStringInfo(&text);
		if (validate)
			appendStringInfo(&text, ", validation loss %.4f, AUC %.4f (unadapted %.4f)",
							 validation.loss, validation.auc,
							 validation.prior_auc);
		ereport(NOTICE,
				(errmsg("epoch %d of %d%s: loss %.4f%s, %.1f s, at most %.0f s left",
						epoch, epochs, learner->refit ? " on all rows" : "",
						record->train_loss, text.data, record->seconds,
						SecondsSince(start) / epoch * (epochs - epoch))));
		pfree(text.data);

		/* without validation rows the last epoch is the one to keep */
		gain = Gain(learner, &validation);
		if (best == 0 || isnan(gain) || gain > best_gain)
		{
			best = epoch;
			best_gain = gain;
		}
		if (isnan(gain) || gain >= best_gain - NOISE * fabs(best_gain))
		{
			kept = epoch;
			log->best = log->count - 1;
		}
		if (epoch - best >= options->patience)
			break;
	}
	SwapAverage(learner);
	pfree(order);
	return kept;
}

void
Learn(const ModelOptions *options, TrainedNetwork *trained,
	  TrainingRows *rows, TrainingLog *log)
{
	Learner		learner = {.options = options,.trained = trained,.rows = rows};
	bool		validates = ExampleStoreValidationRows(rows->store) > 0;
	int			best;
	int			kept;

	PrepareLearning(&learner);
	log->records = palloc0(mul_size(mul_size(options->epochs, 2),
									sizeof(EpochRecord)));
	best = RunEpochs(&learner, options->epochs, validates, log);
	kept = log->best;
	log->records[kept].kept = true;
	log->epochs = best;
	if (validates)
	{
		learner.refit = true;
		RunEpochs(&learner, best, false, log);
		log->best = kept;
	}
}
