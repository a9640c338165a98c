/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  A batch of tasks, and what is computed of each of its shares.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "math/maml.h"
#include "miscadmin.h"
#include "query/batch.h"
#include "query/predictor.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

/*
 * Shares of a batch: so many that some processes end at about the same time.
 * Each has a gradient of its own, and of a large network fewer fit.
 */
#define MOST_SHARES 32
#define SHARED_GRADIENT_NUMBERS (16 * 1024 * 1024)

/*
 * Rows of tasks that go through the network one after the other: what one step
 * of that leaves for the next stays in the processor's cache.
 */
#define TILE_ROWS 256

/* Consecutive tasks' rows, in the form that math/ reads. */
typedef struct Tile
{
	int			room;			/* rows that the arrays hold */
	float	   *z;
	float	   *half;
	float	   *half_gradient;
	float	   *offset;
	float	   *label;
	float	   *weight;
} Tile;

struct ShareMemory
{
	MemoryContext context;		/* in which it was created */
	const BatchPlan *plan;
	Tile		tile;
	float	   *x;				/* of one task */
	float	   *candidate;		/* of gradient_candidate */
	float	   *work;			/* of gradient_task or maml_task */
	Size		work_size;
	Predictor	predictor;		/* of BATCH_SCORES */
	bool		predicts;		/* it is set up */
};

int
BatchMostShares(const NetworkShape *shape, int tasks)
{
	Size		fit = SHARED_GRADIENT_NUMBERS / network_parameter_count(shape);

	return (int) Max(Min(Min(MOST_SHARES, fit), (Size) tasks), 1);
}

/* The next so many bytes; NULL where they are only counted. */
static void *
Take(char *memory, Size *used, Size count, Size size)
{
	char	   *taken = memory ? memory + *used : NULL;

	*used = add_size(*used, MAXALIGN(mul_size(count, size)));
	return taken;
}

Size
BatchPlace(const BatchPlan *plan, int rows, char *memory, Batch *batch)
{
	const TrainedNetwork *trained = plan->trained;
	Size		used = 0;

	batch->head = Take(memory, &used, 1, sizeof(BatchHead));
	batch->task = Take(memory, &used, plan->most_tasks, sizeof(BatchTask));
	batch->share = Take(memory, &used, plan->most_shares, sizeof(BatchShare));
	batch->meta = Take(memory, &used,
					   mul_size(plan->most_tasks, trained->entity.count),
					   sizeof(FeatureCode));
	batch->x_gradient = !plan->x_gradient ? NULL :
		Take(memory, &used,
			 mul_size(plan->most_tasks, trained->entity.width), sizeof(float));
	batch->gradient = Take(memory, &used,
						   mul_size(plan->most_shares,
									network_parameter_count(&trained->shape)),
						   sizeof(float));

	batch->row = Take(memory, &used, rows, ExampleRowSize(plan->features));
	batch->z_gradient = !plan->z_gradient ? NULL :
		Take(memory, &used, mul_size(rows, trained->interaction.width),
			 sizeof(float));
	batch->offset_gradient = !plan->z_gradient ? NULL :
		Take(memory, &used, rows, sizeof(float));
	batch->score = Take(memory, &used, rows, sizeof(float));
	batch->prior = Take(memory, &used, rows, sizeof(float));
	return used;
}

void
BatchPart(const BatchPlan *plan, Batch *batch)
{
	BatchHead  *head = batch->head;
	int64		rows = 0;
	int			t = 0;

	head->shares = Min(plan->most_shares, head->tasks);
	for (int s = 0; s < head->shares; s++)
	{
		BatchShare *share = &batch->share[s];
		int64		until = (int64) head->rows * (s + 1) / head->shares;

		/* each has a task, and leaves one for each of those to come */
		memset(share, 0, sizeof(*share));
		share->first = t;
		do
		{
			rows += batch->task[t].support + batch->task[t].query;
			t++;
		} while (t < head->tasks - (head->shares - s - 1) &&
				 (rows < until || s == head->shares - 1));
		share->end = t;
	}
}

/* An array for so many numbers in place of another, whose numbers go. */
static void
Renew(ShareMemory *memory, float **numbers, Size count)
{
	if (*numbers)
		pfree(*numbers);
	*numbers = MemoryContextAllocHuge(memory->context,
									  mul_size(Max(count, 1), sizeof(float)));
}

ShareMemory *
ShareMemoryCreate(const BatchPlan *plan)
{
	ShareMemory *memory = palloc0(sizeof(ShareMemory));

	memory->context = CurrentMemoryContext;
	memory->plan = plan;
	memory->x = palloc0(sizeof(float) * Max(plan->trained->entity.width, 1));
	Renew(memory, &memory->candidate,
		  gradient_candidate_size(&plan->trained->shape));
	return memory;
}

static void
ReserveTile(ShareMemory *memory, int rows)
{
	const TrainedNetwork *trained = memory->plan->trained;
	Tile	   *tile = &memory->tile;
	Size		half = network_half_size(&trained->shape);

	if (rows <= tile->room)
		return;
	tile->room = Max(rows, TILE_ROWS);
	Renew(memory, &tile->z, mul_size(tile->room, trained->interaction.width));
	Renew(memory, &tile->half, mul_size(tile->room, half));
	Renew(memory, &tile->half_gradient, mul_size(tile->room, half));
	Renew(memory, &tile->offset, tile->room);
	Renew(memory, &tile->label, tile->room);
	Renew(memory, &tile->weight, tile->room);
}

static void
ReserveWork(ShareMemory *memory, Size numbers)
{
	if (numbers <= memory->work_size)
		return;
	Renew(memory, &memory->work, numbers);
	memory->work_size = numbers;
}

/* Encodes the rows of tasks first ... end - 1; returns their number. */
static int
EncodeTile(ShareMemory *memory, const Batch *batch, int first, int end)
{
	const BatchPlan *plan = memory->plan;
	const Encoder *encoder = &plan->trained->interaction;
	Tile	   *tile = &memory->tile;
	const BatchTask *last = &batch->task[end - 1];
	int			rows = last->first + last->support + last->query -
		batch->task[first].first;
	Examples	examples = BatchExamples(plan, batch, first);

	ReserveTile(memory, rows);
	for (int i = 0; i < rows; i++)
	{
		const Interaction *row = ExampleRow(&examples, i);

		tile->offset[i] = Encode(encoder, ExampleCodes(&examples, i),
								 examples.lists,
								 tile->z + (Size) i * encoder->width);
		tile->label[i] = row->label;
		tile->weight[i] = row->weight;
	}
	return rows;
}

/* Rows of the tile as gradient.h wants them. */
static Rows
TileRows(const ShareMemory *memory, int first, int n)
{
	const Tile *tile = &memory->tile;
	Size		half = network_half_size(&memory->plan->trained->shape);

	return (Rows)
	{
		.n = n,
		.half = tile->half + first * half,
		.label = tile->label + first,
		.weight = tile->weight + first,
		.offset = tile->offset + first
	};
}

/* The same as maml.h wants them; `at` is the first one's place in the batch. */
static MamlRows
TileMamlRows(const ShareMemory *memory, const Batch *batch, int at, int first,
			 int n)
{
	const Tile *tile = &memory->tile;
	Size		width = memory->plan->trained->interaction.width;
	bool		wanted = memory->plan->z_gradient;

	return (MamlRows)
	{
		.n = n,
		.z = tile->z + first * width,
		.label = tile->label + first,
		.weight = tile->weight + first,
		.offset = tile->offset + first,
		.z_gradient = wanted ? batch->z_gradient + at * width : NULL,
		.offset_gradient = wanted ? batch->offset_gradient + at : NULL
	};
}

/* What becomes of x, of which the task's part begins at zero. */
static float *
TaskXGradient(const BatchPlan *plan, const Batch *batch, int t)
{
	int			width = plan->trained->entity.width;
	float	   *gradient;

	if (!plan->x_gradient)
		return NULL;
	gradient = batch->x_gradient + (Size) t * width;
	memset(gradient, 0, sizeof(float) * width);
	return gradient;
}

/* The gradient of a task whose meta block adapts. */
static TaskLoss
MetaBlockTask(ShareMemory *memory, const OuterLoss *outer, Batch *batch, int t,
			  int first, float *gradient)
{
	const BatchPlan *plan = memory->plan;
	const Network *network = &plan->trained->network;
	const BatchTask *task = &batch->task[t];
	int			query = first + task->support;
	Size		half = network_half_size(&network->shape);
	Tile	   *tile = &memory->tile;
	Task		given = {
		.x = memory->x,
		.support = TileRows(memory, first, task->support),
		.query = TileRows(memory, query, task->query),
		.x_gradient = TaskXGradient(plan, batch, t),
		.support_half_gradient = tile->half_gradient + first * half,
		.query_half_gradient = tile->half_gradient + query * half
	};

	if (plan->z_gradient)
	{
		given.support_offset_gradient = batch->offset_gradient + task->first;
		given.query_offset_gradient = given.support_offset_gradient +
			task->support;
	}
	ReserveWork(memory, gradient_size(&network->shape, task->support,
									  task->query));
	return gradient_task(network, outer, &given, memory->work, gradient);
}

/* The gradient of a task whose network adapts, more of it than that. */
static TaskLoss
NetworkTask(ShareMemory *memory, const OuterLoss *outer, Batch *batch, int t,
			int first, float *gradient)
{
	const BatchPlan *plan = memory->plan;
	const Network *network = &plan->trained->network;
	MamlPart	part = plan->trained->personalization == PERSONALIZATION_HEAD ?
		MAML_HEAD : MAML_FULL;
	const BatchTask *task = &batch->task[t];
	MamlTask	given = {
		.x = memory->x,
		.support = TileMamlRows(memory, batch, task->first, first,
								task->support),
		.query = TileMamlRows(memory, batch, task->first + task->support,
							  first + task->support, task->query),
		.x_gradient = TaskXGradient(plan, batch, t)
	};

	ReserveWork(memory, maml_size(&network->shape, part, task->support,
								  task->query));
	return maml_task(network, part, outer, &given, memory->work, gradient);
}

/* The gradients of tasks first ... end - 1; false where one diverged. */
static bool
TileGradients(ShareMemory *memory, const OuterLoss *outer, Batch *batch,
			  BatchShare *share, int first, int end, float *gradient)
{
	const BatchPlan *plan = memory->plan;
	const TrainedNetwork *trained = plan->trained;
	const Network *network = &trained->network;
	bool		network_adapts = KEEPS_NETWORKS(trained->personalization);
	int			width = trained->interaction.width;
	int			begin = batch->task[first].first;
	int			rows = EncodeTile(memory, batch, first, end);
	Tile	   *tile = &memory->tile;

	if (!network_adapts)
		network_candidate_half(network, rows, tile->z, width, tile->half);
	for (int t = first; t < end; t++)
	{
		const BatchTask *task = &batch->task[t];
		TaskLoss	loss;

		CHECK_FOR_INTERRUPTS();
		Encode(&trained->entity, batch->meta + (Size) t * trained->entity.count,
			   batch->lists.codes, memory->x);
		loss = (network_adapts ? NetworkTask : MetaBlockTask)
			(memory, outer, batch, t, task->first - begin, gradient);
		if (loss.diverged_at)
		{
			share->diverged_at = loss.diverged_at;
			share->diverged = t;
			return false;
		}
		share->loss += loss.query;
	}
	if (!network_adapts)
		gradient_candidate(network, rows, tile->z, tile->half_gradient,
						   memory->candidate, gradient, plan->z_gradient ?
						   batch->z_gradient + (Size) begin * width : NULL);
	return true;
}

static void
ShareGradients(ShareMemory *memory, Batch *batch, BatchShare *share,
			   float *gradient)
{
	const TrainedNetwork *trained = memory->plan->trained;
	const Network *network = &trained->network;
	bool		network_adapts = KEEPS_NETWORKS(trained->personalization);
	OuterLoss	outer = memory->plan->outer;

	outer.scale = 1 / batch->head->weight;
	memset(gradient, 0,
		   sizeof(float) * network_parameter_count(&trained->shape));
	if (!network_adapts)
		gradient_candidate_begin(network, memory->candidate);
	for (int first = share->first, end = first; first < share->end; first = end)
	{
		int			rows = 0;

		for (; end < share->end && rows < TILE_ROWS; end++)
			rows += batch->task[end].support + batch->task[end].query;
		if (!TileGradients(memory, &outer, batch, share, first, end, gradient))
			break;
	}
	if (!network_adapts)
		gradient_candidate_end(network, memory->candidate, gradient);
}

static void
ShareScores(ShareMemory *memory, Batch *batch, BatchShare *share)
{
	const BatchPlan *plan = memory->plan;
	Predictor  *predictor = &memory->predictor;

	if (!memory->predicts)
	{
		MemoryContext old = MemoryContextSwitchTo(memory->context);

		PredictorInit(predictor, plan->trained);
		memory->predicts = true;
		MemoryContextSwitchTo(old);
	}
	for (int t = share->first; t < share->end; t++)
	{
		const BatchTask *task = &batch->task[t];
		Examples	examples = BatchExamples(plan, batch, t);
		int			query = task->first + task->support;

		CHECK_FOR_INTERRUPTS();
		PredictorEntity(predictor, &examples);
		share->diverged_at = PredictorAdapt(predictor, &examples,
											task->support);
		if (share->diverged_at)
		{
			share->diverged = t;
			break;
		}
		PredictorScore(predictor, &examples, task->support, task->query,
					   batch->score + query, batch->prior + query);
	}
}

void
BatchDoShare(ShareMemory *memory, Batch *batch, int share)
{
	Size		parameters =
		network_parameter_count(&memory->plan->trained->shape);

	if (batch->head->work == BATCH_SCORES)
		ShareScores(memory, batch, &batch->share[share]);
	else
		ShareGradients(memory, batch, &batch->share[share],
					   batch->gradient + share * parameters);
}
