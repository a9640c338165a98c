/*-------------------------------------------------------------------------
 *
 * kept_rows.h
 *	  An entity's newest rows, kept in bounded memory while more come in any
 *	  order.
 *
 * What is kept is final: which rows they are, and in which order, depends on
 * nothing but the rows.  Of rows of one time, which count as newer is decided by
 * a hash of the time and of all that the network sees of a row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_KEPT_ROWS_H
#define QUERY_KEPT_ROWS_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/sortsupport.h"

#include "model/trained_network.h"
#include "query/source.h"

typedef struct KeptRow
{
	FeatureCode *lists;			/* of codes: how many more codes they are, and
								 * those; a copy, or NULL */
	uint64		hash;			/* among rows of one time, once they are in order */
	Datum		time;			/* a copy where it is a pointer */
	int32		item;			/* of those that negatives are drawn from, or
								 * NO_ITEM */

	/*
	 * What the network sees of it, as bytes that are alike where it is: there
	 * is no padding, -0 is 0, and there is one NaN.
	 */
	float		label;
	float		weight;
	FeatureCode codes[FLEXIBLE_ARRAY_MEMBER];
} KeptRow;

/*
 * The newest rows, and up to as many older ones that go when the list is full.
 * Zeros are no rows.
 */
typedef struct KeptRows
{
	KeptRow   **rows;
	int			count;
	int			room;
	int64		interactions;	/* all that were seen */
	Bitmapset  *taken;			/* items of all that were seen */
} KeptRows;

/* What rows of a network and a source are like, and where they are kept. */
typedef struct RowForm
{
	const TrainedNetwork *trained;
	const SourceColumn *event_time;
	SortSupportData time_order;
	MemoryContext slots;		/* of rows, all of one size */
	MemoryContext copies;		/* of lists of rows, their times and codes */
} RowForm;

/* Readies it for this event time; it lives in the current memory context. */
extern void RowFormInit(RowForm *form, const TrainedNetwork *trained,
						const SourceColumn *event_time);

/* Bytes of a row, and of what a row has beside it. */
extern Size KeptRowSize(const RowForm *form);
extern Size KeptTimeSize(const RowForm *form, const KeptRow *row);
extern Size KeptListsSize(const KeptRow *row);

/* About how many bytes an entity's rows may take. */
extern Size KeptRowsSize(const RowForm *form);

/*
 * Lists for so many entities, none of which has a row yet.  They and all that
 * is kept in them live in this context, which has nothing else, and in place of
 * what was kept there.
 */
extern KeptRows *NewKeptRows(RowForm *form, MemoryContext context, int count);

/* Room for a row, in the current memory context; all of it zero, and no item. */
extern KeptRow *NewRow(const RowForm *form);

/* The row's lists of codes as they are kept, in the current memory context. */
extern void SetRowLists(KeptRow *row, const CodeLists *lists);

/* The lists that its codes say places in; NULL without any. */
static inline const FeatureCode *
RowLists(const KeptRow *row)
{
	return row->lists ? row->lists + 1 : NULL;
}

/* Keeps a row, of which everything is copied. */
extern void KeepRow(const RowForm *form, KeptRows *kept, const KeptRow *row);

/* Keeps another's rows, as many as are left of them. */
extern void KeepRows(const RowForm *form, KeptRows *kept,
					 const KeptRows *others);

/* Puts rows in order, oldest first, and drops all but the newest. */
extern void KeepNewest(const RowForm *form, KeptRows *kept);

/*
 * Rows as bytes, for the same program on a machine of this kind.  Receiving
 * trusts nothing: it returns false, or throws, where they cannot be rows that
 * the network has seen.
 */
extern void SendRows(const RowForm *form, KeptRows *kept, StringInfo buffer);
extern bool ReceiveRows(const RowForm *form, KeptRows *kept,
						StringInfo buffer);

/* Has memory fetch rows that are needed soon. */
extern void PrefetchRows(const RowForm *form, const KeptRows *kept);

#endif							/* QUERY_KEPT_ROWS_H */
