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
 * The type vector of the extension of this name, whatever schema it is in, or
 * InvalidOid.
 */
extern Oid	PgvectorType(void);

/* Whether there is a cast. */
extern bool CastExists(Oid source, Oid target);

#endif							/* QUERY_PGVECTOR_H */
