/*-------------------------------------------------------------------------
 *
 * embedding_store.c
 *	  Storing the embeddings that a refresh has adapted.
 *
 * Statements read them as the rows of a relation that only this connection of
 * SPI knows, as triggers read their transition tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/embedding.h"
#include "model/statement.h"
#include "refresh/embedding_store.h"
#include "utils/builtins.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

/* What an embedding is stored with, beside its key. */
typedef enum StoredColumn
{
	STORED_EMBEDDING,
	STORED_INTERACTIONS,		/* how many there are */
	STORED_ADAPTED_THROUGH,		/* time of the newest */
	STORED_LOSS_BEFORE,
	STORED_LOSS_AFTER,
	STORED_COLUMNS
} StoredColumn;

struct EmbeddingStore
{
	int			keys;
	EphemeralNamedRelationData adapted; /* key..., StoredColumn... */
	SPIPlanPtr	insert;			/* of what is new */
	SPIPlanPtr	upsert;
};

/* No relation of a catalog comes before it. */
#define ADAPTED "limaml: adapted"

/* About as many rows as it has. */
#define ADAPTED_ROWS 500

static const char *
EmbeddingsTable(const Model *model)
{
	return ModelRelationName(model, model->embeddings, "embeddings");
}

/* "INSERT ..." of what was adapted; the version is $1. */
static void
AppendInsert(StringInfo sql, const Model *model, const EntityKey *key)
{
	appendStringInfo(sql, "INSERT INTO %s AS e (", EmbeddingsTable(model));
	for (int k = 0; k < key->count; k++)
		appendStringInfo(sql, "%s, ", quote_identifier(key->columns[k].name));
	appendStringInfo(sql, "embedding, interactions, adapted_through,"
					 " loss_before, loss_after, version, adapted_at)"
					 " SELECT s.*, $1, pg_catalog.now() FROM %s AS s"
					 " WHERE s.interactions OPERATOR(pg_catalog.>) 0",
					 quote_identifier(ADAPTED));
}

static char *
InsertStatement(const Model *model, const EntityKey *key)
{
	StringInfoData sql;

	initStringInfo(&sql);
	AppendInsert(&sql, model, key);
	return sql.data;
}

static char *
UpsertStatement(const Model *model, const EntityKey *key)
{
	StringInfoData sql;

	initStringInfo(&sql);
	AppendInsert(&sql, model, key);
	appendStringInfo(&sql, " OR EXISTS (SELECT FROM %s AS o WHERE o.version OPERATOR(pg_catalog.=) $1",
					 EmbeddingsTable(model));
	for (int k = 0; k < key->count; k++)
	{
		const char *name = quote_identifier(key->columns[k].name);

		appendStringInfo(&sql, " AND o.%s %s s.%s", name,
						 key->columns[k].equality, name);
	}
	appendStringInfoString(&sql, ") ON CONFLICT (");
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&sql, "%s, ", quote_identifier(key->columns[k].name));
	appendStringInfoString(&sql, "version) DO UPDATE SET"
						   " embedding = excluded.embedding,"
						   " interactions = excluded.interactions,"
						   " adapted_through = excluded.adapted_through,"
						   " loss_before = excluded.loss_before,"
						   " loss_after = excluded.loss_after,"
						   " adapted_at = excluded.adapted_at");
	return sql.data;
}

static TupleDesc
AdaptedRows(const Source *source, Oid embedding_type)
{
	const EntityKey *key = &source->key;
	AttrNumber	at = (AttrNumber) (key->count + 1);
	TupleDesc	desc = CreateTemplateTupleDesc(key->count + STORED_COLUMNS);

	for (int k = 0; k < key->count; k++)
	{
		const KeyColumn *column = &key->columns[k];

		TupleDescInitEntry(desc, (AttrNumber) (k + 1), column->name,
						   column->type, column->typmod, 0);
		TupleDescInitEntryCollation(desc, (AttrNumber) (k + 1),
									column->collation);
	}
	TupleDescInitEntry(desc, at + STORED_EMBEDDING, "embedding",
					   embedding_type, -1, 0);
	TupleDescInitEntry(desc, at + STORED_INTERACTIONS, "interactions",
					   INT4OID, -1, 0);
	TupleDescInitEntry(desc, at + STORED_ADAPTED_THROUGH, "adapted_through",
					   source->event_time.type, -1, 0);
	TupleDescInitEntry(desc, at + STORED_LOSS_BEFORE, "loss_before",
					   FLOAT4OID, -1, 0);
	TupleDescInitEntry(desc, at + STORED_LOSS_AFTER, "loss_after",
					   FLOAT4OID, -1, 0);
	return desc;
}

EmbeddingStore *
EmbeddingStoreCreate(const Source *source, Oid embedding_type)
{
	EmbeddingStore *store = palloc0(sizeof(EmbeddingStore));
	Oid			types[1] = {INT4OID};

	store->keys = source->key.count;
	store->adapted.md.name = pstrdup(ADAPTED);
	store->adapted.md.reliddesc = InvalidOid;
	store->adapted.md.tupdesc = AdaptedRows(source, embedding_type);
	store->adapted.md.enrtype = ENR_NAMED_TUPLESTORE;
	store->adapted.md.enrtuples = ADAPTED_ROWS;
	if (SPI_register_relation(&store->adapted) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\"", ADAPTED);

	/* one plan for all parts, so none is made for each */
	store->insert = OwnPlan(InsertStatement(source->model, &source->key), 1,
							types, CURSOR_OPT_GENERIC_PLAN);
	store->upsert = OwnPlan(UpsertStatement(source->model, &source->key), 1,
							types, CURSOR_OPT_GENERIC_PLAN);
	return store;
}

bool
HasEmbeddings(const Model *model, int version)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(version)};

	if (SPI_execute_with_args(psprintf("SELECT FROM %s AS e WHERE e.version OPERATOR(pg_catalog.=) $1",
									   EmbeddingsTable(model)),
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the embeddings");
	SPI_freetuptable(SPI_tuptable);
	return SPI_processed > 0;
}

int64
StoreEmbeddings(EmbeddingStore *store, int version,
				const TrainedNetwork *trained, int count, Datum **key,
				const AdaptedEntity *adapted, bool are_new)
{
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	Datum		values[INDEX_MAX_KEYS + STORED_COLUMNS];
	bool		isnull[INDEX_MAX_KEYS + STORED_COLUMNS] = {0};
	Datum	   *stored = values + store->keys;
	Datum		parameters[1] = {Int32GetDatum(version)};

	for (int i = 0; i < count; i++)
	{
		MetaEmbedding *embedding =
			MakeMetaEmbedding(network_embedding_size(&trained->shape),
							  trained->fingerprint, adapted[i].embedding);

		for (int k = 0; k < store->keys; k++)
			values[k] = key[k][i];
		stored[STORED_EMBEDDING] = MetaEmbeddingPGetDatum(embedding);
		stored[STORED_INTERACTIONS] =
			Int32GetDatum((int32) Min(adapted[i].interactions,
									  PG_INT32_MAX));
		stored[STORED_ADAPTED_THROUGH] = adapted[i].adapted_through;
		isnull[store->keys + STORED_ADAPTED_THROUGH] =
			adapted[i].interactions == 0;
		stored[STORED_LOSS_BEFORE] = Float4GetDatum(adapted[i].loss_before);
		stored[STORED_LOSS_AFTER] = Float4GetDatum(adapted[i].loss_after);
		tuplestore_putvalues(rows, store->adapted.md.tupdesc, values, isnull);
		pfree(embedding);
	}
	store->adapted.reldata = rows;
	if (SPI_execute_plan(are_new ? store->insert : store->upsert, parameters,
						 NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store embeddings");
	store->adapted.reldata = NULL;
	tuplestore_end(rows);
	return (int64) SPI_processed;
}
