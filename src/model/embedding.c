/*-------------------------------------------------------------------------
 *
 * embedding.c
 *	  meta_embedding: text and binary I/O, type modifier, casts.
 *
 * The bytes, stored and sent, are drawn in embedding.h.  Comparison, hashing
 * and distances are in embedding_ops.c, avg and sum in embedding_agg.c.
 *
 * Nothing that comes from outside is trusted: every way in checks the number
 * of dimensions, the type modifier and that each element is finite, so that
 * no other code has to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "libpq/pqformat.h"
#include "model/embedding.h"
#include "utils/array.h"

/* Bytes of the binary form before the elements: dims, reserved, fingerprint */
#define WIRE_HEADER_SIZE 8

/* "@" and the hexadecimal digits of a fingerprint */
#define FINGERPRINT_DIGITS 8
#define FINGERPRINT_LEN (1 + FINGERPRINT_DIGITS)

/*
 * Whether a number of dimensions is possible; if not, report it
 */
static bool
ValidDims(int dims, struct Node *escontext)
{
	if (dims < 1)
		ereturn(escontext, false,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("meta_embedding must have at least 1 dimension")));

	if (dims > MAX_EMBEDDING_DIMS)
		ereturn(escontext, false,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("meta_embedding cannot have more than %d dimensions", MAX_EMBEDDING_DIMS)));

	return true;
}

/*
 * Whether a number of dimensions is the declared one; if not, report it
 */
static bool
ValidTypmod(int32 typmod, int dims, struct Node *escontext)
{
	if (typmod != -1 && typmod != dims)
		ereturn(escontext, false,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %d dimensions, not %d", typmod, dims),
				 errdetail("The declared type is meta_embedding(%d).", typmod)));

	return true;
}

/*
 * Whether a value is finite; if not, report it
 */
static bool
ValidElement(float value, struct Node *escontext)
{
	if (isnan(value))
		ereturn(escontext, false,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("NaN not allowed in meta_embedding")));

	if (isinf(value))
		ereturn(escontext, false,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("infinite value not allowed in meta_embedding")));

	return true;
}

/*
 * Ensure a possible number of dimensions
 */
void
CheckMetaEmbeddingDims(int dims)
{
	(void) ValidDims(dims, NULL);
}

/*
 * Ensure the declared number of dimensions, -1 for any
 */
void
CheckMetaEmbeddingTypmod(int32 typmod, int dims)
{
	(void) ValidTypmod(typmod, dims, NULL);
}

/*
 * Report an element that is not finite
 */
void
MetaEmbeddingElementError(float value)
{
	(void) ValidElement(value, NULL);
	elog(ERROR, "meta_embedding element %g is finite", value);
}

/*
 * Report two embeddings of different widths
 */
void
MetaEmbeddingDimsError(int dims1, int dims2)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("different meta_embedding dimensions %d and %d", dims1, dims2)));
}

/*
 * Report two embeddings of different networks
 */
void
MetaEmbeddingFingerprintError(uint32 fingerprint1, uint32 fingerprint2)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("different meta_embedding fingerprints %08x and %08x", fingerprint1, fingerprint2),
			 errhint("An embedding is only meaningful to the network that made it.")));
}

/*
 * Report a result that no finite number can hold
 */
void
MetaEmbeddingOverflowError(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("value out of range: overflow"),
			 errdetail("An element of the resulting meta_embedding would be infinite.")));
}

/*
 * Allocate an embedding whose elements are all zero
 */
MetaEmbedding *
InitMetaEmbedding(int dims, uint32 fingerprint)
{
	MetaEmbedding *result;
	Size		size;

	CheckMetaEmbeddingDims(dims);

	size = META_EMBEDDING_SIZE(dims);
	result = (MetaEmbedding *) palloc0(size);
	SET_VARSIZE(result, size);
	result->dims = (uint16) dims;
	result->fingerprint = fingerprint;

	return result;
}

/*
 * Allocate an embedding with the given elements, which must be finite
 */
MetaEmbedding *
MakeMetaEmbedding(int dims, uint32 fingerprint, const float *x)
{
	MetaEmbedding *result = InitMetaEmbedding(dims, fingerprint);

	for (int i = 0; i < dims; i++)
	{
		CheckMetaEmbeddingElement(x[i]);
		result->x[i] = x[i];
	}

	return result;
}

/*
 * Whether a character is white space, to the server's own scanner
 */
static inline bool
IsSpace(char ch)
{
	return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

/*
 * Value of a hexadecimal digit, -1 if it is none
 */
static inline int
HexDigit(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	if (ch >= 'a' && ch <= 'f')
		return ch - 'a' + 10;
	if (ch >= 'A' && ch <= 'F')
		return ch - 'A' + 10;
	return -1;
}

/*
 * Convert text to an embedding
 */
PG_FUNCTION_INFO_V1(meta_embedding_in);
Datum
meta_embedding_in(PG_FUNCTION_ARGS)
{
	char	   *lit = PG_GETARG_CSTRING(0);
	int32		typmod = PG_GETARG_INT32(2);
	struct Node *escontext = fcinfo->context;
	char	   *pt = lit;
	int			dims = 1;
	MetaEmbedding *result;

	while (IsSpace(*pt))
		pt++;

	if (*pt != '[')
		ereturn(escontext, (Datum) 0,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type meta_embedding: \"%s\"", lit),
				 errdetail("The elements must start with \"[\".")));

	pt++;

	while (IsSpace(*pt))
		pt++;

	if (*pt == ']')
		dims = 0;

	/* A comma only ever stands between two elements, so counting them will do */
	for (char *c = pt; *c != '\0' && dims <= MAX_EMBEDDING_DIMS; c++)
	{
		if (*c == ',')
			dims++;
	}

	if (!ValidDims(dims, escontext))
		return (Datum) 0;

	result = InitMetaEmbedding(dims, 0);

	for (int i = 0;; i++)
	{
		char	   *end;
		float		value;

		while (IsSpace(*pt))
			pt++;

		errno = 0;

		/* Use strtof like float4in to avoid a double-rounding problem */
		/* The server runs with LC_NUMERIC C, so the point is a point */
		value = strtof(pt, &end);

		/* No number, of which an empty string is a case */
		if (end == pt)
			ereturn(escontext, (Datum) 0,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("invalid input syntax for type meta_embedding: \"%s\"", lit)));

		/* ERANGE is also set for a denormal number, which is fine */
		if (errno == ERANGE && (value == 0.0f || isinf(value)))
			ereturn(escontext, (Datum) 0,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("\"%s\" is out of range for type meta_embedding",
							pnstrdup(pt, (Size) (end - pt)))));

		if (!ValidElement(value, escontext))
			return (Datum) 0;

		Assert(i < dims);
		result->x[i] = value;

		pt = end;

		while (IsSpace(*pt))
			pt++;

		if (*pt == ',')
			pt++;
		else if (*pt == ']')
		{
			/* A comma further on is junk, reported below */
			pt++;
			break;
		}
		else
			ereturn(escontext, (Datum) 0,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("invalid input syntax for type meta_embedding: \"%s\"", lit)));
	}

	if (*pt == '@')
	{
		uint32		fingerprint = 0;

		pt++;

		for (int i = 0; i < FINGERPRINT_DIGITS; i++)
		{
			int			digit = HexDigit(*pt);

			if (digit < 0)
				ereturn(escontext, (Datum) 0,
						(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
						 errmsg("invalid input syntax for type meta_embedding: \"%s\"", lit),
						 errdetail("A fingerprint is \"@\" and %d hexadecimal digits.",
								   FINGERPRINT_DIGITS)));

			fingerprint = (fingerprint << 4) | (uint32) digit;
			pt++;
		}

		result->fingerprint = fingerprint;
	}

	while (IsSpace(*pt))
		pt++;

	if (*pt != '\0')
		ereturn(escontext, (Datum) 0,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid input syntax for type meta_embedding: \"%s\"", lit),
				 errdetail("Junk after the closing \"]\" or the fingerprint.")));

	if (!ValidTypmod(typmod, dims, escontext))
		return (Datum) 0;

	PG_RETURN_META_EMBEDDING_P(result);
}

/*
 * Convert an embedding to text
 */
PG_FUNCTION_INFO_V1(meta_embedding_out);
Datum
meta_embedding_out(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);
	char	   *buf;
	char	   *pt;

	/*
	 * FLOAT_SHORTEST_DECIMAL_LEN counts a terminating zero: its byte takes
	 * the comma.  Three more for [, ] and the zero.
	 */
	buf = (char *) palloc(add_size(mul_size(FLOAT_SHORTEST_DECIMAL_LEN, embedding->dims),
								   FINGERPRINT_LEN + 3));
	pt = buf;

	*pt++ = '[';

	for (int i = 0; i < embedding->dims; i++)
	{
		if (i > 0)
			*pt++ = ',';

		pt += float_to_shortest_decimal_bufn(embedding->x[i], pt);
	}

	*pt++ = ']';

	if (embedding->fingerprint != 0)
		pt += snprintf(pt, FINGERPRINT_LEN + 1, "@%08x", embedding->fingerprint);

	*pt = '\0';

	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_CSTRING(buf);
}

/*
 * Convert the type modifier, a number of dimensions
 */
PG_FUNCTION_INFO_V1(meta_embedding_typmod_in);
Datum
meta_embedding_typmod_in(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int32	   *typmods;
	int			n;

	typmods = ArrayGetIntegerTypmods(array, &n);

	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid type modifier for type meta_embedding"),
				 errhint("Give the number of dimensions alone, as in meta_embedding(16).")));

	if (typmods[0] < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dimensions for type meta_embedding must be at least 1")));

	if (typmods[0] > MAX_EMBEDDING_DIMS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dimensions for type meta_embedding cannot exceed %d", MAX_EMBEDDING_DIMS)));

	PG_RETURN_INT32(typmods[0]);
}

/*
 * Convert the binary form to an embedding
 */
PG_FUNCTION_INFO_V1(meta_embedding_recv);
Datum
meta_embedding_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int32		typmod = PG_GETARG_INT32(2);
	int			size = buf->len - buf->cursor;
	int			dims;
	unsigned int reserved;
	uint32		fingerprint;
	MetaEmbedding *result;

	if (size < WIRE_HEADER_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("external meta_embedding must have at least %d bytes, not %d",
						WIRE_HEADER_SIZE, size)));

	dims = (int) pq_getmsgint(buf, sizeof(uint16));
	reserved = pq_getmsgint(buf, sizeof(uint16));
	fingerprint = pq_getmsgint(buf, sizeof(uint32));

	if (reserved != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("expected reserved field of external meta_embedding to be 0, not %u", reserved)));

	CheckMetaEmbeddingDims(dims);

	/* Both sides are small: dims was just checked */
	if (size != WIRE_HEADER_SIZE + dims * (int) sizeof(float))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("external meta_embedding with dims %d must have %d bytes, not %d",
						dims, WIRE_HEADER_SIZE + dims * (int) sizeof(float), size)));

	CheckMetaEmbeddingTypmod(typmod, dims);

	result = InitMetaEmbedding(dims, fingerprint);
	for (int i = 0; i < dims; i++)
	{
		result->x[i] = pq_getmsgfloat4(buf);
		CheckMetaEmbeddingElement(result->x[i]);
	}

	PG_RETURN_META_EMBEDDING_P(result);
}

/*
 * Convert an embedding to the binary form
 */
PG_FUNCTION_INFO_V1(meta_embedding_send);
Datum
meta_embedding_send(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint16(&buf, embedding->dims);
	pq_sendint16(&buf, embedding->reserved);
	pq_sendint32(&buf, embedding->fingerprint);
	for (int i = 0; i < embedding->dims; i++)
		pq_sendfloat4(&buf, embedding->x[i]);

	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/*
 * Enforce the type modifier on an embedding
 */
PG_FUNCTION_INFO_V1(meta_embedding);
Datum
meta_embedding(PG_FUNCTION_ARGS)
{
	Datum		value = PG_GETARG_DATUM(0);
	int32		typmod = PG_GETARG_INT32(1);

	if (typmod != -1)
	{
		MetaEmbedding *header = DatumGetMetaEmbeddingHeaderP(value);

		CheckMetaEmbeddingTypmod(typmod, header->dims);
		pfree(header);
	}

	/* As it came, perhaps still toasted */
	PG_RETURN_DATUM(value);
}

/*
 * Convert real[] or double precision[] to an embedding without fingerprint
 */
PG_FUNCTION_INFO_V1(array_to_meta_embedding);
Datum
array_to_meta_embedding(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int32		typmod = PG_GETARG_INT32(1);
	int			dims;
	char	   *data;
	MetaEmbedding *result;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("array for meta_embedding must be one-dimensional")));

	if (ARR_HASNULL(array) && array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("array for meta_embedding must not contain nulls")));

	/* An empty array has no dimension at all */
	dims = ARR_NDIM(array) == 0 ? 0 : ARR_DIMS(array)[0];
	CheckMetaEmbeddingDims(dims);
	CheckMetaEmbeddingTypmod(typmod, dims);

	/*
	 * Without nulls, the elements of either type are a plain C array.  This is
	 * ARR_DATA_PTR without its comparison of different signs.
	 */
	data = (char *) array +
		(ARR_HASNULL(array) ? (Size) array->dataoffset : ARR_OVERHEAD_NONULLS(1));

	if (ARR_ELEMTYPE(array) == FLOAT4OID)
		result = MakeMetaEmbedding(dims, 0, (const float4 *) data);
	else if (ARR_ELEMTYPE(array) == FLOAT8OID)
	{
		const float8 *values = (const float8 *) data;

		result = InitMetaEmbedding(dims, 0);
		for (int i = 0; i < dims; i++)
		{
			/* What is too small becomes zero: that is rounding like any */
			float		value = (float) values[i];

			if (isinf(value) && !isinf(values[i]))
				ereport(ERROR,
						(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						 errmsg("\"%s\" is out of range for type meta_embedding",
								double_to_shortest_decimal(values[i]))));

			CheckMetaEmbeddingElement(value);
			result->x[i] = value;
		}
	}
	else
		elog(ERROR, "array_to_meta_embedding: unexpected element type %u", ARR_ELEMTYPE(array));

	PG_FREE_IF_COPY(array, 0);
	PG_RETURN_META_EMBEDDING_P(result);
}

/*
 * Convert an embedding to real[], which has no room for a fingerprint
 */
PG_FUNCTION_INFO_V1(meta_embedding_to_float4);
Datum
meta_embedding_to_float4(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);
	int			dims = embedding->dims;
	Datum	   *elements = (Datum *) palloc(mul_size(sizeof(Datum), (Size) dims));
	ArrayType  *result;

	for (int i = 0; i < dims; i++)
		elements[i] = Float4GetDatum(embedding->x[i]);

	result = construct_array(elements, dims, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT);

	pfree(elements);
	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_ARRAYTYPE_P(result);
}

/*
 * Convert an embedding to double precision[], likewise
 */
PG_FUNCTION_INFO_V1(meta_embedding_to_float8);
Datum
meta_embedding_to_float8(PG_FUNCTION_ARGS)
{
	MetaEmbedding *embedding = PG_GETARG_META_EMBEDDING_P(0);
	int			dims = embedding->dims;
	Datum	   *elements = (Datum *) palloc(mul_size(sizeof(Datum), (Size) dims));
	ArrayType  *result;

	for (int i = 0; i < dims; i++)
		elements[i] = Float8GetDatum((float8) embedding->x[i]);

	result = construct_array(elements, dims, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);

	pfree(elements);
	PG_FREE_IF_COPY(embedding, 0);
	PG_RETURN_ARRAYTYPE_P(result);
}
