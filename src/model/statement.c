/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  Running the extension's own statements, and with whose rights.
 *
 * No role but the extension's owner has a right to the tables limaml.stored_*.
 * A statement on them switches to that owner, as the server's referential
 * integrity does for its own: the text is fixed, the values are parameters,
 * and the search path is pg_catalog, so that nothing of the caller's runs with
 * that right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/statement.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

void
AddParameter(Parameters *parameters, Oid type, Datum value, bool isnull)
{
	int			p = parameters->count++;

	Assert(p < STATEMENT_MAX_PARAMETERS);
	parameters->types[p] = type;
	parameters->values[p] = value;
	parameters->nulls[p] = isnull ? 'n' : ' ';
}

void
AddInteger(Parameters *parameters, int64 value)
{
	AddParameter(parameters, INT8OID, Int64GetDatum(value), false);
}

void
AddInt(Parameters *parameters, int value)
{
	AddParameter(parameters, INT4OID, Int32GetDatum(value), false);
}

void
AddBool(Parameters *parameters, bool value)
{
	AddParameter(parameters, BOOLOID, BoolGetDatum(value), false);
}

void
AddDouble(Parameters *parameters, double value)
{
	AddParameter(parameters, FLOAT8OID, Float8GetDatum(value), isnan(value));
}

void
AddText(Parameters *parameters, const char *value)
{
	AddParameter(parameters, TEXTOID,
				 value ? CStringGetTextDatum(value) : (Datum) 0,
				 value == NULL);
}

void
AddTexts(Parameters *parameters, int count, char **values)
{
	Datum	   *texts = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		texts[i] = CStringGetTextDatum(values[i]);
	AddParameter(parameters, TEXTARRAYOID,
				 PointerGetDatum(construct_array(texts, count, TEXTOID, -1,
												 false, TYPALIGN_INT)),
				 false);
}

void
AddBytes(Parameters *parameters, const void *bytes, int length)
{
	bytea	   *copy = palloc(VARHDRSZ + length);

	SET_VARSIZE(copy, VARHDRSZ + length);
	memcpy(VARDATA(copy), bytes, length);
	AddParameter(parameters, BYTEAOID, PointerGetDatum(copy), false);
}

void
ExecuteStatement(const char *sql, Parameters *parameters, bool read_only,
				 int expected)
{
	int			result = SPI_execute_with_args(sql, parameters->count,
											   parameters->types,
											   parameters->values,
											   parameters->nulls,
											   read_only, 0);

	if (result != expected)
		elog(ERROR, "statement returned %s: %s",
			 SPI_result_code_string(result), sql);
}

/*
 * Plans by their texts.  The server makes a kept plan anew when what it reads
 * has changed, so a text is all there is to know it by.
 */
#define MOST_KEPT_PLANS 64

typedef struct KeptPlanEntry
{
	char	   *sql;			/* NULL where the entry is free */
	int			count;
	Oid			types[INDEX_MAX_KEYS];
	SPIPlanPtr	plan;
	int			options;
	int			users;
	uint64		used;			/* last, in uses of any */
} KeptPlanEntry;

static KeptPlanEntry kept_plans[MOST_KEPT_PLANS];
static uint64 kept_plan_uses;

static void
ReleaseKeptPlan(void *entry)
{
	((KeptPlanEntry *) entry)->users--;
}

static void
FreePlan(void *plan)
{
	SPI_freeplan(plan);
}

/* A place for one more plan; NULL where all are in use. */
static KeptPlanEntry *
PlaceForPlan(void)
{
	KeptPlanEntry *oldest = NULL;

	for (int e = 0; e < MOST_KEPT_PLANS; e++)
	{
		KeptPlanEntry *entry = &kept_plans[e];

		if (entry->sql == NULL)
			return entry;
		if (entry->users == 0 && (!oldest || entry->used < oldest->used))
			oldest = entry;
	}
	if (oldest)
	{
		SPI_freeplan(oldest->plan);
		pfree(oldest->sql);
		oldest->sql = NULL;
	}
	return oldest;
}

/* A plan that is neither the current memory context's nor anybody's. */
static SPIPlanPtr
PreparePlan(const char *sql, int count, const Oid *types, int options)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, count, unconstify(Oid *, types),
										  options);

	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan: %s", sql);
	return plan;
}

static void
FreeWith(MemoryContext context, MemoryContextCallback *callback,
		 SPIPlanPtr plan)
{
	callback->func = FreePlan;
	callback->arg = plan;
	MemoryContextRegisterResetCallback(context, callback);
}

SPIPlanPtr
OwnPlan(const char *sql, int count, const Oid *types, int options)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	MemoryContext context = CurrentMemoryContext;
	SPIPlanPtr	plan = PreparePlan(sql, count, types, options);

	MemoryContextSwitchTo(context);
	FreeWith(context, callback, plan);
	return plan;
}

SPIPlanPtr
KeptPlan(const char *sql, int count, const Oid *types, int options)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	MemoryContext context = CurrentMemoryContext;
	KeptPlanEntry *entry = NULL;
	SPIPlanPtr	plan;

	Assert(count <= (int) lengthof(kept_plans[0].types));
	for (int e = 0; e < MOST_KEPT_PLANS; e++)
		if (kept_plans[e].sql && kept_plans[e].count == count &&
			kept_plans[e].options == options &&
			memcmp(kept_plans[e].types, types, sizeof(Oid) * count) == 0 &&
			strcmp(kept_plans[e].sql, sql) == 0)
			entry = &kept_plans[e];
	if (entry == NULL)
	{
		char	   *copy;

		plan = PreparePlan(sql, count, types, options);
		copy = MemoryContextStrdup(TopMemoryContext, sql);
		entry = PlaceForPlan();
		if (entry == NULL)
		{
			pfree(copy);
			FreeWith(context, callback, plan);
			return plan;
		}
		entry->sql = copy;
		entry->count = count;
		entry->options = options;
		memcpy(entry->types, types, sizeof(Oid) * count);
		entry->plan = plan;
		entry->users = 0;
	}
	entry->users++;
	entry->used = ++kept_plan_uses;
	callback->func = ReleaseKeptPlan;
	callback->arg = entry;
	MemoryContextRegisterResetCallback(context, callback);
	return entry->plan;
}

void
EnterRights(RightsScope *scope, Oid user, int context)
{
	GetUserIdAndSecContext(&scope->user, &scope->context);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	SetUserIdAndSecContext(user, scope->context | context);
}

void
LeaveRights(RightsScope *scope)
{
	SetUserIdAndSecContext(scope->user, scope->context);
	AtEOXact_GUC(false, scope->guc_level);
}

/* For one statement on the catalog. */
static void
EnterCatalog(RightsScope *scope)
{
	Oid			schema = get_namespace_oid("limaml", false);
	Oid			table = get_relname_relid("stored_model", schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for limaml.stored_model");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	EnterRights(scope, owner,
				SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

void
ExecuteAsCatalog(const char *sql, Parameters *parameters, bool read_only,
				 int expected)
{
	RightsScope scope;

	EnterCatalog(&scope);
	ExecuteStatement(sql, parameters, read_only, expected);
	LeaveRights(&scope);
}

Datum
ResultColumn(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column,
						 isnull);
}

char **
TextArray(Datum datum, int *count)
{
	Datum	   *elements;
	char	  **texts;

	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, count);
	texts = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		texts[i] = TextDatumGetCString(elements[i]);
	return texts;
}
