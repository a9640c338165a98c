/*-------------------------------------------------------------------------
 *
 * score_sort.c
 *	  Scored rows in the state of an aggregate, which come back in the order
 *	  of their scores.
 *
 * Rows start in an array: a query that groups by member has as many of these
 * as members, and a tuplesort alone would take more memory than most members'
 * rows.  An array that outgrows half of work_mem moves into a tuplesort, which
 * spills to disk; so does one of 64 kB and more as soon as the states of the
 * query together take what a hash table may.  A window function alone keeps
 * its array: it adds rows after reading, which no tuplesort can, and has no
 * callback that could close the files.
 *
 * Rows are ordered by value, too, where they tie.  So whatever is added up
 * over them is added in one order, and has the same bits for every order of
 * the input and every number of workers.
 *
 *-------------------------------------------------------------------------
 */
#include "query/score_sort.h"

#include <math.h>

#include "access/tupdesc.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#define INITIAL_ROWS 8

/* An array below this stays one: a tuplesort would take as much */
#define SMALL_ARRAY ((Size) 64 * 1024)

/* A row of the array where rows have groups */
typedef struct GroupedRow
{
	ScoredRow	row;
	Datum		group;
} GroupedRow;

/* Columns of the tuplesort */
enum
{
	COLUMN_SCORE,
	COLUMN_VALUE,
	COLUMN_GROUP
};

static inline int
CompareRows(const ScoredRow *a, const ScoredRow *b)
{
	if (a->score != b->score)
		return a->score < b->score ? -1 : 1;
	return (a->value > b->value) - (a->value < b->value);
}

static inline int
CompareGroupedRows(const GroupedRow *a, const GroupedRow *b, SortSupport order)
{
	int			result = ApplySortComparator(a->group, false, b->group, false, order);

	return result != 0 ? result : CompareRows(&a->row, &b->row);
}

#define ST_SORT SortRows
#define ST_ELEMENT_TYPE ScoredRow
#define ST_COMPARE(a, b) CompareRows(a, b)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

#define ST_SORT SortGroupedRows
#define ST_ELEMENT_TYPE GroupedRow
#define ST_COMPARE_ARG_TYPE SortSupportData
#define ST_COMPARE(a, b, order) CompareGroupedRows(a, b, order)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static inline bool
HasGroups(const ScoreSort *sort)
{
	return OidIsValid(sort->group_type);
}

static inline Size
RowSize(const ScoreSort *sort)
{
	return HasGroups(sort) ? sizeof(GroupedRow) : sizeof(ScoredRow);
}

static inline ScoredRow *
RowAt(const ScoreSort *sort, int64 i)
{
	return (ScoredRow *) (sort->array + i * RowSize(sort));
}

static inline Datum
GroupAt(const ScoreSort *sort, int64 i)
{
	return HasGroups(sort) ? ((GroupedRow *) RowAt(sort, i))->group : (Datum) 0;
}

void
InitScoreSort(ScoreSort *sort, MemoryContext context, Oid group_type, Oid group_collation)
{
	memset(sort, 0, sizeof(ScoreSort));
	sort->context = context;
	sort->group_type = group_type;
	sort->group_collation = group_collation;
	sort->bound = get_float8_infinity();

	if (HasGroups(sort))
		get_typlenbyval(group_type, &sort->group_length, &sort->group_by_value);
}

/*
 * The operator that orders the groups
 */
static Oid
GroupOperator(const ScoreSort *sort)
{
	TypeCacheEntry *entry = lookup_type_cache(sort->group_type, TYPECACHE_LT_OPR);

	if (!OidIsValid(entry->lt_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an ordering operator for type %s",
						format_type_be(sort->group_type))));

	return entry->lt_opr;
}

static SortSupport
MakeGroupOrder(const ScoreSort *sort)
{
	SortSupport order = palloc0(sizeof(SortSupportData));

	order->ssup_cxt = CurrentMemoryContext;
	order->ssup_collation = sort->group_collation;
	PrepareSortSupportFromOrderingOp(GroupOperator(sort), order);
	return order;
}

static void
SortArray(ScoreSort *sort, SortSupport order)
{
	if (HasGroups(sort))
		SortGroupedRows((GroupedRow *) sort->array, sort->rows, order);
	else
		SortRows((ScoredRow *) sort->array, sort->rows);
}

/*
 * Drop the rows of the array that are not wanted
 */
static void
Prune(ScoreSort *sort)
{
	ScoredRow  *rows = (ScoredRow *) sort->array;
	int64		left = 0;

	Assert(!HasGroups(sort));

	if (sort->keep > 0 && sort->rows >= sort->keep)
	{
		SortArray(sort, NULL);
		sort->bound = Min(sort->bound, rows[sort->keep - 1].score);
	}

	for (int64 i = 0; i < sort->rows; i++)
	{
		if (rows[i].score <= sort->bound)
			rows[left++] = rows[i];
	}
	sort->rows = left;
}

static void
EndSpill(Datum arg)
{
	ScoreSort  *sort = (ScoreSort *) DatumGetPointer(arg);

	ExecDropSingleTupleTableSlot(sort->input);
	ExecDropSingleTupleTableSlot(sort->output);
	tuplesort_end(sort->spill);
	sort->spill = NULL;
}

static void
PutRow(ScoreSort *sort, const ScoredRow *row, Datum group)
{
	TupleTableSlot *slot = sort->input;

	ExecClearTuple(slot);
	slot->tts_values[COLUMN_SCORE] = Float8GetDatum(row->score);
	slot->tts_values[COLUMN_VALUE] = Float8GetDatum(row->value);
	slot->tts_isnull[COLUMN_SCORE] = false;
	slot->tts_isnull[COLUMN_VALUE] = false;
	if (HasGroups(sort))
	{
		slot->tts_values[COLUMN_GROUP] = group;
		slot->tts_isnull[COLUMN_GROUP] = false;
	}
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(sort->spill, slot);
}

/*
 * Move the array into a tuplesort that takes so many kB
 */
static void
Spill(ScoreSort *sort, FunctionCallInfo fcinfo, int memory)
{
	MemoryContext caller = MemoryContextSwitchTo(sort->context);
	TupleDesc	columns = CreateTemplateTupleDesc(HasGroups(sort) ? 3 : 2);
	AttrNumber	numbers[3];
	Oid			operators[3];
	Oid			collations[3];
	bool		nulls_first[3] = {false, false, false};
	int			keys = 0;

	TupleDescInitEntry(columns, COLUMN_SCORE + 1, "score", FLOAT8OID, -1, 0);
	TupleDescInitEntry(columns, COLUMN_VALUE + 1, "value", FLOAT8OID, -1, 0);
	if (HasGroups(sort))
	{
		TupleDescInitEntry(columns, COLUMN_GROUP + 1, "group", sort->group_type, -1, 0);
		numbers[keys] = COLUMN_GROUP + 1;
		operators[keys] = GroupOperator(sort);
		collations[keys++] = sort->group_collation;
	}
	for (int column = COLUMN_SCORE; column <= COLUMN_VALUE; column++)
	{
		numbers[keys] = column + 1;
		operators[keys] = Float8LessOperator;
		collations[keys++] = InvalidOid;
	}

	sort->input = MakeSingleTupleTableSlot(columns, &TTSOpsVirtual);
	sort->output = MakeSingleTupleTableSlot(columns, &TTSOpsMinimalTuple);

	/* Aggregates that share the state read it anew, and so does a rescan of a HashAggregate */
	sort->spill = tuplesort_begin_heap(columns, keys, numbers, operators, collations, nulls_first,
									   memory, NULL, TUPLESORT_RANDOMACCESS);

	/* With the context goes its memory alone: its files have to be closed */
	AggRegisterCallback(fcinfo, EndSpill, PointerGetDatum(sort));

	for (int64 i = 0; i < sort->rows; i++)
	{
		Datum		group = GroupAt(sort, i);

		CHECK_FOR_INTERRUPTS();
		PutRow(sort, RowAt(sort, i), group);
		if (HasGroups(sort) && !sort->group_by_value)
			pfree(DatumGetPointer(group));
	}

	pfree(sort->array);
	sort->array = NULL;
	sort->rows = 0;
	sort->capacity = 0;
	sort->group_bytes = 0;
	MemoryContextSwitchTo(caller);
}

/*
 * Spill if an array of this capacity takes too much memory
 */
static void
SpillIfLarge(ScoreSort *sort, FunctionCallInfo fcinfo, int64 capacity)
{
	Size		size = capacity * RowSize(sort) + sort->group_bytes;

	if (AggCheckCallContext(fcinfo, NULL) != AGG_CONTEXT_AGGREGATE)
		return;

	if (size > (Size) work_mem * 1024 / 2)
		Spill(sort, fcinfo, work_mem);
	else if (size > SMALL_ARRAY &&
			 MemoryContextMemAllocated(sort->context, true) > get_hash_memory_limit())
		Spill(sort, fcinfo, size / 1024);
}

/*
 * Make room for a row in a full array, or spill
 */
static void
MakeRoom(ScoreSort *sort, FunctionCallInfo fcinfo)
{
	if (sort->array == NULL)
	{
		sort->array = MemoryContextAlloc(sort->context, INITIAL_ROWS * RowSize(sort));
		sort->capacity = INITIAL_ROWS;
		return;
	}

	if (!HasGroups(sort))
	{
		Prune(sort);
		if (sort->rows <= sort->capacity / 2)
			return;
	}

	SpillIfLarge(sort, fcinfo, sort->capacity * 2);
	if (sort->spill == NULL)
	{
		sort->capacity *= 2;
		sort->array = repalloc_huge(sort->array, sort->capacity * RowSize(sort));
	}
}

void
ScoreSortAdd(ScoreSort *sort, FunctionCallInfo fcinfo, double score, double value, Datum group)
{
	ScoredRow	row = {score + 0.0, value + 0.0};	/* -0 becomes 0 */

	Assert(!isnan(score) && !isnan(value));
	Assert(!sort->performed);

	if (row.score > sort->bound)
		return;

	if (sort->spill == NULL && sort->rows == sort->capacity)
		MakeRoom(sort, fcinfo);

	if (HasGroups(sort) && sort->group_length == -1)
		group = PointerGetDatum(PG_DETOAST_DATUM_PACKED(group));

	if (sort->spill)
	{
		PutRow(sort, &row, group);
		return;
	}

	*RowAt(sort, sort->rows) = row;
	if (HasGroups(sort))
	{
		if (!sort->group_by_value)
		{
			MemoryContext caller = MemoryContextSwitchTo(sort->context);

			group = datumCopy(group, false, sort->group_length);
			sort->group_bytes += GetMemoryChunkSpace(DatumGetPointer(group));
			MemoryContextSwitchTo(caller);
		}
		((GroupedRow *) RowAt(sort, sort->rows))->group = group;
	}
	sort->rows++;

	/* Groups may be large while their array is not full */
	if (sort->group_bytes > (Size) work_mem * 1024 / 2)
		SpillIfLarge(sort, fcinfo, sort->capacity);
}

/*
 * Read the next row into "next"
 */
static void
FetchRow(ScoreReader *reader)
{
	ScoreSort  *sort = reader->sort;

	CHECK_FOR_INTERRUPTS();

	if (sort->spill == NULL)
	{
		reader->pending = reader->position < sort->rows;
		if (reader->pending)
		{
			reader->next = *RowAt(sort, reader->position);
			reader->next_group = GroupAt(sort, reader->position);
			reader->position++;
		}
		return;
	}

	/* The tuple stays the tuplesort's, and is valid until the next one */
	reader->pending = tuplesort_gettupleslot(sort->spill, true, false, sort->output, NULL);
	if (reader->pending)
	{
		slot_getallattrs(sort->output);
		reader->next.score = DatumGetFloat8(sort->output->tts_values[COLUMN_SCORE]);
		reader->next.value = DatumGetFloat8(sort->output->tts_values[COLUMN_VALUE]);
		if (HasGroups(sort))
			reader->next_group = sort->output->tts_values[COLUMN_GROUP];
		reader->position++;
	}
}

/*
 * Whether the row to come is of the same group as the one before
 */
static bool
SameGroup(ScoreReader *reader)
{
	return !HasGroups(reader->sort) ||
		ApplySortComparator(reader->group, false, reader->next_group, false, reader->group_order) == 0;
}

/*
 * Enter the group of the row to come if it is another one, and say whether
 */
static bool
EnterGroup(ScoreReader *reader)
{
	ScoreSort  *sort = reader->sort;
	bool		first = reader->position == 1;

	if (!first && SameGroup(reader))
		return false;

	if (HasGroups(sort))
	{
		if (!first && !sort->group_by_value)
			pfree(DatumGetPointer(reader->group));
		reader->group = datumCopy(reader->next_group, sort->group_by_value, sort->group_length);
	}
	return true;
}

void
ScoreSortStart(ScoreSort *sort, ScoreReader *reader)
{
	reader->sort = sort;
	reader->group_order = HasGroups(sort) ? MakeGroupOrder(sort) : NULL;
	reader->position = 0;

	if (sort->spill == NULL)
		SortArray(sort, reader->group_order);
	else if (sort->performed)
		tuplesort_rescan(sort->spill);
	else
	{
		tuplesort_performsort(sort->spill);
		sort->performed = true;
	}

	FetchRow(reader);
}

bool
ScoreSortTies(ScoreReader *reader, Ties *ties)
{
	if (!reader->pending)
		return false;

	ties->new_group = EnterGroup(reader);
	ties->score = reader->next.score;
	ties->rows = 0;
	ties->positives = 0;
	ties->sum = 0.0;

	do
	{
		ties->rows++;
		ties->positives += reader->next.value > 0.0;
		ties->sum += reader->next.value;
		FetchRow(reader);
	} while (reader->pending && reader->next.score == ties->score && SameGroup(reader));

	return true;
}

/*
 * Make room for so many bytes.  A StringInfo ends at 1 GB, as the bytea that it
 * becomes does, and would say so less clearly.
 */
static void
Reserve(StringInfo buffer, Size size)
{
	if (buffer->len + size > MaxAllocSize - 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a parallel worker has too many scored rows to hand over"),
				 errhint("Set max_parallel_workers_per_gather to 0 for this query.")));
	enlargeStringInfo(buffer, size);
}

/*
 * Rows are written in order.  If there are groups, each row follows a byte: 1
 * and the group, or 0 for that of the row before.
 */
void
ScoreSortWrite(ScoreSort *sort, StringInfo buffer)
{
	ScoreReader reader;
	int64		count_at = buffer->len;
	int64		count = 0;

	/* How many are left of the wanted ones is known at the end */
	pq_sendint64(buffer, 0);

	for (ScoreSortStart(sort, &reader);
		 reader.pending && reader.next.score <= sort->bound;
		 FetchRow(&reader))
	{
		if (HasGroups(sort))
		{
			bool		entered = EnterGroup(&reader);

			Reserve(buffer, 1);
			pq_sendbyte(buffer, entered);
			if (entered)
			{
				Size		size = datumEstimateSpace(reader.group, false, sort->group_by_value,
													  sort->group_length);
				char	   *end;

				Reserve(buffer, size);
				end = buffer->data + buffer->len;
				datumSerialize(reader.group, false, sort->group_by_value, sort->group_length, &end);
				buffer->len = end - buffer->data;
			}
		}
		Reserve(buffer, sizeof(ScoredRow));
		appendBinaryStringInfo(buffer, (char *) &reader.next, sizeof(ScoredRow));

		if (++count == sort->keep)
			sort->bound = reader.next.score;
	}

	/* Whatever is beyond this process's bound is beyond that of all */
	pq_sendfloat8(buffer, sort->bound);

	count = pg_hton64(count);
	memcpy(buffer->data + count_at, &count, sizeof(count));
}

void
ScoreSortRead(ScoreSort *sort, FunctionCallInfo fcinfo, StringInfo buffer)
{
	int64		count = pq_getmsgint64(buffer);
	Datum		group = (Datum) 0;
	double		bound;

	for (int64 i = 0; i < count; i++)
	{
		ScoredRow	row;

		CHECK_FOR_INTERRUPTS();

		if (HasGroups(sort) && pq_getmsgbyte(buffer) == 1)
		{
			char	   *start = buffer->data + buffer->cursor;
			bool		isnull;

			if (i > 0 && !sort->group_by_value)
				pfree(DatumGetPointer(group));
			group = datumRestore(&start, &isnull);
			buffer->cursor = start - buffer->data;
		}
		pq_copymsgbytes(buffer, (char *) &row, sizeof(row));
		ScoreSortAdd(sort, fcinfo, row.score, row.value, group);
	}

	bound = pq_getmsgfloat8(buffer);
	sort->bound = Min(sort->bound, bound);
}
