/*-------------------------------------------------------------------------
 *
 * score_sort.h
 *	  Scored rows in the state of an aggregate, which come back in the order
 *	  of their scores.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_SCORE_SORT_H
#define QUERY_SCORE_SORT_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/sortsupport.h"
#include "utils/tuplesort.h"

/* A row: never NaN, and never -0 */
typedef struct ScoredRow
{
	double		score;
	double		value;
} ScoredRow;

/* There may be millions of these, one for each group of a query: keep it small */
typedef struct ScoreSort
{
	MemoryContext context;		/* of the aggregate's states */
	Oid			group_type;		/* InvalidOid: the rows have no groups */
	Oid			group_collation;
	int16		group_length;
	bool		group_by_value;

	/* Rows that score above these are not wanted, and left out at any time */
	int32		keep;			/* not 0: the first so many, and what ties */
	double		bound;

	/* Rows in memory, or after the spill in a tuplesort */
	int64		rows;			/* in memory */
	int64		capacity;
	Size		group_bytes;	/* of groups outside the array */
	char	   *array;
	Tuplesortstate *spill;
	TupleTableSlot *input;
	TupleTableSlot *output;
	bool		performed;		/* the tuplesort is sorted */
} ScoreSort;

/* Where the reading of a ScoreSort is */
typedef struct ScoreReader
{
	ScoreSort  *sort;
	SortSupport group_order;
	int64		position;		/* rows read */
	bool		pending;		/* there is a row to come */
	ScoredRow	next;
	Datum		next_group;
	Datum		group;			/* of the row before */
} ScoreReader;

/* Rows of one group with the same score */
typedef struct Ties
{
	double		score;
	int64		rows;
	int64		positives;		/* of them, with a value above 0 */
	double		sum;			/* of the values */
	bool		new_group;		/* they are the first of their group */
} Ties;

/* Groups are of a type with an order, or InvalidOid */
extern void InitScoreSort(ScoreSort *sort, MemoryContext context,
						  Oid group_type, Oid group_collation);

/*
 * Only in a transition or combine function, whose fcinfo it is.  It may come
 * after reading in a window function alone.
 */
extern void ScoreSortAdd(ScoreSort *sort, FunctionCallInfo fcinfo,
						 double score, double value, Datum group);

/*
 * Reading, in the order of group, score and value: whatever the order in which
 * the rows came.  Needs a memory context that outlives it.
 */
extern void ScoreSortStart(ScoreSort *sort, ScoreReader *reader);
extern bool ScoreSortTies(ScoreReader *reader, Ties *ties);

/* The rows as bytes for another process of this server */
extern void ScoreSortWrite(ScoreSort *sort, StringInfo buffer);
extern void ScoreSortRead(ScoreSort *sort, FunctionCallInfo fcinfo, StringInfo buffer);

#endif							/* QUERY_SCORE_SORT_H */
