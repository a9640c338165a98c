/*
 * reference.h
 *	  The method once more, written to be plainly right: in double, one row
 *	  at a time, every adapted weight formed, and no derivative beyond the
 *	  inner loop's own.  It shares no code with src/math but the shapes.
 */
#ifndef UNIT_REFERENCE_H
#define UNIT_REFERENCE_H

#include "math/maml.h"
#include "problem.h"

/* One task's inner loop. */
typedef struct ReferenceRun
{
	double	   *embedding;		/* (steps + 1) x E */
	double	   *loss;			/* steps + 1, scaled as the support loss is */
	double	   *step;			/* steps x the meta block's parameters: the
								 * gradients that the loop went down */
} ReferenceRun;

/*
 * Runs a task's inner loop at `numbers` (which may differ from the problem's
 * own).  Where `frozen` is given, the loop goes down its gradients instead of
 * computing any.
 */
extern void reference_run(const Problem *problem, const double *numbers,
						  int task, const ReferenceRun *frozen,
						  ReferenceRun *run);
extern void reference_free(ReferenceRun *run);

/* A row's score with this embedding. */
extern double reference_score(const NetworkShape *shape, const double *numbers,
							  const double *embedding, const double *z,
							  double offset);

extern double reference_loss(Loss loss, double score, double label);

/*
 * The outer objective J.  `frozen` (a run per task) makes it the one whose
 * gradient is the first-order one.
 */
extern double reference_objective(const Problem *problem,
								  const double *numbers,
								  const ReferenceRun *frozen);

/*
 * Plain MAML of a task: all parameters after each step, (steps + 1) x the
 * number of parameters, and the gradients gone down, steps x the same.
 * `frozen` as above: such gradients.
 */
extern void reference_maml(const Problem *problem, const double *numbers,
						   int task, MamlPart part, const double *frozen,
						   double *parameters, double *step);

/* J of it, for problems of one task. */
extern double reference_maml_objective(const Problem *problem,
									   const double *numbers, MamlPart part,
									   const double *frozen);

#endif							/* UNIT_REFERENCE_H */
