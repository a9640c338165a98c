/*-------------------------------------------------------------------------
 *
 * train.c
 *	  limaml_train: meta-trains a network on a model's declared rows and adds
 *	  it as a version.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "model/trained_network.h"
#include "query/learner.h"
#include "query/training_rows.h"
#include "query/version.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Everything up to the version's record. */
static void
Train(const Model *model, const Jsonb *given, VersionRecord *version,
	  TrainingLog *log)
{
	TimestampTz start = GetCurrentTimestamp();
	TrainedNetwork *trained = palloc0(sizeof(TrainedNetwork));
	TrainingRows rows;
	ModelOptions options;
	const EpochRecord *kept;

	CatalogOptions(model, given, &options);
	TrainingRowsRead(&rows, model, &options, &trained->interaction,
					 &trained->entity);
	ereport(NOTICE,
			(errmsg("training on " INT64_FORMAT " interactions of " INT64_FORMAT " entities, validating on " INT64_FORMAT,
					rows.training_rows, rows.entities,
					rows.validation_rows)));

	trained->context = CurrentMemoryContext;
	trained->personalization = options.personalization;
	trained->recency = options.recency;
	trained->support_rows = options.support_rows;
	trained->options = OptionsToJson(&options);
	Learn(&options, trained, &rows, log);
	ExampleStoreFree(rows.store);

	memset(version, 0, sizeof(*version));
	version->network = TrainedNetworkWrite(trained);
	memcpy(version->digest, trained->digest, SAFETENSORS_DIGEST_BYTES);
	version->options = trained->options;
	version->entities = rows.entities;
	version->interactions = rows.training_rows + rows.validation_rows;
	version->epochs = log->epochs;
	kept = &log->records[log->best];
	version->train_loss = kept->train_loss;
	version->validation_loss = kept->validation_loss;
	version->validation_auc = kept->validation_auc;
	version->baseline_auc = kept->baseline_auc;
	version->seconds = (GetCurrentTimestamp() - start) / 1e6;
}

PG_FUNCTION_INFO_V1(limaml_train);

/*
 * limaml_train(model text, options jsonb): trains a network on the declared
 * rows and adds it as a version, which is deployed if it is the first.
 * Returns the version and how it did.  Losses are means per row; the AUC and
 * the validation loss are of the first run, whose network had not learned
 * from the rows that validate; baseline_auc is the same network's, unadapted.
 */
Datum
limaml_train(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *given = PG_GETARG_JSONB_P(1);
	Model	   *model;
	VersionRecord version;
	TrainingLog log = {0};
	RightsScope scope;
	TupleDesc	desc;
	Datum		values[9];
	bool		nulls[9] = {false};
	int			number;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	PreventCommandIfReadOnly("limaml_train()");
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	model = CatalogModel(name, false);
	CatalogCheckOwner(model, "train");

	EnterOwner(&scope, model);
	CatalogCheckEmbeddings(model, MetaEmbeddingType());
	Train(model, given, &version, &log);
	number = AddVersion(model, &version);
	for (int e = 0; e < log.count; e++)
		CatalogInsertEpoch(model, number, &log.records[e]);
	LeaveRights(&scope);
	SPI_finish();

	values[0] = Int32GetDatum(number);
	values[1] = Int32GetDatum(version.epochs);
	values[2] = Int64GetDatum(version.entities);
	values[3] = Int64GetDatum(version.interactions);
	values[4] = Float8GetDatum(version.train_loss);
	values[5] = Float8GetDatum(version.validation_loss);
	values[6] = Float8GetDatum(version.validation_auc);
	values[7] = Float8GetDatum(version.baseline_auc);
	values[8] = Float8GetDatum(version.seconds);
	for (int i = 4; i < 8; i++)
		nulls[i] = isnan(DatumGetFloat8(values[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
