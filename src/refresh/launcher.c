/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Refreshes that start by themselves, where the server preloads limaml.
 *
 * The launcher belongs to no database.  Every so often it starts a scanner in
 * each database in turn and waits for it; the scanner starts the jobs of the
 * models that are due, and goes.  So a cluster with a hundred databases needs
 * two worker slots beside those of the jobs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "refresh/job.h"
#include "refresh/launcher.h"
#include "refresh/worker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

int			launcher_naptime = 10;

PGDLLEXPORT void limaml_launcher_main(Datum argument);
PGDLLEXPORT void limaml_scanner_main(Datum argument);

/* Databases that one may connect to. */
static List *
Databases(MemoryContext context)
{
	List	   *databases = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!database->datallowconn || database->datistemplate)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	return databases;
}

/* Has a database looked at; says once when there is no slot for it. */
static void
ScanDatabase(Oid database)
{
	static bool said = false;
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker.bgw_library_name, "limaml", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "limaml_scanner_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "limaml scanner", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "limaml scanner", BGW_MAXLEN);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		if (!said)
			ereport(LOG,
					(errmsg("limaml launcher: could not start a background worker"),
					 errhint("You may need to increase max_worker_processes (%d).",
							 max_worker_processes)));
		said = true;
		return;
	}
	said = false;
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
}

/* The launcher. */
void
limaml_launcher_main(Datum argument)
{
	MemoryContext round;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	round = AllocSetContextCreate(TopMemoryContext, "limaml launcher",
								  ALLOCSET_DEFAULT_SIZES);
	ereport(LOG, (errmsg("limaml launcher started")));
	for (;;)
	{
		ListCell   *lc;

		MemoryContextSwitchTo(round);
		MemoryContextReset(round);
		foreach(lc, Databases(round))
		{
			MemoryContextSwitchTo(round);
			ScanDatabase(lfirst_oid(lc));
			CHECK_FOR_INTERRUPTS();
		}
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 launcher_naptime * 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/*
 * Models whose refresh is due, and background refreshes that nobody is known
 * to work on.  A refresh is due an interval after the last one began; after k
 * that failed in a row, twice, four times ... the interval after the last
 * ended, an hour or the interval at most.
 */
#define DUE \
	"SELECT m.id, m.deployed, o.owner, l.id, l.version, l.only_stale, l.workers" \
	" FROM limaml.stored_model AS m" \
	" JOIN limaml.model AS o ON o.id OPERATOR(pg_catalog.=) m.id" \
	" CROSS JOIN LATERAL (SELECT (m.options OPERATOR(pg_catalog.->>) 'refresh_interval')::pg_catalog.interval AS every) AS i" \
	" LEFT JOIN LATERAL (SELECT j.* FROM limaml.stored_job AS j" \
	"  WHERE j.model_id OPERATOR(pg_catalog.=) m.id AND j.kind OPERATOR(pg_catalog.=) 'refresh'" \
	"  ORDER BY j.id DESC LIMIT 1) AS l ON true" \
	" CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS count FROM limaml.stored_job AS f" \
	"  WHERE f.model_id OPERATOR(pg_catalog.=) m.id AND f.kind OPERATOR(pg_catalog.=) 'refresh'" \
	"  AND f.state OPERATOR(pg_catalog.=) '" JOB_FAILED "'" \
	"  AND f.id OPERATOR(pg_catalog.>) COALESCE((SELECT pg_catalog.max(d.id) FROM limaml.stored_job AS d" \
	"   WHERE d.model_id OPERATOR(pg_catalog.=) m.id AND d.kind OPERATOR(pg_catalog.=) 'refresh'" \
	"   AND d.state OPERATOR(pg_catalog.<>) '" JOB_FAILED "'), 0)) AS k" \
	" WHERE m.deployed IS NOT NULL AND o.owner IS NOT NULL AND CASE" \
	"  WHEN l.state OPERATOR(pg_catalog.=) '" JOB_RUNNING "' THEN l.background OR i.every IS NOT NULL" \
	"  WHEN i.every IS NULL THEN false" \
	"  WHEN l.id IS NULL THEN true" \
	"  WHEN l.state OPERATOR(pg_catalog.=) '" JOB_FAILED "' THEN" \
	"   pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) (l.finished_at OPERATOR(pg_catalog.+)" \
	"   LEAST(i.every OPERATOR(pg_catalog.*) pg_catalog.power(2, LEAST(k.count, 10)::pg_catalog.float8)," \
	"   GREATEST(i.every, '1 hour'::pg_catalog.interval)))" \
	"  ELSE pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) (l.started_at OPERATOR(pg_catalog.+) i.every)" \
	"  END ORDER BY l.started_at NULLS FIRST"

static void
StartDue(SPITupleTable *due, uint64 r)
{
	HeapTuple	tuple = due->vals[r];
	TupleDesc	desc = due->tupdesc;
	Job			job = {.kind = JOB_REFRESH,.only_stale = true};
	Job			last;
	bool		isnull;
	bool		resumes;
	int64		id;

	job.model_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	if (JobIsAlive(JOB_REFRESH, job.model_id))
		return;
	job.version = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
	job.started_by = DatumGetObjectId(SPI_getbinval(tuple, desc, 3, &isnull));
	job.workers = refresh_workers;
	id = DatumGetInt64(SPI_getbinval(tuple, desc, 4, &isnull));

	/* what was interrupted goes on where it was, unless it was a session's */
	resumes = !isnull && JobRead(id, &last) && last.background &&
		strcmp(last.state, JOB_RUNNING) == 0;
	if (resumes)
	{
		job.id = id;
		job.version = last.version;
		job.only_stale = last.only_stale;
		job.workers = last.workers;
	}
	else
		job.id = JobNextId();
	if (StartWorkers(&job, 0, 0, NULL) == 0)
		ereport(LOG,
				(errmsg("limaml launcher: could not start a background worker"),
				 errhint("You may need to increase max_worker_processes (%d).",
						 max_worker_processes)));
	else if (resumes)
		ereport(LOG,
				(errmsg("limaml launcher: job " INT64_FORMAT " was interrupted and goes on",
						id)));
}

/* A scanner: starts the jobs that are due in its database, and goes. */
void
limaml_scanner_main(Datum argument)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument),
											  InvalidOid, 0);
	SetWorkerDefaults();

	/* the other databases are not to wait for a lock in this one */
	SetConfigOption("lock_timeout", "10s", PGC_SUSET, PGC_S_OVERRIDE);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (CatalogExists())
	{
		Parameters	none = {0};

		SPITupleTable *due;
		uint64		count;

		pgstat_report_activity(STATE_RUNNING, "limaml: looking for models that are due");
		SPI_connect();
		ExecuteAsCatalog(DUE, &none, true, SPI_OK_SELECT);
		due = SPI_tuptable;
		count = SPI_processed;
		for (uint64 r = 0; r < count; r++)
			StartDue(due, r);
		SPI_finish();
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	proc_exit(0);
}

void
RegisterLauncher(void)
{
	BackgroundWorker worker = {0};

	/* nothing is to change while pg_upgrade looks on */
	if (IsBinaryUpgrade)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "limaml", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "limaml_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "limaml launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "limaml launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
