/*-------------------------------------------------------------------------
 *
 * embedding_ops.c
 *	  meta_embedding: order, hash, distances, norm.
 *
 * The order is that of arrays: by the first element that differs, then by the
 * number of dimensions, and then by the fingerprint, so that equal means
 * equal in everything that text shows, but for the sign of a zero.
 *
 * Distances are computed and returned in double precision.  They cannot
 * overflow there: with 16000 dimensions, even the product of two squared
 * norms stays below 1e163.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "model/embedding.h"
#include "utils/float.h"

/* Bits of -0, the only float that differs from an equal one */
#define NEGATIVE_ZERO_BITS 0x80000000U

/*
 * Compare two embeddings: below, equal to or above 0
 */
static int
CompareMetaEmbeddings(const MetaEmbedding *a, const MetaEmbedding *b)
{
	int			dims = Min(a->dims, b->dims);

	for (int i = 0; i < dims; i++)
	{
		if (a->x[i] < b->x[i])
			return -1;

		if (a->x[i] > b->x[i])
			return 1;
	}

	if (a->dims != b->dims)
		return a->dims < b->dims ? -1 : 1;

	if (a->fingerprint != b->fingerprint)
		return a->fingerprint < b->fingerprint ? -1 : 1;

	return 0;
}

/*
 * Compare a function's two arguments, leaking nothing: a btree needs that
 */
static int
CompareArguments(FunctionCallInfo fcinfo)
{
	MetaEmbedding *a = PG_GETARG_META_EMBEDDING_P(0);
	MetaEmbedding *b = PG_GETARG_META_EMBEDDING_P(1);
	int			result = CompareMetaEmbeddings(a, b);

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);

	return result;
}

/*
 * Less than
 */
PG_FUNCTION_INFO_V1(meta_embedding_lt);
Datum
meta_embedding_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CompareArguments(fcinfo) < 0);
}

/*
 * Less than or equal
 */
PG_FUNCTION_INFO_V1(meta_embedding_le);
Datum
meta_embedding_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CompareArguments(fcinfo) <= 0);
}

/*
 * Equal
 */
PG_FUNCTION_INFO_V1(meta_embedding_eq);
Datum
meta_embedding_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CompareArguments(fcinfo) == 0);
}

/*
 * Not equal
 */
PG_FUNCTION_INFO_V1(meta_embedding_ne);
Datum
meta_embedding_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CompareArguments(fcinfo) != 0);
}

/*
 * Greater than or equal
 */
PG_FUNCTION_INFO_V1(meta_embedding_ge);
Datum
meta_embedding_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CompareArguments(fcinfo) >= 0);
}

/*
 * Greater than
 */
PG_FUNCTION_INFO_V1(meta_embedding_gt);
Datum
meta_embedding_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CompareArguments(fcinfo) > 0);
}

/*
 * Compare, for btree
 */
PG_FUNCTION_INFO_V1(meta_embedding_cmp);
Datum
meta_embedding_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(CompareArguments(fcinfo));
}

/*
 * A function's first argument with every -0 made 0, so that equal embeddings
 * are equal in all bytes after the length word
 */
static MetaEmbedding *
GetHashableArgument(FunctionCallInfo fcinfo)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);
	bool		negative_zero = false;

	for (int i = 0; i < embedding->dims; i++)
	{
		uint32		bits;

		memcpy(&bits, &embedding->x[i], sizeof(bits));
		negative_zero |= bits == NEGATIVE_ZERO_BITS;
	}

	if (negative_zero)
	{
		/* Detoasting may have made a copy already */
		if ((Pointer) embedding == PG_GETARG_POINTER(0))
			embedding = DatumGetMetaEmbeddingPCopy(PG_GETARG_DATUM(0));

		for (int i = 0; i < embedding->dims; i++)
		{
			if (embedding->x[i] == 0.0f)
				embedding->x[i] = 0.0f;
		}
	}

	return embedding;
}

/*
 * Hash: dims, fingerprint and elements lie side by side
 */
PG_FUNCTION_INFO_V1(meta_embedding_hash);
Datum
meta_embedding_hash(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = GetHashableArgument(fcinfo);
	Datum		result;

	result = hash_any((unsigned char *) VARDATA(embedding),
					  (int) (VARSIZE(embedding) - VARHDRSZ));

	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_DATUM(result);
}

/*
 * Hash with a seed
 */
PG_FUNCTION_INFO_V1(meta_embedding_hash_extended);
Datum
meta_embedding_hash_extended(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = GetHashableArgument(fcinfo);
	Datum		result;

	result = hash_any_extended((unsigned char *) VARDATA(embedding),
							   (int) (VARSIZE(embedding) - VARHDRSZ),
							   (uint64) PG_GETARG_INT64(1));

	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_DATUM(result);
}

/*
 * Inner product of two rows of floats
 */
static double
InnerProduct(int dims, const float *a, const float *b)
{
	double		result = 0.0;

	for (int i = 0; i < dims; i++)
		result += (double) a[i] * (double) b[i];

	return result;
}

/*
 * Euclidean distance
 */
PG_FUNCTION_INFO_V1(limaml_l2_distance);
Datum
limaml_l2_distance(PG_FUNCTION_ARGS)
{
	MetaEmbedding *a = PG_GETARG_META_EMBEDDING_P(0);
	MetaEmbedding *b = PG_GETARG_META_EMBEDDING_P(1);
	double		square = 0.0;

	CheckMetaEmbeddingPair(a, b);

	for (int i = 0; i < a->dims; i++)
	{
		double		difference = (double) a->x[i] - (double) b->x[i];

		square += difference * difference;
	}

	PG_RETURN_FLOAT8(sqrt(square));
}

/*
 * Negative inner product: negative, so that the nearest comes first
 */
PG_FUNCTION_INFO_V1(limaml_negative_inner_product);
Datum
limaml_negative_inner_product(PG_FUNCTION_ARGS)
{
	MetaEmbedding *a = PG_GETARG_META_EMBEDDING_P(0);
	MetaEmbedding *b = PG_GETARG_META_EMBEDDING_P(1);

	CheckMetaEmbeddingPair(a, b);

	/* Subtract rather than negate: nobody wants to read -0 */
	PG_RETURN_FLOAT8(0.0 - InnerProduct(a->dims, a->x, b->x));
}

/*
 * Cosine distance: NaN where an embedding is all zero and has no direction
 */
PG_FUNCTION_INFO_V1(limaml_cosine_distance);
Datum
limaml_cosine_distance(PG_FUNCTION_ARGS)
{
	MetaEmbedding *a = PG_GETARG_META_EMBEDDING_P(0);
	MetaEmbedding *b = PG_GETARG_META_EMBEDDING_P(1);
	double		squares;
	double		similarity;

	CheckMetaEmbeddingPair(a, b);

	/* One root of the product keeps an embedding's distance to itself at 0 */
	squares = InnerProduct(a->dims, a->x, a->x) * InnerProduct(b->dims, b->x, b->x);
	if (squares == 0.0)
		PG_RETURN_FLOAT8(get_float8_nan());

	similarity = InnerProduct(a->dims, a->x, b->x) / sqrt(squares);

	/* Rounding can lead out of the range */
	if (similarity > 1.0)
		similarity = 1.0;
	else if (similarity < -1.0)
		similarity = -1.0;

	PG_RETURN_FLOAT8(1.0 - similarity);
}

/*
 * Number of dimensions
 */
PG_FUNCTION_INFO_V1(limaml_dims);
Datum
limaml_dims(PG_FUNCTION_ARGS)
{
	MetaEmbedding *header = DatumGetMetaEmbeddingHeaderP(PG_GETARG_DATUM(0));

	PG_RETURN_INT32(header->dims);
}

/*
 * Euclidean norm
 */
PG_FUNCTION_INFO_V1(limaml_norm);
Datum
limaml_norm(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);

	PG_RETURN_FLOAT8(sqrt(InnerProduct(embedding->dims, embedding->x, embedding->x)));
}
