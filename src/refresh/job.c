/*-------------------------------------------------------------------------
 *
 * job.c
 *	  The statements on jobs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "refresh/job.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Finished jobs of a kind that a model's history keeps. */
#define KEPT_JOBS "1000"

/* Beside those of catalog.h. */
#define LISTING_LOCK 19535

static const char *const kinds[] = {"refresh", "training"};

void
JobModelLock(LOCKTAG *tag, JobKind kind, int64 model_id)
{
	ModelLock(tag, model_id, kind == JOB_REFRESH ? REFRESH_LOCK :
			  TRAINING_LOCK);
}

void
JobListLock(LOCKTAG *tag, int64 job)
{
	ModelLock(tag, job, LISTING_LOCK);
}

bool
JobIsAlive(JobKind kind, int64 model_id)
{
	LOCKTAG		tag;
	int			holders;

	JobModelLock(&tag, kind, model_id);

	/* a holder that is between two transactions is not seen for a moment */
	for (int looks = 0; looks < 3; looks++)
	{
		if (looks > 0)
			pg_usleep(2000);
		(void) GetLockConflicts(&tag, ExclusiveLock, &holders);
		if (holders > 0)
			return true;
	}
	return false;
}

static int64
OneInteger(const char *sql, Parameters *parameters, bool read_only)
{
	bool		isnull;
	int64		value = 0;

	ExecuteAsCatalog(sql, parameters, read_only, SPI_OK_SELECT);
	if (SPI_processed > 0)
	{
		value = DatumGetInt64(ResultColumn(1, &isnull));
		if (isnull)
			value = 0;
	}
	SPI_freetuptable(SPI_tuptable);
	return value;
}

int64
JobNextId(void)
{
	Parameters	none = {0};

	return OneInteger("SELECT pg_catalog.nextval('limaml.stored_job_id')",
					  &none, false);
}

int64
JobOfModel(JobKind kind, int64 model_id)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model_id);
	AddText(&parameters, kinds[kind]);
	return OneInteger("SELECT pg_catalog.max(id) FROM limaml.stored_job"
					  " WHERE model_id OPERATOR(pg_catalog.=) $1"
					  " AND kind OPERATOR(pg_catalog.=) $2"
					  " AND state OPERATOR(pg_catalog.=) '" JOB_RUNNING "'",
					  &parameters, true);
}

void
JobInsert(Job *job)
{
	Parameters	dead = {0};
	Parameters	batches = {0};
	Parameters	old = {0};
	Parameters	parameters = {0};

	AddInteger(&dead, job->model_id);
	AddText(&dead, kinds[job->kind]);
	ExecuteAsCatalog("UPDATE limaml.stored_job SET state = '" JOB_FAILED "',"
					 " error = 'interrupted', finished_at = pg_catalog.clock_timestamp()"
					 " WHERE model_id OPERATOR(pg_catalog.=) $1"
					 " AND kind OPERATOR(pg_catalog.=) $2"
					 " AND state OPERATOR(pg_catalog.=) '" JOB_RUNNING "'",
					 &dead, false, SPI_OK_UPDATE);
	AddInteger(&batches, job->model_id);
	ExecuteAsCatalog("DELETE FROM limaml.stored_batch AS b USING limaml.stored_job AS j"
					 " WHERE b.job_id OPERATOR(pg_catalog.=) j.id"
					 " AND j.model_id OPERATOR(pg_catalog.=) $1"
					 " AND j.state OPERATOR(pg_catalog.<>) '" JOB_RUNNING "'",
					 &batches, false, SPI_OK_DELETE);

	AddInteger(&old, job->model_id);
	AddText(&old, kinds[job->kind]);
	ExecuteAsCatalog("WITH job AS (DELETE FROM limaml.stored_job"
					 " WHERE model_id OPERATOR(pg_catalog.=) $1"
					 " AND kind OPERATOR(pg_catalog.=) $2"
					 " AND id OPERATOR(pg_catalog.<=) (SELECT id FROM limaml.stored_job"
					 " WHERE model_id OPERATOR(pg_catalog.=) $1"
					 " AND kind OPERATOR(pg_catalog.=) $2"
					 " ORDER BY id DESC OFFSET " KEPT_JOBS " LIMIT 1) RETURNING id)"
					 " DELETE FROM limaml.stored_worker AS w USING job"
					 " WHERE w.job_id OPERATOR(pg_catalog.=) job.id",
					 &old, false, SPI_OK_DELETE);

	AddInteger(&parameters, job->id);
	AddInteger(&parameters, job->model_id);
	AddText(&parameters, kinds[job->kind]);
	AddParameter(&parameters, INT4OID, Int32GetDatum(job->version),
				 job->version == 0);
	AddParameter(&parameters, BOOLOID, BoolGetDatum(job->only_stale),
				 job->kind != JOB_REFRESH);
	AddParameter(&parameters, JSONBOID,
				 job->options ? JsonbPGetDatum(job->options) : (Datum) 0,
				 job->options == NULL);
	AddBool(&parameters, job->background);
	AddInt(&parameters, job->workers);
	AddText(&parameters, GetUserNameFromId(job->started_by, false));
	AddText(&parameters, job->kind == JOB_REFRESH ? PHASE_LISTING :
			PHASE_TRAINING);
	ExecuteAsCatalog("INSERT INTO limaml.stored_job (id, model_id, kind,"
					 " version, only_stale, options, background, workers,"
					 " started_by, phase)"
					 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
					 &parameters, false, SPI_OK_INSERT);
}

static bool
ReadJob(int64 id, Job *job, bool read_only)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	bool		isnull;
	char	   *kind;

	AddInteger(&parameters, id);
	ExecuteAsCatalog("SELECT model_id, kind, version, only_stale, options,"
					 " background, workers, started_by, state, phase,"
					 " started_at, entities, shares, are_new FROM limaml.stored_job"
					 " WHERE id OPERATOR(pg_catalog.=) $1",
					 &parameters, read_only, SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	if (SPI_processed == 0)
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	memset(job, 0, sizeof(*job));
	job->id = id;
	job->model_id = DatumGetInt64(ResultColumn(1, &isnull));
	kind = TextDatumGetCString(ResultColumn(2, &isnull));
	job->kind = strcmp(kind, kinds[JOB_REFRESH]) == 0 ? JOB_REFRESH :
		JOB_TRAINING;
	job->version = DatumGetInt32(ResultColumn(3, &isnull));
	if (isnull)
		job->version = 0;
	job->only_stale = DatumGetBool(ResultColumn(4, &isnull));
	job->options = (Jsonb *) DatumGetPointer(ResultColumn(5, &isnull));
	job->options = isnull ? NULL :
		DatumGetJsonbPCopy(JsonbPGetDatum(job->options));
	job->background = DatumGetBool(ResultColumn(6, &isnull));
	job->workers = DatumGetInt32(ResultColumn(7, &isnull));
	job->state = TextDatumGetCString(ResultColumn(9, &isnull));
	job->phase = TextDatumGetCString(ResultColumn(10, &isnull));
	job->started_at = DatumGetTimestampTz(ResultColumn(11, &isnull));
	job->entities = DatumGetInt64(ResultColumn(12, &isnull));
	if (isnull)
		job->entities = 0;
	job->shares = DatumGetInt32(ResultColumn(13, &isnull));
	if (isnull)
		job->shares = 0;
	job->are_new = DatumGetBool(ResultColumn(14, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return true;
}

bool
JobRead(int64 id, Job *job)
{
	return ReadJob(id, job, false);
}

bool
JobReadAgain(int64 id, Job *job)
{
	return ReadJob(id, job, true);
}

int
JobJoin(const Job *job, int worker)
{
	Parameters	parameters = {0};
	bool		isnull;
	int			restarts;

	AddInteger(&parameters, job->id);
	AddInt(&parameters, worker);
	AddInt(&parameters, MyProcPid);
	ExecuteAsCatalog("INSERT INTO limaml.stored_worker AS w (job_id, worker, pid, heartbeat)"
					 " VALUES ($1, $2, $3, pg_catalog.clock_timestamp())"
					 " ON CONFLICT (job_id, worker) DO UPDATE"
					 " SET pid = excluded.pid, heartbeat = excluded.heartbeat,"
					 " restarts = w.restarts OPERATOR(pg_catalog.+) 1"
					 " RETURNING restarts",
					 &parameters, false, SPI_OK_INSERT_RETURNING);
	restarts = DatumGetInt32(ResultColumn(1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return restarts;
}

bool
JobAwaitsUs(int64 id, int process)
{
	Parameters	parameters = {0};
	bool		awaits;

	AddInteger(&parameters, id);
	AddInt(&parameters, process);
	ExecuteAsCatalog("SELECT FROM (SELECT w.pid FROM limaml.stored_worker AS w"
					 " WHERE w.job_id OPERATOR(pg_catalog.=) $1"
					 " UNION ALL SELECT $2) AS w"
					 " WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=)"
					 " ANY (pg_catalog.pg_blocking_pids(w.pid))",
					 &parameters, true, SPI_OK_SELECT);
	awaits = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	return awaits;
}

void
JobAwaitsTransaction(const Job *job)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, job->id);
	ExecuteAsCatalog("UPDATE limaml.stored_job SET phase = '" PHASE_WAITING "'"
					 " WHERE id OPERATOR(pg_catalog.=) $1"
					 " AND phase OPERATOR(pg_catalog.<>) '" PHASE_ADAPTING "'",
					 &parameters, false, SPI_OK_UPDATE);
}

int
JobWorkerPids(const Job *job, pid_t **pids)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	LOCKTAG		tag;
	int			count;

	/* pids come again; the lock says that these are still ours */
	JobModelLock(&tag, job->kind, job->model_id);
	AddInteger(&parameters, job->id);
	AddInteger(&parameters, tag.locktag_field1);
	AddInteger(&parameters, tag.locktag_field2);
	AddInteger(&parameters, tag.locktag_field3);
	AddInteger(&parameters, tag.locktag_field4);
	ExecuteAsCatalog("SELECT w.pid FROM limaml.stored_worker AS w"
					 " JOIN pg_catalog.pg_locks AS l ON l.pid OPERATOR(pg_catalog.=) w.pid"
					 " WHERE w.job_id OPERATOR(pg_catalog.=) $1"
					 " AND l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted"
					 " AND l.database::pg_catalog.int8 OPERATOR(pg_catalog.=) $2"
					 " AND l.classid::pg_catalog.int8 OPERATOR(pg_catalog.=) $3"
					 " AND l.objid::pg_catalog.int8 OPERATOR(pg_catalog.=) $4"
					 " AND l.objsubid OPERATOR(pg_catalog.=) $5",
					 &parameters, false, SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	count = (int) SPI_processed;
	*pids = palloc(sizeof(pid_t) * Max(count, 1));
	for (int p = 0; p < count; p++)
	{
		bool		isnull;

		(*pids)[p] = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[p],
												 SPI_tuptable->tupdesc, 1,
												 &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return count;
}

void
JobAddBatch(const Job *job, int batch, int64 entities, int keys, bytea **key)
{
	Parameters	parameters = {0};
	Datum	   *columns = palloc(sizeof(Datum) * Max(keys, 1));

	for (int k = 0; k < keys; k++)
		columns[k] = PointerGetDatum(key[k]);
	AddInteger(&parameters, job->id);
	AddInt(&parameters, batch);
	AddInteger(&parameters, entities);
	AddParameter(&parameters, BYTEAARRAYOID,
				 PointerGetDatum(construct_array(columns, keys, BYTEAOID, -1,
												 false, TYPALIGN_INT)),
				 keys == 0);
	ExecuteAsCatalog("INSERT INTO limaml.stored_batch VALUES ($1, $2, $3, $4)",
					 &parameters, false, SPI_OK_INSERT);
}

void
JobListed(const Job *job, int64 entities, int shares, bool are_new,
		  bytea *newest_event, Oid event_type)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, job->id);
	AddInteger(&parameters, entities);
	AddParameter(&parameters, BYTEAOID, PointerGetDatum(newest_event),
				 newest_event == NULL);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(event_type), false);
	AddParameter(&parameters, INT4OID, Int32GetDatum(shares), shares == 0);
	AddBool(&parameters, are_new);
	ExecuteAsCatalog("UPDATE limaml.stored_job SET phase = '" PHASE_ADAPTING "',"
					 " entities = $2, newest_event = $3, event_type = $4,"
					 " shares = $5, are_new = $6,"
					 " listed_at = pg_catalog.clock_timestamp()"
					 " WHERE id OPERATOR(pg_catalog.=) $1",
					 &parameters, false, SPI_OK_UPDATE);
}

#define CLAIM \
	"SELECT b.batch, b.keys FROM limaml.stored_batch AS b" \
	" WHERE b.job_id OPERATOR(pg_catalog.=) $1" \
	" AND b.batch OPERATOR(pg_catalog.>=) $2" \
	" AND EXISTS (SELECT FROM limaml.stored_job AS j" \
	" WHERE j.id OPERATOR(pg_catalog.=) $1" \
	" AND j.state OPERATOR(pg_catalog.=) '" JOB_RUNNING "')" \
	" ORDER BY b.batch LIMIT 1 FOR UPDATE OF b"

int
JobClaim(const Job *job, bool wait, int from, int keys, bytea **key)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	Datum		array;
	Datum	   *columns;
	int			count;
	int			batch;
	bool		isnull;

	AddInteger(&parameters, job->id);
	AddInt(&parameters, wait ? 0 : from);
	ExecuteAsCatalog(wait ? CLAIM : CLAIM " SKIP LOCKED", &parameters, false,
					 SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	if (SPI_processed == 0)
	{
		SPI_freetuptable(SPI_tuptable);
		return -1;
	}
	batch = DatumGetInt32(ResultColumn(1, &isnull));
	array = ResultColumn(2, &isnull);
	if (isnull)
	{
		key[0] = NULL;
		SPI_freetuptable(SPI_tuptable);
		return batch;
	}
	deconstruct_array(DatumGetArrayTypeP(array), BYTEAOID, -1, false,
					  TYPALIGN_INT, &columns, NULL, &count);
	if (count != keys)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("batch %d of job " INT64_FORMAT " has keys of %d columns, not %d",
						batch, job->id, count, keys)));
	for (int k = 0; k < keys; k++)
		key[k] = (bytea *) PG_DETOAST_DATUM_COPY(columns[k]);
	SPI_freetuptable(SPI_tuptable);
	return batch;
}

void
JobBatchDone(const Job *job, int worker, int batch, const Work *work)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, job->id);
	AddInt(&parameters, worker);
	AddInt(&parameters, batch);
	AddInteger(&parameters, work->entities);
	AddInteger(&parameters, work->interactions);
	AddDouble(&parameters, work->reading);
	AddDouble(&parameters, work->adapting);
	AddDouble(&parameters, work->writing);
	ExecuteAsCatalog("WITH batch AS (DELETE FROM limaml.stored_batch"
					 " WHERE job_id OPERATOR(pg_catalog.=) $1"
					 " AND batch OPERATOR(pg_catalog.=) $3)"
					 " UPDATE limaml.stored_worker AS w SET"
					 " entities = w.entities OPERATOR(pg_catalog.+) $4,"
					 " interactions = w.interactions OPERATOR(pg_catalog.+) $5,"
					 " reading = w.reading OPERATOR(pg_catalog.+) $6,"
					 " adapting = w.adapting OPERATOR(pg_catalog.+) $7,"
					 " writing = w.writing OPERATOR(pg_catalog.+) $8,"
					 " heartbeat = pg_catalog.clock_timestamp()"
					 " WHERE w.job_id OPERATOR(pg_catalog.=) $1"
					 " AND w.worker OPERATOR(pg_catalog.=) $2",
					 &parameters, false, SPI_OK_UPDATE);
}

bool
JobFinish(const Job *job, const char *state, const char *error)
{
	Parameters	parameters = {0};
	Parameters	batches = {0};
	bool		ended;

	AddInteger(&parameters, job->id);
	AddText(&parameters, state);
	AddText(&parameters, error);
	AddParameter(&parameters, INT4OID, Int32GetDatum(job->version),
				 job->version == 0);
	ExecuteAsCatalog("UPDATE limaml.stored_job SET state = $2, error = $3,"
					 " version = COALESCE($4, version),"
					 " entities = CASE WHEN shares IS NULL OR $2 OPERATOR(pg_catalog.<>) '" JOB_DONE "' THEN entities"
					 " ELSE (SELECT pg_catalog.sum(w.entities) FROM limaml.stored_worker AS w"
					 " WHERE w.job_id OPERATOR(pg_catalog.=) $1) END,"
					 " finished_at = pg_catalog.clock_timestamp()"
					 " WHERE id OPERATOR(pg_catalog.=) $1"
					 " AND state OPERATOR(pg_catalog.=) '" JOB_RUNNING "'",
					 &parameters, false, SPI_OK_UPDATE);
	ended = SPI_processed > 0;

	/*
	 * Some are left of a job that failed or was cancelled.  Those that other
	 * workers have they delete themselves, when they find it ended.
	 */
	AddInteger(&batches, job->id);
	ExecuteAsCatalog("DELETE FROM limaml.stored_batch AS b"
					 " WHERE b.job_id OPERATOR(pg_catalog.=) $1 AND b.batch OPERATOR(pg_catalog.=) ANY"
					 " (ARRAY(SELECT c.batch FROM limaml.stored_batch AS c"
					 " WHERE c.job_id OPERATOR(pg_catalog.=) $1"
					 " AND NOT EXISTS (SELECT FROM limaml.stored_job AS j"
					 " WHERE j.id OPERATOR(pg_catalog.=) $1"
					 " AND j.state OPERATOR(pg_catalog.=) '" JOB_RUNNING "')"
					 " FOR UPDATE SKIP LOCKED))",
					 &batches, false, SPI_OK_DELETE);
	return ended;
}

void
JobFailed(const Job *job, const ErrorData *error)
{
	const char *state = error->sqlerrcode == ERRCODE_QUERY_CANCELED ?
		JOB_CANCELLED : JOB_FAILED;

	if (JobFinish(job, state, error->message))
		ereport(LOG,
				(errmsg("job " INT64_FORMAT ": %s: %s", job->id, state,
						error->message)));
}

void
JobWork(const Job *job, Work *work)
{
	Parameters	parameters = {0};
	bool		isnull;

	AddInteger(&parameters, job->id);
	ExecuteAsCatalog("SELECT COALESCE(pg_catalog.sum(entities), 0)::pg_catalog.int8,"
					 " COALESCE(pg_catalog.sum(interactions), 0)::pg_catalog.int8,"
					 " COALESCE(pg_catalog.sum(reading), 0),"
					 " COALESCE(pg_catalog.sum(adapting), 0),"
					 " COALESCE(pg_catalog.sum(writing), 0)"
					 " FROM limaml.stored_worker"
					 " WHERE job_id OPERATOR(pg_catalog.=) $1",
					 &parameters, false, SPI_OK_SELECT);
	work->entities = DatumGetInt64(ResultColumn(1, &isnull));
	work->interactions = DatumGetInt64(ResultColumn(2, &isnull));
	work->reading = DatumGetFloat8(ResultColumn(3, &isnull));
	work->adapting = DatumGetFloat8(ResultColumn(4, &isnull));
	work->writing = DatumGetFloat8(ResultColumn(5, &isnull));
	SPI_freetuptable(SPI_tuptable);
}

void
JobRefreshState(int64 model_id, int version, RefreshState *state)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	Datum		datum;
	bool		isnull;

	memset(state, 0, sizeof(*state));
	AddInteger(&parameters, model_id);
	AddInt(&parameters, version);
	ExecuteAsCatalog("SELECT since, complete_at, newest_event, event_type"
					 " FROM limaml.stored_refresh"
					 " WHERE model_id OPERATOR(pg_catalog.=) $1"
					 " AND version OPERATOR(pg_catalog.=) $2",
					 &parameters, false, SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	if (SPI_processed > 0)
	{
		state->known = true;
		state->since = DatumGetTimestampTz(ResultColumn(1, &isnull));
		state->complete_at = DatumGetTimestampTz(ResultColumn(2, &isnull));
		state->complete = !isnull;
		datum = ResultColumn(3, &isnull);
		if (!isnull)
			state->newest_event = (bytea *) PG_DETOAST_DATUM_COPY(datum);
		state->event_type = DatumGetObjectId(ResultColumn(4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

void
JobFollow(const Job *job, int version)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, job->model_id);
	AddInt(&parameters, version);
	AddParameter(&parameters, TIMESTAMPTZOID,
				 TimestampTzGetDatum(job->started_at), false);
	ExecuteAsCatalog("INSERT INTO limaml.stored_refresh (model_id, version, since)"
					 " SELECT v.model_id, v.version, $3 FROM limaml.stored_version AS v"
					 " WHERE v.model_id OPERATOR(pg_catalog.=) $1"
					 " AND v.version OPERATOR(pg_catalog.=) $2"
					 " ON CONFLICT (model_id, version) DO NOTHING",
					 &parameters, false, SPI_OK_INSERT);
}

int
JobFollowed(int64 model_id, int **versions)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	int			count;

	AddInteger(&parameters, model_id);
	ExecuteAsCatalog("SELECT version FROM limaml.stored_refresh"
					 " WHERE model_id OPERATOR(pg_catalog.=) $1"
					 " ORDER BY version",
					 &parameters, false, SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	count = (int) SPI_processed;
	*versions = palloc(sizeof(int) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		bool		isnull;

		(*versions)[i] = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 1,
													 &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return count;
}

void
JobRefreshed(const Job *job, int version, bool changes)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, job->id);
	AddInt(&parameters, version);

	/* what was forgotten while the job ran remains so */
	if (changes)
		ExecuteAsCatalog("UPDATE limaml.stored_refresh AS r SET complete_at = j.started_at"
						 " FROM limaml.stored_job AS j"
						 " WHERE j.id OPERATOR(pg_catalog.=) $1"
						 " AND r.model_id OPERATOR(pg_catalog.=) j.model_id"
						 " AND r.version OPERATOR(pg_catalog.=) $2",
						 &parameters, false, SPI_OK_UPDATE);
	else
		ExecuteAsCatalog("INSERT INTO limaml.stored_refresh AS r"
						 " (model_id, version, since, complete_at, newest_event, event_type)"
						 " SELECT j.model_id, $2, j.started_at, j.started_at, j.newest_event, j.event_type"
						 " FROM limaml.stored_job AS j"
						 " JOIN limaml.stored_version AS v ON v.model_id OPERATOR(pg_catalog.=) j.model_id"
						 " AND v.version OPERATOR(pg_catalog.=) $2"
						 " WHERE j.id OPERATOR(pg_catalog.=) $1"
						 " ON CONFLICT (model_id, version) DO UPDATE SET"
						 " complete_at = excluded.complete_at,"
						 " newest_event = COALESCE(excluded.newest_event, r.newest_event),"
						 " event_type = excluded.event_type",
						 &parameters, false, SPI_OK_INSERT);
}
