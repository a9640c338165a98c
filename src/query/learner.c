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
#include "math/metrics.h"
#include "math/optimizer.h"
#include "miscadmin.h"
#include "query/learner.h"
#include "query/training_workers.h"
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

/*
 * The most that a parameter decays at a step, as a multiple of the learning
 * rate.  Where there are few steps a decay that is given as a sum over all of
 * them would undo what they learn.
 */
#define MOST_DECAY 10.0

/*
 * Into how many parts the arm `id` divides an entity's rows, for batches of
 * that many times more entities with so much fewer rows of each.  A vector that
 * only its own entity's rows move would otherwise move once per epoch.
 */
#define ID_PARTS 16

/*
 * Each step goes over the vectors of all entities, so with their number it is
 * the batches of the arm `id` that grow, not the number of steps.
 */
#define MOST_ID_BATCHES 128

/* Epochs whose AUC or loss differ by a smaller share than this are alike. */
#define NOISE 0.002

/*
 * Products that a run must take before workers are worth their start: about a
 * tenth of a second.
 */
#define FEWEST_SHARED_PRODUCTS 4e9

/* Streams of random numbers that are no entity's. */
#define STREAM_PARAMETERS UINT64_C(0xffffffff00000000)
#define STREAM_ORDER UINT64_C(0xfffffffe00000000)

/* Gradients of a category's learned table. */
typedef struct TableGradient
{
	float	   *vectors;		/* VocabularyRows x size */
	float	   *wide;			/* VocabularyRows, or NULL */
} TableGradient;

struct Learner
{
	ModelOptions settled;
	const ModelOptions *options;	/* these */
	TrainedNetwork *trained;
	TrainingRows *rows;
	int64		batches;		/* per epoch */
	int			epoch;			/* done */
	int			parts;			/* of an entity, each in a batch of its own */
	int			batch_tasks;	/* in a batch: parts of entities */
	int		   *order;			/* of the parts, shuffled epoch by epoch */

	/* what is learned, in groups of one decay */
	float	   *gradient;		/* of trained->parameters */
	float	   *rate_logs;		/* where the inner rates are learned */
	float	   *rate_gradient;
	TableGradient *interaction_tables;	/* by feature, where it has a table */
	TableGradient *entity_tables;
	int			groups;
	ParameterGroup *group;
	float	  **kept;			/* groups' averages of the epoch to keep, or
								 * NULL: of the last */
	Optimizer	optimizer;

	BatchPlan	plan;
	TrainingWorkers *workers;	/* between LearnerBegin and LearnerEnd */
};

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
	group->average = ZeroNumbers(count);
	group->total_decay = Min(total_decay,
							 MOST_DECAY * learner->optimizer.learning_rate *
							 learner->optimizer.steps / 2);
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

		if (!HasTable(feature))
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

/* A copy of a fitted encoder's first features, with tables of their own. */
static void
CopyEncoder(const Encoder *fitted, int count, bool wide, int category_size,
			Encoder *encoder)
{
	encoder->count = count;
	encoder->features = palloc(sizeof(Feature) * Max(count, 1));
	for (int f = 0; f < count; f++)
	{
		Feature    *feature = &encoder->features[f];
		Size		rows;

		*feature = fitted->features[f];
		if (!HasTable(feature))
			continue;
		rows = VocabularyRows(&feature->vocabulary);
		feature->size = category_size;
		feature->vectors = ZeroNumbers(mul_size(rows, feature->size));
		feature->wide = wide ? ZeroNumbers(rows) : NULL;
	}
}

static void
PrepareEncoders(Learner *learner)
{
	const TrainingRows *rows = learner->rows;
	const ModelOptions *options = learner->options;
	TrainedNetwork *trained = learner->trained;
	bool		with_id = options->personalization == PERSONALIZATION_ID;

	Assert(rows->with_id || !with_id);
	CopyEncoder(&rows->interaction, rows->source.features + (with_id ? 1 : 0),
				true, options->category_size, &trained->interaction);
	if (with_id)
	{
		/* an entity's vector is as wide as its meta embedding would be */
		Feature    *id = &trained->interaction.features[rows->source.features];

		pfree(id->vectors);
		id->size = options->embedding_size;
		id->vectors = ZeroNumbers(mul_size(VocabularyRows(&id->vocabulary),
										   id->size));
	}
	CopyEncoder(&rows->entity, rows->entity.count, false,
				options->category_size, &trained->entity);
	EncoderLayout(&trained->interaction);
	EncoderLayout(&trained->entity);
}

/*
 * How an epoch is parted into batches, and so how many steps there will be.
 * Returns the number of tasks of an epoch.
 */
static int
PrepareBatches(Learner *learner)
{
	const ModelOptions *options = learner->options;
	bool		is_id = options->personalization == PERSONALIZATION_ID;
	int			entities = ExampleStoreEntities(learner->rows->store);
	int			batch = options->batch_entities;

	learner->parts = is_id ? ID_PARTS : 1;
	if (entities > PG_INT32_MAX / 2 / learner->parts)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot train arm \"%s\" on more than %d entities",
						personalization_labels[options->personalization],
						PG_INT32_MAX / 2 / learner->parts)));
	if (is_id)
		batch = Max(batch, (entities + MOST_ID_BATCHES - 1) / MOST_ID_BATCHES);
	batch = Min(batch, entities);
	learner->batch_tasks = learner->parts * batch;
	learner->batches = (entities + batch - 1) / batch;
	learner->optimizer = (Optimizer)
	{
		.learning_rate = options->learning_rate,
		.clip_norm = options->clip_norm,
		.steps = learner->batches * options->epochs
	};
	return learner->parts * entities;
}

/* Whether an encoder has vectors that learn. */
static bool
LearnsVectors(const Encoder *encoder)
{
	for (int f = 0; f < encoder->count; f++)
		if (HasTable(&encoder->features[f]) && !encoder->features[f].inert)
			return true;
	return false;
}

/* What gradients all batches want. */
static void
PlanBatches(Learner *learner)
{
	TrainedNetwork *trained = learner->trained;
	const ModelOptions *options = learner->options;

	learner->plan = (BatchPlan)
	{
		.trained = trained,
		.outer.order = options->order,
		/* where nobody adapts the loss at phi_0 is all there is */
		.outer.prior_loss = trained->shape.steps > 0 ? options->prior_loss : 0,
		.features = learner->rows->interaction.count,
		.most_tasks = learner->batch_tasks,
		.most_shares = BatchMostShares(&trained->shape, learner->batch_tasks),
		.x_gradient = LearnsVectors(&trained->entity),
		.z_gradient = LearnsVectors(&trained->interaction)
	};
}

/* Room for the network's parameters, and the optimizer's groups. */
static void
PrepareLearning(Learner *learner)
{
	TrainedNetwork *trained = learner->trained;
	const ModelOptions *options = learner->options;
	Size		count;
	Size		rates_at;
	int			tasks;

	PrepareEncoders(learner);
	tasks = PrepareBatches(learner);
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
	learner->order = palloc_extended(mul_size(tasks, sizeof(int)),
									 MCXT_ALLOC_HUGE);
	for (int t = 0; t < tasks; t++)
		learner->order[t] = t;
	PlanBatches(learner);
}

/*
 * What no row trains begins, and so stays, at zero: a random start would only
 * be noise, or worse tell one class from the other by a value that only rows
 * to come have.  Such are rows of a table that no training row uses, the whole
 * table of a feature that does not vary, and the weights of a number that does
 * not.
 */
static void
DrawTables(Encoder *encoder, const bool *saw_null, double scale,
		   Random *random)
{
	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		if (!HasTable(feature) || feature->inert)
			continue;
		for (int row = 0; row <= feature->vocabulary.count; row++)
			if (row != VOCABULARY_NULL_ROW || saw_null[f])
				for (int i = 0; i < feature->size; i++)
					feature->vectors[(Size) row * feature->size + i] =
						scale * random_normal(random);
	}
}

/* A column of a weight. */
static void
ClearColumn(Learner *learner, const NetworkTensor *weight, int column)
{
	for (int row = 0; row < weight->rows; row++)
		learner->trained->parameters[weight->offset +
									 (Size) row * weight->columns +
									 column] = 0;
}

/* Columns of a weight that read inert numbers, the encoding being at `at`. */
static void
ClearInert(Learner *learner, int tensor, int at, const Encoder *encoder)
{
	const NetworkTensor *weight =
		&learner->trained->network.tensors[tensor];

	for (int f = 0; f < encoder->count; f++)
	{
		const Feature *feature = &encoder->features[f];

		if (feature->kind == FEATURE_NUMERIC && feature->inert)
			ClearColumn(learner, weight, at + feature->at);
		else if (feature->kind == FEATURE_VECTOR)
			for (int i = 0; i < feature->size; i++)
				if (feature->elements[i].inert)
					ClearColumn(learner, weight, at + feature->at + i);
	}
}

/* Gives everything that is learned its start. */
static void
DrawParameters(Learner *learner)
{
	TrainedNetwork *trained = learner->trained;
	const ModelOptions *options = learner->options;
	Random		random;

	random_seed_stream(&random, options->seed, STREAM_PARAMETERS);
	DrawTables(&trained->interaction, learner->rows->saw_null, VECTOR_SCALE,
			   &random);
	DrawTables(&trained->entity, learner->rows->meta_saw_null,
			   META_VECTOR_SCALE, &random);
	network_initialize(&trained->shape, options->inner_rate, &random,
					   trained->parameters);
	ClearInert(learner, META_WEIGHT(&trained->shape, 0), 0, &trained->entity);
	ClearInert(learner, GLOBAL_WEIGHT(&trained->shape, 0),
			   network_concatenated_size(&trained->shape),
			   &trained->interaction);
	ClearInert(learner, FACTOR_WEIGHT(&trained->shape), 0,
			   &trained->interaction);
	if (learner->rate_logs)
		for (int l = 0; l < trained->shape.meta_layers; l++)
			learner->rate_logs[l] = log(options->inner_rate);
	TrainedNetworkRepack(trained);
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

/* Lets categories of a row drop out. */
static void
DropOut(const Learner *learner, char *row, Random *dropout)
{
	const Encoder *encoder = &learner->trained->interaction;
	FeatureCode *codes = (FeatureCode *) (row + sizeof(Interaction));

	if (learner->options->category_dropout == 0)
		return;
	for (int f = 0; f < encoder->count; f++)
	{
		const Vocabulary *v = &encoder->features[f].vocabulary;

		if (HasTable(&encoder->features[f]) &&
			random_uniform(dropout) < learner->options->category_dropout)
			codes[f].row = 1 + v->count + random_below(dropout, v->outside);
	}
}

/*
 * Adds a row and its negatives, none of which is taken; without chance (NULL)
 * the row alone, as it is.
 */
static void
AddRow(Learner *learner, Batch *batch, const Examples *examples, int i,
	   const Bitmapset *taken, Random *random)
{
	const Negatives *negatives = learner->rows->negatives;
	Size		size = examples->row_size;
	char	   *row = batch->row + size * batch->head->rows;
	int			rows = 1;

	memcpy(row, ExampleRow(examples, i), size);
	MoveCodes(&learner->trained->interaction,
			  (FeatureCode *) (row + sizeof(Interaction)), examples->lists,
			  &batch->lists);
	if (random && negatives)
		rows += AddNegatives(negatives, taken, random, row, size,
							 &batch->lists);
	for (int r = 0; random && r < rows; r++)
		DropOut(learner, row + r * size, random);
	batch->head->rows += rows;
}

/*
 * Begins a task of an entity, whose rows follow by AddRow; the task's numbers
 * of rows are the caller's.
 */
static BatchTask *
BeginTask(Learner *learner, Batch *batch, int entity, const Examples *examples)
{
	const Encoder *encoder = &learner->trained->entity;
	int			count = encoder->count;
	int			t = batch->head->tasks++;
	BatchTask  *task = &batch->task[t];
	FeatureCode *meta = batch->meta + (Size) t * count;

	if (count > 0)
		memcpy(meta, examples->meta, count * sizeof(FeatureCode));
	MoveCodes(encoder, meta, examples->lists, &batch->lists);
	task->entity = entity;
	task->first = batch->head->rows;
	return task;
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

	if (options->personalization == PERSONALIZATION_NONE ||
		options->personalization == PERSONALIZATION_ID)
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

/*
 * Leaves of n rows those of one part, each row being in any of them with equal
 * chance; returns their number.
 */
static int
TakePart(int parts, int part, int n, Random *random, int *rows)
{
	int			taken = 0;

	for (int i = 0; i < n; i++)
		if (parts == 1 || (int) random_below(random, parts) == part)
			rows[taken++] = i;
	return taken;
}

/* What chance does to an entity in this epoch. */
static Random
TaskRandom(const Learner *learner, int e)
{
	Random		random;

	random_seed_stream(&random, learner->options->seed,
					   ((uint64) learner->epoch << 32) | e);
	return random;
}

/*
 * Adds a part of an entity to the batch; none where it has nothing to judge
 * with.
 */
static void
AddTask(Learner *learner, Batch *batch, int number)
{
	const ModelOptions *options = learner->options;
	int			e = number / learner->parts;
	Examples	examples = ExampleStoreRead(learner->rows->store, e);
	int			rows[MOST_ENTITY_ROWS];
	bool		is_support[MOST_ENTITY_ROWS];
	Bitmapset  *taken = NULL;	/* items of all rows, and */
	Bitmapset  *adapting = NULL;	/* of those that adapt */
	BatchTask  *task;
	int			support = 0;
	int			passed = 0;
	int			n;
	Random		random = TaskRandom(learner, e);

	n = TakePart(learner->parts, number % learner->parts,
				 examples.parts.training, &random, rows);
	SplitRows(options, n, &random, is_support);
	for (int i = 0; i < n; i++)
		support += is_support[i];
	if (support == n)
		return;
	if (TrainingRowsNegatives(learner->rows) > 0)
	{
		taken = TakenItems(&examples, examples.parts.training);
		for (int i = 0; i < n; i++)
		{
			int32		item = ExampleRow(&examples, rows[i])->item;

			if (is_support[i] && item != NO_ITEM)
				adapting = bms_add_member(adapting, item);
		}
	}

	/* of the support rows only the newest adapt, as when serving */
	task = BeginTask(learner, batch, e, &examples);
	for (int i = 0; i < n; i++)
		if (is_support[i] && ++passed > support - options->support_rows)
			AddRow(learner, batch, &examples, rows[i], adapting, &random);
	task->support = batch->head->rows - task->first;
	for (int i = 0; i < n; i++)
		if (!is_support[i])
		{
			int			before = batch->head->rows;

			AddRow(learner, batch, &examples, rows[i], taken, &random);
			batch->head->weight += (batch->head->rows - before) *
				ExampleRow(&examples, rows[i])->weight;
		}
	task->query = batch->head->rows - task->first - task->support;
	bms_free(taken);
	bms_free(adapting);
}

/* Hands the gradient of encodings on to the tables they were made of. */
static void
ScatterGradient(const Encoder *encoder, const TableGradient *tables,
				const FeatureCode *codes, const FeatureCode *lists,
				const float *gradient, float offset)
{
	for (int f = 0; f < encoder->count; f++)
	{
		const Feature *feature = &encoder->features[f];
		const FeatureCode *rows;
		int			count;
		float		share;

		if (!HasTable(feature) || feature->inert)
			continue;
		rows = CodeRows(&codes[f], lists, &count);
		share = 1.0f / count;
		for (int r = 0; r < count; r++)
		{
			float	   *row = tables[f].vectors +
				(Size) rows[r].row * feature->size;

			for (int i = 0; i < feature->size; i++)
				row[i] += share * gradient[feature->at + i];
			if (tables[f].wide)
				tables[f].wide[rows[r].row] += share * offset;
		}
	}
}

/* Errors where a task has diverged: the batch's first, whoever found it. */
static void
CheckShares(Learner *learner, const Batch *batch)
{
	for (int s = 0; s < batch->head->shares; s++)
	{
		const BatchShare *share = &batch->share[s];
		int			step = share->diverged_at;
		int			entity = batch->task[share->diverged].entity;

		if (step == 0)
			continue;

		/* to name the entity is a query, which may be of any kind */
		LearnerEnd(learner);
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the inner loop diverged for %s at step %d",
						TrainingRowsEntity(learner->rows, entity), step),
				 errhint("Lower the option \"inner_rate\".")));
	}
}

/* Puts the averages in the place of the values, and the other way round. */
static void
SwapAverage(Learner *learner)
{
	for (int g = 0; g < learner->groups; g++)
	{
		float	   *value = learner->group[g].value;
		float	   *average = learner->group[g].average;

		for (Size i = 0; i < learner->group[g].n; i++)
		{
			float		v = value[i];

			value[i] = average[i];
			average[i] = v;
		}
	}
	Repack(learner);
}

static void
CheckBatchRows(int64 rows, int entities)
{
	if (rows > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a batch of %d entities has more than %d rows",
						entities, PG_INT32_MAX),
				 errhint("Lower the option \"batch_entities\".")));
}

/* How many rows parts of entities have. */
static int
BatchRows(Learner *learner, const int *parts, int count)
{
	int64		rows = 0;
	int			taken[MOST_ENTITY_ROWS];

	for (int i = 0; i < count; i++)
	{
		int			e = parts[i] / learner->parts;
		Random		random = TaskRandom(learner, e);

		rows += TakePart(learner->parts, parts[i] % learner->parts,
						 ExampleStoreParts(learner->rows->store, e).training,
						 &random, taken);
	}
	rows = RowsWithNegatives(learner->rows->negatives, rows);
	CheckBatchRows(rows, count / learner->parts);
	return (int) rows;
}

/* Adds up what the shares of a batch have computed. */
static void
GatherGradients(Learner *learner, const Batch *batch, MeanLoss *train_loss)
{
	const TrainedNetwork *trained = learner->trained;
	const Encoder *interaction = &trained->interaction;
	const Encoder *entity = &trained->entity;
	Size		count = network_parameter_count(&trained->shape);

	for (int s = 0; s < batch->head->shares; s++)
	{
		gradient_add(count, batch->gradient + s * count, learner->gradient);
		train_loss->sum += batch->share[s].loss;
	}
	for (int t = 0; t < batch->head->tasks; t++)
	{
		Examples	examples = BatchExamples(&learner->plan, batch, t);

		for (int i = 0; batch->z_gradient && i < examples.parts.rows; i++)
		{
			Size		r = batch->task[t].first + i;

			ScatterGradient(interaction, learner->interaction_tables,
							ExampleCodes(&examples, i), examples.lists,
							batch->z_gradient + r * interaction->width,
							batch->offset_gradient[r]);
		}
		if (batch->x_gradient)
			ScatterGradient(entity, learner->entity_tables, examples.meta,
							examples.lists,
							batch->x_gradient + (Size) t * entity->width, 0);
	}
}

/* Moves what is learned against its gradient. */
static void
Step(Learner *learner)
{
	const TrainedNetwork *trained = learner->trained;
	int			meta_layers = trained->shape.meta_layers;

	if (learner->rate_logs)
		for (int l = 0; l < meta_layers; l++)
			learner->rate_gradient[l] *= trained->network.inner_rate[l];

	if (!isfinite(optimizer_step(&learner->optimizer, learner->groups,
								 learner->group)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("training diverged in epoch %d: the gradient is not finite",
						learner->epoch),
				 errhint("Lower the option \"learning_rate\" or \"inner_rate\".")));
	optimizer_average(&learner->optimizer, learner->batches, learner->groups,
					  learner->group);

	/* rates that are not learned have a gradient all the same */
	if (!learner->rate_logs)
		memset(learner->gradient + learner->group[0].n, 0,
			   sizeof(float) * meta_layers);
	Repack(learner);
}

/* One batch of `count` parts of entities; adds to the epoch's loss. */
static void
TrainBatch(Learner *learner, const int *parts, int count,
		   MeanLoss *train_loss)
{
	Batch	   *batch = TrainingWorkersBatch(learner->workers,
											 BatchRows(learner, parts, count));

	for (int i = 0; i < count; i++)
		AddTask(learner, batch, parts[i]);
	if (batch->head->weight <= 0)
		return;
	train_loss->weight += batch->head->weight;
	TrainingWorkersRun(learner->workers, BATCH_GRADIENTS);
	CheckShares(learner, batch);
	GatherGradients(learner, batch, train_loss);
	Step(learner);
}

/* What an entity's validation takes: rows to adapt on, and rows to score. */
static BatchTask
ValidationTask(Learner *learner, int e)
{
	Examples	examples = ExampleStoreRead(learner->rows->store, e);
	int			first = examples.parts.training;
	int			older = ExampleOlderRows(&examples, first);

	return (BatchTask)
	{
		.entity = e,
		.first = Max(older - learner->options->support_rows, 0),
		.support = Min(older, learner->options->support_rows),
		.query = examples.parts.learnable - first
	};
}

/* The same as a task of a batch. */
static void
AddValidation(Learner *learner, Batch *batch, int e)
{
	BatchTask	wanted = ValidationTask(learner, e);
	Negatives  *negatives = learner->rows->negatives;
	Examples	examples = ExampleStoreRead(learner->rows->store, e);
	Examples	with;
	BatchTask  *task;

	if (wanted.query == 0)
		return;
	task = BeginTask(learner, batch, e, &examples);
	with = WithNegatives(negatives, &examples, wanted.first, wanted.support,
						 wanted.first + wanted.support, NEGATIVES_ADAPT);
	task->support = with.parts.rows;
	for (int i = 0; i < with.parts.rows; i++)
		AddRow(learner, batch, &with, i, NULL, NULL);
	with = WithNegatives(negatives, &examples, examples.parts.training,
						 wanted.query, examples.parts.learnable,
						 NEGATIVES_JUDGE);
	task->query = with.parts.rows;
	for (int i = 0; i < with.parts.rows; i++)
		AddRow(learner, batch, &with, i, NULL, NULL);
}

/* What has been scored, in the order of the store. */
typedef struct Validation
{
	Scored	   *adapted;
	Scored	   *prior;
	Size		count;
	MeanLoss	loss;
} Validation;

static void
GatherScores(Learner *learner, const Batch *batch, Validation *validation)
{
	for (int t = 0; t < batch->head->tasks; t++)
	{
		const BatchTask *task = &batch->task[t];
		Examples	examples = BatchExamples(&learner->plan, batch, t);

		for (int i = task->support; i < task->support + task->query; i++)
		{
			const Interaction *row = ExampleRow(&examples, i);
			float		score = batch->score[task->first + i];

			validation->adapted[validation->count] = (Scored)
			{
				score, row->label
			};
			validation->prior[validation->count++] = (Scored)
			{
				batch->prior[task->first + i], row->label
			};
			mean_loss_add(&validation->loss, learner->trained->shape.loss,
						  score, row->label, row->weight);
		}
	}
}

/* Scores what validates of entities first ... end - 1. */
static void
ValidateBatch(Learner *learner, int first, int end, Validation *validation)
{
	int64		rows = 0;
	Batch	   *batch;

	for (int e = first; e < end; e++)
	{
		BatchTask	task = ValidationTask(learner, e);

		rows += task.support + task.query;
	}
	rows = RowsWithNegatives(learner->rows->negatives, rows);
	CheckBatchRows(rows, end - first);
	batch = TrainingWorkersBatch(learner->workers, (int) rows);
	for (int e = first; e < end; e++)
		AddValidation(learner, batch, e);
	TrainingWorkersRun(learner->workers, BATCH_SCORES);
	CheckShares(learner, batch);
	GatherScores(learner, batch, validation);
}

/*
 * Adapts every entity on its training rows and scores those that validate, as
 * it is served and once as if nothing were known of it.
 */
static void
Validate(Learner *learner, EpochRecord *record)
{
	ExampleStore *store = learner->rows->store;
	Size		rows = RowsWithNegatives(learner->rows->negatives,
										 ExampleStoreValidationRows(store));
	int			entities = ExampleStoreEntities(store);
	Validation	validation = {0};

	if (rows == 0)
		return;
	validation.adapted = palloc_extended(mul_size(rows, sizeof(Scored)),
										 MCXT_ALLOC_HUGE);
	validation.prior = palloc_extended(mul_size(rows, sizeof(Scored)),
									   MCXT_ALLOC_HUGE);
	for (int first = 0; first < entities; first += learner->options->batch_entities)
		ValidateBatch(learner, first,
					  Min(first + learner->options->batch_entities, entities),
					  &validation);
	record->validation_loss = mean_loss(&validation.loss);
	record->validation_auc = metric_auc(validation.count, validation.adapted);
	record->baseline_auc = metric_auc(validation.count, validation.prior);
	pfree(validation.adapted);
	pfree(validation.prior);
}

static double
SecondsSince(TimestampTz start)
{
	return (GetCurrentTimestamp() - start) / 1e6;
}

Learner *
LearnerCreate(const ModelOptions *options, TrainedNetwork *trained,
			  TrainingRows *rows)
{
	Learner    *learner = palloc0(sizeof(Learner));

	learner->settled = *options;
	OptionsSettle(&learner->settled, TrainingRowsNegatives(rows));
	learner->options = options = &learner->settled;
	learner->trained = trained;
	learner->rows = rows;
	trained->context = CurrentMemoryContext;
	trained->personalization = options->personalization;
	trained->recency = options->recency;
	trained->support_rows = options->support_rows;
	trained->negatives = options->negatives;
	trained->options = OptionsToJson(options);
	trained->label = rows->source.label.name;
	trained->event_time = rows->source.event_time.name;
	trained->weight = rows->source.weight.name;
	PrepareLearning(learner);
	DrawParameters(learner);
	return learner;
}

void
LearnerBegin(Learner *learner, int epochs)
{
	const NetworkShape *shape = &learner->trained->shape;
	double		products = (double) learner->rows->training_rows *
		(1 + TrainingRowsNegatives(learner->rows)) * epochs *
		network_parameter_count(shape) * (shape->steps + 1);
	int			workers = products < FEWEST_SHARED_PRODUCTS ? 0 :
		Min(max_parallel_maintenance_workers, learner->plan.most_shares - 1);

	learner->workers = TrainingWorkersStart(&learner->plan, workers);
}

void
LearnerEnd(Learner *learner)
{
	TrainingWorkersEnd(learner->workers);
}

EpochRecord
LearnerEpoch(Learner *learner, bool validate)
{
	const ModelOptions *options = learner->options;
	int			tasks = learner->parts *
		ExampleStoreEntities(learner->rows->store);	/* fits: PrepareBatches */
	TimestampTz began = GetCurrentTimestamp();
	MeanLoss	train_loss = {0};
	EpochRecord record = {
		.epoch = ++learner->epoch,
		.learning_rate = optimizer_rate(&learner->optimizer),
		.validation_loss = get_float8_nan(),
		.validation_auc = get_float8_nan(),
		.baseline_auc = get_float8_nan()
	};
	Random		random;

	random_seed_stream(&random, options->seed, STREAM_ORDER | learner->epoch);
	random_shuffle(&random, tasks, learner->order);
	for (int first = 0; first < tasks; first += learner->batch_tasks)
		TrainBatch(learner, learner->order + first,
				   Min(learner->batch_tasks, tasks - first), &train_loss);
	record.train_loss = mean_loss(&train_loss);
	if (validate)
	{
		SwapAverage(learner);
		Validate(learner, &record);
		SwapAverage(learner);
	}
	record.seconds = SecondsSince(began);
	return record;
}

/* Keeps the averages as they are now. */
static void
KeepAverage(Learner *learner)
{
	if (learner->kept == NULL)
	{
		learner->kept = palloc(sizeof(float *) * learner->groups);
		for (int g = 0; g < learner->groups; g++)
			learner->kept[g] = ZeroNumbers(learner->group[g].n);
	}
	for (int g = 0; g < learner->groups; g++)
		memcpy(learner->kept[g], learner->group[g].average,
			   sizeof(float) * learner->group[g].n);
}

void
LearnerFinish(Learner *learner)
{
	if (learner->kept)
		for (int g = 0; g < learner->groups; g++)
			memcpy(learner->group[g].average, learner->kept[g],
				   sizeof(float) * learner->group[g].n);
	SwapAverage(learner);
}

/*
 * What an epoch is judged by: how well it ranks, or where labels are no
 * classes how well it predicts.  NaN where nothing validates.
 */
double
EpochGain(const ModelOptions *options, const EpochRecord *record)
{
	return options->loss == LOSS_BINARY && !isnan(record->validation_auc) ?
		record->validation_auc : -record->validation_loss;
}

static void
SayEpoch(const EpochRecord *record, int epochs, TimestampTz start)
{
	StringInfoData text;

	initStringInfo(&text);
	if (!isnan(record->validation_loss))
		appendStringInfo(&text, ", validation loss %.4f, AUC %.4f (unadapted %.4f)",
						 record->validation_loss, record->validation_auc,
						 record->baseline_auc);
	ereport(NOTICE,
			(errmsg("epoch %d of %d%s: loss %.4f%s, %.1f s, at most %.0f s left",
					record->epoch, epochs,
					record->refit ? " on all rows" : "", record->train_loss,
					text.data, record->seconds,
					SecondsSince(start) / record->epoch *
					(epochs - record->epoch))));
	pfree(text.data);
}

void
TrainingLogInit(TrainingLog *log, const ModelOptions *options)
{
	memset(log, 0, sizeof(*log));
	log->records = palloc0(mul_size(mul_size(options->epochs, 2),
									sizeof(EpochRecord)));
}

void
LearnEpochs(const ModelOptions *options, TrainedNetwork *trained,
			TrainingRows *rows, bool say, TrainingLog *log)
{
	Learner    *learner = LearnerCreate(options, trained, rows);
	bool		validate = ExampleStoreValidationRows(rows->store) > 0;
	TimestampTz start = GetCurrentTimestamp();
	double		best_gain = 0;

	LearnerBegin(learner, options->epochs);
	for (int epoch = 1; epoch <= options->epochs; epoch++)
	{
		EpochRecord *record = &log->records[log->count++];
		double		gain;

		*record = LearnerEpoch(learner, validate);
		if (say)
			SayEpoch(record, options->epochs, start);

		/* without validation rows the last epoch is the one to keep */
		gain = EpochGain(options, record);
		if (epoch == 1 || gain > best_gain)
			best_gain = gain;

		/*
		 * Of epochs that are alike the later has learned at lower rates.  Nor
		 * is one that is like the best a reason to stop: on MovieLens the last
		 * epochs, whose rates are lowest, are worth .002 AUC after a plateau.
		 */
		if (isnan(gain) || gain >= best_gain - NOISE * fabs(best_gain))
		{
			log->epochs = epoch;
			log->best = log->count - 1;
			if (validate)
				KeepAverage(learner);
		}
		if (epoch - log->epochs >= learner->options->patience)
			break;
	}
	log->records[log->best].kept = true;
	LearnerEnd(learner);
	LearnerFinish(learner);
}

void
LearnAgain(const ModelOptions *options, TrainedNetwork *trained,
		   TrainingRows *rows, int epochs, bool say, TrainingLog *log)
{
	Learner    *learner = LearnerCreate(options, trained, rows);
	TimestampTz start = GetCurrentTimestamp();

	LearnerBegin(learner, epochs);
	for (int epoch = 1; epoch <= epochs; epoch++)
	{
		EpochRecord *record = &log->records[log->count++];

		*record = LearnerEpoch(learner, false);
		record->refit = true;
		if (say)
			SayEpoch(record, epochs, start);
	}
	LearnerEnd(learner);
	LearnerFinish(learner);
}
