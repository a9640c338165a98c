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

/* Candidates that are drawn for a positive row, and the first ranks of them. */
#define RANKED_AMONG 100
#define RANKED_FIRST 10

/* Hit rate and NDCG among candidates that were drawn, and among all. */
#define RANK_METRICS 4

/* Candidates of all that are scored at a time. */
#define SCANNED_ROWS 1024

/* Scores that ranking among all items may take: some half a minute. */
#define MOST_SCANNED (16 * 1024 * 1024)

/* How a positive row ranks: adapted, and unadapted; NaN where it is not known. */
typedef struct RankOfRow
{
	double		metric[2][RANK_METRICS];
	int			entity;			/* of the segment, from 0 */
} RankOfRow;

typedef struct Segment
{
	const char *label;
	TestedRow  *rows;
	Size		count;
	Size		room;
	int64		interactions;	/* rows that are no negatives */
	RankOfRow  *ranks;
	Size		rank_count;
	Size		rank_room;
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

	Negatives  *negatives;		/* or NULL: nothing is ranked */
	int			rank_every;		/* entity among all items; 0: none */

	/* rows at work */
	int			room_of_rows;
	char	   *candidates;
	CodeLists	lists;			/* of their codes */
	float	   *scores;			/* twice as many */
};

typedef enum Metric
{
	METRIC_AUC,
	METRIC_GAUC,
	METRIC_MEAN_AUC,
	METRIC_LOG_LOSS,
	METRIC_CALIBRATION_ERROR,
	METRIC_RMSE,
	METRIC_MAE,
	METRIC_RANK					/* the first of RANK_METRICS */
} Metric;

#define METRICS (METRIC_RANK + RANK_METRICS)

static const char *const metric_names[METRICS] = {
	"auc", "gauc", "mean_auc", "log_loss", "calibration_error", "rmse", "mae",
	"hit_rate@10", "ndcg@10", "hit_rate@10 (all)", "ndcg@10 (all)"
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

int
AssessmentRank(Assessment *assessment, Negatives *negatives, int64 scans)
{
	if (negatives == NULL || assessment->loss != LOSS_BINARY)
		return 1;
	assessment->negatives = negatives;
	assessment->lists.context = assessment->context;
	if (scans > 0)
		assessment->rank_every = (int) Min((double) scans * negatives->items->count /
										   MOST_SCANNED + 1, PG_INT32_MAX);
	return assessment->rank_every;
}

static void
AddRow(Assessment *assessment, int s, int entity, float adapted, float prior,
	   const Interaction *row)
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
	if (!row->sampled)
		segment->interactions++;
	segment->rows[segment->count++] = (TestedRow)
	{
		{adapted, prior}, row->label, segment->entities - 1
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

/* Room for so many candidates, of a row's size, and their scores. */
static void
Reserve(Assessment *assessment, int rows, Size row_size)
{
	MemoryContext old;

	if (rows <= assessment->room_of_rows)
		return;
	old = MemoryContextSwitchTo(assessment->context);
	if (assessment->scores)
	{
		pfree(assessment->scores);
		pfree(assessment->candidates);
	}
	assessment->scores = palloc_extended(mul_size(rows, 2 * sizeof(float)),
										 MCXT_ALLOC_HUGE);
	assessment->candidates = palloc_extended(mul_size(rows, row_size),
											 MCXT_ALLOC_HUGE);
	assessment->room_of_rows = rows;
	MemoryContextSwitchTo(old);
}

/* How a scorer is asked, and what it says of the candidates that there are. */
typedef struct Scoring
{
	RowScorer	score;
	void	   *scorer;
	bool		adapted;
} Scoring;

static void
ScoreRows(const Scoring *scoring, const Examples *rows, int n, float *adapted,
		  float *prior)
{
	scoring->score(scoring->scorer, rows, 0, n, adapted, prior);
	if (!scoring->adapted)
		memcpy(adapted, prior, sizeof(float) * n);
}

/* How many candidates score above a positive row, and how many as it does. */
typedef struct Place
{
	int64		higher;
	int64		equal;
} Place;

static void
CountScores(Place *place, float score, int n, const float *candidates)
{
	for (int i = 0; i < n; i++)
	{
		place->higher += candidates[i] > score;
		place->equal += candidates[i] == score;
	}
}

/* Makes candidate `at` a row, with the features of an item if there is one. */
static void
AddCandidate(Assessment *assessment, const Examples *examples, int row,
			 int32 item, int at)
{
	const Items *items = assessment->negatives->items;
	char	   *candidate = assessment->candidates + at * examples->row_size;
	FeatureCode *codes = (FeatureCode *) (candidate + sizeof(Interaction));

	if (at == 0)
		assessment->lists.used = 0;
	memcpy(candidate, ExampleRow(examples, row), examples->row_size);
	MoveCodes(items->encoder, codes, examples->lists, &assessment->lists);
	if (item != NO_ITEM)
		ItemCodes(items, item, codes, &assessment->lists);
}

/* Those that were added, of which it is the rows that count. */
static Examples
Candidates(const Assessment *assessment, const Examples *examples)
{
	Examples	candidates = *examples;

	candidates.row = assessment->candidates;
	candidates.meta = NULL;
	candidates.lists = assessment->lists.codes;
	return candidates;
}

/*
 * Ranks row i among candidates that are drawn.  Leaves the row's own scores in
 * `own`: adapted, and of the prior.
 */
static void
RankAmongDrawn(Assessment *assessment, const Scoring *scoring,
			   const Examples *examples, int i, const Bitmapset *taken,
			   Place *place, float *own)
{
	const Negatives *negatives = assessment->negatives;
	Bitmapset  *drawn = bms_copy(taken);
	float	   *adapted = assessment->scores;
	float	   *prior = adapted + 1 + RANKED_AMONG;
	Examples	candidates;
	int			n = 0;
	Random		random;

	NegativesSeed(&random, negatives->seed, examples->parts.hash,
				  NEGATIVES_RANK, i);
	AddCandidate(assessment, examples, i, NO_ITEM, 0);
	while (n < RANKED_AMONG)
	{
		int32		item = DrawItem(negatives->items, drawn, true, &random);

		if (item == NO_ITEM)
			break;
		drawn = bms_add_member(drawn, item);
		AddCandidate(assessment, examples, i, item, ++n);
	}
	bms_free(drawn);
	candidates = Candidates(assessment, examples);
	ScoreRows(scoring, &candidates, 1 + n, adapted, prior);
	own[0] = adapted[0];
	own[1] = prior[0];
	CountScores(&place[0], own[0], n, adapted + 1);
	CountScores(&place[1], own[1], n, prior + 1);
}

/*
 * Ranks rows among all items that are not taken, all with the other features of
 * row `like`.
 */
static void
RankAmongAll(Assessment *assessment, const Scoring *scoring,
			 const Examples *examples, int like, const Bitmapset *taken,
			 int rows, Place (*place)[2], float (*own)[2])
{
	const Items *items = assessment->negatives->items;
	float	   *adapted = assessment->scores;
	float	   *prior = adapted + SCANNED_ROWS;

	for (int32 item = 0; item < items->count;)
	{
		Examples	candidates;
		int			n = 0;

		CHECK_FOR_INTERRUPTS();
		for (; item < items->count && n < SCANNED_ROWS; item++)
			if (!bms_is_member(item, taken))
				AddCandidate(assessment, examples, like, item, n++);
		candidates = Candidates(assessment, examples);
		ScoreRows(scoring, &candidates, n, adapted, prior);
		for (int r = 0; r < rows; r++)
		{
			CountScores(&place[r][0], own[r][0], n, adapted);
			CountScores(&place[r][1], own[r][1], n, prior);
		}
	}
}

static void
AddRank(Assessment *assessment, int s, const RankOfRow *rank)
{
	Segment    *segment = &assessment->segments[s];

	if (segment->rank_count == segment->rank_room)
	{
		segment->rank_room = Max(2 * segment->rank_room, 64);
		segment->ranks = segment->ranks ?
			repalloc_huge(segment->ranks, mul_size(segment->rank_room,
												   sizeof(RankOfRow))) :
			MemoryContextAlloc(assessment->context,
							   segment->rank_room * sizeof(RankOfRow));
	}
	segment->ranks[segment->rank_count] = *rank;
	segment->ranks[segment->rank_count++].entity = segment->entities - 1;
}

/* Ranks the positive ones of an entity's tested rows. */
static void
RankRows(Assessment *assessment, const TestedRows *tested,
		 const Scoring *scoring)
{
	const Examples *examples = tested->examples;
	bool		scan = assessment->rank_every > 0 &&
		tested->entity % assessment->rank_every == 0;
	bool		together = scan && assessment->negatives->items->complete;
	Bitmapset  *taken = TakenItems(examples, examples->parts.rows);
	int		   *row = palloc(sizeof(int) * Max(tested->n, 1));
	Place		(*drawn)[2] = palloc0(sizeof(*drawn) * Max(tested->n, 1));
	Place		(*all)[2] = palloc0(sizeof(*all) * Max(tested->n, 1));
	float		(*own)[2] = palloc(sizeof(*own) * Max(tested->n, 1));
	int			rows = 0;

	Reserve(assessment, Max(1 + RANKED_AMONG, SCANNED_ROWS),
			examples->row_size);
	for (int i = tested->first; i < tested->first + tested->n; i++)
	{
		if (!(ExampleRow(examples, i)->label > 0.5f))
			continue;
		CHECK_FOR_INTERRUPTS();
		RankAmongDrawn(assessment, scoring, examples, i, taken, drawn[rows],
					   own[rows]);
		if (scan && !together)
			RankAmongAll(assessment, scoring, examples, i, taken, 1,
						 &all[rows], &own[rows]);
		row[rows++] = i;
	}
	if (together && rows > 0)
		RankAmongAll(assessment, scoring, examples, row[0], taken, rows, all,
					 own);
	for (int r = 0; r < rows; r++)
	{
		RankOfRow	rank;

		for (int w = 0; w < 2; w++)
		{
			rank_metrics(drawn[r][w].higher, drawn[r][w].equal, RANKED_FIRST,
						 &rank.metric[w][0], &rank.metric[w][1]);
			rank.metric[w][2] = rank.metric[w][3] = get_float8_nan();
			if (scan)
				rank_metrics(all[r][w].higher, all[r][w].equal, RANKED_FIRST,
							 &rank.metric[w][2], &rank.metric[w][3]);
		}
		if (tested->all)
			AddRank(assessment, SEGMENT_ALL, &rank);
		AddRank(assessment, tested->segment_of ?
				tested->segment_of[row[r] - tested->first] : tested->segment,
				&rank);
	}
	bms_free(taken);
	pfree(row);
	pfree(drawn);
	pfree(all);
	pfree(own);
}

void
AssessRows(Assessment *assessment, const TestedRows *tested, RowScorer score,
		   void *scorer, bool adapted)
{
	const Examples *examples = tested->examples;
	Scoring		scoring = {score, scorer, adapted};
	Examples	rows = WithNegatives(assessment->negatives, examples,
									 tested->first, tested->n,
									 examples->parts.rows, NEGATIVES_JUDGE);
	int			n = rows.parts.rows;
	int			i = -1;			/* the row, without negatives */

	Reserve(assessment, n, examples->row_size);
	ScoreRows(&scoring, &rows, n, assessment->scores, assessment->scores + n);
	for (int r = 0; r < n; r++)
	{
		const Interaction *row = ExampleRow(&rows, r);
		float		a = assessment->scores[r];
		float		prior = assessment->scores[n + r];

		if (!row->sampled)
			i++;
		if (tested->all)
			AddRow(assessment, SEGMENT_ALL, tested->entity, a, prior, row);
		AddRow(assessment, tested->segment_of ? tested->segment_of[i] :
			   tested->segment, tested->entity, a, prior, row);
	}
	if (assessment->negatives)
		RankRows(assessment, tested, &scoring);
}

static void
PredictRows(void *scorer, const Examples *rows, int first, int n,
			float *adapted, float *prior)
{
	PredictorScore(scorer, rows, first, n, adapted, prior);
}

bool
AssessAfter(Assessment *assessment, const TestedRows *tested,
			Predictor *predictor, int support)
{
	Examples	rows;
	bool		adapted;
	int			first = ExampleNewestRows(tested->examples, support,
										  predictor->trained->support_rows);

	rows = WithNegatives(assessment->negatives, tested->examples, first,
						 support - first, support, NEGATIVES_ADAPT);
	adapted = PredictorAdapt(predictor, &rows, rows.parts.rows) == 0;
	AssessRows(assessment, tested, PredictRows, predictor, adapted);
	return adapted;
}

bool
AssessEntity(Assessment *assessment, Predictor *predictor, int entity,
			 const Examples *examples, const int *segment_of)
{
	int			first = examples->parts.training;
	int			support = ExampleOlderRows(examples, first);
	TestedRows	tested = {
		.entity = entity,
		.examples = examples,
		.first = first,
		.n = examples->parts.rows - first,
		.all = true,
		.segment_of = segment_of,
		.segment = segment_of ? -1 :
		AssessmentSupportSegment(assessment, support)
	};

	PredictorEntity(predictor, examples);
	return AssessAfter(assessment, &tested, predictor, support);
}

/* What an entity's rows come to, by one of the scores. */
typedef struct EntitySums
{
	int64		rows;
	double		auc;			/* NaN where a class is missing */
	double		loss;			/* sum of log losses or squared errors */
	double		absolute;		/* sum of absolute errors */
	int64		ranked[RANK_METRICS];	/* rows that are, and */
	double		rank[RANK_METRICS]; /* the sum of their metrics */
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
	for (Size i = 0; i < segment->rank_count; i++)
	{
		const RankOfRow *row = &segment->ranks[i];
		EntitySums *sums = &ranking->sums[row->entity];

		for (int m = 0; m < RANK_METRICS; m++)
		{
			if (isnan(row->metric[which][m]))
				continue;
			sums->ranked[m]++;
			sums->rank[m] += row->metric[which][m];
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
	double		ranked[RANK_METRICS] = {0};
	double		rank[RANK_METRICS] = {0};

	for (int e = 0; e < ranking->entities; e++)
	{
		const EntitySums *sums = &ranking->sums[e];
		int			count = times ? times[e] : 1;

		if (count == 0)
			continue;
		rows += count * sums->rows;
		loss += count * sums->loss;
		absolute += count * sums->absolute;
		for (int m = 0; m < RANK_METRICS; m++)
		{
			ranked[m] += (double) count * sums->ranked[m];
			rank[m] += count * sums->rank[m];
		}
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

	/* NaN where none is ranked */
	for (int m = 0; m < RANK_METRICS; m++)
		metric[METRIC_RANK + m] = rank[m] / ranked[m];
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
	int			ranks = !assessment->negatives ? 0 :
		assessment->rank_every > 0 ? RANK_METRICS : RANK_METRICS / 2;
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
			for (int m = first; m < METRIC_RANK + ranks; m++)
			{
				if (m > last && m < METRIC_RANK)
					continue;
				figures[(*count)++] = (Figure)
				{
					.segment = segment->label,
					.entities = segment->entities,
					.interactions = segment->interactions,
					.metric = metric_names[m],
					.value = value[m],
					.unadapted = unadapted[m],
					.standard_error = standard_error[m]
				};
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(work);
	}
	MemoryContextDelete(work);
	return figures;
}
