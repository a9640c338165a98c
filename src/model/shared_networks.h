/*-------------------------------------------------------------------------
 *
 * shared_networks.h
 *	  Networks in shared memory, which every session finds packed.
 *
 * There are some where the library is preloaded and limaml.shared_networks is
 * not 0.  What is kept is the file, which is never changed, and the packed
 * numbers, by the digest that was computed of this file.  Whoever asks has the
 * digest from the catalog, where it may see the network.  Nothing is found by
 * what a user says.  What is used least recently, and by no query, makes room;
 * where there is none, a session has its network to itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_SHARED_NETWORKS_H
#define MODEL_SHARED_NETWORKS_H

#include "postgres.h"

#include "model/safetensors.h"

/* Setting limaml.shared_networks, in kilobytes. */
extern int	shared_networks_size;

/* While libraries are preloaded: asks for the memory. */
extern void SharedNetworksRequest(void);

/* A network as one session holds it. */
typedef struct SharedNetwork
{
	int			place;
	uint64		generation;		/* another network there has another */
	bool		held;			/* it stays where it is */
	const char *file;
	Size		size;
	float	   *packed;			/* by network_pack */
} SharedNetwork;

/* Finds and holds the network of this digest; false where there is none. */
extern bool SharedNetworkFind(SharedNetwork *shared, const uint8 *digest);

/* Holds what was held before; false where it has made room meanwhile. */
extern bool SharedNetworkHold(SharedNetwork *shared);

/* Holds it no longer.  At a session's end nothing is held. */
extern void SharedNetworkRelease(SharedNetwork *shared);

/*
 * Adds a network and holds it, or the one of this digest that is there by now.
 * `pack` fills in the packed numbers, of which there are so many, and must not
 * fail.  False where there is no room.
 */
extern bool SharedNetworkAdd(SharedNetwork *shared, const uint8 *digest,
							 const char *file, Size size, Size packed,
							 void (*pack) (const void *argument,
										   float *packed),
							 const void *argument);

#endif							/* MODEL_SHARED_NETWORKS_H */
