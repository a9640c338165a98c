/*-------------------------------------------------------------------------
 *
 * predictor.h
 *	  What a network predicts for rows of an example store, adapted on rows
 *	  that are older: validation and evaluation, for every arm.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_PREDICTOR_H
#define QUERY_PREDICTOR_H

#include "postgres.h"

#include "model/trained_network.h"
#include "query/examples.h"

typedef struct Predictor
{
	MemoryContext context;		/* in which it was set up */
	const TrainedNetwork *trained;
	float	   *x;
	float	   *embedding;		/* adapted, or */
	float	   *parameters;		/* the adapted network that some arms keep */
	float	   *prior;			/* the embedding of no rows */

	/* rows at work */
	int			room;			/* rows that there is room for */
	float	   *z;
	float	   *half;
	float	   *label;
	float	   *weight;
	float	   *offset;
	bool	   *same_time;
	bool	   *sampled;
	float	   *adapting;		/* memory of adapting and */
	float	   *scoring;		/* of scoring */
	float	   *entity;			/* network_entity of what is scored */
} Predictor;

/* Everything is in the current memory context; `trained` may still change. */
extern void PredictorInit(Predictor *predictor, const TrainedNetwork *trained);

/* Goes on to an entity, of which the meta features are asked. */
extern void PredictorEntity(Predictor *predictor, const Examples *examples);

/*
 * Adapts to the entity's first n rows, of which the newest count as many as
 * when serving, and their negatives.  Returns 0, or the step after which the inner loop had
 * diverged.
 */
extern int	PredictorAdapt(Predictor *predictor, const Examples *examples,
						   int n);

/*
 * Scores (logits, where the loss is binary) of rows first ... first + n - 1:
 * adapted, and of the network as it is for an entity without rows.
 */
extern void PredictorScore(Predictor *predictor, const Examples *examples,
						   int first, int n, float *adapted, float *prior);

#endif							/* QUERY_PREDICTOR_H */
