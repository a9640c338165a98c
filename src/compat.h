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

/* 16 has a read that knows no short reads; storage/buffile.h comes first */
#if PG_VERSION_NUM >= 160000
#define ReadBufFileExact(file, buffer, size) \
	BufFileReadExact((file), (buffer), (size))
#else
#define ReadBufFileExact(file, buffer, size) \
	do { \
		size_t		wanted_ = (size); \
		if (BufFileRead((file), (buffer), wanted_) != wanted_) \
			ereport(ERROR, \
					(errcode_for_file_access(), \
					 errmsg("could not read from temporary file: it is too short"))); \
	} while (0)
#endif

/* 16 checks the rights on all kinds of objects by one function */
#if PG_VERSION_NUM >= 160000
#define NamespaceIsUsable(schema, role) \
	(object_aclcheck(NamespaceRelationId, (schema), (role), ACL_USAGE) == ACLCHECK_OK)
#else
#define NamespaceIsUsable(schema, role) \
	(pg_namespace_aclcheck((schema), (role), ACL_USAGE) == ACLCHECK_OK)
#endif

/* 15.0 knew this by another name; funcapi.h need not come first */
#if PG_VERSION_NUM >= 160000 || defined(MAT_SRF_USE_EXPECTED_DESC)
#define InitMaterialize(fcinfo) InitMaterializedSRF((fcinfo), 0)
#else
#define InitMaterialize(fcinfo) SetSingleFuncCall((fcinfo), 0)
#endif

/* 18 can leave room before a copy */
#if PG_VERSION_NUM >= 180000
#define CopyMinimalTuple(tuple) heap_copy_minimal_tuple((tuple), 0)
#else
#define CopyMinimalTuple(tuple) heap_copy_minimal_tuple(tuple)
#endif

/* 18 puts the mark of a function that does not return before it */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

#endif							/* LIMAML_COMPAT_H */
