/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  Background workers of jobs, and the verbs that start, await and cancel
 *	  jobs.
 *
 * A job starts at once, whether or not the transaction that asks for it ever
 * commits: its first worker writes it down.  So the asking session knows at
 * once how many workers it got, and may wait for them.
 *
 * A worker that is terminated, or goes down with the server's other processes
 * in a crash, is started again by the postmaster, which remembers it as long
 * as it lives itself; a job's claims are such that this needs no more.  After
 * a restart of the server it is the launcher that starts workers anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "refresh/refresh.h"
#include "refresh/worker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

/* Seconds until a terminated worker is started again. */
#define RESTART_SECONDS 1

/* How often that may be, before the job counts as one that kills workers. */
#define MOST_RESTARTS 10

/* Milliseconds between two looks at a job that somebody waits for. */
#define WAIT_MILLISECONDS 50

/* Of these looks, each which one asks who waits for whom. */
#define LOOKS_PER_CHECK 10

/* How many of these a job's beginning, or its workers' end, may take. */
#define MOST_TRIES 60

int			refresh_workers = 2;

/* What a worker is started with. */
typedef struct WorkerStart
{
	int64		job;
	int64		model_id;
	Oid			database;
	Oid			started_by;
	TransactionId xid;			/* of who asked, or invalid */
	dsm_handle	options;		/* jsonb of training, or 0 */
	int32		version;
	int16		worker;
	int16		workers;
	int16		kind;
	bool		only_stale;
} WorkerStart;

StaticAssertDecl(sizeof(WorkerStart) <= BGW_EXTRALEN,
				 "a worker's start must fit in bgw_extra");

PGDLLEXPORT void limaml_worker_main(Datum argument);

/*
 * In the worker
 */

static void
Connect(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
Disconnect(void)
{
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
}

/* The options that a session gives; false where it has gone. */
static bool
TakeOptions(dsm_handle handle, Jsonb **options)
{
	dsm_segment *segment;
	Jsonb	   *given;

	*options = NULL;
	if (handle == 0)
		return true;
	segment = dsm_attach(handle);
	if (segment == NULL)
		return false;
	given = dsm_segment_address(segment);
	*options = palloc(VARSIZE(given));
	memcpy(*options, given, VARSIZE(given));
	dsm_detach(segment);
	return true;
}

void
SetWorkerDefaults(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"}
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i].name, settings[i].value, PGC_SUSET,
						PGC_S_OVERRIDE);
}

/*
 * Takes part in the job, which the first to come writes down.  False where it
 * has ended, or another job of the model is at work.  The model's lock is then
 * held until the process ends.
 */
static bool
JoinJob(const WorkerStart *start, JobRun *run)
{
	Job		   *job = &run->job;
	LOCKTAG		lock;

	JobModelLock(&lock, start->kind, start->model_id);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		(void) LockAcquire(&lock, ShareLock, true, false);
		if (JobRead(start->job, job))
			return strcmp(job->state, JOB_RUNNING) == 0;
		LockRelease(&lock, ShareLock, true);

		if (LockAcquire(&lock, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL)
		{
			Jsonb	   *options;

			if (!JobRead(start->job, job))
			{
				if (!TakeOptions(start->options, &options))
				{
					LockRelease(&lock, ExclusiveLock, true);
					return false;
				}
				memset(job, 0, sizeof(*job));
				job->id = start->job;
				job->model_id = start->model_id;
				job->kind = start->kind;
				job->version = start->version;
				job->only_stale = start->only_stale;
				job->options = options;
				job->background = true;
				job->workers = start->workers;
				job->started_by = start->started_by;
				JobInsert(job);
				JobCommit(run);
			}
			LockRelease(&lock, ExclusiveLock, true);
		}
		else if (JobOfModel(start->kind, start->model_id) != 0 &&
				 !JobRead(start->job, job))
			return false;
		JobCommit(run);
		pg_usleep(10000);
	}
}

typedef struct ModelStep
{
	const WorkerStart *start;
	const Job  *job;
	bool		last;			/* it must be there now */
	Model	   *model;
} ModelStep;

/* A step: the job's model; false where it, or its version, is not seen yet. */
static bool
FindModel(void *argument)
{
	ModelStep  *step = argument;
	char	   *name = CatalogModelName(step->start->model_id);

	if (name)
		step->model = CatalogModel(name, false);
	if (name && (step->job->version == 0 ||
				 CatalogHasVersion(step->model, step->job->version)))
		return true;
	if (step->last || !TransactionIdIsValid(step->start->xid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the model or version of job " INT64_FORMAT " does not exist",
						step->start->job)));

	/* whoever waits for us in that transaction is to know */
	JobAwaitsTransaction(step->job);
	return false;
}

typedef struct TrainingStep
{
	JobRun	   *run;
	const Model *model;
} TrainingStep;

/* A step: trains. */
static bool
Train(void *argument)
{
	TrainingStep *step = argument;
	JobRun	   *run = step->run;
	Oid			types[2] = {TEXTOID, JSONBOID};
	Datum		values[2];
	char	   *sql = psprintf("SELECT version, seconds FROM %s($1, $2)",
							   quote_qualified_identifier(get_namespace_name(ExtensionSchema()),
														  "limaml_train"));
	bool		isnull;

	values[0] = CStringGetTextDatum(step->model->name);
	values[1] = run->job.options ? JsonbPGetDatum(run->job.options) :
		DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not train: %s", sql);
	run->job.version = DatumGetInt32(ResultColumn(1, &isnull));
	ereport(LOG,
			(errmsg("job " INT64_FORMAT ": trained version %d of model \"%s\" in %.1f s",
					run->job.id, run->job.version, step->model->name,
					DatumGetFloat8(ResultColumn(2, &isnull)))));
	JobFinish(&run->job, JOB_DONE, NULL);
	return true;
}

static void
RunJob(const WorkerStart *start, JobRun *run)
{
	ModelStep	step = {.start = start, .job = &run->job};
	TrainingStep training = {.run = run};

	if (!JobStep(run, FindModel, &step))
	{
		XactLockTableWait(start->xid, NULL, NULL, XLTW_None);
		step.last = true;
		JobStep(run, FindModel, &step);
	}
	if (start->worker == 0)
		ereport(LOG,
				(errmsg("job " INT64_FORMAT ": %s model \"%s\"",
						run->job.id, start->kind == JOB_REFRESH ?
						"refreshing" : "training", step.model->name)));
	if (start->kind == JOB_REFRESH)
	{
		RunRefresh(run, step.model);
		return;
	}
	training.model = step.model;
	pgstat_report_activity(STATE_RUNNING,
						   psprintf("limaml: training model \"%s\"",
									step.model->name));
	JobStep(run, Train, &training);
}

/*
 * A worker that cannot connect will not be able to, as its database has gone:
 * it is not to be started again and again.
 */
static bool connected = false;

static void
ForgetUnlessConnected(int code, Datum argument)
{
	if (!connected)
		_exit(0);
}

/* A background worker of a job. */
void
limaml_worker_main(Datum argument)
{
	WorkerStart start;
	JobRun		run = {.process = true};
	volatile bool joined = false;

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	run.worker = start.worker;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	on_proc_exit(ForgetUnlessConnected, 0);
	BackgroundWorkerInitializeConnectionByOid(start.database, InvalidOid, 0);
	connected = true;
	SetWorkerDefaults();

	/* an exit with 0 is final for the postmaster */
	PG_TRY();
	{
		Connect();
		pgstat_report_activity(STATE_RUNNING, "limaml: joining a job");
		if (CatalogExists() && JoinJob(&start, &run))
		{
			int			restarts = JobJoin(&run.job, start.worker);

			joined = true;
			if (restarts > MOST_RESTARTS)
				JobFinish(&run.job, JOB_FAILED,
						  psprintf("worker %d was interrupted %d times",
								   start.worker, restarts));
			JobCommit(&run);
			if (restarts <= MOST_RESTARTS)
				RunJob(&start, &run);
		}
		Disconnect();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* most errors have ended the job, but not those between its steps */
		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		if (joined)
		{
			Connect();
			JobFailed(&run.job, error);
			Disconnect();
		}
	}
	PG_END_TRY();
	proc_exit(0);
}

/*
 * In a session, or the launcher
 */

/* Options for a worker to write down with the job; NULL where there are none. */
static dsm_segment *
GiveOptions(const Jsonb *options)
{
	dsm_segment *segment;

	if (options == NULL || JB_ROOT_COUNT(options) == 0)
		return NULL;
	segment = dsm_create(VARSIZE(options), 0);
	memcpy(dsm_segment_address(segment), options, VARSIZE(options));
	return segment;
}

int
StartWorkers(const Job *job, dsm_handle options, pid_t notify,
			 BackgroundWorkerHandle **handles)
{
	BackgroundWorker worker = {0};
	WorkerStart start = {
		.job = job->id,
		.model_id = job->model_id,
		.database = MyDatabaseId,
		.started_by = job->started_by,
		.xid = GetTopTransactionIdIfAny(),
		.options = options,
		.version = job->version,
		.workers = job->workers,
		.kind = job->kind,
		.only_stale = job->only_stale
	};
	int			started = 0;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	worker.bgw_notify_pid = notify;
	strlcpy(worker.bgw_library_name, "limaml", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "limaml_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "limaml worker", BGW_MAXLEN);
	while (started < job->workers)
	{
		start.worker = started;
		memcpy(worker.bgw_extra, &start, sizeof(start));
		snprintf(worker.bgw_name, BGW_MAXLEN,
				 "limaml worker %d of job " INT64_FORMAT, started, job->id);
		if (!RegisterDynamicBackgroundWorker(&worker, handles ?
											 &handles[started] : NULL))
			break;
		started++;
	}
	return started;
}

/* Runs what reads jobs with a snapshot of this moment. */
static bool
ReadJobNow(int64 id, Job *job)
{
	bool		found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = JobReadAgain(id, job);
	PopActiveSnapshot();
	return found;
}

static void
Sleep(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 WAIT_MILLISECONDS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* The deadlock detector knows nothing of who waits for a job. */
static bool
AwaitsUs(int64 id, int process)
{
	bool		awaits;

	PushActiveSnapshot(GetLatestSnapshot());
	awaits = JobAwaitsUs(id, process);
	PopActiveSnapshot();
	return awaits;
}

static void
ReportAwaitsUs(int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("job " INT64_FORMAT " waits for this transaction to end",
					id),
			 errhint("Wait for it after COMMIT.")));
}

static bool
AnyAlive(BackgroundWorkerHandle **handles, int count)
{
	pid_t		pid;

	for (int w = 0; w < count; w++)
		if (GetBackgroundWorkerPid(handles[w], &pid) != BGWH_STOPPED)
			return true;
	return false;
}

/*
 * Starts a job and waits until it is written down.  Returns its id, or that of
 * the job that is at work on the model already.
 */
static int64
StartJob(Job *job, const Model *model)
{
	BackgroundWorkerHandle *handles[MOST_WORKERS];
	const char *verb = job->kind == JOB_REFRESH ? "refreshed" : "trained";
	dsm_segment *options = GiveOptions(job->options);
	int			started;
	Job			now;

	for (int tries = 0; tries < MOST_TRIES; tries++)
	{
		int64		other;

		if (!JobIsAlive(job->kind, model->id))
		{
			job->id = JobNextId();
			started = StartWorkers(job, options ? dsm_segment_handle(options) : 0,
								   MyProcPid, handles);
			if (started == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						 errmsg("could not start a background worker"),
						 errhint("You may need to increase max_worker_processes (%d), or wait until others have ended.",
								 max_worker_processes)));
			if (started < job->workers)
				ereport(NOTICE,
						(errmsg("job " INT64_FORMAT " has %d of %d workers",
								job->id, started, job->workers),
						 errhint("You may need to increase max_worker_processes (%d).",
								 max_worker_processes)));
			for (int looks = 1; AnyAlive(handles, started) &&
				 !ReadJobNow(job->id, &now); looks++)
			{
				pid_t		pid;

				if (looks % LOOKS_PER_CHECK == 0 &&
					GetBackgroundWorkerPid(handles[0], &pid) == BGWH_STARTED &&
					AwaitsUs(job->id, pid))
				{
					for (int w = 0; w < started; w++)
						TerminateBackgroundWorker(handles[w]);
					ReportAwaitsUs(job->id);
				}
				Sleep();
			}
			if (ReadJobNow(job->id, &now))
			{
				if (options)
					dsm_detach(options);
				return job->id;
			}
		}

		/* another session came first, or the job before is about to end */
		PushActiveSnapshot(GetLatestSnapshot());
		other = JobOfModel(job->kind, model->id);
		PopActiveSnapshot();
		if (other != 0 && JobIsAlive(job->kind, model->id))
		{
			ereport(NOTICE,
					(errmsg("model \"%s\" is being %s by job " INT64_FORMAT,
							model->name, verb, other)));
			if (options)
				dsm_detach(options);
			return other;
		}
		Sleep();
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("could not start a job for model \"%s\"", model->name),
			 errhint("Another session may be at it within a transaction. The server log tells more.")));
	return 0;
}

PG_FUNCTION_INFO_V1(limaml_refresh_start);

/*
 * limaml_refresh_start(model text, workers int, version int, only_stale
 * boolean): starts a refresh in background workers and returns its job.
 */
Datum
limaml_refresh_start(PG_FUNCTION_ARGS)
{
	Job			job = {0};
	Model	   *model;
	int64		id;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	PreventCommandIfReadOnly("limaml_refresh_start()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "refresh");
	job.kind = JOB_REFRESH;
	job.model_id = model->id;
	job.workers = PG_ARGISNULL(1) ? refresh_workers : PG_GETARG_INT32(1);
	if (job.workers < 1 || job.workers > MOST_WORKERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("workers must be between 1 and %d", MOST_WORKERS)));
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						PG_GETARG_INT32(2)),
				 errhint("Versions count from 1.")));
	job.version = CatalogVersion(model, PG_ARGISNULL(2) ? 0 :
								 PG_GETARG_INT32(2), false)->number;
	CatalogCheckEmbeddings(model, MetaEmbeddingType());
	job.only_stale = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	job.started_by = GetUserId();
	id = StartJob(&job, model);
	SPI_finish();
	PG_RETURN_INT64(id);
}

PG_FUNCTION_INFO_V1(limaml_train_start);

/*
 * limaml_train_start(model text, options jsonb): starts limaml_train in a
 * background worker and returns its job.
 */
Datum
limaml_train_start(PG_FUNCTION_ARGS)
{
	Job			job = {0};
	ModelOptions options;
	Model	   *model;
	int64		id;

	PreventCommandIfReadOnly("limaml_train_start()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "train");
	job.kind = JOB_TRAINING;
	job.model_id = model->id;
	job.workers = 1;
	job.options = PG_GETARG_JSONB_P(1);
	job.started_by = GetUserId();

	/* what is wrong with them is better said here than in a log */
	CatalogOptions(model, job.options, &options);
	id = StartJob(&job, model);
	SPI_finish();
	PG_RETURN_INT64(id);
}

/* A job that the caller may look at; its model is to be one of theirs. */
static void
CheckJob(int64 id, bool owner, Job *job)
{
	char	   *name;

	if (!ReadJobNow(id, job) ||
		(name = CatalogModelName(job->model_id)) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist", id),
				 errhint("The view limaml.job lists the jobs.")));
	if (owner)
		CatalogCheckOwner(CatalogModel(name, false), "cancel a job of");
	else
		(void) CatalogModel(name, false);
}

PG_FUNCTION_INFO_V1(limaml_wait);

/*
 * limaml_wait(job bigint): waits until a job has ended and returns how.  A job
 * that nobody works on any more is an error: it would never end.
 */
Datum
limaml_wait(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	MemoryContext look;
	Job			job;
	char		state[16];
	int			dead = 0;
	int			looks = 0;

	SPI_connect();
	look = AllocSetContextCreate(CurrentMemoryContext, "limaml wait",
								 ALLOCSET_SMALL_SIZES);
	CheckJob(id, false, &job);
	while (strcmp(job.state, JOB_RUNNING) == 0)
	{
		/* a worker that was terminated takes a moment to come back */
		dead = JobIsAlive(job.kind, job.model_id) ? 0 : dead + 1;
		if (dead * WAIT_MILLISECONDS > (RESTART_SECONDS + 4) * 1000)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("job " INT64_FORMAT " was interrupted, and nobody works on it",
							id),
					 errhint("The next refresh of the model does the rest.")));
		if (++looks % LOOKS_PER_CHECK == 0 && AwaitsUs(id, 0))
			ReportAwaitsUs(id);
		Sleep();
		MemoryContextSwitchTo(look);
		MemoryContextReset(look);
		if (!ReadJobNow(id, &job))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("job " INT64_FORMAT " is gone, and its model", id)));
	}

	/* its workers may still be there, and whoever comes next be sent away */
	for (int tries = 0; tries < MOST_TRIES; tries++)
	{
		pid_t	   *pids;

		if (JobWorkerPids(&job, &pids) == 0)
			break;
		Sleep();
	}
	strlcpy(state, job.state, sizeof(state));
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(state));
}

PG_FUNCTION_INFO_V1(limaml_cancel);

/*
 * limaml_cancel(job bigint): ends a job.  Its workers are signalled, and say
 * so themselves; the embeddings of its batches remain.  False where it had
 * ended.
 */
Datum
limaml_cancel(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	Job			job;
	bool		running;
	pid_t	   *pids = NULL;
	int			count = 0;

	PreventCommandIfReadOnly("limaml_cancel()");
	SPI_connect();
	CheckJob(id, true, &job);
	running = strcmp(job.state, JOB_RUNNING) == 0;

	/* workers that have begun to join it can be signalled in a moment */
	for (int tries = 0; running && count == 0 && tries < MOST_TRIES &&
		 JobIsAlive(job.kind, job.model_id); tries++)
	{
		if (tries > 0)
			Sleep();
		count = JobWorkerPids(&job, &pids);
		if (!ReadJobNow(id, &job) || strcmp(job.state, JOB_RUNNING) != 0)
			break;
	}
	for (int p = 0; p < count; p++)
		if (pids[p] != MyProcPid && kill(pids[p], SIGINT) != 0)
			ereport(WARNING,
					(errmsg("could not send signal to process %d: %m",
							(int) pids[p])));
	if (running && count == 0)
		JobFinish(&job, JOB_CANCELLED, NULL);
	SPI_finish();
	PG_RETURN_BOOL(running);
}
