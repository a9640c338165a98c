/*
 * case.h
 *	  A golden case: a problem and what must come out of it, as an
 *	  independent automatic differentiation in double computed it.
 *
 * A file has a comment line with the shape, then for each array a line
 * `name dimensions size ...` and a line with its numbers, which is empty where
 * a size is 0.
 */
#ifndef UNIT_CASE_H
#define UNIT_CASE_H

#include "problem.h"

/* An array of the file. */
typedef struct CaseArray
{
	char		name[48];
	int			dimensions;
	int			size[2];		/* rows, columns; 1 and n where one dimension */
	size_t		count;
	double	   *numbers;
	bool		used;			/* an input, or compared with */
} CaseArray;

typedef struct Case
{
	Problem		problem;		/* one task */
	int			arrays;
	CaseArray  *array;
} Case;

/* Reads a file.  Returns false and says why in `error` if that fails. */
extern bool case_read(const char *path, Case *result, char *error,
					  size_t error_size);
extern void case_free(Case *given);

/* The array of that name, or NULL. */
extern CaseArray *case_array(Case *given, const char *name);

#endif							/* UNIT_CASE_H */
