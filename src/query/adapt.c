/*-------------------------------------------------------------------------
 *
 * adapt.c
 *	  Reading entities' newest interactions, and adapting on them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "lap.h"
#include "math/adapt.h"
#include "miscadmin.h"
#include "model/statement.h"
#include "nodes/params.h"
#include "query/adapt.h"
#include "query/key_places.h"
#include "query/row_tapes.h"
#include "nodes/plannodes.h"
#include "storage/shmem.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

/* Entities adapted at a time, where nobody says otherwise. */
#define PART_ENTITIES 500

/* Bytes that the encoded rows of entities that adapt together may take. */
#define TOGETHER_SIZE (4 * 1024 * 1024)

/*
 * Takes the rows of a batch as the executor finds them: all stay in memory, or
 * where they are too many all wait on disk for their part.
 */
typedef struct RowReceiver
{
	DestReceiver receiver;		/* first, for it is what the executor knows */
	Adapter    *adapter;
	int			count;			/* entities of the batch */
	Datum	  **key;
	KeyPlaces  *places;			/* NULL where the query tells the place */
	KeptRows   *kept;			/* of each, unless they wait on disk; else of
								 * each of the part that is taken back */
	MemoryContext kept_context; /* of what is kept */
	KeptRow    *row;			/* the one that is being read */
	RowTapes   *tapes;			/* one a part; NULL while all are in memory */
	int64	   *dropped;		/* of each, rows that never came to a tape */
	MemoryContext row_context;
	ErrorContextCallback *error_context;	/* outside of the query */
} RowReceiver;

/*
 * A plan over arrays of keys, or over one key; the adapter's as long as it is
 * there.
 */
static SPIPlanPtr
PreparePlan(const Adapter *adapter, const char *sql, bool arrays, int options)
{
	const Source *source = &adapter->source;
	Oid			types[INDEX_MAX_KEYS];
	MemoryContext old;
	SPIPlanPtr	plan;

	for (int k = 0; k < source->key.count; k++)
	{
		types[k] = source->key.columns[k].type;
		if (!arrays)
			continue;
		types[k] = get_array_type(types[k]);
		if (!OidIsValid(types[k]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("could not find array type for data type %s",
							format_type_be(source->key.columns[k].type))));
	}
	old = MemoryContextSwitchTo(adapter->context);
	plan = KeptPlan(sql, source->key.count, types, options);
	MemoryContextSwitchTo(old);
	return plan;
}

static char **
FeatureNames(const Encoder *encoder, int count)
{
	char	  **names = palloc(sizeof(char *) * Max(count, 1));

	for (int f = 0; f < count; f++)
		names[f] = encoder->features[f].name;
	return names;
}

static ColumnReader *
FeatureReaders(const Encoder *encoder, const SourceColumn *columns, int count)
{
	ColumnReader *readers = palloc0(sizeof(ColumnReader) * Max(count, 1));

	for (int f = 0; f < count; f++)
		FeatureReaderInit(&readers[f], &encoder->features[f],
						  columns[f].type);
	return readers;
}

static float *
Numbers(Size rows, Size columns)
{
	return palloc_extended(mul_size(Max(mul_size(rows, columns), 1),
									sizeof(float)), MCXT_ALLOC_HUGE);
}

void
AdapterPrepare(Adapter *adapter, const TrainedNetwork *trained, int together)
{
	const NetworkShape *shape = &trained->shape;
	Size		row = sizeof(float) *
		((Size) trained->interaction.width + network_half_size(shape));
	int			most = Max(trained->support_rows, 1) *
		(1 + adapter->negatives);
	int			rows;

	together = Max(Min(together, (int) (TOGETHER_SIZE / row / most)), 1);
	rows = together * most;
	adapter->trained = trained;
	adapter->together = together;
	adapter->items = NULL;
	adapter->codes = palloc(sizeof(FeatureCode) *
							Max(trained->interaction.count, 1));
	adapter->context = CurrentMemoryContext;
	adapter->form = (RowForm) {.trained = trained};
	adapter->lists = (CodeLists) {.context = CurrentMemoryContext};
	adapter->x = Numbers(together, trained->entity.width);
	adapter->z = Numbers(rows, trained->interaction.width);
	adapter->half = Numbers(rows, network_half_size(shape));
	adapter->label = Numbers(rows, 1);
	adapter->weight = Numbers(rows, 1);
	adapter->offset = Numbers(rows, 1);
	adapter->same_time = palloc(sizeof(bool) * rows);
	adapter->sampled = palloc(sizeof(bool) * rows);
	adapter->memory = Numbers(adapt_size(shape, together, most), 1);
}

void
AdapterInit(Adapter *adapter, const Model *model,
			const TrainedNetwork *trained, int together)
{
	int			features = CandidateFeatures(trained);
	ModelOptions options;

	/* which column weighs rows is the version's matter, not the model's */
	CatalogVersionOptions(model, trained->options, &options);
	SourceInit(&adapter->source, model, features,
			   FeatureNames(&trained->interaction, features),
			   trained->entity.count,
			   FeatureNames(&trained->entity, trained->entity.count),
			   trained->weight);
	adapter->negatives = options.negatives;
	adapter->sampling = options.negative_sampling;
	adapter->seed = options.seed;
	if (options.negatives > 0)
		SourceAddItems(&adapter->source, options.items, options.item_key);
	AdapterPrepare(adapter, trained, together);
	RowFormInit(&adapter->form, trained, &adapter->source.event_time);
	adapter->readers = FeatureReaders(&trained->interaction,
									  adapter->source.feature, features);
	adapter->meta_readers = FeatureReaders(&trained->entity,
										   adapter->source.meta_feature,
										   trained->entity.count);
	adapter->batch = AllocSetContextCreate(adapter->context, "limaml batch",
										   ALLOCSET_DEFAULT_SIZES);
	adapter->part = AllocSetContextCreate(adapter->context, "limaml part",
										  ALLOCSET_DEFAULT_SIZES);
	adapter->part_entities = PART_ENTITIES;
	adapter->kept_size = 0;
	adapter->rows_plan = NULL;
	adapter->one_plan = NULL;
	adapter->many_plan = NULL;
	adapter->entities_plan = NULL;
	adapter->reading_seconds = 0;
	adapter->adapting_seconds = 0;
	adapter->rows_read = 0;
}

/* The key columns' values as one array each. */
static Datum *
KeyArrays(const Adapter *adapter, int count, Datum **key)
{
	const EntityKey *columns = &adapter->source.key;
	Datum	   *arrays = palloc(sizeof(Datum) * columns->count);

	for (int k = 0; k < columns->count; k++)
	{
		const KeyColumn *column = &columns->columns[k];

		arrays[k] = PointerGetDatum(construct_array(key[k], count,
													column->type,
													column->typlen,
													column->typbyval,
													column->typalign));
	}
	return arrays;
}

void
UnknownEntityCodes(const Encoder *encoder, FeatureCode *codes)
{
	for (int f = 0; f < encoder->count; f++)
	{
		if (encoder->features[f].kind == FEATURE_NUMERIC)
			codes[f].number = get_float4_nan();
		else
			codes[f].row = VOCABULARY_NULL_ROW;
	}
}

void
EntityCodes(Adapter *adapter, int count, Datum **key, bool read_only,
			FeatureCode *codes, CodeLists *lists)
{
	const Encoder *encoder = &adapter->trained->entity;
	MemoryContext old = CurrentMemoryContext;
	MemoryContext row_context;
	bool	   *met;

	/* until it is met, an entity is one about which nothing is known */
	for (int i = 0; i < count; i++)
		UnknownEntityCodes(encoder, codes + i * encoder->count);
	if (encoder->count == 0)
		return;

	if (adapter->entities_plan == NULL)
		adapter->entities_plan = PreparePlan(adapter,
											 SourceEntitiesQuery(&adapter->source),
											 true, 0);
	MemoryContextSwitchTo(old);
	met = palloc0(sizeof(bool) * count);
	row_context = AllocSetContextCreate(old, "limaml entity",
										ALLOCSET_DEFAULT_SIZES);
	if (SPI_execute_plan(adapter->entities_plan,
						 KeyArrays(adapter, count, key), NULL, read_only,
						 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the entities");
	MemoryContextSwitchTo(old);
	SourceCheckEntity(&adapter->source, SPI_tuptable->tupdesc, 2);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[r];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int			i = (int) DatumGetInt64(SPI_getbinval(tuple, desc, 1,
														  &isnull)) - 1;

		if (met[i])
		{
			Datum		values[INDEX_MAX_KEYS];

			for (int k = 0; k < adapter->source.key.count; k++)
				values[k] = key[k][i];
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("entities relation %s has more than one row of %s",
							adapter->source.entities,
							KeyText(&adapter->source.key, values))));
		}
		met[i] = true;
		MemoryContextSwitchTo(row_context);
		for (int f = 0; f < encoder->count; f++)
		{
			Datum		datum = SPI_getbinval(tuple, desc, 2 + f, &isnull);

			codes[i * encoder->count + f] =
				ReadFeature(&adapter->meta_readers[f], &encoder->features[f],
							datum, isnull, lists);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	MemoryContextDelete(row_context);
	SPI_freetuptable(SPI_tuptable);
}

/* An error where an entity has no embedding to speak of. */
static void
CheckAdapted(const Adapter *adapter, const Datum *key,
			 const Adaptation *adaptation, const float *embedding)
{
	if (adaptation->diverged_at)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the inner loop diverged%s at step %d",
						key ? psprintf(" for %s",
									   KeyText(&adapter->source.key, key)) : "",
						adaptation->diverged_at),
				 errhint("Train the model with a lower option \"inner_rate\".")));
	for (int i = 0; i < network_embedding_size(&adapter->trained->shape); i++)
		if (!isfinite(embedding[i]))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("the embedding%s is not finite",
							OfEntity(&adapter->source, key))));
}

void
AdapterReadItems(Adapter *adapter, bool read_only)
{
	MemoryContext old;

	if (adapter->negatives == 0 || adapter->items)
		return;
	old = MemoryContextSwitchTo(adapter->context);
	adapter->items = ItemsRead(&adapter->source,
							   &adapter->trained->interaction,
							   adapter->sampling, read_only);
	MemoryContextSwitchTo(old);
}

int
AdapterPartEntities(const Adapter *adapter, Size memory)
{
	const TrainedNetwork *trained = adapter->trained;
	Size		entity = KeptRowsSize(&adapter->form) + sizeof(AdaptedEntity) +
		network_embedding_size(&trained->shape) * sizeof(float) +
		trained->entity.count * sizeof(FeatureCode) +
		(adapter->items ? adapter->items->count / BITS_PER_BYTE : 0);

	return (int) Max(Min(memory / entity, PG_INT32_MAX), 1);
}

/* Lets a row wait for its part. */
static void
SpillRow(RowReceiver *rows, int place, const KeptRow *row)
{
	int			part_entities = rows->adapter->part_entities;

	RowTapeWrite(rows->tapes, place / part_entities,
				 Int32GetDatum(place % part_entities), row);
}

/* Lets all rows wait for their parts: those that were kept, and any to come. */
static void
SpillRows(RowReceiver *rows)
{
	Adapter    *adapter = rows->adapter;
	int			parts = (rows->count - 1) / adapter->part_entities + 1;
	MemoryContext old = MemoryContextSwitchTo(adapter->batch);

	rows->tapes = RowTapesCreate(&adapter->form, parts, adapter->kept_size / 8,
								 sizeof(int32), true);
	rows->dropped = palloc(mul_size(sizeof(int64), rows->count));
	for (int place = 0; place < rows->count; place++)
	{
		const KeptRows *kept = &rows->kept[place];

		for (int i = 0; i < kept->count; i++)
			SpillRow(rows, place, kept->rows[i]);
		rows->dropped[place] = kept->interactions - kept->count;
	}
	MemoryContextReset(rows->kept_context);
	rows->kept = NULL;
	MemoryContextSwitchTo(old);
}

/* Takes back the rows of a part of so many. */
static void
TakeSpilledRows(RowReceiver *rows, int part, int count)
{
	Adapter    *adapter = rows->adapter;
	MemoryContext old = MemoryContextSwitchTo(rows->row_context);
	Datum		place;

	rows->kept = NewKeptRows(&adapter->form, rows->kept_context, count);
	for (int i = 0; i < count; i++)
		rows->kept[i].interactions =
			rows->dropped[part * adapter->part_entities + i];
	while (RowTapeRead(rows->tapes, part, &place, rows->row))
	{
		CHECK_FOR_INTERRUPTS();
		KeepRow(&adapter->form, &rows->kept[DatumGetInt32(place)], rows->row);
		MemoryContextReset(rows->row_context);
	}
	MemoryContextSwitchTo(old);
}

static void
StartRows(DestReceiver *self, int operation, TupleDesc desc)
{
	RowReceiver *rows = (RowReceiver *) self;
	ErrorContextCallback *inner = error_context_stack;

	error_context_stack = rows->error_context;
	if (rows->places)
		SourceCheckKey(&rows->adapter->source, desc);
	SourceCheckRow(&rows->adapter->source, desc, 2);
	error_context_stack = inner;
}

/* All of a row but its features. */
static void
ReadInteraction(Adapter *adapter, const Datum *values, const bool *isnull,
				const Datum *key, KeptRow *row)
{
	const Source *source = &adapter->source;
	int			item = 1 + SourceItemAt(source);
	Interaction interaction =
		SourceReadInteraction(source, adapter->trained->shape.loss,
							  values + 1, isnull + 1, key);

	/* in the form that equal times share */
	row->time = source->event_time.length == -1 ?
		PointerGetDatum(PG_DETOAST_DATUM(values[0])) : values[0];
	row->item = adapter->items ?
		ItemOf(adapter->items, values[item], isnull[item]) : NO_ITEM;

	/* -0 is 0, for rows that are the same to be the same bytes */
	row->label = interaction.label + 0.0f;
	row->weight = interaction.weight + 0.0f;
}

/* After its features, whose lists stand in the adapter. */
static void
EndRow(const Adapter *adapter, KeptRow *row)
{
	int			features = adapter->source.features;

	/* who it is of makes no difference where nothing adapts */
	if (features < adapter->trained->interaction.count)
		row->codes[features].row = VOCABULARY_NULL_ROW;
	SetRowLists(row, &adapter->lists);
}

void
AdapterReadRow(Adapter *adapter, const Datum *values, const bool *isnull,
			   const Datum *key, KeptRow *row)
{
	const Source *source = &adapter->source;
	int			first = 1 + SourceFeaturesAt(source);

	ReadInteraction(adapter, values, isnull, key, row);
	adapter->lists.used = 0;
	ReadColumns(adapter->readers, &adapter->trained->interaction,
				source->features, values + first, isnull + first, row->codes,
				&adapter->lists);
	EndRow(adapter, row);
}

void
AdapterReadRowInPlace(Adapter *adapter, const Datum *values,
					  const bool *isnull, const char *data,
					  const FeaturePlaces *features, const Datum *key,
					  KeptRow *row)
{
	ReadInteraction(adapter, values, isnull, key, row);
	adapter->lists.used = 0;
	ReadColumnsInPlace(adapter->readers, &adapter->trained->interaction,
					   features, data, row->codes, &adapter->lists);
	EndRow(adapter, row);
}

/*
 * Reads a row into rows->row; returns the place of its entity, or -1 where it
 * is of none that was asked for.
 */
static int
ReadRow(RowReceiver *rows, const Datum *values, const bool *isnull)
{
	int			place = rows->places ? KeyPlace(rows->places, values[0]) :
		(int) DatumGetInt64(values[0]) - 1;
	Datum		key[INDEX_MAX_KEYS];

	if (place < 0)
		return place;
	for (int k = 0; k < rows->adapter->source.key.count; k++)
		key[k] = rows->key[k][place];
	AdapterReadRow(rows->adapter, values + 1, isnull + 1, key, rows->row);
	return place;
}

static bool
ReceiveRow(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *rows = (RowReceiver *) self;
	ErrorContextCallback *inner = error_context_stack;
	MemoryContext old;
	int			place;

	/* what is wrong with a row has nothing to do with the query */
	error_context_stack = rows->error_context;
	slot_getallattrs(slot);
	MemoryContextReset(rows->row_context);
	old = MemoryContextSwitchTo(rows->row_context);
	place = ReadRow(rows, slot->tts_values, slot->tts_isnull);
	error_context_stack = inner;
	MemoryContextSwitchTo(old);
	if (place < 0)
		return true;
	if (rows->tapes)
		SpillRow(rows, place, rows->row);
	else
	{
		KeepRow(&rows->adapter->form, &rows->kept[place], rows->row);
		if (rows->count > rows->adapter->part_entities &&
			MemoryContextMemAllocated(rows->kept_context, true) >
			rows->adapter->kept_size)
			SpillRows(rows);
	}
	return true;
}

static void
EndRows(DestReceiver *self)
{
}

/* Parameters of the query for the rows of entities. */
static ParamListInfo
KeyParameters(const Adapter *adapter, int count, Datum **key)
{
	const EntityKey *columns = &adapter->source.key;
	ParamListInfo parameters = makeParamList(columns->count);
	Datum	   *arrays = count == 1 ? NULL : KeyArrays(adapter, count, key);

	for (int k = 0; k < columns->count; k++)
	{
		ParamExternData *param = &parameters->params[k];
		Oid			type = columns->columns[k].type;

		param->value = count == 1 ? key[k][0] : arrays[k];
		param->isnull = false;
		param->pflags = PARAM_FLAG_CONST;
		param->ptype = count == 1 ? type : get_array_type(type);
	}
	return parameters;
}

/* The plan that reads the rows of so many entities. */
static SPIPlanPtr
RowsPlan(Adapter *adapter, int count)
{
	SPIPlanPtr *plan = &adapter->rows_plan;
	int			options = 0;

	if (count == 1)
	{
		plan = &adapter->one_plan;
		options = CURSOR_OPT_GENERIC_PLAN;
	}
	else if (count > adapter->part_entities)
	{
		/* how many they are makes the difference */
		plan = &adapter->many_plan;
		options = CURSOR_OPT_CUSTOM_PLAN;
	}
	if (*plan == NULL)
		*plan = PreparePlan(adapter, count == 1 ?
							SourceOneQuery(&adapter->source) :
							SourceBatchQuery(&adapter->source), count != 1,
							options);
	return *plan;
}

Cost
AdapterReadingCost(Adapter *adapter, int count, Datum **key)
{
	MemoryContext caller = CurrentMemoryContext;
	SPIPlanPtr	plan = PreparePlan(adapter, SourceBatchQuery(&adapter->source),
								   true, CURSOR_OPT_CUSTOM_PLAN);
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));
	CachedPlan *planned;
	Cost		cost;

	MemoryContextSwitchTo(adapter->batch);
	MemoryContextReset(adapter->batch);
	planned = GetCachedPlan(source, KeyParameters(adapter, count, key), NULL,
							NULL);
	cost = linitial_node(PlannedStmt, planned->stmt_list)->planTree->total_cost;
	ReleaseCachedPlan(planned, NULL);
	MemoryContextSwitchTo(caller);
	return cost;
}

/* Reads the newest rows of the entities. */
static void
ReadRows(RowReceiver *rows, bool read_only)
{
	Adapter    *adapter = rows->adapter;
	SPIExecuteOptions options = {
		.read_only = read_only,
		.dest = &rows->receiver
	};
	SPIPlanPtr	plan = RowsPlan(adapter, rows->count);

	MemoryContextSwitchTo(adapter->batch);
	if (adapter->source.key_has_places && rows->count > 1)
		rows->places = KeyPlacesCreate(&adapter->source.key, rows->count,
									   rows->key[0]);
	options.params = KeyParameters(adapter, rows->count, rows->key);
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read the interactions");
	MemoryContextSwitchTo(adapter->batch);
	adapter->rows_read += SPI_processed;
}

/* Puts the negatives of row n - 1, which is `row`, after it; returns n. */
static int
EncodeNegatives(Adapter *adapter, const KeptRow *row, const Bitmapset *taken,
				Random *random, int n)
{
	const Encoder *encoder = &adapter->trained->interaction;
	int			positive = n - 1;

	for (int i = 0; i < adapter->negatives; i++)
	{
		int32		item = DrawItem(adapter->items, taken, false, random);

		if (item == NO_ITEM)
			break;
		memcpy(adapter->codes, row->codes,
			   sizeof(FeatureCode) * encoder->count);
		adapter->lists.used = 0;
		MoveCodes(encoder, adapter->codes, RowLists(row), &adapter->lists);
		ItemCodes(adapter->items, item, adapter->codes, &adapter->lists);
		adapter->label[n] = 0;
		adapter->weight[n] = adapter->weight[positive];
		adapter->same_time[n] = true;
		adapter->sampled[n] = true;
		adapter->offset[n] = Encode(encoder, adapter->codes,
									adapter->lists.codes,
									adapter->z + (Size) n * encoder->width);
		n++;
	}
	return n;
}

/*
 * Puts an entity's newest rows into the adapter, from its row `first` on, and
 * their negatives; returns how many these are.
 */
static int
EncodeRows(Adapter *adapter, int first, const Datum *key, KeptRows *kept,
		   AdaptedEntity *adapted)
{
	const TrainedNetwork *trained = adapter->trained;
	const Encoder *encoder = &trained->interaction;
	uint64		hash = adapter->items ?
		SourceKeyHash(&adapter->source, key) : 0;
	int			n = first;

	KeepNewest(&adapter->form, kept);
	for (int i = 0; i < kept->count; i++)
	{
		const KeptRow *row = kept->rows[i];

		adapter->label[n] = row->label;
		adapter->weight[n] = row->weight;
		adapter->same_time[n] = i > 0 &&
			SourceSameTime(&adapter->source, row->time,
						   adapted->adapted_through);
		adapter->sampled[n] = false;
		adapter->offset[n] = Encode(encoder, row->codes, RowLists(row),
									adapter->z + (Size) n * encoder->width);
		n++;
		adapted->adapted_through = row->time;
		if (adapter->items && row->label > 0.5f)
		{
			Random		random;

			/* a row's place is the same however many newer ones there are */
			NegativesSeed(&random, adapter->seed, hash, NEGATIVES_ADAPT,
						  kept->interactions - kept->count + i);
			n = EncodeNegatives(adapter, row, kept->taken, &random, n);
		}
	}
	if (trained->recency > 0)
		recency_weights(n - first, trained->recency,
						adapter->same_time + first, adapter->sampled + first,
						adapter->weight + first);
	return n - first;
}

void
AdaptKeptRows(Adapter *adapter, int count, KeptRows *kept, Datum **key,
			  AdaptedEntity *adapted)
{
	const TrainedNetwork *trained = adapter->trained;
	int			half_size = network_half_size(&trained->shape);
	Size		embedding_size = sizeof(float) *
		network_embedding_size(&trained->shape);
	Datum		values[ADAPT_TOGETHER][INDEX_MAX_KEYS];
	const float *x[ADAPT_TOGETHER];
	Rows		support[ADAPT_TOGETHER];
	float	   *embedding[ADAPT_TOGETHER];
	Adaptation	adaptation[ADAPT_TOGETHER];
	int			n = 0;

	Assert(count <= adapter->together);
	TrainedNetworkAdapts(trained);
	for (int i = 0; i < count; i++)
	{
		/* an entity's rows may lie anywhere */
		if (i + 1 < count)
			PrefetchRows(&adapter->form, &kept[i + 1]);
		for (int k = 0; key && k < adapter->source.key.count; k++)
			values[i][k] = key[k][i];
		adapted[i].interactions = kept[i].interactions;
		adapted[i].embedding = MemoryContextAlloc(adapter->part,
												  embedding_size);
		x[i] = adapter->x + (Size) i * trained->entity.width;
		embedding[i] = adapted[i].embedding;
		support[i] = (Rows)
		{
			.n = EncodeRows(adapter, n, values[i], &kept[i], &adapted[i]),
			.half = adapter->half + (Size) n * half_size,
			.label = adapter->label + n,
			.weight = adapter->weight + n,
			.offset = adapter->offset + n
		};
		n += support[i].n;
	}
	network_candidate_half(&trained->network, n, adapter->z,
						   trained->interaction.width, adapter->half);
	adapt_together(&trained->network, count, x, support, adapter->memory,
				   embedding, adaptation);
	for (int i = 0; i < count; i++)
	{
		CheckAdapted(adapter, key ? values[i] : NULL, &adaptation[i],
					 embedding[i]);
		adapted[i].loss_before = adaptation[i].loss_before;
		adapted[i].loss_after = adaptation[i].loss_after;
	}
}

void
AdaptKeptEntities(Adapter *adapter, int count, Datum **key, KeptRows *kept,
				  bool read_only, AdaptedReceiver receive, void *argument)
{
	const Encoder *encoder = &adapter->trained->entity;
	MemoryContext caller = CurrentMemoryContext;
	CodeLists	lists = {.context = adapter->part};
	FeatureCode *codes;
	AdaptedEntity *adapted;
	int			some;
	instr_time	lap;

	INSTR_TIME_SET_CURRENT(lap);
	MemoryContextSwitchTo(adapter->part);
	codes = palloc(mul_size(sizeof(FeatureCode),
							mul_size(count, Max(encoder->count, 1))));
	EntityCodes(adapter, count, key, read_only, codes, &lists);
	adapter->reading_seconds += Lap(&lap);
	adapted = palloc0(sizeof(AdaptedEntity) * count);
	for (int first = 0; first < count; first += some)
	{
		Datum	   *keys[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		some = Min(adapter->together, count - first);
		for (int k = 0; k < adapter->source.key.count; k++)
			keys[k] = key[k] + first;
		for (int i = 0; i < some; i++)
			Encode(encoder, codes + (first + i) * encoder->count, lists.codes,
				   adapter->x + (Size) i * encoder->width);
		AdaptKeptRows(adapter, some, kept + first, keys, adapted + first);
	}
	adapter->adapting_seconds += Lap(&lap);
	MemoryContextSwitchTo(caller);
	receive(argument, count, key, adapted);
	MemoryContextReset(adapter->part);
}

/* Adapts and hands over the part whose rows there are, or wait on disk. */
static void
AdaptPart(RowReceiver *rows, int part, bool read_only,
		  AdaptedReceiver receive, void *argument)
{
	Adapter    *adapter = rows->adapter;
	int			first = part * adapter->part_entities;
	int			count = Min(adapter->part_entities, rows->count - first);
	Datum	   *key[INDEX_MAX_KEYS];
	instr_time	lap;

	INSTR_TIME_SET_CURRENT(lap);
	for (int k = 0; k < adapter->source.key.count; k++)
		key[k] = rows->key[k] + first;
	if (rows->tapes)
		TakeSpilledRows(rows, part, count);
	adapter->reading_seconds += Lap(&lap);
	AdaptKeptEntities(adapter, count, key,
					  rows->kept + (rows->tapes ? 0 : first), read_only,
					  receive, argument);
}

void
AdaptEntities(Adapter *adapter, int count, Datum **key, bool read_only,
			  AdaptedReceiver receive, void *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	int			parts = (count - 1) / adapter->part_entities + 1;
	RowReceiver rows = {
		.receiver = {
			.receiveSlot = ReceiveRow,
			.rStartup = StartRows,
			.rShutdown = EndRows,
			.rDestroy = EndRows,
			.mydest = DestTuplestore	/* the likest to it that has a name */
		},
		.adapter = adapter,
		.count = count,
		.key = key,
		.error_context = error_context_stack
	};
	instr_time	lap;

	if (count == 0)
		return;
	AdapterReadItems(adapter, read_only);
	INSTR_TIME_SET_CURRENT(lap);
	MemoryContextReset(adapter->batch);
	MemoryContextReset(adapter->part);
	MemoryContextSwitchTo(adapter->batch);
	rows.row_context = AllocSetContextCreate(adapter->batch, "limaml row",
											 ALLOCSET_DEFAULT_SIZES);
	rows.kept_context = AllocSetContextCreate(adapter->batch,
											  "limaml kept rows",
											  ALLOCSET_DEFAULT_SIZES);
	rows.row = NewRow(&adapter->form);
	rows.kept = NewKeptRows(&adapter->form, rows.kept_context, count);

	/* items of rows that are dropped count, too: all of a part come together */
	if (adapter->items && parts > 1)
		SpillRows(&rows);
	ReadRows(&rows, read_only);
	if (rows.tapes)
		RowTapesWritten(rows.tapes);
	adapter->reading_seconds += Lap(&lap);
	MemoryContextSwitchTo(caller);
	for (int p = 0; p < parts; p++)
		AdaptPart(&rows, p, read_only, receive, argument);
	if (rows.tapes)
		RowTapesClose(rows.tapes);
}
