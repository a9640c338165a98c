/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The table of options, and its reading from and writing to JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/namespace.h"
#include "common/shortest_dec.h"
#include "model/embedding.h"
#include "model/options.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/varlena.h"

const char *const personalization_labels[] = {
	"limaml", "first_order", "none", "id", "head", "full", NULL
};
const char *const loss_labels[] = {"binary", "squared", NULL};
const char *const activation_labels[] = {"tanh", "relu", "gelu", NULL};
const char *const adapts_labels[] = {"meta_block", "embedding", NULL};
const char *const inner_weighting_labels[] = {
	"mean", "sqrt", "damped", "sqrt_damped", NULL
};
static const char *const split_labels[] = {
	"random_half", "prefix", "mixed", "fixed", NULL
};

static const char *const sampling_labels[] = {
	"uniform", "popularity", NULL
};

static const char *const staleness_labels[] = {
	"event_time", "changes", NULL
};

typedef enum OptionKind
{
	OPTION_BOOLEAN,
	OPTION_INTEGER,
	OPTION_REAL,
	OPTION_ENUM,
	OPTION_WIDTHS,
	OPTION_COLUMN,
	OPTION_RELATION,
	OPTION_INTERVAL
} OptionKind;

typedef struct OptionSpec
{
	const char *name;
	OptionKind	kind;
	size_t		field;			/* offset in ModelOptions */
	double		least;			/* of a number or a width */
	double		most;
	double		fallback;		/* default of a number, boolean or enum */
	const char *const *labels;	/* of an enum */
	bool		nullable;		/* null is off: the number 0, or NULL */
	bool		of_table;		/* the embeddings table depends on it */
	bool		of_model;		/* and not of a version */
} OptionSpec;

#define FIELD(name) #name
#define AT(name) offsetof(ModelOptions, name)

#define BOOLEAN(name, fallback) \
	{FIELD(name), OPTION_BOOLEAN, AT(name), 0, 1, fallback, NULL, false, false, false}
#define INTEGER(name, least, most, fallback) \
	{FIELD(name), OPTION_INTEGER, AT(name), least, most, fallback, NULL, false, false, false}
#define NUMBER(name, least, most, fallback) \
	{FIELD(name), OPTION_REAL, AT(name), least, most, fallback, NULL, false, false, false}
#define CHOICE(name, labels, fallback) \
	{FIELD(name), OPTION_ENUM, AT(name), 0, 0, fallback, labels, false, false, false}
#define WIDTHS(name) \
	{FIELD(name), OPTION_WIDTHS, AT(name), 1, 4096, 0, NULL, false, false, false}

/* Defaults are those that ranked best on real ratings; see CHANGELOG. */
static const OptionSpec option_specs[] = {
	CHOICE(personalization, personalization_labels, PERSONALIZATION_LIMAML),
	CHOICE(loss, loss_labels, LOSS_BINARY),
	{"embedding_size", OPTION_INTEGER, AT(embedding_size), 1, 4096, 32,
	NULL, false, true, false},
	INTEGER(factor_size, 0, 4096, OPTION_UNSET),
	WIDTHS(meta_hidden),
	WIDTHS(global_hidden),
	CHOICE(activation, activation_labels, ACTIVATION_TANH),
	CHOICE(adapts, adapts_labels, ADAPTS_EMBEDDING),
	INTEGER(inner_steps, 0, NETWORK_MAX_STEPS, 5),
	NUMBER(inner_rate, 0, 1e9, OPTION_UNSET),
	BOOLEAN(learn_inner_rate, false),
	INTEGER(order, 1, 2, 2),
	CHOICE(inner_weighting, inner_weighting_labels, WEIGHTING_SQRT),
	{"recency", OPTION_REAL, AT(recency), 1e-3, 1e9, 100, NULL, true, false,
	false},
	INTEGER(support_rows, 1, 16384, 256),
	CHOICE(support_split, split_labels, SPLIT_RANDOM_HALF),
	NUMBER(support_fraction, 0, 1, 0.5),
	NUMBER(prior_loss, 0, 1000, 0.2),
	NUMBER(category_dropout, 0, 0.9, 0),
	{"weight", OPTION_COLUMN, AT(weight), 0, 0, 0, NULL, true, false,
	false},
	INTEGER(category_size, 1, 1024, 16),
	INTEGER(min_count, 1, PG_INT32_MAX, 1),
	INTEGER(max_categories, 1, 10000000, 100000),
	INTEGER(epochs, 1, 10000, 16),
	INTEGER(patience, 1, 10000, OPTION_UNSET),
	INTEGER(batch_entities, 1, 65536, OPTION_UNSET),
	NUMBER(learning_rate, 1e-9, 10, OPTION_UNSET),
	NUMBER(weight_decay, 0, 1000, OPTION_UNSET),
	NUMBER(category_decay, 0, 1000, OPTION_UNSET),
	NUMBER(clip_norm, 0, 1e9, 5),
	NUMBER(validation_fraction, 0, 0.9, 0.1),
	NUMBER(validation_entities, 0, 0.5, 0.05),
	NUMBER(test_fraction, 0.01, 0.9, 0.2),
	INTEGER(seed, PG_INT32_MIN, PG_INT32_MAX, 0),
	INTEGER(negatives, 0, 100, OPTION_UNSET),
	CHOICE(negative_sampling, sampling_labels, SAMPLING_UNIFORM),
	{"items", OPTION_RELATION, AT(items), 0, 0, 0, NULL, true, false, true},
	{"item_key", OPTION_COLUMN, AT(item_key), 0, 0, 0, NULL, true, false,
	true},
	{"refresh_interval", OPTION_INTERVAL, AT(refresh_interval), 1, 0, 0, NULL,
	true, false, true},
	{"staleness", OPTION_ENUM, AT(staleness), 0, 0, STALENESS_EVENT_TIME,
	staleness_labels, false, false, true},
	{"lateness", OPTION_INTERVAL, AT(lateness), 0, 0, 0, NULL, false, false,
	true},
};

/* Rows that an entity adapts on, negatives among them. */
#define MOST_SUPPORT 65536

static void *
FieldOf(const ModelOptions *options, const OptionSpec *spec)
{
	return (char *) options + spec->field;
}

void
OptionsDefault(ModelOptions *options)
{
	memset(options, 0, sizeof(*options));
	for (int i = 0; i < (int) lengthof(option_specs); i++)
	{
		const OptionSpec *spec = &option_specs[i];
		void	   *field = FieldOf(options, spec);

		switch (spec->kind)
		{
			case OPTION_BOOLEAN:
				*(bool *) field = spec->fallback != 0;
				break;
			case OPTION_INTEGER:
			case OPTION_ENUM:
				*(int *) field = (int) spec->fallback;
				break;
			case OPTION_REAL:
				*(double *) field = spec->fallback;
				break;
			case OPTION_WIDTHS:
			case OPTION_COLUMN:
			case OPTION_RELATION:
			case OPTION_INTERVAL:
				break;
		}
	}
	options->lateness = palloc0(sizeof(Interval));
	options->lateness->time = USECS_PER_HOUR;
	options->meta_hidden = (HiddenWidths) {1, {32}};
	options->global_hidden = (HiddenWidths) {2, {64, 32}};
}

static const OptionSpec *
FindOption(const char *name)
{
	StringInfoData known;

	for (int i = 0; i < (int) lengthof(option_specs); i++)
		if (strcmp(option_specs[i].name, name) == 0)
			return &option_specs[i];

	initStringInfo(&known);
	for (int i = 0; i < (int) lengthof(option_specs); i++)
		appendStringInfo(&known, "%s%s", i > 0 ? ", " : "",
						 option_specs[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\"", name),
			 errhint("Known options are %s.", known.data)));
	return NULL;				/* keep compiler quiet */
}

static void
WrongValue(const OptionSpec *spec, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be %s", spec->name, expected)));
}

/* A JSON number between the option's bounds. */
static double
NumberValue(const OptionSpec *spec, const JsonbValue *value, bool integer)
{
	double		number;

	if (value->type != jbvNumeric)
		WrongValue(spec, integer ? "an integer" : "a number");
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
												NumericGetDatum(value->val.numeric)));
	if (integer && number != rint(number))
		WrongValue(spec, "an integer");
	if (!(number >= spec->least && number <= spec->most))
		WrongValue(spec, psprintf("between %.15g and %.15g", spec->least,
								  spec->most));
	return number;
}

static int
ChoiceValue(const OptionSpec *spec, const JsonbValue *value)
{
	StringInfoData known;

	if (value->type == jbvString)
		for (int i = 0; spec->labels[i]; i++)
			if ((int) strlen(spec->labels[i]) == value->val.string.len &&
				memcmp(spec->labels[i], value->val.string.val,
					   value->val.string.len) == 0)
				return i;

	initStringInfo(&known);
	appendStringInfoString(&known, "one of ");
	for (int i = 0; spec->labels[i]; i++)
		appendStringInfo(&known, "%s\"%s\"", i > 0 ? ", " : "",
						 spec->labels[i]);
	WrongValue(spec, known.data);
	return 0;
}

static HiddenWidths
WidthsValue(const OptionSpec *spec, const JsonbValue *value)
{
	HiddenWidths widths = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	element;

	if (value->type != jbvBinary ||
		!JsonContainerIsArray(value->val.binary.data) ||
		JsonContainerIsScalar(value->val.binary.data) ||
		JsonContainerSize(value->val.binary.data) > (int) lengthof(widths.width))
		WrongValue(spec, psprintf("an array of at most %d widths",
								  (int) lengthof(widths.width)));

	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			widths.width[widths.count++] =
				(int) NumberValue(spec, &element, true);
	return widths;
}

static void
OptionErrorContext(void *arg)
{
	errcontext("option \"%s\"", ((const OptionSpec *) arg)->name);
}

/* Begins what is reported with the option's name, until the callback is popped. */
static void
PushOptionContext(const OptionSpec *spec, ErrorContextCallback *callback)
{
	callback->callback = OptionErrorContext;
	callback->arg = unconstify(OptionSpec *, spec);
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

/* An interval from 0, or (least) longer. */
static Interval *
IntervalValue(const OptionSpec *spec, const JsonbValue *value)
{
	Interval	zero = {0};
	Interval   *interval;
	ErrorContextCallback callback;

	if (value->type != jbvString)
		WrongValue(spec, "an interval, such as \"15 minutes\"");
	PushOptionContext(spec, &callback);
	interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
													 CStringGetDatum(pnstrdup(value->val.string.val,
																			  value->val.string.len)),
													 ObjectIdGetDatum(InvalidOid),
													 Int32GetDatum(-1)));
	error_context_stack = callback.previous;
	if (DatumGetInt32(DirectFunctionCall2(interval_cmp,
										  IntervalPGetDatum(interval),
										  IntervalPGetDatum(&zero))) < spec->least)
		WrongValue(spec, spec->least > 0 ? "longer than 0" : "0 or longer");
	return interval;
}

/* The name of a column, or that of a relation as SQL would have it. */
static char *
NameValue(const OptionSpec *spec, const JsonbValue *value)
{
	bool		is_column = spec->kind == OPTION_COLUMN;
	char	   *name;
	ErrorContextCallback callback;

	if (value->type != jbvString)
		WrongValue(spec, is_column ? "the name of a column" :
				   "the name of a relation");
	name = pnstrdup(value->val.string.val, value->val.string.len);
	if (!is_column)
	{
		PushOptionContext(spec, &callback);
		makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
		error_context_stack = callback.previous;
	}
	return name;
}

static void
SetOption(ModelOptions *options, const OptionSpec *spec,
		  const JsonbValue *value)
{
	void	   *field = FieldOf(options, spec);

	if (value->type == jbvNull)
	{
		/* back to what suits the others */
		if (spec->fallback == OPTION_UNSET)
		{
			if (spec->kind == OPTION_INTEGER)
				*(int *) field = OPTION_UNSET;
			else
				*(double *) field = OPTION_UNSET;
			return;
		}
		if (!spec->nullable)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" must not be null", spec->name)));
		if (spec->kind == OPTION_COLUMN || spec->kind == OPTION_RELATION)
			*(char **) field = NULL;
		else if (spec->kind == OPTION_INTERVAL)
			*(Interval **) field = NULL;
		else
			*(double *) field = 0;
		return;
	}

	switch (spec->kind)
	{
		case OPTION_BOOLEAN:
			if (value->type != jbvBool)
				WrongValue(spec, "true or false");
			*(bool *) field = value->val.boolean;
			break;
		case OPTION_INTEGER:
			*(int *) field = (int) NumberValue(spec, value, true);
			break;
		case OPTION_REAL:
			*(double *) field = NumberValue(spec, value, false);
			break;
		case OPTION_ENUM:
			*(int *) field = ChoiceValue(spec, value);
			break;
		case OPTION_WIDTHS:
			*(HiddenWidths *) field = WidthsValue(spec, value);
			break;
		case OPTION_COLUMN:
		case OPTION_RELATION:
			*(char **) field = NameValue(spec, value);
			break;
		case OPTION_INTERVAL:
			*(Interval **) field = IntervalValue(spec, value);
			break;
	}
}

void
OptionsApply(ModelOptions *options, const Jsonb *given, OptionsUse use)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	const OptionSpec *spec = NULL;

	if (!JB_ROOT_IS_OBJECT(given))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));

	it = JsonbIteratorInit(unconstify(JsonbContainer *, &given->root));
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			spec = FindOption(pnstrdup(value.val.string.val,
									   value.val.string.len));
		else if (token == WJB_VALUE)
		{
			int			before = options->embedding_size;

			if (use == OPTIONS_OF_TRAINING && spec->of_model)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" is not one of training",
								spec->name),
						 errhint("Set it with limaml_set_options.")));
			SetOption(options, spec, &value);
			if (use != OPTIONS_OF_MODEL && spec->of_table &&
				options->embedding_size != before)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" of a model that exists cannot be changed",
								spec->name),
						 errdetail("The model's embeddings table holds vectors of %d numbers.",
								   before),
						 errhint("Create another model with this option.")));
		}
	}
}

bool
OptionIsInteger(const char *name)
{
	return FindOption(name)->kind == OPTION_INTEGER;
}

static void
FillIn(double *option, double value)
{
	if (*option == OPTION_UNSET)
		*option = value;
}

/* What suits rows with so many negatives each, where nobody says it. */
static void
FillInForNegatives(ModelOptions *options, int negatives)
{
	/* each epoch draws others, and so may fall behind by chance */
	if (options->patience == OPTION_UNSET)
		options->patience = negatives > 0 ? 8 : 4;
	if (options->inner_rate != OPTION_UNSET)
		return;

	/* the more numbers adapt the shorter are the steps that they bear */
	if (options->personalization == PERSONALIZATION_FULL)
		options->inner_rate = 0.05;
	else if (options->personalization == PERSONALIZATION_HEAD)
		options->inner_rate = 0.1;
	else if (options->adapts == ADAPTS_META_BLOCK)
		options->inner_rate = 0.5;
	else
	{
		/*
		 * An entity moves by the root of its rows' weight.  Negatives weigh as
		 * much as other rows, but it is these that say where to.
		 */
		options->inner_rate = 5 * sqrt(1 + negatives);
	}
}

/* What negatives need, and what there is room for. */
static void
CheckNegatives(const ModelOptions *options)
{
	int			negatives = options->negatives != OPTION_UNSET ?
		options->negatives : options->items ? DEFAULT_NEGATIVES : 0;

	if (options->items == NULL && (options->item_key || negatives > 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" needs the option \"items\"",
						options->item_key ? "item_key" : "negatives"),
				 errhint("It names the relation that negatives are drawn from.")));
	if (options->loss != LOSS_BINARY && options->negatives > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"negatives\" needs the option \"loss\" to be \"binary\""),
				 errdetail("A negative is a row whose label is 0 instead of 1.")));
	if (options->support_rows * (1 + negatives) > MOST_SUPPORT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"support_rows\" with %d negatives each must not exceed %d",
						negatives, MOST_SUPPORT / (1 + negatives))));
}

void
OptionsFinish(ModelOptions *options)
{
	bool		is_id = options->personalization == PERSONALIZATION_ID;
	bool		plain;

	if (options->personalization == PERSONALIZATION_FIRST_ORDER)
		options->order = 1;

	/* a vector that is looked up learns nothing from the factor part */
	if (options->batch_entities == OPTION_UNSET)
		options->batch_entities = is_id ? 8 : 32;
	if (options->factor_size == OPTION_UNSET)
		options->factor_size = is_id ? 0 : options->embedding_size / 2;

	/*
	 * Much decay of the category vectors is for the factor part, and for ids;
	 * a whole network that adapts does not bear the rate that goes with it.
	 */
	plain = (options->factor_size == 0 && !is_id) ||
		KEEPS_NETWORKS(options->personalization);
	FillIn(&options->learning_rate, plain ? 0.003 : 0.01);
	FillIn(&options->weight_decay, plain ? 0.2 : is_id ? 1 : 0.5);
	FillIn(&options->category_decay, plain ? 2.5 : 20);
	if (options->factor_size > options->embedding_size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"factor_size\" must not exceed \"embedding_size\": %d exceeds %d",
						options->factor_size, options->embedding_size)));
	CheckNegatives(options);

	/* unless it takes a look at the labels how many negatives there will be */
	if (options->negatives != OPTION_UNSET || options->items == NULL)
		FillInForNegatives(options, Max(options->negatives, 0));
}

void
OptionsSettle(ModelOptions *options, int negatives)
{
	options->negatives = negatives;
	FillInForNegatives(options, negatives);
}

char *
OptionsToJson(const ModelOptions *options)
{
	StringInfoData json;
	Jsonb	   *jsonb;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < (int) lengthof(option_specs); i++)
	{
		const OptionSpec *spec = &option_specs[i];
		const void *field = FieldOf(options, spec);

		if (spec->of_model)
			continue;
		appendStringInfo(&json, "%s\"%s\": ", i > 0 ? ", " : "", spec->name);
		switch (spec->kind)
		{
			case OPTION_BOOLEAN:
				appendStringInfoString(&json, *(const bool *) field ?
									   "true" : "false");
				break;
			case OPTION_INTEGER:
				appendStringInfo(&json, "%d", *(const int *) field);
				break;
			case OPTION_REAL:
				if (spec->nullable && *(const double *) field == 0)
					appendStringInfoString(&json, "null");
				else
				{
					char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

					double_to_shortest_decimal_buf(*(const double *) field,
												   digits);
					appendStringInfoString(&json, digits);
				}
				break;
			case OPTION_ENUM:
				escape_json(&json, spec->labels[*(const int *) field]);
				break;
			case OPTION_WIDTHS:
				{
					const HiddenWidths *widths = field;

					appendStringInfoChar(&json, '[');
					for (int w = 0; w < widths->count; w++)
						appendStringInfo(&json, "%s%d", w > 0 ? ", " : "",
										 widths->width[w]);
					appendStringInfoChar(&json, ']');
					break;
				}
			case OPTION_COLUMN:
				if (*(char *const *) field)
					escape_json(&json, *(char *const *) field);
				else
					appendStringInfoString(&json, "null");
				break;
			case OPTION_RELATION:
			case OPTION_INTERVAL:
				break;
		}
	}
	appendStringInfoChar(&json, '}');
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(json.data)));
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}
