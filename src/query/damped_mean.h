/*-------------------------------------------------------------------------
 *
 * damped_mean.h
 *	  What a trivial baseline comes to: the mean label, the item's deviation
 *	  from it, and the entity's from both, each damped as if it had had so many
 *	  rows more that did not deviate.
 *
 * The item is the category feature with the largest vocabulary; without one
 * there are only the entities.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_DAMPED_MEAN_H
#define QUERY_DAMPED_MEAN_H

#include "postgres.h"

#include "query/assessment.h"
#include "query/training_rows.h"

typedef struct DampedMean
{
	double		item_damping;
	double		entity_damping;
	int			item;			/* feature, or -1 */
	double		mean;
	double	   *deviation;		/* of each row of the item's vocabulary */
} DampedMean;

/*
 * Fits the mean to the rows that train in `all`, with the damping that
 * predicts best the rows that validate in `first`, of the same relation.
 */
extern void DampedMeanFit(DampedMean *mean, TrainingRows *first,
						  TrainingRows *all);

/* Adds the rows after those that train, with scores as networks have them. */
extern void DampedMeanAssess(const DampedMean *mean, TrainingRows *rows,
							 Assessment *assessment);

#endif							/* QUERY_DAMPED_MEAN_H */
