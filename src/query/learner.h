/*-------------------------------------------------------------------------
 *
 * learner.h
 *	  Meta-training a network on the rows of a training run.
 *
 * Each epoch reads the example store in an order of its own: per batch of
 * entities it encodes the rows with the vectors as they are, asks math/ for
 * the meta-gradient, hands the rows' part of it on to the vectors, and takes
 * an optimizer step.  What is judged and kept is the mean of the parameters
 * over an epoch, not where the last batch left them.
 *
 * All of that twice.  At first the newest rows of every entity only validate,
 * and so tell how many epochs are best.  But those rows are the ones most like
 * the rows to come: on MovieLens a network that has not learned from them
 * loses .004 AUC.  So a second run, from the same start and for as many
 * epochs, learns from all rows, and its network is the one that is kept.
 *
 * Everything random comes from the seed, by a stream of its own per epoch and
 * entity: the same rows and options give the same network, to the bit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_LEARNER_H
#define QUERY_LEARNER_H

#include "postgres.h"

#include "model/catalog.h"
#include "model/trained_network.h"
#include "query/training_rows.h"

/* The epochs of both runs, one after the other. */
typedef struct TrainingLog
{
	EpochRecord *records;
	int			count;
	int			best;			/* index of the epoch that validated best */
	int			epochs;			/* what the network was trained for */
} TrainingLog;

/*
 * Trains: fills in the shape, the parameters and the vectors of `trained`,
 * whose encoders `rows` has fitted.  Says after each epoch how it stands, and
 * may be cancelled at any time.
 */
extern void Learn(const ModelOptions *options, TrainedNetwork *trained,
				  TrainingRows *rows, TrainingLog *log);

#endif							/* QUERY_LEARNER_H */
