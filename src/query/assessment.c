/*-------------------------------------------------------------------------
 *
 * assessment.c
 *	  Metrics of tested rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "math/metrics.h"
#include "math/random.h"
#include "miscadmin.h"
#include "query/assessment.h"
#include "storage/shmem.h"
#include "utils/float.h"
#include "utils/memutils.h"

/* Stream of random numbers of the resamples. */
#define STREAM_BOOTSTRAP UINT64_C(0xfffffffd00000000)

typedef struct TestedRow
{
	float		score[2];		/* adapted, prior */
	float		label;
	int			entity;			/* of the segment, from 0 */
} TestedRow;

typedef struct Segment
{
	const char *label;
	TestedRow  *rows;
	Size		count;
	Size		room;
	int			entities;
	int			last_entity;	/* of the assessment */
} Segment;

struct Assessment
{
	MemoryContext context;
	Loss		loss;
	int			count;
	int			room;
	Segment    *segments;
	int			labelled;		/* the first segment but "all" */
};

typedef enum Metric
{
	METRIC_AUC,
	METRIC_GAUC,
	METRIC_MEAN_AUC,
	METRIC_LOG_LOSS,
	METRIC_CALIBRATION_ERROR,
	METRIC_RMSE,
	METRIC_MAE
} Metric;

#define METRICS (METRIC_MAE + 1)

static const char *const metric_names[METRICS] = {
	"auc", "gauc", "mean_auc", "log_loss", "calibration_error", "rmse", "mae"
};

Assessment *
AssessmentCreate(Loss loss)
{
	Assessment *assessment = palloc0(sizeof(Assessment));

	assessment->context = CurrentMemoryContext;
	assessment->loss = loss;
	assessment->room = 16;
	assessment->segments = palloc(sizeof(Segment) * assessment->room);
	return assessment;
}

static int
AddSegment(Assessment *assessment, const char *label)
{
	Segment    *segment;

	if (assessment->count == assessment->room)
	{
		assessment->room *= 2;
		assessment->segments = repalloc_huge(assessment->segments,
											 sizeof(Segment) * assessment->room);
	}
	segment = &assessment->segments[assessment->count];
	memset(segment, 0, sizeof(*segment));
	segment->label = label ? MemoryContextStrdup(assessment->context, label) :
		NULL;
	segment->last_entity = -1;
	return assessment->count++;
}

void
AssessmentAdd(Assessment *assessment, int s, int entity, float adapted,
			  float prior, float label)
{
	Segment    *segment = &assessment->segments[s];

	if (segment->count == segment->room)
	{
		segment->room = Max(2 * segment->room, 64);
		segment->rows = segment->rows ?
			repalloc_huge(segment->rows, mul_size(segment->room,
												  sizeof(TestedRow))) :
			MemoryContextAlloc(assessment->context,
							   segment->room * sizeof(TestedRow));
	}
	if (entity != segment->last_entity)
	{
		segment->last_entity = entity;
		segment->entities++;
	}
	segment->rows[segment->count++] = (TestedRow)
	{
		{adapted, prior}, label, segment->entities - 1
	};
}

void
AssessmentAddAll(Assessment *assessment)
{
	Assert(assessment->count == SEGMENT_ALL);
	AddSegment(assessment, "all");
	assessment->labelled = 1;
}

/* NULL comes last. */
static int
CompareLabels(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return (a == NULL) - (b == NULL);
	return strcmp(a, b);
}

int
AssessmentSegment(Assessment *assessment, const char *label)
{
	for (int s = assessment->labelled; s < assessment->count; s++)
		if (CompareLabels(assessment->segments[s].label, label) == 0)
			return s;
	return AddSegment(assessment, label);
}

static int
CompareSegments(const void *a, const void *b)
{
	return CompareLabels(((const Segment *) a)->label,
						 ((const Segment *) b)->label);
}

void
AssessmentSortSegments(Assessment *assessment)
{
	qsort(assessment->segments + assessment->labelled,
		  assessment->count - assessment->labelled, sizeof(Segment),
		  CompareSegments);
}

/* Entities by the least number of their support rows. */
static const struct
{
	int			least;
	const char *label;
}			support_segments[] = {
	{0, "0"}, {1, "1-4"}, {5, "5-19"}, {20, "20-99"}, {100, "100+"}
};

int
AssessmentSupportSegment(Assessment *assessment, int rows)
{
	int			s = lengthof(support_segments) - 1;

	while (rows < support_segments[s].least)
		s--;
	return AssessmentSegment(assessment, support_segments[s].label);
}

void
AssessmentAddSupportSegments(Assessment *assessment)
{
	for (int s = 0; s < (int) lengthof(support_segments); s++)
		AssessmentSegment(assessment, support_segments[s].label);
}

float *
AssessmentScores(const ExampleStore *store)
{
	int			most = 1;

	for (int e = 0; e < ExampleStoreEntities(store); e++)
		most = Max(most, ExampleStoreParts(store, e).rows);
	return palloc_extended(mul_size(most, 2 * sizeof(float)),
						   MCXT_ALLOC_HUGE);
}

bool
AssessEntity(Assessment *assessment, Predictor *predictor, int entity,
			 const Examples *examples, const int *segment_of, float *scores)
{
	int			first = examples->parts.training;
	int			n = examples->parts.rows - first;
	int			support = ExampleOlderRows(examples, first);
	int			segment = segment_of ? -1 :
		AssessmentSupportSegment(assessment, support);
	const float *prior = scores + n;
	const float *adapted = scores;
	bool		is_adapted;

	PredictorEntity(predictor, examples);
	is_adapted = PredictorAdapt(predictor, examples, support) == 0;
	PredictorScore(predictor, examples, first, n, scores, scores + n);
	if (!is_adapted)
		adapted = prior;
	for (int i = 0; i < n; i++)
	{
		float		label = ExampleRow(examples, first + i)->label;

		AssessmentAdd(assessment, SEGMENT_ALL, entity, adapted[i], prior[i],
					  label);
		AssessmentAdd(assessment, segment_of ? segment_of[i] : segment,
					  entity, adapted[i], prior[i], label);
	}
	return is_adapted;
}

/* What an entity's rows come to, by one of the scores. */
typedef struct EntitySums
{
	int64		rows;
	double		auc;			/* NaN where a class is missing */
	double		loss;			/* sum of log losses or squared errors */
	double		absolute;		/* sum of absolute errors */
} EntitySums;

/* A row where rows are in the order of their scores. */
typedef struct RankedRow
{
	float		score;
	bool		positive;
	int			entity;
} RankedRow;

/* A segment's rows by one of the scores, ready to be measured many times. */
typedef struct Ranking
{
	Loss		loss;
	Size		count;
	RankedRow  *rows;			/* of binary labels, lowest first */
	int			entities;
	EntitySums *sums;
} Ranking;

static int
CompareRanked(const void *a, const void *b)
{
	float		x = ((const RankedRow *) a)->score;
	float		y = ((const RankedRow *) b)->score;

	return (x > y) - (x < y);
}

static void
RankSegment(const Segment *segment, Loss loss, int which, Ranking *ranking)
{
	Scored	   *entity_rows = palloc_extended(mul_size(segment->count,
													   sizeof(Scored)),
											  MCXT_ALLOC_HUGE);

	ranking->loss = loss;
	ranking->count = segment->count;
	ranking->rows = palloc_extended(mul_size(segment->count,
											 sizeof(RankedRow)),
									MCXT_ALLOC_HUGE);
	ranking->entities = segment->entities;
	ranking->sums = palloc_extended(mul_size(segment->entities,
											 sizeof(EntitySums)),
									MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (Size first = 0, i = 0; i < segment->count; i++)
	{
		const TestedRow *row = &segment->rows[i];
		EntitySums *sums = &ranking->sums[row->entity];
		float		score = row->score[which];

		ranking->rows[i] = (RankedRow)
		{
			score, row->label > 0.5f, row->entity
		};
		entity_rows[i - first] = (Scored) {score, row->label};
		sums->rows++;
		if (loss == LOSS_BINARY)
			sums->loss += loss_value(loss, score, row->label);
		else
		{
			double		error = (double) score - row->label;

			sums->loss += error * error;
			sums->absolute += fabs(error);
		}
		if (i + 1 == segment->count ||
			segment->rows[i + 1].entity != row->entity)
		{
			sums->auc = metric_auc(i + 1 - first, entity_rows);
			first = i + 1;
		}
	}
	if (loss == LOSS_BINARY)
		qsort(ranking->rows, ranking->count, sizeof(RankedRow), CompareRanked);
	pfree(entity_rows);
}

/* Metrics that take all rows in order, each as often as its entity counts. */
static void
MeasureOrder(const Ranking *ranking, const int *times, int64 rows,
			 double *metric)
{
	PairSum		pairs = {0};
	CalibrationSum calibration = {.rows = rows};

	for (Size i = 0; i < ranking->count;)
	{
		float		score = ranking->rows[i].score;
		int64		positives = 0;
		int64		negatives = 0;

		do
		{
			const RankedRow *row = &ranking->rows[i];
			int			count = times ? times[row->entity] : 1;

			if (row->positive)
				positives += count;
			else
				negatives += count;
		} while (++i < ranking->count && ranking->rows[i].score == score);
		pair_sum_add(&pairs, positives, negatives);
		calibration_sum_add(&calibration, 1 / (1 + exp(-(double) score)),
							positives + negatives, positives);
	}
	metric[METRIC_AUC] = pair_sum_auc(&pairs);
	metric[METRIC_CALIBRATION_ERROR] = calibration_sum_error(&calibration);
}

/* Measures, counting each entity so many times; NULL is once. */
static void
Measure(const Ranking *ranking, const int *times, double *metric)
{
	int64		rows = 0;
	double		loss = 0;
	double		absolute = 0;
	double		groups = 0;
	double		group_rows = 0;
	double		auc = 0;
	double		auc_rows = 0;

	for (int e = 0; e < ranking->entities; e++)
	{
		const EntitySums *sums = &ranking->sums[e];
		int			count = times ? times[e] : 1;

		if (count == 0)
			continue;
		rows += count * sums->rows;
		loss += count * sums->loss;
		absolute += count * sums->absolute;
		if (isnan(sums->auc))
			continue;
		groups += count;
		group_rows += (double) count * sums->rows;
		auc += count * sums->auc;
		auc_rows += count * sums->rows * sums->auc;
	}
	if (ranking->loss == LOSS_BINARY)
	{
		metric[METRIC_GAUC] = auc_rows / group_rows;
		metric[METRIC_MEAN_AUC] = auc / groups;
		metric[METRIC_LOG_LOSS] = loss / rows;
		MeasureOrder(ranking, times, rows, metric);
	}
	else
	{
		metric[METRIC_RMSE] = sqrt(loss / rows);
		metric[METRIC_MAE] = absolute / rows;
	}
}

/* Deviations of the metrics over resamples of the entities. */
static void
Bootstrap(const Ranking *ranking, int resamples, double *standard_error)
{
	int		   *times = palloc_extended(mul_size(ranking->entities,
												 sizeof(int)),
										MCXT_ALLOC_HUGE);
	double		sum[METRICS] = {0};
	double		squares[METRICS] = {0};
	int			defined[METRICS] = {0};
	double		metric[METRICS];

	for (int r = 0; r < resamples; r++)
	{
		Random		random;

		CHECK_FOR_INTERRUPTS();
		random_seed_stream(&random, 0, STREAM_BOOTSTRAP | r);
		memset(times, 0, sizeof(int) * ranking->entities);
		for (int e = 0; e < ranking->entities; e++)
			times[random_below(&random, ranking->entities)]++;
		for (int m = 0; m < METRICS; m++)
			metric[m] = get_float8_nan();
		Measure(ranking, times, metric);
		for (int m = 0; m < METRICS; m++)
		{
			double		before;

			if (isnan(metric[m]))
				continue;

			/* Welford's update of the mean and the squared distances from it */
			defined[m]++;
			before = metric[m] - sum[m];
			sum[m] += before / defined[m];
			squares[m] += before * (metric[m] - sum[m]);
		}
	}
	for (int m = 0; m < METRICS; m++)
		standard_error[m] = defined[m] > 1 && ranking->entities > 1 ?
			sqrt(squares[m] / (defined[m] - 1)) : get_float8_nan();
	pfree(times);
}

Figure *
AssessmentFigures(Assessment *assessment, int resamples, int *count)
{
	bool		binary = assessment->loss == LOSS_BINARY;
	int			first = binary ? METRIC_AUC : METRIC_RMSE;
	int			last = binary ? METRIC_CALIBRATION_ERROR : METRIC_MAE;
	Figure	   *figures = palloc_extended(mul_size(Max(assessment->count, 1),
												   METRICS * sizeof(Figure)),
										  MCXT_ALLOC_HUGE);
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext,
											   "limaml metrics",
											   ALLOCSET_DEFAULT_SIZES);

	*count = 0;
	for (int s = 0; s < assessment->count; s++)
	{
		const Segment *segment = &assessment->segments[s];
		MemoryContext old = MemoryContextSwitchTo(work);
		Ranking		adapted;
		Ranking		prior;
		double		value[METRICS];
		double		unadapted[METRICS];
		double		standard_error[METRICS];

		if (segment->count > 0)
		{
			RankSegment(segment, assessment->loss, 0, &adapted);
			Measure(&adapted, NULL, value);
			Bootstrap(&adapted, resamples, standard_error);
			RankSegment(segment, assessment->loss, 1, &prior);
			Measure(&prior, NULL, unadapted);
			for (int m = first; m <= last; m++)
				figures[(*count)++] = (Figure)
				{
					.segment = segment->label,
					.entities = segment->entities,
					.interactions = segment->count,
					.metric = metric_names[m],
					.value = value[m],
					.unadapted = unadapted[m],
					.standard_error = standard_error[m]
				};
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(work);
	}
	MemoryContextDelete(work);
	return figures;
}
