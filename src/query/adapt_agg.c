/*-------------------------------------------------------------------------
 *
 * adapt_agg.c
 *	  limaml_adapt_agg: adapting on the rows of a query; and what it is given,
 *	  limaml_network and limaml_row.
 *
 * The aggregate depends on its arguments alone: it reads no table and no
 * setting, and gives the same bits whatever the order of the rows, in parallel
 * workers and on other servers, where types have other OIDs.  So columns of
 * records are found by name, or by place where they are f1 ... fn, their values
 * are read as they are stored, and the network comes along as a value.  How
 * rows are kept and adapted on is what a refresh has, too, so that it gives
 * these bits, too.
 *
 * A partial state that another process combines has the whole network in it:
 * that process may never see it otherwise, and is the one to adapt.  COST of
 * serialisation says so to the planner, which sends states where they are few.
 *
 *		byte	format, STATE_FORMAT
 *		int32	type of the event time, 0 where there are no rows
 *		int32	bytes of the network's file, and these
 *		float4	the entity's encoding, its numbers
 *		rows	as SendRows has them
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "model/embedding.h"
#include "model/network_cache.h"
#include "query/adapt.h"
#include "query/candidate.h"
#include "query/model_use.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"

#define STATE_FORMAT 1

/* What is found out of a type of record, for all rows of it. */
typedef struct RecordBinding
{
	MemoryContext context;		/* holds all of it */
	Oid			type;			/* InvalidOid: none yet */
	int32		typmod;
	TupleDesc	desc;
	int		   *column;			/* wanted ones, from 0 */
	ColumnReader *readers;		/* of the features among them */
	Datum	   *fields;			/* a row taken apart, */
	bool	   *field_nulls;
	Datum	   *values;			/* and the wanted ones of it */
	bool	   *nulls;
} RecordBinding;

/* A network as one call site uses it. */
typedef struct NetworkUse
{
	struct NetworkUse *next;
	MemoryContext context;		/* holds all of it */
	NetworkValue value;
	struct varlena *file;		/* detoasted once it is sent */
	const TrainedNetwork *trained;
	Adapter		adapter;		/* without a relation */
	Oid			time_type;		/* InvalidOid until a row is seen */
	RecordBinding entity;
	RecordBinding interaction;

	/* the entity of the row before, as it was given and as it is encoded */
	bool		encoded;		/* there was one */
	bool		last_isnull;
	HeapTupleHeader last;
	Size		last_room;
	float	   *x;
} NetworkUse;

/* A call site's networks, of which there is one as a rule. */
typedef struct AdaptCall
{
	NetworkUse *first;
} AdaptCall;

/* Of one group; in the aggregate's context. */
typedef struct AdaptState
{
	NetworkUse *use;
	float	   *x;				/* the entity's encoding */
	KeptRows	rows;
} AdaptState;

/*
 * Networks
 */

static AdaptCall *
GetCall(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
								   sizeof(AdaptCall));
	return fcinfo->flinfo->fn_extra;
}

/* A context for what a call site finds out about a network. */
static MemoryContext
NewUseContext(void)
{
	return AllocSetContextCreate(CurrentMemoryContext, "limaml network use",
								 ALLOCSET_DEFAULT_SIZES);
}

static MemoryContext
BindingContext(MemoryContext parent)
{
	return AllocSetContextCreate(parent, "limaml record",
								 ALLOCSET_SMALL_SIZES);
}

static bool
IsSameNetwork(const TrainedNetwork *a, const TrainedNetwork *b)
{
	return memcmp(a->digest, b->digest, SAFETENSORS_DIGEST_BYTES) == 0;
}

/*
 * The call site's use of a network, whatever it was known by; or NULL.  There
 * is never another: all rows of a group have times of the one type that it has.
 */
static NetworkUse *
UseOfNetwork(FunctionCallInfo fcinfo, const TrainedNetwork *trained)
{
	for (NetworkUse *use = GetCall(fcinfo)->first; use; use = use->next)
		if (IsSameNetwork(use->trained, trained))
			return use;
	return NULL;
}

/* A use of the network that has been found in this context. */
static NetworkUse *
AddUse(FunctionCallInfo fcinfo, MemoryContext context,
	   const TrainedNetwork *trained, const NetworkValue *value,
	   struct varlena *file)
{
	AdaptCall  *call = GetCall(fcinfo);
	MemoryContext old;
	NetworkUse *use;

	if (trained->negatives > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("network %08x was trained with negatives, which limaml_adapt_agg does not draw",
						trained->fingerprint),
				 errdetail("They follow from the entity's key and from all items."),
				 errhint("Use limaml_adapt, or the embeddings that limaml_refresh stores.")));
	old = MemoryContextSwitchTo(context);
	use = palloc0(sizeof(NetworkUse));
	use->context = context;
	use->trained = trained;
	use->value = *value;
	use->file = file;
	use->entity.context = BindingContext(context);
	use->interaction.context = BindingContext(context);
	use->x = palloc0(sizeof(float) * Max(trained->entity.width, 1));
	AdapterPrepare(&use->adapter, trained, 1);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, fcinfo->flinfo->fn_mcxt);
	use->next = call->first;
	call->first = use;
	return use;
}

/* The use of the network that an argument gives. */
static NetworkUse *
UseOfArgument(FunctionCallInfo fcinfo, int argument)
{
	AdaptCall  *call = GetCall(fcinfo);
	NetworkValue known = {0};
	MemoryContext context;
	MemoryContext old;
	const TrainedNetwork *trained;
	NetworkUse *other;
	struct varlena *given;
	Datum		value;

	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("network must not be null"),
				 errhint("There may be no such version, or none that you may see.")));
	value = PG_GETARG_DATUM(argument);
	for (NetworkUse *use = call->first; use; use = use->next)
		if (IsNetworkValue(&use->value, value))
			return use;

	context = NewUseContext();
	trained = NetworkOfValue(value, &known, context);
	other = UseOfNetwork(fcinfo, trained);
	if (other)
	{
		MemoryContextDelete(context);
		return other;
	}
	given = (struct varlena *) DatumGetPointer(value);
	old = MemoryContextSwitchTo(context);

	/* a pointer into TOAST will do until somebody wants the bytes */
	if (VARATT_IS_EXTERNAL_ONDISK(given))
		given = (struct varlena *) DatumGetPointer(datumCopy(value, false, -1));
	else
		given = PG_DETOAST_DATUM_COPY(value);
	MemoryContextSwitchTo(old);
	return AddUse(fcinfo, context, trained, &known, given);
}

/* The use of the network that these bytes are. */
static NetworkUse *
UseOfFile(FunctionCallInfo fcinfo, const char *bytes, Size size)
{
	AdaptCall  *call = GetCall(fcinfo);
	NetworkValue known = {0};
	MemoryContext context;
	const TrainedNetwork *trained;
	NetworkUse *other;
	struct varlena *file;

	for (NetworkUse *use = call->first; use; use = use->next)
		if (IsNetworkFile(&use->value, bytes, size))
			return use;

	context = NewUseContext();
	trained = NetworkOfFile(bytes, size, &known, context);
	other = UseOfNetwork(fcinfo, trained);
	if (other)
	{
		MemoryContextDelete(context);
		return other;
	}
	file = MemoryContextAlloc(context, VARHDRSZ + size);
	SET_VARSIZE(file, VARHDRSZ + size);
	memcpy(VARDATA(file), bytes, size);
	return AddUse(fcinfo, context, trained, &known, file);
}

static void
CheckSameNetwork(const NetworkUse *a, const NetworkUse *b)
{
	if (!IsSameNetwork(a->trained, b->trained))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limaml_adapt_agg was given network %08x and network %08x in one group",
						a->trained->fingerprint, b->trained->fingerprint),
				 errhint("Group by the version.")));
}

static void
CheckSameEntity(const NetworkUse *use, const float *a, const float *b)
{
	if (memcmp(a, b, sizeof(float) * use->trained->entity.width) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limaml_adapt_agg was given two entities of different meta features in one group"),
				 errhint("Group by the entity's key.")));
}

/*
 * Records
 */

/* The names that a record has by place, for messages. */
static char *
PlacesText(const NetworkUse *use, bool interaction)
{
	const TrainedNetwork *trained = use->trained;
	const Encoder *encoder = interaction ? &trained->interaction :
		&trained->entity;
	int			features = interaction ? CandidateFeatures(trained) :
		encoder->count;
	StringInfoData text;

	initStringInfo(&text);
	if (interaction)
		appendStringInfo(&text, "%s, %s",
						 trained->label ? trained->label : "label",
						 trained->event_time ? trained->event_time : "event time");
	for (int f = 0; f < features; f++)
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "",
						 encoder->features[f].name);
	if (interaction && trained->weight)
		appendStringInfo(&text, ", %s", trained->weight);
	return text.data;
}

static void
CheckPlaces(const NetworkUse *use, bool interaction, int given, int wanted)
{
	const char *what = interaction ? "interaction" : "entity";

	if (given != wanted)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg_plural("%s for network %08x has %d value, where %d are expected",
							   "%s for network %08x has %d values, where %d are expected",
							   given, what, use->trained->fingerprint, given,
							   wanted),
				 errhint("Give a row with these columns, or their values in this order: %s.",
						 PlacesText(use, interaction))));
}

static int
FindColumn(const NetworkUse *use, const RecordBinding *binding, Oid type,
		   bool interaction, const char *name)
{
	int			column = RowColumnNamed(binding->desc, name);

	if (column < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("%s of type %s has no column \"%s\"",
						interaction ? "interaction" : "entity",
						format_type_be(type), name),
				 errdetail("Network %08x reads it.",
						   use->trained->fingerprint)));
	return column;
}

/* Begins to bind another type; returns whether its columns have names. */
static bool
StartBinding(RecordBinding *binding, Oid type, int32 typmod, int columns,
			 int features)
{
	TupleDesc	desc;

	MemoryContextReset(binding->context);
	binding->type = InvalidOid;
	desc = lookup_rowtype_tupdesc(type, typmod);
	binding->desc = CreateTupleDescCopy(desc);
	ReleaseTupleDesc(desc);
	binding->column = palloc(sizeof(int) * Max(columns, 1));
	binding->readers = palloc0(sizeof(ColumnReader) * Max(features, 1));
	binding->fields = palloc(sizeof(Datum) * Max(binding->desc->natts, 1));
	binding->field_nulls = palloc(sizeof(bool) * Max(binding->desc->natts, 1));
	binding->values = palloc(sizeof(Datum) * Max(columns, 1));
	binding->nulls = palloc(sizeof(bool) * Max(columns, 1));
	return !IsAnonymousRow(binding->desc);
}

static Oid
ColumnType(const RecordBinding *binding, int wanted)
{
	return TupleDescAttr(binding->desc, binding->column[wanted])->atttypid;
}

static void
BindFeatures(RecordBinding *binding, const Encoder *encoder, int features,
			 int first)
{
	for (int f = 0; f < features; f++)
		FeatureReaderInit(&binding->readers[f], &encoder->features[f],
						  ColumnType(binding, first + f));
}

static void
BindEntity(NetworkUse *use, Oid type, int32 typmod)
{
	RecordBinding *binding = &use->entity;
	const Encoder *encoder = &use->trained->entity;
	MemoryContext old = MemoryContextSwitchTo(binding->context);
	bool		named = StartBinding(binding, type, typmod, encoder->count,
									 encoder->count);

	if (!named)
		CheckPlaces(use, false, binding->desc->natts, encoder->count);
	for (int f = 0; f < encoder->count; f++)
		binding->column[f] = !named ? f :
			FindColumn(use, binding, type, false, encoder->features[f].name);
	BindFeatures(binding, encoder, encoder->count, 0);
	binding->type = type;
	binding->typmod = typmod;
	MemoryContextSwitchTo(old);
}

/* Rows have event times of this type from now on. */
static void
SetTimeType(NetworkUse *use, Oid type)
{
	const TrainedNetwork *trained = use->trained;
	const char *name = trained->event_time ? trained->event_time : "event time";
	MemoryContext old;

	type = getBaseType(type);
	if (use->time_type == type)
		return;
	if (OidIsValid(use->time_type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("event time \"%s\" is of type %s in some rows and of type %s in others",
						name, format_type_be(use->time_type),
						format_type_be(type))));
	old = MemoryContextSwitchTo(use->context);
	SourceInitTime(&use->adapter.source, CandidateFeatures(trained), name,
				   type);
	RowFormInit(&use->adapter.form, trained, &use->adapter.source.event_time);
	use->time_type = type;
	MemoryContextSwitchTo(old);
}

/* Binds rows: event time, label, weight?, features, as AdapterReadRow has them. */
static void
BindInteraction(NetworkUse *use, Oid type, int32 typmod)
{
	RecordBinding *binding = &use->interaction;
	const TrainedNetwork *trained = use->trained;
	const Encoder *encoder = &trained->interaction;
	int			features = CandidateFeatures(trained);
	int			weights = trained->weight ? 1 : 0;
	int			first = 2 + weights;
	int			columns = first + features;
	const char *label = trained->label ? trained->label : "label";
	MemoryContext old = MemoryContextSwitchTo(binding->context);

	if (StartBinding(binding, type, typmod, columns, features))
	{
		if (trained->label == NULL && trained->event_time)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("network %08x names no label column",
							trained->fingerprint),
					 errdetail("All that it was trained on happened, or another program wrote it."),
					 errhint("Give interactions by place, as limaml_row(%s), those that did not happen with a label that is false.",
							 PlacesText(use, true))));
		if (trained->event_time == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("network %08x does not say which columns are label and event time",
							trained->fingerprint),
					 errhint("Give interactions by place, as limaml_row(%s), or limaml_import the network.",
							 PlacesText(use, true))));
		binding->column[0] = FindColumn(use, binding, type, true,
										trained->event_time);
		binding->column[1] = FindColumn(use, binding, type, true, label);
		if (trained->weight)
			binding->column[2] = FindColumn(use, binding, type, true,
											trained->weight);
		for (int f = 0; f < features; f++)
			binding->column[first + f] =
				FindColumn(use, binding, type, true,
						   encoder->features[f].name);
	}
	else
	{
		CheckPlaces(use, true, binding->desc->natts, columns);
		binding->column[0] = 1;
		binding->column[1] = 0;
		if (trained->weight)
			binding->column[2] = columns - 1;
		for (int f = 0; f < features; f++)
			binding->column[first + f] = 2 + f;
	}
	BindFeatures(binding, encoder, features, first);
	SetTimeType(use, ColumnType(binding, 0));
	SourceInitLabel(&use->adapter.source, label, ColumnType(binding, 1),
					trained->weight,
					weights ? ColumnType(binding, 2) : InvalidOid);
	use->adapter.readers = binding->readers;
	binding->type = type;
	binding->typmod = typmod;
	MemoryContextSwitchTo(old);
}

/* Takes a row apart, and binds its type if it is not that of the row before. */
static void
ReadRecord(NetworkUse *use, RecordBinding *binding,
		   void (*bind) (NetworkUse *use, Oid type, int32 typmod),
		   HeapTupleHeader row, int columns)
{
	Oid			type = HeapTupleHeaderGetTypeId(row);
	int32		typmod = HeapTupleHeaderGetTypMod(row);
	HeapTupleData tuple;

	if (type != binding->type || typmod != binding->typmod)
		bind(use, type, typmod);
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, binding->desc, binding->fields,
					  binding->field_nulls);
	for (int c = 0; c < columns; c++)
	{
		binding->values[c] = binding->fields[binding->column[c]];
		binding->nulls[c] = binding->field_nulls[binding->column[c]];
	}
}

/* Encodes the entity that an argument gives into use->x. */
static void
EncodeEntity(NetworkUse *use, Datum argument, bool isnull)
{
	const Encoder *encoder = &use->trained->entity;
	HeapTupleHeader row = NULL;
	CodeLists	lists = {.context = CurrentMemoryContext};
	FeatureCode *codes;
	Size		size = 0;

	/* without meta features all entities are one */
	if (encoder->count == 0)
		return;
	if (!isnull)
	{
		row = DatumGetHeapTupleHeader(argument);
		size = HeapTupleHeaderGetDatumLength(row);
	}

	/* that of the row before, as often as not */
	if (use->encoded && use->last_isnull == isnull &&
		(isnull || (HeapTupleHeaderGetDatumLength(use->last) == size &&
					memcmp(use->last, row, size) == 0)))
		return;
	use->encoded = false;
	codes = palloc(sizeof(FeatureCode) * encoder->count);
	if (isnull)
		UnknownEntityCodes(encoder, codes);
	else
	{
		RecordBinding *binding = &use->entity;

		ReadRecord(use, binding, BindEntity, row, encoder->count);
		ReadColumns(binding->readers, encoder, encoder->count,
					binding->values, binding->nulls, codes, &lists);
	}
	Encode(encoder, codes, lists.codes, use->x);
	if (size > use->last_room)
	{
		use->last = MemoryContextAlloc(use->context, 2 * size);
		use->last_room = 2 * size;
	}
	if (!isnull)
		memcpy(use->last, row, size);
	use->last_isnull = isnull;
	use->encoded = true;
}

/*
 * The aggregate
 */

static MemoryContext
AggregateContext(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	return context;
}

/* A state without rows, of the entity with this encoding. */
static AdaptState *
NewState(NetworkUse *use, const float *x, MemoryContext context)
{
	Size		size = sizeof(float) * use->trained->entity.width;
	AdaptState *state = MemoryContextAlloc(context, sizeof(AdaptState));

	state->use = use;
	state->x = MemoryContextAlloc(context, Max(size, 1));
	memcpy(state->x, x, size);
	memset(&state->rows, 0, sizeof(KeptRows));
	return state;
}

/* The form of the network's rows, to be kept in this context. */
static const RowForm *
FormIn(NetworkUse *use, MemoryContext context)
{
	use->adapter.form.slots = context;
	use->adapter.form.copies = context;
	return &use->adapter.form;
}

PG_FUNCTION_INFO_V1(limaml_adapt_agg_transition);

/*
 * limaml_adapt_agg_transition(state, network, entity record, interaction
 * record): adds an interaction, if it has a label and a time.
 */
Datum
limaml_adapt_agg_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context = AggregateContext(fcinfo);
	AdaptState *state = PG_ARGISNULL(0) ? NULL :
		(AdaptState *) PG_GETARG_POINTER(0);
	NetworkUse *use = UseOfArgument(fcinfo, 1);
	RecordBinding *binding = &use->interaction;
	KeptRow    *row;

	EncodeEntity(use, PG_GETARG_DATUM(2), PG_ARGISNULL(2));
	if (state == NULL)
		state = NewState(use, use->x, context);
	else
	{
		CheckSameNetwork(state->use, use);
		CheckSameEntity(use, state->x, use->x);
	}
	if (PG_ARGISNULL(3))
		PG_RETURN_POINTER(state);

	ReadRecord(use, binding, BindInteraction,
			   DatumGetHeapTupleHeader(PG_GETARG_DATUM(3)),
			   2 + (use->trained->weight ? 1 : 0) +
			   CandidateFeatures(use->trained));
	if (binding->nulls[0] || binding->nulls[1])
		PG_RETURN_POINTER(state);
	row = NewRow(&use->adapter.form);
	AdapterReadRow(&use->adapter, binding->values, binding->nulls, NULL, row);
	KeepRow(FormIn(use, context), &state->rows, row);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(limaml_adapt_agg_combine);

/*
 * limaml_adapt_agg_combine(state, state): adds the second one's rows to the
 * first.
 */
Datum
limaml_adapt_agg_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = AggregateContext(fcinfo);
	AdaptState *state = PG_ARGISNULL(0) ? NULL :
		(AdaptState *) PG_GETARG_POINTER(0);
	AdaptState *other;
	NetworkUse *use;

	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	other = (AdaptState *) PG_GETARG_POINTER(1);
	use = other->use;
	if (state == NULL)
		state = NewState(use, other->x, context);
	else
	{
		CheckSameNetwork(state->use, use);
		CheckSameEntity(use, state->x, other->x);
	}
	KeepRows(FormIn(use, context), &state->rows, &other->rows);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(limaml_adapt_agg_serialize);

/* limaml_adapt_agg_serialize(state): a state as bytes. */
Datum
limaml_adapt_agg_serialize(PG_FUNCTION_ARGS)
{
	AdaptState *state = (AdaptState *) PG_GETARG_POINTER(0);
	NetworkUse *use = state->use;
	StringInfoData buffer;

	(void) AggregateContext(fcinfo);
	if (VARATT_IS_EXTENDED(use->file))
	{
		MemoryContext old = MemoryContextSwitchTo(use->context);

		use->file = PG_DETOAST_DATUM(PointerGetDatum(use->file));
		MemoryContextSwitchTo(old);
	}
	pq_begintypsend(&buffer);
	pq_sendbyte(&buffer, STATE_FORMAT);
	pq_sendint32(&buffer, state->rows.count > 0 ? use->time_type : InvalidOid);
	pq_sendint32(&buffer, VARSIZE(use->file) - VARHDRSZ);
	pq_sendbytes(&buffer, VARDATA(use->file), VARSIZE(use->file) - VARHDRSZ);
	for (int i = 0; i < use->trained->entity.width; i++)
		pq_sendfloat4(&buffer, state->x[i]);
	SendRows(&use->adapter.form, &state->rows, &buffer);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

static void
StateErrorContext(void *arg)
{
	errcontext("state of limaml_adapt_agg");
}

static void
BadState(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("invalid state of limaml_adapt_agg: %s", what)));
}

PG_FUNCTION_INFO_V1(limaml_adapt_agg_deserialize);

/*
 * limaml_adapt_agg_deserialize(bytea, internal): the state that these bytes
 * are, which may come from anybody.
 */
Datum
limaml_adapt_agg_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	StringInfoData buffer = {
		.data = VARDATA_ANY(bytes),
		.len = VARSIZE_ANY_EXHDR(bytes),
		.maxlen = VARSIZE_ANY_EXHDR(bytes)
	};
	ErrorContextCallback callback = {
		.callback = StateErrorContext,
		.previous = error_context_stack
	};
	AdaptState *state;
	NetworkUse *use;
	const char *file;
	float	   *x;
	Oid			time_type;
	int			size;

	error_context_stack = &callback;
	if (pq_getmsgbyte(&buffer) != STATE_FORMAT)
		BadState("it is of another format");
	time_type = (Oid) pq_getmsgint(&buffer, 4);
	size = (int) pq_getmsgint(&buffer, 4);
	file = pq_getmsgbytes(&buffer, size);
	use = UseOfFile(fcinfo, file, size);
	x = palloc(sizeof(float) * Max(use->trained->entity.width, 1));
	for (int i = 0; i < use->trained->entity.width; i++)
	{
		x[i] = pq_getmsgfloat4(&buffer);
		if (!isfinite(x[i]))
			BadState("its entity is not finite");
	}
	if (OidIsValid(time_type))
	{
		if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(time_type)))
			BadState("its event time is of no type that there is");
		SetTimeType(use, time_type);
	}
	state = NewState(use, x, CurrentMemoryContext);
	if (!ReceiveRows(FormIn(use, CurrentMemoryContext), &state->rows, &buffer))
		BadState("it has rows that the network cannot have seen");
	if (state->rows.count > 0 && !OidIsValid(time_type))
		BadState("it has rows without a time");
	if (buffer.cursor != buffer.len)
		BadState("it has bytes after its rows");
	error_context_stack = callback.previous;
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(limaml_adapt_agg_final);

/*
 * limaml_adapt_agg_final(state): the embedding adapted on the newest rows.
 * The state is left as it was, but for rows that no longer count.
 */
Datum
limaml_adapt_agg_final(PG_FUNCTION_ARGS)
{
	AdaptState *state = (AdaptState *) PG_GETARG_POINTER(0);
	NetworkUse *use = state->use;
	const TrainedNetwork *trained = use->trained;
	AdaptedEntity adapted = {0};

	(void) AggregateContext(fcinfo);
	CHECK_FOR_INTERRUPTS();
	use->adapter.part = CurrentMemoryContext;
	memcpy(use->adapter.x, state->x, sizeof(float) * trained->entity.width);
	AdaptKeptRows(&use->adapter, 1, &state->rows, NULL, &adapted);
	PG_RETURN_META_EMBEDDING_P(MakeMetaEmbedding(network_embedding_size(&trained->shape),
												 trained->fingerprint,
												 adapted.embedding));
}

/*
 * limaml_network
 */

/* A network that a call site has found. */
typedef struct FoundNetwork
{
	MemoryContext context;		/* holds name and network; NULL: none found */
	text	   *name;
	int			version;		/* as it was asked for */
	Moment		moment;
	bytea	   *network;
} FoundNetwork;

PG_FUNCTION_INFO_V1(limaml_network);

/*
 * limaml_network(model text, version int): the network of a version, or of the
 * deployed one, as a value.  A query is given one and the same for all rows.
 */
Datum
limaml_network(PG_FUNCTION_ARGS)
{
	FoundNetwork *found = fcinfo->flinfo->fn_extra;
	int			version = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	FoundNetwork new = {.version = version};
	MemoryContext old;
	text	   *name;
	Model	   *model;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	name = PG_GETARG_TEXT_PP(0);
	if (found && found->context && found->version == version &&
		VARSIZE_ANY_EXHDR(found->name) == VARSIZE_ANY_EXHDR(name) &&
		memcmp(VARDATA_ANY(found->name), VARDATA_ANY(name),
			   VARSIZE_ANY_EXHDR(name)) == 0 &&
		IsCurrentMoment(&found->moment))
		PG_RETURN_BYTEA_P(found->network);

	if (found == NULL)
		found = fcinfo->flinfo->fn_extra =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
								   sizeof(FoundNetwork));
	new.moment = CurrentMoment();
	new.context = AllocSetContextCreate(CurrentMemoryContext,
										"limaml network value",
										ALLOCSET_SMALL_SIZES);
	SPI_connect();
	model = CatalogModel(text_to_cstring(name), true);
	if (!PG_ARGISNULL(1) && version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						version),
				 errhint("Versions count from 1.")));
	version = CatalogVersion(model, version, true)->number;
	old = MemoryContextSwitchTo(new.context);
	new.name = (text *) PG_DETOAST_DATUM_COPY(PointerGetDatum(name));
	new.network = CatalogNetwork(model, version, true);
	MemoryContextSwitchTo(old);
	SPI_finish();
	MemoryContextSetParent(new.context, fcinfo->flinfo->fn_mcxt);
	if (found->context)
		MemoryContextDelete(found->context);
	*found = new;
	PG_RETURN_BYTEA_P(found->network);
}

/*
 * limaml_row
 */

/* The record type that a call site makes. */
static TupleDesc
RowDesc(int count, const Oid *types)
{
	TupleDesc	desc;

	/* an array has any number, and a descriptor counts in 16 bits */
	if (count > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("number of columns (%d) exceeds limit (%d)",
						count, MaxTupleAttributeNumber)));
	desc = CreateTemplateTupleDesc(count);
	for (int i = 0; i < count; i++)
		TupleDescInitEntry(desc, i + 1, psprintf("f%d", i + 1), types[i], -1,
						   0);
	return BlessTupleDesc(desc);
}

static Datum
FormRow(TupleDesc desc, Datum *values, bool *nulls)
{
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

PG_FUNCTION_INFO_V1(limaml_row);

/*
 * limaml_row(VARIADIC "any"): a record with columns f1 ... fn, as ROW(...) is,
 * but a function, which postgres_fdw sends to other servers.
 */
Datum
limaml_row(PG_FUNCTION_ARGS)
{
	int			count = PG_NARGS();
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	Datum	   *values;
	bool	   *nulls;

	if (get_fn_expr_variadic(fcinfo->flinfo))
	{
		Oid		   *types;

		/* an array has as many elements as it has, in every row */
		count = extract_variadic_args(fcinfo, 0, false, &values, &types,
									  &nulls);
		if (count < 0)
			PG_RETURN_NULL();
		PG_RETURN_DATUM(FormRow(RowDesc(count, types), values, nulls));
	}
	if (desc == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		Oid		   *types = palloc(sizeof(Oid) * count);

		for (int i = 0; i < count; i++)
		{
			types[i] = get_fn_expr_argtype(fcinfo->flinfo, i);
			if (!OidIsValid(types[i]))
				elog(ERROR, "could not determine the type of argument %d",
					 i + 1);
		}
		desc = fcinfo->flinfo->fn_extra = RowDesc(count, types);
		MemoryContextSwitchTo(old);
	}
	values = palloc(sizeof(Datum) * count);
	nulls = palloc(sizeof(bool) * count);
	for (int i = 0; i < count; i++)
	{
		nulls[i] = PG_ARGISNULL(i);
		values[i] = nulls[i] ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	PG_RETURN_DATUM(FormRow(desc, values, nulls));
}
