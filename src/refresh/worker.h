/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Background workers of jobs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFRESH_WORKER_H
#define REFRESH_WORKER_H

#include "postgres.h"

#include "refresh/job.h"
#include "storage/dsm.h"

struct BackgroundWorkerHandle;

/* Workers of a refresh unless said otherwise: limaml.refresh_workers. */
extern int	refresh_workers;

/* Most workers that a job may have. */
#define MOST_WORKERS 64

/*
 * Starts workers for a job, which need not be written down yet: the first of
 * them does.  options: a segment with those of a training run, or 0.  Returns
 * how many there are; notifies `notify`, or nobody (0).
 */
extern int	StartWorkers(const Job *job, dsm_handle options, pid_t notify,
						 struct BackgroundWorkerHandle **handles);

/*
 * In a background worker, before its first transaction: settings of the
 * database, or of the server, that are for people's sessions do not apply.
 */
extern void SetWorkerDefaults(void);

#endif							/* REFRESH_WORKER_H */
