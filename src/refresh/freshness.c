/*-------------------------------------------------------------------------
 *
 * freshness.c
 *	  How up to date embeddings are: the view limaml.freshness.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "query/source.h"
#include "refresh/stale.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "compat.h"

enum
{
	FRESHNESS_MODEL,
	FRESHNESS_VERSION,
	FRESHNESS_ENTITIES,
	FRESHNESS_ADAPTED,
	FRESHNESS_STALE,
	FRESHNESS_OLDEST,
	FRESHNESS_REFRESHED_AT,
	FRESHNESS_COLUMNS
};

/* What the embeddings of the deployed version say. */
static void
ReadEmbeddings(const Model *model, Datum *values, bool *nulls)
{
	Oid			types[1] = {INT4OID};
	Datum		parameters[1] = {Int32GetDatum(model->deployed)};

	if (SPI_execute_with_args(psprintf("SELECT pg_catalog.count(*), pg_catalog.min(adapted_at) FROM %s"
									   " WHERE version OPERATOR(pg_catalog.=) $1",
									   ModelRelationName(model, model->embeddings, "embeddings")),
							  1, types, parameters, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the embeddings");
	values[FRESHNESS_ADAPTED] = ResultColumn(1, &nulls[FRESHNESS_ADAPTED]);
	values[FRESHNESS_OLDEST] = ResultColumn(2, &nulls[FRESHNESS_OLDEST]);
}

/* What the next refresh would do. */
static void
ReadStale(const Model *model, Datum *values, bool *nulls)
{
	Encoder		interaction = {0};
	Encoder		entity = {0};
	ModelOptions options;
	RefreshState state;
	StaleList	stale;
	Source		source;
	bool		isnull;

	CatalogOptions(model, NULL, &options);
	JobRefreshState(model->id, model->deployed, &state);
	nulls[FRESHNESS_REFRESHED_AT] = !state.complete;
	values[FRESHNESS_REFRESHED_AT] = TimestampTzGetDatum(state.complete_at);

	SourceInitDeclared(&source, model, NULL, &interaction, &entity);
	StaleListInit(&stale, &source, &options, model->deployed, true,
				  GetCurrentTimestamp());
	if (SPI_execute_with_args(SourceCountQuery(&source, stale.list),
							  stale.parameters, stale.types, stale.values,
							  NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count stale entities");
	values[FRESHNESS_STALE] = ResultColumn(1, &nulls[FRESHNESS_STALE]);
	nulls[FRESHNESS_ENTITIES] = false;
	values[FRESHNESS_ENTITIES] =
		Int64GetDatum(DatumGetInt64(values[FRESHNESS_ADAPTED]) +
					  DatumGetInt64(ResultColumn(2, &isnull)));
}

/*
 * Fills in a model's row.  All is read with the rights of its owner: whose
 * tables and views they are may have them run code.  What cannot be read is a
 * WARNING, so that one model that is broken hides no other.
 */
static void
ReadModel(const Model *model, Datum *values, bool *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		bool		mine = has_privs_of_role(GetUserId(), model->owner);
		RightsScope scope;

		EnterOwner(&scope, model);
		ReadEmbeddings(model, values, nulls);
		if (mine)
			ReadStale(model, values, nulls);
		LeaveRights(&scope);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("freshness of model \"%s\" is not known: %s",
						model->name, error->message)));
}

PG_FUNCTION_INFO_V1(limaml_freshness);

/*
 * limaml.freshness_of_models(): for each model with a deployed version that
 * the caller may use, how many embeddings there are and how old the oldest is;
 * for the caller's own also how many entities there are, how many a refresh
 * would adapt, and when the last complete refresh began.
 */
Datum
limaml_freshness(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SPITupleTable *models;
	uint64		count;

	InitMaterialize(fcinfo);
	SPI_connect();
	if (SPI_execute("SELECT model FROM limaml.model WHERE deployed IS NOT NULL"
					" ORDER BY model", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not list the models");
	models = SPI_tuptable;
	count = SPI_processed;
	for (uint64 r = 0; r < count; r++)
	{
		Model	   *model = CatalogModel(SPI_getvalue(models->vals[r],
													  models->tupdesc, 1), false);
		Datum		values[FRESHNESS_COLUMNS];
		bool		nulls[FRESHNESS_COLUMNS];

		memset(nulls, true, sizeof(nulls));
		values[FRESHNESS_MODEL] = CStringGetTextDatum(model->name);
		values[FRESHNESS_VERSION] = Int32GetDatum(model->deployed);
		nulls[FRESHNESS_MODEL] = nulls[FRESHNESS_VERSION] = false;
		if (OidIsValid(model->owner))
			ReadModel(model, values, nulls);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
