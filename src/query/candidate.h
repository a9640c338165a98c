/*-------------------------------------------------------------------------
 *
 * candidate.h
 *	  How a call gives candidates, and reading them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_CANDIDATE_H
#define QUERY_CANDIDATE_H

#include "postgres.h"

#include "access/tupdesc.h"

#include "query/model_use.h"

typedef struct Candidate Candidate;

/* Whether a row's columns are f1 ... fn: ROW(...) names them so. */
extern bool IsAnonymousRow(TupleDesc desc);

/* A row's column of this name, from 0, or -1. */
extern int	RowColumnNamed(TupleDesc desc, const char *name);

/*
 * Binds the features to a row's columns, by name or, where these are f1, f2
 * and so on, by place: fills in a reader and a column (from 0) per feature.
 * `what` names the row's type in errors.
 */
extern void CandidateColumns(const ModelUse *use, TupleDesc desc,
							 const char *what, ColumnReader *readers,
							 int *column);

/*
 * Encodes the candidate that begins at argument `first`, the arguments being
 * called `columns` (text[]) where that is not 0; id is the entity's to the arm
 * `id`.  Returns the offset; z is good until the next call.
 */
extern float CandidateEncode(FunctionCallInfo fcinfo, ModelUse *use,
							 int first, Datum columns, int32 id,
							 const float **z);

/*
 * The codes of the candidate that begins at argument `first`, and of the entity
 * for the arm `id`, whose lists are added to `lists`; text[f] becomes what
 * feature f was given, NULL for NULL.
 */
extern FeatureCode *CandidateCodes(FunctionCallInfo fcinfo, ModelUse *use,
								   int first, int32 id, CodeLists *lists,
								   char **text);

/* Turns scores into predictions; an error if one is not finite. */
extern void Predict(const ModelUse *use, int n, float *score);

#endif							/* QUERY_CANDIDATE_H */
