/*-------------------------------------------------------------------------
 *
 * training_workers.h
 *	  Processes that work on the shares of a batch together.
 *
 * They are the server's parallel workers, as of a parallel index build: at
 * most max_parallel_maintenance_workers, and none where there are none to be
 * had.  The process that trains is the leader.  It fills a batch, takes shares
 * like any worker, and learns from what all have computed; what workers know
 * of the network is a copy that the leader publishes with each batch.
 *
 * While workers run the leader is in parallel mode: it may read, but not write
 * or begin a subtransaction.  An error in it or in a worker ends all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_TRAINING_WORKERS_H
#define QUERY_TRAINING_WORKERS_H

#include "postgres.h"

#include "query/batch.h"

typedef struct TrainingWorkers TrainingWorkers;

/* Starts at most so many; the plan stays as it is until the end. */
extern TrainingWorkers *TrainingWorkersStart(const BatchPlan *plan,
											 int workers);

/* A batch to fill, with room for so many rows; what it held is gone. */
extern Batch *TrainingWorkersBatch(TrainingWorkers *workers, int rows);

/* Parts the batch, publishes the network and returns when all shares are done. */
extern void TrainingWorkersRun(TrainingWorkers *workers, BatchWork work);

extern void TrainingWorkersEnd(TrainingWorkers *workers);

#endif							/* QUERY_TRAINING_WORKERS_H */
