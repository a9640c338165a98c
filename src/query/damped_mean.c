/*-------------------------------------------------------------------------
 *
 * damped_mean.c
 *	  The trivial baseline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "query/damped_mean.h"
#include "storage/shmem.h"

/* A sum of means is no probability at its ends. */
#define LEAST_PROBABILITY 0.02

/* The dampings to choose from, for items and for entities. */
static const double dampings[] = {1, 2, 5, 10, 20, 50};

/* The usual one, where nothing validates. */
#define DEFAULT_DAMPING 5

static int
ItemFeature(const TrainingRows *rows)
{
	int			item = -1;
	int			most = 0;

	for (int f = 0; f < rows->source.features; f++)
	{
		const Feature *feature = &rows->interaction.features[f];

		if (feature->kind == FEATURE_CATEGORY &&
			feature->vocabulary.count > most)
		{
			item = f;
			most = feature->vocabulary.count;
		}
	}
	return item;
}

/* The row of the item's vocabulary, or -1 for an item that is not in it. */
static int
ItemRow(const DampedMean *mean, const TrainingRows *rows,
	   const Examples *examples, int i)
{
	int32		row;

	if (mean->item < 0)
		return -1;
	row = ExampleCodes(examples, i)[mean->item].row;
	return row <= rows->interaction.features[mean->item].vocabulary.count ?
		row : -1;
}

/* An entity's rows that train, with their negatives. */
static Examples
TrainingOf(TrainingRows *rows, const Examples *examples)
{
	int			training = examples->parts.training;

	return WithNegatives(rows->negatives, examples, 0, training, training,
						 NEGATIVES_ADAPT);
}

/* Mean and items' deviations over the rows that train. */
static void
Fit(DampedMean *mean, TrainingRows *rows)
{
	int			entities = ExampleStoreEntities(rows->store);
	int			items = mean->item < 0 ? 0 :
		1 + rows->interaction.features[mean->item].vocabulary.count;
	double	   *weights = palloc_extended(mul_size(Max(items, 1), sizeof(double)),
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	double	   *sums = palloc_extended(mul_size(Max(items, 1), sizeof(double)),
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	double		weight = 0;
	double		sum = 0;

	for (int e = 0; e < entities; e++)
	{
		Examples	examples = ExampleStoreRead(rows->store, e);
		Examples	training = TrainingOf(rows, &examples);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < training.parts.rows; i++)
		{
			const Interaction *row = ExampleRow(&training, i);
			int			item = ItemRow(mean, rows, &training, i);

			weight += row->weight;
			sum += (double) row->weight * row->label;
			if (item < 0)
				continue;
			weights[item] += row->weight;
			sums[item] += (double) row->weight * row->label;
		}
	}
	mean->mean = weight > 0 ? sum / weight : 0;
	for (int i = 0; i < items; i++)
		sums[i] = (sums[i] - weights[i] * mean->mean) /
			(weights[i] + mean->item_damping);
	mean->deviation = sums;
	pfree(weights);
}

/* What is expected of a row without knowing whose it is. */
static double
ItemMean(const DampedMean *mean, const TrainingRows *rows,
		 const Examples *examples, int i)
{
	int			item = ItemRow(mean, rows, examples, i);

	return mean->mean + (item < 0 ? 0 : mean->deviation[item]);
}

/* An entity's deviation over its rows that train. */
static double
EntityDeviation(const DampedMean *mean, TrainingRows *rows,
				const Examples *examples)
{
	Examples	training = TrainingOf(rows, examples);
	double		weight = 0;
	double		sum = 0;

	for (int i = 0; i < training.parts.rows; i++)
	{
		const Interaction *row = ExampleRow(&training, i);

		weight += row->weight;
		sum += row->weight * (row->label - ItemMean(mean, rows, &training, i));
	}
	return sum / (weight + mean->entity_damping);
}

/* A mean as a network's score: for binary labels its logit. */
static float
Score(const TrainingRows *rows, double mean)
{
	double		p = Min(Max(mean, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY);

	return rows->options->loss == LOSS_BINARY ? log(p / (1 - p)) : mean;
}

/* The loss on the rows that validate. */
static double
ValidationLoss(const DampedMean *mean, TrainingRows *rows)
{
	double		weight = 0;
	double		loss = 0;

	for (int e = 0; e < ExampleStoreEntities(rows->store); e++)
	{
		Examples	examples = ExampleStoreRead(rows->store, e);
		double		deviation = EntityDeviation(mean, rows, &examples);
		ExampleParts parts = examples.parts;
		Examples	judges = WithNegatives(rows->negatives, &examples,
										   parts.training,
										   parts.learnable - parts.training,
										   parts.learnable, NEGATIVES_JUDGE);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < judges.parts.rows; i++)
		{
			const Interaction *row = ExampleRow(&judges, i);

			weight += row->weight;
			loss += row->weight *
				loss_value(rows->options->loss,
						   Score(rows, ItemMean(mean, rows, &judges, i) +
								 deviation), row->label);
		}
	}
	return loss / weight;
}

void
DampedMeanFit(DampedMean *mean, TrainingRows *first, TrainingRows *all)
{
	DampedMean	best = {.item_damping = DEFAULT_DAMPING,.entity_damping = DEFAULT_DAMPING};
	double		least = INFINITY;

	for (int i = 0; i < (int) lengthof(dampings); i++)
	{
		DampedMean	trial = {
			.item = ItemFeature(first),
			.item_damping = dampings[i]
		};

		if (first->validation_rows == 0)
			break;
		Fit(&trial, first);
		for (int j = 0; j < (int) lengthof(dampings); j++)
		{
			double		loss;

			trial.entity_damping = dampings[j];
			loss = ValidationLoss(&trial, first);
			if (loss < least)
			{
				least = loss;
				best = trial;
			}
		}
	}
	*mean = best;
	mean->item = ItemFeature(all);
	Fit(mean, all);
}

/* A mean and an entity's deviation, whose rows it scores. */
typedef struct Scorer
{
	const DampedMean *mean;
	const TrainingRows *rows;
	double		deviation;
} Scorer;

static void
ScoreByMeans(void *argument, const Examples *examples, int first, int n,
			 float *adapted, float *prior)
{
	const Scorer *scorer = argument;

	for (int i = 0; i < n; i++)
	{
		double		item = ItemMean(scorer->mean, scorer->rows, examples,
									first + i);

		adapted[i] = Score(scorer->rows, item + scorer->deviation);
		prior[i] = Score(scorer->rows, item);
	}
}

void
DampedMeanAssess(const DampedMean *mean, TrainingRows *rows,
				 Assessment *assessment)
{
	for (int e = 0; e < ExampleStoreEntities(rows->store); e++)
	{
		Examples	examples = ExampleStoreRead(rows->store, e);
		int			training = examples.parts.training;
		Scorer		scorer = {mean, rows, EntityDeviation(mean, rows, &examples)};
		TestedRows	tested = {
			.entity = e,
			.examples = &examples,
			.first = training,
			.n = examples.parts.rows - training,
			.all = true,
			.segment = AssessmentSupportSegment(assessment,
												ExampleOlderRows(&examples,
																 training))
		};

		CHECK_FOR_INTERRUPTS();
		AssessRows(assessment, &tested, ScoreByMeans, &scorer, true);
	}
}
