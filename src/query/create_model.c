/*-------------------------------------------------------------------------
 *
 * create_model.c
 *	  limaml_create_model, limaml_set_options and limaml_drop_model: a model's
 *	  declaration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "nodes/makefuncs.h"
#include "query/changes.h"
#include "query/source.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/varlena.h"

#include "compat.h"

/* Columns that every embeddings table has beside the key. */
static const char *const embedding_columns[] = {
	"version", "embedding", "interactions", "adapted_through", "loss_before",
	"loss_after", "adapted_at"
};

static char **
NameArray(ArrayType *array, const char *argument, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	char	  **names;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be an array of one dimension", argument)));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, count);
	names = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", argument)));
		names[i] = TextDatumGetCString(elements[i]);
	}
	return names;
}

/* A relation that rows can be read from. */
static void
CheckRelation(Oid relation, const char *argument)
{
	char		kind = get_rel_relkind(relation);

	if (kind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("%s: relation with OID %u does not exist", argument,
						relation)));
	if (get_rel_persistence(relation) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s: \"%s\" is temporary, and a model is not",
						argument, get_rel_name(relation))));
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		kind != RELKIND_VIEW && kind != RELKIND_MATVIEW &&
		kind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s: \"%s\" is not a table or view", argument,
						get_rel_name(relation))));
}

/* What the declaration says, held against the relations it names. */
static void
CheckDeclaration(const Model *model, const ModelOptions *options,
				 Source *source)
{
	Encoder		interaction = {0};
	Encoder		entity = {0};

	if (model->keys == 0 || model->keys >= INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entity_key must name 1 to %d columns",
						INDEX_MAX_KEYS - 1)));
	if (model->features == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("features must name at least one column")));
	if (model->label == NULL && options->items == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("label must not be null without the option \"items\""),
				 errdetail("Where every row is a positive, negatives are drawn from the relation of candidates that this option names.")));
	CatalogCheckLoss(model, options);
	if (model->meta_features > 0 && !OidIsValid(model->entities))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("meta_features need a relation that holds them"),
				 errhint("Name it as entities.")));

	for (int k = 0; k < model->keys; k++)
	{
		for (int i = 0; i < (int) lengthof(embedding_columns); i++)
			if (strcmp(model->key[k], embedding_columns[i]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("entity key column \"%s\" has the name of a column of every embeddings table",
								model->key[k]),
						 errhint("Give it another name in a view.")));
		for (int other = 0; other < k; other++)
			if (strcmp(model->key[k], model->key[other]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("entity key column \"%s\" is declared twice",
								model->key[k])));
	}

	SourceInitDeclared(source, model, options->weight, &interaction, &entity);
	if (options->items)
	{
		CheckRelation(ItemsRelation(options->items), "items");
		SourceAddItems(source, options->items, options->item_key);
	}
	for (int f = 0; f < source->features; f++)
		if (model->label && strcmp(source->feature[f].name, model->label) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("feature \"%s\" is the label", model->label),
					 errdetail("A candidate's label is not known when it is scored.")));
}

/*
 * Puts the qualified name of the items in the place of what was given: it is to
 * mean the same relation on every search path.
 */
static void
QualifyItems(Model *model, const ModelOptions *options)
{
	StringInfoData json;
	Oid			relation;

	if (options->items == NULL)
		return;
	relation = ItemsRelation(options->items);
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"items\": ");
	escape_json(&json,
				quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
										   get_rel_name(relation)));
	appendStringInfoChar(&json, '}');
	model->options = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
														JsonbPGetDatum(model->options),
														DirectFunctionCall1(jsonb_in,
																			CStringGetDatum(json.data))));
}

/* Creates the embeddings table and returns it. */
static Oid
CreateEmbeddings(const Source *source, RangeVar *table, Oid type_schema,
				 int embedding_size)
{
	const EntityKey *key = &source->key;
	Oid			schema = RangeVarGetCreationNamespace(table);
	StringInfoData sql;
	StringInfoData keys;

	if (isAnyTempNamespace(schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("embeddings table \"%s\" must not be temporary",
						table->relname)));
	initStringInfo(&sql);
	initStringInfo(&keys);
	appendStringInfo(&sql, "CREATE TABLE %s (",
					 quote_qualified_identifier(get_namespace_name(schema),
												table->relname));
	for (int k = 0; k < key->count; k++)
	{
		const KeyColumn *column = &key->columns[k];

		appendStringInfo(&sql, "%s %s",
						 quote_identifier(column->name),
						 format_type_extended(column->type, column->typmod,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
		if (OidIsValid(column->collation))
			appendStringInfo(&sql, " COLLATE %s",
							 generate_collation_name(column->collation));
		appendStringInfoString(&sql, ", ");
		appendStringInfo(&keys, "%s, ", quote_identifier(column->name));
	}
	appendStringInfo(&sql,
					 "version pg_catalog.int4, "
					 "embedding %s.meta_embedding(%d) NOT NULL, "
					 "interactions pg_catalog.int4 NOT NULL, "
					 "adapted_through %s, "
					 "loss_before pg_catalog.float4 NOT NULL, "
					 "loss_after pg_catalog.float4 NOT NULL, "
					 "adapted_at pg_catalog.timestamptz NOT NULL, "
					 "PRIMARY KEY (%sversion)) PARTITION BY LIST (version)",
					 quote_identifier(get_namespace_name(type_schema)),
					 embedding_size,
					 format_type_extended(source->event_time.type, -1,
										  FORMAT_TYPE_FORCE_QUALIFY),
					 keys.data);
	if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create the embeddings table: %s", sql.data);
	return get_relname_relid(table->relname, schema);
}

PG_FUNCTION_INFO_V1(limaml_create_model);

/*
 * limaml_create_model(model, interactions, entity_key, label, event_time,
 * features, entities, meta_features, embeddings, options): declares a model
 * and creates its embeddings table.
 */
Datum
limaml_create_model(PG_FUNCTION_ARGS)
{
	static const char *const arguments[] = {
		"model", "interactions", "entity_key", "label", "event_time",
		"features", "entities", "meta_features", "embeddings", "options"
	};
	Model		model = {0};
	ModelOptions options;
	Source		source;
	RangeVar   *table;
	Oid			type_schema = ExtensionSchema();

	for (int a = 0; a < (int) lengthof(arguments); a++)
		if (PG_ARGISNULL(a) && a != 3 && a != 6 && a != 8)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null", arguments[a])));

	PreventCommandIfReadOnly("limaml_create_model()");
	SPI_connect();
	model.name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	model.owner = GetUserId();
	model.interactions = PG_GETARG_OID(1);
	model.key = NameArray(PG_GETARG_ARRAYTYPE_P(2), "entity_key", &model.keys);
	model.label = PG_ARGISNULL(3) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(3));
	model.event_time = text_to_cstring(PG_GETARG_TEXT_PP(4));
	model.feature = NameArray(PG_GETARG_ARRAYTYPE_P(5), "features",
							  &model.features);
	model.entities = PG_ARGISNULL(6) ? InvalidOid : PG_GETARG_OID(6);
	model.meta_feature = NameArray(PG_GETARG_ARRAYTYPE_P(7), "meta_features",
								   &model.meta_features);
	model.options = PG_GETARG_JSONB_P(9);

	if (model.name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model must have a name")));
	if (CatalogModelExists(model.name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("model \"%s\" already exists", model.name)));
	CheckRelation(model.interactions, "interactions");
	if (OidIsValid(model.entities))
		CheckRelation(model.entities, "entities");
	CatalogOptions(&model, NULL, &options);
	CheckDeclaration(&model, &options, &source);
	QualifyItems(&model, &options);

	if (PG_ARGISNULL(8))
		table = makeRangeVar(NULL, makeObjectName(model.name, NULL,
												  "embedding"), -1);
	else
		table = makeRangeVarFromNameList(textToQualifiedNameList(PG_GETARG_TEXT_PP(8)));
	model.embeddings = CreateEmbeddings(&source, table, type_schema,
										options.embedding_size);
	if (options.staleness == STALENESS_CHANGES)
		ChangesEnable(&model);
	CatalogInsertModel(&model);
	SPI_finish();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(limaml_set_options);

/*
 * limaml_set_options(model text, options jsonb): lays these options over the
 * model's.  Those of training count from the next training on.
 */
Datum
limaml_set_options(PG_FUNCTION_ARGS)
{
	Jsonb	   *given = PG_GETARG_JSONB_P(1);
	ModelOptions before;
	ModelOptions options;
	Source		source;
	RightsScope scope;
	Model	   *model;

	PreventCommandIfReadOnly("limaml_set_options()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "change");
	CatalogOptions(model, NULL, &before);
	options = before;
	OptionsApply(&options, given, OPTIONS_OF_CHANGE);
	OptionsFinish(&options);
	CheckDeclaration(model, &options, &source);
	model->options = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
														JsonbPGetDatum(model->options),
														JsonbPGetDatum(given)));
	QualifyItems(model, &options);
	EnterOwner(&scope, model);
	if (options.staleness != before.staleness)
	{
		/* neither way of knowing knows what the other has seen */
		CatalogLockRefresh(model);
		CatalogForgetRefresh(model, 0);
		if (options.staleness == STALENESS_CHANGES)
			ChangesEnable(model);
		else
			ChangesDisable(model);
	}
	CatalogUpdateModel(model);
	LeaveRights(&scope);
	SPI_finish();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(limaml_drop_model);

/*
 * limaml_drop_model(model text): forgets a model, its versions and its
 * embeddings.
 */
Datum
limaml_drop_model(PG_FUNCTION_ARGS)
{
	Model	   *model;
	RightsScope scope;
	LOCKTAG		lock;
	AttrNumber	number;

	PreventCommandIfReadOnly("limaml_drop_model()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "drop");

	/* whoever refreshes it would wait for the tables that this waits for */
	ModelLock(&lock, model->id, REFRESH_LOCK);
	(void) LockAcquire(&lock, ExclusiveLock, false, false);
	EnterOwner(&scope, model);

	/*
	 * The table is the user's, who may have dropped it already; what bears its
	 * OID after a dump and restore could be any other.
	 */
	number = get_attnum(model->embeddings, "embedding");
	if (number > 0 && get_atttype(model->embeddings, number) ==
		MetaEmbeddingType())
	{
		char	   *sql = psprintf("DROP TABLE %s",
								   ModelRelationName(model, model->embeddings,
													 "embeddings"));

		if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not drop the embeddings table: %s", sql);
	}
	if (OidIsValid(model->changes))
		ChangesDisable(model);
	CatalogDeleteModel(model);
	LeaveRights(&scope);
	SPI_finish();
	PG_RETURN_VOID();
}
