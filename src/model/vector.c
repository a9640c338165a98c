/*-------------------------------------------------------------------------
 *
 * vector.c
 *	  Casts between meta_embedding and pgvector's type vector.
 *
 * limaml is built without pgvector, so its layout is drawn here once more:
 *
 *		offset	bytes	field
 *		0		4		varlena header
 *		4		2		dim, 1 to 16000
 *		6		2		unused, zero
 *		8		4*dim	the elements, single precision, all finite
 *
 * It differs from that of meta_embedding (embedding.h) by the fingerprint,
 * which stands where the elements begin here.  So neither can be read as the
 * other, and a cast copies: once, from the value as detoasted to the result,
 * of 128 bytes where there are 32 dimensions.
 *
 * limaml_enable_pgvector (query/pgvector.c) makes SQL functions of
 * these, where the type is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "model/embedding.h"

typedef struct Vector
{
	int32		vl_len_;		/* varlena header (do not touch directly!) */
	int16		dim;			/* number of elements */
	int16		unused;			/* zero */
	float		x[FLEXIBLE_ARRAY_MEMBER];	/* the elements, all finite */
} Vector;

/* Bytes of a vector, varlena header included */
#define VECTOR_SIZE(dim) \
	add_size(offsetof(Vector, x), mul_size(sizeof(float), (Size) (dim)))

StaticAssertDecl(MAX_EMBEDDING_DIMS <= PG_INT16_MAX,
				 "a vector has as many dimensions as an embedding");

/*
 * Convert an embedding to a vector, which has no room for a fingerprint
 */
PG_FUNCTION_INFO_V1(meta_embedding_to_vector);
Datum
meta_embedding_to_vector(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);
	int32		typmod = PG_GETARG_INT32(1);
	Size		size = VECTOR_SIZE(embedding->dims);
	Vector	   *result;

	if (typmod != -1 && typmod != embedding->dims)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %d dimensions, not %d", typmod, embedding->dims),
				 errdetail("The declared type is vector(%d).", typmod)));

	result = (Vector *) palloc(size);
	SET_VARSIZE(result, size);
	result->dim = (int16) embedding->dims;
	result->unused = 0;
	memcpy(result->x, embedding->x, mul_size(sizeof(float), embedding->dims));

	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_POINTER(result);
}

/*
 * Convert a vector to an embedding without fingerprint
 */
PG_FUNCTION_INFO_V1(vector_to_meta_embedding);
Datum
vector_to_meta_embedding(PG_FUNCTION_ARGS)
{
	Vector	   *vector = (Vector *) PG_DETOAST_DATUM(PG_GETARG_DATUM(0));
	int32		typmod = PG_GETARG_INT32(1);
	MetaEmbedding *result;

	/* The library of another extension wrote it, perhaps a future one */
	if (VARSIZE(vector) < offsetof(Vector, x) || vector->dim < 1 ||
		vector->unused != 0 || VARSIZE(vector) != VECTOR_SIZE(vector->dim))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("vector is not stored as pgvector is known to store it")));

	CheckMetaEmbeddingDims(vector->dim);
	CheckMetaEmbeddingTypmod(typmod, vector->dim);
	result = MakeMetaEmbedding(vector->dim, 0, vector->x);

	PG_FREE_IF_COPY(vector, 0);
	PG_RETURN_META_EMBEDDING_P(result);
}
