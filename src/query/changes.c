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
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "query/changes.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
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

/* The qualified, quoted name of the trigger function. */
static char *
TriggerFunction(void)
{
	return quote_qualified_identifier(get_namespace_name(ExtensionSchema()),
									  "limaml_record_changes");
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

/* Whether a relation can have triggers with transition tables. */
static void
CheckTable(Oid relation)
{
	char		kind = get_rel_relkind(relation);

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table, and the option \"staleness\" is \"changes\"",
						get_rel_name(relation)),
				 errhint("Changes are recorded by triggers. Use the option \"staleness\": \"event_time\".")));
}

/*
 * Keys go from a table that may be another role's into one of the model's
 * owner, with the owner's rights: nothing is to be converted on the way, for a
 * conversion may be code of that other role's.
 */
static void
CheckKeyColumns(const Model *model, Oid table)
{
	for (int k = 0; k < model->keys; k++)
	{
		AttrNumber	from = get_attnum(table, model->key[k]);
		AttrNumber	to = get_attnum(model->changes, model->key[k]);

		if (from <= 0 || to <= 0 ||
			get_atttype(table, from) != get_atttype(model->changes, to))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of \"%s\" was altered since model \"%s\" records its changes",
							model->key[k], get_rel_name(table), model->name),
					 errhint("Set the option \"staleness\" anew with limaml_set_options, or drop the model.")));
	}
}

static bool
HasTriggers(Oid relation)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];
	bool		found;

	values[0] = ObjectIdGetDatum(relation);
	values[1] = CStringGetTextDatum(psprintf("%s()", TriggerFunction()));
	if (SPI_execute_with_args("SELECT FROM pg_catalog.pg_trigger"
							  " WHERE tgrelid OPERATOR(pg_catalog.=) $1"
							  " AND tgfoid OPERATOR(pg_catalog.=) $2::pg_catalog.regprocedure",
							  2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for triggers");
	found = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	return found;
}

/*
 * Creates the triggers on a relation and its partitions or children where they
 * are not, and with record writes down the keys that these hold.
 */
static void
CoverRelation(const Model *model, Oid relation, bool record)
{
	List	   *tables;
	ListCell   *lc;

	CheckTable(relation);
	if (has_superclass(relation))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a part of another table, and the option \"staleness\" is \"changes\"",
						get_rel_name(relation)),
				 errdetail("What is written through that table fires no trigger of this one."),
				 errhint("Name the whole table, or use the option \"staleness\": \"event_time\".")));

	/*
	 * Where triggers exist, for another model, creating them does not wait for
	 * the writers whose statements did not know of this one yet.
	 */
	tables = LockRelationTree(relation, record ? AccessShareLock :
							  ShareRowExclusiveLock);
	foreach(lc, tables)
	{
		Oid			table = lfirst_oid(lc);
		char	   *name = RelationText(table);

		/*
		 * A part that somebody else has added is not the model's owner's to
		 * guard.
		 */
		if (record && !HasTriggers(table) &&
			(pg_class_aclcheck(table, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK ||
			 pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK))
		{
			ereport(WARNING,
					(errmsg("changes of \"%s\" are not recorded for model \"%s\" where they are written to it by its own name",
							get_rel_name(table), model->name),
					 errhint("Grant SELECT and TRIGGER on it to the model's owner.")));
			continue;
		}
		if (record && !HasTriggers(table))
			LockRelationOid(table, ShareRowExclusiveLock);
		if (HasTriggers(table))
		{
			if (!record &&
				pg_class_aclcheck(table, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
				aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE,
							   get_rel_name(table));
			continue;
		}
		CheckTable(table);
		for (int t = 0; t < (int) lengthof(triggers); t++)
			Utility(psprintf("CREATE TRIGGER limaml_record_%s AFTER %s ON %s%s FOR EACH STATEMENT EXECUTE FUNCTION %s()",
							 asc_tolower(triggers[t].event,
										 strlen(triggers[t].event)),
							 triggers[t].event, name, triggers[t].transition,
							 TriggerFunction()));
		if (record)
		{
			char	   *sql;

			CheckKeyColumns(model, table);
			sql = psprintf("INSERT INTO %s (%s) SELECT DISTINCT %s FROM ONLY %s%s",
						   ModelRelationName(model, model->changes, "changes"),
						   KeyList(model), KeyList(model), name,
						   KeysThere(model));
			if (SPI_execute(sql, false, 0) != SPI_OK_INSERT)
				elog(ERROR, "could not execute: %s", sql);

			/* other models that read it are to look at all they have */
			CatalogForgetOthers(model, relation);
		}
	}
}

/* The keys of both relations go into one table. */
static void
CheckKeyTypes(const Model *model)
{
	for (int k = 0; k < model->keys; k++)
	{
		Oid			type = get_atttype(model->interactions,
									   get_attnum(model->interactions,
												  model->key[k]));
		Oid			other = get_atttype(model->entities,
										get_attnum(model->entities,
												   model->key[k]));

		if (type != other)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" is of type %s in \"%s\" and of type %s in \"%s\", and the option \"staleness\" is \"changes\"",
							model->key[k], format_type_be(type),
							get_rel_name(model->interactions),
							format_type_be(other),
							get_rel_name(model->entities)),
					 errhint("Make them of one type, or use the option \"staleness\": \"event_time\".")));
	}
}

static bool
HasEntities(const Model *model)
{
	return OidIsValid(model->entities) && model->meta_features > 0;
}

static void
Cover(const Model *model, bool record)
{
	CoverRelation(model, model->interactions, record);
	if (HasEntities(model))
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
	StringInfoData columns;

	if (HasEntities(model))
		CheckKeyTypes(model);

	/* of the keys' types, but of any length that a relation might have */
	initStringInfo(&columns);
	for (int k = 0; k < model->keys; k++)
	{
		const char *column = quote_identifier(model->key[k]);
		Oid			type = get_atttype(model->embeddings,
									   get_attnum(model->embeddings,
												  model->key[k]));

		appendStringInfo(&columns, "%s%s::%s AS %s", k > 0 ? ", " : "", column,
						 format_type_extended(type, -1,
											  FORMAT_TYPE_FORCE_QUALIFY |
											  FORMAT_TYPE_TYPEMOD_GIVEN),
						 column);
	}

	/* emptied as often as it is filled: to be vacuumed by what was deleted */
	Utility(psprintf("CREATE TABLE %s WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)"
					 " AS SELECT %s FROM %s WITH NO DATA", name,
					 columns.data,
					 ModelRelationName(model, model->embeddings,
									   "embeddings")));
	Utility(psprintf("CREATE INDEX ON %s (%s)", name, KeyList(model)));
	model->changes = get_relname_relid(table, schema);
	Cover(model, false);
}

/*
 * Drops the triggers of a relation that no other model needs; where the
 * relation is another's they remain, and do nothing.
 */
static void
UncoverRelation(const Model *model, Oid relation)
{
	Parameters	parameters = {0};
	ListCell   *lc;

	AddInteger(&parameters, model->id);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(relation), false);
	ExecuteAsCatalog("SELECT FROM limaml.stored_model"
					 " WHERE changes IS NOT NULL AND id OPERATOR(pg_catalog.<>) $1"
					 " AND (interactions OPERATOR(pg_catalog.=) $2 OR entities OPERATOR(pg_catalog.=) $2)",
					 &parameters, false, SPI_OK_SELECT);
	if (SPI_processed > 0 || get_rel_name(relation) == NULL)
		return;
	foreach(lc, LockRelationTree(relation, AccessShareLock))
	{
		Oid			table = lfirst_oid(lc);

		if (!has_privs_of_role(GetUserId(), RelationOwner(table)) ||
			!HasTriggers(table))
			continue;
		for (int t = 0; t < (int) lengthof(triggers); t++)
			Utility(psprintf("DROP TRIGGER IF EXISTS limaml_record_%s ON %s",
							 asc_tolower(triggers[t].event,
										 strlen(triggers[t].event)),
							 RelationText(table)));
	}
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
	SPIPlanPtr	plan;

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of changed keys of model \"%s\" no longer exists",
						model->name),
				 errhint("Set the option \"staleness\" with limaml_set_options, or drop the model.")));
	if (!TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		CheckKeyColumns(model, RelationGetRelid(data->tg_relation));
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

	/*
	 * TRUNCATE looks at all embeddings there are, which a transaction's
	 * snapshot may not show.
	 */
	plan = SPI_prepare(sql.data, 0, NULL);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, NULL, NULL,
							 TRIGGER_FIRED_BY_TRUNCATE(data->tg_event) ?
							 GetLatestSnapshot() : InvalidSnapshot,
							 InvalidSnapshot, false, true, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not execute: %s", sql.data);
	SPI_freeplan(plan);
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
	AddParameter(&parameters, OIDOID,
				 ObjectIdGetDatum(RelationGetRelid(data->tg_relation)), false);

	/*
	 * A transaction's snapshot may be older than the model's option, which
	 * waited for nobody who had not yet locked this relation.
	 */
	PushActiveSnapshot(GetLatestSnapshot());
	ExecuteAsCatalog("WITH RECURSIVE up AS (SELECT $1 AS table UNION"
					 " SELECT i.inhparent FROM pg_catalog.pg_inherits AS i"
					 " JOIN up ON i.inhrelid OPERATOR(pg_catalog.=) up.table)"
					 " SELECT m.model, m.entity_key, m.embeddings, m.changes"
					 " FROM limaml.stored_model AS m WHERE m.changes IS NOT NULL"
					 " AND EXISTS (SELECT FROM up"
					 " WHERE m.interactions OPERATOR(pg_catalog.=) up.table"
					 " OR m.entities OPERATOR(pg_catalog.=) up.table)",
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
