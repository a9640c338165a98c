/*-------------------------------------------------------------------------
 *
 * embedding.h
 *	  The type meta_embedding: the small vector that stands for one entity.
 *
 * Whoever builds or reads an embedding in C does it through this file.
 *
 * As stored, and in memory once detoasted (native byte order, aligned to 4):
 *
 *		offset	bytes	field
 *		0		4		varlena header; a small value on disk has 1 byte
 *						instead, a large one (over 2 kB, some 500 dimensions)
 *						is a TOAST pointer, never compressed
 *		4		2		dims, 1 to MAX_EMBEDDING_DIMS
 *		6		2		reserved, zero
 *		8		4		fingerprint of the network that made it, 0 for none
 *		12		4*dims	the elements, IEEE 754 single precision, all finite
 *
 * As sent and received in binary (network byte order): the same without the
 * varlena header, that is, 8 + 4*dims bytes:
 *
 *		offset	bytes	field
 *		0		2		dims
 *		2		2		reserved, zero
 *		4		4		fingerprint
 *		8		4*dims	the elements
 *
 * As text: "[0.1,-2,3]" without a fingerprint, "[0.1,-2,3]@1a2b3c4d" with
 * one.  Each element is written in the fewest digits that read back as the
 * same float, whatever extra_float_digits says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LIMAML_EMBEDDING_H
#define LIMAML_EMBEDDING_H

#include <math.h>

#include "fmgr.h"
#include "storage/shmem.h"		/* for add_size() and mul_size() */

#include "compat.h"

/* Fits the dims field, and an embedding of this width is 62.5 kB */
#define MAX_EMBEDDING_DIMS 16000

typedef struct MetaEmbedding
{
	int32		vl_len_;		/* varlena header (do not touch directly!) */
	uint16		dims;			/* number of elements */
	uint16		reserved;		/* zero, for a use to come */
	uint32		fingerprint;	/* of the network that made it; 0: none */
	float		x[FLEXIBLE_ARRAY_MEMBER];	/* the elements, all finite */
} MetaEmbedding;

/* Bytes of an embedding, varlena header included */
#define META_EMBEDDING_SIZE(dims) \
	add_size(offsetof(MetaEmbedding, x), mul_size(sizeof(float), (Size) (dims)))

#define DatumGetMetaEmbeddingP(d)		((MetaEmbedding *) PG_DETOAST_DATUM(d))
#define DatumGetMetaEmbeddingPCopy(d)	((MetaEmbedding *) PG_DETOAST_DATUM_COPY(d))
#define MetaEmbeddingPGetDatum(x)		PointerGetDatum(x)
#define PG_GETARG_META_EMBEDDING_P(n)	DatumGetMetaEmbeddingP(PG_GETARG_DATUM(n))
#define PG_RETURN_META_EMBEDDING_P(x)	PG_RETURN_POINTER(x)

/*
 * A copy of the fields before x alone: of a toasted value only the first chunk
 * is read.  Its length word does not cover the elements.
 */
#define DatumGetMetaEmbeddingHeaderP(d) \
	((MetaEmbedding *) PG_DETOAST_DATUM_SLICE(d, 0, \
		offsetof(MetaEmbedding, x) - VARHDRSZ))

extern MetaEmbedding *InitMetaEmbedding(int dims, uint32 fingerprint);
extern MetaEmbedding *MakeMetaEmbedding(int dims, uint32 fingerprint, const float *x);
extern void CheckMetaEmbeddingDims(int dims);
extern void CheckMetaEmbeddingTypmod(int32 typmod, int dims);
pg_noreturn extern void MetaEmbeddingElementError(float value);
pg_noreturn extern void MetaEmbeddingDimsError(int dims1, int dims2);
pg_noreturn extern void MetaEmbeddingFingerprintError(uint32 fingerprint1, uint32 fingerprint2);
pg_noreturn extern void MetaEmbeddingOverflowError(void);

/*
 * Ensure that a value can be an element
 */
static inline void
CheckMetaEmbeddingElement(float value)
{
	if (unlikely(!isfinite(value)))
		MetaEmbeddingElementError(value);
}

/*
 * Whether two embeddings may meet in one calculation, as far as the networks
 * that made them go: one without a fingerprint may meet any
 */
static inline bool
MetaEmbeddingFingerprintsMatch(uint32 fingerprint1, uint32 fingerprint2)
{
	return fingerprint1 == fingerprint2 || fingerprint1 == 0 || fingerprint2 == 0;
}

/*
 * Ensure that two embeddings have one width and no two different networks
 */
static inline void
CheckMetaEmbeddingPair(const MetaEmbedding *a, const MetaEmbedding *b)
{
	if (unlikely(a->dims != b->dims))
		MetaEmbeddingDimsError(a->dims, b->dims);
	if (unlikely(!MetaEmbeddingFingerprintsMatch(a->fingerprint, b->fingerprint)))
		MetaEmbeddingFingerprintError(a->fingerprint, b->fingerprint);
}

#endif							/* LIMAML_EMBEDDING_H */
