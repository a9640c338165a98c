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

struct BackgroundWorkerHandle;

/* Workers of a refresh unless said otherwise: limaml.refresh_workers. */
extern int	refresh_workers;

/* Most workers that a job may have. */
#define MOST_WORKERS 64

/*
 * Starts workers for a job, which need not be written down yet: the first of
 * them does.  Returns how many there are; notifies `notify`, or nobody (0).
 */
extern int	StartWorkers(const Job *job, pid_t notify,
						 struct BackgroundWorkerHandle **handles);

#endif							/* REFRESH_WORKER_H */
