/*-------------------------------------------------------------------------
 *
 * training_workers.c
 *	  Sharing batches with parallel workers.
 *
 * A batch's shares are claimed one by one, from a counter that a round begins
 * anew.  Nobody waits for a certain worker: one that starts late, or never,
 * merely claims less.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "query/training_workers.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#define KEY_SHARED_RUN UINT64CONST(1)

/* What the processes share. */
typedef struct SharedRun
{
	BatchPlan	plan;			/* but for what it points to */
	TrainedNetwork trained;		/* the same */
	dsa_handle	area;

	/* of the round, set before its shares can be claimed */
	dsa_pointer values;			/* all that is learned: see PassValues */
	dsa_pointer batch;
	int			room;			/* rows */
	dsa_pointer lists;			/* of the batch, if it has any */

	/*
	 * The number of the round in the upper half, in the lower that of its
	 * shares which are still to be claimed.
	 */
	pg_atomic_uint64 claims;
	pg_atomic_uint32 unfinished;	/* shares */
	pg_atomic_uint32 ended;		/* there will be no more rounds */
	ConditionVariable begun;
	ConditionVariable finished;
	Feature		features[FLEXIBLE_ARRAY_MEMBER];	/* of interactions, then of
													 * entities */
} SharedRun;

struct TrainingWorkers
{
	MemoryContext context;		/* in which it was created */
	const BatchPlan *plan;
	ShareMemory *memory;
	Batch		batch;
	char	   *own;			/* where the batch is, without workers */
	int			room;			/* rows that it holds */

	/* NULL without workers */
	ParallelContext *parallel;
	dsa_area   *area;
	SharedRun  *run;
	float	   *values;			/* run->values */
	int			lists_room;		/* codes that run->lists holds */
	uint32		round;
};

PGDLLEXPORT void limaml_training_worker_main(dsm_segment *segment,
											 shm_toc *toc);

/* Copies a table to `at`, or makes it be there; returns what is after it. */
static float *
PassTable(float **table, Size count, float *at, bool adopt)
{
	if (*table == NULL)
		return at;
	if (adopt)
		*table = at;
	else
		memcpy(at, *table, count * sizeof(float));
	return at + count;
}

/*
 * The same for all that is learned, one after the other.  Returns how many
 * numbers that is; where `at` is NULL they are only counted.
 */
static Size
PassValues(TrainedNetwork *trained, float *at, bool adopt)
{
	Encoder    *encoders[] = {&trained->interaction, &trained->entity};
	Size		count = network_parameter_count(&trained->shape);
	float	   *begin = at;

	if (at)
		at = PassTable(&trained->parameters, count, at, adopt);
	for (int e = 0; e < 2; e++)
		for (int f = 0; f < encoders[e]->count; f++)
		{
			Feature    *feature = &encoders[e]->features[f];
			Size		rows;

			if (!HasTable(feature))
				continue;
			rows = VocabularyRows(&feature->vocabulary);
			if (at)
			{
				at = PassTable(&feature->vectors, rows * feature->size, at,
							   adopt);
				at = PassTable(&feature->wide, rows, at, adopt);
			}
			else
				count += rows * (feature->size + (feature->wide ? 1 : 0));
		}
	return at ? (Size) (at - begin) : count;
}

static Size
SharedRunSize(const TrainedNetwork *trained)
{
	return add_size(offsetof(SharedRun, features),
					mul_size(sizeof(Feature), trained->interaction.count +
							 trained->entity.count));
}

static void
SharedRunInit(SharedRun *run, const BatchPlan *plan, dsa_area *area)
{
	const TrainedNetwork *trained = plan->trained;

	memset(run, 0, offsetof(SharedRun, features));
	run->plan = *plan;
	run->trained = *trained;
	run->area = dsa_get_handle(area);
	run->values = InvalidDsaPointer;
	run->batch = InvalidDsaPointer;
	run->lists = InvalidDsaPointer;
	pg_atomic_init_u64(&run->claims, 0);
	pg_atomic_init_u32(&run->unfinished, 0);
	pg_atomic_init_u32(&run->ended, 0);
	ConditionVariableInit(&run->begun);
	ConditionVariableInit(&run->finished);
	memcpy(run->features, trained->interaction.features,
		   sizeof(Feature) * trained->interaction.count);
	memcpy(run->features + trained->interaction.count,
		   trained->entity.features, sizeof(Feature) * trained->entity.count);
}

/* Starts parallel workers; leaves `workers` as it is if there are none. */
static void
StartParallel(TrainingWorkers *workers, int most)
{
	Size		size = SharedRunSize(workers->plan->trained);
	ParallelContext *parallel;

	EnterParallelMode();
	parallel = CreateParallelContext("limaml", "limaml_training_worker_main",
									 most);
	shm_toc_estimate_chunk(&parallel->estimator, size);
	shm_toc_estimate_keys(&parallel->estimator, 1);
	InitializeParallelDSM(parallel);
	if (parallel->seg)
	{
		workers->area = dsa_create(LWTRANCHE_PARALLEL_QUERY_DSA);
		workers->run = shm_toc_allocate(parallel->toc, size);
		SharedRunInit(workers->run, workers->plan, workers->area);
		shm_toc_insert(parallel->toc, KEY_SHARED_RUN, workers->run);
		LaunchParallelWorkers(parallel);
	}
	if (parallel->nworkers_launched > 0)
	{
		Size		values = PassValues(workers->plan->trained, NULL, false);

		workers->parallel = parallel;
		workers->run->values =
			dsa_allocate_extended(workers->area,
								  mul_size(values, sizeof(float)),
								  DSA_ALLOC_HUGE);
		workers->values = dsa_get_address(workers->area, workers->run->values);
		ereport(DEBUG1,
				(errmsg_internal("training with %d parallel workers",
								 parallel->nworkers_launched)));
		return;
	}
	if (workers->area)
		dsa_detach(workers->area);
	DestroyParallelContext(parallel);
	ExitParallelMode();
}

TrainingWorkers *
TrainingWorkersStart(const BatchPlan *plan, int workers)
{
	TrainingWorkers *started = palloc0(sizeof(TrainingWorkers));

	started->context = CurrentMemoryContext;
	started->plan = plan;
	started->memory = ShareMemoryCreate(plan);
	started->batch.lists.context = CurrentMemoryContext;
	if (workers > 0)
		StartParallel(started, workers);
	return started;
}

Batch *
TrainingWorkersBatch(TrainingWorkers *workers, int rows)
{
	if (rows > workers->room || workers->batch.head == NULL)
	{
		/* a little more, so as not to grow at every batch */
		int			room = (int) Min((int64) rows + rows / 8, PG_INT32_MAX);
		Size		size = BatchPlace(workers->plan, room, NULL,
									  &workers->batch);
		char	   *memory;

		if (workers->parallel)
		{
			SharedRun  *run = workers->run;

			if (DsaPointerIsValid(run->batch))
				dsa_free(workers->area, run->batch);
			run->batch = InvalidDsaPointer;
			run->batch = dsa_allocate_extended(workers->area, size,
											   DSA_ALLOC_HUGE);
			run->room = room;
			memory = dsa_get_address(workers->area, run->batch);
		}
		else
		{
			if (workers->own)
				pfree(workers->own);
			workers->own = NULL;
			workers->own = MemoryContextAllocHuge(workers->context, size);
			memory = workers->own;
		}
		workers->room = room;
		BatchPlace(workers->plan, room, memory, &workers->batch);
	}
	memset(workers->batch.head, 0, sizeof(BatchHead));
	workers->batch.lists.used = 0;
	return &workers->batch;
}

/* Copies the batch's lists to where all processes find them. */
static void
ShareLists(TrainingWorkers *workers)
{
	const CodeLists *lists = &workers->batch.lists;
	SharedRun  *run = workers->run;

	if (lists->used == 0)
		return;
	if (lists->used > workers->lists_room)
	{
		if (DsaPointerIsValid(run->lists))
			dsa_free(workers->area, run->lists);
		run->lists = InvalidDsaPointer;
		run->lists = dsa_allocate_extended(workers->area,
										   mul_size(lists->room,
													sizeof(FeatureCode)),
										   DSA_ALLOC_HUGE);
		workers->lists_room = lists->room;
	}
	memcpy(dsa_get_address(workers->area, run->lists), lists->codes,
		   sizeof(FeatureCode) * lists->used);
}

/*
 * Claims a share, and says of which round; or returns -1.  Once it is claimed
 * the round, and so all that it shares, lasts until the share is done.
 */
static int
ClaimShare(SharedRun *run, uint32 *round)
{
	uint64		claims = pg_atomic_read_u64(&run->claims);

	while ((uint32) claims > 0)
		if (pg_atomic_compare_exchange_u64(&run->claims, &claims, claims - 1))
		{
			*round = (uint32) (claims >> 32);
			return (int) (uint32) claims - 1;
		}
	return -1;
}

static void
ShareDone(SharedRun *run)
{
	if (pg_atomic_sub_fetch_u32(&run->unfinished, 1) == 0)
		ConditionVariableSignal(&run->finished);
}

void
TrainingWorkersRun(TrainingWorkers *workers, BatchWork work)
{
	SharedRun  *run = workers->run;
	Batch	   *batch = &workers->batch;
	uint32		round;
	int			share;

	batch->head->work = work;
	BatchPart(workers->plan, batch);
	if (workers->parallel == NULL)
	{
		for (int s = 0; s < batch->head->shares; s++)
			BatchDoShare(workers->memory, batch, s);
		return;
	}

	PassValues(workers->plan->trained, workers->values, false);
	ShareLists(workers);
	workers->round++;
	pg_atomic_write_u32(&run->unfinished, batch->head->shares);
	pg_write_barrier();
	pg_atomic_write_u64(&run->claims, (uint64) workers->round << 32 |
						(uint32) batch->head->shares);
	ConditionVariableBroadcast(&run->begun);
	while ((share = ClaimShare(run, &round)) >= 0)
	{
		BatchDoShare(workers->memory, batch, share);
		ShareDone(run);
	}
	ConditionVariablePrepareToSleep(&run->finished);
	while (pg_atomic_read_u32(&run->unfinished) > 0)
		ConditionVariableSleep(&run->finished, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
	pg_read_barrier();
}

void
TrainingWorkersEnd(TrainingWorkers *workers)
{
	if (workers->parallel == NULL)
		return;
	pg_atomic_write_u32(&workers->run->ended, 1);
	ConditionVariableBroadcast(&workers->run->begun);
	WaitForParallelWorkersToFinish(workers->parallel);
	dsa_detach(workers->area);
	DestroyParallelContext(workers->parallel);
	ExitParallelMode();
	workers->parallel = NULL;
}

/* The network that a worker has: its own but for what is learned. */
static TrainedNetwork *
WorkerNetwork(SharedRun *run, float *values)
{
	TrainedNetwork *trained = palloc(sizeof(TrainedNetwork));
	Size		interactions = run->trained.interaction.count;
	Size		count = interactions + run->trained.entity.count;

	*trained = run->trained;
	trained->context = CurrentMemoryContext;
	trained->interaction.features = palloc(sizeof(Feature) * Max(count, 1));
	memcpy(trained->interaction.features, run->features,
		   sizeof(Feature) * count);
	trained->entity.features = trained->interaction.features + interactions;
	PassValues(trained, values, true);
	TrainedNetworkPack(trained);
	return trained;
}

/* Waits for shares to claim; false where there will be none. */
static bool
AwaitRound(SharedRun *run)
{
	bool		begun;

	ConditionVariablePrepareToSleep(&run->begun);
	for (;;)
	{
		begun = (uint32) pg_atomic_read_u64(&run->claims) > 0;
		if (begun || pg_atomic_read_u32(&run->ended))
			break;
		ConditionVariableSleep(&run->begun, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return begun;
}

/* Where a parallel worker begins: works on shares until there are no more. */
void
limaml_training_worker_main(dsm_segment *segment, shm_toc *toc)
{
	SharedRun  *run = shm_toc_lookup(toc, KEY_SHARED_RUN, false);
	dsa_area   *area = dsa_attach(run->area);
	BatchPlan	plan = run->plan;
	ShareMemory *memory = NULL;
	Batch		batch = {0};
	uint32		seen = 0;

	while (AwaitRound(run))
	{
		uint32		round;
		int			share;

		while ((share = ClaimShare(run, &round)) >= 0)
		{
			if (memory == NULL)
			{
				plan.trained = WorkerNetwork(run,
											 dsa_get_address(area, run->values));
				memory = ShareMemoryCreate(&plan);
			}
			else if (round != seen)
				TrainedNetworkRepack(plan.trained);
			if (round != seen)
			{
				BatchPlace(&plan, run->room, dsa_get_address(area, run->batch),
						   &batch);
				batch.lists.codes = DsaPointerIsValid(run->lists) ?
					dsa_get_address(area, run->lists) : NULL;
			}
			seen = round;
			BatchDoShare(memory, &batch, share);
			ShareDone(run);
		}
	}
	dsa_detach(area);
}
