/*-------------------------------------------------------------------------
 *
 * catalog_scan.h
 *	  Rows of the catalog's tables by key, without a query.
 *
 * A session's first statement would spend more on planning its queries of the
 * catalog's views than on the rows: they are read as the server reads its own
 * catalogs.  Whoever reads so says what the view would: which rows are whose.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_CATALOG_SCAN_H
#define MODEL_CATALOG_SCAN_H

#include "postgres.h"

#include "access/genam.h"
#include "utils/relcache.h"

/* Columns of the longest key. */
#define CATALOG_SCAN_MAX_KEYS 2

typedef struct CatalogScan
{
	Relation	table;
	SysScanDesc scan;
	HeapTuple	row;			/* after CatalogScanNext */
	bool		own_snapshot;
	int			keys;
	ScanKeyData key[CATALOG_SCAN_MAX_KEYS];
} CatalogScan;

/*
 * Opens a table of the catalog for who may read the view that shows it; an
 * error for anybody else.  The table stays locked, as by a query.
 */
extern void CatalogScanOpen(CatalogScan *scan, const char *table,
							const char *view);

/* Asks for rows that have this value, of type bigint, integer or text. */
extern void CatalogScanKey(CatalogScan *scan, const char *column, Oid type,
						   Datum value);

/*
 * Goes through the rows as the active snapshot (read_only) or a new one shows
 * them, by an index whose first columns are the keys'.
 */
extern void CatalogScanBegin(CatalogScan *scan, const char *index,
							 bool read_only);
extern bool CatalogScanNext(CatalogScan *scan);
extern void CatalogScanEnd(CatalogScan *scan);

/*
 * A column of the row, which goes with the row; an error unless it is of this
 * type, or of a domain over it.
 */
extern Datum CatalogScanColumn(const CatalogScan *scan, const char *column,
							   Oid type, bool *isnull);

#endif							/* MODEL_CATALOG_SCAN_H */
