/*-------------------------------------------------------------------------
 *
 * refresh.c
 *	  Working on a refresh, and CALL limaml_refresh.
 *
 * One worker lists the stale entities' keys, in batches; then every worker
 * claims batches until none is left.  Where all entities are to be adapted, and
 * they are many, there is no list: a batch is a share of them, whose rows one
 * pass over the interactions finds.  A batch is a transaction: its entities'
 * rows are read under one snapshot, adapted on, stored, and the batch deleted.
 * Under the very snapshot that reads the rows, their keys are deleted from the
 * changed ones; what is stored beside an embedding comes from the very rows it
 * was adapted on.  So a row that arrives at any other moment makes its entity
 * stale again for the next run.
 *
 * Where the embeddings are in foreign tables, a batch is two statements that go
 * to the servers which have them: one deletes, and one adapts and inserts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "executor/tuptable.h"
#include "lap.h"
#include "math/adapt.h"
#include "miscadmin.h"
#include "model/embedding.h"
#include "model/network_cache.h"
#include "model/statement.h"
#include "nodes/params.h"
#include "pgstat.h"
#include "query/adapt.h"
#include "query/adapt_pass.h"
#include "query/changes.h"
#include "query/training_rows.h"
#include "refresh/embedding_store.h"
#include "refresh/refresh.h"
#include "refresh/stale.h"
#include "tcop/pquery.h"
#include "utils/array.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * Entities of a batch, which is a transaction.  Where rows are looked up by
 * index: so many that a page which holds rows of several is read for all of
 * them, as few as are done within a second, and of few entities a share, for
 * all workers to have some.  Where they are found in a pass over the relation, a
 * batch is a worker's share of all, or as many as a hash table in the memory
 * there is has room for.  Of all entities those are looked up that are no more
 * than a batch has room for, and whose rows are so few: of many rows those of
 * every batch are on every page.
 */
#define MOST_ENTITIES 8192
#define MOST_ROWS (1 << 20)
#define LEAST_ENTITIES 16
#define SHARE_OF_ENTITIES 8
#define MOST_ENTITIES_OF_PASS (1 << 20)

/* To have other servers work takes time that has nothing to do with how many. */
#define SHIPPED_ENTITIES 5000

/* Of fewer, what has been stored is to be there soon, and to stay. */
#define LEAST_ENTITIES_OF_PASS (4 * MOST_ENTITIES)

/* Entities of a batch whose embeddings are stored by one statement. */
#define PART_ENTITIES 500

/* About what it takes to tell by a key whose a row is, beside the key. */
#define HASHED_KEY_SIZE 56

/* Parts of a pass wait in a buffer each. */
#define MOST_PARTS 256

/* Seconds between two reports of progress. */
#define REPORT_SECONDS 1

int			refresh_work_mem = 64 * 1024;

/* A version that is brought up to date. */
typedef struct VersionRun
{
	int			number;
	Adapter		adapter;
	char	   *ship_insert;	/* SQL of a batch that ships */
} VersionRun;

typedef struct Refresh
{
	JobRun	   *run;
	Model	   *model;
	ModelOptions options;
	MemoryContext context;		/* as long as the job */
	MemoryContext batch;
	MemoryContext part;			/* of a batch, that is stored at a time */
	int			versions;
	VersionRun *version;		/* the job's first */
	EmbeddingStore *store;		/* where batches do not ship */
	char	   *ship_delete;	/* SQL of one that does; see VersionRun */
	char	   *take_changes;	/* SQL, where changed keys are to be deleted */
	bool		ships;			/* other servers hold the embeddings */
	bool		wait;			/* for other workers' batches */
	int			from;			/* where to look for one that nobody has */
	Oid			embedding_type;
	int64		done;			/* entities, by this worker */
	int64		done_before;	/* of them, in batches that are committed */
	int64		stored;			/* of them, those that have an embedding */
	TimestampTz start;
	TimestampTz reported;
} Refresh;

void
JobCommit(const JobRun *run)
{
	if (run->atomic)
		return;
	if (run->process)
		PopActiveSnapshot();
	SPI_commit();

	/* a snapshot that is older than the locks, or others' work, is of no use */
	XactIsoLevel = XACT_READ_COMMITTED;

	/* what is read may be toasted, and detoasting takes a snapshot */
	if (run->process)
		PushActiveSnapshot(GetTransactionSnapshot());
	else
		EnsurePortalSnapshotExists();
}

/* Runs a step, and returns its error or NULL; *result is what it returned. */
static ErrorData *
TryStep(bool (*step) (void *argument), void *argument, bool *result)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	/* a transaction within the transaction, to go on in after an error */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*result = step(argument);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

bool
JobStep(JobRun *run, bool (*step) (void *argument), void *argument)
{
	MemoryContext context = CurrentMemoryContext;
	bool		result = false;
	ErrorData  *error;

	if (run->atomic)
		return step(argument);
	error = TryStep(step, argument, &result);
	if (error && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		run->stores_new)
	{
		/* somebody has stored what was to be new */
		run->stores_new = false;
		FreeErrorData(error);
		error = TryStep(step, argument, &result);
	}
	if (error)
		JobFailed(&run->job, error);
	JobCommit(run);
	MemoryContextSwitchTo(context);
	if (error)
		ReThrowError(error);
	return result;
}

/* A query of ours sorts and hashes in a few places at a time. */
static int
QueryMemory(void)
{
	return Max(refresh_work_mem / 4, 64);
}

static const EntityKey *
KeyOf(const Refresh *refresh)
{
	return &refresh->version[0].adapter.source.key;
}

/* Goes on as the model's owner, in the memory that a refresh may have. */
static void
EnterRefresh(const Refresh *refresh, RightsScope *scope)
{
	EnterOwner(scope, refresh->model);

	(void) set_config_option("work_mem", psprintf("%d", QueryMemory()),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);

	(void) set_config_option("hash_mem_multiplier", "1", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);

	/* what other servers are to do, they do where each has its part */
	if (refresh->ships)
	{
		(void) set_config_option("enable_partitionwise_join", "on",
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
		(void) set_config_option("enable_partitionwise_aggregate", "on",
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	}

	/* to compile takes longer than to list what is stale */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Deletes the keys given as arrays from the changed ones. */
static char *
TakeStatement(const Model *model, const EntityKey *key)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s AS q USING ROWS FROM (",
					 ModelRelationName(model, model->changes, "changes"));
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&sql, "%spg_catalog.unnest($%d)", k > 0 ? ", " : "",
						 k + 1);
	appendStringInfoString(&sql, ") AS k (");
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&sql, "%s%s", k > 0 ? ", " : "",
						 quote_identifier(key->columns[k].name));
	appendStringInfoString(&sql, ") WHERE ");
	for (int k = 0; k < key->count; k++)
	{
		const char *name = quote_identifier(key->columns[k].name);

		appendStringInfo(&sql, "%sq.%s %s k.%s", k > 0 ? " AND " : "", name,
						 key->columns[k].equality, name);
	}
	return sql.data;
}

/*
 * The two statements of a batch that other servers work on.  postgres_fdw knows
 * no ON CONFLICT, and what the losses were stays where they were.
 */
static void
ShippedStatements(Refresh *refresh)
{
	const KeyColumn *key = &KeyOf(refresh)->columns[0];
	const char *table = ModelRelationName(refresh->model,
										  refresh->model->embeddings,
										  "embeddings");

	refresh->ship_delete = psprintf("DELETE FROM %s AS e WHERE e.version OPERATOR(pg_catalog.=) $2 AND e.%s %s ANY ($1)",
									table, quote_identifier(key->name),
									key->equality);
	for (int v = 0; v < refresh->versions; v++)
	{
		VersionRun *version = &refresh->version[v];

		version->ship_insert = psprintf("INSERT INTO %s (%s, embedding, interactions, adapted_through,"
										" loss_before, loss_after, version, adapted_at)"
										" SELECT s.*, 'NaN'::pg_catalog.float4, 'NaN'::pg_catalog.float4, $3, pg_catalog.now() FROM (%s) AS s",
										table, quote_identifier(key->name),
										SourceAdaptQuery(&version->adapter.source));
	}
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

/*
 * Locks what is read, for a snapshot to be taken after it: an older one would
 * find a table that was rewritten in between empty.
 */
static void
LockForReading(Oid relation)
{
	char	   *sql;

	(void) LockRelationTree(relation, AccessShareLock);
	if (get_rel_relkind(relation) != RELKIND_VIEW)
		return;

	/* and what a view reads */
	sql = psprintf("LOCK TABLE %s IN ACCESS SHARE MODE",
				   quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
											  get_rel_name(relation)));
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not lock: %s", sql);
}

static void
LockRelations(const Model *model)
{
	LockForReading(model->interactions);
	if (OidIsValid(model->entities))
		LockForReading(model->entities);
}

/*
 * Listing
 */

typedef struct Listing
{
	Refresh    *refresh;
	int			batch;
	int			count;			/* entities of the batch that is being made */
	int			room;
	Size		size;			/* of their keys, where they are no values */
	Datum	   *key[INDEX_MAX_KEYS];
} Listing;

/* Writes the keys down as batches of so many. */
static void
WriteBatches(Listing *listing, int size)
{
	const EntityKey *key = KeyOf(listing->refresh);
	bytea	   *columns[INDEX_MAX_KEYS];

	for (int first = 0; first < listing->count; first += size)
	{
		int			count = Min(size, listing->count - first);

		/* as they are: their types may have no binary form, or one that depends */
		for (int k = 0; k < key->count; k++)
		{
			ArrayType  *array =
				DatumGetArrayTypeP(ArrayOf(key->columns[k].type, count,
										   listing->key[k] + first, NULL));

			columns[k] = palloc(VARHDRSZ + VARSIZE(array));
			SET_VARSIZE(columns[k], VARHDRSZ + VARSIZE(array));
			memcpy(VARDATA(columns[k]), array, VARSIZE(array));
		}
		JobAddBatch(&listing->refresh->run->job, listing->batch++, count,
					key->count, columns);
	}
	listing->count = 0;
	listing->size = 0;
}

/* What the rows that are kept may take; queries have a quarter. */
static Size
MemoryOfRows(void)
{
	return (Size) refresh_work_mem * 1024 / 8 * 5;
}

/* Of that, in a pass, embeddings until they are stored; see embedding_store.h. */
static Size
MemoryOfSort(void)
{
	return (Size) refresh_work_mem * 1024 / 8;
}

/* And the rows that a version's pass takes back at a time. */
static Size
MemoryOfPass(const Refresh *refresh)
{
	return (MemoryOfRows() - MemoryOfSort()) / refresh->versions;
}

/*
 * Whether all entities are to be adapted, so that where they are many it can be
 * done in passes over their rows.  What a transaction has stored before the
 * refresh could not be told from what the refresh stores.
 */
static bool
AllAreStale(const Refresh *refresh, const StaleList *stale)
{
	const Job  *job = &refresh->run->job;

	if (refresh->ships || refresh->run->atomic ||
		!PassIsPossible(&refresh->version[0].adapter))
		return false;
	if (!job->only_stale)
		return true;

	/* they are while none has an embedding */
	return (stale->list == LIST_ALL || stale->list == LIST_DIFFERENT) &&
		!HasEmbeddings(refresh->model, job->version);
}

/* The newest event time of all interactions, or NULL. */
static bytea *
NewestOfRows(const Refresh *refresh)
{
	const Source *source = &refresh->version[0].adapter.source;
	MemoryContext caller = CurrentMemoryContext;
	bytea	   *newest = NULL;
	SPIPlanPtr	plan = SPI_prepare_cursor(SourceNewestQuery(source), 0, NULL,
										  CURSOR_OPT_PARALLEL_OK);
	Datum		datum;
	bool		isnull;

	if (plan == NULL ||
		SPI_execute_plan(plan, NULL, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the newest interaction");
	datum = ResultColumn(1, &isnull);
	MemoryContextSwitchTo(caller);
	if (!isnull)
		newest = StoredEventTime(source, datum);
	SPI_freetuptable(SPI_tuptable);
	SPI_freeplan(plan);
	return newest;
}

/* Writes shares of about so many entities down; returns how many shares. */
static int
WriteShares(const Refresh *refresh, int64 entities)
{
	const Job  *job = &refresh->run->job;
	int			shares = 0;

	for (int v = 0; v < refresh->versions; v++)
		shares = Max(shares, PassShares(&refresh->version[v].adapter, entities,
										job->workers, MemoryOfPass(refresh)));
	for (int s = 0; s < shares; s++)
		JobAddBatch(job, s, entities / shares, 0, NULL);
	return shares;
}

/* Entities that each version's adapter has memory for at a time. */
static int
PartEntities(const Refresh *refresh)
{
	int			entities = PG_INT32_MAX;

	for (int v = 0; v < refresh->versions; v++)
		entities = Min(entities,
					   AdapterPartEntities(&refresh->version[v].adapter,
										   MemoryOfRows() / refresh->versions));
	return entities;
}

/* Entities of a batch whose rows are looked up by index, of so many in all. */
static int
BatchSize(const Refresh *refresh, int64 total)
{
	int64		shares = SHARE_OF_ENTITIES * Max(refresh->run->job.workers, 1);

	return Max(LEAST_ENTITIES, Min(MOST_ENTITIES, total / shares));
}

/*
 * Entities of a batch whose rows are found in a pass over the relation, of so
 * many in all, by a hash of their keys: these are of so many bytes each.
 */
static int
PassSize(const Refresh *refresh, int64 total, Size key_size)
{
	int64		share = (total - 1) / Max(refresh->run->job.workers, 1) + 1;
	int64		room = (Size) QueryMemory() * 1024 / (HASHED_KEY_SIZE + key_size);
	int64		batches;

	room = Min(room, MOST_ENTITIES_OF_PASS);
	room = Max(room, 1);
	batches = (share - 1) / room + 1;
	return (int) ((share - 1) / batches + 1);
}

/* Adds a key; one with a NULL is none, as the embeddings table might hold. */
static void
AddKey(Listing *listing, TupleTableSlot *slot)
{
	const EntityKey *key = KeyOf(listing->refresh);

	for (int k = 0; k < key->count; k++)
	{
		Datum		value = slot->tts_values[k];

		if (slot->tts_isnull[k])
			return;
		if (key->columns[k].typlen == -1)
			value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
		if (listing->count == listing->room)
			listing->key[k] =
				repalloc_huge(listing->key[k],
							  2 * listing->room * sizeof(Datum));
		listing->key[k][listing->count] =
			datumCopy(value, key->columns[k].typbyval,
					  key->columns[k].typlen);
		listing->size += datumGetSize(value, key->columns[k].typbyval,
									  key->columns[k].typlen);
	}
	if (listing->count == listing->room)
		listing->room *= 2;
	listing->count++;
}

/*
 * The list as rows, on disk where they are many.  They are all there before the
 * first batch is written down: a parallel query cannot be, in between.
 */
static Tuplestorestate *
ReadList(const Source *source, const StaleList *stale, TupleTableSlot **slot)
{
	StaleList	parameters = *stale;
	Tuplestorestate *store = tuplestore_begin_heap(false, false,
												   refresh_work_mem / 4);
	SPIExecuteOptions options = {.dest = CreateTuplestoreDestReceiver()};
	SPIPlanPtr	plan = SPI_prepare_cursor(SourceListQuery(source, stale->list),
										  stale->parameters, parameters.types,
										  CURSOR_OPT_PARALLEL_OK);
	TupleDesc	desc;

	if (plan == NULL)
		elog(ERROR, "could not prepare the query for stale entities");
	desc = ((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan)))->resultDesc;
	for (int k = 0; k < source->key.count; k++)
		if (TupleDescAttr(desc, k)->atttypid != source->key.columns[k].type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of model \"%s\" is of another type in the interactions than in the embeddings",
							source->key.columns[k].name,
							source->model->name)));
	*slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc),
									 &TTSOpsMinimalTuple);
	SetTuplestoreDestReceiverParams(options.dest, store, CurrentMemoryContext,
									true, NULL, NULL);
	options.params = makeParamList(stale->parameters);
	for (int p = 0; p < stale->parameters; p++)
	{
		ParamExternData *param = &options.params->params[p];

		param->value = parameters.values[p];
		param->isnull = false;
		param->pflags = PARAM_FLAG_CONST;
		param->ptype = parameters.types[p];
	}
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not list the stale entities");
	SPI_freeplan(plan);
	return store;
}

/*
 * How many entities a batch of the listed ones, the first of so many in all, is
 * to have: as many as are looked up by index, or as there are for a pass over
 * the relation.  Where there is an index, and pages in memory, a pass has been
 * measured to be no faster, for all that the planner thinks of it.
 */
static int
ChooseBatchSize(Listing *listing, int64 total)
{
	Refresh    *refresh = listing->refresh;
	Adapter    *adapter = &refresh->version[0].adapter;
	int			some = BatchSize(refresh, total);
	int			all = listing->count;

	if (refresh->ships)
		return SHIPPED_ENTITIES;
	if (adapter->source.key_indexed || total < LEAST_ENTITIES_OF_PASS ||
		all <= some)
		return some;
	return AdapterReadingCost(adapter, all, listing->key) / all <
		AdapterReadingCost(adapter, some, listing->key) / some ?
		all : some;
}

/*
 * Writes the batches down; returns the number of entities.  Where all are stale,
 * and are more than the planner knew of, *shares is that of their passes.
 */
static int64
WriteList(Refresh *refresh, const StaleList *stale, bool all, bytea **newest,
		  int *shares)
{
	const Source *source = &refresh->version[0].adapter.source;
	Listing		listing = {.refresh = refresh, .room = MOST_ENTITIES};
	Size		most = (Size) refresh_work_mem * 1024 / 8;
	int64		total = 0;
	int			pass = 0;
	int			size = 0;		/* of a batch, once it is known */
	Tuplestorestate *store;
	TupleTableSlot *slot;

	MemoryContextSwitchTo(refresh->context);
	for (int k = 0; k < source->key.count; k++)
		listing.key[k] = palloc(sizeof(Datum) * listing.room);
	store = ReadList(source, stale, &slot);

	/* keys and arrays of a batch at a time */
	MemoryContextSwitchTo(refresh->batch);
	while (tuplestore_gettupleslot(store, true, false, slot))
	{
		slot_getallattrs(slot);
		AddKey(&listing, slot);
		if (total == 0)
		{
			total = DatumGetInt64(slot->tts_values[source->key.count]);
			if (!slot->tts_isnull[source->key.count + 1])
			{
				MemoryContextSwitchTo(refresh->context);
				*newest = StoredEventTime(source,
										  slot->tts_values[source->key.count + 1]);
				MemoryContextSwitchTo(refresh->batch);
			}
			if (all && total > MOST_ENTITIES)
			{
				*shares = WriteShares(refresh, total);
				listing.count = 0;
				break;
			}
			pass = PassSize(refresh, total, listing.size);
		}
		if (listing.count < (size > 0 ? size : pass) && listing.size < most)
			continue;
		if (size == 0)
			size = ChooseBatchSize(&listing, total);
		WriteBatches(&listing, size);

		/* the slot's row is in that memory, where it was read from disk */
		ExecClearTuple(slot);
		MemoryContextSwitchTo(refresh->batch);
		MemoryContextReset(refresh->batch);
		CHECK_FOR_INTERRUPTS();
	}
	if (listing.count > 0)
		WriteBatches(&listing,
					 size > 0 ? size : ChooseBatchSize(&listing, total));
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextSwitchTo(refresh->context);
	MemoryContextReset(refresh->batch);
	tuplestore_end(store);
	return total;
}

/* The newest event time that embeddings of a version know, or NULL. */
static bytea *
NewestOfEmbeddings(const Refresh *refresh)
{
	const Model *model = refresh->model;
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(refresh->run->job.version)};
	bytea	   *newest = NULL;
	Datum		datum;
	bool		isnull;

	if (SPI_execute_with_args(psprintf("SELECT pg_catalog.max(adapted_through) FROM %s"
									   " WHERE version OPERATOR(pg_catalog.=) $1",
									   ModelRelationName(model, model->embeddings, "embeddings")),
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the embeddings");
	MemoryContextSwitchTo(caller);
	datum = ResultColumn(1, &isnull);
	if (!isnull && SPI_gettypeid(SPI_tuptable->tupdesc, 1) ==
		refresh->version[0].adapter.source.event_time.type)
		newest = StoredEventTime(&refresh->version[0].adapter.source, datum);
	SPI_freetuptable(SPI_tuptable);
	return newest;
}

/*
 * A step: from now on changes are written down, in whatever part of the
 * relations, and are followed for the version.  The locks that this takes are
 * not for as long as the listing takes.
 */
static bool
FollowChanges(void *argument)
{
	Refresh    *refresh = argument;
	Job		   *job = &refresh->run->job;
	RightsScope scope;
	LOCKTAG		lock;
	Job			now;

	JobListLock(&lock, job->id);
	(void) LockAcquire(&lock, ExclusiveLock, false, false);
	MemoryContextSwitchTo(refresh->batch);

	/* whoever comes late is not to follow what has been given up since */
	if (!JobRead(job->id, &now) || strcmp(now.phase, PHASE_ADAPTING) == 0)
		return false;
	EnterRefresh(refresh, &scope);
	ChangesCoverPartitions(refresh->model);
	LeaveRights(&scope);
	JobFollow(job, job->version);
	return true;
}

/*
 * A step: lists the entities to adapt, unless another worker has.  The others
 * wait for it, and should it die, the next one lists them.
 */
static bool
ListEntities(void *argument)
{
	Refresh    *refresh = argument;
	Job		   *job = &refresh->run->job;
	const Source *source = &refresh->version[0].adapter.source;
	RightsScope scope;
	StaleList	stale;
	bytea	   *newest = NULL;
	LOCKTAG		lock;
	int64		total;
	int			shares = 0;
	bool		all;
	Job			now;

	JobListLock(&lock, job->id);
	(void) LockAcquire(&lock, ExclusiveLock, false, false);
	if (JobRead(job->id, &now) && strcmp(now.phase, PHASE_ADAPTING) != 0 &&
		strcmp(now.state, JOB_RUNNING) == 0)
	{
		EnterRefresh(refresh, &scope);

		/* the others wait: what a parallel worker hands over is worth its price */
		(void) set_config_option("parallel_tuple_cost", "0.01", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
		LockRelations(refresh->model);
		StaleListInit(&stale, source, &refresh->options, job->version,
					  job->only_stale, job->started_at);
		all = AllAreStale(refresh, &stale);
		total = all ? PassEntities(&refresh->version[0].adapter) : 0;
		if (total > MOST_ENTITIES ||
			(all && PassRows(&refresh->version[0].adapter) > MOST_ROWS))
		{
			MemoryContextSwitchTo(refresh->context);
			newest = NewestOfRows(refresh);
			shares = WriteShares(refresh, total);
		}
		else
			total = WriteList(refresh, &stale, all, &newest, &shares);
		MemoryContextSwitchTo(refresh->context);

		/* where nothing is stale, embeddings know all there is */
		if (total == 0 && stale.list == LIST_DIFFERENT)
			newest = NewestOfEmbeddings(refresh);
		JobListed(job, total, shares,
				  shares > 0 && !HasEmbeddings(refresh->model, job->version),
				  newest, source->event_time.type);
		LeaveRights(&scope);
	}
	MemoryContextSwitchTo(refresh->context);
	if (JobRead(job->id, &now))
	{
		job->entities = now.entities;
		job->shares = now.shares;
		job->are_new = now.are_new;
	}
	refresh->run->stores_new = job->are_new;
	return true;
}

/*
 * Batches
 */

/* The values of a batch's keys, by column; returns how many. */
static int
ReadKeys(const EntityKey *key, bytea **columns, Datum **values)
{
	int			count = -1;

	for (int k = 0; k < key->count; k++)
	{
		const KeyColumn *column = &key->columns[k];
		ArrayType  *array = palloc(VARSIZE_ANY_EXHDR(columns[k]));
		int			here;

		memcpy(array, VARDATA_ANY(columns[k]), VARSIZE_ANY_EXHDR(columns[k]));
		if (ARR_ELEMTYPE(array) != column->type)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("key column \"%s\" was altered in the meantime",
							column->name)));
		deconstruct_array(array, column->type,
						  column->typlen, column->typbyval, column->typalign,
						  &values[k], NULL, &here);
		if (count >= 0 && here != count)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a batch has %d keys in one column and %d in another",
							count, here)));
		count = here;
	}
	return count;
}

static void
TakeChanges(Refresh *refresh, int count, Datum **key)
{
	const EntityKey *columns = KeyOf(refresh);
	Oid			types[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
	SPIPlanPtr	plan;

	for (int k = 0; k < columns->count; k++)
	{
		types[k] = get_array_type(columns->columns[k].type);
		values[k] = ArrayOf(columns->columns[k].type, count, key[k], NULL);
	}
	plan = SPI_prepare(refresh->take_changes, columns->count, types);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, values, NULL, GetActiveSnapshot(),
							 InvalidSnapshot, false, true, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete changed keys: %s",
			 refresh->take_changes);
	SPI_freeplan(plan);
}

/* Says how far we are: a client in a NOTICE, all in pg_stat_activity. */
static void
Report(Refresh *refresh)
{
	TimestampTz now = GetCurrentTimestamp();
	double		seconds = (now - refresh->start) / 1e6;
	int64		total = refresh->run->job.entities;
	bool		guessed = refresh->run->job.shares > 0;

	if (refresh->run->process)
		pgstat_report_activity(STATE_RUNNING,
							   psprintf("limaml: refreshing version %d of model \"%s\", " INT64_FORMAT " entities adapted here of " INT64_FORMAT,
										refresh->run->job.version,
										refresh->model->name, refresh->done,
										total));
	if (now - refresh->reported < REPORT_SECONDS * USECS_PER_SEC ||
		(refresh->done == total && !guessed) || refresh->done == 0)
		return;
	refresh->reported = now;
	if (refresh->run->process)
		return;
	if (refresh->done >= total)
		ereport(NOTICE,
				(errmsg("adapted " INT64_FORMAT " entities, %.0f per second, more than were expected",
						refresh->done, refresh->done / seconds)));
	else
		ereport(NOTICE,
				(errmsg("adapted " INT64_FORMAT " of " INT64_FORMAT " entities, %.0f per second, about %.0f s left",
						refresh->done, total, refresh->done / seconds,
						seconds * (total - refresh->done) / refresh->done)));
}

/* A batch that is being worked on, for one of the versions. */
typedef struct BatchRun
{
	Refresh    *refresh;
	VersionRun *version;
	bool		are_new;		/* it is to have no embedding of theirs yet */
	Datum	   *key[INDEX_MAX_KEYS];
	Work		work;
} BatchRun;

/* Stores the embeddings of a part of it. */
static void
ReceiveAdapted(void *argument, int count, Datum **key,
			   const AdaptedEntity *adapted)
{
	BatchRun   *batch = argument;
	Refresh    *refresh = batch->refresh;
	bool		of_job = batch->version == &refresh->version[0];
	instr_time	start;
	int64		stored;

	INSTR_TIME_SET_CURRENT(start);
	MemoryContextSwitchTo(refresh->part);
	stored = StoreEmbeddings(refresh->store, batch->version->number,
							 batch->version->adapter.trained, count, key,
							 adapted, batch->are_new);
	MemoryContextSwitchTo(refresh->batch);
	MemoryContextReset(refresh->part);
	batch->work.writing += Lap(&start);
	if (!of_job)
		return;
	batch->work.entities += stored;
	refresh->done += count;
	Report(refresh);
}

/* Has other servers adapt the entities of a batch for one of the versions. */
static void
ShipBatch(BatchRun *run, int count)
{
	Refresh    *refresh = run->refresh;
	const VersionRun *version = run->version;
	const KeyColumn *key = &KeyOf(refresh)->columns[0];
	Oid			types[3] = {get_array_type(key->type), TEXTOID, INT4OID};
	Oid			delete_types[2] = {types[0], INT4OID};
	Datum		values[3];
	Datum		delete_values[2];
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	values[0] = ArrayOf(key->type, count, run->key[0], NULL);
	values[1] = CStringGetTextDatum(refresh->model->name);
	values[2] = Int32GetDatum(version->number);
	delete_values[0] = values[0];
	delete_values[1] = values[2];
	if (SPI_execute_with_args(refresh->ship_delete, 2, delete_types,
							  delete_values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete embeddings: %s", refresh->ship_delete);
	run->work.writing += Lap(&start);
	INSTR_TIME_SET_CURRENT(start);
	if (SPI_execute_with_args(version->ship_insert, 3, types, values, NULL,
							  false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store embeddings: %s", version->ship_insert);
	run->work.adapting += Lap(&start);
	if (version != &refresh->version[0])
		return;
	run->work.entities += (int64) SPI_processed;
	refresh->done += count;
	Report(refresh);
}

/* Does something with keys of a share. */
typedef void (*KeyReceiver) (BatchRun *run, int count, Datum **key);

/*
 * Hands over the keys of a share that a query finds, some at a time.  A query
 * that is not read only sees what has been stored so far.
 */
static void
ForShareOfKeys(BatchRun *run, const EntityShare *share, const char *sql,
			   bool read_only, KeyReceiver receive)
{
	Refresh    *refresh = run->refresh;
	const EntityKey *columns = KeyOf(refresh);
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(run->version ? run->version->number : 0)};
	Datum	   *key = palloc(sizeof(Datum) * MOST_ENTITIES);
	MemoryContext some = AllocSetContextCreate(refresh->batch,
											   "limaml keys of a share",
											   ALLOCSET_DEFAULT_SIZES);
	KeyParts	parts;
	Portal		portal;

	KeyPartsInit(&parts, columns);
	portal = SPI_cursor_open_with_args(NULL, sql, run->version ? 1 : 0, types,
									   values, NULL, read_only, 0);
	do
	{
		SPITupleTable *table;
		int			count = 0;

		SPI_cursor_fetch(portal, true, MOST_ENTITIES);
		table = SPI_tuptable;
		if (SPI_processed == 0)
		{
			SPI_freetuptable(table);
			break;
		}
		if (TupleDescAttr(table->tupdesc, 0)->atttypid !=
			columns->columns[0].type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of model \"%s\" is of another type in the interactions than in the embeddings",
							columns->columns[0].name, refresh->model->name)));

		/* a hash may make copies, and so may the receiver */
		MemoryContextSwitchTo(some);
		for (uint64 r = 0; r < SPI_processed; r++)
		{
			bool		isnull;

			key[count] = SPI_getbinval(table->vals[r], table->tupdesc, 1,
									   &isnull);
			if (!isnull && ShareHasKey(share, &parts, key[count]))
				count++;
		}
		if (count > 0)
			receive(run, count, &key);
		MemoryContextSwitchTo(refresh->batch);
		MemoryContextReset(some);
		SPI_freetuptable(table);
	} while (true);
	SPI_cursor_close(portal);
	MemoryContextDelete(some);
	pfree(key);
}

static void
TakeChangesOf(BatchRun *run, int count, Datum **key)
{
	TakeChanges(run->refresh, count, key);
}

/* Has the embeddings of entities without rows brought up to date. */
static void
AdaptWithoutRows(BatchRun *run, int count, Datum **key)
{
	KeptRows   *none = palloc0(sizeof(KeptRows) * PART_ENTITIES);

	for (int first = 0; first < count; first += PART_ENTITIES)
	{
		Datum	   *some[1] = {key[0] + first};

		AdaptKeptEntities(&run->version->adapter,
						  Min(PART_ENTITIES, count - first), some, none, true,
						  ReceiveAdapted, run);
	}
}

/*
 * Adapts the entities of a share: those that have rows, and then those that
 * only have an embedding, which nobody has stored now.
 */
static void
RefreshShare(BatchRun *run, const EntityShare *share)
{
	Refresh    *refresh = run->refresh;
	Adapter    *adapter = &run->version->adapter;
	const Model *model = refresh->model;
	instr_time	start;
	int64		stored;

	SortEmbeddings(refresh->store, MemoryOfSort());
	AdaptShare(adapter, share, refresh->run->job.entities,
			   MemoryOfPass(refresh), true, ReceiveAdapted, run);
	MemoryContextSwitchTo(refresh->batch);
	if (refresh->run->process)
		pgstat_report_activity(STATE_RUNNING,
							   psprintf("limaml: refreshing version %d of model \"%s\", storing embeddings",
										run->version->number, model->name));
	INSTR_TIME_SET_CURRENT(start);
	stored = StoreSortedEmbeddings(refresh->store, run->version->number,
								   run->are_new);
	run->work.writing += Lap(&start);
	if (run->version == &refresh->version[0])
		run->work.entities += stored;
	if (refresh->run->job.are_new)
		return;
	ForShareOfKeys(run, share,
				   psprintf("SELECT e.%s FROM %s AS e WHERE e.version OPERATOR(pg_catalog.=) $1"
							" AND e.adapted_at OPERATOR(pg_catalog.<>) pg_catalog.now()",
							quote_identifier(KeyOf(refresh)->columns[0].name),
							ModelRelationName(model, model->embeddings,
											  "embeddings")),
				   false, AdaptWithoutRows);
}

/*
 * A step: claims a batch, adapts its entities and stores their embeddings.
 * False where there is none to claim.
 */
static bool
RunBatch(void *argument)
{
	Refresh    *refresh = argument;
	const Job  *job = &refresh->run->job;
	const EntityKey *columns = KeyOf(refresh);
	RightsScope scope;
	bytea	   *keys[INDEX_MAX_KEYS];
	BatchRun	run = {.refresh = refresh};
	instr_time	start;
	EntityShare share;
	int			batch;
	int			count = 0;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(refresh->batch);
	MemoryContextSwitchTo(refresh->batch);
	batch = JobClaim(job, refresh->wait, refresh->from, columns->count, keys);
	if (batch < 0)
		return false;
	refresh->from = batch;
	refresh->done = refresh->done_before;
	run.are_new = refresh->run->stores_new;
	MemoryContextSwitchTo(refresh->batch);
	share = (EntityShare) {.number = batch, .shares = job->shares};
	if (job->shares == 0)
		count = ReadKeys(columns, keys, run.key);

	EnterRefresh(refresh, &scope);
	LockRelations(refresh->model);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (refresh->take_changes)
	{
		INSTR_TIME_SET_CURRENT(start);
		if (job->shares > 0)
			ForShareOfKeys(&run, &share,
						   SourceChangedQuery(&refresh->version[0].adapter.source),
						   true, TakeChangesOf);
		else
			TakeChanges(refresh, count, run.key);
		run.work.writing += Lap(&start);
	}
	for (int v = 0; v < refresh->versions; v++)
	{
		Adapter    *adapter = &refresh->version[v].adapter;

		run.version = &refresh->version[v];
		if (refresh->ships)
		{
			ShipBatch(&run, count);
			continue;
		}
		adapter->reading_seconds = 0;
		adapter->adapting_seconds = 0;
		adapter->rows_read = 0;
		adapter->part_entities = Min(PartEntities(refresh),
									 Max(PART_ENTITIES, count / MOST_PARTS));
		adapter->kept_size = MemoryOfRows() / refresh->versions;
		MemoryContextSwitchTo(refresh->batch);
		if (job->shares > 0)
			RefreshShare(&run, &share);
		else
			AdaptEntities(adapter, count, run.key, true, ReceiveAdapted, &run);
		run.work.reading += adapter->reading_seconds;
		run.work.adapting += adapter->adapting_seconds;
		run.work.interactions += adapter->rows_read;
	}
	PopActiveSnapshot();
	LeaveRights(&scope);
	MemoryContextSwitchTo(refresh->batch);
	JobBatchDone(job, refresh->run->worker, batch, &run.work);
	refresh->stored += run.work.entities;
	refresh->done_before = refresh->done;
	return true;
}

/* A step: the job is done, unless another worker has said so before. */
static bool
Finish(void *argument)
{
	Refresh    *refresh = argument;
	const Job  *job = &refresh->run->job;
	Work		work;

	MemoryContextSwitchTo(refresh->batch);
	if (!JobFinish(job, JOB_DONE, NULL))
		return false;
	JobRefreshed(job, job->version,
				 refresh->options.staleness == STALENESS_CHANGES);
	JobWork(job, &work);
	ereport(LOG,
			(errmsg("job " INT64_FORMAT ": refreshed " INT64_FORMAT " embeddings of version %d of model \"%s\" from " INT64_FORMAT " interactions in %.1f s (reading %.1f s, adapting %.1f s, writing %.1f s of all workers)",
					job->id, work.entities, job->version, refresh->model->name,
					work.interactions,
					(GetCurrentTimestamp() - job->started_at) / 1e6,
					work.reading, work.adapting, work.writing)));
	return true;
}

/* A step: finds out about the versions to refresh. */
static bool
Prepare(void *argument)
{
	Refresh    *refresh = argument;
	const Job  *job = &refresh->run->job;
	Model	   *model = refresh->model;
	RefreshState state;
	int		   *followed = NULL;
	int			count = 0;
	int			others = 0;
	bool		changes;
	RightsScope scope;

	MemoryContextSwitchTo(refresh->context);
	CatalogOptions(model, NULL, &refresh->options);
	changes = refresh->options.staleness == STALENESS_CHANGES;
	refresh->embedding_type = MetaEmbeddingType();
	CatalogCheckEmbeddings(model, refresh->embedding_type);
	refresh->ships = CatalogEmbeddingsAreForeign(model);
	if (refresh->ships && model->keys > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("embeddings of model \"%s\" are in foreign tables, and its key has %d columns",
						model->name, model->keys),
				 errhint("Refresh them on the servers that hold them, where a model is declared on their part of the rows.")));

	/*
	 * A changed key may be deleted only once it is adapted for all versions
	 * that follow changes.
	 */
	if (changes)
	{
		count = JobFollowed(model->id, &followed);
		JobRefreshState(model->id, job->version, &state);
	}
	refresh->version = palloc0(sizeof(VersionRun) * (count + 1));
	refresh->version[refresh->versions++].number = job->version;
	for (int f = 0; f < count; f++)
	{
		if (followed[f] == job->version)
			continue;
		others++;
		if (job->only_stale && state.complete)
			refresh->version[refresh->versions++].number = followed[f];
	}

	EnterRefresh(refresh, &scope);
	for (int v = 0; v < refresh->versions; v++)
	{
		VersionRun *version = &refresh->version[v];
		const TrainedNetwork *trained;

		MemoryContextSwitchTo(refresh->context);
		trained = CachedNetwork(model, CatalogVersion(model, version->number,
													  false),
								false, refresh->context);
		MemoryContextSwitchTo(refresh->context);
		AdapterInit(&version->adapter, model, trained, ADAPT_TOGETHER);

		/* once for all batches, and before it is asked how much memory is left */
		if (version->adapter.negatives > 0)
		{
			if (refresh->ships)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("embeddings of model \"%s\" are in foreign tables, and version %d was trained with negatives",
								model->name, version->number),
						 errhint("Refresh them on the servers that hold them, where a model is declared on their part of the rows.")));
			LockForReading(version->adapter.source.items);
			AdapterReadItems(&version->adapter, false);
		}
	}
	MemoryContextSwitchTo(refresh->context);
	if (refresh->ships)
	{
		ShippedStatements(refresh);

		/* the join of an entity that is there twice would have its rows twice */
		TrainingRowsCheckEntities(&refresh->version[0].adapter.source);
	}
	else
		refresh->store = EmbeddingStoreCreate(&refresh->version[0].adapter.source,
											  refresh->embedding_type);
	if (changes && refresh->versions == 1 + others)
		refresh->take_changes = TakeStatement(model, KeyOf(refresh));
	LeaveRights(&scope);
	return true;
}

void
RunRefresh(JobRun *run, Model *model)
{
	Refresh		refresh = {.run = run, .model = model};

	refresh.context = CurrentMemoryContext;
	refresh.batch = AllocSetContextCreate(refresh.context, "limaml refresh",
										  ALLOCSET_DEFAULT_SIZES);
	refresh.part = AllocSetContextCreate(refresh.context,
										 "limaml refresh part",
										 ALLOCSET_DEFAULT_SIZES);
	refresh.start = refresh.reported = GetCurrentTimestamp();
	JobStep(run, Prepare, &refresh);
	if (run->process)
		pgstat_report_activity(STATE_RUNNING,
							   psprintf("limaml: finding stale entities of model \"%s\"",
										model->name));
	if (refresh.options.staleness == STALENESS_CHANGES)
		JobStep(run, FollowChanges, &refresh);
	JobStep(run, ListEntities, &refresh);
	Report(&refresh);
	refresh.reported = GetCurrentTimestamp();
	do
	{
		MemoryContextSwitchTo(refresh.context);

		/* when all batches are claimed, the claim of a worker that dies */
		refresh.wait = false;
		if (!JobStep(run, RunBatch, &refresh))
		{
			refresh.wait = true;
			if (!JobStep(run, RunBatch, &refresh))
				break;
		}
	} while (true);
	MemoryContextSwitchTo(refresh.context);
	JobStep(run, Finish, &refresh);
	if (!run->process)
		ereport(NOTICE,
				(errmsg_plural("refreshed " INT64_FORMAT " embedding of version %d of model \"%s\" in %.1f s",
							   "refreshed " INT64_FORMAT " embeddings of version %d of model \"%s\" in %.1f s",
							   refresh.stored, refresh.stored,
							   run->job.version,
							   model->name,
							   (GetCurrentTimestamp() - refresh.start) / 1e6)));
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
	JobRun		run = {0};
	Model	   *model;
	LOCKTAG		lock;
	int			number;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	PreventCommandIfReadOnly("limaml_refresh()");
	run.atomic = call == NULL || call->atomic;
	SPI_connect_ext(run.atomic ? 0 : SPI_OPT_NONATOMIC);
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "refresh");
	number = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	if (!PG_ARGISNULL(1) && number < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						number),
				 errhint("Versions count from 1.")));
	run.job.version = CatalogVersion(model, number, false)->number;
	run.job.kind = JOB_REFRESH;
	run.job.model_id = model->id;
	run.job.only_stale = PG_ARGISNULL(2) || PG_GETARG_BOOL(2);
	run.job.workers = 1;
	run.job.started_by = GetUserId();
	CatalogCheckEmbeddings(model, MetaEmbeddingType());

	/*
	 * The lock is to last until what it protects is committed: over the
	 * batches' transactions, or to the end of the caller's.
	 */
	JobModelLock(&lock, JOB_REFRESH, model->id);
	if (LockAcquire(&lock, ExclusiveLock, !run.atomic, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		ereport(NOTICE,
				(errmsg("model \"%s\" is being refreshed by another session",
						model->name)));
		SPI_finish();
		PG_RETURN_VOID();
	}

	/* a session's lock outlives errors too */
	PG_TRY();
	{
		run.job.id = JobNextId();
		run.job.started_at = GetCurrentTransactionStartTimestamp();
		JobInsert(&run.job);
		JobJoin(&run.job, run.worker);
		ereport(LOG,
				(errmsg("job " INT64_FORMAT ": refreshing version %d of model \"%s\"",
						run.job.id, run.job.version, model->name)));
		JobCommit(&run);
		RunRefresh(&run, model);
	}
	PG_FINALLY();
	{
		if (!run.atomic)
			LockRelease(&lock, ExclusiveLock, true);
	}
	PG_END_TRY();
	SPI_finish();
	PG_RETURN_VOID();
}
