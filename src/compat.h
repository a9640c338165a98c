/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between server versions, and the only file that may
 *	  test PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LIMAML_COMPAT_H
#define LIMAML_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "limaml needs PostgreSQL 15 or newer"
#endif

/* From 16 on, postgres.h no longer has the macros for varlena values */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/*
 * Soft errors of input functions came with 16.  Before that every error is
 * thrown, and fcinfo->context is none of an input function's business.
 */
#if PG_VERSION_NUM < 160000
#define ereturn(context, dummy_value, ...) \
	do { \
		(void) (context); \
		ereport(ERROR, __VA_ARGS__); \
	} while (0)
#endif

#endif							/* LIMAML_COMPAT_H */
