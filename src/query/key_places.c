/*-------------------------------------------------------------------------
 *
 * key_places.c
 *	  Which place an entity has in a batch, by its key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "query/key_places.h"
#include "utils/typcache.h"

typedef struct KeyPlaceEntry
{
	Datum		value;
	int			place;
	uint32		hash;
	char		status;
} KeyPlaceEntry;

/* The key's own functions, as its type has them. */
struct KeyPlaces
{
	struct places_hash *table;
	FmgrInfo   *hash;
	FmgrInfo   *equal;
	Oid			collation;
};

static inline uint32
HashKey(const KeyPlaces *places, Datum value)
{
	return DatumGetUInt32(FunctionCall1Coll(places->hash, places->collation,
											value));
}

static inline bool
SameKey(const KeyPlaces *places, Datum a, Datum b)
{
	return DatumGetBool(FunctionCall2Coll(places->equal, places->collation,
										  a, b));
}

#define SH_PREFIX places
#define SH_ELEMENT_TYPE KeyPlaceEntry
#define SH_KEY_TYPE Datum
#define SH_KEY value
#define SH_HASH_KEY(table, key) HashKey((table)->private_data, key)
#define SH_EQUAL(table, a, b) SameKey((table)->private_data, a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Entries of a type's cache are there for ever. */
static TypeCacheEntry *
KeyType(const EntityKey *key)
{
	return lookup_type_cache(key->columns[0].type,
							 TYPECACHE_HASH_PROC_FINFO |
							 TYPECACHE_HASH_EXTENDED_PROC_FINFO |
							 TYPECACHE_EQ_OPR_FINFO);
}

bool
KeyHasPlaces(const EntityKey *key)
{
	TypeCacheEntry *type;

	if (key->count != 1)
		return false;
	type = KeyType(key);
	return OidIsValid(type->hash_proc_finfo.fn_oid) &&
		OidIsValid(type->hash_extended_proc_finfo.fn_oid) &&
		OidIsValid(type->eq_opr_finfo.fn_oid);
}

KeyPlaces *
KeyPlacesCreate(const EntityKey *key, int count, const Datum *values)
{
	KeyPlaces  *places = palloc(sizeof(KeyPlaces));
	TypeCacheEntry *type = KeyType(key);

	places->hash = &type->hash_proc_finfo;
	places->equal = &type->eq_opr_finfo;
	places->collation = key->columns[0].collation;
	places->table = places_create(CurrentMemoryContext, count, places);
	for (int i = 0; i < count; i++)
	{
		bool		found;
		KeyPlaceEntry *entry = places_insert(places->table, values[i], &found);

		entry->place = i;
	}
	return places;
}

int
KeyPlace(const KeyPlaces *places, Datum value)
{
	KeyPlaceEntry *entry = places_lookup(places->table, value);

	return entry ? entry->place : -1;
}

void
KeyPlaceAdd(KeyPlaces *places, Datum value, int place)
{
	bool		found;
	KeyPlaceEntry *entry = places_insert(places->table, value, &found);

	Assert(!found);
	entry->place = place;
}

/* With 0 the hash would begin as that of a place does. */
#define FIRST_SEED 1

void
KeyPartsInit(KeyParts *keys, const EntityKey *key)
{
	keys->hash = &KeyType(key)->hash_extended_proc_finfo;
	keys->collation = key->columns[0].collation;
}

void
KeyPart(const KeyParts *keys, Datum value, int round, int shares, int parts,
		int *share, int *part)
{
	uint64		hash = DatumGetUInt64(FunctionCall2Coll(keys->hash,
														keys->collation, value,
														Int64GetDatum(FIRST_SEED + round)));

	/* each half as a fraction */
	*share = (int) ((hash >> 32) * (uint64) shares >> 32);
	*part = (int) ((hash & PG_UINT32_MAX) * (uint64) parts >> 32);
}
