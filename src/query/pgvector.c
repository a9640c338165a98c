/*-------------------------------------------------------------------------
 *
 * pgvector.c
 *	  limaml_enable_pgvector: casts between meta_embedding and pgvector's
 *	  vector.
 *
 * An extension may not name the type of another one that need not be there.
 * So the casts and their functions are created when they are asked for.  They
 * are ordinary objects, no members of limaml: a dump has them, after both
 * extensions, and they go with whichever of these is dropped with CASCADE.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "nodes/pg_list.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "query/pgvector.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* About what it takes at 32 dimensions, as COST in the install script. */
#define CAST_COST 5

Oid
PgvectorType(Oid *schema)
{
	Oid			extension = get_extension_oid("vector", true);
	CatCList   *list;
	Oid			found = InvalidOid;

	*schema = InvalidOid;
	if (!OidIsValid(extension))
		return InvalidOid;
	list = SearchSysCacheList1(TYPENAMENSP, CStringGetDatum("vector"));
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_type type = (Form_pg_type) GETSTRUCT(&list->members[i]->tuple);

		if (getExtensionOfObject(TypeRelationId, type->oid) != extension)
			continue;
		found = type->oid;
		*schema = type->typnamespace;
	}
	ReleaseSysCacheList(list);
	return found;
}

bool
CastExists(Oid source, Oid target)
{
	return SearchSysCacheExists2(CASTSOURCETARGET, ObjectIdGetDatum(source),
								 ObjectIdGetDatum(target));
}

/* The library that a function of ours is in. */
static char *
LibraryOf(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Datum		library;
	bool		isnull;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	library = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &isnull);
	if (isnull)
		elog(ERROR, "function %u has no library", function);
	name = TextDatumGetCString(library);
	ReleaseSysCache(tuple);
	return name;
}

static void
Execute(char *sql)
{
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", sql);
}

/* Creates a cast that a function of the library does; `loses` is a comment. */
static void
CreateCast(Oid source, Oid target, const char *symbol, const char *library,
		   const char *loses)
{
	char	   *from = format_type_be_qualified(source);
	char	   *to = format_type_be_qualified(target);
	char	   *schema = get_namespace_name(ExtensionSchema());
	char	   *function = psprintf("%s(%s, pg_catalog.int4, pg_catalog.bool)",
									quote_qualified_identifier(schema, symbol),
									from);
	Oid			types[3] = {source, INT4OID, BOOLOID};
	Oid			left = LookupFuncName(list_make2(makeString(schema),
												 makeString(pstrdup(symbol))),
									  3, types, true);

	if (OidIsValid(left))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_FUNCTION),
				 errmsg("function %s exists already, and is not used by a cast from %s to %s",
						format_procedure(left), format_type_be(source),
						format_type_be(target)),
				 errhint("Drop it first.")));

	/* not OR REPLACE: what is there may be somebody else's */
	Execute(psprintf("CREATE FUNCTION %s RETURNS %s AS %s, %s LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST %d",
					 function, to, quote_literal_cstr(library),
					 quote_literal_cstr(symbol), CAST_COST));
	Execute(psprintf("COMMENT ON FUNCTION %s IS 'implementation of a cast, by limaml_enable_pgvector'",
					 function));
	Execute(psprintf("CREATE CAST (%s AS %s) WITH FUNCTION %s AS ASSIGNMENT",
					 from, to, function));
	Execute(psprintf("COMMENT ON CAST (%s AS %s) IS %s", from, to,
					 quote_literal_cstr(loses)));
}

PG_FUNCTION_INFO_V1(limaml_enable_pgvector);

/*
 * limaml_enable_pgvector(): creates the casts between meta_embedding and
 * vector that do not exist yet.  As for arrays none is implicit.
 */
Datum
limaml_enable_pgvector(PG_FUNCTION_ARGS)
{
	Oid			vector;
	Oid			schema;
	Oid			embedding;
	bool		to_exists;
	bool		from_exists;

	PreventCommandIfReadOnly("limaml_enable_pgvector()");
	vector = PgvectorType(&schema);
	if (!OidIsValid(vector))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"vector\" does not exist"),
				 errhint("Install pgvector, and run CREATE EXTENSION vector in this database.")));
	embedding = MetaEmbeddingType();
	to_exists = CastExists(embedding, vector);
	from_exists = CastExists(vector, embedding);
	if (to_exists && from_exists)
	{
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("casts between meta_embedding and vector already exist, skipping")));
		PG_RETURN_VOID();
	}
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create casts between meta_embedding and vector"),
				 errhint("Must be superuser, as for any function in C.")));

	SPI_connect();
	if (!to_exists)
		CreateCast(embedding, vector, "meta_embedding_to_vector",
				   LibraryOf(fcinfo->flinfo->fn_oid), "loses the fingerprint");
	if (!from_exists)
		CreateCast(vector, embedding, "vector_to_meta_embedding",
				   LibraryOf(fcinfo->flinfo->fn_oid), "without fingerprint");
	SPI_finish();
	PG_RETURN_VOID();
}
