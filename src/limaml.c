/*-------------------------------------------------------------------------
 *
 * limaml.c
 *	  The module's magic block, its start-up and its settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "math/blas.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
}
