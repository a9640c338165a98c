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
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "model/embedding.h"
#include "model/statement.h"
#include "refresh/embedding_store.h"
#include "utils/builtins.h"
#include "utils/queryenvironment.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

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
	const EntityKey *key;
	EphemeralNamedRelationData adapted; /* key..., StoredColumn... */
	TupleTableSlot *row;		/* of these */
	TupleTableSlot *sorted;
	Tuplesortstate *sort;		/* NULL where they are stored at once */
	SPIPlanPtr	insert;			/* of what is new */
	SPIPlanPtr	upsert;
};

/* Rows that are stored at a time when all are sorted. */
#define SORTED_ROWS 8192

/* No relation of a catalog comes before it. */
#define ADAPTED "limaml: adapted"

/* Rows that its plans are made for; of more, too, each is looked up by key. */
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

	store->key = &source->key;
	store->adapted.md.name = pstrdup(ADAPTED);
	store->adapted.md.reliddesc = InvalidOid;
	store->adapted.md.tupdesc = AdaptedRows(source, embedding_type);
	store->adapted.md.enrtype = ENR_NAMED_TUPLESTORE;
	store->adapted.md.enrtuples = ADAPTED_ROWS;
	if (SPI_register_relation(&store->adapted) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\"", ADAPTED);
	store->row = MakeSingleTupleTableSlot(store->adapted.md.tupdesc,
										  &TTSOpsVirtual);
	store->sorted = MakeSingleTupleTableSlot(store->adapted.md.tupdesc,
											 &TTSOpsMinimalTuple);

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

/* Stores the rows of a tuplestore, which is gone then. */
static int64
StoreRows(EmbeddingStore *store, int version, Tuplestorestate *rows,
		  bool are_new)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum		parameters[1] = {Int32GetDatum(version)};

	store->adapted.reldata = rows;
	if (SPI_execute_plan(are_new ? store->insert : store->upsert, parameters,
						 NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store embeddings");
	store->adapted.reldata = NULL;
	tuplestore_end(rows);

	/* a plan leaves its procedure's */
	MemoryContextSwitchTo(caller);
	return (int64) SPI_processed;
}

/* Makes store->row that of entity i. */
static void
FillRow(EmbeddingStore *store, Datum **key, int i,
		const MetaEmbedding *embedding, const AdaptedEntity *adapted)
{
	Datum	   *values = store->row->tts_values;
	Datum	   *stored = values + store->key->count;
	bool	   *isnull = store->row->tts_isnull;

	ExecClearTuple(store->row);
	for (int k = 0; k < store->key->count; k++)
		values[k] = key[k][i];
	stored[STORED_EMBEDDING] = MetaEmbeddingPGetDatum(embedding);
	stored[STORED_INTERACTIONS] =
		Int32GetDatum((int32) Min(adapted->interactions, PG_INT32_MAX));
	stored[STORED_ADAPTED_THROUGH] = adapted->adapted_through;
	stored[STORED_LOSS_BEFORE] = Float4GetDatum(adapted->loss_before);
	stored[STORED_LOSS_AFTER] = Float4GetDatum(adapted->loss_after);
	memset(isnull, 0, sizeof(bool) * (store->key->count + STORED_COLUMNS));
	isnull[store->key->count + STORED_ADAPTED_THROUGH] =
		adapted->interactions == 0;
	ExecStoreVirtualTuple(store->row);
}

int64
StoreEmbeddings(EmbeddingStore *store, int version,
				const TrainedNetwork *trained, int count, Datum **key,
				const AdaptedEntity *adapted, bool are_new)
{
	Tuplestorestate *rows = store->sort ? NULL :
		tuplestore_begin_heap(false, false, work_mem);

	for (int i = 0; i < count; i++)
	{
		MetaEmbedding *embedding =
			MakeMetaEmbedding(network_embedding_size(&trained->shape),
							  trained->fingerprint, adapted[i].embedding);

		FillRow(store, key, i, embedding, &adapted[i]);
		if (rows)
			tuplestore_puttupleslot(rows, store->row);
		else
			tuplesort_puttupleslot(store->sort, store->row);
		pfree(embedding);
	}
	return rows ? StoreRows(store, version, rows, are_new) : 0;
}

/* After an error, its memory is gone. */
static void
ForgetSort(void *store)
{
	((EmbeddingStore *) store)->sort = NULL;
}

void
SortEmbeddings(EmbeddingStore *store, Size memory)
{
	int			count = store->key->count;
	AttrNumber	columns[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];
	Oid			collations[INDEX_MAX_KEYS];
	bool		nulls_first[INDEX_MAX_KEYS] = {0};
	MemoryContextCallback *gone = palloc(sizeof(MemoryContextCallback));

	for (int k = 0; k < count; k++)
	{
		const KeyColumn *column = &store->key->columns[k];

		columns[k] = (AttrNumber) (k + 1);
		operators[k] = lookup_type_cache(column->type,
										 TYPECACHE_LT_OPR)->lt_opr;
		collations[k] = column->collation;
	}
	gone->func = ForgetSort;
	gone->arg = store;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, gone);
	store->sort = tuplesort_begin_heap(store->adapted.md.tupdesc, count,
									   columns, operators, collations,
									   nulls_first, (int) (memory / 1024),
									   NULL, TUPLESORT_NONE);
}

int64
StoreSortedEmbeddings(EmbeddingStore *store, int version, bool are_new)
{
	int64		stored = 0;
	bool		more;

	tuplesort_performsort(store->sort);
	do
	{
		Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
		int			count = 0;

		CHECK_FOR_INTERRUPTS();
		while (count < SORTED_ROWS &&
			   (more = tuplesort_gettupleslot(store->sort, true, false,
											  store->sorted, NULL)))
		{
			tuplestore_puttupleslot(rows, store->sorted);
			count++;
		}
		stored += StoreRows(store, version, rows, are_new);
	} while (more);
	ExecClearTuple(store->sorted);
	tuplesort_end(store->sort);
	store->sort = NULL;
	return stored;
}
