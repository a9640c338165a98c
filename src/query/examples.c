/*-------------------------------------------------------------------------
 *
 * examples.c
 *	  The store of training rows.
 *
 * An entity's record: its meta features' codes, its rows, each an Interaction
 * and its features' codes, and the lists of all these codes.  Records follow
 * one another, the first ones in memory and the rest in the file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "query/examples.h"
#include "storage/buffile.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "compat.h"

typedef struct StoredEntity
{
	int64		offset;			/* in memory, or -1 - offset in the file */
	ExampleParts parts;
	int			lists;			/* codes in its lists */
} StoredEntity;

struct ExampleStore
{
	MemoryContext context;		/* in which it was created */
	int			features;
	int			meta_features;
	Size		row_size;

	StoredEntity *entities;
	int			count;
	int			room;
	int64		validation_rows;

	char	   *memory;
	Size		used;
	Size		size;
	Size		most;

	BufFile    *file;			/* NULL until it is needed */
	int64		file_used;
	bool		in_file;		/* where the entity being added goes */
	CodeLists	lists;			/* of the entity being added */

	char	   *buffer;			/* a record read from the file */
	Size		buffer_size;
};

ExampleStore *
ExampleStoreCreate(int features, int meta_features)
{
	ExampleStore *store = palloc0(sizeof(ExampleStore));

	store->context = CurrentMemoryContext;
	store->features = features;
	store->meta_features = meta_features;
	store->row_size = ExampleRowSize(features);
	store->room = 1024;
	store->entities = palloc(store->room * sizeof(StoredEntity));
	store->most = (Size) maintenance_work_mem * 1024;
	store->size = 64 * 1024;
	store->memory = palloc(store->size);
	store->lists.context = store->context;
	return store;
}

static void
Append(ExampleStore *store, const void *bytes, Size size)
{
	if (store->in_file)
	{
		BufFileWrite(store->file, unconstify(void *, bytes), size);
		store->file_used += size;
		return;
	}
	while (store->used + size > store->size)
	{
		store->size = mul_size(store->size, 2);
		store->memory = repalloc_huge(store->memory, store->size);
	}
	if (size > 0)
		memcpy(store->memory + store->used, bytes, size);
	store->used += size;
}

/* Ends the record of the entity being added. */
static void
EndEntity(ExampleStore *store)
{
	if (store->lists.used == 0)
		return;
	store->entities[store->count - 1].lists = store->lists.used;
	Append(store, store->lists.codes, store->lists.used * sizeof(FeatureCode));
	store->lists.used = 0;
}

void
ExampleStoreEntity(ExampleStore *store, ExampleParts parts)
{
	StoredEntity *entity;

	EndEntity(store);
	if (store->count == store->room)
	{
		if (store->room > PG_INT32_MAX / 2)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("cannot work on more than %d entities",
							store->room)));
		store->room *= 2;
		store->entities = repalloc_huge(store->entities,
										store->room * sizeof(StoredEntity));
	}

	/* a record is never split: the last in memory may exceed it by itself */
	if (!store->in_file && store->used >= store->most)
	{
		MemoryContext old = MemoryContextSwitchTo(store->context);

		store->file = BufFileCreateTemp(false);
		store->in_file = true;
		MemoryContextSwitchTo(old);
	}
	entity = &store->entities[store->count++];
	entity->offset = store->in_file ? -1 - store->file_used :
		(int64) store->used;
	entity->parts = parts;
	entity->lists = 0;
	store->validation_rows += parts.learnable - parts.training;
}

CodeLists *
ExampleStoreLists(ExampleStore *store)
{
	return &store->lists;
}

void
ExampleStoreMeta(ExampleStore *store, const FeatureCode *meta)
{
	Append(store, meta, store->meta_features * sizeof(FeatureCode));
}

void
ExampleStoreAdd(ExampleStore *store, const Interaction *row,
				const FeatureCode *codes)
{
	Append(store, row, sizeof(Interaction));
	Append(store, codes, store->features * sizeof(FeatureCode));
}

int
ExampleStoreEntities(const ExampleStore *store)
{
	return store->count;
}

int64
ExampleStoreValidationRows(const ExampleStore *store)
{
	return store->validation_rows;
}

ExampleParts
ExampleStoreParts(const ExampleStore *store, int e)
{
	return store->entities[e].parts;
}

Examples
ExampleStoreRead(ExampleStore *store, int e)
{
	const StoredEntity *entity = &store->entities[e];
	Size		meta_size = store->meta_features * sizeof(FeatureCode);
	Size		rows_size = mul_size(entity->parts.rows, store->row_size);
	const char *record;
	Examples	examples;

	EndEntity(store);
	if (entity->offset >= 0)
		record = store->memory + entity->offset;
	else
	{
		Size		size = add_size(add_size(meta_size, rows_size),
									mul_size(entity->lists,
											 sizeof(FeatureCode)));

		if (size > store->buffer_size)
		{
			if (store->buffer)
				pfree(store->buffer);
			store->buffer = MemoryContextAllocHuge(store->context, size);
			store->buffer_size = size;
		}
		if (BufFileSeek(store->file, 0, -1 - entity->offset, SEEK_SET) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not seek in temporary file of training rows")));
		ReadBufFileExact(store->file, store->buffer, size);
		record = store->buffer;
	}
	examples.parts = entity->parts;
	examples.meta = (const FeatureCode *) record;
	examples.row = record + meta_size;
	examples.lists = (const FeatureCode *) (examples.row + rows_size);
	examples.row_size = store->row_size;
	return examples;
}

void
ExampleStoreFree(ExampleStore *store)
{
	if (store->file)
		BufFileClose(store->file);
	if (store->buffer)
		pfree(store->buffer);
	if (store->lists.codes)
		pfree(store->lists.codes);
	pfree(store->memory);
	pfree(store->entities);
	pfree(store);
}
