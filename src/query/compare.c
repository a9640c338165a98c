/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  limaml_compare: what other ways to personalise come to on the same rows.
 *
 * Every arm is trained as limaml_train does, on each entity's older rows, and
 * is tested on the newest, which nothing has learned from.  All arms share the
 * rows: once with those that validate, and once with these to train on.  No
 * version is made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "math/maml.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "query/assessment.h"
#include "query/damped_mean.h"
#include "query/learner.h"
#include "query/training_rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "compat.h"

/* The arm that is no network. */
#define DAMPED_MEAN "damped_mean"
#define PERSONALIZATION_DAMPED_MEAN (-1)

#define MOST_SEEDS 100

typedef struct Arm
{
	const char *name;
	int			personalization;

	/* results: figures of each run, all of the same segments and metrics */
	int			runs;
	Figure	  **figures;
	double		seconds;		/* of all runs */
	Size		bytes;			/* that an entity keeps */
} Arm;

typedef struct Comparison
{
	const Model *model;
	int			seeds;
	int			arms;
	Arm		   *arm;
	int			figures;		/* of a run */
	TrainingRows first;			/* with rows that validate */
	TrainingRows all;			/* where these train too */
	bool		validates;
} Comparison;

static int
ArmPersonalization(const char *name)
{
	StringInfoData known;

	if (strcmp(name, DAMPED_MEAN) == 0)
		return PERSONALIZATION_DAMPED_MEAN;
	initStringInfo(&known);
	for (int i = 0; personalization_labels[i]; i++)
	{
		if (strcmp(name, personalization_labels[i]) == 0)
			return i;
		appendStringInfo(&known, ", %s", personalization_labels[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown arm \"%s\"", name),
			 errhint("Arms are " DAMPED_MEAN "%s.", known.data)));
	return 0;					/* keep compiler quiet */
}

static void
ArmsArgument(Datum array, Comparison *comparison)
{
	char	  **names = TextArray(array, &comparison->arms);

	if (comparison->arms == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arms must not be empty")));
	comparison->arm = palloc0(sizeof(Arm) * comparison->arms);
	for (int a = 0; a < comparison->arms; a++)
	{
		Arm		   *arm = &comparison->arm[a];

		arm->name = names[a];
		arm->personalization = ArmPersonalization(names[a]);
		for (int other = 0; other < a; other++)
			if (comparison->arm[other].personalization == arm->personalization)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("arm \"%s\" is named twice", names[a])));
		arm->figures = palloc0(sizeof(Figure *) * comparison->seeds);
	}
}

static bool
HasArm(const Comparison *comparison, int personalization)
{
	for (int a = 0; a < comparison->arms; a++)
		if (comparison->arm[a].personalization == personalization)
			return true;
	return false;
}

/* The model's options with this arm and the s-th seed. */
static void
ArmOptions(const Comparison *comparison, const Arm *arm, int s,
		   ModelOptions *options)
{
	char	   *given;

	CatalogOptions(comparison->model, NULL, options);
	given = psprintf("{\"personalization\": \"%s\", \"seed\": %d}", arm->name,
					 (int) ((uint32) options->seed + s));
	CatalogOptions(comparison->model,
				   DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													  CStringGetDatum(given))),
				   options);

	/* a rate that is right for embeddings is far too long for networks */
	if (KEEPS_NETWORKS(arm->personalization))
	{
		options->inner_rate = OPTION_UNSET;
		OptionsFinish(options);
	}
}

static void
ReadBoth(Comparison *comparison, const ModelOptions *options)
{
	bool		with_id = HasArm(comparison, PERSONALIZATION_ID);
	RowSplit	split = {
		.test = options->test_fraction,
		.validation = options->validation_fraction
	};
	int64		tested = 0;

	TrainingRowsRead(&comparison->first, comparison->model, options, &split,
					 with_id, true);
	split.all_train = true;
	TrainingRowsRead(&comparison->all, comparison->model, options, &split,
					 with_id, false);
	comparison->validates = comparison->first.validation_rows > 0;
	for (int e = 0; e < ExampleStoreEntities(comparison->all.store); e++)
	{
		ExampleParts parts = ExampleStoreParts(comparison->all.store, e);

		tested += parts.rows - parts.learnable;
	}
	if (tested == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("relation %s has too few interactions to test on",
						comparison->all.source.interactions)));
	ereport(NOTICE,
			(errmsg("comparing arms trained on " INT64_FORMAT " interactions, of which " INT64_FORMAT " validate, and tested on " INT64_FORMAT " newer ones",
					comparison->all.training_rows + comparison->all.validation_rows,
					comparison->first.validation_rows, tested)));
}

static Assessment *
NewAssessment(const TrainingRows *rows)
{
	Assessment *assessment = AssessmentCreate(rows->options->loss);

	AssessmentRank(assessment, rows->negatives, 0);

	AssessmentAddAll(assessment);
	AssessmentAddSupportSegments(assessment);
	return assessment;
}

/* Tests a network on the rows that nothing has learned from. */
static Assessment *
TestNetwork(const Comparison *comparison, const Arm *arm,
			const TrainedNetwork *trained)
{
	ExampleStore *store = comparison->all.store;
	Assessment *assessment = NewAssessment(&comparison->all);
	int			diverged = 0;
	Predictor	predictor;

	PredictorInit(&predictor, trained);
	for (int e = 0; e < ExampleStoreEntities(store); e++)
	{
		ExampleParts parts = ExampleStoreParts(store, e);
		Examples	examples;

		CHECK_FOR_INTERRUPTS();
		if (parts.rows == parts.training)
			continue;
		examples = ExampleStoreRead(store, e);
		if (!AssessEntity(assessment, &predictor, e, &examples, NULL))
			diverged++;
	}
	if (diverged > 0)
		ereport(WARNING,
				(errmsg_plural("the inner loop of arm \"%s\" diverged for %d entity",
							   "the inner loop of arm \"%s\" diverged for %d entities",
							   diverged, arm->name, diverged),
				 errdetail("Their rows count unadapted.")));
	return assessment;
}

/* What an entity keeps of its own for an arm. */
static Size
BytesPerEntity(const TrainedNetwork *trained)
{
	const NetworkShape *shape = &trained->shape;

	switch (trained->personalization)
	{
		case PERSONALIZATION_NONE:
			return 0;
		case PERSONALIZATION_ID:
			/* its vector, and its wide scalar */
			return (network_embedding_size(shape) + 1) * sizeof(float);
		case PERSONALIZATION_HEAD:
			return maml_adapted_count(shape, MAML_HEAD) * sizeof(float);
		case PERSONALIZATION_FULL:
			return maml_adapted_count(shape, MAML_FULL) * sizeof(float);
		default:
			return network_embedding_size(shape) * sizeof(float);
	}
}

/* Trains and tests an arm with one seed. */
static Assessment *
RunNetwork(Comparison *comparison, Arm *arm, int s)
{
	TrainedNetwork trained = {0};
	TrainingLog log;
	ModelOptions options;
	TimestampTz start = GetCurrentTimestamp();

	ArmOptions(comparison, arm, s, &options);
	TrainingLogInit(&log, &options);
	if (comparison->validates)
	{
		TrainedNetwork first = {0};

		LearnEpochs(&options, &first, &comparison->first, false, &log);
		LearnAgain(&options, &trained, &comparison->all, log.epochs, false,
				   &log);
	}
	else
		LearnEpochs(&options, &trained, &comparison->all, false, &log);
	arm->seconds += (GetCurrentTimestamp() - start) / 1e6;
	arm->bytes = BytesPerEntity(&trained);
	return TestNetwork(comparison, arm, &trained);
}

/* The damped mean, whose damping is chosen on the rows that validate. */
static Assessment *
RunDampedMean(Comparison *comparison, Arm *arm)
{
	Assessment *assessment;
	TimestampTz start = GetCurrentTimestamp();
	DampedMean	mean;

	DampedMeanFit(&mean, &comparison->first, &comparison->all);
	arm->seconds += (GetCurrentTimestamp() - start) / 1e6;
	arm->bytes = sizeof(float);
	assessment = NewAssessment(&comparison->all);
	DampedMeanAssess(&mean, &comparison->all, assessment);
	return assessment;
}

/*
 * Runs an arm in the current memory context; NULL where its training has
 * diverged, which is no reason to lose what the other arms have come to.
 */
static Assessment *
TryArm(Comparison *comparison, Arm *arm, int s)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Assessment *volatile assessment = NULL;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		assessment = arm->personalization == PERSONALIZATION_DAMPED_MEAN ?
			RunDampedMean(comparison, arm) : RunNetwork(comparison, arm, s);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		assessment = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error)
		ereport(WARNING,
				(errmsg("arm \"%s\", run %d, is left out: %s", arm->name,
						s + 1, error->message)));
	return assessment;
}

/* One run of an arm; its figures go into the context that is current. */
static void
RunArm(Comparison *comparison, Arm *arm, int s)
{
	MemoryContext outside = CurrentMemoryContext;
	MemoryContext run = AllocSetContextCreate(outside, "limaml arm",
											  ALLOCSET_DEFAULT_SIZES);
	double		before = arm->seconds;
	Assessment *assessment;
	Figure	   *figures;

	MemoryContextSwitchTo(run);
	assessment = TryArm(comparison, arm, s);
	if (assessment == NULL)
	{
		MemoryContextSwitchTo(outside);
		MemoryContextDelete(run);
		return;
	}
	figures = AssessmentFigures(assessment, 0, &comparison->figures);
	MemoryContextSwitchTo(outside);
	arm->figures[arm->runs] = palloc(sizeof(Figure) * comparison->figures);
	for (int f = 0; f < comparison->figures; f++)
	{
		arm->figures[arm->runs][f] = figures[f];
		arm->figures[arm->runs][f].segment = pstrdup(figures[f].segment);
	}
	arm->runs++;
	ereport(NOTICE,
			(errmsg("arm \"%s\", run %d: %s %.4f, %.1f s", arm->name,
					arm->runs, figures[0].metric, figures[0].value,
					arm->seconds - before)));
	MemoryContextDelete(run);
}

/* Mean of a figure over an arm's runs; NaN where there is no such arm. */
static double
MeanFigure(const Comparison *comparison, int personalization, int f)
{
	for (int a = 0; a < comparison->arms; a++)
	{
		const Arm  *arm = &comparison->arm[a];
		double		sum = 0;

		if (arm->personalization != personalization || arm->runs == 0)
			continue;
		for (int r = 0; r < arm->runs; r++)
			sum += arm->figures[r][f].value;
		return sum / arm->runs;
	}
	return get_float8_nan();
}

/* The standard error of that mean; NaN with fewer than two runs. */
static double
ErrorOfMean(const Arm *arm, int f, double mean)
{
	double		squares = 0;

	for (int r = 0; r < arm->runs; r++)
		squares += (arm->figures[r][f].value - mean) *
			(arm->figures[r][f].value - mean);
	return arm->runs < 2 ? get_float8_nan() :
		sqrt(squares / (arm->runs - 1) / arm->runs);
}

static Datum
NumberOrNull(double number, bool *isnull)
{
	*isnull = isnan(number);
	return Float8GetDatum(number);
}

static void
ReturnArm(const Comparison *comparison, const Arm *arm, ReturnSetInfo *result)
{
	for (int f = 0; f < comparison->figures && arm->runs > 0; f++)
	{
		const Figure *figure = &arm->figures[0][f];
		double		mean = MeanFigure(comparison, arm->personalization, f);
		Datum		values[9];
		bool		nulls[9] = {false};

		values[0] = CStringGetTextDatum(arm->name);
		values[1] = CStringGetTextDatum(figure->segment);
		values[2] = CStringGetTextDatum(figure->metric);
		values[3] = NumberOrNull(mean, &nulls[3]);
		values[4] = NumberOrNull(mean - MeanFigure(comparison, PERSONALIZATION_NONE, f),
								 &nulls[4]);
		values[5] = NumberOrNull(mean - MeanFigure(comparison, PERSONALIZATION_ID, f),
								 &nulls[5]);
		values[6] = NumberOrNull(ErrorOfMean(arm, f, mean), &nulls[6]);
		values[7] = Float8GetDatum(arm->seconds / arm->runs);
		values[8] = Int32GetDatum((int32) arm->bytes);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
}

PG_FUNCTION_INFO_V1(limaml_compare);

/*
 * limaml_compare(model text, arms text[], seeds int): trains each arm with so
 * many seeds on the declared rows, without the newest of each entity (option
 * test_fraction), and returns its metrics on these, by segments of entities
 * with so many support rows: means over the seeds, their differences from
 * those of the arms none and id, standard errors over the seeds, seconds to
 * train, and the bytes that an entity keeps.
 */
Datum
limaml_compare(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Comparison	comparison = {0};
	ModelOptions options;
	RightsScope scope;
	Model	   *model;

	InitMaterialize(fcinfo);
	SPI_connect();
	comparison.seeds = PG_GETARG_INT32(2);
	if (comparison.seeds < 1 || comparison.seeds > MOST_SEEDS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("seeds must be between 1 and %d", MOST_SEEDS)));
	ArmsArgument(PG_GETARG_DATUM(1), &comparison);
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "compare arms of");
	comparison.model = model;

	EnterOwner(&scope, model);
	CatalogOptions(model, NULL, &options);
	ReadBoth(&comparison, &options);
	for (int a = 0; a < comparison.arms; a++)
	{
		Arm		   *arm = &comparison.arm[a];
		bool		random = arm->personalization != PERSONALIZATION_DAMPED_MEAN;

		/* chance has no part in a mean */
		for (int s = 0; s < (random ? comparison.seeds : 1); s++)
			RunArm(&comparison, arm, s);
	}
	for (int a = 0; a < comparison.arms; a++)
		ReturnArm(&comparison, &comparison.arm[a], result);
	LeaveRights(&scope);
	ExampleStoreFree(comparison.first.store);
	ExampleStoreFree(comparison.all.store);
	SPI_finish();
	return (Datum) 0;
}
