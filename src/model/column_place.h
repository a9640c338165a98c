/*-------------------------------------------------------------------------
 *
 * column_place.h
 *	  Columns that lie at one place in every heap tuple without nulls, to be
 *	  read where they lie: for rows by the million, taking a tuple apart into
 *	  values costs more than most of what is done with them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_COLUMN_PLACE_H
#define MODEL_COLUMN_PLACE_H

#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/tupmacs.h"
#include "executor/tuptable.h"
#include "prefetch.h"

/* How far ahead a tuple is fetched. */
#define TUPLES_AHEAD 2

typedef struct ColumnPlace
{
	int			at;				/* bytes from where a tuple's data begins */
	int16		length;
	bool		by_value;
} ColumnPlace;

/*
 * The places of the first `count` columns; false where one of them is of
 * varying length, so that those after it have none.
 */
extern bool FindColumnPlaces(TupleDesc desc, int count, ColumnPlace *places);

/*
 * Where the data begins of the tuple that a slot holds; NULL where it holds
 * none that has so many columns and no nulls.
 */
static inline const char *
TupleDataInPlace(const TupleTableSlot *slot, int columns)
{
	HeapTuple	tuple;

	if (!TTS_IS_BUFFERTUPLE(slot) && !TTS_IS_HEAPTUPLE(slot))
		return NULL;

	/* a buffer's tuple begins as any heap tuple does */
	tuple = ((const HeapTupleTableSlot *) slot)->tuple;
	if (tuple == NULL || HeapTupleHasNulls(tuple) ||
		HeapTupleHeaderGetNatts(tuple->t_data) < columns)
		return NULL;
	return (const char *) tuple->t_data + tuple->t_data->t_hoff;
}

/*
 * Has memory fetch so many bytes of the data of what a slot that holds such a
 * tuple holds soon.  Tuples fill a page from its end to its beginning, in the
 * order they come; where there is something else instead, that is fetched in
 * vain.
 */
static inline void
PrefetchTuples(const TupleTableSlot *slot, int size)
{
	HeapTuple	tuple = ((const HeapTupleTableSlot *) slot)->tuple;
	Size		distance = TUPLES_AHEAD * MAXALIGN(tuple->t_len);

	/* of so few on a page most would be on another */
	if (distance < BLCKSZ / 2)
		Prefetch((const char *) tuple->t_data - distance,
				 tuple->t_data->t_hoff + size);
}

/* What is passed by reference stays in the tuple. */
static inline Datum
ColumnInPlace(const char *data, const ColumnPlace *place)
{
	return fetch_att(data + place->at, place->by_value, place->length);
}

#endif							/* MODEL_COLUMN_PLACE_H */
