/*-------------------------------------------------------------------------
 *
 * predictor.c
 *	  Adapting to rows of an example store, and scoring others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "math/adapt.h"
#include "math/maml.h"
#include "query/predictor.h"
#include "storage/shmem.h"

/* Rows that are scored at a time. */
#define SCORE_ROWS 256

static float *
Numbers(Size rows, Size columns)
{
	return palloc_extended(mul_size(Max(mul_size(rows, columns), 1),
									sizeof(float)),
						   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* What adapts where it is a whole network. */
static MamlPart
AdaptingPart(const TrainedNetwork *trained)
{
	return trained->personalization == PERSONALIZATION_HEAD ? MAML_HEAD :
		MAML_FULL;
}

/* Makes room for so many rows at a time. */
static void
Reserve(Predictor *predictor, int rows)
{
	const TrainedNetwork *trained = predictor->trained;
	const NetworkShape *shape = &trained->shape;
	Size		adapting = adapt_size(shape, 1, rows);
	MemoryContext old;

	if (rows <= predictor->room)
		return;
	if (predictor->room > 0)
	{
		pfree(predictor->z);
		pfree(predictor->half);
		pfree(predictor->label);
		pfree(predictor->weight);
		pfree(predictor->offset);
		pfree(predictor->same_time);
		pfree(predictor->sampled);
		pfree(predictor->adapting);
	}
	if (KEEPS_NETWORKS(trained->personalization))
		adapting = Max(adapting, maml_adapt_size(shape, rows));
	old = MemoryContextSwitchTo(predictor->context);
	predictor->room = rows;
	predictor->z = Numbers(rows, trained->interaction.width);
	predictor->half = Numbers(rows, network_half_size(shape));
	predictor->label = Numbers(rows, 1);
	predictor->weight = Numbers(rows, 1);
	predictor->offset = Numbers(rows, 1);
	predictor->same_time = palloc(rows);
	predictor->sampled = palloc(rows);
	predictor->adapting = Numbers(adapting, 1);
	MemoryContextSwitchTo(old);
}

void
PredictorInit(Predictor *predictor, const TrainedNetwork *trained)
{
	const NetworkShape *shape = &trained->shape;
	Size		scoring = network_score_size(shape, SCORE_ROWS);

	memset(predictor, 0, sizeof(*predictor));
	predictor->context = CurrentMemoryContext;
	if (KEEPS_NETWORKS(trained->personalization))
	{
		predictor->parameters = Numbers(network_parameter_count(shape), 1);
		scoring = Max(scoring, maml_score_size(shape, SCORE_ROWS));
	}
	predictor->trained = trained;
	TrainedNetworkAdapts(trained);
	predictor->x = Numbers(trained->entity.width, 1);
	predictor->embedding = Numbers(network_embedding_size(shape), 1);
	predictor->prior = Numbers(network_embedding_size(shape), 1);
	predictor->scoring = Numbers(scoring, 1);
	predictor->entity = Numbers(network_entity_size(shape), 1);
	Reserve(predictor, Max(trained->support_rows, SCORE_ROWS));
}

void
PredictorEntity(Predictor *predictor, const Examples *examples)
{
	const TrainedNetwork *trained = predictor->trained;
	Rows		none = {0};

	Encode(&trained->entity, examples->meta, examples->lists, predictor->x);
	adapt(&trained->network, predictor->x, &none, predictor->adapting,
		  predictor->prior);
}

/*
 * Encodes n rows.  A stranger is an entity that the arm `id` has not met: its
 * vector is that of NULL, which no entity is.
 */
static void
EncodeRows(Predictor *predictor, const Examples *examples, int first, int n,
		   bool stranger)
{
	const Encoder *encoder = &predictor->trained->interaction;
	FeatureCode *codes = NULL;

	if (stranger)
		codes = palloc(sizeof(FeatureCode) * encoder->count);
	for (int i = 0; i < n; i++)
	{
		const Interaction *row = ExampleRow(examples, first + i);
		const FeatureCode *given = ExampleCodes(examples, first + i);

		if (stranger)
		{
			memcpy(codes, given, sizeof(FeatureCode) * encoder->count);
			codes[encoder->count - 1].row = VOCABULARY_NULL_ROW;
			given = codes;
		}
		predictor->offset[i] = Encode(encoder, given, examples->lists,
									  predictor->z + (Size) i * encoder->width);
		predictor->label[i] = row->label;
		predictor->weight[i] = row->weight;
		predictor->same_time[i] = i > 0 && row->same_time;
		predictor->sampled[i] = row->sampled;
	}
	network_candidate_half(&predictor->trained->network, n, predictor->z,
						   encoder->width, predictor->half);
	if (codes)
		pfree(codes);
}

int
PredictorAdapt(Predictor *predictor, const Examples *examples, int n)
{
	const TrainedNetwork *trained = predictor->trained;
	int			first = ExampleNewestRows(examples, n, trained->support_rows);

	n -= first;
	Reserve(predictor, n);
	EncodeRows(predictor, examples, first, n, false);
	if (trained->recency > 0)
		recency_weights(n, trained->recency, predictor->same_time,
						predictor->sampled, predictor->weight);
	if (KEEPS_NETWORKS(trained->personalization))
	{
		MamlRows	rows = {
			.n = n,
			.z = predictor->z,
			.label = predictor->label,
			.weight = predictor->weight,
			.offset = predictor->offset
		};

		return maml_adapt(&trained->network, AdaptingPart(trained),
						  predictor->x, &rows, predictor->adapting,
						  predictor->parameters).diverged_at;
	}
	else
	{
		Rows		rows = {
			.n = n,
			.half = predictor->half,
			.label = predictor->label,
			.weight = predictor->weight,
			.offset = predictor->offset
		};

		return adapt(&trained->network, predictor->x, &rows,
					 predictor->adapting, predictor->embedding).diverged_at;
	}
}

/* Scores of the n rows at work by the network as it is and an embedding. */
static void
ScoreRows(Predictor *predictor, int n, const float *embedding, float *score)
{
	const Network *network = &predictor->trained->network;

	network_entity(network, embedding, predictor->entity);
	network_score_halves(network, predictor->entity, n, predictor->half,
						 predictor->offset, predictor->scoring, score);
}

void
PredictorScore(Predictor *predictor, const Examples *examples, int first,
			   int n, float *adapted, float *prior)
{
	const TrainedNetwork *trained = predictor->trained;

	for (int done = 0; done < n; done += SCORE_ROWS)
	{
		int			count = Min(n - done, SCORE_ROWS);

		EncodeRows(predictor, examples, first + done, count, false);
		if (KEEPS_NETWORKS(trained->personalization))
			maml_score(&trained->network, predictor->parameters, predictor->x,
					   count, predictor->z, predictor->offset,
					   predictor->scoring, adapted + done);
		else
			ScoreRows(predictor, count, predictor->embedding, adapted + done);
		if (trained->personalization == PERSONALIZATION_ID)
			EncodeRows(predictor, examples, first + done, count, true);
		ScoreRows(predictor, count, predictor->prior, prior + done);
	}
}
