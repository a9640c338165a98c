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
#include "query/train.h"
#include "query/training_rows.h"
#include "query/version.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* A memory context for a run, which goes as a whole. */
static MemoryContext
EnterRun(void)
{
	MemoryContext run = AllocSetContextCreate(CurrentMemoryContext,
											  "limaml training run",
											  ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(run);
	return run;
}

static void
LeaveRun(MemoryContext run)
{
	MemoryContextSwitchTo(MemoryContextGetParent(run));
	MemoryContextDelete(run);
}

/* The network as a file, outside of its run. */
static bytea *
WriteOutside(TrainedNetwork *trained, MemoryContext outside)
{
	bytea	   *inside = TrainedNetworkWrite(trained);
	Size		size = VARSIZE(inside);
	bytea	   *file = MemoryContextAllocExtended(outside, size,
												  MCXT_ALLOC_HUGE);

	memcpy(file, inside, size);
	return file;
}

static void
SayRows(const TrainingRows *rows)
{
	ereport(NOTICE,
			(errmsg("training on " INT64_FORMAT " interactions of " INT64_FORMAT " entities, validating on " INT64_FORMAT,
					rows->training_rows, rows->entities,
					rows->validation_rows),
			 rows->left_out == 0 ? 0 :
			 errdetail_plural(INT64_FORMAT " entity is left out at first, to be a cold start for limaml_evaluate.",
							  INT64_FORMAT " entities are left out at first, to be cold starts for limaml_evaluate.",
							  rows->left_out, rows->left_out)));
}

static void
TakeNetwork(VersionRecord *version, TrainedNetwork *trained,
			const TrainingRows *rows, MemoryContext outside)
{
	version->network = WriteOutside(trained, outside);
	memcpy(version->digest, trained->digest, SAFETENSORS_DIGEST_BYTES);
	version->options = MemoryContextStrdup(outside, trained->options);
	version->entities = ExampleStoreEntities(rows->store);
	version->interactions = rows->training_rows + rows->validation_rows;
}

void
TrainVersion(const Model *model, const ModelOptions *options,
			 VersionRecord *version, TrainingLog *log)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		with_id = options->personalization == PERSONALIZATION_ID;
	ModelOptions first = *options;
	ModelOptions second = *options;
	RowSplit	split = {
		.cold = options->validation_fraction > 0 ?
		options->validation_entities : 0,
		.validation = options->validation_fraction
	};
	const RowSplit all = {
		.validation = options->validation_fraction,
		.all_train = true
	};
	TrainedNetwork trained = {0};
	TrainingRows rows;
	const EpochRecord *kept;
	MemoryContext outside = CurrentMemoryContext;
	MemoryContext run;
	bool		again;

	memset(version, 0, sizeof(*version));
	TrainingLogInit(log, options);
	run = EnterRun();
	TrainingRowsRead(&rows, model, &first, &split, with_id, true);
	SayRows(&rows);
	second.negatives = TrainingRowsNegatives(&rows);
	first.validation_entities = rows.split.cold;
	LearnEpochs(&first, &trained, &rows, true, log);
	again = rows.validation_rows > 0 || rows.left_out > 0;
	if (again)
		version->validation_network = WriteOutside(&trained, outside);
	else
		TakeNetwork(version, &trained, &rows, outside);
	ExampleStoreFree(rows.store);
	LeaveRun(run);

	if (again)
	{
		memset(&trained, 0, sizeof(trained));
		run = EnterRun();
		TrainingRowsRead(&rows, model, &second, &all, with_id, false);
		LearnAgain(&second, &trained, &rows, log->epochs, true, log);
		TakeNetwork(version, &trained, &rows, outside);
		ExampleStoreFree(rows.store);
		LeaveRun(run);
	}

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
	ModelOptions options;
	VersionRecord version;
	TrainingLog log;
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
	CatalogOptions(model, given, &options);
	TrainVersion(model, &options, &version, &log);
	number = AddVersion(model, &version, !KEEPS_NETWORKS(options.personalization));
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
