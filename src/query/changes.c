/*-------------------------------------------------------------------------
 *
 * changes.c
 *	  Knowing which entities have changed.
 *
 * With the option "staleness": "changes", statement-level triggers on the
 * interactions and the entities write the keys of inserted, updated and
 * deleted rows into a table beside the embeddings, in the very transaction
 * that changes the rows.  A refresh deletes the keys that its snapshot shows
 * when it stores what it adapted under that snapshot; so a change that commits
 * at any other moment leaves its key behind for the next refresh.
 *
 * The table is only ever appended to by writers, who therefore never wait for
 * one another, nor for a refresh.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "query/changes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Each event has a trigger: only so may it have transition tables. */
static const struct
{
	const char *event;
	const char *transition;
}			triggers[] = {
	{"INSERT", " REFERENCING NEW TABLE AS limaml_new"},
	{"UPDATE", " REFERENCING OLD TABLE AS limaml_old NEW TABLE AS limaml_new"},
	{"DELETE", " REFERENCING OLD TABLE AS limaml_old"},
	{"TRUNCATE", ""}
};

static void
Utility(const char *sql)
{
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", sql);
}

static char *
RelationText(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
									  get_rel_name(relation));
}

static char *
KeyList(const Model *model)
{
	StringInfoData keys;

	initStringInfo(&keys);
	for (int k = 0; k < model->keys; k++)
		appendStringInfo(&keys, "%s%s", k > 0 ? ", " : "",
						 quote_identifier(model->key[k]));
	return keys.data;
}

/* "WHERE every key column IS NOT NULL" */
static char *
KeysThere(const Model *model)
{
	StringInfoData there;

	initStringInfo(&there);
	for (int k = 0; k < model->keys; k++)
		appendStringInfo(&there, "%s%s IS NOT NULL", k > 0 ? " AND " :
						 " WHERE ", quote_identifier(model->key[k]));
	return there.data;
}

/*
 * Creates the triggers on a relation and its partitions where they are not,
 * and with record writes down the keys that these hold.
 */
static void
CoverRelation(const Model *model, Oid relation, bool record)
{
	char	   *function = quote_qualified_identifier(get_namespace_name(ExtensionSchema()),
													  "limaml_record_changes");
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relation)};
	char	   *sql = psprintf("SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c"
							   " WHERE (c.oid OPERATOR(pg_catalog.=) $1 OR c.oid OPERATOR(pg_catalog.=) ANY"
							   " (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) AS t))"
							   " AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t"
							   " WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid"
							   " AND t.tgfoid OPERATOR(pg_catalog.=) '%s()'::pg_catalog.regprocedure)"
							   " ORDER BY c.oid", function);
	SPITupleTable *found;

	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for triggers");
	found = SPI_tuptable;
	for (uint64 r = 0; r < found->numvals; r++)
	{
		bool		isnull;
		Oid			table = DatumGetObjectId(SPI_getbinval(found->vals[r],
														   found->tupdesc, 1,
														   &isnull));
		char		kind = DatumGetChar(SPI_getbinval(found->vals[r],
													  found->tupdesc, 2,
													  &isnull));
		char	   *name = RelationText(table);

		if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" is not a table, and the option \"staleness\" is \"changes\"",
							get_rel_name(table)),
					 errhint("Changes are recorded by triggers. Use the option \"staleness\": \"event_time\".")));
		for (int t = 0; t < (int) lengthof(triggers); t++)
			Utility(psprintf("CREATE TRIGGER limaml_record_%s AFTER %s ON %s%s FOR EACH STATEMENT EXECUTE FUNCTION %s()",
							 asc_tolower(triggers[t].event,
										 strlen(triggers[t].event)),
							 triggers[t].event, name, triggers[t].transition,
							 function));
		if (record)
		{
			sql = psprintf("INSERT INTO %s (%s) SELECT DISTINCT %s FROM ONLY %s%s",
						   ModelRelationName(model, model->changes, "changes"),
						   KeyList(model), KeyList(model), name,
						   KeysThere(model));
			if (SPI_execute(sql, false, 0) != SPI_OK_INSERT)
				elog(ERROR, "could not execute: %s", sql);
		}
	}
	SPI_freetuptable(found);
}

static void
Cover(const Model *model, bool record)
{
	CoverRelation(model, model->interactions, record);
	if (OidIsValid(model->entities) && model->meta_features > 0)
		CoverRelation(model, model->entities, record);
}

void
ChangesCoverPartitions(const Model *model)
{
	Cover(model, true);
}

void
ChangesEnable(Model *model)
{
	Oid			schema = get_rel_namespace(model->embeddings);
	char	   *table = ChooseRelationName(get_rel_name(model->embeddings),
										   NULL, "changes", schema, false);
	char	   *name = quote_qualified_identifier(get_namespace_name(schema),
												  table);

	/* emptied as often as it is filled: to be vacuumed by what was deleted */
	Utility(psprintf("CREATE TABLE %s WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)"
					 " AS SELECT %s FROM %s WITH NO DATA", name,
					 KeyList(model),
					 ModelRelationName(model, model->embeddings,
									   "embeddings")));
	Utility(psprintf("CREATE INDEX ON %s (%s)", name, KeyList(model)));
	model->changes = get_relname_relid(table, schema);
	Cover(model, false);
}

/* Drops the triggers of a relation that no other model needs. */
static void
UncoverRelation(const Model *model, Oid relation)
{
	char	   *function = quote_qualified_identifier(get_namespace_name(ExtensionSchema()),
													  "limaml_record_changes");
	Parameters	parameters = {0};
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relation)};
	char	   *sql = psprintf("SELECT t.tgrelid, t.tgname FROM pg_catalog.pg_trigger AS t"
							   " JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid"
							   " WHERE (c.oid OPERATOR(pg_catalog.=) $1 OR c.oid OPERATOR(pg_catalog.=) ANY"
							   " (SELECT p.relid FROM pg_catalog.pg_partition_tree($1) AS p))"
							   " AND t.tgfoid OPERATOR(pg_catalog.=) '%s()'::pg_catalog.regprocedure"
							   " AND pg_catalog.pg_has_role(c.relowner, 'USAGE')", function);
	SPITupleTable *found;

	AddInteger(&parameters, model->id);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(relation), false);
	ExecuteAsCatalog("SELECT FROM limaml.stored_model"
					 " WHERE changes IS NOT NULL AND id OPERATOR(pg_catalog.<>) $1"
					 " AND (interactions OPERATOR(pg_catalog.=) $2 OR entities OPERATOR(pg_catalog.=) $2)",
					 &parameters, false, SPI_OK_SELECT);
	if (SPI_processed > 0)
		return;

	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for triggers");
	found = SPI_tuptable;
	for (uint64 r = 0; r < found->numvals; r++)
	{
		bool		isnull;
		Oid			table = DatumGetObjectId(SPI_getbinval(found->vals[r],
														   found->tupdesc, 1,
														   &isnull));

		Utility(psprintf("DROP TRIGGER %s ON %s",
						 quote_identifier(SPI_getvalue(found->vals[r],
													   found->tupdesc, 2)),
						 RelationText(table)));
	}
	SPI_freetuptable(found);
}

void
ChangesDisable(Model *model)
{
	UncoverRelation(model, model->interactions);
	if (OidIsValid(model->entities))
		UncoverRelation(model, model->entities);

	/* it may have been dropped, and its OID be another's after a restore */
	if (get_rel_name(model->changes) && get_attnum(model->changes, model->key[0]) > 0)
		Utility(psprintf("DROP TABLE %s",
						 ModelRelationName(model, model->changes, "changes")));
	model->changes = InvalidOid;
}

/* A relation and all that it is a partition of, as an array. */
static Datum
WithAncestors(Oid relation)
{
	List	   *ancestors = get_rel_relispartition(relation) ?
		get_partition_ancestors(relation) : NIL;
	Datum	   *oids = palloc(sizeof(Datum) * (list_length(ancestors) + 1));
	int			count = 0;
	ListCell   *lc;

	oids[count++] = ObjectIdGetDatum(relation);
	foreach(lc, ancestors)
		oids[count++] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(oids, count, OIDOID, sizeof(Oid),
										   true, TYPALIGN_INT));
}

/* Who a relation belongs to, or InvalidOid where it is gone. */
static Oid
RelationOwner(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Writes the keys of one model.  The rights are those of whoever owns the
 * table of keys, as far as the server lets code of that role run for another.
 */
static void
RecordKeys(const Model *model, const TriggerData *data)
{
	Oid			owner = RelationOwner(model->changes);
	char	   *keys = KeyList(model);
	char	   *there = KeysThere(model);
	StringInfoData sql;
	RightsScope scope;

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of changed keys of model \"%s\" no longer exists",
						model->name),
				 errhint("Set the option \"staleness\" with limaml_set_options, or drop the model.")));
	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (%s) ",
					 RelationText(model->changes), keys);
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		appendStringInfo(&sql, "SELECT DISTINCT %s FROM %s", keys,
						 ModelRelationName(model, model->embeddings,
										   "embeddings"));
	else if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		appendStringInfo(&sql, "SELECT DISTINCT %s FROM limaml_new%s", keys,
						 there);
	else if (TRIGGER_FIRED_BY_DELETE(data->tg_event))
		appendStringInfo(&sql, "SELECT DISTINCT %s FROM limaml_old%s", keys,
						 there);
	else
		appendStringInfo(&sql, "SELECT %s FROM limaml_old%s UNION SELECT %s FROM limaml_new%s",
						 keys, there, keys, there);
	EnterRights(&scope, owner, owner == GetUserId() ? 0 :
				SECURITY_RESTRICTED_OPERATION);
	if (SPI_execute(sql.data, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not execute: %s", sql.data);
	LeaveRights(&scope);
}

PG_FUNCTION_INFO_V1(limaml_record_changes);

/*
 * Trigger after INSERT, UPDATE, DELETE or TRUNCATE, for each statement: writes
 * the keys of the changed rows down for every model that reads this relation
 * and has the option "staleness": "changes".
 */
Datum
limaml_record_changes(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Parameters	parameters = {0};
	SPITupleTable *found;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_FOR_STATEMENT(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("limaml_record_changes() must be called as a trigger for each statement")));

	SPI_connect();
	if (SPI_register_trigger_data(data) < 0)
		elog(ERROR, "could not register transition tables");
	AddParameter(&parameters, OIDARRAYOID,
				 WithAncestors(RelationGetRelid(data->tg_relation)), false);

	/*
	 * A transaction's snapshot may be older than the model's option, which
	 * waited for nobody who had not yet locked this relation.
	 */
	PushActiveSnapshot(GetLatestSnapshot());
	ExecuteAsCatalog("SELECT model, entity_key, embeddings, changes"
					 " FROM limaml.stored_model WHERE changes IS NOT NULL"
					 " AND (interactions OPERATOR(pg_catalog.=) ANY ($1)"
					 " OR entities OPERATOR(pg_catalog.=) ANY ($1))",
					 &parameters, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	found = SPI_tuptable;
	for (uint64 r = 0; r < found->numvals; r++)
	{
		Model		model = {0};
		bool		isnull;

		model.name = SPI_getvalue(found->vals[r], found->tupdesc, 1);
		model.key = TextArray(SPI_getbinval(found->vals[r], found->tupdesc, 2,
											&isnull), &model.keys);
		model.embeddings = DatumGetObjectId(SPI_getbinval(found->vals[r],
														  found->tupdesc, 3,
														  &isnull));
		model.changes = DatumGetObjectId(SPI_getbinval(found->vals[r],
													   found->tupdesc, 4,
													   &isnull));
		RecordKeys(&model, data);
	}
	SPI_finish();
	return PointerGetDatum(NULL);
}
