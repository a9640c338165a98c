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
#include "miscadmin.h"
#include "model/network_cache.h"
#include "model/safetensors.h"
#include "model/shared_networks.h"
#include "refresh/launcher.h"
#include "refresh/refresh.h"
#include "refresh/worker.h"
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
	DefineCustomIntVariable("limaml.work_mem",
							"Memory of each worker of a refresh.",
							NULL,
							&refresh_work_mem,
							64 * 1024, 1024, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("limaml.refresh_workers",
							"Background workers of a refresh unless it says how many.",
							NULL,
							&refresh_workers,
							2, 1, MOST_WORKERS,
							PGC_USERSET, 0,
							NULL, NULL, NULL);
	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomIntVariable("limaml.launcher_naptime",
								"Time between two looks for models whose refresh is due.",
								NULL,
								&launcher_naptime,
								10, 1, 86400,
								PGC_SIGHUP, GUC_UNIT_S,
								NULL, NULL, NULL);
		DefineCustomIntVariable("limaml.shared_networks",
								"Shared memory for decoded networks, which every session finds there.",
								"A network for which there is no room is decoded by each session that uses it; 0 reserves none.",
								&shared_networks_size,
								32 * 1024, 0, MAX_KILOBYTES / 4,
								PGC_POSTMASTER, GUC_UNIT_KB,
								NULL, NULL, NULL);
		RegisterLauncher();
		SafetensorsPreload();
		SharedNetworksRequest();
	}
	MarkGUCPrefixReserved("limaml");

	/* a pool of threads in every backend would oversubscribe the machine */
	if (!blas_is_serial())
		ereport(WARNING,
				(errmsg("limaml was loaded with a threaded OpenBLAS"),
				 errhint("Link it with the serial flavour (Debian: libopenblas0-serial).")));
}
