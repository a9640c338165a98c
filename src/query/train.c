/*-------------------------------------------------------------------------
 *
 * train.c
 *	  limaml_train: meta-trains a network on a model's declared rows and adds
 *	  it as a version.
 *
 * Three passes over the rows.  The first, over training rows alone, fits the
 * encoders: means, deviations, vocabularies.  The second turns rows to codes
 * in an example store.  From then on each epoch reads the store: per batch of
 * entities it encodes the rows with the vectors as they are, asks math/ for
 * the meta-gradient, hands the rows' part of it on to the vectors, and takes
 * an optimizer step.
 *
 * All of that twice.  At first the newest rows of every entity only validate,
 * and so tell how many epochs are best.  But those rows are the ones most like
 * the rows to come: on MovieLens a network that has not learned from them
 * loses .004 AUC.  So a second run, from the same start and for as many
 * epochs, learns from all rows, and its network is the one that is kept.
 *
 * A word on bits: everything random comes from the seed, by a stream of its
 * own per epoch and entity; rows come in a certain order (source.h); so the
 * same rows and options give the same file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "executor/spi.h"
#include "funcapi.h"
#include "math/gradient.h"
#include "math/metrics.h"
#include "math/optimizer.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "model/trained_network.h"
#include "query/examples.h"
#include "query/source.h"
#include "query/version.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Rows that are fetched from the cursor at a time. */
#define FETCH_ROWS 1000

/*
 * An entity with more interactions than this trains with the newest ones: the
 * bound on one batch's memory.
 */
#define MOST_ENTITY_ROWS 4096

/*
 * Scale of a category's first vectors: small for a candidate's, so that a rare
 * value says little; that of a standardised number for an entity's, which the
 * meta block begins with.
 */
#define VECTOR_SCALE 0.2
#define META_VECTOR_SCALE 1.0

/* Streams of random numbers that are no entity's. */
#define STREAM_PARAMETERS UINT64_C(0xffffffff00000000)
#define STREAM_ORDER UINT64_C(0xfffffffe00000000)

/* The learned table of a category: what the optimizer has of it. */
typedef struct TableGradient
{
	float	   *vectors;		/* gradient, VocabularyRows x size */
	float	   *wide;			/* gradient, VocabularyRows, or NULL */
	bool		saw_null;		/* among training rows */
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

typedef struct Trainer
{
	const Model *model;
	ModelOptions options;
	Source		source;
	TrainedNetwork *trained;
	ExampleStore *store;
	ColumnReader *readers;		/* features */
	ColumnReader *meta_readers;

	int64		entities;
	int64		training_rows;
	int64		validation_rows;
	int64		positives;		/* training rows labelled over 0.5 */

	/* what is learned, in groups of one decay */
	float	   *gradient;		/* of trained->parameters */
	float	   *rate_logs;		/* where the inner rates are learned */
	float	   *rate_gradient;
	TableGradient *interaction_tables;	/* by feature; numeric ones unused */
	TableGradient *entity_tables;
	bool		refit;			/* this is the run on all rows */
	int64		batches;		/* per epoch */
	int			groups;
	ParameterGroup *group;
	float	  **average;		/* of each group's values over the last epoch */
	Optimizer	optimizer;

	Batch		batch;
	MemoryContext row_context;	/* reset between fetches */
} Trainer;

/* What validation measures. */
typedef struct Validation
{
	double		loss;
	double		auc;
	double		prior_auc;		/* the same network, unadapted */
} Validation;

static float *
Numbers(Size count)
{
	return palloc_extended(mul_size(Max(count, 1), sizeof(float)),
						   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* One row of the training query. */
typedef struct ScannedRow
{
	HeapTuple	tuple;
	TupleDesc	desc;
	int			number;			/* from 0, among the entity's rows that count */
	int			rows;			/* that count */
	int			training_rows;	/* of them */
	Interaction interaction;
	int			features_at;	/* column of the first feature */
} ScannedRow;

typedef void (*RowCallback) (Trainer *trainer, const ScannedRow *row,
							 void *state);

/* Reads all rows in order, leaving out those too old to count. */
static void
ScanRows(Trainer *trainer, RowCallback callback, void *state)
{
	const Source *source = &trainer->source;
	SPIPlanPtr	plan = SPI_prepare(SourceTrainingQuery(source), 0, NULL);
	Portal		portal;
	int			keys = source->key.count;
	Datum		before = (Datum) 0; /* event time of the row before */

	if (plan == NULL)
		elog(ERROR, "could not prepare the training query");
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	for (;;)
	{
		MemoryContext old;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(trainer->row_context);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			ScannedRow	row;
			Datum		key[INDEX_MAX_KEYS];
			Datum		time;
			bool		isnull;
			int64		number;
			int64		rows;

			row.tuple = SPI_tuptable->vals[i];
			row.desc = SPI_tuptable->tupdesc;
			number = DatumGetInt64(SPI_getbinval(row.tuple, row.desc, 1,
												 &isnull)) - 1;
			rows = DatumGetInt64(SPI_getbinval(row.tuple, row.desc, 2,
											   &isnull));
			row.rows = (int) Min(rows, MOST_ENTITY_ROWS);
			if (number < rows - row.rows)
				continue;
			row.number = (int) (number - (rows - row.rows));
			row.training_rows = row.rows -
				(int) floor(trainer->options.validation_fraction * row.rows);
			for (int k = 0; k < keys; k++)
				key[k] = SPI_getbinval(row.tuple, row.desc, 3 + k, &isnull);
			row.interaction = SourceReadInteraction(source,
													trainer->options.loss,
													row.tuple, row.desc,
													4 + keys, key);
			time = SPI_getbinval(row.tuple, row.desc, 3 + keys, &isnull);
			row.interaction.same_time = row.number > 0 &&
				SourceSameTime(source, time, before);
			before = time;
			row.features_at = 5 + keys + (source->weight.name ? 1 : 0);
			callback(trainer, &row, state);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(trainer->row_context);

		/* the last time outlives its row, for the first of the next fetch */
		if (before != (Datum) 0)
			before = datumCopy(before, source->event_time.by_value,
							   source->event_time.length);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
}

/* What the first pass gathers about a feature. */
typedef struct FeatureStatistics
{
	NumberStatistics number;
	ValueCounter *values;
} FeatureStatistics;

typedef struct Statistics
{
	FeatureStatistics *features;
	FeatureStatistics *meta_features;
} Statistics;

static void
AddStatistics(const Encoder *encoder, ColumnReader *readers,
			  FeatureStatistics *statistics, const ScannedRow *row, int first)
{
	for (int f = 0; f < encoder->count; f++)
	{
		bool		isnull;
		Datum		datum = SPI_getbinval(row->tuple, row->desc, first + f,
										  &isnull);

		if (encoder->features[f].kind == FEATURE_NUMERIC)
			NumberStatisticsAdd(&statistics[f].number,
								ReadNumber(&readers[f], datum, isnull));
		else
		{
			CategoryValue value;

			ReadCategory(&readers[f], encoder->features[f].vocabulary.is_integer,
						 datum, isnull, &value);
			ValueCounterAdd(statistics[f].values, &value);
		}
	}
}

static void
CollectStatistics(Trainer *trainer, const ScannedRow *row, void *state)
{
	Statistics *statistics = state;
	const Encoder *interaction = &trainer->trained->interaction;

	if (row->number >= row->training_rows)
	{
		trainer->validation_rows++;
		return;
	}
	if (row->number == 0)
	{
		trainer->entities++;
		AddStatistics(&trainer->trained->entity, trainer->meta_readers,
					  statistics->meta_features, row,
					  row->features_at + interaction->count);
	}
	trainer->training_rows++;
	if (row->interaction.label > 0.5f)
		trainer->positives++;
	AddStatistics(interaction, trainer->readers, statistics->features, row,
				  row->features_at);
}

/* Readers of the declared columns, and empty statistics for them. */
static FeatureStatistics *
BeginStatistics(Encoder *encoder, const SourceColumn *columns,
				ColumnReader *readers, int max_categories)
{
	FeatureStatistics *statistics = palloc0(sizeof(FeatureStatistics) *
											Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		if (feature->kind == FEATURE_CATEGORY)
		{
			feature->vocabulary.is_integer =
				CategoryIsInteger(columns[f].type);
			statistics[f].values =
				ValueCounterCreate(feature->vocabulary.is_integer,
								   max_categories);
		}
		FeatureReaderInit(&readers[f], feature, columns[f].type);
	}
	return statistics;
}

/* Makes the features of what was gathered; tables are zero until drawn. */
static TableGradient *
FinishStatistics(Trainer *trainer, Encoder *encoder,
				 FeatureStatistics *statistics, bool wide)
{
	TableGradient *tables = palloc0(sizeof(TableGradient) *
									Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];
		Size		rows;

		if (feature->kind == FEATURE_NUMERIC)
		{
			NumberStatisticsFeature(&statistics[f].number, feature);
			continue;
		}
		ValueCounterVocabulary(statistics[f].values,
							   trainer->options.min_count,
							   &feature->vocabulary);
		tables[f].saw_null = ValueCounterSawNull(statistics[f].values);
		rows = VocabularyRows(&feature->vocabulary);
		feature->size = trainer->options.category_size;
		feature->vectors = Numbers(mul_size(rows, feature->size));
		tables[f].vectors = Numbers(mul_size(rows, feature->size));
		if (wide)
		{
			feature->wide = Numbers(rows);
			tables[f].wide = Numbers(rows);
		}
	}
	EncoderLayout(encoder);
	return tables;
}

static void
ReadCodes(const Encoder *encoder, ColumnReader *readers,
		  const ScannedRow *row, int first, FeatureCode *codes)
{
	for (int f = 0; f < encoder->count; f++)
	{
		bool		isnull;
		Datum		datum = SPI_getbinval(row->tuple, row->desc, first + f,
										  &isnull);

		codes[f] = ReadFeature(&readers[f], &encoder->features[f], datum,
							   isnull);
	}
}

static void
StoreRow(Trainer *trainer, const ScannedRow *row, void *state)
{
	const Encoder *interaction = &trainer->trained->interaction;
	FeatureCode *codes = state;

	if (row->number == 0)
	{
		ReadCodes(&trainer->trained->entity, trainer->meta_readers, row,
				  row->features_at + interaction->count, codes);
		ExampleStoreEntity(trainer->store, row->rows, row->training_rows,
						   codes);
	}
	ReadCodes(interaction, trainer->readers, row, row->features_at, codes);
	ExampleStoreAdd(trainer->store, &row->interaction, codes);
}

static int64
QueryCount(const char *sql)
{
	bool		isnull;

	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not count the rows left out");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* One row per entity is what the entities relation promises. */
static void
CheckEntities(const Source *source)
{
	Datum		key[INDEX_MAX_KEYS];
	bool		isnull;

	if (source->entities == NULL)
		return;
	if (SPI_execute(SourceDuplicatesQuery(source), true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for duplicate entities");
	if (SPI_processed == 0)
		return;
	for (int k = 0; k < source->key.count; k++)
		key[k] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
							   k + 1, &isnull);
	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 errmsg("entities relation %s has more than one row of %s",
					source->entities, KeyText(&source->key, key))));
}

static void
CheckRows(const Trainer *trainer)
{
	const Source *source = &trainer->source;
	int64		skipped = QueryCount(SourceSkippedQuery(source));

	if (skipped > 0)
		ereport(NOTICE,
				(errmsg_plural("skipped " INT64_FORMAT " row of %s without a key, label or event time",
							   "skipped " INT64_FORMAT " rows of %s without a key, label or event time",
							   skipped, skipped, source->interactions)));
	if (trainer->training_rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("relation %s has no interactions to train on",
						source->interactions),
				 errdetail("An interaction has a key, a label and an event time.")));
	if (trainer->options.loss == LOSS_BINARY &&
		(trainer->positives == 0 ||
		 trainer->positives == trainer->training_rows))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("label \"%s\" is %d in all " INT64_FORMAT " training rows",
						source->label.name, trainer->positives > 0 ? 1 : 0,
						trainer->training_rows),
				 errhint("Learning to tell them apart takes rows of both classes.")));
}

static void
AddGroup(Trainer *trainer, float *value, float *gradient, Size count,
		 double total_decay)
{
	ParameterGroup *group = &trainer->group[trainer->groups++];

	group->n = count;
	group->value = value;
	group->gradient = gradient;
	group->mean = Numbers(count);
	group->square = Numbers(count);
	group->total_decay = total_decay;
}

/*
 * Vectors of the candidate's categories decay most: that is what keeps items
 * with few interactions from being learned by heart.  What is known about
 * entities has few values, each with many rows.
 */
static void
AddTables(Trainer *trainer, Encoder *encoder, TableGradient *tables)
{
	const ModelOptions *options = &trainer->options;

	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];
		Size		rows;

		if (feature->kind != FEATURE_CATEGORY)
			continue;
		rows = VocabularyRows(&feature->vocabulary);
		AddGroup(trainer, feature->vectors, tables[f].vectors,
				 rows * feature->size,
				 feature->wide ? options->category_decay :
				 options->weight_decay);
		if (feature->wide)
			AddGroup(trainer, feature->wide, tables[f].wide, rows,
					 options->weight_decay);
	}
}

/* Room for the network's parameters, and the optimizer's groups. */
static void
PrepareLearning(Trainer *trainer)
{
	TrainedNetwork *trained = trainer->trained;
	const ModelOptions *options = &trainer->options;
	Size		count;
	Size		rates_at;

	TrainedNetworkShape(trained, options);
	count = network_parameter_count(&trained->shape);
	rates_at = count - trained->shape.meta_layers;
	trained->parameters = Numbers(count);
	TrainedNetworkPack(trained);

	trainer->group = palloc0(sizeof(ParameterGroup) *
							 (2 + 2 * trained->interaction.count +
							  trained->entity.count));
	trainer->gradient = Numbers(count);
	AddGroup(trainer, trained->parameters, trainer->gradient, rates_at,
			 options->weight_decay);

	/* rates are learned as logarithms, which keeps them above zero */
	if (options->learn_inner_rate && options->inner_rate > 0)
	{
		trainer->rate_logs = Numbers(trained->shape.meta_layers);
		trainer->rate_gradient = trainer->gradient + rates_at;
		AddGroup(trainer, trainer->rate_logs, trainer->rate_gradient,
				 trained->shape.meta_layers, 0);
	}
	AddTables(trainer, &trained->interaction, trainer->interaction_tables);
	AddTables(trainer, &trained->entity, trainer->entity_tables);
	trainer->average = palloc(sizeof(float *) * trainer->groups);
	for (int g = 0; g < trainer->groups; g++)
		trainer->average[g] = Numbers(trainer->group[g].n);
	trainer->batches = (trainer->entities + options->batch_entities - 1) /
		options->batch_entities;
}

/*
 * The first vectors of an encoder's tables.  Rows that no training row uses
 * begin, and so stay, at zero: a random vector would only be noise.
 */
static void
DrawTables(Encoder *encoder, const TableGradient *tables, double scale,
		   Random *random)
{
	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		if (feature->kind != FEATURE_CATEGORY)
			continue;
		for (int row = 0; row <= feature->vocabulary.count; row++)
			if (row != VOCABULARY_NULL_ROW || tables[f].saw_null)
				for (int i = 0; i < feature->size; i++)
					feature->vectors[(Size) row * feature->size + i] =
						scale * random_normal(random);
	}
}

/* Puts everything learned back to its start. */
static void
BeginRun(Trainer *trainer)
{
	TrainedNetwork *trained = trainer->trained;
	const ModelOptions *options = &trainer->options;
	Random		random;

	for (int g = 0; g < trainer->groups; g++)
	{
		ParameterGroup *group = &trainer->group[g];

		memset(group->value, 0, sizeof(float) * group->n);
		memset(group->gradient, 0, sizeof(float) * group->n);
		memset(group->mean, 0, sizeof(float) * group->n);
		memset(group->square, 0, sizeof(float) * group->n);
		memset(trainer->average[g], 0, sizeof(float) * group->n);
	}
	random_seed_stream(&random, options->seed, STREAM_PARAMETERS);
	DrawTables(&trained->interaction, trainer->interaction_tables,
			   VECTOR_SCALE, &random);
	DrawTables(&trained->entity, trainer->entity_tables, META_VECTOR_SCALE,
			   &random);
	network_initialize(&trained->shape, options->inner_rate, &random,
					   trained->parameters);
	if (trainer->rate_logs)
		for (int l = 0; l < trained->shape.meta_layers; l++)
			trainer->rate_logs[l] = log(options->inner_rate);
	TrainedNetworkRepack(trained);

	trainer->optimizer = (Optimizer)
	{
		.learning_rate = options->learning_rate,
		.clip_norm = options->clip_norm,
		.steps = trainer->batches * options->epochs
	};
}

/* Brings the network's other forms in line with its parameters. */
static void
Repack(Trainer *trainer)
{
	TrainedNetwork *trained = trainer->trained;
	Network    *network = &trained->network;

	if (trainer->rate_logs)
		for (int l = 0; l < trained->shape.meta_layers; l++)
			trained->parameters[network->tensors[INNER_RATE(&trained->shape)].offset + l] =
				expf(trainer->rate_logs[l]);
	TrainedNetworkRepack(trained);
}

static void
ReserveRows(Trainer *trainer, int rows)
{
	Batch	   *batch = &trainer->batch;
	const NetworkShape *shape = &trainer->trained->shape;
	Size		z = trainer->trained->interaction.width;
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
		Numbers(mul_size(rows, trainer->trained->interaction.count));
	batch->z = Numbers(mul_size(rows, z));
	batch->z_gradient = Numbers(mul_size(rows, z));
	batch->half = Numbers(mul_size(rows, half));
	batch->half_gradient = Numbers(mul_size(rows, half));
	batch->offset = Numbers(rows);
	batch->offset_gradient = Numbers(rows);
	batch->label = Numbers(rows);
	batch->weight = Numbers(rows);
	batch->same_time = palloc_extended(rows, MCXT_ALLOC_HUGE);
}

static void
ReserveMemory(Batch *batch, Size numbers)
{
	if (numbers <= batch->memory_size)
		return;
	if (batch->memory)
		pfree(batch->memory);
	batch->memory = Numbers(numbers);
	batch->memory_size = numbers;
}

/* Adds a row to the batch's arrays; its half is computed with all others'. */
static void
AddRow(Trainer *trainer, const Examples *examples, int i, Random *dropout)
{
	Batch	   *batch = &trainer->batch;
	const Encoder *encoder = &trainer->trained->interaction;
	int			r = batch->rows++;
	FeatureCode *codes = batch->codes + (Size) r * encoder->count;

	memcpy(codes, ExampleCodes(examples, i),
		   encoder->count * sizeof(FeatureCode));
	if (dropout && trainer->options.category_dropout > 0)
		for (int f = 0; f < encoder->count; f++)
		{
			const Vocabulary *v = &encoder->features[f].vocabulary;

			if (encoder->features[f].kind == FEATURE_CATEGORY &&
				random_uniform(dropout) < trainer->options.category_dropout)
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
	int			support = 0;

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
	{
		is_support[i] = split == SPLIT_RANDOM_HALF ?
			random_bits(random) >> 63 : i < prefix;
		support += is_support[i];
	}
}

/* Adds an entity to the batch; none where it has nothing to judge with. */
static void
AddEntity(Trainer *trainer, int epoch, int e)
{
	Batch	   *batch = &trainer->batch;
	const ModelOptions *options = &trainer->options;
	const Encoder *encoder = &trainer->trained->entity;
	Size		half = network_half_size(&trainer->trained->shape);
	Examples	examples = ExampleStoreRead(trainer->store, e);
	bool		is_support[MOST_ENTITY_ROWS];
	FeatureCode *codes = batch->meta_codes + batch->count * encoder->count;
	Task	   *task = &batch->tasks[batch->count];
	int			n = trainer->refit ? examples.rows : examples.training_rows;
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
			AddRow(trainer, &examples, i, &random);
	support = batch->rows - first;
	for (int i = 0; i < n; i++)
		if (!is_support[i])
			AddRow(trainer, &examples, i, &random);
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

/* The text of an entity's key, for a message: entity e as the scan met it. */
typedef struct NthEntity
{
	int			wanted;
	int			met;
	char	   *text;
	MemoryContext context;
} NthEntity;

static void
FindNthEntity(Trainer *trainer, const ScannedRow *row, void *state)
{
	NthEntity  *nth = state;
	const EntityKey *key = &trainer->source.key;

	if (row->number == 0 && nth->met++ == nth->wanted)
	{
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull;
		MemoryContext old;

		for (int k = 0; k < key->count; k++)
			values[k] = SPI_getbinval(row->tuple, row->desc, 3 + k, &isnull);
		old = MemoryContextSwitchTo(nth->context);
		nth->text = KeyText(key, values);
		MemoryContextSwitchTo(old);
	}
}

static void
DivergedError(Trainer *trainer, int entity, int step)
{
	NthEntity	nth = {.wanted = entity,.context = CurrentMemoryContext};

	/* keys are not kept for this: the rows are read once more */
	ScanRows(trainer, FindNthEntity, &nth);
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("the inner loop diverged for %s at step %d",
					nth.text ? nth.text : "an entity", step),
			 errhint("Lower the option \"inner_rate\".")));
}

/*
 * Moves the averages towards the values that a step has left.  Their horizon
 * is an epoch: what the last few batches had in particular averages out.
 */
static void
UpdateAverage(Trainer *trainer)
{
	float		share = 1.0 / Min(trainer->optimizer.step, trainer->batches);

	for (int g = 0; g < trainer->groups; g++)
	{
		const float *value = trainer->group[g].value;
		float	   *average = trainer->average[g];

		for (Size i = 0; i < trainer->group[g].n; i++)
			average[i] += share * (value[i] - average[i]);
	}
}

/* Puts the averages in the place of the values, and the other way round. */
static void
SwapAverage(Trainer *trainer)
{
	for (int g = 0; g < trainer->groups; g++)
	{
		float	   *value = trainer->group[g].value;
		float	   *average = trainer->average[g];

		for (Size i = 0; i < trainer->group[g].n; i++)
		{
			float		v = value[i];

			value[i] = average[i];
			average[i] = v;
		}
	}
	Repack(trainer);
}

/* One batch of `count` entities; adds to the epoch's loss. */
static void
TrainBatch(Trainer *trainer, int epoch, const int *entities, int count,
		   MeanLoss *train_loss)
{
	Batch	   *batch = &trainer->batch;
	TrainedNetwork *trained = trainer->trained;
	const NetworkShape *shape = &trained->shape;
	OuterLoss	outer = {
		.order = trainer->options.order,
		/* nobody adapts: the loss at phi_0 is all there is */
		.prior_loss = shape->steps > 0 ? trainer->options.prior_loss : 0
	};
	int			rows = 0;
	double		weight = 0;
	int		   *entity_of = palloc(sizeof(int) * count);

	for (int i = 0; i < count; i++)
		rows += ExampleStoreRows(trainer->store, entities[i]);
	ReserveRows(trainer, rows);
	batch->rows = 0;
	batch->count = 0;
	for (int i = 0; i < count; i++)
	{
		int			before = batch->count;

		AddEntity(trainer, epoch, entities[i]);
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
							 trainer->gradient);
		if (loss.diverged_at)
			DivergedError(trainer, entity_of[t], loss.diverged_at);
		train_loss->sum += loss.query;
	}
	train_loss->weight += weight;
	gradient_candidate(&trained->network, batch->rows, batch->z,
					   batch->half_gradient, trainer->gradient,
					   batch->z_gradient);

	for (int r = 0; r < batch->rows; r++)
		ScatterGradient(&trained->interaction, trainer->interaction_tables,
						batch->codes + (Size) r * trained->interaction.count,
						batch->z_gradient + (Size) r * trained->interaction.width,
						batch->offset_gradient[r]);
	for (int t = 0; t < batch->count; t++)
		ScatterGradient(&trained->entity, trainer->entity_tables,
						batch->meta_codes + t * trained->entity.count,
						batch->x_gradient + t * trained->entity.width, 0);
	if (trainer->rate_logs)
		for (int l = 0; l < shape->meta_layers; l++)
			trainer->rate_gradient[l] *= trained->network.inner_rate[l];

	if (!isfinite(optimizer_step(&trainer->optimizer, trainer->groups,
								 trainer->group)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("training diverged in epoch %d: the gradient is not finite",
						epoch),
				 errhint("Lower the option \"learning_rate\" or \"inner_rate\".")));

	UpdateAverage(trainer);

	/* rates that are not learned have a gradient all the same */
	if (!trainer->rate_logs)
		memset(trainer->gradient + trainer->group[0].n, 0,
			   sizeof(float) * shape->meta_layers);
	Repack(trainer);
	pfree(entity_of);
}

/* Adapts every entity on its training rows and scores those that validate. */
static Validation
Validate(Trainer *trainer)
{
	Batch	   *batch = &trainer->batch;
	const TrainedNetwork *trained = trainer->trained;
	const Network *network = &trained->network;
	const NetworkShape *shape = &trained->shape;
	Size		half = network_half_size(shape);
	Scored	   *adapted = NULL;
	Scored	   *prior = NULL;
	Size		scored = 0;
	MeanLoss	loss = {0};
	Validation	validation;
	float	   *embedding = Numbers(network_embedding_size(shape));
	float	   *scratch = Numbers(network_scratch_size(shape));

	if (trainer->validation_rows > 0)
	{
		Size		size = mul_size(trainer->validation_rows, sizeof(Scored));

		adapted = palloc_extended(size, MCXT_ALLOC_HUGE);
		prior = palloc_extended(size, MCXT_ALLOC_HUGE);
	}
	for (int e = 0; e < ExampleStoreEntities(trainer->store); e++)
	{
		Examples	examples = ExampleStoreRead(trainer->store, e);
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
		ReserveRows(trainer, support + query);
		ReserveMemory(batch, Max(adapt_size(shape, support),
								 global_pass_size(shape, query)));
		batch->rows = 0;
		for (int i = first; i < examples.rows; i++)
			AddRow(trainer, &examples, i, NULL);
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
				DivergedError(trainer, e, adaptation.diverged_at);
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

/* The epochs of both runs, as the training log has them. */
typedef struct TrainingLog
{
	EpochRecord *records;
	int			count;
	int			best;			/* index of the epoch whose number is kept */
} TrainingLog;

/*
 * What an epoch is judged by: how well it ranks, or where labels are no
 * classes how well it predicts.  NaN where nothing validates.
 */
static double
Gain(const Trainer *trainer, const Validation *validation)
{
	return trainer->options.loss == LOSS_BINARY && !isnan(validation->auc) ?
		validation->auc : -validation->loss;
}

/*
 * A run of at most so many epochs, its learning rate falling as if it went on
 * to the last that the options allow.  With `validate` it stops after
 * `patience` epochs that were no gain.  Returns the number of epochs that is
 * best: the best one's where patience ran out; and otherwise all of them,
 * since what is lost after the best is then less than what falling rates gain.
 */
static int
RunEpochs(Trainer *trainer, int epochs, bool validate, TrainingLog *log)
{
	const ModelOptions *options = &trainer->options;
	int			entities = ExampleStoreEntities(trainer->store);
	int		   *order = palloc_extended(mul_size(entities, sizeof(int)),
										MCXT_ALLOC_HUGE);
	TimestampTz start = GetCurrentTimestamp();
	double		best_gain = 0;
	int			best = 0;

	BeginRun(trainer);
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

		record->learning_rate = optimizer_rate(&trainer->optimizer);
		random_seed_stream(&random, options->seed, STREAM_ORDER | epoch);
		random_shuffle(&random, entities, order);
		for (int first = 0; first < entities; first += options->batch_entities)
			TrainBatch(trainer, epoch, order + first,
					   Min(options->batch_entities, entities - first),
					   &train_loss);
		if (validate)
		{
			SwapAverage(trainer);
			validation = Validate(trainer);
			SwapAverage(trainer);
		}

		record->refit = trainer->refit;
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
						epoch, epochs, trainer->refit ? " on all rows" : "",
						record->train_loss, text.data, record->seconds,
						SecondsSince(start) / epoch * (epochs - epoch))));
		pfree(text.data);

		gain = Gain(trainer, &validation);
		if (best == 0 || isnan(gain) || gain > best_gain)
		{
			best = epoch;
			best_gain = gain;
			log->best = log->count - 1;
		}
		if (epoch - best >= options->patience)
			break;
	}
	SwapAverage(trainer);
	pfree(order);
	return log->records[log->count - 1].epoch < epochs ? best : epochs;
}

/* Everything up to the trained network. */
static void
Train(Trainer *trainer, const Jsonb *given, TimestampTz start,
	  VersionRecord *version, TrainingLog *log)
{
	TrainedNetwork *trained = trainer->trained;
	ModelOptions *options = &trainer->options;
	Source	   *source = &trainer->source;
	Batch	   *batch = &trainer->batch;
	Statistics	statistics;
	StringInfoData json;
	EpochRecord *kept;
	int			codes;
	int			best;

	CatalogOptions(trainer->model, given, options);
	SourceInitDeclared(source, trainer->model, options->weight,
					   &trained->interaction, &trained->entity);
	CheckEntities(source);
	trainer->row_context = AllocSetContextCreate(CurrentMemoryContext,
												 "limaml training rows",
												 ALLOCSET_DEFAULT_SIZES);
	trainer->readers = palloc0(sizeof(ColumnReader) *
							   Max(source->features, 1));
	trainer->meta_readers = palloc0(sizeof(ColumnReader) *
									Max(source->meta_features, 1));
	statistics.features = BeginStatistics(&trained->interaction,
										  source->feature, trainer->readers,
										  options->max_categories);
	statistics.meta_features = BeginStatistics(&trained->entity,
											   source->meta_feature,
											   trainer->meta_readers,
											   options->max_categories);
	ScanRows(trainer, CollectStatistics, &statistics);
	CheckRows(trainer);
	trainer->interaction_tables = FinishStatistics(trainer,
												   &trained->interaction,
												   statistics.features, true);
	trainer->entity_tables = FinishStatistics(trainer, &trained->entity,
											  statistics.meta_features, false);

	trainer->store = ExampleStoreCreate(source->features,
										source->meta_features);
	codes = Max(Max(source->features, source->meta_features), 1);
	ScanRows(trainer, StoreRow, palloc(sizeof(FeatureCode) * codes));

	trained->personalization = options->personalization;
	trained->recency = options->recency;
	trained->support_rows = options->support_rows;
	initStringInfo(&json);
	OptionsToJson(options, &json);
	trained->options = json.data;
	PrepareLearning(trainer);
	batch->tasks = palloc(sizeof(Task) * options->batch_entities);
	batch->meta_codes = palloc_extended(sizeof(FeatureCode) *
										options->batch_entities *
										Max(trained->entity.count, 1),
										MCXT_ALLOC_HUGE);
	batch->x = Numbers((Size) options->batch_entities * trained->entity.width);
	batch->x_gradient = Numbers((Size) options->batch_entities *
								trained->entity.width);

	ereport(NOTICE,
			(errmsg("training on " INT64_FORMAT " interactions of " INT64_FORMAT " entities, validating on " INT64_FORMAT,
					trainer->training_rows, trainer->entities,
					trainer->validation_rows)));
	log->records = palloc0(sizeof(EpochRecord) * options->epochs * 2);
	best = RunEpochs(trainer, options->epochs, trainer->validation_rows > 0,
					 log);
	kept = &log->records[log->best];
	kept->kept = true;
	if (trainer->validation_rows > 0)
	{
		int			kept_at = log->best;

		trainer->refit = true;
		RunEpochs(trainer, best, false, log);
		log->best = kept_at;
	}
	ExampleStoreFree(trainer->store);

	memset(version, 0, sizeof(*version));
	version->network = TrainedNetworkWrite(trained);
	memcpy(version->digest, trained->digest, SAFETENSORS_DIGEST_BYTES);
	version->options = trained->options;
	version->entities = trainer->entities;
	version->interactions = trainer->training_rows + trainer->validation_rows;
	version->epochs = best;
	version->train_loss = kept->train_loss;
	version->validation_loss = kept->validation_loss;
	version->validation_auc = kept->validation_auc;
	version->baseline_auc = kept->baseline_auc;
	version->seconds = SecondsSince(start);
}

PG_FUNCTION_INFO_V1(limaml_train);

/*
 * limaml_train(model text, options jsonb): trains a network on the declared
 * rows and adds it as a version, which is deployed if it is the first.
 * Returns the version and how it did; the row's losses are means per row.
 */
Datum
limaml_train(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *given = PG_GETARG_JSONB_P(1);
	TimestampTz start = GetCurrentTimestamp();
	Trainer    *trainer;
	TrainedNetwork *trained;
	VersionRecord version;
	TrainingLog log = {0};
	RightsScope scope;
	TupleDesc	desc;
	Datum		values[9];
	bool		nulls[9] = {false};
	HeapTuple	result;
	int			number;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	trainer = palloc0(sizeof(Trainer));
	trained = palloc0(sizeof(TrainedNetwork));
	trained->context = CurrentMemoryContext;
	trainer->trained = trained;
	trainer->model = CatalogModel(name, false);
	CatalogCheckOwner(trainer->model, "train");

	EnterOwner(&scope, trainer->model);
	ModelRelationName(trainer->model, trainer->model->embeddings,
					  "embeddings");
	Train(trainer, given, start, &version, &log);
	number = AddVersion(trainer->model, &version);
	for (int e = 0; e < log.count; e++)
		CatalogInsertEpoch(trainer->model, number, &log.records[e]);
	LeaveRights(&scope);

	values[0] = Int32GetDatum(number);
	values[1] = Int32GetDatum(version.epochs);
	values[2] = Int64GetDatum(version.entities);
	values[3] = Int64GetDatum(version.interactions);
	values[4] = Float8GetDatum(version.train_loss);
	values[5] = Float8GetDatum(version.validation_loss);
	values[6] = Float8GetDatum(version.validation_auc);
	values[7] = Float8GetDatum(version.baseline_auc);
	values[8] = Float8GetDatum(version.seconds);
	for (int i = 4; i < 8; i++)
		nulls[i] = isnan(DatumGetFloat8(values[i]));
	SPI_finish();
	result = heap_form_tuple(desc, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(result));
}
