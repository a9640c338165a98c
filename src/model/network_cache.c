/*-------------------------------------------------------------------------
 *
 * network_cache.c
 *	  The cache of decoded networks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "lib/ilist.h"
#include "model/network_cache.h"
#include "model/shared_networks.h"
#include "utils/memutils.h"

#include "compat.h"

int			network_cache_size = 128 * 1024;

/* An entry lives in its network's memory context. */
typedef struct CacheEntry
{
	dlist_node	node;			/* most recently used first */
	TrainedNetwork *network;
	Size		size;
	Size		file_size;
	int			users;			/* queries that hold it */
	SharedNetwork *shared;		/* where its numbers are, or NULL */
} CacheEntry;

static dlist_head cache = DLIST_STATIC_INIT(cache);
static Size cache_used = 0;

/* Shared numbers are held while a query uses them. */
static void
ReleaseEntry(void *arg)
{
	CacheEntry *entry = arg;

	if (--entry->users == 0 && entry->shared)
		SharedNetworkRelease(entry->shared);
}

static void
Forget(CacheEntry *entry)
{
	dlist_delete(&entry->node);
	cache_used -= entry->size;
	MemoryContextDelete(entry->network->context);
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
		if (entry->users == 0)
			Forget(entry);
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

static CacheEntry *
MakeEntry(TrainedNetwork *network, Size file_size)
{
	CacheEntry *entry = MemoryContextAllocZero(network->context,
											   sizeof(CacheEntry));

	entry->network = network;
	entry->file_size = file_size;
	return entry;
}

/* Keeps a decoded network. */
static void
Insert(CacheEntry *entry)
{
	MemoryContextSetParent(entry->network->context, TopMemoryContext);
	entry->size = MemoryContextMemAllocated(entry->network->context, true);
	dlist_push_head(&cache, &entry->node);
	cache_used += entry->size;
}

/*
 * The entry's network, which is not to go before `user` does.  NULL where its
 * shared numbers have gone, and the entry with them.
 */
static const TrainedNetwork *
Hold(CacheEntry *entry, MemoryContext user)
{
	MemoryContextCallback *callback =
		MemoryContextAlloc(user, sizeof(MemoryContextCallback));

	if (entry->shared && !entry->shared->held &&
		!SharedNetworkHold(entry->shared))
	{
		pfree(callback);
		Forget(entry);
		return NULL;
	}
	callback->func = ReleaseEntry;
	callback->arg = entry;
	MemoryContextRegisterResetCallback(user, callback);
	entry->users++;
	dlist_move_head(&cache, &entry->node);
	Evict();
	return entry->network;
}

static MemoryContext
ScratchContext(void)
{
	return AllocSetContextCreate(CurrentMemoryContext, "limaml network file",
								 ALLOCSET_DEFAULT_SIZES);
}

static void
ReleaseShared(void *shared)
{
	SharedNetworkRelease(shared);
}

static void
PackShared(const void *argument, float *packed)
{
	const TrainedNetwork *network = argument;
	Network		whole;

	network_pack(&whole, &network->shape, network->parameters, packed);
}

/*
 * A version that is not in the cache: from shared memory, else from its file,
 * which is put there if it has room.  With shared memory's numbers, or with the
 * file, `numbers` is what the network needs besides its own context.
 */
static CacheEntry *
LoadVersion(const Model *model, const Version *version, bool read_only,
			MemoryContext numbers)
{
	MemoryContext work = MemoryContextSwitchTo(numbers);
	SharedNetwork *shared = palloc0(sizeof(SharedNetwork));
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	TrainedNetwork *network;
	CacheEntry *entry;

	callback->func = ReleaseShared;
	callback->arg = shared;
	MemoryContextRegisterResetCallback(numbers, callback);
	if (!SharedNetworkFind(shared, version->digest))
	{
		bytea	   *file = CatalogNetwork(model, version->number, read_only);
		Size		size = VARSIZE(file) - VARHDRSZ;

		MemoryContextSwitchTo(work);
		network = TrainedNetworkOpen(VARDATA(file), size, false, work);
		if (memcmp(network->digest, version->digest,
				   SAFETENSORS_DIGEST_BYTES) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("network of version %d of model \"%s\" has another digest than the catalog",
							version->number, model->name)));
		if (!SharedNetworkAdd(shared, network->digest, VARDATA(file), size,
							  network_packed_size(&network->shape),
							  PackShared, network))
		{
			TrainedNetworkPackForward(network);
			return MakeEntry(network, size);
		}
		pfree(file);
	}
	MemoryContextSwitchTo(work);
	network = TrainedNetworkOpen(shared->file, shared->size, true, work);
	TrainedNetworkAdopt(network, shared->packed);
	entry = MakeEntry(network, shared->size);
	entry->shared = shared;
	return entry;
}

/* The same, kept. */
static CacheEntry *
InsertVersion(const Model *model, const Version *version, bool read_only)
{
	MemoryContext scratch = ScratchContext();
	MemoryContext old = MemoryContextSwitchTo(scratch);
	MemoryContext numbers = AllocSetContextCreate(scratch,
												  "limaml network numbers",
												  ALLOCSET_SMALL_SIZES);
	CacheEntry *entry = LoadVersion(model, version, read_only, numbers);

	MemoryContextSetParent(numbers, entry->network->context);
	Insert(entry);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	return entry;
}

const TrainedNetwork *
CachedNetwork(const Model *model, const Version *version, bool read_only,
			  MemoryContext user)
{
	CacheEntry *entry = Find(version->digest);
	const TrainedNetwork *network = entry ? Hold(entry, user) : NULL;

	if (network == NULL)
		network = Hold(InsertVersion(model, version, read_only), user);
	if (KEEPS_NETWORKS(network->personalization))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of model \"%s\" keeps a network per entity, which cannot be stored as an embedding",
						version->number, model->name),
				 errdetail("Its option \"personalization\" is \"%s\".",
						   personalization_labels[network->personalization]),
				 errhint("It can be evaluated, by limaml_evaluate and limaml_compare.")));
	return network;
}

/* Remembers a toasted value, which its pointer stands for. */
static void
KnowPointer(NetworkValue *known, const struct varlena *value)
{
	Size		size = VARSIZE_EXTERNAL(value);

	if (size > sizeof(known->pointer))
		return;
	memcpy(known->pointer, value, size);
	known->pointer_size = size;
}

bool
IsNetworkFile(const NetworkValue *known, const char *bytes, Size size)
{
	return size == known->size && size >= SAFETENSORS_START_BYTES &&
		memcmp(bytes, known->start, SAFETENSORS_START_BYTES) == 0;
}

bool
IsNetworkValue(NetworkValue *known, Datum value)
{
	const struct varlena *given = (struct varlena *) DatumGetPointer(value);
	struct varlena *start;
	bool		is;

	if (!VARATT_IS_EXTENDED(given))
		return IsNetworkFile(known, VARDATA_ANY(given),
							 VARSIZE_ANY_EXHDR(given));
	if (VARATT_IS_EXTERNAL_ONDISK(given) && known->pointer_size > 0 &&
		VARSIZE_EXTERNAL(given) == known->pointer_size &&
		memcmp(given, known->pointer, known->pointer_size) == 0)
		return true;
	if (toast_raw_datum_size(value) != VARHDRSZ + known->size)
		return false;
	start = PG_DETOAST_DATUM_SLICE(value, 0, SAFETENSORS_START_BYTES);
	is = IsNetworkFile(known, VARDATA_ANY(start), known->size);
	if (is && VARATT_IS_EXTERNAL_ONDISK(given))
		KnowPointer(known, given);
	return is;
}

/*
 * The entry of the file that has this size and begins with these bytes.  They
 * are taken at their word: whoever gives a file the digest of another one that
 * this session has read is given that one's network.
 */
static CacheEntry *
FindByStart(const char *bytes, Size length, Size size)
{
	uint8		digest[SAFETENSORS_DIGEST_BYTES];
	CacheEntry *entry = SafetensorsStartDigest(bytes, length, digest) ?
		Find(digest) : NULL;

	return entry && entry->file_size == size ? entry : NULL;
}

/* Hold, for somebody who has the network as a value. */
static const TrainedNetwork *
HoldValue(CacheEntry *entry, const char *bytes, NetworkValue *known,
		  MemoryContext user)
{
	const TrainedNetwork *network = entry->network;

	if (KEEPS_NETWORKS(network->personalization))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("network %08x keeps a network per entity, which no embedding holds",
						network->fingerprint),
				 errdetail("Its option \"personalization\" is \"%s\".",
						   personalization_labels[network->personalization])));
	known->size = entry->file_size;
	memcpy(known->start, bytes, SAFETENSORS_START_BYTES);
	known->pointer_size = 0;
	return Hold(entry, user);
}

const TrainedNetwork *
NetworkOfFile(const char *bytes, Size size, NetworkValue *known,
			  MemoryContext user)
{
	CacheEntry *entry = FindByStart(bytes, size, size);
	const TrainedNetwork *network = entry ?
		HoldValue(entry, bytes, known, user) : NULL;

	/* such as the name of a model, which is a value of type bytea as well */
	if (network == NULL && (size <= sizeof(uint64) || bytes[sizeof(uint64)] != '{'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("network is a value of %zu bytes that is not a safetensors file",
						size),
				 errhint("The network of a model is limaml_network(model).")));
	if (network == NULL)
	{
		MemoryContext scratch = ScratchContext();
		MemoryContext old = MemoryContextSwitchTo(scratch);
		uint8		digest[SAFETENSORS_DIGEST_BYTES];

		entry = MakeEntry(TrainedNetworkRead(bytes, size, true, scratch),
						  size);
		if (!SafetensorsStartDigest(bytes, size, digest))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("network does not begin with its digest"),
					 errhint("limaml_import takes the file and writes it anew.")));
		Insert(entry);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
		network = HoldValue(entry, bytes, known, user);
	}
	return network;
}

const TrainedNetwork *
NetworkOfValue(Datum value, NetworkValue *known, MemoryContext user)
{
	const struct varlena *given = (struct varlena *) DatumGetPointer(value);
	const TrainedNetwork *network = NULL;
	struct varlena *bytes;

	/* of one that is in the cache the start will do */
	if (VARATT_IS_EXTERNAL(given))
	{
		CacheEntry *entry;

		bytes = PG_DETOAST_DATUM_SLICE(value, 0, SAFETENSORS_START_BYTES);
		entry = FindByStart(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes),
							toast_raw_datum_size(value) - VARHDRSZ);
		if (entry)
			network = HoldValue(entry, VARDATA_ANY(bytes), known, user);
	}
	if (network == NULL)
	{
		bytes = PG_DETOAST_DATUM_PACKED(value);
		network = NetworkOfFile(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes),
								known, user);
	}
	if (VARATT_IS_EXTERNAL_ONDISK(given))
		KnowPointer(known, given);
	return network;
}
