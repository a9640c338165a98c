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

#endif							/* MODEL_NETWORK_CACHE_H */
