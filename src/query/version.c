/*-------------------------------------------------------------------------
 *
 * version.c
 *	  limaml_deploy, limaml_drop_version, limaml_export and limaml_import:
 *	  versions once trained.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "model/entity_key.h"
#include "model/network_cache.h"
#include "model/trained_network.h"
#include "query/version.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

/*
 * Share of a page that a partition's inserts fill.  A refreshed embedding finds
 * room on its own page, and no index needs to know: even when all are refreshed
 * while somebody's snapshot keeps all old versions.
 */
#define PARTITION_FILLFACTOR 50

static void
CreatePartition(const Model *model, int version)
{
	Oid			schema = get_rel_namespace(model->embeddings);
	char	   *table = ModelRelationName(model, model->embeddings,
										  "embeddings");
	char	   *partition = ChooseRelationName(get_rel_name(model->embeddings),
											   NULL,
											   psprintf("v%d", version),
											   schema, false);
	char	   *sql = psprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES IN (%d) WITH (fillfactor = %d)",
							   quote_qualified_identifier(get_namespace_name(schema),
														  partition),
							   table, version, PARTITION_FILLFACTOR);

	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create a partition: %s", sql);
}

int
AddVersion(const Model *model, const VersionRecord *record, bool deploy)
{
	int			version = CatalogInsertVersion(model, record);

	CreatePartition(model, version);
	if (deploy)
		CatalogDeploy(model, version, true);
	return version;
}

/* A version as an argument gives it: a number from 1. */
static int
VersionArgument(const Model *model, int number)
{
	if (number < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						number),
				 errhint("Versions count from 1.")));
	return number;
}

/*
 * Entities that have an embedding of one version and none of the other, which
 * one without rows does not need.
 */
static int64
MissingEmbeddings(const Model *model, int old, int new)
{
	char	   *table = ModelRelationName(model, model->embeddings,
										  "embeddings");
	EntityKey	key;
	StringInfoData sql;
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(old), Int32GetDatum(new)};
	bool		isnull;
	int64		missing;

	EntityKeyInit(&key, model, model->embeddings, "embeddings");
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*) FROM %s AS o"
					 " WHERE o.version OPERATOR(pg_catalog.=) $1"
					 " AND o.interactions OPERATOR(pg_catalog.>) 0"
					 " AND NOT EXISTS (SELECT FROM %s AS n"
					 " WHERE n.version OPERATOR(pg_catalog.=) $2", table,
					 table);
	for (int k = 0; k < key.count; k++)
	{
		const char *name = quote_identifier(key.columns[k].name);

		appendStringInfo(&sql, " AND n.%s %s o.%s", name,
						 key.columns[k].equality, name);
	}
	appendStringInfoChar(&sql, ')');
	if (SPI_execute_with_args(sql.data, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count missing embeddings");
	missing = DatumGetInt64(ResultColumn(1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return missing;
}

PG_FUNCTION_INFO_V1(limaml_deploy);

/*
 * limaml_deploy(model text, version int, force boolean): makes a version, or
 * the newest one, the one that later queries score with.  Unless forced it is
 * refused while entities have an embedding of the deployed version and none of
 * this.  Returns its number.
 */
Datum
limaml_deploy(PG_FUNCTION_ARGS)
{
	Model	   *model;
	RightsScope scope;
	int			version;
	bool		force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	PreventCommandIfReadOnly("limaml_deploy()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "deploy");
	version = CatalogVersion(model, PG_ARGISNULL(1) ? -1 :
							 VersionArgument(model, PG_GETARG_INT32(1)),
							 false)->number;
	(void) CachedNetwork(model, CatalogVersion(model, version, false), false,
						 CurrentMemoryContext);
	EnterOwner(&scope, model);
	if (model->deployed != 0 && model->deployed != version && !force)
	{
		int64		missing = MissingEmbeddings(model, model->deployed,
												version);

		if (missing > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("version %d of model \"%s\" lacks embeddings of entities that version %d has",
							version, model->name, model->deployed),
					 errdetail_plural(INT64_FORMAT " embedding is missing.",
									  INT64_FORMAT " embeddings are missing.",
									  missing, missing),
					 errhint("CALL limaml_refresh(%s, version => %d) makes them, or use force => true: until they are refreshed, these entities are scored with their priors.",
							 quote_literal_cstr(model->name), version)));
	}
	CatalogDeploy(model, version, false);
	LeaveRights(&scope);
	SPI_finish();
	PG_RETURN_INT32(version);
}

/* The partition of the embeddings that holds a version, or InvalidOid. */
static Oid
VersionPartition(const Model *model, int version)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];
	bool		isnull;
	Oid			partition = InvalidOid;

	values[0] = ObjectIdGetDatum(model->embeddings);
	values[1] = CStringGetTextDatum(psprintf("FOR VALUES IN (%d)", version));
	if (SPI_execute_with_args("SELECT c.oid FROM pg_catalog.pg_inherits AS i"
							  " JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid"
							  " WHERE i.inhparent OPERATOR(pg_catalog.=) $1"
							  " AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) OPERATOR(pg_catalog.=) $2",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a partition");
	if (SPI_processed > 0)
		partition = DatumGetObjectId(ResultColumn(1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return partition;
}

PG_FUNCTION_INFO_V1(limaml_drop_version);

/*
 * limaml_drop_version(model text, version int): forgets a version that is not
 * deployed, and drops the partition of its embeddings.
 */
Datum
limaml_drop_version(PG_FUNCTION_ARGS)
{
	Model	   *model;
	RightsScope scope;
	Oid			partition;
	int			version;

	PreventCommandIfReadOnly("limaml_drop_version()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "drop a version of");
	version = CatalogVersion(model, VersionArgument(model, PG_GETARG_INT32(1)),
							 false)->number;
	if (version == model->deployed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("version %d of model \"%s\" is deployed", version,
						model->name),
				 errhint("Deploy another one first, with limaml_deploy.")));
	CatalogLockRefresh(model);
	EnterOwner(&scope, model);
	partition = VersionPartition(model, version);
	if (OidIsValid(partition))
	{
		char	   *sql = psprintf("DROP TABLE %s",
								   ModelRelationName(model, partition,
													 "embeddings"));

		if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not drop a partition: %s", sql);
	}
	CatalogDeleteVersion(model, version);
	LeaveRights(&scope);
	SPI_finish();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(limaml_export);

/*
 * limaml_export(model text, version int): the network of a version, or of the
 * deployed one, as a safetensors file.
 */
Datum
limaml_export(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext old;
	Model	   *model;
	Version    *version;
	bytea	   *network;
	bytea	   *result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);
	version = CatalogVersion(model, PG_ARGISNULL(1) ? 0 :
							 VersionArgument(model, PG_GETARG_INT32(1)), true);
	network = CatalogNetwork(model, version->number, true);
	old = MemoryContextSwitchTo(caller);
	result = (bytea *) PG_DETOAST_DATUM_COPY(PointerGetDatum(network));
	MemoryContextSwitchTo(old);
	SPI_finish();
	PG_RETURN_BYTEA_P(result);
}

/* A network of this model reads the model's own features. */
static void
CheckFeatures(const Model *model, const Encoder *encoder, int count,
			  int declared, char **names, const char *what)
{
	if (count != declared)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("network reads %d %s, and model \"%s\" declares %d",
						count, what, model->name, declared)));
	for (int f = 0; f < declared; f++)
	{
		const char *name = encoder->features[f].name;
		int			length = strlen(name);

		/* as declared, or before the kind that was declared with it */
		if (strcmp(names[f], name) != 0 &&
			(strncmp(names[f], name, length) != 0 || names[f][length] != ':'))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("network reads \"%s\" where model \"%s\" declares \"%s\"",
							name, model->name, names[f])));
	}
}

PG_FUNCTION_INFO_V1(limaml_import);

/*
 * limaml_import(model text, network bytea): adds a safetensors file that
 * limaml_export or another program wrote as a version.  Returns its number.
 */
Datum
limaml_import(PG_FUNCTION_ARGS)
{
	bytea	   *file = PG_GETARG_BYTEA_PP(1);
	VersionRecord record = {0};
	TrainedNetwork *trained;
	ModelOptions options;
	RightsScope scope;
	Model	   *model;
	int			width;
	int			version;

	PreventCommandIfReadOnly("limaml_import()");
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "import a network into");
	trained = TrainedNetworkRead(VARDATA_ANY(file), VARSIZE_ANY_EXHDR(file),
								 false, CurrentMemoryContext);
	CatalogVersionOptions(model, trained->options, &options);
	CheckFeatures(model, &trained->interaction, CandidateFeatures(trained),
				  model->features, model->feature, "features");
	CheckFeatures(model, &trained->entity, trained->entity.count,
				  model->meta_features, model->meta_feature, "meta features");
	width = CatalogCheckEmbeddings(model,
								   MetaEmbeddingType());
	if (network_embedding_size(&trained->shape) != width)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("network makes embeddings of %d numbers, and model \"%s\" holds %d",
						network_embedding_size(&trained->shape), model->name,
						width)));

	/*
	 * Written anew, the file has its digest where a digest is looked for, and
	 * names the columns that are this model's.
	 */
	trained->label = model->label;
	trained->event_time = model->event_time;
	record.network = TrainedNetworkWrite(trained);
	memcpy(record.digest, trained->digest, SAFETENSORS_DIGEST_BYTES);
	record.options = trained->options;
	record.train_loss = record.validation_loss = get_float8_nan();
	record.validation_auc = record.baseline_auc = get_float8_nan();
	EnterOwner(&scope, model);
	version = AddVersion(model, &record,
						 !KEEPS_NETWORKS(trained->personalization));
	LeaveRights(&scope);
	SPI_finish();
	PG_RETURN_INT32(version);
}
