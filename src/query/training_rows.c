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
#include "common/hashfn.h"
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

/* A number from 0 to 1 that follows from an entity's hash. */
static double
Chance(uint64 hash, uint64 of_what)
{
	uint64		bits = hash_bytes_extended((const unsigned char *) &hash,
										   sizeof(hash), of_what);

	return (bits >> 11) * 0x1.0p-53;
}

static bool
IsLeftOut(const RowSplit *split, uint64 hash)
{
	return Chance(hash, 1) < split->cold;
}

/* How many of so many rows are left when a share of them is taken. */
static int
RowsLeft(int64 rows, double share, double chance)
{
	return (int) Min(floor((1 - share) * rows + chance), rows);
}

/*
 * Parts an entity's rows; those of the oldest that are too many to train with
 * are in no part, and their number is returned.
 */
static int64
PartRows(const RowSplit *split, int most, int64 rows, uint64 hash,
		 ExampleParts *parts)
{
	int			learnable = RowsLeft(rows, split->test, Chance(hash, 2));
	int			dropped = Max(learnable - most, 0);

	parts->rows = (int) (rows - dropped);
	parts->learnable = learnable - dropped;
	parts->training = RowsLeft(parts->learnable, split->validation,
							   Chance(hash, 3));
	return dropped;
}

void
TrainingRowsScan(TrainingRows *training, const char *sql, bool tested,
				 ScanEntities which, RowCallback callback, void *state)
{
	const Source *source = &training->source;
	MemoryContext caller = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare(sql, 0, NULL);
	Portal		portal;
	int			keys = source->key.count;
	int			label;
	Datum		before = (Datum) 0; /* event time of the row before */
	ScannedRow	row = {0};

	/* SPI leaves each time in a context of its own */
	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	MemoryContextSwitchTo(caller);
	row.key_at = SOURCE_ROW_KEY;
	label = row.key_at + keys + 1;
	row.features_at = label + SourceFeaturesAt(source);
	row.extra_at = row.features_at + source->features + source->meta_features;
	SourceCheckRow(source, portal->tupDesc, label);
	SourceCheckEntity(source, portal->tupDesc,
					  row.features_at + source->features + 1);
	row.values = palloc(sizeof(Datum) * portal->tupDesc->natts);
	row.isnull = palloc(sizeof(bool) * portal->tupDesc->natts);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		MemoryContextSwitchTo(training->row_context);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			Datum		time;
			int64		number;
			int64		rows;
			int64		dropped;
			uint64		hash;

			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  row.values, row.isnull);
			number = DatumGetInt64(row.values[0]) - 1;
			rows = DatumGetInt64(row.values[1]);
			hash = (uint64) DatumGetInt64(row.values[2]);
			if (rows > PG_INT32_MAX)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("%s has more than %d interactions",
								KeyText(&source->key,
										row.values + row.key_at),
								PG_INT32_MAX)));
			if (which != SCAN_ALL && (which == SCAN_LEFT_OUT) !=
				IsLeftOut(&training->split, hash))
			{
				if (number == 0)
					training->left_out++;
				continue;
			}
			row.parts.hash = hash;
			if (tested)
			{
				row.parts.rows = (int) rows;
				row.parts.learnable = row.parts.training = (int)
					(rows - DatumGetInt64(row.values[row.extra_at]));
				dropped = 0;
			}
			else
				dropped = PartRows(&training->split, training->most_rows,
								   rows, hash, &row.parts);
			if (number < dropped)
				continue;
			row.first = number == dropped;
			row.number = (int) (number - dropped);
			row.interaction = SourceReadInteraction(source,
													training->options->loss,
													row.values + label,
													row.isnull + label,
													row.values + row.key_at);
			if (training->negatives)
			{
				int			at = label + SourceItemAt(source);

				row.interaction.item = ItemOf(training->negatives->items,
											  row.values[at], row.isnull[at]);
			}
			time = row.values[label - 1];
			row.interaction.same_time = !row.first &&
				SourceSameTime(source, time, before);
			before = time;
			callback(training, &row, state);

			/* what an array holds may be large */
			MemoryContextReset(training->row_context);
		}
		MemoryContextSwitchTo(caller);

		/* the last time outlives its row, for the first of the next fetch */
		if (before != (Datum) 0)
			before = datumCopy(before, source->event_time.by_value,
							   source->event_time.length);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	MemoryContextSwitchTo(caller);
}

/* What the first pass gathers about a feature. */
typedef struct FeatureStatistics
{
	NumberStatistics number;
	VectorStatistics vector;
	ValueCounter *values;
} FeatureStatistics;

typedef struct Statistics
{
	FeatureStatistics *features;
	FeatureStatistics *meta_features;
} Statistics;

/* Counts every value; where there is none, NULL. */
static void
AddCategories(const Feature *feature, ColumnReader *reader,
			  ValueCounter *counter, Datum datum, bool isnull)
{
	CategoryValue *values;
	int			count = ReadCategories(reader, feature, datum, isnull,
									   &values);
	CategoryValue none = {.isnull = true};

	if (count == 0)
		ValueCounterAdd(counter, &none);
	for (int i = 0; i < count; i++)
		ValueCounterAdd(counter, &values[i]);
}

static void
AddStatistics(const Encoder *encoder, int count, ColumnReader *readers,
			  FeatureStatistics *statistics, const ScannedRow *row, int first)
{
	for (int f = 0; f < count; f++)
	{
		const Feature *feature = &encoder->features[f];
		Datum		datum = row->values[first + f];
		bool		isnull = row->isnull[first + f];

		switch (feature->kind)
		{
			case FEATURE_NUMERIC:
				NumberStatisticsAdd(&statistics[f].number,
									ReadNumber(&readers[f], datum, isnull));
				break;
			case FEATURE_CATEGORY:
				{
					CategoryValue value;

					ReadCategory(&readers[f], feature->vocabulary.is_integer,
								 datum, isnull, &value);
					ValueCounterAdd(statistics[f].values, &value);
					break;
				}
			case FEATURE_CATEGORIES:
				AddCategories(feature, &readers[f], statistics[f].values,
							  datum, isnull);
				break;
			case FEATURE_VECTOR:
				VectorStatisticsAdd(&statistics[f].vector, &readers[f],
									feature, datum, isnull);
				break;
		}
	}
}

static void
CollectStatistics(TrainingRows *training, const ScannedRow *row, void *state)
{
	Statistics *statistics = state;
	int			features = training->source.features;

	if (row->number < row->parts.learnable && training->with_id &&
		(row->number < row->parts.training || training->split.all_train))
	{
		CategoryValue value;

		ReadKey(&training->key_reader, row->values + row->key_at, &value);
		ValueCounterAdd(statistics->features[features].values, &value);
	}
	if (row->number >= row->parts.training)
	{
		if (row->number < row->parts.learnable)
			training->validation_rows++;
		return;
	}
	if (row->first)
	{
		training->entities++;
		AddStatistics(&training->entity, training->entity.count,
					  training->meta_readers, statistics->meta_features, row,
					  row->features_at + features);
	}
	training->training_rows++;
	training->weight += row->interaction.weight;
	if (row->interaction.label > 0.5f)
		training->positives++;
	AddStatistics(&training->interaction, features, training->readers,
				  statistics->features, row, row->features_at);
}

/* Empty statistics, for features of these columns. */
static FeatureStatistics *
BeginStatistics(Encoder *encoder, int max_categories)
{
	FeatureStatistics *statistics = palloc0(sizeof(FeatureStatistics) *
											Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
	{
		statistics[f].vector.context = CurrentMemoryContext;
		if (HasTable(&encoder->features[f]))
			statistics[f].values =
				ValueCounterCreate(encoder->features[f].vocabulary.is_integer,
								   max_categories);
	}
	return statistics;
}

/* Readers of columns whose features are known. */
static ColumnReader *
TrainedReaders(const Encoder *encoder, const SourceColumn *columns, int count)
{
	ColumnReader *readers = palloc0(sizeof(ColumnReader) * Max(count, 1));

	for (int f = 0; f < count; f++)
		FeatureReaderInit(&readers[f], &encoder->features[f],
						  columns[f].type);
	return readers;
}

/* The same of declared columns, which tell what their categories hold. */
static ColumnReader *
DeclaredReaders(Encoder *encoder, const SourceColumn *columns, int count)
{
	for (int f = 0; f < count; f++)
		if (HasTable(&encoder->features[f]))
			encoder->features[f].vocabulary.is_integer =
				encoder->features[f].kind == FEATURE_CATEGORIES ?
				CategoriesAreInteger(columns[f].type) :
				CategoryIsInteger(columns[f].type);
	return TrainedReaders(encoder, columns, count);
}

/*
 * Makes the features of what was gathered.  Says for each whether NULL was
 * among its values.
 */
static bool *
FinishStatistics(const ModelOptions *options, Encoder *encoder,
				 FeatureStatistics *statistics)
{
	bool	   *saw_null = palloc0(sizeof(bool) * Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		if (feature->kind == FEATURE_NUMERIC)
		{
			NumberStatisticsFeature(&statistics[f].number, feature);
			continue;
		}
		if (feature->kind == FEATURE_VECTOR)
		{
			VectorStatisticsFeature(&statistics[f].vector, feature);
			continue;
		}
		ValueCounterVocabulary(statistics[f].values,
							   strcmp(feature->name, ENTITY_KEY_FEATURE) == 0 ?
							   1 : options->min_count, &feature->vocabulary);
		saw_null[f] = ValueCounterSawNull(statistics[f].values);
		feature->inert = !ValueCounterVaried(statistics[f].values);
	}
	return saw_null;
}

/* The feature that the entity itself is. */
static void
AddEntityKey(TrainingRows *training)
{
	Encoder    *encoder = &training->interaction;
	Feature    *feature;

	for (int f = 0; f < encoder->count; f++)
		if (strcmp(encoder->features[f].name, ENTITY_KEY_FEATURE) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_RESERVED_NAME),
					 errmsg("feature \"%s\" has the name that the entity itself has for the option \"personalization\" \"id\"",
							ENTITY_KEY_FEATURE)));
	encoder->features = encoder->count == 0 ? palloc(sizeof(Feature)) :
		repalloc(encoder->features, sizeof(Feature) * (encoder->count + 1));
	feature = &encoder->features[encoder->count++];
	memset(feature, 0, sizeof(*feature));
	feature->name = ENTITY_KEY_FEATURE;
	feature->kind = FEATURE_CATEGORY;
	feature->vocabulary.is_integer = training->key_reader.is_integer;
}

/* Their lists go to the store. */
static void
ReadCodes(TrainingRows *training, const Encoder *encoder, int count,
		  ColumnReader *readers, const ScannedRow *row, int first,
		  FeatureCode *codes)
{
	ReadColumns(readers, encoder, count, row->values + first,
				row->isnull + first, codes,
				ExampleStoreLists(training->store));
}

void
ReadInteractionCodes(TrainingRows *training, const ScannedRow *row,
					 FeatureCode *codes)
{
	int			features = training->source.features;

	ReadCodes(training, &training->interaction, features, training->readers,
			  row, row->features_at, codes);
	if (training->with_id)
	{
		CategoryValue value;

		ReadKey(&training->key_reader, row->values + row->key_at, &value);
		codes[features].row =
			VocabularyRow(&training->interaction.features[features].vocabulary,
						  &value);
	}
}

void
ReadEntityCodes(TrainingRows *training, const ScannedRow *row,
				FeatureCode *codes)
{
	ReadCodes(training, &training->entity, training->entity.count,
			  training->meta_readers, row,
			  row->features_at + training->source.features, codes);
}

static void
StoreRow(TrainingRows *training, const ScannedRow *row, void *state)
{
	FeatureCode *codes = state;

	if (row->first)
	{
		ExampleParts parts = row->parts;

		if (training->split.all_train)
			parts.training = parts.learnable;
		ExampleStoreEntity(training->store, parts);
		ReadEntityCodes(training, row, codes);
		ExampleStoreMeta(training->store, codes);
	}
	ReadInteractionCodes(training, row, codes);
	ExampleStoreAdd(training->store, &row->interaction, codes);
}

static int64
QueryCount(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		isnull;

	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not count the rows left out");
	MemoryContextSwitchTo(caller);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

void
TrainingRowsCheckEntities(const Source *source)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		key[INDEX_MAX_KEYS];
	bool		isnull;

	if (source->entities == NULL)
		return;
	if (SPI_execute(SourceDuplicatesQuery(source), true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for duplicate entities");
	MemoryContextSwitchTo(caller);
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

/* An error where all training rows are of one class. */
static void
CheckClasses(const TrainingRows *training, int negatives)
{
	const Source *source = &training->source;
	bool		positive = training->positives > 0;

	if (training->options->loss != LOSS_BINARY ||
		(positive && (training->positives < training->training_rows ||
					  negatives > 0)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 source->label.name ?
			 errmsg("label \"%s\" is %d in all " INT64_FORMAT " training rows",
					source->label.name, positive ? 1 : 0,
					training->training_rows) :
			 errmsg("all " INT64_FORMAT " training rows are positives",
					training->training_rows),
			 !positive ?
			 errhint("Learning to tell them apart takes rows of both classes.") :
			 source->item.name ?
			 errhint("Learning to tell them apart takes rows of both classes: set the option \"negatives\" to more than 0.") :
			 errhint("Learning to tell them apart takes rows of both classes. Where a table holds only what happened, the option \"items\" names the relation of candidates that negatives are drawn from.")));
}

/* Negatives per positive row; where nobody says it depends on the labels. */
static int
ChooseNegatives(const TrainingRows *training)
{
	const ModelOptions *options = training->options;

	if (options->negatives != OPTION_UNSET)
		return options->negatives;
	return options->items && options->loss == LOSS_BINARY &&
		training->positives == training->training_rows ? DEFAULT_NEGATIVES : 0;
}

/* What negatives are drawn from, where the model has items. */
static void
PrepareItems(TrainingRows *training)
{
	const ModelOptions *options = training->options;
	int			negatives = options->negatives != OPTION_UNSET ?
		options->negatives : DEFAULT_NEGATIVES;

	training->most_rows = MOST_ENTITY_ROWS;
	if (options->items == NULL)
		return;
	SourceAddItems(&training->source, options->items, options->item_key);
	training->most_rows = MOST_ENTITY_ROWS / (1 + negatives);
}

static void
ReadItems(TrainingRows *training, int negatives)
{
	const ModelOptions *options = training->options;

	if (options->items == NULL)
		return;
	training->negatives =
		NegativesCreate(ItemsRead(&training->source, &training->interaction,
								  negatives > 0 ? options->negative_sampling :
								  SAMPLING_UNIFORM, true),
						negatives, options->seed);
}

/* Only what items are drawn by is worth keeping. */
static void
ForgetCounts(const TrainingRows *training, Encoder *encoder, bool may_keep)
{
	const char *item = training->source.item.name;

	for (int f = 0; f < encoder->count; f++)
		if (!(may_keep && item &&
			  training->options->negative_sampling == SAMPLING_POPULARITY &&
			  strcmp(encoder->features[f].name, item) == 0))
			encoder->features[f].vocabulary.counts = NULL;
}

static void
CheckRows(const TrainingRows *training, bool say_skipped)
{
	const Source *source = &training->source;
	int64		skipped = say_skipped ? QueryCount(SourceSkippedQuery(source)) : 0;

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
	CheckClasses(training, ChooseNegatives(training));
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

	if (row->first && nth->met++ == nth->wanted)
	{
		MemoryContext old = MemoryContextSwitchTo(nth->context);

		nth->text = KeyText(key, row->values + row->key_at);
		MemoryContextSwitchTo(old);
	}
}

char *
TrainingRowsEntity(TrainingRows *training, int e)
{
	NthEntity	nth = {.wanted = e,.context = CurrentMemoryContext};

	/* keys are not kept for this: the rows are read once more */
	TrainingRowsScan(training, SourceRowsQuery(&training->source, NULL), false,
					 SCAN_TRAINING, FindNthEntity, &nth);
	return nth.text ? nth.text : pstrdup("an entity");
}

void
TrainingRowsRead(TrainingRows *training, const Model *model,
				 const ModelOptions *options, const RowSplit *split,
				 bool with_id, bool check)
{
	Source	   *source = &training->source;
	Encoder    *interaction = &training->interaction;
	Encoder    *entity = &training->entity;
	Statistics	statistics;
	char	   *sql;

	memset(training, 0, sizeof(*training));
	training->options = options;
	training->split = *split;
	training->with_id = with_id;
	SourceInitDeclared(source, model, options->weight, interaction, entity);
	PrepareItems(training);
	TrainingRowsCheckEntities(source);
	sql = SourceRowsQuery(source, NULL);
	training->row_context = AllocSetContextCreate(CurrentMemoryContext,
												  "limaml training rows",
												  ALLOCSET_DEFAULT_SIZES);
	training->readers = DeclaredReaders(interaction, source->feature,
										source->features);
	training->meta_readers = DeclaredReaders(entity, source->meta_feature,
											 source->meta_features);
	if (with_id)
	{
		KeyReaderInit(&training->key_reader, &source->key);
		AddEntityKey(training);
	}
	for (;;)
	{
		statistics.features = BeginStatistics(interaction,
											  options->max_categories);
		statistics.meta_features = BeginStatistics(entity,
												   options->max_categories);
		TrainingRowsScan(training, sql, false, SCAN_TRAINING,
						 CollectStatistics, &statistics);
		if (training->left_out == 0 ||
			training->entities + training->left_out >= FEWEST_ENTITIES_TO_LEAVE_OUT)
			break;
		training->split.cold = 0;
		training->entities = training->left_out = 0;
		training->training_rows = training->validation_rows = 0;
		training->positives = 0;
		training->weight = 0;
	}
	CheckRows(training, check);
	training->saw_null = FinishStatistics(options, interaction,
										  statistics.features);
	training->meta_saw_null = FinishStatistics(options, entity,
											   statistics.meta_features);
	ForgetCounts(training, interaction, true);
	ForgetCounts(training, entity, false);
	ReadItems(training, ChooseNegatives(training));

	training->store = ExampleStoreCreate(interaction->count, entity->count);
	TrainingRowsScan(training, sql, false, SCAN_TRAINING, StoreRow,
					 palloc(sizeof(FeatureCode) *
							(interaction->count + entity->count + 1)));

	/* a view with a volatile function may return other rows this time */
	if (ExampleStoreEntities(training->store) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("relation %s had interactions when it was first read, and has none when read again",
						source->interactions)));
}

void
TrainingRowsInit(TrainingRows *training, const Model *model,
				 const ModelOptions *options, const TrainedNetwork *trained,
				 const RowSplit *split)
{
	int			features = CandidateFeatures(trained);
	Encoder		encoders[2] = {trained->interaction, trained->entity};
	char	  **names[2];

	memset(training, 0, sizeof(*training));
	training->options = options;
	training->split = *split;
	training->interaction = trained->interaction;
	training->entity = trained->entity;
	training->with_id = features < trained->interaction.count;
	for (int i = 0; i < 2; i++)
	{
		names[i] = palloc(sizeof(char *) * Max(encoders[i].count, 1));
		for (int f = 0; f < encoders[i].count; f++)
			names[i][f] = encoders[i].features[f].name;
	}
	SourceInit(&training->source, model, features, names[0],
			   trained->entity.count, names[1], options->weight);
	PrepareItems(training);
	if (training->with_id)
	{
		KeyReaderInit(&training->key_reader, &training->source.key);
		KeyReaderCheck(&training->key_reader,
					   &training->interaction.features[features].vocabulary);
	}
	training->readers = TrainedReaders(&training->interaction,
									   training->source.feature, features);
	training->meta_readers = TrainedReaders(&training->entity,
											training->source.meta_feature,
											trained->entity.count);
	training->row_context = AllocSetContextCreate(CurrentMemoryContext,
												  "limaml rows",
												  ALLOCSET_DEFAULT_SIZES);
	training->store = ExampleStoreCreate(trained->interaction.count,
										 trained->entity.count);
	TrainingRowsCheckEntities(&training->source);
	ReadItems(training, options->negatives);
}
