/*-------------------------------------------------------------------------
 *
 * adapt_pass.c
 *	  Adapting all the entities that there are, or a share of them, on rows
 *	  that one pass over the relation finds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "executor/tuptable.h"
#include "lap.h"
#include "miscadmin.h"
#include "model/statement.h"
#include "nodes/plannodes.h"
#include "query/adapt_pass.h"
#include "query/row_tapes.h"
#include "tcop/dest.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

/*
 * A part is made for this fraction of the entities that there is memory for:
 * the planner may think that they are fewer than they are.
 */
#define PART_FRACTION 2

/* Entities of a part, however much memory there is. */
#define MOST_PART_ENTITIES (1 << 16)

/* Tapes for the rows of a part's entities that did not fit. */
#define REST_PARTS 16

/* Of the key's hash, after that which parts the share. */
#define FIRST_ROUND 1

/* The rows of a part's entities, which come in any order. */
typedef struct PartRows
{
	int			round;			/* of the hash by which rows that do not fit wait */
	int			count;			/* entities so far */
	Datum	   *keys;
	KeptRows   *kept;
	KeyPlaces  *places;
	RowTapes   *rest;			/* NULL while all fit */
} PartRows;

/* A pass over the relation: whose rows it takes, and where they go. */
typedef struct Pass
{
	DestReceiver receiver;		/* first, for it is what the executor knows */
	Adapter    *adapter;
	EntityShare share;
	KeyParts	keys;
	bool		key_is_varlena;
	Size		memory;			/* that rows may take */
	int			parts;
	int			part_entities;	/* as many as there is memory for */
	PartRows   *only_part;		/* whose rows need not wait on disk; or NULL */
	RowTapes   *tapes;			/* one a part, where there are more */
	KeptRow    *row;			/* the one that is being read */
	MemoryContext row_context;
	MemoryContext kept_context; /* of what is kept of a part's rows */
	MemoryContext places_context;	/* of whose they are */
	int			key_at;			/* of the query's columns, and so on */
	int		   *at;
	bool		in_order;		/* one after the other, as they are read */
	int			columns;		/* that the query has up to the last needed */
	Datum	   *values;			/* event time, label, weight?, item?, ... */
	bool	   *isnull;

	/* where rows are tuples in which all of these have a place; else NULL */
	ColumnPlace *key_place;
	int			data_size;		/* up to the last of them */
	ColumnPlace *place;			/* as values */
	FeaturePlaces features;
	Datum	   *in_place;		/* the values, up to the features */
	bool	   *no_nulls;
	int64		rows;			/* that were taken */
	ErrorContextCallback *error_context;	/* outside of the query */
} Pass;

bool
PassIsPossible(const Adapter *adapter)
{
	return adapter->source.key_has_places;
}

/* How many rows the planner thinks that a query has. */
static int64
PlannedRows(const char *sql)
{
	SPIPlanPtr	plan = SPI_prepare(sql, 0, NULL);
	CachedPlan *planned;
	double		rows;

	if (plan == NULL)
		elog(ERROR, "could not prepare a query for all interactions");
	planned = SPI_plan_get_cached_plan(plan);
	rows = linitial_node(PlannedStmt, planned->stmt_list)->planTree->plan_rows;
	ReleaseCachedPlan(planned, NULL);
	SPI_freeplan(plan);
	return (int64) Min(rows, (double) PG_INT64_MAX / 2);
}

int64
PassEntities(const Adapter *adapter)
{
	return PlannedRows(SourceKeysQuery(&adapter->source));
}

int64
PassRows(const Adapter *adapter)
{
	return PlannedRows(SourceAllQuery(&adapter->source));
}

/* Entities of a part, for whose rows there is memory. */
static int
PartEntities(const Adapter *adapter, Size memory)
{
	return Min(AdapterPartEntities(adapter, memory), MOST_PART_ENTITIES);
}

/* Parts that a pass may have: each is written through some memory. */
static int
MostParts(Size memory)
{
	return (int) Max(1, Min(memory / ROW_TAPE_SIZE, PG_INT32_MAX / 2));
}

int
PassShares(const Adapter *adapter, int64 entities, int workers, Size memory)
{
	double		most = (double) MostParts(memory) *
		PartEntities(adapter, memory);

	return (int) Max(workers, Min(ceil(entities / most), PG_INT32_MAX));
}

bool
ShareHasKey(const EntityShare *share, const KeyParts *keys, Datum key)
{
	int			number;
	int			part;

	KeyPart(keys, key, 0, share->shares, 1, &number, &part);
	return number == share->number;
}

/* Lets a row wait, with those that others of its part's entities have. */
static void
SpillAgain(Pass *pass, PartRows *part, Datum key)
{
	const KeyColumn *column = &pass->adapter->source.key.columns[0];
	MemoryContext old = CurrentMemoryContext;
	int			share;
	int			tape;

	if (part->rest == NULL)
	{
		MemoryContextSwitchTo(pass->adapter->batch);
		part->rest = RowTapesCreate(&pass->adapter->form, REST_PARTS, 0,
									column->typlen, column->typbyval);
		MemoryContextSwitchTo(old);
	}
	KeyPart(&pass->keys, key, part->round, 1, REST_PARTS, &share, &tape);
	RowTapeWrite(part->rest, tape, key, pass->row);
}

/* A part without rows; that of before is gone. */
static void
StartPart(Pass *pass, PartRows *part, int round)
{
	MemoryContext old;

	MemoryContextReset(pass->places_context);
	old = MemoryContextSwitchTo(pass->places_context);
	part->round = round;
	part->count = 0;
	part->keys = palloc(sizeof(Datum) * pass->part_entities);
	part->kept = NewKeptRows(&pass->adapter->form, pass->kept_context,
							 pass->part_entities);
	part->places = KeyPlacesCreate(&pass->adapter->source.key, 0, NULL);
	part->rest = NULL;
	MemoryContextSwitchTo(old);
}

/* Takes pass->row, of as many entities as there is memory for. */
static void
TakeIntoPart(Pass *pass, PartRows *part, Datum key)
{
	const KeyColumn *column = &pass->adapter->source.key.columns[0];
	int			place = KeyPlace(part->places, key);

	if (place < 0 && part->count < pass->part_entities)
	{
		MemoryContext old = MemoryContextSwitchTo(pass->places_context);

		place = part->count++;
		part->keys[place] = datumCopy(key, column->typbyval, column->typlen);
		KeyPlaceAdd(part->places, part->keys[place], place);
		MemoryContextSwitchTo(old);
	}
	if (place >= 0)
		KeepRow(&pass->adapter->form, &part->kept[place], pass->row);
	else
		SpillAgain(pass, part, key);
}

/* Which of the values is that of the first feature. */
static int
FirstFeature(const Pass *pass)
{
	return 1 + SourceFeaturesAt(&pass->adapter->source);
}

/* The places of the columns, where all have one. */
static void
FindPlaces(Pass *pass, TupleDesc desc)
{
	Adapter    *adapter = pass->adapter;
	int			count = SourceColumns(&adapter->source);
	MemoryContext old = MemoryContextSwitchTo(adapter->batch);
	ColumnPlace *all = palloc(sizeof(ColumnPlace) * pass->columns);

	pass->place = palloc(sizeof(ColumnPlace) * count);
	pass->in_place = palloc(sizeof(Datum) * count);
	pass->no_nulls = palloc0(sizeof(bool) * count);
	pass->key_place = FindColumnPlaces(desc, pass->columns, all) ?
		&all[pass->key_at] : NULL;
	for (int c = 0; c < count && pass->key_place; c++)
	{
		/* a label that there is no column for has none */
		if (pass->at[c] < 0)
			pass->key_place = NULL;
		else
			pass->place[c] = all[pass->at[c]];
	}
	if (pass->key_place)
	{
		const ColumnPlace *last = &all[pass->columns - 1];

		pass->data_size = last->at + last->length;
		FeaturePlacesInit(&pass->features, adapter->readers,
						  &adapter->trained->interaction,
						  adapter->source.features,
						  pass->place + FirstFeature(pass));
	}
	MemoryContextSwitchTo(old);
}

static void
StartPass(DestReceiver *self, int operation, TupleDesc desc)
{
	Pass	   *pass = (Pass *) self;
	const Source *source = &pass->adapter->source;
	ErrorContextCallback *inner = error_context_stack;

	error_context_stack = pass->error_context;
	pass->key_at = SourceFindColumns(source, desc, pass->at);
	error_context_stack = inner;
	pass->columns = pass->key_at + 1;
	pass->in_order = true;
	for (int c = 0; c < SourceColumns(source); c++)
	{
		pass->columns = Max(pass->columns, pass->at[c] + 1);
		pass->in_order &= pass->at[c] == pass->at[0] + c;
	}
	FindPlaces(pass, desc);
}

/* Takes what is read of a row; false where the row is not usable. */
static bool
TakeColumns(Pass *pass, TupleTableSlot *slot)
{
	slot_getsomeattrs(slot, pass->columns);
	if (pass->in_order)
	{
		pass->values = slot->tts_values + pass->at[0];
		pass->isnull = slot->tts_isnull + pass->at[0];
	}
	else
		for (int c = 0; c < SourceColumns(&pass->adapter->source); c++)
		{
			int			at = pass->at[c];

			/* a label that there is no column for */
			pass->values[c] = at < 0 ? BoolGetDatum(true) :
				slot->tts_values[at];
			pass->isnull[c] = at < 0 ? false : slot->tts_isnull[at];
		}

	/* event time and label */
	return !pass->isnull[0] && !pass->isnull[1];
}

/* Reads a row that is of the share, where it is usable, and takes it. */
static void
TakeRow(Pass *pass, TupleTableSlot *slot, const char *data, Datum key,
		int part)
{
	Adapter    *adapter = pass->adapter;
	ErrorContextCallback *inner = error_context_stack;

	if (data == NULL && !TakeColumns(pass, slot))
		return;

	/* what is wrong with a row has nothing to do with the query */
	error_context_stack = pass->error_context;
	if (data)
	{
		for (int c = 0; c < FirstFeature(pass); c++)
			pass->in_place[c] = ColumnInPlace(data, &pass->place[c]);
		AdapterReadRowInPlace(adapter, pass->in_place, pass->no_nulls, data,
							  &pass->features, &key, pass->row);
	}
	else
		AdapterReadRow(adapter, pass->values, pass->isnull, &key, pass->row);
	error_context_stack = inner;
	if (pass->only_part)
		TakeIntoPart(pass, pass->only_part, key);
	else
		RowTapeWrite(pass->tapes, part, key, pass->row);
	pass->rows++;
}

static bool
ReceiveOfPass(TupleTableSlot *slot, DestReceiver *self)
{
	Pass	   *pass = (Pass *) self;
	const char *data = pass->key_place ?
		TupleDataInPlace(slot, pass->columns) : NULL;
	bool		isnull = false;
	Datum		key = data ? ColumnInPlace(data, pass->key_place) :
		slot_getattr(slot, pass->key_at + 1, &isnull);
	MemoryContext old;
	int			share;
	int			part;

	if (data)
		PrefetchTuples(slot, pass->data_size);
	if (isnull)
		return true;

	/* the hash may make a copy, too */
	old = MemoryContextSwitchTo(pass->row_context);
	if (pass->key_is_varlena)
		key = PointerGetDatum(PG_DETOAST_DATUM_PACKED(key));
	KeyPart(&pass->keys, key, 0, pass->share.shares, pass->parts, &share,
			&part);
	if (share == pass->share.number)
		TakeRow(pass, slot, data, key, part);
	MemoryContextSwitchTo(old);
	MemoryContextReset(pass->row_context);
	return true;
}

static void
EndPass(DestReceiver *self)
{
}

static void
ReadPass(Pass *pass, bool read_only)
{
	Adapter    *adapter = pass->adapter;
	const KeyColumn *key = &adapter->source.key.columns[0];
	SPIExecuteOptions options = {
		.read_only = read_only,
		.dest = &pass->receiver
	};
	SPIPlanPtr	plan = SPI_prepare(SourceAllQuery(&adapter->source), 0, NULL);

	if (plan == NULL)
		elog(ERROR, "could not prepare the query for all interactions");
	MemoryContextSwitchTo(adapter->batch);
	if (pass->only_part == NULL)
		pass->tapes = RowTapesCreate(&adapter->form, pass->parts,
									 pass->memory, key->typlen,
									 key->typbyval);
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read the interactions");
	SPI_freeplan(plan);
	MemoryContextSwitchTo(adapter->batch);
	if (pass->tapes)
		RowTapesWritten(pass->tapes);
	adapter->rows_read += pass->rows;
}

/* Who takes what a pass adapts. */
typedef struct PassTaker
{
	bool		read_only;
	AdaptedReceiver receive;
	void	   *argument;
} PassTaker;

static void AdaptWaiting(Pass *pass, RowTapes *from, int tape, int round,
						 const PassTaker *taker);

/*
 * Adapts and hands over the entities of a part: those that fit, and then those
 * of the parts that the others' rows are in.
 */
static void
AdaptPart(Pass *pass, PartRows *part, const PassTaker *taker)
{
	Adapter    *adapter = pass->adapter;

	check_stack_depth();
	for (int first = 0; first < part->count; first += adapter->part_entities)
	{
		Datum	   *keys[1] = {part->keys + first};

		AdaptKeptEntities(adapter, Min(adapter->part_entities,
									   part->count - first), keys,
						  part->kept + first, taker->read_only,
						  taker->receive, taker->argument);
	}
	if (part->rest == NULL)
		return;
	RowTapesWritten(part->rest);
	for (int p = 0; p < REST_PARTS; p++)
		AdaptWaiting(pass, part->rest, p, part->round + 1, taker);
	RowTapesClose(part->rest);
}

/* Takes back the rows of a part that wait on a tape, and adapts it. */
static void
AdaptWaiting(Pass *pass, RowTapes *from, int tape, int round,
			 const PassTaker *taker)
{
	MemoryContext old = MemoryContextSwitchTo(pass->row_context);
	PartRows	part;
	instr_time	lap;
	Datum		key;

	INSTR_TIME_SET_CURRENT(lap);
	StartPart(pass, &part, round);
	while (RowTapeRead(from, tape, &key, pass->row))
	{
		CHECK_FOR_INTERRUPTS();
		TakeIntoPart(pass, &part, key);
		MemoryContextReset(pass->row_context);
	}
	MemoryContextSwitchTo(old);
	pass->adapter->reading_seconds += Lap(&lap);
	AdaptPart(pass, &part, taker);
}

void
AdaptShare(Adapter *adapter, const EntityShare *share, int64 entities,
		   Size memory, bool read_only, AdaptedReceiver receive,
		   void *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	int			columns = SourceColumns(&adapter->source);
	int64		wanted;
	Pass		pass = {
		.receiver = {
			.receiveSlot = ReceiveOfPass,
			.rStartup = StartPass,
			.rShutdown = EndPass,
			.rDestroy = EndPass,
			.mydest = DestTuplestore	/* the likest to it that has a name */
		},
		.adapter = adapter,
		.share = *share,
		.memory = memory,
		.error_context = error_context_stack
	};
	PassTaker	taker = {
		.read_only = read_only,
		.receive = receive,
		.argument = argument
	};
	PartRows	only_part;
	instr_time	lap;

	AdapterReadItems(adapter, read_only);
	INSTR_TIME_SET_CURRENT(lap);
	MemoryContextReset(adapter->batch);
	MemoryContextReset(adapter->part);
	MemoryContextSwitchTo(adapter->batch);
	pass.part_entities = PartEntities(adapter, memory);
	wanted = entities / share->shares /
		Max(pass.part_entities / PART_FRACTION, 1) + 1;
	pass.parts = (int) Min(wanted, MostParts(memory));
	KeyPartsInit(&pass.keys, &adapter->source.key);
	pass.key_is_varlena = adapter->source.key.columns[0].typlen == -1;
	pass.row_context = AllocSetContextCreate(adapter->batch, "limaml row",
											 ALLOCSET_DEFAULT_SIZES);
	pass.kept_context = AllocSetContextCreate(adapter->batch,
											  "limaml kept rows",
											  ALLOCSET_DEFAULT_SIZES);
	pass.places_context = AllocSetContextCreate(adapter->batch,
												"limaml places of a part",
												ALLOCSET_DEFAULT_SIZES);
	pass.row = NewRow(&adapter->form);
	pass.at = palloc(sizeof(int) * columns);
	pass.values = palloc(sizeof(Datum) * columns);
	pass.isnull = palloc(sizeof(bool) * columns);
	if (pass.parts == 1)
	{
		pass.only_part = &only_part;
		StartPart(&pass, &only_part, FIRST_ROUND);
	}
	ReadPass(&pass, read_only);
	adapter->reading_seconds += Lap(&lap);
	if (pass.only_part)
		AdaptPart(&pass, &only_part, &taker);
	else
	{
		for (int p = 0; p < pass.parts; p++)
			AdaptWaiting(&pass, pass.tapes, p, FIRST_ROUND, &taker);
		RowTapesClose(pass.tapes);
	}
	MemoryContextSwitchTo(caller);
}
