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

/*
 * Whether keys can be told from one another, and parted, so: one column, which
 * hashes.
 */
extern bool KeyHasPlaces(const EntityKey *key);

/* The places 0 ... count - 1 of these keys, in the current memory context. */
extern KeyPlaces *KeyPlacesCreate(const EntityKey *key, int count,
								  const Datum *values);

/* The place of a key, or -1. */
extern int	KeyPlace(const KeyPlaces *places, Datum value);

/* Gives a key that has none a place; its value must live as long. */
extern void KeyPlaceAdd(KeyPlaces *places, Datum value, int place);

/*
 * Parts entities by their keys: the same key, however it is written, is always
 * in the same part.  It has nothing to do with the hash that finds a place.
 */
typedef struct KeyParts
{
	FmgrInfo   *hash;
	Oid			collation;
} KeyParts;

extern void KeyPartsInit(KeyParts *keys, const EntityKey *key);

/*
 * Which of so many shares a key is in, and which of so many parts of it.  Every
 * round parts those that were together in the one before.
 */
extern void KeyPart(const KeyParts *keys, Datum value, int round, int shares,
					int parts, int *share, int *part);

#endif							/* QUERY_KEY_PLACES_H */
