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
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "math/adapt.h"
#include "miscadmin.h"
#include "model/statement.h"
#include "nodes/params.h"
#include "portability/instr_time.h"
#include "query/adapt.h"
#include "nodes/plannodes.h"
#include "storage/shmem.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/jsonb.h"
#include "utils/logtape.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/typcache.h"

/* Entities adapted at a time, where nobody says otherwise. */
#define PART_ENTITIES 500

/* Rows there is room for in an entity's first buffer. */
#define FIRST_ROWS 16

/* About what a copy of a time takes that is no value (numeric). */
#define TIME_COPY_SIZE 32

/* Memory that a part's rows are read back through. */
#define SPILL_READ_SIZE (256 * 1024)

/* About what smaller buffers leave behind that an entity has outgrown. */
#define OUTGROWN_SIZE 8192

/* A row of an entity as it is kept until all rows have been read. */
typedef struct KeptRow
{
	Datum		time;			/* a copy where it is a pointer */
	uint64		hash;
	int32		item;			/* or NO_ITEM */

	/*
	 * What the network sees of it, as bytes that are alike where it is: there
	 * is no padding, -0 is 0, and there is one NaN.
	 */
	float		label;
	float		weight;
	FeatureCode codes[FLEXIBLE_ARRAY_MEMBER];
} KeptRow;

StaticAssertDecl(offsetof(KeptRow, codes) ==
				 offsetof(KeptRow, label) + 2 * sizeof(float),
				 "padding between label and codes");

/*
 * An entity's newest rows, and up to as many older ones that go when the
 * buffer is full.
 */
typedef struct KeptRows
{
	char	   *rows;
	int			count;
	int			room;
	int64		interactions;	/* all that were seen */
	Bitmapset  *taken;			/* items of all that were seen */
} KeptRows;

/* A row that waits on disk; what is kept of it follows, and its time. */
typedef struct SpilledRow
{
	int			place;			/* of its entity in the part */
	int			time_size;		/* 0 where it is a value */
} SpilledRow;

/* Takes the rows of a batch as the executor finds them. */
typedef struct RowReceiver
{
	DestReceiver receiver;		/* first, for it is what the executor knows */
	Adapter    *adapter;
	Datum	  **key;
	KeptRows   *kept;			/* of each entity of the first part */
	KeptRow    *row;			/* the one that is being read */
	LogicalTapeSet *tapes;		/* of the other parts, where there are any */
	LogicalTape **tape;
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
AdapterInit(Adapter *adapter, const Model *model,
			const TrainedNetwork *trained)
{
	const NetworkShape *shape = &trained->shape;
	int			rows;
	int			features = CandidateFeatures(trained);
	ModelOptions options;
	TypeCacheEntry *time;
	MemoryContext context = CurrentMemoryContext;

	/* which column weighs rows is the version's matter, not the model's */
	CatalogVersionOptions(model, trained->options, &options);
	rows = Max(trained->support_rows, 1) * (1 + options.negatives);

	adapter->trained = trained;
	adapter->context = context;
	SourceInit(&adapter->source, model, features,
			   FeatureNames(&trained->interaction, features),
			   trained->entity.count,
			   FeatureNames(&trained->entity, trained->entity.count),
			   options.weight);
	adapter->negatives = options.negatives;
	adapter->sampling = options.negative_sampling;
	adapter->seed = options.seed;
	adapter->items = NULL;
	if (options.negatives > 0)
		SourceAddItems(&adapter->source, options.items, options.item_key);
	adapter->codes = palloc(sizeof(FeatureCode) *
							Max(trained->interaction.count, 1));
	adapter->readers = FeatureReaders(&trained->interaction,
									  adapter->source.feature, features);
	adapter->meta_readers = FeatureReaders(&trained->entity,
										   adapter->source.meta_feature,
										   trained->entity.count);
	time = lookup_type_cache(adapter->source.event_time.type,
							 TYPECACHE_LT_OPR);
	memset(&adapter->time_order, 0, sizeof(SortSupportData));
	adapter->time_order.ssup_cxt = context;
	PrepareSortSupportFromOrderingOp(time->lt_opr, &adapter->time_order);
	adapter->batch = AllocSetContextCreate(context, "limaml batch",
										   ALLOCSET_DEFAULT_SIZES);
	adapter->part = AllocSetContextCreate(context, "limaml part",
										  ALLOCSET_DEFAULT_SIZES);
	adapter->part_entities = PART_ENTITIES;
	adapter->rows_plan = NULL;
	adapter->one_plan = NULL;
	adapter->many_plan = NULL;
	adapter->entities_plan = NULL;
	adapter->x = Numbers(1, trained->entity.width);
	adapter->z = Numbers(rows, trained->interaction.width);
	adapter->half = Numbers(rows, network_half_size(shape));
	adapter->label = Numbers(rows, 1);
	adapter->weight = Numbers(rows, 1);
	adapter->offset = Numbers(rows, 1);
	adapter->same_time = palloc(sizeof(bool) * rows);
	adapter->sampled = palloc(sizeof(bool) * rows);
	adapter->memory = Numbers(adapt_size(shape, rows), 1);
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
			 FeatureCode *codes)
{
	const Encoder *encoder = &adapter->trained->entity;
	MemoryContext old = CurrentMemoryContext;
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
		for (int f = 0; f < encoder->count; f++)
		{
			Datum		datum = SPI_getbinval(tuple, desc, 2 + f, &isnull);

			codes[i * encoder->count + f] =
				ReadFeature(&adapter->meta_readers[f], &encoder->features[f],
							datum, isnull);
		}
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Adapts an entity on the n rows that stand in the adapter. */
static void
AdaptOne(Adapter *adapter, int n, const FeatureCode *codes,
		 const Datum *key, AdaptedEntity *adapted)
{
	const TrainedNetwork *trained = adapter->trained;
	Rows		rows = {
		.n = n,
		.half = adapter->half,
		.label = adapter->label,
		.weight = adapter->weight,
		.offset = adapter->offset
	};
	Adaptation	adaptation;

	Encode(&trained->entity, codes, adapter->x);
	network_candidate_half(&trained->network, n, adapter->z,
						   trained->interaction.width, adapter->half);
	if (trained->recency > 0)
		recency_weights(n, trained->recency, adapter->same_time,
						adapter->sampled, adapter->weight);
	adapted->embedding =
		MemoryContextAlloc(adapter->part,
						   network_embedding_size(&trained->shape) *
						   sizeof(float));
	adaptation = adapt(&trained->network, adapter->x, &rows, adapter->memory,
					   adapted->embedding);
	if (adaptation.diverged_at)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the inner loop diverged for %s at step %d",
						KeyText(&adapter->source.key, key),
						adaptation.diverged_at),
				 errhint("Train the model with a lower option \"inner_rate\".")));
	for (int i = 0; i < network_embedding_size(&trained->shape); i++)
		if (!isfinite(adapted->embedding[i]))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("the embedding of %s is not finite",
							KeyText(&adapter->source.key, key))));
	adapted->loss_before = adaptation.loss_before;
	adapted->loss_after = adaptation.loss_after;
}

/* Bytes of what the network sees of a row, and of the whole row as kept. */
static Size
SeenSize(const Adapter *adapter)
{
	return 2 * sizeof(float) +
		adapter->trained->interaction.count * sizeof(FeatureCode);
}

static Size
KeptRowSize(const Adapter *adapter)
{
	return MAXALIGN(offsetof(KeptRow, label) + SeenSize(adapter));
}

static Size
KeptTimeSize(const Adapter *adapter, Datum time)
{
	const SourceColumn *column = &adapter->source.event_time;

	return column->by_value ? 0 : datumGetSize(time, false, column->length);
}

static const unsigned char *
Seen(const KeptRow *row)
{
	return (const unsigned char *) row + offsetof(KeptRow, label);
}

static KeptRow *
RowAt(const Adapter *adapter, const KeptRows *kept, int i)
{
	return (KeptRow *) (kept->rows + i * KeptRowSize(adapter));
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
	Size		row = KeptRowSize(adapter) +
		(adapter->source.event_time.by_value ? 0 : TIME_COPY_SIZE);
	Size		entity = 2 * trained->support_rows * row + OUTGROWN_SIZE +
		sizeof(KeptRows) + sizeof(AdaptedEntity) +
		network_embedding_size(&trained->shape) * sizeof(float) +
		trained->entity.count * sizeof(FeatureCode) +
		(adapter->items ? adapter->items->count / BITS_PER_BYTE : 0);

	return (int) Max(Min(memory / entity, PG_INT32_MAX), 1);
}

/* Oldest first. */
static int
CompareRows(const void *a, const void *b, void *arg)
{
	Adapter    *adapter = arg;
	const KeptRow *x = a;
	const KeptRow *y = b;
	int			order = ApplySortComparator(x->time, false, y->time, false,
											&adapter->time_order);

	if (order == 0)
		order = (x->hash > y->hash) - (x->hash < y->hash);
	if (order == 0)
		order = memcmp(Seen(x), Seen(y), SeenSize(adapter));
	return order;
}

/* Sorts an entity's rows, and drops all but the newest. */
static void
KeepNewest(Adapter *adapter, KeptRows *kept)
{
	int			older = kept->count - adapter->trained->support_rows;

	if (kept->count > 1)
		qsort_arg(kept->rows, kept->count, KeptRowSize(adapter), CompareRows,
				  adapter);
	if (older <= 0)
		return;
	if (!adapter->source.event_time.by_value)
		for (int i = 0; i < older; i++)
			pfree(DatumGetPointer(RowAt(adapter, kept, i)->time));
	kept->count -= older;
	memmove(kept->rows, RowAt(adapter, kept, older),
			kept->count * KeptRowSize(adapter));
}

/* Room for one more row. */
static KeptRow *
NextRow(Adapter *adapter, KeptRows *kept)
{
	int			most = 2 * adapter->trained->support_rows;

	if (kept->count == most)
		KeepNewest(adapter, kept);
	if (kept->count == kept->room)
	{
		Size		size;

		kept->room = Min(Max(2 * kept->room, FIRST_ROWS), most);
		size = kept->room * KeptRowSize(adapter);
		kept->rows = kept->rows ? repalloc(kept->rows, size) :
			MemoryContextAlloc(adapter->part, size);
	}
	return RowAt(adapter, kept, kept->count++);
}

/* Keeps a row, whose time is copied where it is no value. */
static void
KeepRow(Adapter *adapter, KeptRows *kept, const KeptRow *row)
{
	const SourceColumn *column = &adapter->source.event_time;
	KeptRow    *copy = NextRow(adapter, kept);

	memcpy(copy, row, KeptRowSize(adapter));
	if (row->item != NO_ITEM)
	{
		MemoryContext old = MemoryContextSwitchTo(adapter->part);

		kept->taken = bms_add_member(kept->taken, row->item);
		MemoryContextSwitchTo(old);
	}
	if (!column->by_value)
	{
		MemoryContext old = MemoryContextSwitchTo(adapter->part);

		copy->time = datumCopy(row->time, false, column->length);
		MemoryContextSwitchTo(old);
	}
	kept->interactions++;
}

/* Lets a row wait for its part. */
static void
SpillRow(RowReceiver *rows, int place)
{
	Adapter    *adapter = rows->adapter;
	int			part = place / adapter->part_entities;
	LogicalTape *tape = rows->tape[part];
	SpilledRow	spilled = {
		.place = place % adapter->part_entities,
		.time_size = (int) KeptTimeSize(adapter, rows->row->time)
	};
	MemoryContext old = MemoryContextSwitchTo(adapter->batch);

	/* a tape takes its buffer from the current context */
	LogicalTapeWrite(tape, (void *) &spilled, sizeof(SpilledRow));
	LogicalTapeWrite(tape, (void *) rows->row, KeptRowSize(adapter));
	if (spilled.time_size > 0)
		LogicalTapeWrite(tape, DatumGetPointer(rows->row->time),
						 spilled.time_size);
	MemoryContextSwitchTo(old);
}

static void
ReadSpilled(LogicalTape *tape, void *to, Size size)
{
	if (LogicalTapeRead(tape, to, size) != size)
		elog(ERROR, "unexpected end of a temporary file");
}

/* Takes back the rows of a part, with which the tape ends. */
static void
TakeSpilledRows(RowReceiver *rows, int part, KeptRows *kept)
{
	Adapter    *adapter = rows->adapter;
	LogicalTape *tape = rows->tape[part];
	MemoryContext old = MemoryContextSwitchTo(adapter->batch);
	SpilledRow	spilled;
	Size		size;

	LogicalTapeRewindForRead(tape, SPILL_READ_SIZE);
	while ((size = LogicalTapeRead(tape, &spilled, sizeof(SpilledRow))) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (size != sizeof(SpilledRow))
			elog(ERROR, "unexpected end of a temporary file");
		ReadSpilled(tape, rows->row, KeptRowSize(adapter));
		if (spilled.time_size > 0)
		{
			MemoryContextReset(rows->row_context);
			rows->row->time =
				PointerGetDatum(MemoryContextAlloc(rows->row_context,
												   spilled.time_size));
			ReadSpilled(tape, DatumGetPointer(rows->row->time),
						spilled.time_size);
		}
		KeepRow(adapter, &kept[spilled.place], rows->row);
	}
	LogicalTapeClose(tape);
	MemoryContextSwitchTo(old);
}

static void
StartRows(DestReceiver *self, int operation, TupleDesc desc)
{
	RowReceiver *rows = (RowReceiver *) self;
	ErrorContextCallback *inner = error_context_stack;

	error_context_stack = rows->error_context;
	SourceCheckRow(&rows->adapter->source, desc, 2);
	error_context_stack = inner;
}

/* The same bytes for numbers that are the same to the network. */
static float
OneOfAKind(float number)
{
	if (isnan(number))
		return get_float4_nan();
	return number == 0 ? 0 : number;
}

/* Reads a row into rows->row; returns the place of its entity. */
static int
ReadRow(RowReceiver *rows, const Datum *values, const bool *isnull)
{
	Adapter    *adapter = rows->adapter;
	const Source *source = &adapter->source;
	const Encoder *encoder = &adapter->trained->interaction;
	int			place = (int) DatumGetInt64(values[0]) - 1;
	int			item = 2 + SourceItemAt(source);
	int			first = 2 + SourceFeaturesAt(source);
	Datum		key[INDEX_MAX_KEYS];
	Interaction interaction;
	KeptRow    *row = rows->row;
	uint64		seed;

	for (int k = 0; k < source->key.count; k++)
		key[k] = rows->key[k][place];
	interaction = SourceReadInteraction(source, adapter->trained->shape.loss,
										values + 2, isnull + 2, key);

	/* in the form that equal times share */
	row->time = source->event_time.length == -1 ?
		PointerGetDatum(PG_DETOAST_DATUM(values[1])) : values[1];
	row->item = adapter->items ?
		ItemOf(adapter->items, values[item], isnull[item]) : NO_ITEM;
	row->label = OneOfAKind(interaction.label);
	row->weight = OneOfAKind(interaction.weight);
	for (int f = 0; f < source->features; f++)
	{
		row->codes[f] = ReadFeature(&adapter->readers[f],
									&encoder->features[f], values[first + f],
									isnull[first + f]);
		if (encoder->features[f].kind == FEATURE_NUMERIC)
			row->codes[f].number = OneOfAKind(row->codes[f].number);
	}

	/* who it is of makes no difference where nothing adapts */
	if (source->features < encoder->count)
		row->codes[source->features].row = VOCABULARY_NULL_ROW;

	/*
	 * Which of the rows of one time count as newer is to have nothing to do
	 * with their labels or any feature.  With the entity and the time in it the
	 * hash does not order what happens again and again, or to everybody, the
	 * same way every time.
	 */
	seed = datum_image_hash(row->time, source->event_time.by_value,
							source->event_time.length);
	for (int k = 0; k < source->key.count; k++)
		seed = hash_combine64(seed,
							  datum_image_hash(key[k],
											   source->key.columns[k].typbyval,
											   source->key.columns[k].typlen));
	row->hash = hash_bytes_extended(Seen(row), (int) SeenSize(adapter), seed);
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
	if (place < rows->adapter->part_entities)
		KeepRow(rows->adapter, &rows->kept[place], rows->row);
	else
		SpillRow(rows, place);
	MemoryContextSwitchTo(old);
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

/* Reads the newest rows of the entities: of the first part, and to tapes. */
static void
ReadRows(RowReceiver *rows, int count, bool read_only)
{
	Adapter    *adapter = rows->adapter;
	SPIExecuteOptions options = {
		.read_only = read_only,
		.dest = &rows->receiver
	};
	SPIPlanPtr	plan = RowsPlan(adapter, count);

	MemoryContextSwitchTo(adapter->batch);
	options.params = KeyParameters(adapter, count, rows->key);
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
		ItemCodes(adapter->items, item, adapter->codes);
		adapter->label[n] = 0;
		adapter->weight[n] = adapter->weight[positive];
		adapter->same_time[n] = true;
		adapter->sampled[n] = true;
		adapter->offset[n] = Encode(encoder, adapter->codes,
									adapter->z + (Size) n * encoder->width);
		n++;
	}
	return n;
}

/*
 * Puts an entity's newest rows into the adapter, and their negatives; returns
 * how many these are.
 */
static int
EncodeRows(Adapter *adapter, const Datum *key, KeptRows *kept,
		   AdaptedEntity *adapted)
{
	const Encoder *encoder = &adapter->trained->interaction;
	uint64		hash = adapter->items ?
		SourceKeyHash(&adapter->source, key) : 0;
	int			n = 0;

	KeepNewest(adapter, kept);
	for (int i = 0; i < kept->count; i++)
	{
		const KeptRow *row = RowAt(adapter, kept, i);

		adapter->label[n] = row->label;
		adapter->weight[n] = row->weight;
		adapter->same_time[n] = i > 0 &&
			SourceSameTime(&adapter->source, row->time,
						   adapted->adapted_through);
		adapter->sampled[n] = false;
		adapter->offset[n] = Encode(encoder, row->codes,
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
	return n;
}

/* Seconds since *start, which becomes now. */
static double
Lap(instr_time *start)
{
	instr_time	now;
	instr_time	lap;

	INSTR_TIME_SET_CURRENT(now);
	lap = now;
	INSTR_TIME_SUBTRACT(lap, *start);
	*start = now;
	return INSTR_TIME_GET_DOUBLE(lap);
}

/* Adapts the entities of a part, from place `first` on. */
static AdaptedEntity *
AdaptPart(Adapter *adapter, int first, int count, Datum **key,
		  const FeatureCode *meta_codes, KeptRows *kept)
{
	const TrainedNetwork *trained = adapter->trained;
	AdaptedEntity *adapted = palloc0(sizeof(AdaptedEntity) * count);

	for (int i = 0; i < count; i++)
	{
		Datum		values[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		for (int k = 0; k < adapter->source.key.count; k++)
			values[k] = key[k][first + i];
		adapted[i].interactions = kept[i].interactions;
		AdaptOne(adapter, EncodeRows(adapter, values, &kept[i], &adapted[i]),
				 meta_codes + i * trained->entity.count, values, &adapted[i]);
	}
	return adapted;
}

void
AdaptEntities(Adapter *adapter, int count, Datum **key, bool read_only,
			  AdaptedReceiver receive, void *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	int			size = Min(count, adapter->part_entities);
	int			parts = count > 0 ? (count - 1) / size + 1 : 0;
	RowReceiver rows = {
		.receiver = {
			.receiveSlot = ReceiveRow,
			.rStartup = StartRows,
			.rShutdown = EndRows,
			.rDestroy = EndRows,
			.mydest = DestTuplestore	/* the likest to it that has a name */
		},
		.adapter = adapter,
		.key = key,
		.error_context = error_context_stack
	};
	int			features = adapter->trained->entity.count;

	AdapterReadItems(adapter, read_only);
	MemoryContextReset(adapter->batch);
	MemoryContextReset(adapter->part);
	MemoryContextSwitchTo(adapter->batch);
	rows.row_context = AllocSetContextCreate(adapter->batch, "limaml row",
											 ALLOCSET_DEFAULT_SIZES);
	rows.row = palloc0(KeptRowSize(adapter));
	if (parts > 1)
	{
		rows.tapes = LogicalTapeSetCreate(true, NULL, -1);
		rows.tape = palloc(sizeof(LogicalTape *) * parts);
		for (int p = 1; p < parts; p++)
			rows.tape[p] = LogicalTapeCreate(rows.tapes);
	}
	for (int p = 0; p < parts; p++)
	{
		int			first = p * size;
		int			here = Min(size, count - first);
		Datum	   *part_key[INDEX_MAX_KEYS];
		FeatureCode *meta_codes;
		KeptRows   *kept;
		AdaptedEntity *adapted;
		instr_time	lap;

		INSTR_TIME_SET_CURRENT(lap);
		MemoryContextSwitchTo(adapter->part);
		meta_codes = palloc(mul_size(sizeof(FeatureCode),
									 mul_size(here, Max(features, 1))));
		for (int k = 0; k < adapter->source.key.count; k++)
			part_key[k] = key[k] + first;
		EntityCodes(adapter, here, part_key, read_only, meta_codes);
		kept = palloc0(sizeof(KeptRows) * here);
		if (p == 0)
		{
			rows.kept = kept;
			ReadRows(&rows, count, read_only);
		}
		else
			TakeSpilledRows(&rows, p, kept);
		adapter->reading_seconds += Lap(&lap);
		MemoryContextSwitchTo(adapter->part);
		adapted = AdaptPart(adapter, first, here, key, meta_codes, kept);
		adapter->adapting_seconds += Lap(&lap);
		MemoryContextSwitchTo(caller);
		receive(argument, first, here, adapted);
		MemoryContextReset(adapter->part);
	}
	if (rows.tapes)
		LogicalTapeSetClose(rows.tapes);
	MemoryContextSwitchTo(caller);
}
