/*-------------------------------------------------------------------------
 *
 * row_tapes.c
 *	  Rows that wait on disk: for those of their entity, in parts that are
 *	  taken back one at a time.
 *
 * A tape is a chain of chunks, all of one size but the last, in one temporary
 * file: a chunk is written at the end of the file when it is full.  So the file
 * is written from beginning to end, and in larger pieces than the server's own
 * logical tapes, whose blocks of a tape lie apart: that took the kernel three
 * times as long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/tablespace.h"
#include "query/row_tapes.h"
#include "storage/fd.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

/* Larger ones are no faster. */
#define MOST_CHUNK_SIZE (64 * 1024)

typedef struct Tape
{
	char	   *chunk;			/* that is being written, once there is one */
	Size		used;			/* bytes in it; when all is written, in the
								 * last one */
	int			chunks;			/* that are in the file, and where */
	int			room;
	off_t	   *at;
} Tape;

/* Sizes of what follows a row, where rows of the form have such things. */
typedef struct Tail
{
	Size		entity;			/* 0 where it is a value, and so on */
	Size		time;
	Size		lists;
} Tail;

struct RowTapes
{
	const RowForm *form;
	int16		typlen;			/* of entities */
	bool		typbyval;
	bool		has_tail;
	MemoryContext context;
	File		file;			/* -1 before the first chunk is written */
	off_t		size;			/* of the file */
	Size		chunk_size;
	int			tapes;
	Tape	   *tape;

	/* of the tape that is being read */
	int			reading;		/* which one, or -1 */
	char	   *chunk;
	int			next;			/* of its chunks */
	Size		position;		/* in the chunk, and its end */
	Size		end;
};

/* What is written of a row: from here on. */
#define FIRST_WRITTEN offsetof(KeptRow, time)

static char *
Written(const KeptRow *row)
{
	return (char *) row + FIRST_WRITTEN;
}

RowTapes *
RowTapesCreate(const RowForm *form, int tapes, Size memory, int16 typlen,
			   bool typbyval)
{
	RowTapes   *set = palloc(sizeof(RowTapes));
	Size		chunk = memory / tapes / BLCKSZ * BLCKSZ;

	set->form = form;
	set->typlen = typlen;
	set->typbyval = typbyval;
	set->has_tail = !typbyval || !form->event_time->by_value ||
		form->trained->interaction.has_lists;
	set->context = CurrentMemoryContext;
	set->file = -1;
	set->size = 0;
	set->chunk_size = Max(BLCKSZ, Min(chunk, MOST_CHUNK_SIZE));
	set->tapes = tapes;
	set->tape = palloc0(mul_size(sizeof(Tape), tapes));
	set->reading = -1;
	set->chunk = NULL;
	return set;
}

/* Writes a tape's chunk, which begins anew. */
static void
WriteChunk(RowTapes *tapes, Tape *tape)
{
	int			written;

	if (tapes->file < 0)
	{
		PrepareTempTablespaces();
		tapes->file = OpenTemporaryFile(false);
	}
	if (tape->chunks == tape->room)
	{
		tape->room = Max(2 * tape->room, 8);
		tape->at = tape->at ?
			repalloc_huge(tape->at, tape->room * sizeof(off_t)) :
			MemoryContextAlloc(tapes->context, tape->room * sizeof(off_t));
	}
	errno = 0;
	written = FileWrite(tapes->file, tape->chunk, (int) tape->used,
						tapes->size, WAIT_EVENT_BUFFILE_WRITE);
	if (written != (int) tape->used)
	{
		/* a disk that is full need not say so */
		if (written >= 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write to file \"%s\": %m",
						FilePathName(tapes->file))));
	}
	tape->at[tape->chunks++] = tapes->size;
	tapes->size += tape->used;
	tape->used = 0;
}

static inline void
Write(RowTapes *tapes, Tape *tape, const void *from, Size size)
{
	const char *bytes = from;

	if (tape->chunk == NULL)
		tape->chunk = MemoryContextAlloc(tapes->context, tapes->chunk_size);
	while (size > 0)
	{
		Size		some = Min(size, tapes->chunk_size - tape->used);

		memcpy(tape->chunk + tape->used, bytes, some);
		tape->used += some;
		bytes += some;
		size -= some;
		if (tape->used == tapes->chunk_size)
			WriteChunk(tapes, tape);
	}
}

void
RowTapeWrite(RowTapes *tapes, int tape, Datum entity, const KeptRow *row)
{
	Tape	   *to = &tapes->tape[tape];

	Assert(tapes->typlen != -1 ||
		   !VARATT_IS_EXTERNAL(DatumGetPointer(entity)));
	Write(tapes, to, &entity, sizeof(Datum));
	Write(tapes, to, Written(row), KeptRowSize(tapes->form) - FIRST_WRITTEN);
	if (tapes->has_tail)
	{
		Tail		tail = {
			.entity = tapes->typbyval ? 0 :
			datumGetSize(entity, false, tapes->typlen),
			.time = KeptTimeSize(tapes->form, row),
			.lists = KeptListsSize(row)
		};

		Write(tapes, to, &tail, sizeof(Tail));
		if (tail.entity > 0)
			Write(tapes, to, DatumGetPointer(entity), tail.entity);
		if (tail.time > 0)
			Write(tapes, to, DatumGetPointer(row->time), tail.time);
		if (tail.lists > 0)
			Write(tapes, to, row->lists, tail.lists);
	}
}

void
RowTapesWritten(RowTapes *tapes)
{
	for (int t = 0; t < tapes->tapes; t++)
	{
		Tape	   *tape = &tapes->tape[t];
		Size		last = tape->used;

		if (last > 0)
			WriteChunk(tapes, tape);
		else if (tape->chunks > 0)
			last = tapes->chunk_size;
		tape->used = last;
		if (tape->chunk)
			pfree(tape->chunk);
		tape->chunk = NULL;
	}
	tapes->chunk = MemoryContextAlloc(tapes->context, tapes->chunk_size);
}

/* Reads the next chunk of the tape that is being read; false at its end. */
static bool
ReadChunk(RowTapes *tapes)
{
	const Tape *tape = &tapes->tape[tapes->reading];
	int			read;

	if (tapes->next == tape->chunks)
		return false;
	tapes->position = 0;
	tapes->end = tapes->next == tape->chunks - 1 ?
		tape->used : tapes->chunk_size;
	read = FileRead(tapes->file, tapes->chunk, (int) tapes->end,
					tape->at[tapes->next++], WAIT_EVENT_BUFFILE_READ);
	if (read < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m",
						FilePathName(tapes->file))));
	if (read != (int) tapes->end)
		elog(ERROR, "unexpected end of a temporary file");
	return true;
}

/* Reads so many bytes; false where there is none. */
static bool
Read(RowTapes *tapes, void *to, Size size)
{
	char	   *bytes = to;
	Size		wanted = size;

	while (size > 0)
	{
		Size		some;

		if (tapes->position == tapes->end && !ReadChunk(tapes))
		{
			if (size < wanted)
				elog(ERROR, "unexpected end of a temporary file");
			return false;
		}
		some = Min(size, tapes->end - tapes->position);
		memcpy(bytes, tapes->chunk + tapes->position, some);
		tapes->position += some;
		bytes += some;
		size -= some;
	}
	return true;
}

static void
ReadAll(RowTapes *tapes, void *to, Size size)
{
	if (!Read(tapes, to, size))
		elog(ERROR, "unexpected end of a temporary file");
}

/* Something of this size, or NULL where that is 0. */
static void *
ReadPiece(RowTapes *tapes, Size size)
{
	void	   *piece;

	if (size == 0)
		return NULL;
	piece = palloc_extended(size, MCXT_ALLOC_HUGE);
	ReadAll(tapes, piece, size);
	return piece;
}

bool
RowTapeRead(RowTapes *tapes, int tape, Datum *entity, KeptRow *row)
{
	if (tapes->reading != tape)
	{
		tapes->reading = tape;
		tapes->next = 0;
		tapes->position = tapes->end = 0;
	}
	if (!Read(tapes, entity, sizeof(Datum)))
		return false;
	ReadAll(tapes, Written(row), KeptRowSize(tapes->form) - FIRST_WRITTEN);
	row->lists = NULL;
	if (tapes->has_tail)
	{
		Tail		tail;

		ReadAll(tapes, &tail, sizeof(Tail));
		if (tail.entity > 0)
			*entity = PointerGetDatum(ReadPiece(tapes, tail.entity));
		if (tail.time > 0)
			row->time = PointerGetDatum(ReadPiece(tapes, tail.time));
		row->lists = ReadPiece(tapes, tail.lists);
	}
	return true;
}

void
RowTapesClose(RowTapes *tapes)
{
	if (tapes->file >= 0)
		FileClose(tapes->file);
	for (int t = 0; t < tapes->tapes; t++)
		if (tapes->tape[t].at)
			pfree(tapes->tape[t].at);
	if (tapes->chunk)
		pfree(tapes->chunk);
	pfree(tapes->tape);
	pfree(tapes);
}
