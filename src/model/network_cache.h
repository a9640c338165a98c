/*-------------------------------------------------------------------------
 *
 * network_cache.h
 *	  Decoded networks, kept by this backend from query to query.
 *
 * A network is known by its file's digest, and a file never changes: there is
 * nothing to invalidate.  What is used least recently goes first when the
 * setting limaml.network_cache is exceeded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_NETWORK_CACHE_H
#define MODEL_NETWORK_CACHE_H

#include "postgres.h"

#include "model/catalog.h"
#include "model/trained_network.h"

/* Setting limaml.network_cache, in kilobytes. */
extern int	network_cache_size;

/*
 * The network of a version, valid for as long as `user` is not reset.  With
 * SPI connected, as the catalog's functions.
 */
extern const TrainedNetwork *CachedNetwork(const Model *model,
										   const Version *version,
										   bool read_only,
										   MemoryContext user);

/*
 * A network that was given as a value (of the type limaml.trained_network), as
 * far as it takes to know it again: its file begins with its digest.  Of a
 * toasted value the pointer is remembered, too.
 */
typedef struct NetworkValue
{
	Size		size;			/* of the file; 0: there was none yet */
	char		start[SAFETENSORS_START_BYTES];
	Size		pointer_size;	/* 0 where it was not toasted */
	char		pointer[64];
} NetworkValue;

/* Whether a value is the network that is known. */
extern bool IsNetworkValue(NetworkValue *known, Datum value);
extern bool IsNetworkFile(const NetworkValue *known, const char *bytes,
						  Size size);

/*
 * The network that a value is, and what it will be known by.  It need not be in
 * any catalog, and neither SPI nor a snapshot is wanted unless it is toasted.
 */
extern const TrainedNetwork *NetworkOfValue(Datum value, NetworkValue *known,
											MemoryContext user);
extern const TrainedNetwork *NetworkOfFile(const char *bytes, Size size,
										   NetworkValue *known,
										   MemoryContext user);

#endif							/* MODEL_NETWORK_CACHE_H */
