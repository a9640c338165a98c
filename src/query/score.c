/*-------------------------------------------------------------------------
 *
 * score.c
 *	  limaml_score and limaml_score_embedding: a candidate's probability for
 *	  one entity.
 *
 * What is the same for all rows of a query is found out at the first (see
 * model_use.h), and so is how a candidate's columns are read.  A row then
 * costs its own encoding and one pass through the global block.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "model/embedding.h"
#include "query/candidate.h"

/*
 * The score of the candidate that begins at argument `first`, the arguments
 * being called `columns` where that is not 0.
 */
static float
ScoreCandidate(FunctionCallInfo fcinfo, ModelUse *use,
			   const EntityVector *vector, int first, Datum columns)
{
	const TrainedNetwork *trained = use->trained;
	const float *z;
	float		offset = CandidateEncode(fcinfo, use, first, columns,
										 vector->id, &z);
	float		score;

	network_score(&trained->network, vector->entity, 1, z,
				  trained->interaction.width, &offset, use->scoring, &score);
	Predict(use, 1, &score);
	return score;
}

PG_FUNCTION_INFO_V1(limaml_score);

/*
 * limaml_score(model text, entity, VARIADIC candidate "any"): the probability
 * of a positive label, or the value for squared loss.  Never NULL.
 */
Datum
limaml_score(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	EntityVector *vector = UseEntity(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));

	PG_RETURN_FLOAT4(ScoreCandidate(fcinfo, use, vector, 2, (Datum) 0));
}

PG_FUNCTION_INFO_V1(limaml_score_columns);

/*
 * limaml_score_columns(model text, columns text[], entity, VARIADIC "any"):
 * what the planner makes of limaml_score of a row.
 */
Datum
limaml_score_columns(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 2);
	EntityVector *vector = UseEntity(use, PG_GETARG_DATUM(2), PG_ARGISNULL(2));

	PG_RETURN_FLOAT4(ScoreCandidate(fcinfo, use, vector, 3,
									PG_GETARG_DATUM(1)));
}

/* An embedding means something to the network that made it and to no other. */
static void
CheckEmbedding(const ModelUse *use, const MetaEmbedding *embedding)
{
	const TrainedNetwork *trained = use->trained;

	if (embedding->dims != network_embedding_size(&trained->shape))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("embedding has %d dimensions, and those of %s have %d",
						embedding->dims, use->title,
						network_embedding_size(&trained->shape))));
	if (embedding->fingerprint != trained->fingerprint)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 embedding->fingerprint == 0 ?
				 errmsg("embedding has no fingerprint, so that no network is known to have made it") :
				 errmsg("embedding was made by network %08x, not by network %08x",
						embedding->fingerprint, trained->fingerprint),
				 use->version ?
				 errdetail("Version %d of %s, the deployed one, is network %08x.",
						   use->version->number, use->title,
						   trained->fingerprint) :
				 errdetail("The network that was given is network %08x.",
						   trained->fingerprint),
				 use->version ?
				 errhint("Use limaml_embedding or limaml_adapt, or the embeddings of that version.") :
				 errhint("Use limaml_adapt_agg with this network, or the embeddings of its version.")));
}

/* Scores for the embedding that an argument gives, or says NULL. */
static Datum
ScoreEmbedding(FunctionCallInfo fcinfo, ModelUse *use, int argument,
			   Datum columns)
{
	MetaEmbedding *embedding;
	float		score;

	if (PG_ARGISNULL(argument))
		PG_RETURN_NULL();
	if (use->trained->personalization == PERSONALIZATION_ID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 use->version ?
				 errmsg("version %d of %s knows entities by their keys, not by embeddings",
						use->version->number, use->title) :
				 errmsg("%s knows entities by their keys, not by embeddings",
						use->title),
				 errhint("Use limaml_score.")));
	embedding = PG_GETARG_META_EMBEDDING_P(argument);
	CheckEmbedding(use, embedding);
	score = ScoreCandidate(fcinfo, use, UseEmbedding(use, embedding->x),
						   argument + 1, columns);
	PG_FREE_IF_COPY(embedding, argument);
	PG_RETURN_FLOAT4(score);
}

PG_FUNCTION_INFO_V1(limaml_score_embedding);

/*
 * limaml_score_embedding(model text, embedding meta_embedding, VARIADIC
 * candidate "any"): the same for an embedding of the deployed version that
 * need not be stored.  NULL for a NULL embedding.
 */
Datum
limaml_score_embedding(PG_FUNCTION_ARGS)
{
	return ScoreEmbedding(fcinfo, UseModel(fcinfo, -1), 1, (Datum) 0);
}

PG_FUNCTION_INFO_V1(limaml_score_embedding_network);

/*
 * limaml_score_embedding(network, embedding meta_embedding, VARIADIC candidate
 * "any"): the same by a network at hand.  It depends on its arguments alone.
 */
Datum
limaml_score_embedding_network(PG_FUNCTION_ARGS)
{
	return ScoreEmbedding(fcinfo, UseNetwork(fcinfo, 0), 1, (Datum) 0);
}

PG_FUNCTION_INFO_V1(limaml_score_embedding_columns);

/*
 * limaml_score_embedding_columns(model text, columns text[], embedding
 * meta_embedding, VARIADIC "any"): what the planner makes of that of a row.
 */
Datum
limaml_score_embedding_columns(PG_FUNCTION_ARGS)
{
	return ScoreEmbedding(fcinfo, UseModel(fcinfo, -1), 2,
						  PG_GETARG_DATUM(1));
}

PG_FUNCTION_INFO_V1(limaml_embedding);

/*
 * limaml_embedding(model text, entity): the stored embedding of the deployed
 * version, else the prior of what is known about the entity.
 */
Datum
limaml_embedding(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	EntityVector *vector;

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	vector = UseEntity(use, PG_GETARG_DATUM(1), false);
	PG_RETURN_META_EMBEDDING_P(MakeMetaEmbedding(network_embedding_size(&use->trained->shape),
												 use->trained->fingerprint,
												 vector->embedding));
}

typedef struct AdaptedDatum
{
	const TrainedNetwork *trained;
	Datum		embedding;
} AdaptedDatum;

static void
ReceiveAdapted(void *argument, int count, Datum **key,
			   const AdaptedEntity *adapted)
{
	AdaptedDatum *result = argument;

	result->embedding =
		MetaEmbeddingPGetDatum(MakeMetaEmbedding(network_embedding_size(&result->trained->shape),
												 result->trained->fingerprint,
												 adapted->embedding));
}

PG_FUNCTION_INFO_V1(limaml_adapt);

/*
 * limaml_adapt(model text, entity): the embedding of the deployed version
 * adapted now from the declared relation, with the caller's rights.  Stores
 * nothing.
 */
Datum
limaml_adapt(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	Datum		values[INDEX_MAX_KEYS];
	Datum	   *columns[INDEX_MAX_KEYS];
	AdaptedDatum result = {.trained = use->trained};
	MemoryContext caller = CurrentMemoryContext;

	if (!KeyValues(&use->binding, PG_GETARG_DATUM(1), PG_ARGISNULL(1), values))
		PG_RETURN_NULL();
	for (int k = 0; k < use->key.count; k++)
		columns[k] = &values[k];
	SPI_connect();
	MemoryContextSwitchTo(caller);
	AdaptEntities(UseAdapter(use), 1, columns, true, ReceiveAdapted, &result);
	SPI_finish();
	return result.embedding;
}
