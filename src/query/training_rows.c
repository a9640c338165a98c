/*-------------------------------------------------------------------------
 *
 * training_rows.c
 *	  Reading the rows of a training run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "query/training_rows.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

/* Rows that are fetched from the cursor at a time. */
#define FETCH_ROWS 1000

float *
ZeroNumbers(Size count)
{
	return palloc_extended(mul_size(Max(count, 1), sizeof(float)),
						   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* One row of the training query. */
typedef struct ScannedRow
{
	Datum	   *values;
	bool	   *isnull;
	int			number;			/* from 0, among the entity's rows that count */
	int			rows;			/* that count */
	int			training_rows;	/* of them */
	Interaction interaction;
	int			features_at;	/* index of the first feature */
} ScannedRow;

typedef void (*RowCallback) (TrainingRows *training, const ScannedRow *row,
							 void *state);

/* Reads all rows in order, leaving out those too old to count. */
static void
ScanRows(TrainingRows *training, RowCallback callback, void *state)
{
	const Source *source = &training->source;
	SPIPlanPtr	plan = SPI_prepare(SourceTrainingQuery(source), 0, NULL);
	Portal		portal;
	int			keys = source->key.count;
	Datum		before = (Datum) 0; /* event time of the row before */
	ScannedRow	row;

	if (plan == NULL)
		elog(ERROR, "could not prepare the training query");
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	SourceCheckRow(source, portal->tupDesc, 3 + keys);
	SourceCheckEntity(source, portal->tupDesc,
					  5 + keys + (source->weight.name ? 1 : 0) +
					  source->features);
	row.values = palloc(sizeof(Datum) * portal->tupDesc->natts);
	row.isnull = palloc(sizeof(bool) * portal->tupDesc->natts);
	row.features_at = 4 + keys + (source->weight.name ? 1 : 0);
	for (;;)
	{
		MemoryContext old;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(training->row_context);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			Datum		time;
			int64		number;
			int64		rows;

			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  row.values, row.isnull);
			number = DatumGetInt64(row.values[0]) - 1;
			rows = DatumGetInt64(row.values[1]);
			row.rows = (int) Min(rows, MOST_ENTITY_ROWS);
			if (number < rows - row.rows)
				continue;
			row.number = (int) (number - (rows - row.rows));
			row.training_rows = row.rows -
				(int) floor(training->options->validation_fraction * row.rows);
			row.interaction = SourceReadInteraction(source,
													training->options->loss,
													row.values + 3 + keys,
													row.isnull + 3 + keys,
													row.values + 2);
			time = row.values[2 + keys];
			row.interaction.same_time = row.number > 0 &&
				SourceSameTime(source, time, before);
			before = time;
			callback(training, &row, state);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(training->row_context);

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
		Datum		datum = row->values[first + f];
		bool		isnull = row->isnull[first + f];

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
CollectStatistics(TrainingRows *training, const ScannedRow *row, void *state)
{
	Statistics *statistics = state;
	const Encoder *interaction = training->interaction;

	if (row->number >= row->training_rows)
	{
		training->validation_rows++;
		return;
	}
	if (row->number == 0)
	{
		training->entities++;
		AddStatistics(training->entity, training->meta_readers,
					  statistics->meta_features, row,
					  row->features_at + interaction->count);
	}
	training->training_rows++;
	training->weight += row->interaction.weight;
	if (row->interaction.label > 0.5f)
		training->positives++;
	AddStatistics(interaction, training->readers, statistics->features, row,
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

/*
 * Makes the features of what was gathered; tables are zero.  Says for each
 * whether NULL was among its values.
 */
static bool *
FinishStatistics(const ModelOptions *options, Encoder *encoder,
				 FeatureStatistics *statistics, bool wide)
{
	bool	   *saw_null = palloc0(sizeof(bool) * Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];
		Size		rows;

		if (feature->kind == FEATURE_NUMERIC)
		{
			NumberStatisticsFeature(&statistics[f].number, feature);
			continue;
		}
		ValueCounterVocabulary(statistics[f].values, options->min_count,
							   &feature->vocabulary);
		saw_null[f] = ValueCounterSawNull(statistics[f].values);
		rows = VocabularyRows(&feature->vocabulary);
		feature->size = options->category_size;
		feature->vectors = ZeroNumbers(mul_size(rows, feature->size));
		if (wide)
			feature->wide = ZeroNumbers(rows);
	}
	EncoderLayout(encoder);
	return saw_null;
}

static void
ReadCodes(const Encoder *encoder, ColumnReader *readers,
		  const ScannedRow *row, int first, FeatureCode *codes)
{
	for (int f = 0; f < encoder->count; f++)
		codes[f] = ReadFeature(&readers[f], &encoder->features[f],
							   row->values[first + f],
							   row->isnull[first + f]);
}

static void
StoreRow(TrainingRows *training, const ScannedRow *row, void *state)
{
	const Encoder *interaction = training->interaction;
	FeatureCode *codes = state;

	if (row->number == 0)
	{
		ReadCodes(training->entity, training->meta_readers, row,
				  row->features_at + interaction->count, codes);
		ExampleStoreEntity(training->store, row->rows, row->training_rows,
						   codes);
	}
	ReadCodes(interaction, training->readers, row, row->features_at, codes);
	ExampleStoreAdd(training->store, &row->interaction, codes);
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
CheckRows(const TrainingRows *training)
{
	const Source *source = &training->source;
	int64		skipped = QueryCount(SourceSkippedQuery(source));

	if (skipped > 0)
		ereport(NOTICE,
				(errmsg_plural("skipped " INT64_FORMAT " row of %s without a key, label or event time",
							   "skipped " INT64_FORMAT " rows of %s without a key, label or event time",
							   skipped, skipped, source->interactions)));
	if (training->training_rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("relation %s has no interactions to train on",
						source->interactions),
				 errdetail("An interaction has a key, a label and an event time.")));
	if (training->weight == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("weight \"%s\" is 0 in all " INT64_FORMAT " training rows",
						source->weight.name, training->training_rows)));
	if (training->options->loss == LOSS_BINARY &&
		(training->positives == 0 ||
		 training->positives == training->training_rows))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("label \"%s\" is %d in all " INT64_FORMAT " training rows",
						source->label.name, training->positives > 0 ? 1 : 0,
						training->training_rows),
				 errhint("Learning to tell them apart takes rows of both classes.")));
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
FindNthEntity(TrainingRows *training, const ScannedRow *row, void *state)
{
	NthEntity  *nth = state;
	const EntityKey *key = &training->source.key;

	if (row->number == 0 && nth->met++ == nth->wanted)
	{
		MemoryContext old = MemoryContextSwitchTo(nth->context);

		nth->text = KeyText(key, row->values + 2);
		MemoryContextSwitchTo(old);
	}
}

char *
TrainingRowsEntity(TrainingRows *training, int e)
{
	NthEntity	nth = {.wanted = e,.context = CurrentMemoryContext};

	/* keys are not kept for this: the rows are read once more */
	ScanRows(training, FindNthEntity, &nth);
	return nth.text ? nth.text : pstrdup("an entity");
}

void
TrainingRowsRead(TrainingRows *training, const Model *model,
				 const ModelOptions *options, Encoder *interaction,
				 Encoder *entity)
{
	Source	   *source = &training->source;
	Statistics	statistics;
	int			codes;

	memset(training, 0, sizeof(*training));
	training->options = options;
	training->interaction = interaction;
	training->entity = entity;
	SourceInitDeclared(source, model, options->weight, interaction, entity);
	CheckEntities(source);
	training->row_context = AllocSetContextCreate(CurrentMemoryContext,
												  "limaml training rows",
												  ALLOCSET_DEFAULT_SIZES);
	training->readers = palloc0(sizeof(ColumnReader) *
								Max(source->features, 1));
	training->meta_readers = palloc0(sizeof(ColumnReader) *
									 Max(source->meta_features, 1));
	statistics.features = BeginStatistics(interaction, source->feature,
										  training->readers,
										  options->max_categories);
	statistics.meta_features = BeginStatistics(entity, source->meta_feature,
											   training->meta_readers,
											   options->max_categories);
	ScanRows(training, CollectStatistics, &statistics);
	CheckRows(training);
	training->saw_null = FinishStatistics(options, interaction,
										  statistics.features, true);
	training->meta_saw_null = FinishStatistics(options, entity,
											   statistics.meta_features,
											   false);

	training->store = ExampleStoreCreate(source->features,
										 source->meta_features);
	codes = Max(Max(source->features, source->meta_features), 1);
	ScanRows(training, StoreRow, palloc(sizeof(FeatureCode) * codes));

	/* a view with a volatile function may return other rows this time */
	if (ExampleStoreEntities(training->store) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("relation %s had interactions when it was first read, and has none when read again",
						source->interactions)));
}
