/*-------------------------------------------------------------------------
 *
 * limaml.c
 *	  The module's magic block, its start-up and its settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "math/blas.h"
#include "model/network_cache.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	DefineCustomIntVariable("limaml.network_cache",
							"Memory that a session keeps decoded networks in.",
							"Networks that a running query uses are kept beyond it.",
							&network_cache_size,
							128 * 1024, 0, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("limaml");

	/* a pool of threads in every backend would oversubscribe the machine */
	if (!blas_is_serial())
		ereport(WARNING,
				(errmsg("limaml was loaded with a threaded OpenBLAS"),
				 errhint("Link it with the serial flavour (Debian: libopenblas0-serial).")));
}
