/*-------------------------------------------------------------------------
 *
 * job.h
 *	  Jobs: refreshes and training runs, and who works on them.
 *
 * A job is a row of limaml.stored_job.  Whoever works on it, a session or a
 * background worker, holds a lock on its model in share mode, which dies with
 * its process; so a job that says it is running and whose model nobody locks
 * was interrupted.  To begin a job takes the lock alone: that is how one model
 * never has two at once.
 *
 * A refresh's entities stand in limaml.stored_batch.  A worker claims a batch
 * by locking its row, stores the embeddings and deletes the row in one
 * transaction; the claim of a worker that dies is void at that moment.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFRESH_JOB_H
#define REFRESH_JOB_H

#include "postgres.h"

#include "storage/lock.h"

#include "model/catalog.h"

typedef enum JobKind
{
	JOB_REFRESH,
	JOB_TRAINING
} JobKind;

typedef struct Job
{
	int64		id;
	int64		model_id;
	JobKind		kind;
	int			version;		/* to refresh, or 0: the deployed one */
	bool		only_stale;
	Jsonb	   *options;		/* of training, or NULL */
	bool		background;
	int			workers;		/* asked for */
	Oid			started_by;
	char	   *state;			/* running, done, failed or cancelled */
	char	   *phase;			/* what it is at */
	TimestampTz started_at;
	int64		entities;		/* to adapt, once they are known */
	int			shares;			/* that all entities are in, or 0: see below */
	bool		are_new;		/* none of them had an embedding then */
} Job;

#define JOB_RUNNING "running"
#define JOB_DONE "done"
#define JOB_FAILED "failed"
#define JOB_CANCELLED "cancelled"

#define PHASE_WAITING "waiting for the transaction that started it"
#define PHASE_LISTING "finding stale entities"
#define PHASE_ADAPTING "adapting"
#define PHASE_TRAINING "training"

/* Locks on a model and its jobs: advisory ones of a kind of our own. */
extern void JobModelLock(LOCKTAG *tag, JobKind kind, int64 model_id);

/* Held while entities are listed, so that only one worker does. */
extern void JobListLock(LOCKTAG *tag, int64 job);

/* Whether anybody works on jobs of this kind of a model. */
extern bool JobIsAlive(JobKind kind, int64 model_id);

/*
 * All that follows is called with SPI connected, and acts in the current
 * transaction.
 */
extern int64 JobNextId(void);

/* Writes a job down, and that those of its kind which nobody is at failed. */
extern void JobInsert(Job *job);

/* A job as it stands now; false where there is none. */
extern bool JobRead(int64 id, Job *job);

/* The unfinished job of a model, or 0, by the active snapshot. */
extern int64 JobOfModel(JobKind kind, int64 model_id);

/* The same by the active snapshot, whatever the transaction's is. */
extern bool JobReadAgain(int64 id, Job *job);

/* Says who works on a job as its nth worker; returns how often another did. */
extern int	JobJoin(const Job *job, int worker);

/* The job cannot begin before the transaction that started it ends. */
extern void JobAwaitsTransaction(const Job *job);

/*
 * Whether a worker of a job, or this process, waits for a lock of our own
 * transaction's; by the active snapshot.
 */
extern bool JobAwaitsUs(int64 id, int process);

/* The processes that work on a job; returns their number. */
extern int	JobWorkerPids(const Job *job, pid_t **pids);

/* What a worker did in a batch. */
typedef struct Work
{
	int64		entities;
	int64		interactions;	/* rows read */
	double		reading;		/* seconds */
	double		adapting;
	double		writing;
} Work;

/*
 * Adds a batch: for each key column the bytes of an array of its values, or with
 * no keys a share of all entities, of which the nth is the nth batch.
 */
extern void JobAddBatch(const Job *job, int batch, int64 entities, int keys,
						bytea **key);

/* Ends the listing: of so many entities, or of about so many in shares. */
extern void JobListed(const Job *job, int64 entities, int shares,
					  bool are_new, bytea *newest_event, Oid event_type);

/*
 * Claims a batch that nobody has, of those from `from` on (those before would
 * be looked through each time), or with `wait` any: when its worker is done
 * with it or dead.  Returns its number, or -1 where none is left or the job
 * has ended.  key[k] is allocated in the caller's memory context; key[0] of a
 * share is NULL.
 */
extern int	JobClaim(const Job *job, bool wait, int from, int keys,
					 bytea **key);

/* Ends a batch. */
extern void JobBatchDone(const Job *job, int worker, int batch,
						 const Work *work);

/*
 * Ends a job, unless somebody has before: then false.  error may be NULL.  The
 * version is that of a training run.
 */
extern bool JobFinish(const Job *job, const char *state, const char *error);

/* Ends a job by an error: as cancelled if that is what the error says. */
extern void JobFailed(const Job *job, const ErrorData *error);

/* The totals of a job's workers. */
extern void JobWork(const Job *job, Work *work);

/* How far a version is refreshed: limaml.stored_refresh. */
typedef struct RefreshState
{
	bool		known;
	bool		complete;
	TimestampTz since;			/* the first refresh of all entities began */
	TimestampTz complete_at;	/* the last complete refresh began */
	bytea	   *newest_event;	/* or NULL */
	Oid			event_type;
} RefreshState;

extern void JobRefreshState(int64 model_id, int version, RefreshState *state);

/* From now on changes are followed for this version. */
extern void JobFollow(const Job *job, int version);

/* Versions for which changes are followed; returns their number. */
extern int	JobFollowed(int64 model_id, int **versions);

/* The version is refreshed as of the job's beginning. */
extern void JobRefreshed(const Job *job, int version, bool changes);

#endif							/* REFRESH_JOB_H */
