/*-------------------------------------------------------------------------
 *
 * prefetch.h
 *	  Has memory fetch what is needed soon.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PREFETCH_H
#define PREFETCH_H

#include "postgres.h"

/* Bytes that memory fetches at a time, on most processors. */
#define FETCHED_SIZE 64

/* What is at such an address need not be there to be read. */
static inline void
Prefetch(const void *from, Size size)
{
	for (Size at = 0; at < size; at += FETCHED_SIZE)
		__builtin_prefetch((const char *) from + at);
}

#endif							/* PREFETCH_H */
