/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Tasks that make one optimizer step, in memory that processes can share.
 *
 * A batch is parted into shares: consecutive tasks, about as many rows in each.
 * Whoever works on a share sums its gradient apart, and the sums are added in
 * the order of the shares.  How a batch is parted depends on nothing but the
 * batch and the network's shape, so the gradient has the same bits whoever
 * worked on it.
 *
 * The same memory serves to validate: the rows that adapt are a task's support
 * rows, and its query rows are scored.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_BATCH_H
#define QUERY_BATCH_H

#include "postgres.h"

#include "math/gradient.h"
#include "model/trained_network.h"
#include "query/examples.h"

/* What all batches of a run have in common. */
typedef struct BatchPlan
{
	TrainedNetwork *trained;
	OuterLoss	outer;			/* but for the scale */
	int			features;		/* codes in a row */
	int			most_tasks;
	int			most_shares;
	bool		x_gradient;		/* wanted: entities have learned vectors */
	bool		z_gradient;		/* rows have */
} BatchPlan;

typedef enum BatchWork
{
	BATCH_GRADIENTS,
	BATCH_SCORES
} BatchWork;

typedef struct BatchHead
{
	BatchWork	work;
	int			rows;
	int			tasks;
	int			shares;
	double		weight;			/* of all query rows */
} BatchHead;

/* Rows of one entity: those that adapt, then the others. */
typedef struct BatchTask
{
	int			entity;			/* of the example store */
	int			first;			/* row */
	int			support;		/* how many adapt */
	int			query;			/* and how many do not */
} BatchTask;

typedef struct BatchShare
{
	int			first;			/* task */
	int			end;			/* after the last one */
	double		loss;			/* weighted sum over the query rows */
	int			diverged_at;	/* 0, or the step; the rest was not done */
	int			diverged;		/* which task */
} BatchShare;

typedef struct Batch
{
	BatchHead  *head;
	BatchTask  *task;			/* most_tasks */
	BatchShare *share;			/* most_shares */
	FeatureCode *meta;			/* most_tasks x meta features: codes */
	CodeLists	lists;			/* of meta and of the rows' codes; apart, as
								 * their size is not known before */
	float	   *x_gradient;		/* most_tasks x dx, or NULL */
	float	   *gradient;		/* most_shares x parameters */

	/* as many as there is room for */
	char	   *row;			/* see BatchExamples */
	float	   *z_gradient;		/* x dz, or NULL */
	float	   *offset_gradient;	/* or NULL */
	float	   *score;			/* of query rows that BATCH_SCORES scored: */
	float	   *prior;			/* adapted, and unadapted */
} Batch;

/* How many shares a batch of so many tasks is parted into at most. */
extern int	BatchMostShares(const NetworkShape *shape, int tasks);

/*
 * Lays a batch with room for so many rows out in memory that is aligned as
 * palloc's; returns how many bytes that is.  Without memory it only counts.
 * Its lists stay as they are.
 */
extern Size BatchPlace(const BatchPlan *plan, int rows, char *memory,
					   Batch *batch);

/* The task's rows, as the example store has them. */
static inline Examples
BatchExamples(const BatchPlan *plan, const Batch *batch, int t)
{
	const BatchTask *task = &batch->task[t];
	Size		row_size = ExampleRowSize(plan->features);

	return (Examples)
	{
		.parts = {task->support, task->support + task->query,
		task->support + task->query},
		.meta = batch->meta + (Size) t * plan->trained->entity.count,
		.lists = batch->lists.codes,
		.row = batch->row + task->first * row_size,
		.row_size = row_size
	};
}

/* Parts what the batch now holds into shares. */
extern void BatchPart(const BatchPlan *plan, Batch *batch);

/* One process' own memory for working on shares. */
typedef struct ShareMemory ShareMemory;

extern ShareMemory *ShareMemoryCreate(const BatchPlan *plan);

/* Does a share's work with the network as it is. */
extern void BatchDoShare(ShareMemory *memory, Batch *batch, int share);

#endif							/* QUERY_BATCH_H */
