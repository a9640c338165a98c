/*-------------------------------------------------------------------------
 *
 * pgvector.h
 *	  pgvector as a database may have it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_PGVECTOR_H
#define QUERY_PGVECTOR_H

#include "postgres.h"

/*
 * The type vector of the extension of this name, or InvalidOid, and the schema
 * that all of the extension is in.
 */
extern Oid	PgvectorType(Oid *schema);

/* Whether there is a cast. */
extern bool CastExists(Oid source, Oid target);

#endif							/* QUERY_PGVECTOR_H */
