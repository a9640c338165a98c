/*
 * problem.h
 *	  A network with tasks to train it on, as the tests think of it: numbers
 *	  in double, and everything that has a gradient in one array.
 */
#ifndef UNIT_PROBLEM_H
#define UNIT_PROBLEM_H

#include "math/gradient.h"

#define PROBLEM_MAX_TASKS 4

/* What has a gradient in a task, in the order of its parts. */
enum
{
	PART_X,
	PART_SUPPORT_Z,
	PART_SUPPORT_OFFSET,
	PART_QUERY_Z,
	PART_QUERY_OFFSET,
	TASK_PARTS
};

#define PROBLEM_MAX_PARTS (NETWORK_MAX_TENSORS + TASK_PARTS * PROBLEM_MAX_TASKS)

/* A tensor of the network, or an input of a task. */
typedef struct Part
{
	char		name[24];		/* the tensor's; x, support.z ... */
	int			dimensions;
	int			rows;			/* 1 where dimensions is 1 */
	int			columns;
	size_t		offset;			/* of its first number */
	size_t		count;
} Part;

/* A set of rows, but for z and offset. */
typedef struct RowSet
{
	int			n;
	double	   *label;
	double	   *weight;
	bool		no_weights;		/* all 1: given to the library as NULL */
	bool		no_offsets;		/* all 0: given to the library as NULL */
} RowSet;

typedef struct Problem
{
	NetworkShape shape;
	double		prior_loss;
	int			tasks;
	RowSet		support[PROBLEM_MAX_TASKS];
	RowSet		query[PROBLEM_MAX_TASKS];
	int			tensors;
	int			parts;			/* the tensors, then each task's inputs */
	Part		part[PROBLEM_MAX_PARTS];
	size_t		count;
	double	   *numbers;		/* of all parts */
} Problem;

/* How large problem_draw makes things. */
typedef struct ProblemLimits
{
	int			tasks;
	int			width;
	int			rows;
	int			steps;
} ProblemLimits;

static inline const Part *
task_part(const Problem *problem, int task, int part)
{
	return &problem->part[problem->tensors + TASK_PARTS * task + part];
}

/*
 * Lays out the parts given shape, tasks and row counts, and allocates numbers,
 * labels and weights.
 */
extern void problem_layout(Problem *problem);
extern void problem_free(Problem *problem);

/*
 * Draws a problem, degenerate ones included: no meta features, no candidate
 * features, no support rows, weights of zero, no step, no factor part or
 * nothing else.  All numbers are floats.
 */
extern void problem_draw(Problem *problem, const ProblemLimits *limits,
						 uint64_t seed);

/* One line that says what it is. */
extern const char *problem_describe(const Problem *problem);

/* 1 / weight of the query rows of all tasks. */
extern double problem_scale(const Problem *problem);

/*
 * A problem given to the library, with the kernels that are selected.  Every
 * array has exactly its documented length.
 */
typedef struct LoadedTask
{
	real	   *x;				/* NULL where dx is 0 */
	real	   *support_z;
	real	   *query_z;
	Rows		support;
	Rows		query;
} LoadedTask;

typedef struct Loaded
{
	const Problem *problem;
	Network		network;
	Kernels		kernels;		/* the network's */
	real	   *parameters;
	real	   *packed;
	LoadedTask	task[PROBLEM_MAX_TASKS];
} Loaded;

extern void problem_load(Loaded *loaded, const Problem *problem);
extern void loaded_free(Loaded *loaded);

/* Candidate halves of n rows in fresh memory, for free. */
extern real *loaded_half(const Loaded *loaded, int n, const real *z);

/* Scores of rows for an embedding, by network_score_halves. */
extern void loaded_scores(const Loaded *loaded, const real *embedding,
						  const Rows *rows, real *score);

/* One task's embedding (E numbers) by adapt. */
extern Adaptation loaded_adapt(const Loaded *loaded, int task, real *embedding);

/*
 * J and its gradient with respect to all parts (problem->count numbers), as
 * the library has them.  Returns diverged_at of the first task that diverged.
 */
extern int	loaded_gradient(const Loaded *loaded, int order, double *gradient,
							double *objective);

#endif							/* UNIT_PROBLEM_H */
