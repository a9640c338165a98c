/*-------------------------------------------------------------------------
 *
 * score.c
 *	  limaml_score and limaml_score_embedding: a candidate's probability for
 *	  one entity.
 *
 * What is the same for all rows of a query is found out at the first (see
 * model_use.h), and so is how a candidate's columns are read.  A row then
 * costs its own encoding and one pass through the global block.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "model/embedding.h"
#include "query/model_use.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* How this call site gives candidates, and room for one. */
typedef struct Candidate
{
	int			features;
	ColumnReader *readers;
	int		   *argument;		/* as values: each feature's */

	/* as a row: its type, and each feature's column in it from 0 */
	bool		is_row;
	Oid			row_type;
	int32		row_typmod;
	int		   *column;
	int			columns;		/* of the row type */
	Datum	   *values;
	bool	   *nulls;
	TupleDesc	desc;

	/* as VARIADIC array */
	bool		is_array;
	Oid			element_type;

	FeatureCode *codes;
	float	   *z;
	float	   *memory;			/* network_score's */
} Candidate;

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
			 errmsg_plural("candidate for model \"%s\" has %d value, where %d are expected",
						   "candidate for model \"%s\" has %d values, where %d are expected",
						   given, use->model->name, given,
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
					 errmsg("query was planned for a model \"%s\" without the feature \"%s\"",
							use->model->name, encoder->features[f].name),
					 errhint("Run it again, or if it is prepared, prepare it again.")));
		candidate->argument[f] = first + c;
	}
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
	candidate->z = palloc(sizeof(float) * Max(encoder->width, 1));
	candidate->memory = palloc(sizeof(float) *
							   network_score_size(&trained->shape, 1));

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
	}
	MemoryContextSwitchTo(old);
	return candidate;
}

/* Whether a row's columns are f1 ... fn: ROW(...) names them so. */
static bool
IsAnonymous(TupleDesc desc)
{
	for (int a = 0; a < desc->natts; a++)
		if (strcmp(NameStr(TupleDescAttr(desc, a)->attname),
				   psprintf("f%d", a + 1)) != 0)
			return false;
	return true;
}

/* Binds the features to a row type's columns: by name, or by place. */
static void
BindRow(Candidate *candidate, ModelUse *use, Oid type, int32 typmod)
{
	const Encoder *encoder = &use->trained->interaction;
	TupleDesc	desc = lookup_rowtype_tupdesc(type, typmod);
	MemoryContext old = MemoryContextSwitchTo(use->context);
	bool		by_place = IsAnonymous(desc);

	candidate->row_type = InvalidOid;
	if (by_place && desc->natts != candidate->features)
	{
		int			natts = desc->natts;

		ReleaseTupleDesc(desc);
		CandidateCountError(use, natts);
	}
	candidate->desc = CreateTupleDescCopy(desc);
	ReleaseTupleDesc(desc);
	desc = candidate->desc;
	candidate->columns = desc->natts;
	candidate->column = palloc(sizeof(int) * candidate->features);
	candidate->values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	candidate->nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	for (int f = 0; f < candidate->features; f++)
	{
		const Feature *feature = &encoder->features[f];
		int			column = by_place ? f : -1;

		for (int a = 0; a < desc->natts && column < 0; a++)
			if (!TupleDescAttr(desc, a)->attisdropped &&
				strcmp(NameStr(TupleDescAttr(desc, a)->attname),
					   feature->name) == 0)
				column = a;
		if (column < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("candidate of type %s has no column \"%s\"",
							format_type_be(type), feature->name),
					 errdetail("Model \"%s\" scores candidates by it.",
							   use->model->name)));
		candidate->column[f] = column;
		FeatureReaderInit(&candidate->readers[f], feature,
						  TupleDescAttr(desc, column)->atttypid);
	}
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
											  (Datum) 0, true);
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
						candidate->nulls[candidate->column[f]]);
}

static void
ReadArray(Candidate *candidate, ModelUse *use, Datum datum, bool isnull)
{
	const Encoder *encoder = &use->trained->interaction;
	Datum	   *values;
	bool	   *nulls;
	int			count = 0;
	int16		length;
	bool		by_value;
	char		align;

	if (!isnull)
	{
		get_typlenbyvalalign(candidate->element_type, &length, &by_value,
							 &align);
		deconstruct_array(DatumGetArrayTypeP(datum), candidate->element_type,
						  length, by_value, align, &values, &nulls, &count);
	}
	if (count != candidate->features)
		CandidateCountError(use, count);
	for (int f = 0; f < candidate->features; f++)
		candidate->codes[f] = ReadFeature(&candidate->readers[f],
										  &encoder->features[f], values[f],
										  nulls[f]);
}

/*
 * The score of the candidate that begins at argument `first`, the arguments
 * being called `columns` where that is not NULL.
 */
static float
ScoreCandidate(FunctionCallInfo fcinfo, ModelUse *use,
			   const EntityVector *vector, int first, Datum columns)
{
	const TrainedNetwork *trained = use->trained;
	const Encoder *encoder = &trained->interaction;
	Candidate  *candidate = use->candidate;
	int			encoded = 0;	/* features that are in z already */
	float		offset;
	float		score;

	if (candidate == NULL)
		candidate = use->candidate =
			NewCandidate(fcinfo, use, first, columns ?
						 DatumGetArrayTypeP(columns) : NULL);
	if (candidate->is_row)
		ReadRow(candidate, use, PG_GETARG_DATUM(first), PG_ARGISNULL(first));
	else if (candidate->is_array)
		ReadArray(candidate, use, PG_GETARG_DATUM(first), PG_ARGISNULL(first));
	else
		encoded = candidate->features;

	offset = 0;
	for (int f = 0; f < encoded; f++)
		offset += EncodeColumn(&candidate->readers[f], &encoder->features[f],
							   PG_GETARG_DATUM(candidate->argument[f]),
							   PG_ARGISNULL(candidate->argument[f]),
							   candidate->z);

	/* to the arm `id` the entity is a feature */
	if (candidate->features < encoder->count)
		candidate->codes[candidate->features].row = vector->id;
	for (int f = encoded; f < encoder->count; f++)
		offset += EncodeCode(&encoder->features[f], candidate->codes[f],
							 candidate->z);
	network_score(&trained->network, vector->entity, 1, candidate->z,
				  encoder->width, &offset, candidate->memory, &score);
	if (isnan(score) || (trained->shape.loss == LOSS_SQUARED && isinf(score)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("score by version %d of model \"%s\" is not finite",
						use->version->number, use->model->name)));
	network_predict(&trained->network, 1, &score);
	return score;
}

PG_FUNCTION_INFO_V1(limaml_score);

/*
 * limaml_score(model text, entity, VARIADIC candidate "any"): the probability
 * of a positive label, or the value for squared loss.  Never NULL.
 */
Datum
limaml_score(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	EntityVector *vector = UseEntity(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));

	PG_RETURN_FLOAT4(ScoreCandidate(fcinfo, use, vector, 2, (Datum) 0));
}

PG_FUNCTION_INFO_V1(limaml_score_columns);

/*
 * limaml_score_columns(model text, columns text[], entity, VARIADIC "any"):
 * what the planner makes of limaml_score of a row.
 */
Datum
limaml_score_columns(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 2);
	EntityVector *vector = UseEntity(use, PG_GETARG_DATUM(2), PG_ARGISNULL(2));

	PG_RETURN_FLOAT4(ScoreCandidate(fcinfo, use, vector, 3,
									PG_GETARG_DATUM(1)));
}

/* An embedding means something to the network that made it and to no other. */
static void
CheckEmbedding(const ModelUse *use, const MetaEmbedding *embedding)
{
	const TrainedNetwork *trained = use->trained;

	if (embedding->dims != network_embedding_size(&trained->shape))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("embedding has %d dimensions, and those of model \"%s\" have %d",
						embedding->dims, use->model->name,
						network_embedding_size(&trained->shape))));
	if (embedding->fingerprint != trained->fingerprint)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 embedding->fingerprint == 0 ?
				 errmsg("embedding has no fingerprint, so that no network is known to have made it") :
				 errmsg("embedding was made by network %08x, not by network %08x",
						embedding->fingerprint, trained->fingerprint),
				 errdetail("Version %d of model \"%s\", the deployed one, is network %08x.",
						   use->version->number, use->model->name,
						   trained->fingerprint),
				 errhint("Use limaml_embedding or limaml_adapt, or the embeddings of that version.")));
}

/* Scores for the embedding that an argument gives, or says NULL. */
static Datum
ScoreEmbedding(FunctionCallInfo fcinfo, int argument, Datum columns)
{
	ModelUse   *use = UseModel(fcinfo, -1);
	MetaEmbedding *embedding;
	float		score;

	if (PG_ARGISNULL(argument))
		PG_RETURN_NULL();
	if (use->trained->personalization == PERSONALIZATION_ID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of model \"%s\" knows entities by their keys, not by embeddings",
						use->version->number, use->model->name),
				 errhint("Use limaml_score.")));
	embedding = PG_GETARG_META_EMBEDDING_P(argument);
	CheckEmbedding(use, embedding);
	score = ScoreCandidate(fcinfo, use, UseEmbedding(use, embedding->x),
						   argument + 1, columns);
	PG_FREE_IF_COPY(embedding, argument);
	PG_RETURN_FLOAT4(score);
}

PG_FUNCTION_INFO_V1(limaml_score_embedding);

/*
 * limaml_score_embedding(model text, embedding meta_embedding, VARIADIC
 * candidate "any"): the same for an embedding of the deployed version that
 * need not be stored.  NULL for a NULL embedding.
 */
Datum
limaml_score_embedding(PG_FUNCTION_ARGS)
{
	return ScoreEmbedding(fcinfo, 1, (Datum) 0);
}

PG_FUNCTION_INFO_V1(limaml_score_embedding_columns);

/*
 * limaml_score_embedding_columns(model text, columns text[], embedding
 * meta_embedding, VARIADIC "any"): what the planner makes of that of a row.
 */
Datum
limaml_score_embedding_columns(PG_FUNCTION_ARGS)
{
	return ScoreEmbedding(fcinfo, 2, PG_GETARG_DATUM(1));
}

PG_FUNCTION_INFO_V1(limaml_embedding);

/*
 * limaml_embedding(model text, entity): the stored embedding of the deployed
 * version, else the prior of what is known about the entity.
 */
Datum
limaml_embedding(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	EntityVector *vector;

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	vector = UseEntity(use, PG_GETARG_DATUM(1), false);
	PG_RETURN_META_EMBEDDING_P(MakeMetaEmbedding(network_embedding_size(&use->trained->shape),
												 use->trained->fingerprint,
												 vector->embedding));
}

PG_FUNCTION_INFO_V1(limaml_adapt);

/*
 * limaml_adapt(model text, entity): the embedding of the deployed version
 * adapted now from the declared relation, with the caller's rights.  Stores
 * nothing.
 */
Datum
limaml_adapt(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	Datum		values[INDEX_MAX_KEYS];
	Datum	   *columns[INDEX_MAX_KEYS];
	AdaptedEntity *adapted;

	if (!KeyValues(&use->binding, PG_GETARG_DATUM(1), PG_ARGISNULL(1), values))
		PG_RETURN_NULL();
	for (int k = 0; k < use->key.count; k++)
		columns[k] = &values[k];
	SPI_connect();
	adapted = AdaptEntities(UseAdapter(use), 1, columns, true);
	SPI_finish();
	PG_RETURN_META_EMBEDDING_P(MakeMetaEmbedding(network_embedding_size(&use->trained->shape),
												 use->trained->fingerprint,
												 adapted->embedding));
}
