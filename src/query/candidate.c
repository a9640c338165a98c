/*-------------------------------------------------------------------------
 *
 * candidate.c
 *	  How a call gives candidates, and reading them: as values, as an array of
 *	  values, or as rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "query/candidate.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/*
 * A numeric feature whose value is a float: all that it takes to encode it, in
 * one place, for candidates of dozens of them.
 */
typedef struct PlainFeature
{
	double		mean;
	double		scale;
	int			argument;
	int			at;
	bool		is_double;
	bool		missing_flag;
} PlainFeature;

/* How this call site gives candidates, and room for one. */
struct Candidate
{
	int			features;
	ColumnReader *readers;
	int		   *argument;		/* as values: each feature's */
	PlainFeature *plain;		/* where all are such, else NULL */

	/* as a row: its type, and each feature's column in it from 0 */
	bool		is_row;
	Oid			row_type;
	int32		row_typmod;
	int		   *column;
	Datum	   *values;
	bool	   *nulls;
	TupleDesc	desc;

	/* as VARIADIC array */
	bool		is_array;
	Oid			element_type;

	FeatureCode *codes;
	CodeLists	lists;			/* of codes */
	float	   *z;
};

static void
CandidateCountError(const ModelUse *use, int given)
{
	const Encoder *encoder = &use->trained->interaction;
	StringInfoData names;

	initStringInfo(&names);
	for (int f = 0; f < CandidateFeatures(use->trained); f++)
		appendStringInfo(&names, "%s%s", f > 0 ? ", " : "",
						 encoder->features[f].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_plural("candidate for %s has %d value, where %d are expected",
						   "candidate for %s has %d values, where %d are expected",
						   given, use->title, given,
						   CandidateFeatures(use->trained)),
			 errhint("Give a row with these columns, or their values in this order: %s.",
					 names.data)));
}

/*
 * Binds the features to arguments of these names: the planner has made one
 * candidate's columns of a row (see score_plan.c).
 */
static void
BindNames(Candidate *candidate, const ModelUse *use, ArrayType *array,
		  int first, int given)
{
	const Encoder *encoder = &use->trained->interaction;
	Datum	   *names;
	int			count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names, NULL,
					  &count);
	if (count != given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of columns (%d) and number of values (%d) differ",
						count, given),
				 errhint("Use limaml_score or limaml_score_embedding.")));
	for (int f = 0; f < candidate->features; f++)
	{
		int			c = 0;

		while (c < count && strcmp(TextDatumGetCString(names[c]),
								   encoder->features[f].name) != 0)
			c++;
		if (c == count)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("query was planned for a %s without the feature \"%s\"",
							use->title, encoder->features[f].name),
					 errhint("Run it again, or if it is prepared, prepare it again.")));
		candidate->argument[f] = first + c;
	}
}

/* The features as plain ones; NULL unless all are. */
static PlainFeature *
PlainFeatures(const Candidate *candidate, const Encoder *encoder)
{
	PlainFeature *plain = palloc(sizeof(PlainFeature) *
								 Max(candidate->features, 1));

	for (int f = 0; f < candidate->features; f++)
	{
		const Feature *feature = &encoder->features[f];
		ReadMethod	method = candidate->readers[f].method;

		if (feature->kind != FEATURE_NUMERIC ||
			(method != READ_FLOAT4 && method != READ_FLOAT8))
			return NULL;
		plain[f] = (PlainFeature)
		{
			.mean = feature->mean,
			.scale = feature->scale,
			.argument = candidate->argument[f],
			.at = feature->at,
			.is_double = method == READ_FLOAT8,
			.missing_flag = feature->missing_flag
		};
	}
	return plain;
}

/*
 * Encodes plain features; returns how many until one that is not so plain:
 * NULL, NaN, or far from the mean.
 */
static int
EncodePlain(FunctionCallInfo fcinfo, const PlainFeature *plain, int count,
			float *z)
{
	for (int f = 0; f < count; f++)
	{
		const PlainFeature *feature = &plain[f];
		const NullableDatum *argument = &fcinfo->args[feature->argument];
		double		standard;

		if (unlikely(argument->isnull))
			return f;
		standard = ((feature->is_double ? DatumGetFloat8(argument->value) :
					 DatumGetFloat4(argument->value)) - feature->mean) *
			feature->scale;
		if (unlikely(!(fabs(standard) <= ENCODER_CLIP)))
			return f;
		z[feature->at] = standard;
		if (feature->missing_flag)
			z[feature->at + 1] = 0;
	}
	return count;
}

/* `columns` is what the arguments are called, or NULL. */
static Candidate *
NewCandidate(FunctionCallInfo fcinfo, ModelUse *use, int first,
			 ArrayType *columns)
{
	const TrainedNetwork *trained = use->trained;
	const Encoder *encoder = &trained->interaction;
	MemoryContext old = MemoryContextSwitchTo(use->context);
	Candidate  *candidate = palloc0(sizeof(Candidate));
	int			given = PG_NARGS() - first;
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, first);

	candidate->features = CandidateFeatures(trained);
	candidate->readers = palloc0(sizeof(ColumnReader) * encoder->count);
	candidate->codes = palloc(sizeof(FeatureCode) * encoder->count);
	candidate->lists.context = use->context;
	candidate->z = palloc(sizeof(float) * Max(encoder->width, 1));
	candidate->argument = palloc(sizeof(int) * Max(candidate->features, 1));

	candidate->is_array = get_fn_expr_variadic(fcinfo->flinfo);
	candidate->is_row = !columns && !candidate->is_array && given == 1 &&
		type_is_rowtype(type);
	if (candidate->is_array)
	{
		candidate->element_type = get_element_type(getBaseType(type));
		for (int f = 0; f < candidate->features; f++)
			FeatureReaderInit(&candidate->readers[f], &encoder->features[f],
							  candidate->element_type);
	}
	else if (!candidate->is_row)
	{
		if (columns)
			BindNames(candidate, use, columns, first, given);
		else if (given != candidate->features)
			CandidateCountError(use, given);
		else
			for (int f = 0; f < candidate->features; f++)
				candidate->argument[f] = first + f;
		for (int f = 0; f < candidate->features; f++)
			FeatureReaderInit(&candidate->readers[f], &encoder->features[f],
							  get_fn_expr_argtype(fcinfo->flinfo,
												  candidate->argument[f]));
		candidate->plain = PlainFeatures(candidate, encoder);
	}
	MemoryContextSwitchTo(old);
	return candidate;
}

bool
IsAnonymousRow(TupleDesc desc)
{
	for (int a = 0; a < desc->natts; a++)
		if (strcmp(NameStr(TupleDescAttr(desc, a)->attname),
				   psprintf("f%d", a + 1)) != 0)
			return false;
	return true;
}

int
RowColumnNamed(TupleDesc desc, const char *name)
{
	for (int a = 0; a < desc->natts; a++)
		if (!TupleDescAttr(desc, a)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(desc, a)->attname), name) == 0)
			return a;
	return -1;
}

void
CandidateColumns(const ModelUse *use, TupleDesc desc, const char *what,
				 ColumnReader *readers, int *column)
{
	const Encoder *encoder = &use->trained->interaction;
	int			features = CandidateFeatures(use->trained);
	bool		by_place = IsAnonymousRow(desc);

	if (by_place && desc->natts != features)
		CandidateCountError(use, desc->natts);
	for (int f = 0; f < features; f++)
	{
		const Feature *feature = &encoder->features[f];

		column[f] = by_place ? f : RowColumnNamed(desc, feature->name);
		if (column[f] < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("candidate of type %s has no column \"%s\"",
							what, feature->name),
					 use->model ?
					 errdetail("Model \"%s\" scores candidates by it.",
							   use->model->name) :
					 errdetail("The network scores candidates by it.")));
		FeatureReaderInit(&readers[f], feature,
						  TupleDescAttr(desc, column[f])->atttypid);
	}
}

/* Binds the features to a row type's columns. */
static void
BindRow(Candidate *candidate, ModelUse *use, Oid type, int32 typmod)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, typmod);
	MemoryContext old = MemoryContextSwitchTo(use->context);

	candidate->row_type = InvalidOid;
	candidate->desc = CreateTupleDescCopy(desc);
	ReleaseTupleDesc(desc);
	desc = candidate->desc;
	candidate->column = palloc(sizeof(int) * Max(candidate->features, 1));
	candidate->values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	candidate->nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	CandidateColumns(use, desc, format_type_be(type), candidate->readers,
					 candidate->column);
	candidate->row_type = type;
	candidate->row_typmod = typmod;
	MemoryContextSwitchTo(old);
}

static void
ReadRow(Candidate *candidate, ModelUse *use, Datum datum, bool isnull)
{
	const Encoder *encoder = &use->trained->interaction;
	HeapTupleHeader row;
	HeapTupleData tuple;

	/* a row that is NULL has nothing but NULLs */
	if (isnull)
	{
		for (int f = 0; f < candidate->features; f++)
			candidate->codes[f] = ReadFeature(&candidate->readers[f],
											  &encoder->features[f],
											  (Datum) 0, true,
											  &candidate->lists);
		return;
	}
	row = DatumGetHeapTupleHeader(datum);
	if (HeapTupleHeaderGetTypeId(row) != candidate->row_type ||
		HeapTupleHeaderGetTypMod(row) != candidate->row_typmod)
		BindRow(candidate, use, HeapTupleHeaderGetTypeId(row),
				HeapTupleHeaderGetTypMod(row));
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, candidate->desc, candidate->values,
					  candidate->nulls);
	for (int f = 0; f < candidate->features; f++)
		candidate->codes[f] =
			ReadFeature(&candidate->readers[f], &encoder->features[f],
						candidate->values[candidate->column[f]],
						candidate->nulls[candidate->column[f]],
						&candidate->lists);
}

/* An array's elements; returns their number. */
static int
ArrayValues(const Candidate *candidate, Datum datum, Datum **values,
			bool **nulls)
{
	int			count;
	int16		length;
	bool		by_value;
	char		align;

	get_typlenbyvalalign(candidate->element_type, &length, &by_value, &align);
	deconstruct_array(DatumGetArrayTypeP(datum), candidate->element_type,
					  length, by_value, align, values, nulls, &count);
	return count;
}

static void
ReadArray(Candidate *candidate, ModelUse *use, Datum datum, bool isnull)
{
	const Encoder *encoder = &use->trained->interaction;
	Datum	   *values;
	bool	   *nulls;
	int			count = isnull ? 0 : ArrayValues(candidate, datum, &values,
												 &nulls);

	if (count != candidate->features)
		CandidateCountError(use, count);
	for (int f = 0; f < candidate->features; f++)
		candidate->codes[f] = ReadFeature(&candidate->readers[f],
										  &encoder->features[f], values[f],
										  nulls[f], &candidate->lists);
}

float
CandidateEncode(FunctionCallInfo fcinfo, ModelUse *use, int first,
				Datum columns, int32 id, const float **z)
{
	const Encoder *encoder = &use->trained->interaction;
	Candidate  *candidate = use->candidate;
	int			encoded = 0;	/* features that are in z already */
	float		offset = 0;

	if (candidate == NULL)
		candidate = use->candidate =
			NewCandidate(fcinfo, use, first, columns ?
						 DatumGetArrayTypeP(columns) : NULL);
	candidate->lists.used = 0;
	if (candidate->is_row)
		ReadRow(candidate, use, PG_GETARG_DATUM(first), PG_ARGISNULL(first));
	else if (candidate->is_array)
		ReadArray(candidate, use, PG_GETARG_DATUM(first), PG_ARGISNULL(first));
	else
		encoded = candidate->features;

	for (int f = candidate->plain ? EncodePlain(fcinfo, candidate->plain,
												encoded, candidate->z) : 0;
		 f < encoded; f++)
		offset += EncodeColumn(&candidate->readers[f], &encoder->features[f],
							   PG_GETARG_DATUM(candidate->argument[f]),
							   PG_ARGISNULL(candidate->argument[f]),
							   &candidate->lists, candidate->z);

	/* to the arm `id` the entity is a feature */
	if (candidate->features < encoder->count)
		candidate->codes[candidate->features].row = id;
	for (int f = encoded; f < encoder->count; f++)
		offset += EncodeCode(&encoder->features[f], candidate->codes[f],
							 candidate->lists.codes, candidate->z);
	*z = candidate->z;
	return offset;
}

/* The text form of a value of any type. */
static char *
ValueText(Oid type, Datum value)
{
	Oid			output;
	bool		varlena;

	if (type == UNKNOWNOID)
		return DatumGetCString(value);
	getTypeOutputInfo(type, &output, &varlena);
	return OidOutputFunctionCall(output, value);
}

FeatureCode *
CandidateCodes(FunctionCallInfo fcinfo, ModelUse *use, int first, int32 id,
			   CodeLists *lists, char **text)
{
	const Encoder *encoder = &use->trained->interaction;
	Candidate  *candidate;
	FeatureCode *codes = palloc(sizeof(FeatureCode) * Max(encoder->count, 1));
	Datum	   *elements = NULL;
	bool	   *element_nulls = NULL;
	const float *z;

	/* binds the features, and says what is wrong */
	CandidateEncode(fcinfo, use, first, (Datum) 0, id, &z);
	candidate = use->candidate;
	if (candidate->is_array)
		ArrayValues(candidate, PG_GETARG_DATUM(first), &elements,
					&element_nulls);
	for (int f = 0; f < candidate->features; f++)
	{
		Oid			type;
		Datum		value;
		bool		isnull;

		if (candidate->is_row && PG_ARGISNULL(first))
		{
			type = InvalidOid;
			value = (Datum) 0;
			isnull = true;
		}
		else if (candidate->is_row)
		{
			int			c = candidate->column[f];

			type = TupleDescAttr(candidate->desc, c)->atttypid;
			value = candidate->values[c];
			isnull = candidate->nulls[c];
		}
		else if (candidate->is_array)
		{
			type = candidate->element_type;
			value = elements[f];
			isnull = element_nulls[f];
		}
		else
		{
			type = get_fn_expr_argtype(fcinfo->flinfo,
									   candidate->argument[f]);
			value = PG_GETARG_DATUM(candidate->argument[f]);
			isnull = PG_ARGISNULL(candidate->argument[f]);
		}
		codes[f] = ReadFeature(&candidate->readers[f], &encoder->features[f],
							   value, isnull, lists);
		text[f] = isnull ? NULL : ValueText(type, value);
	}
	if (candidate->features < encoder->count)
		codes[candidate->features].row = id;
	return codes;
}

void
Predict(const ModelUse *use, int n, float *score)
{
	const TrainedNetwork *trained = use->trained;

	for (int i = 0; i < n; i++)
		if (isnan(score[i]) ||
			(trained->shape.loss == LOSS_SQUARED && isinf(score[i])))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 use->version ?
					 errmsg("score by version %d of %s is not finite",
							use->version->number, use->title) :
					 errmsg("score by %s is not finite", use->title)));
	network_predict(&trained->network, n, score);
}
