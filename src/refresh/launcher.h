/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  Refreshes that start by themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFRESH_LAUNCHER_H
#define REFRESH_LAUNCHER_H

#include "postgres.h"

/* Seconds between two looks at every database: limaml.launcher_naptime. */
extern int	launcher_naptime;

/* Registers the launcher; while the server preloads libraries. */
extern void RegisterLauncher(void);

#endif							/* REFRESH_LAUNCHER_H */
