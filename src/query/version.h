/*-------------------------------------------------------------------------
 *
 * version.h
 *	  Adding a version to a model.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_VERSION_H
#define QUERY_VERSION_H

#include "postgres.h"

#include "model/catalog.h"

/*
 * Adds a version with its partition of the embeddings table, and with `deploy`
 * deploys it where none is deployed yet.  Returns its number.  With SPI
 * connected and the owner's rights.
 */
extern int	AddVersion(const Model *model, const VersionRecord *record,
					   bool deploy);

#endif							/* QUERY_VERSION_H */
