/*-------------------------------------------------------------------------
 *
 * kept_rows.c
 *	  An entity's newest rows, kept in bounded memory while more come in any
 *	  order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "libpq/pqformat.h"
#include "prefetch.h"
#include "query/kept_rows.h"
#include "storage/shmem.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* Rows there is room for in an entity's first list. */
#define FIRST_ROWS 16

/* Rows there is room for in a block of slots at least. */
#define ROWS_OF_BLOCK 16

/* About what a copy of a time takes that is no value (numeric). */
#define TIME_COPY_SIZE 32

/* About how long the list of a row's categories is, and what a copy costs. */
#define TYPICAL_LIST 8
#define ALLOCATION_SIZE 16

StaticAssertDecl(offsetof(KeptRow, codes) ==
				 offsetof(KeptRow, label) + 2 * sizeof(float),
				 "padding between label and codes");

void
RowFormInit(RowForm *form, const TrainedNetwork *trained,
			const SourceColumn *event_time)
{
	TypeCacheEntry *type = lookup_type_cache(event_time->type,
											 TYPECACHE_LT_OPR);

	memset(form, 0, sizeof(*form));
	form->trained = trained;
	form->event_time = event_time;
	form->time_order.ssup_cxt = CurrentMemoryContext;
	PrepareSortSupportFromOrderingOp(type->lt_opr, &form->time_order);
}

/* Bytes of what the network sees of a row, but for its lists. */
static Size
SeenSize(const RowForm *form)
{
	return 2 * sizeof(float) +
		form->trained->interaction.count * sizeof(FeatureCode);
}

static unsigned char *
Seen(const KeptRow *row)
{
	return (unsigned char *) row + offsetof(KeptRow, label);
}

Size
KeptRowSize(const RowForm *form)
{
	return MAXALIGN(offsetof(KeptRow, label) + SeenSize(form));
}

Size
KeptTimeSize(const RowForm *form, const KeptRow *row)
{
	return form->event_time->by_value ? 0 :
		datumGetSize(row->time, false, form->event_time->length);
}

/* With the code that says how many they are. */
Size
KeptListsSize(const KeptRow *row)
{
	return row->lists ?
		sizeof(FeatureCode) * (1 + (Size) row->lists->count) : 0;
}

Size
KeptRowsSize(const RowForm *form)
{
	const Encoder *encoder = &form->trained->interaction;
	Size		row = KeptRowSize(form) + ALLOCATION_SIZE +
		2 * sizeof(KeptRow *);

	if (!form->event_time->by_value)
		row += TIME_COPY_SIZE;
	if (encoder->has_lists)
		row += ALLOCATION_SIZE;
	for (int f = 0; encoder->has_lists && f < encoder->count; f++)
		if (HasLists(&encoder->features[f]))
			row += (1 + (encoder->features[f].kind == FEATURE_VECTOR ?
						 encoder->features[f].size : TYPICAL_LIST)) *
				sizeof(FeatureCode);
	return sizeof(KeptRows) + 2 * form->trained->support_rows * row;
}

KeptRows *
NewKeptRows(RowForm *form, MemoryContext context, int count)
{
	MemoryContextReset(context);
	form->copies = context;
	form->slots = SlabContextCreate(context, "limaml row slots",
									Max(SLAB_DEFAULT_BLOCK_SIZE,
										ROWS_OF_BLOCK * KeptRowSize(form)),
									KeptRowSize(form));
	return MemoryContextAllocZero(context,
								  mul_size(sizeof(KeptRows), count));
}

KeptRow *
NewRow(const RowForm *form)
{
	KeptRow    *row = palloc0(KeptRowSize(form));

	row->item = NO_ITEM;
	return row;
}

void
SetRowLists(KeptRow *row, const CodeLists *lists)
{
	row->lists = NULL;
	if (lists->used == 0)
		return;
	row->lists = palloc_extended(mul_size(1 + (Size) lists->used,
										  sizeof(FeatureCode)),
								 MCXT_ALLOC_HUGE);
	row->lists->count = lists->used;
	memcpy(row->lists + 1, lists->codes, sizeof(FeatureCode) * lists->used);
}

static int
CompareTimes(const void *a, const void *b, void *arg)
{
	RowForm    *form = arg;

	return ApplySortComparator((*(KeptRow *const *) a)->time, false,
							   (*(KeptRow *const *) b)->time, false,
							   &form->time_order);
}

/* Rows of one time: by hash, and then by all there is. */
static int
CompareSameTime(const void *a, const void *b, void *arg)
{
	const RowForm *form = arg;
	const KeptRow *x = *(KeptRow *const *) a;
	const KeptRow *y = *(KeptRow *const *) b;
	Size		lists = KeptListsSize(x);
	int			order;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	order = memcmp(Seen(x), Seen(y), SeenSize(form));
	if (order == 0 && lists != KeptListsSize(y))
		order = lists < KeptListsSize(y) ? -1 : 1;
	if (order == 0 && lists > 0)
		order = memcmp(x->lists, y->lists, lists);
	return order;
}

/*
 * Which of the rows of one time count as newer is to have nothing to do with
 * their labels or any feature.  With the time in it the hash does not order
 * what happens again and again the same way every time.
 */
static uint64
RowHash(const RowForm *form, const KeptRow *row)
{
	uint64		hash = datum_image_hash(row->time, form->event_time->by_value,
										form->event_time->length);

	hash = hash_bytes_extended(Seen(row), (int) SeenSize(form), hash);
	if (row->lists)
		hash = hash_bytes_extended((const unsigned char *) row->lists,
								   (int) Min(KeptListsSize(row), PG_INT32_MAX),
								   hash);
	return hash;
}

/* Hashes are for rows of one time alone: most are of none. */
static void
SortRows(const RowForm *form, KeptRows *kept)
{
	void	   *arg = unconstify(RowForm *, form);
	int			first = 0;

	qsort_arg(kept->rows, kept->count, sizeof(KeptRow *), CompareTimes, arg);
	for (int i = 1; i <= kept->count; i++)
	{
		if (i < kept->count &&
			CompareTimes(&kept->rows[first], &kept->rows[i], arg) == 0)
			continue;
		for (int r = first; r < i && i - first > 1; r++)
			kept->rows[r]->hash = RowHash(form, kept->rows[r]);
		if (i - first > 1)
			qsort_arg(kept->rows + first, i - first, sizeof(KeptRow *),
					  CompareSameTime, arg);
		first = i;
	}
}

void
PrefetchRows(const RowForm *form, const KeptRows *kept)
{
	for (int i = 0; i < kept->count; i++)
		Prefetch(kept->rows[i], KeptRowSize(form));
}

void
KeepNewest(const RowForm *form, KeptRows *kept)
{
	int			older = kept->count - form->trained->support_rows;

	if (kept->count > 1)
		SortRows(form, kept);
	if (older <= 0)
		return;
	for (int i = 0; i < older; i++)
	{
		KeptRow    *row = kept->rows[i];

		if (!form->event_time->by_value)
			pfree(DatumGetPointer(row->time));
		if (row->lists)
			pfree(row->lists);
		pfree(row);
	}
	kept->count -= older;
	memmove(kept->rows, kept->rows + older, kept->count * sizeof(KeptRow *));
}

/* Room for one more row. */
static KeptRow *
NextRow(const RowForm *form, KeptRows *kept)
{
	int			most = 2 * form->trained->support_rows;

	if (kept->count == most)
		KeepNewest(form, kept);
	if (kept->count == kept->room)
	{
		Size		size;

		kept->room = Min(Max(2 * kept->room, FIRST_ROWS), most);
		size = kept->room * sizeof(KeptRow *);
		kept->rows = kept->rows ? repalloc(kept->rows, size) :
			MemoryContextAlloc(form->copies, size);
	}
	kept->rows[kept->count] = MemoryContextAlloc(form->slots,
												 KeptRowSize(form));
	return kept->rows[kept->count++];
}

void
KeepRow(const RowForm *form, KeptRows *kept, const KeptRow *row)
{
	KeptRow    *copy = NextRow(form, kept);

	MemoryContext old = MemoryContextSwitchTo(form->copies);

	memcpy(copy, row, KeptRowSize(form));
	if (!form->event_time->by_value)
		copy->time = datumCopy(row->time, false, form->event_time->length);
	if (row->lists)
	{
		copy->lists = palloc_extended(KeptListsSize(row), MCXT_ALLOC_HUGE);
		memcpy(copy->lists, row->lists, KeptListsSize(row));
	}
	if (row->item != NO_ITEM)
		kept->taken = bms_add_member(kept->taken, row->item);
	MemoryContextSwitchTo(old);
	kept->interactions++;
}

void
KeepRows(const RowForm *form, KeptRows *kept, const KeptRows *others)
{
	for (int i = 0; i < others->count; i++)
		KeepRow(form, kept, others->rows[i]);
	kept->interactions += others->interactions - others->count;
}

void
SendRows(const RowForm *form, KeptRows *kept, StringInfo buffer)
{
	FmgrInfo	send;
	Oid			function;
	bool		varlena;

	/* no more of them than the other side will want */
	KeepNewest(form, kept);
	pq_sendint64(buffer, kept->interactions);
	pq_sendint32(buffer, kept->count);
	if (kept->count == 0)
		return;
	getTypeBinaryOutputInfo(form->event_time->type, &function, &varlena);
	fmgr_info(function, &send);
	for (int i = 0; i < kept->count; i++)
	{
		const KeptRow *row = kept->rows[i];
		bytea	   *time = SendFunctionCall(&send, row->time);

		pq_sendint32(buffer, VARSIZE(time) - VARHDRSZ);
		pq_sendbytes(buffer, VARDATA(time), VARSIZE(time) - VARHDRSZ);
		pq_sendbytes(buffer, (char *) Seen(row), (int) SeenSize(form));
		pq_sendint32(buffer, row->lists ? row->lists->count : 0);
		if (row->lists)
			pq_sendbytes(buffer, (char *) RowLists(row),
						 (int) (KeptListsSize(row) - sizeof(FeatureCode)));
	}
}

/* Whether the network can have seen a row so. */
static bool
IsSeen(const RowForm *form, const KeptRow *row)
{
	const TrainedNetwork *trained = form->trained;

	return isfinite(row->label) && isfinite(row->weight) &&
		row->weight >= 0 &&
		(trained->shape.loss != LOSS_BINARY || row->label == 0 ||
		 row->label == 1) &&
		CodesAreValid(&trained->interaction, row->codes, RowLists(row),
					  row->lists ? row->lists->count : 0);
}

/* The lists that a row has in the buffer. */
static void
ReceiveLists(KeptRow *row, StringInfo buffer)
{
	int			count = (int) pq_getmsgint(buffer, 4);
	const char *codes;

	row->lists = NULL;
	if (count == 0)
		return;
	if (count < 0 || count > (buffer->len - buffer->cursor) /
		(int) sizeof(FeatureCode))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("insufficient data left in message")));
	codes = pq_getmsgbytes(buffer, count * (int) sizeof(FeatureCode));
	row->lists = palloc(sizeof(FeatureCode) * (1 + (Size) count));
	row->lists->count = count;
	memcpy(row->lists + 1, codes, sizeof(FeatureCode) * count);
}

bool
ReceiveRows(const RowForm *form, KeptRows *kept, StringInfo buffer)
{
	int64		interactions = pq_getmsgint64(buffer);
	int			count = (int) pq_getmsgint(buffer, 4);
	KeptRow    *row;
	FmgrInfo	receive;
	Oid			function;
	Oid			parameter;

	if (count < 0 || count > form->trained->support_rows ||
		interactions < count || (count > 0 && !form->event_time))
		return false;
	if (count > 0)
	{
		getTypeBinaryInputInfo(form->event_time->type, &function, &parameter);
		fmgr_info(function, &receive);
	}
	row = NewRow(form);
	for (int i = 0; i < count; i++)
	{
		int			size = (int) pq_getmsgint(buffer, 4);
		StringInfoData time;

		/* as a client's value: it is looked at before it is believed */
		initStringInfo(&time);
		appendBinaryStringInfo(&time, pq_getmsgbytes(buffer, size), size);
		row->time = ReceiveFunctionCall(&receive, &time, parameter, -1);
		if (time.cursor != size)
			return false;
		pq_copymsgbytes(buffer, (char *) Seen(row), (int) SeenSize(form));
		ReceiveLists(row, buffer);
		if (!IsSeen(form, row))
			return false;
		KeepRow(form, kept, row);
	}
	kept->interactions = interactions;
	return true;
}
