/*-------------------------------------------------------------------------
 *
 * network_cache.c
 *	  The cache of decoded networks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "model/network_cache.h"
#include "utils/memutils.h"

int			network_cache_size = 128 * 1024;

/* An entry lives in its network's memory context. */
typedef struct CacheEntry
{
	dlist_node	node;			/* most recently used first */
	TrainedNetwork *network;
	Size		size;
	int			users;			/* queries that hold it */
} CacheEntry;

static dlist_head cache = DLIST_STATIC_INIT(cache);
static Size cache_used = 0;

static void
ReleaseEntry(void *arg)
{
	((CacheEntry *) arg)->users--;
}

/* Makes room, as far as nobody uses what is in the way. */
static void
Evict(void)
{
	Size		most = (Size) network_cache_size * 1024;
	dlist_node *node = dlist_is_empty(&cache) ? NULL : dlist_tail_node(&cache);

	while (cache_used > most && node)
	{
		CacheEntry *entry = dlist_container(CacheEntry, node, node);

		node = dlist_has_prev(&cache, node) ? dlist_prev_node(&cache, node) : NULL;
		if (entry->users > 0)
			continue;
		dlist_delete(&entry->node);
		cache_used -= entry->size;
		MemoryContextDelete(entry->network->context);
	}
}

static CacheEntry *
Find(const uint8 *digest)
{
	dlist_iter	iter;

	dlist_foreach(iter, &cache)
	{
		CacheEntry *entry = dlist_container(CacheEntry, node, iter.cur);

		if (memcmp(entry->network->digest, digest,
				   SAFETENSORS_DIGEST_BYTES) == 0)
			return entry;
	}
	return NULL;
}

const TrainedNetwork *
CachedNetwork(const Model *model, const Version *version, bool read_only,
			  MemoryContext user)
{
	CacheEntry *entry = Find(version->digest);
	MemoryContextCallback *callback;

	if (entry)
		dlist_move_head(&cache, &entry->node);
	else
	{
		MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
													  "limaml network file",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(scratch);
		bytea	   *file = CatalogNetwork(model, version->number, read_only);
		TrainedNetwork *network;

		MemoryContextSwitchTo(scratch);
		network = TrainedNetworkRead(VARDATA(file), VARSIZE(file) - VARHDRSZ,
									 true, scratch);
		if (memcmp(network->digest, version->digest,
				   SAFETENSORS_DIGEST_BYTES) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("network of version %d of model \"%s\" has another digest than the catalog",
							version->number, model->name)));
		entry = MemoryContextAllocZero(network->context, sizeof(CacheEntry));
		entry->network = network;
		MemoryContextSetParent(network->context, TopMemoryContext);
		entry->size = MemoryContextMemAllocated(network->context, true);
		dlist_push_head(&cache, &entry->node);
		cache_used += entry->size;
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
	}

	if (KEEPS_NETWORKS(entry->network->personalization))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of model \"%s\" keeps a network per entity, which cannot be stored as an embedding",
						version->number, model->name),
				 errdetail("Its option \"personalization\" is \"%s\".",
						   personalization_labels[entry->network->personalization]),
				 errhint("It can be evaluated, by limaml_evaluate and limaml_compare.")));

	callback = MemoryContextAlloc(user, sizeof(MemoryContextCallback));
	callback->func = ReleaseEntry;
	callback->arg = entry;
	MemoryContextRegisterResetCallback(user, callback);
	entry->users++;
	Evict();
	return entry->network;
}
