/*-------------------------------------------------------------------------
 *
 * learner.h
 *	  Meta-training a network on the rows of a training run.
 *
 * Each epoch reads the example store in an order of its own: per batch of
 * entities it has the meta-gradient computed, maybe by several processes, hands
 * the rows' part of it on to the vectors, and takes an optimizer step.  What is
 * judged and kept is the mean of the parameters over an epoch, not where the
 * last batch left them.
 *
 * All of that twice.  At first the newest rows of every entity only validate,
 * and so tell how many epochs are best.  But those rows are the ones most like
 * the rows to come: on MovieLens a network that has not learned from them
 * loses .004 AUC.  So a second run, for as many epochs, learns from all rows,
 * and its network is the one that is kept.
 *
 * Everything random comes from the seed, by a stream of its own per epoch and
 * entity: the same rows and options give the same network, to the bit, by
 * however many processes.
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

/* Empty, with room for both runs of these options. */
extern void TrainingLogInit(TrainingLog *log, const ModelOptions *options);

/* A network that is learning. */
typedef struct Learner Learner;

/*
 * A learner at its start.  Fills in the encoders of `trained`, from `rows`
 * (without the entity itself unless the arm is `id`), and its shape,
 * parameters and vectors.  Everything is in the current memory context.
 */
extern Learner *LearnerCreate(const ModelOptions *options,
							  TrainedNetwork *trained, TrainingRows *rows);

/*
 * Readies it for epochs, so many in all, with workers if they are worth it; and
 * lets these go.  In between training_workers.h says what must not be done.
 */
extern void LearnerBegin(Learner *learner, int epochs);
extern void LearnerEnd(Learner *learner);

/*
 * The next epoch.  With `validate` the means of the parameters are judged on
 * the rows that validate; what is not judged is NaN in the record.
 */
extern EpochRecord LearnerEpoch(Learner *learner, bool validate);

/* The measure by which epochs and trials are chosen: larger is better. */
extern double EpochGain(const ModelOptions *options,
						const EpochRecord *record);

/* Ends learning: `trained` becomes the mean over the epoch that is kept. */
extern void LearnerFinish(Learner *learner);

/*
 * A run of at most the options' epochs; sets log->epochs to the one to keep:
 * the last that is no worse than the best, noise aside.  `patience` epochs
 * after that one it stops.  `say` tells after each how it stands.
 */
extern void LearnEpochs(const ModelOptions *options, TrainedNetwork *trained,
						TrainingRows *rows, bool say, TrainingLog *log);

/* The second run, of so many epochs. */
extern void LearnAgain(const ModelOptions *options, TrainedNetwork *trained,
					   TrainingRows *rows, int epochs, bool say,
					   TrainingLog *log);

#endif							/* QUERY_LEARNER_H */
