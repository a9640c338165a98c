/*-------------------------------------------------------------------------
 *
 * refresh.c
 *	  limaml_refresh: brings the embeddings table up to date with the
 *	  interactions, batch by batch.
 *
 * First the stale entities' keys are written down, outside of any snapshot;
 * then each batch of them is read, adapted and stored in a transaction of its
 * own.  What is stored beside an embedding (how many rows there were, and the
 * newest one's time) comes from the very rows it was adapted on, so that a row
 * which arrives in between makes its entity stale again for the next run.
 *
 * One refresh of a model at a time: a second one says so and leaves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/embedding.h"
#include "model/network_cache.h"
#include "query/adapt.h"
#include "storage/lock.h"
#include "tcop/pquery.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* Entities that are adapted and stored in one transaction. */
#define BATCH_ENTITIES 1000

/* Seconds between two reports of progress. */
#define REPORT_SECONDS 1

/*
 * A lock of our own kind among the advisory ones, whose last field users set
 * to 1 or 2.
 */
#define REFRESH_LOCK_KIND 0x4c4d

typedef struct Refresh
{
	Model	   *model;
	Version    *version;
	bool		atomic;			/* within a transaction of the caller's */
	bool		only_stale;
	Adapter		adapter;
	Tuplestorestate *keys;		/* stale entities */
	TupleDesc	key_desc;
	int64		total;
	int64		done;
	char	   *insert;			/* SQL of a batch */
	Oid			embedding_type;
	TimestampTz start;
	TimestampTz reported;
} Refresh;

static void
RefreshLock(LOCKTAG *tag, const Model *model)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (model->id >> 32),
						 (uint32) model->id, REFRESH_LOCK_KIND);
}

/*
 * Writes down a key, whole: a TOAST pointer might lead nowhere after a commit.
 * Returns false where it is none, as the embeddings table might hold.
 */
static bool
PutKey(Refresh *refresh, const Source *source, HeapTuple tuple)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int k = 0; k < source->key.count; k++)
	{
		values[k] = SPI_getbinval(tuple, refresh->key_desc, k + 1, &nulls[k]);
		if (nulls[k])
			return false;
		if (source->key.columns[k].typlen == -1)
			values[k] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[k]));
	}
	tuplestore_putvalues(refresh->keys, refresh->key_desc, values, nulls);
	return true;
}

/* Writes down the keys of the entities to adapt. */
static void
CollectKeys(Refresh *refresh, MemoryContext context)
{
	const Source *source = &refresh->adapter.source;
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	SPIPlanPtr	plan;
	Portal		portal;
	MemoryContext old;
	MemoryContext fetched = AllocSetContextCreate(context, "limaml keys",
												  ALLOCSET_DEFAULT_SIZES);

	values[0] = Int32GetDatum(refresh->version->number);
	plan = SPI_prepare(SourceStaleQuery(source, !refresh->only_stale), 1,
					   types);
	if (plan == NULL)
		elog(ERROR, "could not prepare the query for stale entities");
	portal = SPI_cursor_open(NULL, plan, values, NULL, false);
	for (int k = 0; k < source->key.count; k++)
		if (TupleDescAttr(portal->tupDesc, k)->atttypid != source->key.columns[k].type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of model \"%s\" is of another type in the interactions than in the embeddings",
							source->key.columns[k].name,
							refresh->model->name)));

	old = MemoryContextSwitchTo(context);
	refresh->key_desc = CreateTupleDescCopy(portal->tupDesc);
	refresh->keys = tuplestore_begin_heap(false, true, work_mem);
	MemoryContextSwitchTo(old);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 1000);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(fetched);
		for (uint64 i = 0; i < SPI_processed; i++)
			refresh->total += PutKey(refresh, source,
									 SPI_tuptable->vals[i]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(fetched);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
}

/* The next keys, in arrays by key column; returns how many. */
static int
NextKeys(Refresh *refresh, TupleTableSlot *slot, Datum **key)
{
	const EntityKey *columns = &refresh->adapter.source.key;
	int			count = 0;

	while (count < BATCH_ENTITIES &&
		   tuplestore_gettupleslot(refresh->keys, true, false, slot))
	{
		for (int k = 0; k < columns->count; k++)
		{
			bool		isnull;
			Datum		value = slot_getattr(slot, k + 1, &isnull);

			key[k][count] = datumCopy(value, columns->columns[k].typbyval,
									  columns->columns[k].typlen);
		}
		count++;
	}

	/* the last tuple may be in the batch's memory, which is reset */
	ExecClearTuple(slot);
	return count;
}

/* INSERT ... of arrays: key columns, then what AdaptEntities found. */
static char *
InsertStatement(const Refresh *refresh)
{
	const EntityKey *key = &refresh->adapter.source.key;
	int			arrays = key->count + 5;
	StringInfoData sql;
	StringInfoData keys;

	initStringInfo(&sql);
	initStringInfo(&keys);
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&keys, "%s, ",
						 quote_identifier(key->columns[k].name));
	appendStringInfo(&sql, "INSERT INTO %s AS e (%sembedding, interactions,"
					 " adapted_through, loss_before, loss_after, version,"
					 " adapted_at) SELECT *, $%d, pg_catalog.now() FROM ROWS FROM (",
					 ModelRelationName(refresh->model,
									   refresh->model->embeddings,
									   "embeddings"),
					 keys.data, arrays + 1);
	for (int a = 1; a <= arrays; a++)
		appendStringInfo(&sql, "%spg_catalog.unnest($%d)", a > 1 ? ", " : "",
						 a);
	appendStringInfo(&sql, ") ON CONFLICT (%sversion) DO UPDATE SET"
					 " embedding = excluded.embedding,"
					 " interactions = excluded.interactions,"
					 " adapted_through = excluded.adapted_through,"
					 " loss_before = excluded.loss_before,"
					 " loss_after = excluded.loss_after,"
					 " adapted_at = excluded.adapted_at", keys.data);
	return sql.data;
}

static Datum
ArrayOf(Oid type, int count, Datum *values, bool *nulls)
{
	int16		length;
	bool		by_value;
	char		align;
	int			dims[1] = {count};
	int			bounds[1] = {1};

	get_typlenbyvalalign(type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, bounds,
											  type, length, by_value, align));
}

static void
StoreBatch(Refresh *refresh, int count, Datum **key,
		   const AdaptedEntity *adapted)
{
	const Source *source = &refresh->adapter.source;
	const TrainedNetwork *trained = refresh->adapter.trained;
	int			keys = source->key.count;
	int			parameters = keys + 6;
	Oid		   *types = palloc(sizeof(Oid) * parameters);
	Datum	   *values = palloc(sizeof(Datum) * parameters);
	Datum	   *column[5];
	bool	   *no_time = palloc0(sizeof(bool) * count);
	Oid			column_type[5] = {
		refresh->embedding_type, INT4OID, source->event_time.type, FLOAT4OID,
		FLOAT4OID
	};

	for (int c = 0; c < 5; c++)
		column[c] = palloc(sizeof(Datum) * count);
	for (int i = 0; i < count; i++)
	{
		MetaEmbedding *embedding =
			MakeMetaEmbedding(network_embedding_size(&trained->shape),
							  trained->fingerprint, adapted[i].embedding);

		column[0][i] = MetaEmbeddingPGetDatum(embedding);
		column[1][i] = Int32GetDatum((int32) Min(adapted[i].interactions,
												 PG_INT32_MAX));
		column[2][i] = adapted[i].adapted_through;
		no_time[i] = adapted[i].interactions == 0;
		column[3][i] = Float4GetDatum(adapted[i].loss_before);
		column[4][i] = Float4GetDatum(adapted[i].loss_after);
	}
	for (int k = 0; k < keys; k++)
	{
		types[k] = get_array_type(source->key.columns[k].type);
		values[k] = ArrayOf(source->key.columns[k].type, count, key[k], NULL);
	}
	for (int c = 0; c < 5; c++)
	{
		types[keys + c] = get_array_type(column_type[c]);
		values[keys + c] = ArrayOf(column_type[c], count, column[c],
								   c == 2 ? no_time : NULL);
	}
	types[keys + 5] = INT4OID;
	values[keys + 5] = Int32GetDatum(refresh->version->number);
	if (SPI_execute_with_args(refresh->insert, parameters, types, values, NULL,
							  false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store embeddings: %s", refresh->insert);
}

/* Commits, where that is ours to do, and goes on with the owner's rights. */
static void
EndBatch(Refresh *refresh, RightsScope *scope)
{
	if (refresh->atomic)
		return;
	LeaveRights(scope);
	SPI_commit();

	/* what is read may be toasted, and detoasting takes a snapshot */
	EnsurePortalSnapshotExists();
	EnterOwner(scope, refresh->model);
}

static void
Report(Refresh *refresh)
{
	TimestampTz now = GetCurrentTimestamp();
	double		seconds = (now - refresh->start) / 1e6;

	if (now - refresh->reported < REPORT_SECONDS * USECS_PER_SEC ||
		refresh->done == refresh->total)
		return;
	refresh->reported = now;
	ereport(NOTICE,
			(errmsg("adapted " INT64_FORMAT " of " INT64_FORMAT " entities, %.0f per second, about %.0f s left",
					refresh->done, refresh->total, refresh->done / seconds,
					seconds * (refresh->total - refresh->done) / refresh->done)));
}

static void
RunRefresh(Refresh *refresh)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext batch = AllocSetContextCreate(context, "limaml refresh",
												ALLOCSET_DEFAULT_SIZES);
	TupleTableSlot *slot;
	Datum	   *key[INDEX_MAX_KEYS];
	RightsScope scope;
	const TrainedNetwork *trained;

	refresh->start = refresh->reported = GetCurrentTimestamp();
	EnterOwner(&scope, refresh->model);
	trained = CachedNetwork(refresh->model, refresh->version, false, context);
	MemoryContextSwitchTo(context);
	AdapterInit(&refresh->adapter, refresh->model, trained);
	MemoryContextSwitchTo(context);
	refresh->insert = InsertStatement(refresh);
	CollectKeys(refresh, context);
	EndBatch(refresh, &scope);

	MemoryContextSwitchTo(context);
	slot = MakeSingleTupleTableSlot(refresh->key_desc, &TTSOpsMinimalTuple);
	for (int k = 0; k < refresh->adapter.source.key.count; k++)
		key[k] = palloc(sizeof(Datum) * BATCH_ENTITIES);
	for (;;)
	{
		AdaptedEntity *adapted;
		int			count;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(batch);
		count = NextKeys(refresh, slot, key);
		if (count == 0)
			break;
		adapted = AdaptEntities(&refresh->adapter, count, key, false);
		MemoryContextSwitchTo(batch);
		StoreBatch(refresh, count, key, adapted);
		refresh->done += count;
		EndBatch(refresh, &scope);
		MemoryContextSwitchTo(context);
		MemoryContextReset(batch);
		Report(refresh);
	}
	LeaveRights(&scope);
	ExecDropSingleTupleTableSlot(slot);
	ereport(NOTICE,
			(errmsg_plural("refreshed " INT64_FORMAT " embedding of version %d of model \"%s\" in %.1f s",
						   "refreshed " INT64_FORMAT " embeddings of version %d of model \"%s\" in %.1f s",
						   refresh->done, refresh->done,
						   refresh->version->number, refresh->model->name,
						   (GetCurrentTimestamp() - refresh->start) / 1e6)));
}

PG_FUNCTION_INFO_V1(limaml_refresh);

/*
 * CALL limaml_refresh(model text, version int, only_stale boolean): adapts
 * the entities whose interactions have changed since their embedding, or all
 * of them, and stores their embeddings of a version, or of the deployed one.
 * Commits every batch unless it is called within a transaction.
 */
Datum
limaml_refresh(PG_FUNCTION_ARGS)
{
	CallContext *call = fcinfo->context && IsA(fcinfo->context, CallContext) ?
		(CallContext *) fcinfo->context : NULL;
	Refresh		refresh = {0};
	LOCKTAG		lock;
	int			number;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	PreventCommandIfReadOnly("limaml_refresh()");
	refresh.atomic = call == NULL || call->atomic;
	refresh.embedding_type = MetaEmbeddingType(fcinfo->flinfo->fn_oid);
	refresh.only_stale = PG_ARGISNULL(2) || PG_GETARG_BOOL(2);
	SPI_connect_ext(refresh.atomic ? 0 : SPI_OPT_NONATOMIC);
	refresh.model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(refresh.model, "refresh");
	number = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	if (!PG_ARGISNULL(1) && number < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", refresh.model->name,
						number),
				 errhint("Versions count from 1.")));
	refresh.version = CatalogVersion(refresh.model, number, false);

	CatalogCheckEmbeddings(refresh.model, refresh.embedding_type);

	/*
	 * The lock is to last until what it protects is committed: over the
	 * batches' transactions, or to the end of the caller's.
	 */
	RefreshLock(&lock, refresh.model);
	if (LockAcquire(&lock, ExclusiveLock, !refresh.atomic, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		ereport(NOTICE,
				(errmsg("model \"%s\" is being refreshed by another session",
						refresh.model->name)));
		SPI_finish();
		PG_RETURN_VOID();
	}

	/* a session's lock outlives errors too */
	PG_TRY();
	{
		RunRefresh(&refresh);
	}
	PG_FINALLY();
	{
		/* no transaction's end removes its file */
		if (refresh.keys)
			tuplestore_end(refresh.keys);
		if (!refresh.atomic)
			LockRelease(&lock, ExclusiveLock, true);
	}
	PG_END_TRY();
	SPI_finish();
	PG_RETURN_VOID();
}
