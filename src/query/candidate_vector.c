/*-------------------------------------------------------------------------
 *
 * candidate_vector.c
 *	  The item half of the first layer as a value: what a candidate is to every
 *	  entity, computed once and kept in a column.
 *
 * A candidate vector is [C_z z + c_1 ; P z + p ; o] without padding.  It has
 * the type of embeddings, but a fingerprint of its own, so that neither passes
 * for the other, and none for another network's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "model/embedding.h"
#include "query/candidate.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static uint32
VectorFingerprint(const TrainedNetwork *trained)
{
	return hash_combine(trained->fingerprint, hash_bytes_uint32(1));
}

static int
VectorSize(const NetworkShape *shape)
{
	return shape->global_width[1] + shape->factor_size + 1;
}

static void
CheckArm(const ModelUse *use)
{
	if (use->trained->personalization == PERSONALIZATION_ID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of model \"%s\" knows entities as features of candidates",
						use->version->number, use->model->name),
				 errhint("Use limaml_score.")));
}

/* The vector of an encoded candidate. */
static MetaEmbedding *
VectorOf(const ModelUse *use, const float *z, float offset)
{
	const NetworkShape *shape = &use->trained->shape;
	int			first = shape->global_width[1];
	float	   *half = palloc(sizeof(float) * network_half_size(shape));
	float	   *vector = palloc(sizeof(float) * VectorSize(shape));

	network_candidate_half(&use->trained->network, 1, z,
						   use->trained->interaction.width, half);
	memcpy(vector, half, sizeof(float) * first);
	memcpy(vector + first, half + kernel_stride(first),
		   sizeof(float) * shape->factor_size);
	vector[first + shape->factor_size] = offset;
	pfree(half);
	return MakeMetaEmbedding(VectorSize(shape), VectorFingerprint(use->trained),
							 vector);
}

PG_FUNCTION_INFO_V1(limaml_candidate_vector);

/* limaml_candidate_vector(model text, VARIADIC candidate "any") */
Datum
limaml_candidate_vector(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, -1);
	const float *z;
	float		offset;

	CheckArm(use);
	offset = CandidateEncode(fcinfo, use, 1, (Datum) 0, 0, &z);
	PG_RETURN_META_EMBEDDING_P(VectorOf(use, z, offset));
}

/* An error unless the vector is one of the deployed version's. */
static void
CheckVector(const ModelUse *use, const MetaEmbedding *vector)
{
	const TrainedNetwork *trained = use->trained;

	if (vector->fingerprint == VectorFingerprint(trained) &&
		vector->dims == VectorSize(&trained->shape))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 vector->fingerprint == trained->fingerprint ?
			 errmsg("vector is an entity's embedding, where a candidate's vector is expected") :
			 errmsg("vector is not a candidate's of version %d of model \"%s\", the deployed one",
					use->version->number, use->model->name),
			 errhint("Make it anew by limaml_candidate_vector.")));
}

PG_FUNCTION_INFO_V1(limaml_score_vector);

/*
 * limaml_score_vector(model text, entity, vector meta_embedding): the score of
 * the candidate whose vector it is, to the bit.  NULL for a NULL vector.
 */
Datum
limaml_score_vector(PG_FUNCTION_ARGS)
{
	ModelUse   *use = UseModel(fcinfo, 1);
	const NetworkShape *shape = &use->trained->shape;
	int			first = shape->global_width[1];
	EntityVector *entity;
	MetaEmbedding *vector;
	float		score;

	if (PG_ARGISNULL(2))
		PG_RETURN_NULL();
	CheckArm(use);
	entity = UseEntity(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	vector = PG_GETARG_META_EMBEDDING_P(2);
	CheckVector(use, vector);
	if (use->half == NULL)
		use->half = MemoryContextAllocZero(use->context, sizeof(float) *
										   network_half_size(shape));
	memcpy(use->half, vector->x, sizeof(float) * first);
	memcpy(use->half + kernel_stride(first), vector->x + first,
		   sizeof(float) * shape->factor_size);
	network_score_halves(&use->trained->network, entity->entity, 1, use->half,
						 &vector->x[first + shape->factor_size],
						 use->scoring, &score);
	PG_FREE_IF_COPY(vector, 2);
	Predict(use, 1, &score);
	PG_RETURN_FLOAT4(score);
}

PG_FUNCTION_INFO_V1(limaml_keep_candidate_vector);

/*
 * A trigger BEFORE INSERT OR UPDATE FOR EACH ROW, with the arguments model and
 * column: sets the column to the row's candidate vector.
 */
Datum
limaml_keep_candidate_vector(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	MemoryContext caller = CurrentMemoryContext;
	Relation	relation;
	HeapTuple	row;
	StringInfoData sql;
	Oid			types[1];
	Datum		values[1];
	char		nulls[1] = {' '};
	int			column;
	Datum		vector;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"limaml_keep_candidate_vector\" was not called by trigger manager")));
	if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be fired BEFORE INSERT OR UPDATE, FOR EACH ROW",
						trigger->tg_trigger->tgname)));
	if (trigger->tg_trigger->tgnargs != 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" needs two arguments, a model and a column",
						trigger->tg_trigger->tgname)));
	relation = trigger->tg_relation;
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple :
		trigger->tg_trigtuple;
	column = SPI_fnumber(RelationGetDescr(relation),
						 trigger->tg_trigger->tgargs[1]);
	if (column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						trigger->tg_trigger->tgargs[1],
						RelationGetRelationName(relation))));
	if (TupleDescAttr(RelationGetDescr(relation), column - 1)->atttypid !=
		MetaEmbeddingType())
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is not of type meta_embedding",
						trigger->tg_trigger->tgargs[1],
						RelationGetRelationName(relation))));

	SPI_connect();
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s(%s, $1)",
					 quote_qualified_identifier(get_namespace_name(ExtensionSchema()),
												"limaml_candidate_vector"),
					 quote_literal_cstr(trigger->tg_trigger->tgargs[0]));
	types[0] = RelationGetForm(relation)->reltype;
	values[0] = heap_copy_tuple_as_datum(row, RelationGetDescr(relation));
	if (SPI_execute_plan(KeptPlan(sql.data, 1, types, CURSOR_OPT_GENERIC_PLAN),
						 values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not compute: %s", sql.data);
	vector = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						   &isnull);
	MemoryContextSwitchTo(caller);
	row = heap_modify_tuple_by_cols(row, RelationGetDescr(relation), 1,
									&column, &vector, &isnull);
	SPI_finish();
	return PointerGetDatum(row);
}
