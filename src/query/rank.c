/*-------------------------------------------------------------------------
 *
 * rank.c
 *	  limaml_rank and limaml_top: the best of many candidates.
 *
 * Candidates are encoded as they come and scored a block at a time.  One that
 * is no better than the worst of the k best so far goes at once: it is neither
 * kept nor given a form, and what comes out is the same.  Candidates of equal
 * scores stand in the order they came in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "query/candidate.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

/* Candidates that are scored together. */
#define BLOCK_ROWS 128

/* Places there are for the best at first. */
#define FIRST_BEST 64

/* One of the best so far. */
typedef struct Best
{
	float		score;
	int64		arrival;
	void	   *row;			/* the caller's */
} Best;

/* The k best, the worst of them on top. */
typedef struct BestHeap
{
	int64		most;			/* k */
	binaryheap *heap;
} BestHeap;

/* A block of candidates that are not scored yet, for one entity. */
typedef struct CandidateBlock
{
	int			count;
	int			width;			/* of an encoding */
	float	   *z;				/* BLOCK_ROWS x width */
	float	   *offset;
	float	   *score;
	float	   *memory;			/* network_score's */
} CandidateBlock;

/* The worse is the larger: it goes first. */
static int
CompareBest(Datum a, Datum b, void *arg)
{
	const Best *x = (const Best *) DatumGetPointer(a);
	const Best *y = (const Best *) DatumGetPointer(b);

	if (x->score != y->score)
		return x->score < y->score ? 1 : -1;
	return x->arrival > y->arrival ? 1 : -1;
}

static void
HeapInit(BestHeap *best, int64 most)
{
	best->most = most;
	best->heap = binaryheap_allocate((int) Min(most, FIRST_BEST), CompareBest,
									 NULL);
}

/* Whether a candidate that comes now would be among the best. */
static bool
Enters(const BestHeap *best, float score)
{
	return best->heap->bh_size < best->most ||
		score > ((Best *) DatumGetPointer(binaryheap_first(best->heap)))->score;
}

/*
 * Puts one in that enters.  Returns the row that it drives out, or NULL; what
 * the heap needs is in the current memory context, in which it was made.
 */
static void *
PutIn(BestHeap *best, float score, int64 arrival, void *row)
{
	binaryheap *heap = best->heap;
	Best	   *entry;
	void	   *out;

	if (heap->bh_size == best->most)
	{
		entry = (Best *) DatumGetPointer(binaryheap_first(heap));
		out = entry->row;
		*entry = (Best) {score, arrival, row};
		binaryheap_replace_first(heap, PointerGetDatum(entry));
		return out;
	}
	if (heap->bh_size == heap->bh_space)
	{
		binaryheap *larger;

		if (heap->bh_size > INT_MAX / 2)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many candidates")));
		larger = binaryheap_allocate((int) Min(2 * (int64) heap->bh_space,
											   best->most),
									 CompareBest, NULL);
		larger->bh_size = heap->bh_size;
		larger->bh_has_heap_property = true;
		memcpy(larger->bh_nodes, heap->bh_nodes,
			   sizeof(heap->bh_nodes[0]) * heap->bh_size);
		binaryheap_free(heap);
		heap = best->heap = larger;
	}
	entry = palloc(sizeof(Best));
	*entry = (Best) {score, arrival, row};
	binaryheap_add(heap, PointerGetDatum(entry));
	return NULL;
}

/* Empties the heap into an array, best first. */
static Best *
TakeBest(BestHeap *best, int *count)
{
	Best	   *sorted;

	*count = best->heap->bh_size;
	sorted = MemoryContextAllocHuge(CurrentMemoryContext,
									sizeof(Best) * Max(*count, 1));
	for (int i = *count - 1; i >= 0; i--)
		sorted[i] = *(Best *) DatumGetPointer(binaryheap_remove_first(best->heap));
	return sorted;
}

static void
BlockInit(CandidateBlock *block, const TrainedNetwork *trained)
{
	block->count = 0;
	block->width = trained->interaction.width;
	block->z = palloc(sizeof(float) * BLOCK_ROWS * Max(block->width, 1));
	block->offset = palloc(sizeof(float) * BLOCK_ROWS);
	block->score = palloc(sizeof(float) * BLOCK_ROWS);
	block->memory = palloc(sizeof(float) *
						   network_score_size(&trained->shape, BLOCK_ROWS));
}

static float *
NextEncoding(CandidateBlock *block)
{
	return block->z + (Size) block->count * block->width;
}

static void
ScoreBlock(const ModelUse *use, CandidateBlock *block, const EntityVector *vector)
{
	network_score(&use->trained->network, vector->entity, block->count,
				  block->z, block->width, block->offset, block->memory,
				  block->score);
	Predict(use, block->count, block->score);
}

/*
 * limaml_rank
 */

/* Takes the candidates as the executor finds them. */
typedef struct RankReceiver
{
	DestReceiver receiver;		/* first, for it is what the executor knows */
	const ModelUse *use;
	const EntityVector *vector;
	MemoryContext context;		/* holds all of it */
	MemoryContext rows;			/* of the block */
	MemoryContext reading;		/* of the row */
	TupleDesc	desc;
	ColumnReader *readers;
	int		   *column;
	CodeLists	lists;			/* of one column */
	CandidateBlock block;
	MinimalTuple row[BLOCK_ROWS];
	BestHeap	best;
	int64		arrived;
} RankReceiver;

static void
StartRanking(DestReceiver *self, int operation, TupleDesc desc)
{
	RankReceiver *rank = (RankReceiver *) self;
	const TrainedNetwork *trained = rank->use->trained;
	MemoryContext old = MemoryContextSwitchTo(rank->context);

	rank->desc = CreateTupleDescCopy(desc);
	rank->readers = palloc0(sizeof(ColumnReader) *
							Max(trained->interaction.count, 1));
	rank->column = palloc(sizeof(int) * Max(trained->interaction.count, 1));
	CandidateColumns(rank->use, rank->desc, "record", rank->readers,
					 rank->column);
	MemoryContextSwitchTo(old);
}

static void
RankBlock(RankReceiver *rank)
{
	MemoryContext old = MemoryContextSwitchTo(rank->context);

	ScoreBlock(rank->use, &rank->block, rank->vector);
	for (int i = 0; i < rank->block.count; i++)
	{
		int64		arrival = rank->arrived++;
		void	   *out;

		if (!Enters(&rank->best, rank->block.score[i]))
			continue;
		out = PutIn(&rank->best, rank->block.score[i], arrival,
					CopyMinimalTuple(rank->row[i]));
		if (out)
			pfree(out);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(rank->rows);
	rank->block.count = 0;
}

static bool
ReceiveCandidate(TupleTableSlot *slot, DestReceiver *self)
{
	RankReceiver *rank = (RankReceiver *) self;
	const Encoder *encoder = &rank->use->trained->interaction;
	int			features = CandidateFeatures(rank->use->trained);
	float	   *z = NextEncoding(&rank->block);
	float		offset = 0;
	MemoryContext old;

	slot_getallattrs(slot);
	MemoryContextReset(rank->reading);
	old = MemoryContextSwitchTo(rank->reading);
	for (int f = 0; f < features; f++)
		offset += EncodeColumn(&rank->readers[f], &encoder->features[f],
							   slot->tts_values[rank->column[f]],
							   slot->tts_isnull[rank->column[f]],
							   &rank->lists, z);

	/* to the arm `id` the entity is a feature */
	if (features < encoder->count)
		offset += EncodeCode(&encoder->features[features],
							 (FeatureCode) {.row = rank->vector->id}, NULL, z);
	MemoryContextSwitchTo(rank->rows);
	rank->row[rank->block.count] = ExecCopySlotMinimalTuple(slot);
	MemoryContextSwitchTo(old);
	rank->block.offset[rank->block.count++] = offset;
	if (rank->block.count == BLOCK_ROWS)
		RankBlock(rank);
	return true;
}

static void
EndRanking(DestReceiver *self)
{
}

/* The query that gives the candidates: it, or that of a relation's rows. */
static char *
CandidatesQuery(const char *candidates)
{
	List	   *names;
	RangeVar   *range;
	Oid			relation;

	/* what is no name, plain or qualified, is a query */
	if (!SplitIdentifierString(pstrdup(candidates), '.', &names))
		return pstrdup(candidates);
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("candidates must not be empty"),
				 errhint("Give a relation's name or a query.")));
	names = textToQualifiedNameList(cstring_to_text(candidates));
	range = makeRangeVarFromNameList(names);
	relation = RangeVarGetRelid(range, NoLock, true);
	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist",
						NameListToString(names)),
				 errhint("Candidates are a relation's name or a query, such as SELECT * FROM items WHERE in_stock.")));
	return psprintf("TABLE %s",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
											   get_rel_name(relation)));
}

static SPIPlanPtr
PrepareCandidates(const char *sql)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, 0, NULL,
										  CURSOR_OPT_PARALLEL_OK);
	List	   *sources;
	CachedPlanSource *source;
	Query	   *query;

	if (plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("candidates cannot be given by such a statement"),
				 errhint("Give a relation's name or a query.")));
	sources = SPI_plan_get_plan_sources(plan);
	if (list_length(sources) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg_plural("candidates are given by %d statement, where one query is expected",
							   "candidates are given by %d statements, where one query is expected",
							   list_length(sources), list_length(sources))));
	source = linitial(sources);
	if (source->commandTag != CMDTAG_SELECT || source->resultDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("candidates are given by %s, where a query is expected",
						source->commandTag == CMDTAG_SELECT ? "SELECT INTO" :
						GetCommandTagName(source->commandTag)),
				 errhint("Give a relation's name or a query.")));
	query = linitial_node(Query, source->query_list);
	if (query->hasModifyingCTE || query->rowMarks != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("candidates are given by a query that does more than read"),
				 errhint("Leave out what inserts, updates, deletes or locks.")));
	return plan;
}

/* A kept row as jsonb. */
static Datum
RowJson(TupleDesc desc, MinimalTuple row)
{
	HeapTuple	tuple = heap_tuple_from_minimal_tuple(row);
	Datum		json = DirectFunctionCall1(row_to_json,
										   heap_copy_tuple_as_datum(tuple, desc));

	return DirectFunctionCall1(jsonb_in,
							   CStringGetDatum(TextDatumGetCString(json)));
}

PG_FUNCTION_INFO_V1(limaml_rank);

/*
 * limaml_rank(model text, entity, candidates text, k int): the k candidates
 * with the highest scores, best first.  `candidates` is a relation's name or a
 * query, whose rows are candidates; it runs with the caller's rights, and may
 * only read.
 */
Datum
limaml_rank(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	RankReceiver rank = {
		.receiver = {
			.receiveSlot = ReceiveCandidate,
			.rStartup = StartRanking,
			.rShutdown = EndRanking,
			.rDestroy = EndRanking,
			.mydest = DestTuplestore	/* the likest to it that has a name */
		}
	};
	SPIExecuteOptions options = {
		.read_only = true,
		.dest = &rank.receiver
	};
	MemoryContext context;
	ModelUse   *use;
	char	   *candidates;
	int			count;
	Best	   *sorted;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("candidates must not be null")));
	if (PG_ARGISNULL(3) || PG_GETARG_INT32(3) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be 1 or more")));
	InitMaterialize(fcinfo);
	candidates = text_to_cstring(PG_GETARG_TEXT_PP(2));
	use = UseModel(fcinfo, 1);
	rank.use = use;
	rank.vector = UseEntity(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));

	context = AllocSetContextCreate(CurrentMemoryContext, "limaml rank",
									ALLOCSET_DEFAULT_SIZES);
	rank.context = context;
	rank.lists.context = context;
	rank.rows = AllocSetContextCreate(context, "limaml rank rows",
									  ALLOCSET_DEFAULT_SIZES);
	rank.reading = AllocSetContextCreate(context, "limaml rank row",
										 ALLOCSET_SMALL_SIZES);
	SPI_connect();
	MemoryContextSwitchTo(context);
	BlockInit(&rank.block, use->trained);
	HeapInit(&rank.best, PG_GETARG_INT32(3));
	if (SPI_execute_plan_extended(PrepareCandidates(CandidatesQuery(candidates)),
								  &options) != SPI_OK_SELECT)
		elog(ERROR, "could not read the candidates: %s", candidates);
	if (rank.block.count > 0)
		RankBlock(&rank);

	MemoryContextSwitchTo(context);
	BlessTupleDesc(rank.desc);
	sorted = TakeBest(&rank.best, &count);
	for (int i = 0; i < count; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(rank.reading);
		MemoryContextSwitchTo(rank.reading);
		values[0] = Int32GetDatum(i + 1);
		values[1] = Float4GetDatum(sorted[i].score);
		values[2] = RowJson(rank.desc, sorted[i].row);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
	MemoryContextSwitchTo(context);
	SPI_finish();
	MemoryContextDelete(context);
	return (Datum) 0;
}

/*
 * limaml_top
 */

/* What a group has so far. */
typedef struct TopState
{
	MemoryContext context;
	ModelUse   *use;			/* the call site's, the same for all groups */
	EntityVector own;			/* a copy: the use may forget entities */
	Oid			key_type;
	int16		key_length;
	bool		key_by_value;
	CandidateBlock block;
	NullableDatum key[BLOCK_ROWS];	/* of the block */
	BestHeap	best;
	int64		arrived;
} TopState;

static void
FreeKey(const TopState *state, NullableDatum *key)
{
	if (!key->isnull && !state->key_by_value)
		pfree(DatumGetPointer(key->value));
}

static void
TopBlock(TopState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);

	ScoreBlock(state->use, &state->block, &state->own);
	for (int i = 0; i < state->block.count; i++)
	{
		int64		arrival = state->arrived++;
		NullableDatum *key;

		if (!Enters(&state->best, state->block.score[i]))
		{
			FreeKey(state, &state->key[i]);
			continue;
		}
		key = palloc(sizeof(NullableDatum));
		*key = state->key[i];
		key = PutIn(&state->best, state->block.score[i], arrival, key);
		if (key)
		{
			FreeKey(state, key);
			pfree(key);
		}
	}
	state->block.count = 0;
	MemoryContextSwitchTo(old);
}

static TopState *
NewTop(FunctionCallInfo fcinfo, MemoryContext context, ModelUse *use,
	   const EntityVector *vector)
{
	const NetworkShape *shape = &use->trained->shape;
	Size		entity_size = sizeof(float) * network_entity_size(shape);
	MemoryContext old = MemoryContextSwitchTo(context);
	TopState   *state = palloc0(sizeof(TopState));

	state->context = context;
	state->use = use;
	state->own = *vector;
	state->own.embedding = NULL;
	state->own.entity = palloc(entity_size);
	memcpy(state->own.entity, vector->entity, entity_size);
	state->key_type = get_fn_expr_argtype(fcinfo->flinfo, 4);
	get_typlenbyval(state->key_type, &state->key_length, &state->key_by_value);
	BlockInit(&state->block, use->trained);
	HeapInit(&state->best, PG_GETARG_INT32(1));
	MemoryContextSwitchTo(old);
	return state;
}

PG_FUNCTION_INFO_V1(limaml_top_transition);

/* (internal, k int, model text, entity, item_key, VARIADIC candidate) */
Datum
limaml_top_transition(PG_FUNCTION_ARGS)
{
	TopState   *state = PG_ARGISNULL(0) ? NULL :
		(TopState *) PG_GETARG_POINTER(0);
	ModelUse   *use;
	const EntityVector *vector;
	const float *z;
	NullableDatum *key;
	MemoryContext context;
	MemoryContext old;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "limaml_top_transition called in non-aggregate context");
	if (PG_ARGISNULL(1) || PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be 1 or more")));
	use = fcinfo->flinfo->fn_extra;
	if (use && !PG_ARGISNULL(2) && !IsUseOf(use, PG_GETARG_TEXT_PP(2)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model must be the same for all rows")));
	use = UseModelOf(fcinfo, 2, 3);
	vector = UseEntity(use, PG_GETARG_DATUM(3), PG_ARGISNULL(3));
	if (state == NULL)
		state = NewTop(fcinfo, context, use, vector);
	else if (state->best.most != PG_GETARG_INT32(1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be the same for all rows of a group")));
	else if (state->own.id != vector->id ||
			 memcmp(state->own.entity, vector->entity, sizeof(float) *
					network_half_size(&use->trained->shape)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entity must be the same for all rows of a group"),
				 errhint("Group by the entity.")));

	state->block.offset[state->block.count] =
		CandidateEncode(fcinfo, use, 5, (Datum) 0, vector->id, &z);
	memcpy(NextEncoding(&state->block), z,
		   sizeof(float) * state->block.width);
	old = MemoryContextSwitchTo(context);
	key = &state->key[state->block.count];
	key->isnull = PG_ARGISNULL(4);
	key->value = (Datum) 0;
	if (!key->isnull)
	{
		Datum		value = PG_GETARG_DATUM(4);

		if (state->key_length == -1)
			value = PointerGetDatum(PG_DETOAST_DATUM(value));
		key->value = datumCopy(value, state->key_by_value, state->key_length);
	}
	MemoryContextSwitchTo(old);
	if (++state->block.count == BLOCK_ROWS)
		TopBlock(state);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(limaml_top_final);

/* The best as jsonb: [{"item": ..., "score": ...}, ...]. */
Datum
limaml_top_final(PG_FUNCTION_ARGS)
{
	TopState   *state;
	TupleDesc	desc;
	StringInfoData json;
	BestHeap	copy;
	Best	   *sorted;
	int			count;

	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "limaml_top_final called in non-aggregate context");
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (TopState *) PG_GETARG_POINTER(0);
	if (state->block.count > 0)
		TopBlock(state);

	/* a window's frame may go on: the heap stays as it is */
	copy.most = state->best.most;
	copy.heap = binaryheap_allocate(Max(state->best.heap->bh_size, 1),
									CompareBest, NULL);
	copy.heap->bh_size = state->best.heap->bh_size;
	copy.heap->bh_has_heap_property = true;
	memcpy(copy.heap->bh_nodes, state->best.heap->bh_nodes,
		   sizeof(copy.heap->bh_nodes[0]) * copy.heap->bh_size);
	sorted = TakeBest(&copy, &count);

	desc = CreateTemplateTupleDesc(2);
	TupleDescInitEntry(desc, 1, "item", state->key_type == UNKNOWNOID ?
					   CSTRINGOID : state->key_type, -1, 0);
	TupleDescInitEntry(desc, 2, "score", FLOAT4OID, -1, 0);
	BlessTupleDesc(desc);
	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (int i = 0; i < count; i++)
	{
		const NullableDatum *key = sorted[i].row;
		Datum		values[2] = {key->value, Float4GetDatum(sorted[i].score)};
		bool		nulls[2] = {key->isnull, false};
		Datum		row = heap_copy_tuple_as_datum(heap_form_tuple(desc, values,
																   nulls),
												   desc);

		CHECK_FOR_INTERRUPTS();
		if (i > 0)
			appendStringInfoChar(&json, ',');
		appendStringInfoString(&json,
							   TextDatumGetCString(DirectFunctionCall1(row_to_json,
																	   row)));
	}
	appendStringInfoChar(&json, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}
