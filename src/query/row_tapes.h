/*-------------------------------------------------------------------------
 *
 * row_tapes.h
 *	  Rows that wait on disk: for those of their entity, in parts that are
 *	  taken back one at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_ROW_TAPES_H
#define QUERY_ROW_TAPES_H

#include "postgres.h"

#include "query/kept_rows.h"

typedef struct RowTapes RowTapes;

/* Memory that a tape takes at least while it is written. */
#define ROW_TAPE_SIZE (BLCKSZ + 64)

/*
 * So many tapes, in the current memory context, that are written through this
 * much memory if it is enough for them; what is in their file goes with the
 * transaction.  With each row goes a value that tells its entity, of a type of
 * this length that is passed so.
 */
extern RowTapes *RowTapesCreate(const RowForm *form, int tapes, Size memory,
								int16 typlen, bool typbyval);

/* Adds a row to a tape. */
extern void RowTapeWrite(RowTapes *tapes, int tape, Datum entity,
						 const KeptRow *row);

/* No more rows come: the memory for writing is given back. */
extern void RowTapesWritten(RowTapes *tapes);

/*
 * Takes the next row of a tape back, or returns false at its end; tapes are
 * taken back one after another.  What is no value of the entity and the row is
 * in the current memory context.
 */
extern bool RowTapeRead(RowTapes *tapes, int tape, Datum *entity,
						KeptRow *row);

extern void RowTapesClose(RowTapes *tapes);

#endif							/* QUERY_ROW_TAPES_H */
