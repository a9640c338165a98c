/*-------------------------------------------------------------------------
 *
 * embedding_agg.c
 *	  meta_embedding: the aggregates avg and sum.
 *
 * Both share one transition state, a double precision[] without nulls:
 *
 *		element	meaning
 *		1		count: how many embeddings were added
 *		2		how many of these had no fingerprint
 *		3		the fingerprint of the others, 0 if there are none
 *		4...	the sums, one per dimension; none as long as count is 0
 *
 * It is an array rather than internal so that it needs no serialisation and
 * so that tools which move partial aggregates between servers (Citus) can
 * move it.  The price is that anyone can call the transition functions with
 * an array of their own, so each checks all of it before use.
 *
 * The state remembers a fingerprint beside embeddings without any, so that
 * whether two networks were mixed does not depend on the order of the rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "model/embedding.h"
#include "utils/array.h"

/* Elements of the state before the sums */
#define STATE_HEADER_LEN 3

/* Integers up to here are exact in a double; no count gets near */
#define MAX_STATE_COUNT ((double) (UINT64CONST(1) << 53))

/* The state array's data */
typedef struct EmbeddingSum
{
	float8		count;			/* embeddings added */
	float8		unmarked;		/* of them, without a fingerprint */
	float8		fingerprint;	/* of the others; 0: there are none */
	float8		x[FLEXIBLE_ARRAY_MEMBER];	/* sums, one per dimension */
} EmbeddingSum;

#define STATE_DIMS(array) (ARR_DIMS(array)[0] - STATE_HEADER_LEN)
#define STATE_DATA(array) ((EmbeddingSum *) ((char *) (array) + ARR_OVERHEAD_NONULLS(1)))

/*
 * Whether a state value is a whole number from 0 to limit
 */
static inline bool
IsCount(float8 value, float8 limit)
{
	/* Written so that NaN is none */
	return value >= 0.0 && value <= limit && value == floor(value);
}

/*
 * Whether an array can be a state
 */
static bool
IsState(ArrayType *array)
{
	EmbeddingSum *state;
	int			dims;
	bool		finite = true;

	if (ARR_NDIM(array) != 1 ||
		ARR_ELEMTYPE(array) != FLOAT8OID ||
		ARR_HASNULL(array) ||
		ARR_DIMS(array)[0] < STATE_HEADER_LEN ||
		ARR_DIMS(array)[0] > STATE_HEADER_LEN + MAX_EMBEDDING_DIMS)
		return false;

	state = STATE_DATA(array);
	dims = STATE_DIMS(array);

	if (!IsCount(state->count, MAX_STATE_COUNT) ||
		!IsCount(state->unmarked, state->count) ||
		!IsCount(state->fingerprint, (float8) PG_UINT32_MAX))
		return false;

	/* A fingerprint if and only if some embedding had one, sums likewise */
	if ((state->fingerprint != 0.0) != (state->unmarked < state->count) ||
		(dims != 0) != (state->count != 0.0))
		return false;

	/* No early exit, so that the loop can be vectorised */
	for (int i = 0; i < dims; i++)
		finite &= isfinite(state->x[i]) != 0;

	return finite;
}

/*
 * Ensure that an array is a state
 */
static void
CheckState(ArrayType *array, const char *caller)
{
	if (!IsState(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s: expected state array of a meta_embedding aggregate", caller)));
}

/*
 * Allocate a state whose count and sums are all zero
 */
static ArrayType *
InitState(int dims)
{
	ArrayType  *result;
	Size		size;

	CheckMetaEmbeddingDims(dims);

	size = add_size(ARR_OVERHEAD_NONULLS(1),
					mul_size(sizeof(float8), (Size) dims + STATE_HEADER_LEN));
	result = (ArrayType *) palloc0(size);
	SET_VARSIZE(result, size);
	result->ndim = 1;
	result->dataoffset = 0;		/* no null bitmap */
	result->elemtype = FLOAT8OID;
	ARR_DIMS(result)[0] = dims + STATE_HEADER_LEN;
	ARR_LBOUND(result)[0] = 1;

	return result;
}

/*
 * Count embeddings into a state: all but "unmarked" bear the fingerprint
 */
static void
CountEmbeddings(EmbeddingSum *state, float8 count, float8 unmarked, uint32 fingerprint)
{
	uint32		known = (uint32) state->fingerprint;

	if (!MetaEmbeddingFingerprintsMatch(known, fingerprint))
		MetaEmbeddingFingerprintError(known, fingerprint);

	state->count += count;
	state->unmarked += unmarked;
	if (fingerprint != 0)
		state->fingerprint = (float8) fingerprint;
}

/*
 * Add one embedding to the state
 */
PG_FUNCTION_INFO_V1(meta_embedding_accum);
Datum
meta_embedding_accum(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(1);
	EmbeddingSum *state;
	int			dims;

	CheckState(array, "meta_embedding_accum");

	dims = STATE_DIMS(array);
	if (dims == 0)
		array = InitState(embedding->dims);
	else if (dims != embedding->dims)
		MetaEmbeddingDimsError(dims, embedding->dims);
	else if (!AggCheckCallContext(fcinfo, NULL))
		array = PG_GETARG_ARRAYTYPE_P_COPY(0);

	/* An aggregate's own state may be changed in place, as in float4_accum */
	state = STATE_DATA(array);

	CountEmbeddings(state, 1.0, embedding->fingerprint == 0 ? 1.0 : 0.0,
					embedding->fingerprint);

	for (int i = 0; i < embedding->dims; i++)
	{
		state->x[i] += (float8) embedding->x[i];

		if (unlikely(isinf(state->x[i])))
			MetaEmbeddingOverflowError();
	}

	PG_FREE_IF_COPY(embedding, 1);
	PG_RETURN_ARRAYTYPE_P(array);
}

/*
 * Add the second state to the first
 */
PG_FUNCTION_INFO_V1(meta_embedding_combine);
Datum
meta_embedding_combine(PG_FUNCTION_ARGS)
{
	ArrayType  *array1 = PG_GETARG_ARRAYTYPE_P(0);
	ArrayType  *array2 = PG_GETARG_ARRAYTYPE_P(1);
	EmbeddingSum *state1;
	EmbeddingSum *state2;
	int			dims;

	CheckState(array1, "meta_embedding_combine");
	CheckState(array2, "meta_embedding_combine");

	if (STATE_DIMS(array2) == 0)
		PG_RETURN_ARRAYTYPE_P(array1);

	dims = STATE_DIMS(array1);
	if (dims == 0)
		PG_RETURN_ARRAYTYPE_P(array2);

	if (dims != STATE_DIMS(array2))
		MetaEmbeddingDimsError(dims, STATE_DIMS(array2));

	if (!AggCheckCallContext(fcinfo, NULL))
		array1 = PG_GETARG_ARRAYTYPE_P_COPY(0);

	state1 = STATE_DATA(array1);
	state2 = STATE_DATA(array2);

	CountEmbeddings(state1, state2->count, state2->unmarked,
					(uint32) state2->fingerprint);

	for (int i = 0; i < dims; i++)
	{
		state1->x[i] += state2->x[i];

		if (unlikely(isinf(state1->x[i])))
			MetaEmbeddingOverflowError();
	}

	PG_RETURN_ARRAYTYPE_P(array1);
}

/*
 * Make an embedding of the sums divided by a number
 */
static MetaEmbedding *
FinishState(ArrayType *array, float8 divisor)
{
	EmbeddingSum *state = STATE_DATA(array);
	int			dims = STATE_DIMS(array);
	MetaEmbedding *result;

	/* The sum of one network's embeddings alone is still that network's */
	result = InitMetaEmbedding(dims, state->unmarked == 0.0 ? (uint32) state->fingerprint : 0);

	for (int i = 0; i < dims; i++)
	{
		result->x[i] = (float) (state->x[i] / divisor);

		if (unlikely(isinf(result->x[i])))
			MetaEmbeddingOverflowError();
	}

	return result;
}

/*
 * Finish an average
 */
PG_FUNCTION_INFO_V1(meta_embedding_avg);
Datum
meta_embedding_avg(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);

	CheckState(array, "meta_embedding_avg");

	/* SQL defines the average of no values to be NULL */
	if (STATE_DATA(array)->count == 0.0)
		PG_RETURN_NULL();

	PG_RETURN_META_EMBEDDING_P(FinishState(array, STATE_DATA(array)->count));
}

/*
 * Finish a sum
 */
PG_FUNCTION_INFO_V1(meta_embedding_sum);
Datum
meta_embedding_sum(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);

	CheckState(array, "meta_embedding_sum");

	/* SQL defines the sum of no values to be NULL */
	if (STATE_DATA(array)->count == 0.0)
		PG_RETURN_NULL();

	PG_RETURN_META_EMBEDDING_P(FinishState(array, 1.0));
}
