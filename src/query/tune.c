/*-------------------------------------------------------------------------
 *
 * tune.c
 *	  limaml_tune: random search over options, with successive halving.
 *
 * All trials learn side by side from the rows that limaml_compare trains on,
 * and are judged on those that validate: so a comparison of what was found is
 * still on rows that nothing was chosen by.  Each time the epochs double, the
 * worse half of the trials ends (Jamieson and Talwalkar, Non-stochastic Best
 * Arm Identification and Hyperparameter Optimization, AISTATS 2016).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "common/shortest_dec.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "math/random.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "query/learner.h"
#include "query/train.h"
#include "query/training_rows.h"
#include "query/version.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#define MOST_TRIALS 1000

/* After so many attempts a trial has options that another has. */
#define MOST_DRAWS 50

/* Share of its epochs that a trial is first judged after. */
#define FIRST_RUNG 0.125

/* Stream of random numbers that options are drawn by. */
#define STREAM_TRIALS UINT64_C(0xfffffffc00000000)

/*
 * Options that say which rows train and which judge, or by what measure: trials
 * that differed in them could not be compared.
 */
static const char *const fixed_options[] = {
	"loss", "weight", "validation_fraction", "validation_entities",
	"test_fraction", "negatives", "negative_sampling", NULL
};

typedef struct Trial
{
	int			number;
	Jsonb	   *given;			/* options that were drawn */
	ModelOptions options;
	MemoryContext context;		/* of its learner, or NULL when it has ended */
	TrainingRows own_rows;		/* where its encoders are of its own */
	TrainingRows *rows;
	TrainedNetwork trained;
	Learner    *learner;
	int			epochs;			/* done */
	bool		diverged;
	EpochRecord best;			/* the epoch of the largest gain */
	double		gain;
	double		seconds;
} Trial;

typedef struct Search
{
	const Model *model;
	ModelOptions options;		/* the model's own */
	TrainingRows rows;
	RowSplit	split;
	bool		with_id;
	int			trials;
	Trial	   *trial;
	int			running;
	Trial	  **order;			/* those that run, the best first */
} Search;

static void
BadRange(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("search of option \"%s\" must be an array of values, or an object with \"min\" and \"max\"",
					name),
			 errhint("For example {\"%s\": {\"min\": 0.001, \"max\": 0.01, \"log\": true}}.",
					 name)));
}

/* A number of a range's; NaN where it is not there. */
static double
RangeNumber(JsonbContainer *range, const char *field, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(range, field,
													 strlen(field), NULL);

	if (value == NULL || value->type != jbvNumeric)
		BadRange(name);
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											  NumericGetDatum(value->val.numeric)));
}

/* Draws a number of a range into JSON. */
static void
DrawNumber(StringInfo json, JsonbContainer *range, const char *name,
		   Random *random)
{
	double		least = RangeNumber(range, "min", name);
	double		most = RangeNumber(range, "max", name);
	JsonbValue *log_field = getKeyJsonValueFromContainer(range, "log", 3, NULL);
	bool		is_log = log_field && log_field->type == jbvBool &&
		log_field->val.boolean;
	double		number = random_uniform(random);
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (JsonContainerSize(range) != (log_field ? 3 : 2) ||
		(log_field && log_field->type != jbvBool))
		BadRange(name);
	if (!isfinite(least) || !isfinite(most) || least > most || (is_log && least <= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("search of option \"%s\" from %g to %g is no range%s",
						name, least, most,
						is_log ? " on a logarithmic scale" : "")));
	if (OptionIsInteger(name))
	{
		if (least != rint(least) || most != rint(most))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" must be an integer", name)));
		number = is_log ?
			rint(exp(log(least) + number * (log(most) - log(least)))) :
			least + floor(number * (most - least + 1));
		appendStringInfo(json, "%.0f", Min(Max(number, least), most));
		return;
	}
	number = is_log ? exp(log(least) + number * (log(most) - log(least))) :
		least + number * (most - least);
	double_to_shortest_decimal_buf(Min(Max(number, least), most), digits);
	appendStringInfoString(json, digits);
}

/* Draws one of an array's values into JSON. */
static void
DrawElement(StringInfo json, JsonbContainer *array, const char *name,
			Random *random)
{
	int			count = JsonContainerSize(array);
	JsonbValue *value;
	Jsonb	   *jsonb;

	if (count == 0)
		BadRange(name);
	value = getIthJsonbValueFromContainer(array, random_below(random, count));
	jsonb = JsonbValueToJsonb(value);
	JsonbToCString(json, &jsonb->root, VARSIZE(jsonb));
}

/* Options of a trial, drawn from all that is searched. */
static Jsonb *
DrawOptions(const Jsonb *search, Random *random)
{
	JsonbIterator *it = JsonbIteratorInit(unconstify(JsonbContainer *, &search->root));
	JsonbIteratorToken token;
	JsonbValue	value;
	StringInfoData json;
	char	   *name = NULL;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(value.val.string.val, value.val.string.len);
			for (int i = 0; fixed_options[i]; i++)
				if (strcmp(name, fixed_options[i]) == 0)
					ereport(ERROR,
							(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							 errmsg("option \"%s\" cannot be searched", name),
							 errdetail("Trials are judged by the same measure on the same rows.")));
			if (json.len > 1)
				appendStringInfoString(&json, ", ");
			escape_json(&json, name);
			appendStringInfoString(&json, ": ");
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvBinary)
				BadRange(name);
			if (JsonContainerIsObject(value.val.binary.data))
				DrawNumber(&json, value.val.binary.data, name, random);
			else
				DrawElement(&json, value.val.binary.data, name, random);
		}
	}
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(json.data)));
}

/* Options that no trial before the t-th has, if they are soon found. */
static Jsonb *
DrawOther(const Search *search, int t, const Jsonb *space, Random *random)
{
	for (int attempt = 1;; attempt++)
	{
		Jsonb	   *drawn = DrawOptions(space, random);
		bool		is_new = true;

		for (int other = 0; other < t && is_new; other++)
			is_new = compareJsonbContainers(&search->trial[other].given->root,
											&drawn->root) != 0;
		if (is_new || attempt == MOST_DRAWS)
			return drawn;
	}
}

/*
 * All trials' options, so that what is wrong with one of them is known before
 * any has learned.  The first trial is the model as it is.
 */
static void
DrawTrials(Search *search, const Jsonb *space)
{
	Random		random;

	if (!JB_ROOT_IS_OBJECT(space) || JB_ROOT_COUNT(space) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("search must be a JSON object of options")));
	random_seed_stream(&random, search->options.seed, STREAM_TRIALS);
	search->trial = palloc0(mul_size(search->trials, sizeof(Trial)));
	search->order = palloc(mul_size(search->trials, sizeof(Trial *)));
	for (int t = 0; t < search->trials; t++)
	{
		Trial	   *trial = &search->trial[t];

		trial->number = t + 1;
		trial->given = DrawOther(search, t, space, &random);
		CatalogOptions(search->model, trial->given, &trial->options);
		if (t == 0)
		{
			trial->given = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
															  CStringGetDatum("{}")));
			trial->options = search->options;
		}
		if (trial->options.personalization == PERSONALIZATION_ID)
			search->with_id = true;
		search->order[search->running++] = trial;
	}
}

/* Whether a trial's encoders are those of the model's own options. */
static bool
SharesRows(const Search *search, const Trial *trial)
{
	return trial->options.min_count == search->options.min_count &&
		trial->options.max_categories == search->options.max_categories;
}

static void
BeginTrial(Search *search, Trial *trial)
{
	MemoryContext old;

	trial->context = AllocSetContextCreate(CurrentMemoryContext,
										   "limaml trial",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(trial->context);
	trial->rows = &search->rows;
	if (!SharesRows(search, trial))
	{
		TrainingRowsRead(&trial->own_rows, search->model, &trial->options,
						 &search->split, search->with_id, false);
		trial->rows = &trial->own_rows;
	}
	trial->learner = LearnerCreate(&trial->options, &trial->trained,
								   trial->rows);
	MemoryContextSwitchTo(old);
}

static void
EndTrial(Trial *trial)
{
	if (trial->rows == &trial->own_rows)
		ExampleStoreFree(trial->own_rows.store);
	MemoryContextDelete(trial->context);
	trial->context = NULL;
}

/* Goes on to so many epochs in all. */
static void
LearnOn(Search *search, Trial *trial, int epochs)
{
	MemoryContext old = MemoryContextSwitchTo(trial->context);

	LearnerBegin(trial->learner, epochs - trial->epochs);
	while (trial->epochs < epochs)
	{
		EpochRecord record = LearnerEpoch(trial->learner, true);
		double		gain = EpochGain(&trial->options, &record);

		if (trial->epochs++ == 0 || isnan(trial->gain) || gain > trial->gain)
		{
			trial->best = record;
			trial->gain = gain;
		}
		trial->seconds += record.seconds;
	}
	LearnerEnd(trial->learner);
	MemoryContextSwitchTo(old);
}

/* The same, where a trial that diverges is but a bad one. */
static void
ContinueTrial(Search *search, Trial *trial, int epochs)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	if (trial->diverged)
		return;
	if (trial->context == NULL)
		BeginTrial(search, trial);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		LearnOn(search, trial, epochs);
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
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error)
	{
		trial->diverged = true;
		trial->gain = get_float8_nan();
		trial->best.validation_loss = trial->best.validation_auc =
			trial->best.train_loss = trial->best.baseline_auc = get_float8_nan();
		ereport(NOTICE,
				(errmsg("trial %d diverged: %s", trial->number,
						error->message)));
	}
}

static int
CompareTrials(const void *a, const void *b)
{
	const Trial *x = *(Trial *const *) a;
	const Trial *y = *(Trial *const *) b;

	/* what has no figure comes last */
	if (isnan(x->gain) != isnan(y->gain))
		return isnan(x->gain) ? 1 : -1;
	if (!isnan(x->gain) && x->gain != y->gain)
		return x->gain > y->gain ? -1 : 1;
	return x->number - y->number;
}

static void
SayTrials(const Search *search)
{
	for (int i = 0; i < search->running; i++)
	{
		const Trial *trial = search->order[i];

		ereport(NOTICE,
				(errmsg("trial %d after %d epochs: validation loss %.4f, AUC %.4f, %.1f s: %s",
						trial->number, trial->epochs,
						trial->best.validation_loss,
						trial->best.validation_auc, trial->seconds,
						JsonbToCString(NULL, &trial->given->root,
									   VARSIZE(trial->given)))));
	}
}

/* Lets them learn, and halves them until all that are left are done. */
static Trial *
RunTrials(Search *search)
{
	for (double share = FIRST_RUNG;; share *= 2)
	{
		for (int i = 0; i < search->running; i++)
		{
			Trial	   *trial = search->order[i];

			ContinueTrial(search, trial,
						  (int) ceil(Min(share, 1) * trial->options.epochs));
		}
		qsort(search->order, search->running, sizeof(Trial *), CompareTrials);
		SayTrials(search);
		if (share >= 1)
			break;
		while (search->running > 1 &&
			   search->running > (search->trials + 1) * FIRST_RUNG / share / 2)
			EndTrial(search->order[--search->running]);
	}
	while (search->running > 1)
		EndTrial(search->order[--search->running]);
	EndTrial(search->order[0]);
	return search->order[0];
}

static void
StoreTrials(const Search *search, const Trial *best, int version)
{
	int			number = CatalogNextSearch(search->model);

	for (int t = 0; t < search->trials; t++)
	{
		const Trial *trial = &search->trial[t];
		TrialRecord record = {
			.search = number,
			.trial = trial->number,
			.options = trial->given,
			.epochs = trial->epochs,
			.best = trial->best,
			.seconds = trial->seconds,
			.version = trial == best ? version : 0
		};

		CatalogInsertTrial(search->model, &record);
	}
}

PG_FUNCTION_INFO_V1(limaml_tune);

/*
 * limaml_tune(model text, search jsonb, trials int): random search over the
 * named options, each given as an array of values or as a range {"min":, "max":,
 * "log":}.  The first trial is the model's own options.  Every trial becomes a
 * row of limaml.trial; the options of the best make a version, which is not
 * deployed.  Returns it, with the trial's figures on the rows that validate.
 */
Datum
limaml_tune(PG_FUNCTION_ARGS)
{
	Jsonb	   *space = PG_GETARG_JSONB_P(1);
	Search		search = {.trials = PG_GETARG_INT32(2)};
	MemoryContext caller = CurrentMemoryContext;
	RightsScope scope;
	Model	   *model;
	Trial	   *best;
	VersionRecord version;
	TrainingLog log;
	TupleDesc	desc;
	Datum		values[6];
	bool		nulls[6] = {false};
	Jsonb	   *options;
	int			number;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	PreventCommandIfReadOnly("limaml_tune()");
	if (search.trials < 1 || search.trials > MOST_TRIALS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trials must be between 1 and %d", MOST_TRIALS)));
	SPI_connect();
	model = CatalogModel(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	CatalogCheckOwner(model, "tune");
	search.model = model;

	EnterOwner(&scope, model);
	CatalogCheckEmbeddings(model, MetaEmbeddingType());
	CatalogOptions(model, NULL, &search.options);
	search.split = (RowSplit)
	{
		.test = search.options.test_fraction,
		.validation = search.options.validation_fraction
	};
	DrawTrials(&search, space);
	TrainingRowsRead(&search.rows, model, &search.options, &search.split,
					 search.with_id, true);
	if (search.rows.validation_rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("model \"%s\" has no rows that validate", model->name),
				 errdetail("Trials are judged on them."),
				 errhint("The option \"validation_fraction\" is their share.")));
	best = RunTrials(&search);
	if (isnan(best->gain))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("all trials diverged"),
				 errhint("Search lower values of \"inner_rate\" or \"learning_rate\".")));
	ExampleStoreFree(search.rows.store);

	TrainVersion(model, &best->options, &version, &log);
	number = AddVersion(model, &version, false);
	for (int e = 0; e < log.count; e++)
		CatalogInsertEpoch(model, number, &log.records[e]);
	StoreTrials(&search, best, number);
	LeaveRights(&scope);

	MemoryContextSwitchTo(caller);
	options = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(best->given));
	values[0] = Int32GetDatum(number);
	values[1] = Int32GetDatum(best->number);
	values[2] = JsonbPGetDatum(options);
	values[3] = Float8GetDatum(best->best.validation_loss);
	values[4] = Float8GetDatum(best->best.validation_auc);
	values[5] = Float8GetDatum(best->seconds);
	nulls[3] = isnan(best->best.validation_loss);
	nulls[4] = isnan(best->best.validation_auc);
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
