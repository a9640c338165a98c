/*-------------------------------------------------------------------------
 *
 * key_places.h
 *	  Which place an entity has in a batch, by its key.
 *
 * A query that reads the rows of a batch need not join them with the batch's
 * keys: an index, or one pass over the relation, finds them by key = ANY (...),
 * and whose each is follows from its key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_KEY_PLACES_H
#define QUERY_KEY_PLACES_H

#include "postgres.h"

#include "model/entity_key.h"

typedef struct KeyPlaces KeyPlaces;

/* Whether keys can be told from one another so: one column, which hashes. */
extern bool KeyHasPlaces(const EntityKey *key);

/* The places 0 ... count - 1 of these keys, in the current memory context. */
extern KeyPlaces *KeyPlacesCreate(const EntityKey *key, int count,
								  const Datum *values);

/* The place of a key, or -1. */
extern int	KeyPlace(const KeyPlaces *places, Datum value);

#endif							/* QUERY_KEY_PLACES_H */
