/*-------------------------------------------------------------------------
 *
 * neighbors.c
 *	  limaml_neighbors: the entities whose stored embeddings are nearest.
 *
 * They are found by one query, which sorts all embeddings of the version by
 * their distances.  Where the table has an index of pgvector's, and there are
 * the casts of limaml_enable_pgvector, the query is of a form that the planner
 * can use it for.  Such an index is approximate, and what it gives up to look
 * for may be fewer than are wanted: then all are sorted after all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "model/embedding.h"
#include "model/statement.h"
#include "query/model_use.h"
#include "query/pgvector.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "compat.h"

/* As pgvector has it: how many an HNSW index gives, and at most can. */
#define EF_SEARCH "hnsw.ef_search"
#define EF_SEARCH_DEFAULT 40
#define EF_SEARCH_MOST 1000

/* Parameters of the query; the entity's key follows. */
#define EMBEDDING_PARAMETER 1
#define VERSION_PARAMETER 2
#define K_PARAMETER 3

/* Whether the embeddings, or some version's of them, have such an index. */
static bool
HasVectorIndex(Oid embeddings)
{
	Parameters	parameters = {0};
	bool		found;

	AddParameter(&parameters, REGCLASSOID, ObjectIdGetDatum(embeddings), false);
	ExecuteStatement("SELECT FROM pg_catalog.pg_partition_tree($1) AS t"
					 " JOIN pg_catalog.pg_index AS i ON i.indrelid OPERATOR(pg_catalog.=) t.relid"
					 " JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid"
					 " JOIN pg_catalog.pg_am AS a ON a.oid OPERATOR(pg_catalog.=) c.relam"
					 " WHERE i.indisvalid AND i.indexprs IS NOT NULL"
					 " AND a.amname OPERATOR(pg_catalog.=) ANY ('{hnsw,ivfflat}'::pg_catalog.name[])"
					 " LIMIT 1", &parameters, true, SPI_OK_SELECT);
	found = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	return found;
}

/* The distance that an ORDER BY of pgvector's indexes is by. */
static char *
VectorDistance(const ModelUse *use, Oid vector, Oid schema)
{
	char	   *type = psprintf("%s(%d)", format_type_be_qualified(vector),
								network_embedding_size(&use->trained->shape));

	return psprintf("e.embedding::%s OPERATOR(%s.<->) $%d::%s", type,
					quote_identifier(get_namespace_name(schema)),
					EMBEDDING_PARAMETER, type);
}

/*
 * The query for keys and distances; order is an expression that the nearest
 * come first by, and known says that there is an entity to leave out.
 */
static char *
NeighborsQuery(const ModelUse *use, const char *order, bool known)
{
	const EntityKey *key = &use->key;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.jsonb_build_object(");
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&sql, "%s%s, n.k%d", k > 0 ? ", " : "",
						 quote_literal_cstr(key->columns[k].name), k + 1);
	appendStringInfoString(&sql, "), n.distance FROM (SELECT ");
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&sql, "e.%s AS k%d, ",
						 quote_identifier(key->columns[k].name), k + 1);
	appendStringInfo(&sql, "e.embedding OPERATOR(%s.<->) $%d AS distance FROM %s AS e"
					 " WHERE e.version OPERATOR(pg_catalog.=) $%d",
					 quote_identifier(get_namespace_name(ExtensionSchema())),
					 EMBEDDING_PARAMETER,
					 ModelRelationName(use->model, use->model->embeddings,
									   "embeddings"),
					 VERSION_PARAMETER);
	if (known)
	{
		appendStringInfoString(&sql, " AND NOT (");
		for (int k = 0; k < key->count; k++)
			appendStringInfo(&sql, "%se.%s %s $%d", k > 0 ? " AND " : "",
							 quote_identifier(key->columns[k].name),
							 key->columns[k].equality, K_PARAMETER + 1 + k);
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfo(&sql, " ORDER BY %s LIMIT $%d) AS n ORDER BY n.distance",
					 order, K_PARAMETER);
	for (int k = 0; k < key->count; k++)
		appendStringInfo(&sql, ", n.k%d", k + 1);
	return sql.data;
}

/* Distances, and of equal ones keys. */
static char *
ExactOrder(const ModelUse *use)
{
	StringInfoData order;

	initStringInfo(&order);
	appendStringInfoString(&order, "distance");
	for (int k = 0; k < use->key.count; k++)
		appendStringInfo(&order, ", k%d", k + 1);
	return order.data;
}

/* Lets HNSW indexes give so many rows, until the end of the GUC level. */
static void
RaiseEfSearch(int rows)
{
	const char *setting = GetConfigOption(EF_SEARCH, true, false);
	int			current = setting ? pg_strtoint32(setting) : EF_SEARCH_DEFAULT;

	if (current < rows)
		(void) set_config_option(EF_SEARCH, psprintf("%d", rows),
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
}

/* Runs the query; returns the number of rows. */
static uint64
FindNeighbors(const char *sql, int count, Oid *types, Datum *values)
{
	if (SPI_execute_with_args(sql, count, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute: %s", sql);
	return SPI_processed;
}

PG_FUNCTION_INFO_V1(limaml_neighbors);

/*
 * limaml_neighbors(model text, entity, k int): the k other entities with the
 * stored embeddings of the deployed version that are nearest to the entity's,
 * or to its prior, by Euclidean distance.
 */
Datum
limaml_neighbors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[K_PARAMETER + INDEX_MAX_KEYS];
	Datum		values[K_PARAMETER + INDEX_MAX_KEYS];
	int			parameters = K_PARAMETER;
	ModelUse   *use;
	EntityVector *vector;
	Oid			vector_type;
	Oid			vector_schema;
	uint64		found = 0;
	bool		known;
	int			k;

	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be 1 or more")));
	k = PG_GETARG_INT32(2);
	InitMaterialize(fcinfo);
	use = UseModel(fcinfo, 1);
	if (use->trained->personalization == PERSONALIZATION_ID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of model \"%s\" knows entities by their keys, not by embeddings",
						use->version->number, use->model->name)));
	vector = UseEntity(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	known = KeyValues(&use->binding, PG_GETARG_DATUM(1), PG_ARGISNULL(1),
					  values + K_PARAMETER);

	types[EMBEDDING_PARAMETER - 1] = use->embedding_type;
	values[EMBEDDING_PARAMETER - 1] =
		MetaEmbeddingPGetDatum(MakeMetaEmbedding(network_embedding_size(&use->trained->shape),
												 use->trained->fingerprint,
												 vector->embedding));
	types[VERSION_PARAMETER - 1] = INT4OID;
	values[VERSION_PARAMETER - 1] = Int32GetDatum(use->version->number);
	types[K_PARAMETER - 1] = INT8OID;
	values[K_PARAMETER - 1] = Int64GetDatum(k);
	for (int c = 0; known && c < use->key.count; c++)
		types[parameters++] = use->key.columns[c].type;

	SPI_connect();
	vector_type = PgvectorType(&vector_schema);
	if (k < EF_SEARCH_MOST && OidIsValid(vector_type) &&
		CastExists(use->embedding_type, vector_type) &&
		HasVectorIndex(use->model->embeddings))
	{
		int			guc_level = NewGUCNestLevel();

		/* the entity itself is found too */
		RaiseEfSearch(k + 1);
		found = FindNeighbors(NeighborsQuery(use, VectorDistance(use, vector_type,
																 vector_schema),
											 known),
							  parameters, types, values);
		AtEOXact_GUC(false, guc_level);
	}
	if (found < (uint64) k)
		found = FindNeighbors(NeighborsQuery(use, ExactOrder(use), known),
							  parameters, types, values);
	MemoryContextSwitchTo(caller);
	for (uint64 r = 0; r < found; r++)
	{
		Datum		row[2];
		bool		nulls[2];

		for (int c = 0; c < 2; c++)
			row[c] = SPI_getbinval(SPI_tuptable->vals[r],
								   SPI_tuptable->tupdesc, c + 1, &nulls[c]);
		tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
