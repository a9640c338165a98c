/*-------------------------------------------------------------------------
 *
 * refresh.h
 *	  Working on a refresh, in a session or in a background worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFRESH_REFRESH_H
#define REFRESH_REFRESH_H

#include "postgres.h"

#include "refresh/job.h"

/* Memory of one worker of a refresh, in kB: limaml.work_mem. */
extern int	refresh_work_mem;

/* In whose transactions a job's steps run, and as whom. */
typedef struct JobRun
{
	Job			job;
	int			worker;			/* which of the job's */
	bool		atomic;			/* all within a transaction of the caller's */
	bool		process;		/* a background worker of our own */
	bool		stores_new;		/* embeddings that are to be new; if one is not,
								 * the step is done again without */
} JobRun;

/*
 * Runs a step; where transactions are ours to end, commits it, and an error
 * ends the job with its text before it is thrown on.
 */
extern bool JobStep(JobRun *run, bool (*step) (void *argument),
					void *argument);

/* Ends the transaction that a step or an entry to the catalog was in. */
extern void JobCommit(const JobRun *run);

/*
 * Works on a refresh until it has ended.  With SPI connected, the model's lock
 * held and this worker entered with JobJoin.
 */
extern void RunRefresh(JobRun *run, Model *model);

#endif							/* REFRESH_REFRESH_H */
