/*-------------------------------------------------------------------------
 *
 * catalog_scan.c
 *	  Rows of the catalog's tables by key, without a query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "model/catalog_scan.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A relation of the catalog's schema. */
static Oid
CatalogRelation(const char *name)
{
	Oid			relation = get_relname_relid(name,
											 get_namespace_oid("limaml", false));

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"limaml.%s\" does not exist", name)));
	return relation;
}

void
CatalogScanOpen(CatalogScan *scan, const char *table, const char *view)
{
	AclResult	result;

	/* with the rights that a query of the view takes */
	(void) LookupExplicitNamespace("limaml", false);
	result = pg_class_aclcheck(CatalogRelation(view), GetUserId(), ACL_SELECT);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_VIEW, view);
	memset(scan, 0, sizeof(*scan));
	scan->table = table_open(CatalogRelation(table), AccessShareLock);
}

/* The number of a column, of which no other type is expected. */
static AttrNumber
ColumnNumber(const CatalogScan *scan, const char *column, Oid type)
{
	TupleDesc	desc = RelationGetDescr(scan->table);

	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, a);

		if (!attribute->attisdropped &&
			strcmp(NameStr(attribute->attname), column) == 0 &&
			(attribute->atttypid == type ||
			 getBaseType(attribute->atttypid) == type))
			return attribute->attnum;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("table \"limaml.%s\" has no column \"%s\" of type %s",
					RelationGetRelationName(scan->table), column,
					format_type_be(type))));
}

void
CatalogScanKey(CatalogScan *scan, const char *column, Oid type, Datum value)
{
	AttrNumber	number = ColumnNumber(scan, column, type);

	Assert(type == INT8OID || type == INT4OID || type == TEXTOID);
	Assert(scan->keys < CATALOG_SCAN_MAX_KEYS);
	ScanKeyEntryInitialize(&scan->key[scan->keys++], 0, number,
						   BTEqualStrategyNumber, InvalidOid,
						   TupleDescAttr(RelationGetDescr(scan->table),
										 number - 1)->attcollation,
						   type == INT8OID ? F_INT8EQ :
						   type == INT4OID ? F_INT4EQ : F_TEXTEQ,
						   value);
}

void
CatalogScanBegin(CatalogScan *scan, const char *index, bool read_only)
{
	/* as SPI does for a statement that is not read-only */
	scan->own_snapshot = !read_only;
	if (scan->own_snapshot)
	{
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	scan->scan = systable_beginscan(scan->table, CatalogRelation(index), true,
									GetActiveSnapshot(), scan->keys,
									scan->key);
}

bool
CatalogScanNext(CatalogScan *scan)
{
	scan->row = systable_getnext(scan->scan);
	return HeapTupleIsValid(scan->row);
}

void
CatalogScanEnd(CatalogScan *scan)
{
	systable_endscan(scan->scan);
	if (scan->own_snapshot)
		PopActiveSnapshot();
	table_close(scan->table, NoLock);
}

Datum
CatalogScanColumn(const CatalogScan *scan, const char *column, Oid type,
				  bool *isnull)
{
	return heap_getattr(scan->row, ColumnNumber(scan, column, type),
						RelationGetDescr(scan->table), isnull);
}
