/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *	  limaml_evaluate: how well a version predicts rows that it has not
 *	  learned from, with adaptation and without.
 *
 * Entities adapt here and now, on rows that are older than those that they are
 * tested on; what embeddings are stored plays no part.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "model/trained_network.h"
#include "query/assessment.h"
#include "query/predictor.h"
#include "query/training_rows.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"

/* Resamples of the entities that a standard error is the deviation over. */
#define RESAMPLES 200

/* More segments than this are no summary. */
#define MOST_SEGMENTS 1000

/* What is asked for. */
typedef struct Evaluation
{
	const Model *model;
	int			version;
	Oid			relation;		/* or InvalidOid: held-out rows */
	char	   *segment;		/* column, or NULL */
	int			supports;		/* first rows that strangers adapt on */
	int		   *support;
	int			lags;
	Interval  **lag;

	TrainedNetwork *trained;
	ModelOptions options;		/* that it was trained with */
	TrainingRows rows;
	Assessment *assessment;

	/* of each tested row, in the order of the store: segment, and lags */
	int		   *extra;
	Size		extras;
	Size		room;

	int			diverged;		/* entities, or their states */
} Evaluation;

/* Counts or sizes from 0, none of them NULL. */
static void
SupportArgument(ArrayType *array, Evaluation *evaluation)
{
	Datum	   *values;
	bool	   *nulls;

	deconstruct_array(array, INT4OID, sizeof(int32), true, TYPALIGN_INT,
					  &values, &nulls, &evaluation->supports);
	if (evaluation->supports == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("support must not be empty")));
	evaluation->support = palloc(sizeof(int) * evaluation->supports);
	for (int i = 0; i < evaluation->supports; i++)
	{
		if (nulls[i] || DatumGetInt32(values[i]) < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("support must be numbers of rows, from 0")));
		evaluation->support[i] = DatumGetInt32(values[i]);
		for (int other = 0; other < i; other++)
			if (evaluation->support[other] == evaluation->support[i])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("support has %d twice",
								evaluation->support[i])));
	}
}

static void
LagArgument(ArrayType *array, Evaluation *evaluation)
{
	Datum	   *values;
	bool	   *nulls;

	deconstruct_array(array, INTERVALOID, sizeof(Interval), false,
					  TYPALIGN_DOUBLE, &values, &nulls, &evaluation->lags);
	if (evaluation->lags == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("refresh_lag must not be empty")));
	evaluation->lag = palloc(sizeof(Interval *) * evaluation->lags);
	for (int i = 0; i < evaluation->lags; i++)
	{
		const Interval *lag = nulls[i] ? NULL : DatumGetIntervalP(values[i]);

		/* a part below 0 could look into the future, whatever the sum */
		if (lag == NULL || lag->month < 0 || lag->day < 0 || lag->time < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("refresh_lag must be intervals, from 0")));
		evaluation->lag[i] = DatumGetIntervalP(values[i]);
		for (int other = 0; other < i; other++)
			if (DatumGetBool(DirectFunctionCall2(interval_eq, values[other],
												 values[i])))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("refresh_lag has %s twice",
								DatumGetCString(DirectFunctionCall1(interval_out,
																	values[i])))));
	}
}

/*
 * The network to evaluate.  Rows that the version itself may have learned from
 * tell nothing about it: without other rows it is the network of its first run
 * that is evaluated, on the rows that this one has not learned from.
 */
static void
ReadNetwork(Evaluation *evaluation)
{
	const Model *model = evaluation->model;
	bytea	   *file = OidIsValid(evaluation->relation) ?
		CatalogNetwork(model, evaluation->version, false) :
		CatalogValidationNetwork(model, evaluation->version);

	if (file == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("version %d of model \"%s\" has no rows that were held out",
						evaluation->version, model->name),
				 errdetail("It was imported, or trained without rows that validate."),
				 errhint("Give a relation of rows that it has not learned from.")));
	evaluation->trained = TrainedNetworkRead(VARDATA(file),
											 VARSIZE(file) - VARHDRSZ, false,
											 CurrentMemoryContext);
	pfree(file);
	CatalogVersionOptions(model, evaluation->trained->options,
						  &evaluation->options);
	evaluation->options.loss = evaluation->trained->shape.loss;
}

/* Where the column that makes the segments is. */
static void
FindSegment(const Evaluation *evaluation, SourceTested *tested)
{
	const Model *model = evaluation->model;
	Oid			relation = OidIsValid(evaluation->relation) ?
		evaluation->relation : model->interactions;

	if (evaluation->segment == NULL)
		return;
	tested->segment = evaluation->segment;
	if (get_attnum(relation, evaluation->segment) > 0)
		return;
	tested->segment_of_entity = evaluation->rows.source.entities != NULL &&
		get_attnum(model->entities, evaluation->segment) > 0;
	if (!tested->segment_of_entity)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						evaluation->segment, get_rel_name(relation)),
				 errdetail("Segments are the values of a column of this relation, or of the model's entities.")));
}

static void
CheckLags(const Evaluation *evaluation)
{
	Oid			type = getBaseType(evaluation->rows.source.event_time.type);

	if (evaluation->lags > 0 && type != TIMESTAMPTZOID &&
		type != TIMESTAMPOID && type != DATEOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("event time \"%s\" of type %s has no intervals",
						evaluation->model->event_time,
						format_type_be(evaluation->rows.source.event_time.type)),
				 errhint("A refresh_lag takes timestamps or dates.")));
}

static void
AddExtra(Evaluation *evaluation, int value)
{
	if (evaluation->extras == evaluation->room)
	{
		evaluation->room = mul_size(evaluation->room, 2);
		evaluation->extra = repalloc_huge(evaluation->extra,
										  mul_size(evaluation->room,
												   sizeof(int)));
	}
	evaluation->extra[evaluation->extras++] = value;
}

/* The segment that a row's own column makes. */
static int
ColumnSegment(Evaluation *evaluation, const ScannedRow *row)
{
	int			at = row->extra_at + 1;
	int			segment;

	segment = AssessmentSegment(evaluation->assessment,
								row->isnull[at] ? NULL :
								TextDatumGetCString(row->values[at]));
	if (segment > MOST_SEGMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("column \"%s\" makes more than %d segments",
						evaluation->segment, MOST_SEGMENTS)));
	return segment;
}

static void
StoreTestedRow(TrainingRows *rows, const ScannedRow *row, void *state)
{
	Evaluation *evaluation = state;
	FeatureCode *codes = palloc(sizeof(FeatureCode) *
								(rows->interaction.count +
								 rows->entity.count + 1));

	if (row->first)
	{
		ExampleStoreEntity(rows->store, row->parts);
		ReadEntityCodes(rows, row, codes);
		ExampleStoreMeta(rows->store, codes);
	}
	ReadInteractionCodes(rows, row, codes);
	ExampleStoreAdd(rows->store, &row->interaction, codes);
	if (row->number < row->parts.training)
		return;
	if (evaluation->segment)
		AddExtra(evaluation, ColumnSegment(evaluation, row));
	for (int l = 0; l < evaluation->lags; l++)
	{
		int64		dropped = DatumGetInt64(row->values[0]) - 1 - row->number;
		int64		there = DatumGetInt64(row->values[row->extra_at + 2 + l]);

		AddExtra(evaluation, (int) Max(there - dropped, 0));
	}
}

/* Reads the rows, with the network's own encoders. */
static void
ReadRows(Evaluation *evaluation)
{
	TrainingRows *rows = &evaluation->rows;
	RowSplit	split = {
		.cold = evaluation->options.validation_entities,
		.validation = evaluation->options.validation_fraction
	};
	SourceTested tested = {
		.strangers = evaluation->supports > 0,
		.lags = evaluation->lags,
		.lag = evaluation->lag
	};
	bool		held_out = !OidIsValid(evaluation->relation);

	TrainingRowsInit(rows, evaluation->model, &evaluation->options,
					 evaluation->trained, &split);
	CheckLags(evaluation);
	FindSegment(evaluation, &tested);
	if (!held_out)
		tested.relation = SourceTestedRelation(&rows->source,
											   evaluation->relation);
	evaluation->room = 1024;
	evaluation->extra = palloc(sizeof(int) * evaluation->room);
	TrainingRowsScan(rows, SourceRowsQuery(&rows->source, &tested), !held_out,
					 held_out && evaluation->supports > 0 ? SCAN_LEFT_OUT :
					 SCAN_ALL, StoreTestedRow, evaluation);
}

/*
 * Adapts to the first `support` rows, and adds n rows from `first` on to a
 * segment.  Who diverges counts unadapted.
 */
static void
TestAfter(Evaluation *evaluation, Predictor *predictor, int e,
		  const Examples *examples, int support, int first, int n, int segment)
{
	TestedRows	tested = {
		.entity = e,
		.examples = examples,
		.first = first,
		.n = n,
		.segment = segment
	};

	if (!AssessAfter(evaluation->assessment, &tested, predictor, support))
		evaluation->diverged++;
}

/*
 * The same rows after adapting on the first k, for each k.  Entities with no
 * more rows than the largest k have nothing to be compared by.
 */
static void
TestSupports(Evaluation *evaluation, Predictor *predictor, int e,
			 const Examples *examples)
{
	int			first = 0;
	int			n;

	for (int s = 0; s < evaluation->supports; s++)
		first = Max(first, evaluation->support[s]);
	n = examples->parts.rows - first;
	if (n <= 0)
		return;
	PredictorEntity(predictor, examples);
	for (int s = 0; s < evaluation->supports; s++)
	{
		int			k = evaluation->support[s];

		TestAfter(evaluation, predictor, e, examples, k, first, n, s);
	}
}

/*
 * Each row after adapting on what was there a lag before it: the rows that are
 * tested become support as time goes on.
 */
static void
TestLags(Evaluation *evaluation, Predictor *predictor, int e,
		 const Examples *examples, const int *extra)
{
	int			first = examples->parts.training;
	int			n = examples->parts.rows - first;

	PredictorEntity(predictor, examples);
	for (int l = 0; l < evaluation->lags; l++)
	{
		for (int i = 0; i < n;)
		{
			int			there = extra[i * evaluation->lags + l];
			int			same = 1;

			while (i + same < n &&
				   extra[(i + same) * evaluation->lags + l] == there)
				same++;
			CHECK_FOR_INTERRUPTS();
			TestAfter(evaluation, predictor, e, examples, there, first + i,
					  same, l);
			i += same;
		}
	}
}

/*
 * Has the positive rows ranked among the items, where there are any.  The
 * number of scans is at least what one look at each tested row takes.
 */
static void
RankRows(Evaluation *evaluation)
{
	Negatives  *negatives = evaluation->rows.negatives;
	ExampleStore *store = evaluation->rows.store;
	int64		entities = 0;
	int64		rows = 0;
	int64		scans;
	int			every;

	if (negatives == NULL)
		return;
	for (int e = 0; e < ExampleStoreEntities(store); e++)
	{
		ExampleParts parts = ExampleStoreParts(store, e);

		entities++;
		rows += evaluation->supports > 0 ? parts.rows :
			parts.rows - parts.training;
	}
	scans = negatives->items->complete && evaluation->lags == 0 ?
		entities : rows;
	scans *= Max(evaluation->supports, Max(evaluation->lags, 1));
	every = AssessmentRank(evaluation->assessment, negatives, Max(scans, 1));
	if (every > 1)
		ereport(NOTICE,
				(errmsg("ranking among all %d items for one in %d of " INT64_FORMAT " entities",
						negatives->items->count, every, entities),
				 errdetail("The metrics \"hit_rate@10 (all)\" and \"ndcg@10 (all)\" are those of these entities.")));
}

static void
TestRows(Evaluation *evaluation)
{
	ExampleStore *store = evaluation->rows.store;
	int			per_row = (evaluation->segment ? 1 : 0) + evaluation->lags;
	const int  *extra = evaluation->extra;
	Predictor	predictor;

	RankRows(evaluation);
	PredictorInit(&predictor, evaluation->trained);
	for (int e = 0; e < ExampleStoreEntities(store); e++)
	{
		ExampleParts parts = ExampleStoreParts(store, e);
		Examples	examples;

		CHECK_FOR_INTERRUPTS();
		if (evaluation->supports > 0)
		{
			examples = ExampleStoreRead(store, e);
			TestSupports(evaluation, &predictor, e, &examples);
		}
		else if (parts.rows > parts.training)
		{
			examples = ExampleStoreRead(store, e);
			if (evaluation->lags > 0)
				TestLags(evaluation, &predictor, e, &examples, extra);
			else if (!AssessEntity(evaluation->assessment, &predictor, e,
								   &examples,
								   evaluation->segment ? extra : NULL))
				evaluation->diverged++;
		}
		extra += (Size) per_row * (parts.rows - parts.training);
	}
	if (evaluation->diverged > 0)
		ereport(WARNING,
				(errmsg_plural("the inner loop diverged %d time",
							   "the inner loop diverged %d times",
							   evaluation->diverged, evaluation->diverged),
				 errdetail("Rows that were to be scored with what came of it count unadapted.")));
}

/* No figures would leave the user to guess. */
static void
NothingToTest(const Evaluation *evaluation)
{
	const char *interactions = evaluation->rows.source.interactions;

	if (evaluation->supports > 0 && !OidIsValid(evaluation->relation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("version %d of model \"%s\" left out no entity with more rows than that",
						evaluation->version, evaluation->model->name),
				 errdetail("The option \"validation_entities\" was %g for it; of fewer than %d entities none is left out.",
						   evaluation->options.validation_entities,
						   FEWEST_ENTITIES_TO_LEAVE_OUT),
				 errhint("Give a relation with rows of entities that are not in %s, or ask for less support.",
						 interactions)));
	if (evaluation->supports > 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("relation \"%s\" has no entity with more rows than that and without rows in %s",
						get_rel_name(evaluation->relation), interactions)));
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("relation \"%s\" has no rows to test",
					get_rel_name(OidIsValid(evaluation->relation) ?
								 evaluation->relation :
								 evaluation->model->interactions))));
}

static Datum
NumberOrNull(double number, bool *isnull)
{
	*isnull = isnan(number);
	return Float8GetDatum(number);
}

static void
ReturnFigures(Evaluation *evaluation, ReturnSetInfo *result)
{
	int			count;
	Figure	   *figures = AssessmentFigures(evaluation->assessment, RESAMPLES,
											&count);

	if (count == 0)
		NothingToTest(evaluation);
	for (int i = 0; i < count; i++)
	{
		const Figure *figure = &figures[i];
		Datum		values[7];
		bool		nulls[7] = {false};

		nulls[0] = figure->segment == NULL;
		if (figure->segment)
			values[0] = CStringGetTextDatum(figure->segment);
		values[1] = Int64GetDatum(figure->entities);
		values[2] = Int64GetDatum(figure->interactions);
		values[3] = CStringGetTextDatum(figure->metric);
		values[4] = NumberOrNull(figure->value, &nulls[4]);
		values[5] = NumberOrNull(figure->unadapted, &nulls[5]);
		values[6] = NumberOrNull(figure->standard_error, &nulls[6]);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
}

PG_FUNCTION_INFO_V1(limaml_evaluate);

/*
 * limaml_evaluate(model text, relation regclass, version int, segment text,
 * support int[], refresh_lag interval[]): metrics of a version, or the
 * deployed one, on the rows of a relation, each entity adapted on its older
 * interactions; without a relation, of the network of its first run on the
 * rows that this has not learned from.  Segments are numbers of support rows,
 * or the values of a column; with support the number of first rows that an
 * unknown entity adapts on; with refresh_lag how long before a tested row its
 * support ends.  The standard error is of the value, by a bootstrap over
 * entities.
 */
Datum
limaml_evaluate(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Evaluation	evaluation = {0};
	RightsScope scope;
	Model	   *model;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	InitMaterialize(fcinfo);
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "evaluate");
	evaluation.model = model;
	if (!PG_ARGISNULL(1))
	{
		evaluation.relation = PG_GETARG_OID(1);
		if (!OidIsValid(evaluation.relation))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist",
							evaluation.relation)));
	}
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						PG_GETARG_INT32(2)),
				 errhint("Versions count from 1.")));
	evaluation.version =
		CatalogVersion(model, !PG_ARGISNULL(2) ? PG_GETARG_INT32(2) :
					   model->deployed > 0 ? 0 : -1, false)->number;
	if (!PG_ARGISNULL(3))
		evaluation.segment = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (!PG_ARGISNULL(4))
		SupportArgument(PG_GETARG_ARRAYTYPE_P(4), &evaluation);
	if (!PG_ARGISNULL(5))
		LagArgument(PG_GETARG_ARRAYTYPE_P(5), &evaluation);
	if ((evaluation.segment != NULL) + (evaluation.supports > 0) +
		(evaluation.lags > 0) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("segment, support and refresh_lag cannot be combined"),
				 errdetail("Each of them makes the segments.")));

	EnterOwner(&scope, model);
	ReadNetwork(&evaluation);
	evaluation.assessment = AssessmentCreate(evaluation.trained->shape.loss);
	if (evaluation.supports == 0 && evaluation.lags == 0)
		AssessmentAddAll(evaluation.assessment);
	if (evaluation.segment == NULL && evaluation.supports == 0 &&
		evaluation.lags == 0)
		AssessmentAddSupportSegments(evaluation.assessment);

	/* in the order in which they were given */
	for (int s = 0; s < evaluation.supports; s++)
		AssessmentSegment(evaluation.assessment,
						  psprintf("%d", evaluation.support[s]));
	for (int l = 0; l < evaluation.lags; l++)
		AssessmentSegment(evaluation.assessment,
						  DatumGetCString(DirectFunctionCall1(interval_out,
															  IntervalPGetDatum(evaluation.lag[l]))));
	ReadRows(&evaluation);
	TestRows(&evaluation);
	if (evaluation.segment)
		AssessmentSortSegments(evaluation.assessment);
	ReturnFigures(&evaluation, result);
	LeaveRights(&scope);
	ExampleStoreFree(evaluation.rows.store);
	SPI_finish();
	return (Datum) 0;
}
