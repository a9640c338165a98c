/*-------------------------------------------------------------------------
 *
 * safetensors.h
 *	  Files of named tensors in the safetensors format, which PyTorch's and
 *	  other libraries open without running anything.
 *
 *		8 bytes		n, the header's length, little-endian
 *		n bytes		the header: a JSON object in UTF-8, padded with blanks
 *		the rest	the tensors' numbers, little-endian, without gaps
 *
 * The header maps each tensor's name to its dtype, shape and data_offsets,
 * and "__metadata__" to an object of strings.  This project writes
 * "__metadata__" first and in it first "digest": the SHA-256 of the file, in
 * hexadecimal, taken with 64 zeros in its own place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "postgres.h"

#include "nodes/pg_list.h"

#define SAFETENSORS_DIGEST_BYTES 32

typedef struct SafetensorsTensor
{
	const char *name;			/* in the database's encoding */
	int			dimensions;		/* 1 or 2 */
	int64		shape[2];
	const float *numbers;		/* may be unaligned in a file that was read */
} SafetensorsTensor;

typedef struct SafetensorsMetadata
{
	const char *key;
	const char *value;
} SafetensorsMetadata;

typedef struct Safetensors
{
	List	   *metadata;		/* of SafetensorsMetadata */
	List	   *tensors;		/* of SafetensorsTensor, in the data's order */
	bool		has_digest;		/* and it is the file's */
	uint8		digest[SAFETENSORS_DIGEST_BYTES];
} Safetensors;

/*
 * Makes a digest of nothing in the postmaster.  OpenSSL starts with the first
 * that a process makes, which takes as long as reading a network of a megabyte.
 */
extern void SafetensorsPreload(void);

/*
 * Reads a file, which must outlive what is returned.  Whatever is wrong with
 * it is an error that says what.  One that is known was read before, these very
 * bytes: its digest is not computed again.
 */
extern Safetensors *SafetensorsRead(const char *bytes, Size length,
									bool known);

/* Writes a file; metadata and tensors as they stand, the digest before them. */
extern bytea *SafetensorsWrite(const Safetensors *safetensors);

/*
 * Reads the digest that begins such a file, of which these are the first bytes,
 * at least SAFETENSORS_START_BYTES if there are as many.  False where another
 * program wrote it.  Whether it is the file's is not checked.
 */
#define SAFETENSORS_START_BYTES 100

extern bool SafetensorsStartDigest(const char *bytes, Size length,
								   uint8 *digest);

/* A metadata string or NULL. */
extern const char *SafetensorsGetMetadata(const Safetensors *safetensors,
										  const char *key);

#endif							/* MODEL_SAFETENSORS_H */
