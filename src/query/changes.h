/*-------------------------------------------------------------------------
 *
 * changes.h
 *	  Knowing which entities have changed: triggers on a model's relations
 *	  write their keys into a table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_CHANGES_H
#define QUERY_CHANGES_H

#include "postgres.h"

#include "model/catalog.h"

/*
 * Creates the model's table of changed keys and the triggers that fill it.
 * With SPI connected and the rights of whoever owns the embeddings; it takes
 * TRIGGER on the relations.  Sets model->changes.
 */
extern void ChangesEnable(Model *model);

/* The opposite; triggers that other models need remain. */
extern void ChangesDisable(Model *model);

/*
 * Gives partitions that have been added since triggers of their own, and
 * writes down the keys that they hold: rows may have gone straight into them.
 */
extern void ChangesCoverPartitions(const Model *model);

#endif							/* QUERY_CHANGES_H */
