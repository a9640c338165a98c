/*-------------------------------------------------------------------------
 *
 * model_use.c
 *	  Finding out, once per query and call site, what scoring needs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "math/adapt.h"
#include "miscadmin.h"
#include "model/embedding.h"
#include "model/network_cache.h"
#include "query/model_use.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"

/* Entities that a call site remembers; a query over more starts over. */
#define MOST_ENTITIES 16384

typedef struct EntityEntry
{
	Datum	   *key;
	EntityVector *vector;
	uint32		hash;
	char		status;
} EntityEntry;

static bool
KeysEqual(const EntityKey *key, const Datum *a, const Datum *b)
{
	for (int k = 0; k < key->count; k++)
		if (!datumIsEqual(a[k], b[k], key->columns[k].typbyval,
						  key->columns[k].typlen))
			return false;
	return true;
}

/* Bytes decide: keys that are equal but not alike are looked up apart. */
static uint32
KeysHash(const EntityKey *key, const Datum *values)
{
	uint32		hash = 0;

	for (int k = 0; k < key->count; k++)
	{
		const KeyColumn *column = &key->columns[k];
		uint32		part;

		if (column->typbyval)
			part = hash_bytes((const unsigned char *) &values[k],
							  sizeof(Datum));
		else
			part = hash_bytes((const unsigned char *) DatumGetPointer(values[k]),
							  datumGetSize(values[k], false, column->typlen));
		hash = hash_combine(hash, part);
	}
	return hash;
}

#define SH_PREFIX entities
#define SH_ELEMENT_TYPE EntityEntry
#define SH_KEY_TYPE Datum *
#define SH_KEY key
#define SH_HASH_KEY(table, values) \
	KeysHash((const EntityKey *) (table)->private_data, (values))
#define SH_EQUAL(table, a, b) \
	KeysEqual((const EntityKey *) (table)->private_data, (a), (b))
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

Moment
CurrentMoment(void)
{
	Snapshot	snapshot = GetActiveSnapshot();

	return (Moment)
	{
		.user = GetUserId(),
		.xmin = snapshot->xmin,
		.xmax = snapshot->xmax,
		.curcid = snapshot->curcid,
		.completed = snapshot->snapXactCompletionCount
	};
}

bool
IsCurrentMoment(const Moment *then)
{
	Moment		now = CurrentMoment();

	return now.user == then->user && now.xmin == then->xmin &&
		now.xmax == then->xmax && now.curcid == then->curcid &&
		now.completed == then->completed;
}

bool
IsUseOf(const ModelUse *use, const text *name)
{
	return use->context != NULL &&
		VARSIZE_ANY_EXHDR(use->name) == VARSIZE_ANY_EXHDR(name) &&
		memcmp(VARDATA_ANY(use->name), VARDATA_ANY(name),
			   VARSIZE_ANY_EXHDR(name)) == 0;
}

/* Whether what was found out still is so for this call. */
static bool
IsCurrent(const ModelUse *use, const text *name)
{
	return IsUseOf(use, name) && IsCurrentMoment(&use->moment);
}

/* Fills in a use, all but its context, with SPI connected. */
static void
FindOut(ModelUse *use, const text *name, Oid key_type)
{
	MemoryContextSwitchTo(use->context);
	use->name = (text *) PG_DETOAST_DATUM_COPY(PointerGetDatum(name));
	use->moment = CurrentMoment();
	use->model = CatalogModel(text_to_cstring(name), true);
	MemoryContextSwitchTo(use->context);
	use->version = CatalogVersion(use->model, 0, true);
	MemoryContextSwitchTo(use->context);
	use->trained = CachedNetwork(use->model, use->version, true, use->context);
	MemoryContextSwitchTo(use->context);
	use->title = psprintf("model \"%s\"", use->model->name);
	use->scoring = palloc(sizeof(float) *
						  network_score_size(&use->trained->shape, 1));
	if (OidIsValid(key_type))
	{
		EntityKeyInit(&use->key, use->model, use->model->embeddings,
					  "embeddings");
		KeyBindingInit(&use->binding, &use->key, use->model, key_type);
		if (use->trained->personalization == PERSONALIZATION_ID)
		{
			const Encoder *encoder = &use->trained->interaction;

			KeyReaderInit(&use->key_reader, &use->key);
			KeyReaderCheck(&use->key_reader,
						   &encoder->features[encoder->count - 1].vocabulary);
		}
		use->last_key = palloc(sizeof(Datum) * use->key.count);
		use->entities_context = AllocSetContextCreate(use->context,
													  "limaml entities",
													  ALLOCSET_DEFAULT_SIZES);
	}
}

/* The call site's use, of which nothing is known. */
static ModelUse *
NoUse(FunctionCallInfo fcinfo)
{
	ModelUse   *use = fcinfo->flinfo->fn_extra;
	MemoryContext context;

	if (use == NULL)
		return fcinfo->flinfo->fn_extra =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(ModelUse));
	context = use->context;
	memset(use, 0, sizeof(*use));
	if (context)
		MemoryContextDelete(context);
	return use;
}

ModelUse *
UseNetwork(FunctionCallInfo fcinfo, int network_argument)
{
	ModelUse   *use = fcinfo->flinfo->fn_extra;
	ModelUse	found = {0};
	MemoryContext old;
	Datum		value;

	if (PG_ARGISNULL(network_argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("network must not be null")));
	value = PG_GETARG_DATUM(network_argument);
	if (use && use->context && IsNetworkValue(&use->value, value))
		return use;
	use = NoUse(fcinfo);
	found.context = AllocSetContextCreate(CurrentMemoryContext,
										  "limaml model use",
										  ALLOCSET_DEFAULT_SIZES);
	found.trained = NetworkOfValue(value, &found.value, found.context);
	old = MemoryContextSwitchTo(found.context);
	found.title = psprintf("network %08x", found.trained->fingerprint);
	found.scoring = palloc(sizeof(float) *
						   network_score_size(&found.trained->shape, 1));
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(found.context, fcinfo->flinfo->fn_mcxt);
	*use = found;
	return use;
}

ModelUse *
UseModelOf(FunctionCallInfo fcinfo, int model_argument, int key_argument)
{
	ModelUse   *use = fcinfo->flinfo->fn_extra;
	text	   *name;
	Oid			key_type = InvalidOid;

	if (PG_ARGISNULL(model_argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model must not be null")));
	name = PG_GETARG_TEXT_PP(model_argument);
	if (use && IsCurrent(use, name))
		return use;
	use = NoUse(fcinfo);

	if (key_argument >= 0)
	{
		key_type = get_fn_expr_argtype(fcinfo->flinfo, key_argument);
		if (!OidIsValid(key_type))
			elog(ERROR, "could not determine the type of the entity key");
	}

	/* until all is found out the use is none, should an error intervene */
	{
		ModelUse	found = {0};
		MemoryContext old = CurrentMemoryContext;

		found.context = AllocSetContextCreate(CurrentMemoryContext,
											  "limaml model use",
											  ALLOCSET_DEFAULT_SIZES);
		SPI_connect();
		FindOut(&found, name, key_type);
		SPI_finish();
		MemoryContextSwitchTo(old);
		MemoryContextSetParent(found.context, fcinfo->flinfo->fn_mcxt);
		*use = found;
		use->binding.key = use->key_reader.key = &use->key;
		use->embedding_type = MetaEmbeddingType();
	}
	return use;
}

Adapter *
UseAdapter(ModelUse *use)
{
	if (use->adapter == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(use->context);
		Adapter    *adapter = palloc0(sizeof(Adapter));

		AdapterInit(adapter, use->model, use->trained, 1);
		for (int k = 0; k < use->key.count; k++)
			if (adapter->source.key.columns[k].type != use->key.columns[k].type)
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("key column \"%s\" of model \"%s\" is of type %s in the interactions and of type %s in the embeddings",
								use->key.columns[k].name, use->model->name,
								format_type_be(adapter->source.key.columns[k].type),
								format_type_be(use->key.columns[k].type))));
		use->adapter = adapter;
		MemoryContextSwitchTo(old);
	}
	return use->adapter;
}

static EntityVector *
NewVector(ModelUse *use)
{
	const NetworkShape *shape = &use->trained->shape;
	EntityVector *vector = palloc0(sizeof(EntityVector));

	vector->embedding = palloc(sizeof(float) * network_embedding_size(shape));
	vector->entity = palloc(sizeof(float) * network_entity_size(shape));
	return vector;
}

/* What every candidate meets of an embedding. */
static void
FinishVector(const ModelUse *use, EntityVector *vector)
{
	network_entity(&use->trained->network, vector->embedding, vector->entity);
}

EntityVector *
UseEmbedding(ModelUse *use, const float *embedding)
{
	int			size = network_embedding_size(&use->trained->shape);

	/* the same embedding as in the row before, as often as not */
	if (use->last == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(use->context);

		use->last = NewVector(use);
		MemoryContextSwitchTo(old);
	}
	else if (memcmp(use->last->embedding, embedding,
					sizeof(float) * size) == 0)
		return use->last;
	memcpy(use->last->embedding, embedding, sizeof(float) * size);
	FinishVector(use, use->last);
	return use->last;
}

/* The stored embedding of a key; false where there is none. */
static bool
StoredEmbedding(ModelUse *use, Datum *key, float *embedding)
{
	const EntityKey *columns = &use->key;
	int			size = network_embedding_size(&use->trained->shape);
	Datum		values[INDEX_MAX_KEYS + 1];
	MetaEmbedding *stored = NULL;
	Datum		datum;
	bool		isnull;

	if (use->embedding_plan == NULL)
	{
		Oid			types[INDEX_MAX_KEYS + 1];
		StringInfoData sql;
		MemoryContext old;

		initStringInfo(&sql);
		appendStringInfo(&sql, "SELECT e.embedding FROM %s AS e WHERE e.version OPERATOR(pg_catalog.=) $1",
						 ModelRelationName(use->model, use->model->embeddings,
										   "embeddings"));
		types[0] = INT4OID;
		for (int k = 0; k < columns->count; k++)
		{
			types[k + 1] = columns->columns[k].type;
			appendStringInfo(&sql, " AND e.%s %s $%d",
							 quote_identifier(columns->columns[k].name),
							 columns->columns[k].equality, k + 2);
		}
		old = MemoryContextSwitchTo(use->context);
		use->embedding_plan = KeptPlan(sql.data, columns->count + 1, types,
									   CURSOR_OPT_GENERIC_PLAN);
		MemoryContextSwitchTo(old);
	}

	values[0] = Int32GetDatum(use->version->number);
	memcpy(values + 1, key, sizeof(Datum) * columns->count);
	if (SPI_execute_plan(use->embedding_plan, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up an embedding");
	if (SPI_processed == 0)
		return false;

	/* the table is its owner's, who may have made anything of the column */
	datum = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						  &isnull);
	if (!isnull &&
		SPI_gettypeid(SPI_tuptable->tupdesc, 1) == use->embedding_type)
		stored = DatumGetMetaEmbeddingP(datum);
	if (stored == NULL || stored->dims != size ||
		stored->fingerprint != use->trained->fingerprint)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("embedding of %s is not of version %d of model \"%s\"",
						KeyText(columns, key), use->version->number,
						use->model->name),
				 errhint("CALL limaml_refresh(%s, only_stale => false) makes it anew.",
						 quote_literal_cstr(use->model->name))));
	memcpy(embedding, stored->x, sizeof(float) * size);
	SPI_freetuptable(SPI_tuptable);
	return true;
}

/*
 * Whether the caller may read what is known about entities.  Reading is the
 * caller's own, but SELECT on the embeddings is enough to score: who may not
 * see the entities scores new ones as unknown.
 */
static bool
MayReadEntities(const ModelUse *use)
{
	Oid			relation = use->model->entities;
	const Encoder *encoder = &use->trained->entity;

	/* an error where there is none to have a schema */
	ModelRelationName(use->model, relation, "entities");
	if (!NamespaceIsUsable(get_rel_namespace(relation), GetUserId()))
		return false;
	if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return true;
	for (int f = 0; f < encoder->count + use->key.count; f++)
	{
		const char *name = f < encoder->count ? encoder->features[f].name :
			use->key.columns[f - encoder->count].name;

		if (pg_attribute_aclcheck(relation, get_attnum(relation, name),
								  GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			return false;
	}
	return true;
}

/*
 * The prior: the meta block's output for what is known, without any step.
 * key is NULL for an entity that has none.
 */
static void
PriorEmbedding(ModelUse *use, Datum *key, float *embedding)
{
	const TrainedNetwork *trained = use->trained;
	const NetworkShape *shape = &trained->shape;
	FeatureCode *codes = palloc(sizeof(FeatureCode) *
								Max(trained->entity.count, 1));
	CodeLists	lists = {.context = CurrentMemoryContext};
	float	   *x = palloc(sizeof(float) * Max(trained->entity.width, 1));
	Rows		none = {0};

	if (key && trained->entity.count > 0 && MayReadEntities(use))
	{
		Datum	   *columns[INDEX_MAX_KEYS];

		for (int k = 0; k < use->key.count; k++)
			columns[k] = &key[k];
		EntityCodes(UseAdapter(use), 1, columns, true, codes, &lists);
	}
	else
		UnknownEntityCodes(&trained->entity, codes);
	Encode(&trained->entity, codes, lists.codes, x);
	adapt(&trained->network, x, &none,
		  palloc(sizeof(float) * adapt_size(shape, 1, 0)), embedding);
}

/* The row of an entity's vector, which for a stranger is that of NULL. */
static int32
EntityId(ModelUse *use, Datum *key)
{
	const Encoder *encoder = &use->trained->interaction;
	CategoryValue value;

	if (key == NULL || use->trained->personalization != PERSONALIZATION_ID)
		return VOCABULARY_NULL_ROW;
	ReadKey(&use->key_reader, key, &value);
	return VocabularyRow(&encoder->features[encoder->count - 1].vocabulary,
						 &value);
}

/* Finds out an entity's vector; key is NULL for one that has none. */
static EntityVector *
FindVector(ModelUse *use, MemoryContext context, Datum *key)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	EntityVector *vector = NewVector(use);
	MemoryContext work;

	MemoryContextSwitchTo(old);
	SPI_connect();
	work = CurrentMemoryContext;
	vector->stored = key && StoredEmbedding(use, key, vector->embedding);
	MemoryContextSwitchTo(work);
	if (!vector->stored)
		PriorEmbedding(use, key, vector->embedding);
	SPI_finish();
	FinishVector(use, vector);
	vector->id = EntityId(use, key);
	return vector;
}

EntityVector *
UseEntity(ModelUse *use, Datum argument, bool isnull)
{
	const EntityKey *key = &use->key;
	Datum		values[INDEX_MAX_KEYS];
	EntityEntry *entry = NULL;
	EntityVector *vector;
	Datum	   *copy;
	MemoryContext old;
	bool		found;

	/* NULL is an entity about which nothing is known */
	if (!KeyValues(&use->binding, argument, isnull, values))
	{
		if (use->unknown == NULL)
			use->unknown = FindVector(use, use->context, NULL);
		return use->unknown;
	}

	for (int k = 0; k < key->count; k++)
		if (key->columns[k].typlen == -1)
			values[k] = PointerGetDatum(PG_DETOAST_DATUM(values[k]));
	if (use->last && KeysEqual(key, use->last_key, values))
		return use->last;
	if (use->entities)
		entry = entities_lookup(use->entities, values);
	if (entry)
	{
		use->last = entry->vector;
		memcpy(use->last_key, entry->key, sizeof(Datum) * key->count);
		return entry->vector;
	}
	if (use->entities && use->entities->members >= MOST_ENTITIES)
	{
		use->entities = NULL;
		use->last = NULL;
		MemoryContextReset(use->entities_context);
	}

	vector = FindVector(use, use->entities_context, values);
	old = MemoryContextSwitchTo(use->entities_context);
	if (use->entities == NULL)
		use->entities = entities_create(use->entities_context, 16,
										unconstify(EntityKey *, key));
	copy = palloc(sizeof(Datum) * key->count);
	for (int k = 0; k < key->count; k++)
		copy[k] = datumCopy(values[k], key->columns[k].typbyval,
							key->columns[k].typlen);
	entry = entities_insert(use->entities, copy, &found);
	entry->vector = vector;
	memcpy(use->last_key, copy, sizeof(Datum) * key->count);
	use->last = vector;
	MemoryContextSwitchTo(old);
	return vector;
}

EntityVector *
UsePrior(ModelUse *use, Datum argument, bool isnull)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		known = KeyValues(&use->binding, argument, isnull, values);
	EntityVector *prior = NewVector(use);
	MemoryContext caller = CurrentMemoryContext;

	SPI_connect();
	PriorEmbedding(use, known ? values : NULL, prior->embedding);
	SPI_finish();
	MemoryContextSwitchTo(caller);
	FinishVector(use, prior);
	prior->id = EntityId(use, NULL);
	return prior;
}

char *
UseEntityText(ModelUse *use, Datum argument, bool isnull)
{
	Datum		values[INDEX_MAX_KEYS];

	if (!KeyValues(&use->binding, argument, isnull, values))
		return NULL;
	return KeyText(&use->key, values);
}
