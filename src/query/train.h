/*-------------------------------------------------------------------------
 *
 * train.h
 *	  Training a version.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_TRAIN_H
#define QUERY_TRAIN_H

#include "postgres.h"

#include "model/catalog.h"
#include "query/learner.h"

/*
 * Both runs over a model's declared rows: everything of a version but its
 * number.  With SPI connected.
 */
extern void TrainVersion(const Model *model, const ModelOptions *options,
						 VersionRecord *version, TrainingLog *log);

#endif							/* QUERY_TRAIN_H */
