/*-------------------------------------------------------------------------
 *
 * adapt_pass.h
 *	  Adapting all the entities that there are, or a share of them, on rows
 *	  that one pass over the relation finds.
 *
 * A pass needs no list of the entities.  Whose share an entity is in follows
 * from a hash of its key, and so does the part of the share in which its rows
 * wait on disk; then a part at a time is taken back, and fits in memory.  Where
 * all of a share's rows that count fit there, none waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_ADAPT_PASS_H
#define QUERY_ADAPT_PASS_H

#include "postgres.h"

#include "query/adapt.h"
#include "query/key_places.h"

/* Of all entities, or of so many shares of them the nth, from 0. */
typedef struct EntityShare
{
	int			number;
	int			shares;
} EntityShare;

/* Whether there can be one: the key has one column, which hashes. */
extern bool PassIsPossible(const Adapter *adapter);

/* How many entities, and rows, the planner thinks that there are. */
extern int64 PassEntities(const Adapter *adapter);
extern int64 PassRows(const Adapter *adapter);

/*
 * In how many shares so many entities are adapted by so many workers, each of
 * which makes a pass for a share with this much memory.
 */
extern int	PassShares(const Adapter *adapter, int64 entities, int workers,
					   Size memory);

/*
 * Adapts the entities of a share, of about so many in all, as AdaptEntities
 * does: but in an order of its own, of key columns that are found with the rows.
 */
extern void AdaptShare(Adapter *adapter, const EntityShare *share,
					   int64 entities, Size memory, bool read_only,
					   AdaptedReceiver receive, void *argument);

/* Whether a key is in a share, by what KeyPartsInit makes. */
extern bool ShareHasKey(const EntityShare *share, const KeyParts *keys,
						Datum key);

#endif							/* QUERY_ADAPT_PASS_H */
