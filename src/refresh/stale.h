/*-------------------------------------------------------------------------
 *
 * stale.h
 *	  Which of a model's entities a refresh is to adapt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFRESH_STALE_H
#define REFRESH_STALE_H

#include "postgres.h"

#include "query/source.h"
#include "refresh/job.h"

/* A list of entities: what to ask SourceListQuery for, and its parameters. */
typedef struct StaleList
{
	SourceList	list;
	int			parameters;
	Oid			types[2];
	Datum		values[2];
} StaleList;

/*
 * The list for a refresh of a version that begins now: with the rights of the
 * model's owner, and SPI connected.
 */
extern void StaleListInit(StaleList *stale, const Source *source,
						  const ModelOptions *options, int version,
						  bool only_stale, TimestampTz started_at);

/* An event time as limaml.stored_refresh keeps it. */
extern bytea *StoredEventTime(const Source *source, Datum value);

#endif							/* REFRESH_STALE_H */
