/*-------------------------------------------------------------------------
 *
 * version.c
 *	  limaml_deploy, limaml_export and limaml_import: versions once trained.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "model/trained_network.h"
#include "query/version.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

/*
 * Share of a page that a partition's inserts fill: a refreshed embedding then
 * finds room on its own page, and no index needs to know.
 */
#define PARTITION_FILLFACTOR 80

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
AddVersion(const Model *model, const VersionRecord *record)
{
	int			version = CatalogInsertVersion(model, record);

	CreatePartition(model, version);
	CatalogDeploy(model, version, true);
	return version;
}

PG_FUNCTION_INFO_V1(limaml_deploy);

/*
 * limaml_deploy(model text, version int): makes a version, or the newest one,
 * the one that later queries score with.  Returns its number.
 */
Datum
limaml_deploy(PG_FUNCTION_ARGS)
{
	char	   *name;
	Model	   *model;
	int			version;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	PreventCommandIfReadOnly("limaml_deploy()");
	SPI_connect();
	model = CatalogModel(name, false);
	CatalogCheckOwner(model, "deploy");
	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", name,
						PG_GETARG_INT32(1)),
				 errhint("Versions count from 1.")));
	version = CatalogVersion(model, PG_ARGISNULL(1) ? -1 : PG_GETARG_INT32(1),
							 false)->number;
	CatalogDeploy(model, version, false);
	SPI_finish();
	PG_RETURN_INT32(version);
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
	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						PG_GETARG_INT32(1)),
				 errhint("Versions count from 1.")));
	version = CatalogVersion(model, PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1),
							 true);
	network = CatalogNetwork(model, version->number, true);
	old = MemoryContextSwitchTo(caller);
	result = (bytea *) PG_DETOAST_DATUM_COPY(PointerGetDatum(network));
	MemoryContextSwitchTo(old);
	SPI_finish();
	PG_RETURN_BYTEA_P(result);
}

/* A network of this model reads the model's own features. */
static void
CheckFeatures(const Model *model, const Encoder *encoder,
			  int declared, char **names, const char *what)
{
	if (encoder->count != declared)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("network reads %d %s, and model \"%s\" declares %d",
						encoder->count, what, model->name, declared)));
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
	OptionsDefault(&options);
	OptionsApply(&options,
				 DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													CStringGetDatum(trained->options))),
				 false);
	CheckFeatures(model, &trained->interaction,
				  model->features, model->feature, "features");
	CheckFeatures(model, &trained->entity,
				  model->meta_features, model->meta_feature, "meta features");
	width = CatalogCheckEmbeddings(model,
								   MetaEmbeddingType(fcinfo->flinfo->fn_oid));
	if (network_embedding_size(&trained->shape) != width)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("network makes embeddings of %d numbers, and model \"%s\" holds %d",
						network_embedding_size(&trained->shape), model->name,
						width)));

	/* written anew, the file has its digest where a digest is looked for */
	record.network = TrainedNetworkWrite(trained);
	memcpy(record.digest, trained->digest, SAFETENSORS_DIGEST_BYTES);
	record.options = trained->options;
	record.train_loss = record.validation_loss = get_float8_nan();
	record.validation_auc = record.baseline_auc = get_float8_nan();
	EnterOwner(&scope, model);
	version = AddVersion(model, &record);
	LeaveRights(&scope);
	SPI_finish();
	PG_RETURN_INT32(version);
}
