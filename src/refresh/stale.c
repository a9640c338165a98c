/*-------------------------------------------------------------------------
 *
 * stale.c
 *	  Which of a model's entities a refresh is to adapt.
 *
 * By event time: once all entities of a version have been looked at, those
 * with rows newer than the newest then, less the option "lateness".  Neither
 * is an event time beyond the clock believed: one row from the future would
 * hide all that come after it.  By changes: those whose keys the triggers have
 * written down since the version was first refreshed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "refresh/stale.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

bytea *
StoredEventTime(const Source *source, Datum value)
{
	Oid			function;
	bool		varlena;

	getTypeBinaryOutputInfo(source->event_time.type, &function, &varlena);
	return OidSendFunctionCall(function, value);
}

static Datum
ReadEventTime(const Source *source, bytea *stored)
{
	StringInfoData buffer;
	Oid			function;
	Oid			parameter;

	initStringInfo(&buffer);
	appendBinaryStringInfo(&buffer, VARDATA_ANY(stored),
						   VARSIZE_ANY_EXHDR(stored));
	getTypeBinaryInputInfo(source->event_time.type, &function, &parameter);
	return OidReceiveFunctionCall(function, &buffer, parameter, -1);
}

/*
 * The time after which rows are new: min(newest, clock) - lateness.  A number
 * has no clock, and lateness counts in seconds.  An integer saturates.
 */
static const char *
ThresholdExpression(Oid type, Oid *result)
{
	switch (type)
	{
		case TIMESTAMPTZOID:
			*result = TIMESTAMPTZOID;
			return "LEAST($1, $2) OPERATOR(pg_catalog.-) $3";
		case TIMESTAMPOID:
		case DATEOID:
			*result = TIMESTAMPOID;
			return "LEAST($1::pg_catalog.timestamp, $2::pg_catalog.timestamp)"
				" OPERATOR(pg_catalog.-) $3";
		case INT2OID:
		case INT4OID:
		case INT8OID:
			*result = INT8OID;
			return "GREATEST(pg_catalog.floor($1::pg_catalog.numeric OPERATOR(pg_catalog.-)"
				" EXTRACT(epoch FROM $3)), -9223372036854775808)::pg_catalog.int8";
		case NUMERICOID:
			*result = NUMERICOID;
			return "$1 OPERATOR(pg_catalog.-) EXTRACT(epoch FROM $3)";
		default:
			*result = FLOAT8OID;
			return "$1::pg_catalog.float8 OPERATOR(pg_catalog.-)"
				" EXTRACT(epoch FROM $3)::pg_catalog.float8";
	}
}

static Datum
Threshold(const Source *source, const ModelOptions *options,
		  const RefreshState *state, Oid *type)
{
	Oid			base = getBaseType(source->event_time.type);
	Oid			types[3] = {base, TIMESTAMPTZOID, INTERVALOID};
	Datum		values[3];
	Datum		threshold;
	bool		isnull;

	values[0] = ReadEventTime(source, state->newest_event);
	values[1] = TimestampTzGetDatum(state->complete_at);
	values[2] = IntervalPGetDatum(options->lateness);
	if (SPI_execute_with_args(psprintf("SELECT %s",
									   ThresholdExpression(base, type)),
							  3, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not compute which rows are new");

	/* the result goes with SPI's memory, at the end of the step */
	threshold = ResultColumn(1, &isnull);
	return threshold;
}

void
StaleListInit(StaleList *stale, const Source *source,
			  const ModelOptions *options, int version, bool only_stale,
			  TimestampTz started_at)
{
	bool		changes = options->staleness == STALENESS_CHANGES;
	RefreshState state;

	JobRefreshState(source->model->id, version, &state);
	memset(stale, 0, sizeof(*stale));
	stale->parameters = 1;
	stale->types[0] = INT4OID;
	stale->values[0] = Int32GetDatum(version);
	if (!only_stale || (changes && !state.complete))
	{
		/* what an interrupted run has adapted is followed since */
		stale->list = LIST_ALL;
		stale->parameters = 2;
		stale->types[1] = TIMESTAMPTZOID;
		stale->values[1] = TimestampTzGetDatum(!only_stale ? DT_NOEND :
											   state.known ? state.since :
											   started_at);
	}
	else if (changes)
		stale->list = LIST_CHANGED;
	else if (state.complete && state.newest_event &&
			 state.event_type == source->event_time.type)
	{
		stale->list = LIST_NEWER;
		stale->parameters = 2;
		stale->values[1] = Threshold(source, options, &state,
									 &stale->types[1]);
	}
	else
		stale->list = LIST_DIFFERENT;
}
