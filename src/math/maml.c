/*
 * maml.c
 *	  Plain MAML, exact or first order.
 *
 * Meta block, global block and factor map are each a chain of dense layers
 * over rows (the meta block's row is one), so four functions of a chain do for
 * all: forwards, backwards, and the tangent of either.  The tangent (x_dot) of
 * a quantity is its derivative along a direction D in the space of theta; with
 * D = alpha M v,
 *
 *		m = <grad L_S(theta_k), D>
 *
 * is the tangent of L_S, and the gradient of m with respect to anything is the
 * tangent of L_S's gradient with respect to it (Pearlmutter 1994).
 *
 * Of MAML_HEAD all below the layers that adapt is the same at every step and
 * has no tangent.  It is computed once, and what comes back to it is summed
 * over the steps and goes through it once.
 */
#include "maml.h"

#include <string.h>

#include "blas.h"

/* A support loss this many times what it was is no descent. */
#define DIVERGENCE 100

/* Layer l of a chain takes h[l] to u[l + 1]; the last layer is linear. */
typedef struct Chain
{
	const Kernels *kernels;
	Activation	activation;
	int			layers;
	const NetworkTensor *tensor;	/* weight, bias, weight, bias ... */
} Chain;

/*
 * What n rows leave behind in a chain, or their tangents.  Rows lie close, as
 * BLAS may have them; only each array's end is padded, with zeros, for the
 * elementwise kernels to take it as a single row.
 */
typedef struct ChainPass
{
	real	   *u[NETWORK_MAX_LAYERS + 1];	/* from 1 */
	real	   *h[NETWORK_MAX_LAYERS + 1];	/* the last is u */
	real	   *b[NETWORK_MAX_LAYERS + 1];	/* dL/dh; the last is delta */
	real	   *delta[NETWORK_MAX_LAYERS + 1];	/* dL/du, from 1 */
} ChainPass;

/* The network; the last global u is the score and delta is dL/ds. */
typedef struct Pass
{
	ChainPass	meta;			/* its last u is the embedding */
	ChainPass	global;
	ChainPass	factor;			/* its u is f = P z + p */
} Pass;

/* What the network is made of, and what adapts. */
typedef struct Plan
{
	const Network *network;
	MamlPart	part;
	Chain		meta;
	Chain		global;
	Chain		factor;
	int			dx;
	int			dz;
	int			concatenated;	/* numbers in e_c */
	int			F;
	size_t		count;			/* of all parameters */
	int			first_tensor;	/* that adapts */
	int			end_tensor;		/* after the last one */
	int			first_layer;	/* of the global block that adapts */
} Plan;

typedef struct Workspace
{
	Pass		pass[NETWORK_MAX_STEPS];	/* all the same one unless kept */
	real	   *theta[NETWORK_MAX_STEPS + 1];
	real	   *inner_gradient[NETWORK_MAX_STEPS];	/* kept for MAML_META */
	Pass		query;
	Pass		dot;			/* tangents */
	Pass		total;			/* MAML_HEAD: what comes back to the rest */
	real	   *v;				/* dJ/dtheta_k */
	real	   *direction;		/* D */

	/* how the inner loop went, as in adapt.h */
	int			steps;
	double		weight;
	real		scale;
	real		loss[NETWORK_MAX_STEPS + 1];
	int			rises;
} Workspace;

/* Where the gradient of a task's inputs is added; each may be NULL. */
typedef struct Inputs
{
	real	   *x;
	real	   *z;
	real	   *offset;
} Inputs;

/* An arena, or NULL where numbers are only counted. */
typedef struct Room
{
	Arena	   *arena;
	size_t		size;
} Room;

static void
plan_adapting(Plan *plan, const NetworkShape *shape, MamlPart part)
{
	plan->part = part;
	plan->first_layer = shape->global_layers > 1 ? 1 : 0;
	plan->first_tensor = 0;
	plan->end_tensor = INNER_RATE(shape);
	if (part == MAML_META)
	{
		if (shape->adapts == ADAPTS_EMBEDDING)
			plan->first_tensor = META_BIAS(shape, shape->meta_layers - 1);
		plan->end_tensor = GLOBAL_WEIGHT(shape, 0);
	}
	else if (part == MAML_HEAD)
	{
		plan->first_tensor = GLOBAL_WEIGHT(shape, plan->first_layer);
		plan->end_tensor = FACTOR_WEIGHT(shape);
	}
}

static void
plan_make(Plan *plan, const Network *network, MamlPart part)
{
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *tensors = network->tensors;
	Chain		chain = {network->kernels, shape->activation, 0, NULL};

	plan->network = network;
	plan->meta = plan->global = plan->factor = chain;
	plan->meta.layers = shape->meta_layers;
	plan->meta.tensor = &tensors[META_WEIGHT(shape, 0)];
	plan->global.layers = shape->global_layers;
	plan->global.tensor = &tensors[GLOBAL_WEIGHT(shape, 0)];
	plan->factor.layers = 1;
	plan->factor.tensor = &tensors[FACTOR_WEIGHT(shape)];
	plan->dx = shape->meta_width[0];
	plan->dz = network_candidate_size(shape);
	plan->concatenated = network_concatenated_size(shape);
	plan->F = shape->factor_size;
	plan->count = tensors[INNER_RATE(shape)].offset + shape->meta_layers;
	plan_adapting(plan, shape, part);
}

size_t
maml_adapted_count(const NetworkShape *shape, MamlPart part)
{
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	Plan		plan;

	network_tensors(shape, tensors);
	plan_adapting(&plan, shape, part);
	return tensors[plan.end_tensor].offset -
		tensors[plan.first_tensor].offset;
}

static real *
take(Room *room, size_t n)
{
	size_t		padded = (n + KERNEL_PAD - 1) / KERNEL_PAD * KERNEL_PAD;
	real	   *taken;

	room->size += padded;
	if (!room->arena)
		return NULL;
	taken = arena_take(room->arena, padded);
	memset(taken + n, 0, (padded - n) * sizeof(real));
	return taken;
}

/* All of layers from + 1 ... and b[from]; h[from] is the caller's. */
static void
chain_take(ChainPass *pass, int from, int layers, const int *width, size_t n,
		   Room *room)
{
	pass->b[from] = take(room, n * width[from]);
	for (int l = from + 1; l <= layers; l++)
	{
		pass->u[l] = take(room, n * width[l]);
		pass->h[l] = l < layers ? take(room, n * width[l]) : pass->u[l];
		pass->delta[l] = take(room, n * width[l]);
		pass->b[l] = l < layers ? take(room, n * width[l]) : pass->delta[l];
	}
}

static void
pass_take(Pass *pass, const NetworkShape *shape, int n, Room *room)
{
	const int	factor_width[] = {network_candidate_size(shape),
	shape->factor_size};

	chain_take(&pass->meta, 0, shape->meta_layers, shape->meta_width, 1, room);
	chain_take(&pass->factor, 0, 1, factor_width, n, room);
	pass->global.h[0] = take(room, (size_t) n * shape->global_width[0]);
	chain_take(&pass->global, 0, shape->global_layers, shape->global_width, n,
			   room);
}

/* Parameters at theta_0 are the network's own. */
static size_t
workspace_take(Workspace *w, const NetworkShape *shape, MamlPart part, int n,
			   int q, Arena *arena)
{
	Room		room = {arena, 0};
	int			G = shape->global_layers;
	size_t		count = network_parameter_count(shape);
	Plan		plan;

	plan_adapting(&plan, shape, part);
	for (int k = 0; k < shape->steps; k++)
	{
		w->theta[k + 1] = take(&room, count);
		if (k == 0 || part == MAML_META)
			w->inner_gradient[k] = take(&room, count);
		else
			w->inner_gradient[k] = w->inner_gradient[0];

		if (k == 0 || part != MAML_HEAD)
			pass_take(&w->pass[k], shape, n, &room);
		else
		{
			w->pass[k] = w->pass[0];
			chain_take(&w->pass[k].global, plan.first_layer, G,
					   shape->global_width, n, &room);
		}
	}
	pass_take(&w->query, shape, q, &room);
	pass_take(&w->dot, shape, n, &room);
	if (part == MAML_HEAD && shape->steps > 0)
	{
		w->total = w->pass[0];
		w->total.global.b[plan.first_layer] =
			take(&room, (size_t) n * shape->global_width[plan.first_layer]);
		w->total.global.delta[G] = take(&room, n);
	}
	w->v = take(&room, count);
	w->direction = take(&room, count);
	return room.size + KERNEL_PAD;
}

size_t
maml_size(const NetworkShape *shape, MamlPart part, int n, int q)
{
	Workspace	w;

	return workspace_take(&w, shape, part, n, q, NULL);
}

/* A single pass, one gradient; parameters are the caller's. */
static size_t
workspace_take_adapt(Workspace *w, const NetworkShape *shape, int n,
					 real *parameters, Arena *arena)
{
	Room		room = {arena, 0};

	w->inner_gradient[0] = take(&room, network_parameter_count(shape));
	pass_take(&w->pass[0], shape, n, &room);
	w->theta[0] = parameters;
	for (int k = 1; k <= shape->steps; k++)
	{
		w->theta[k] = parameters;
		if (k == shape->steps)
			break;
		w->pass[k] = w->pass[0];
		w->inner_gradient[k] = w->inner_gradient[0];
	}
	return room.size + KERNEL_PAD;
}

size_t
maml_adapt_size(const NetworkShape *shape, int n)
{
	Workspace	w;

	return workspace_take_adapt(&w, shape, n, NULL, NULL);
}

size_t
maml_score_size(const NetworkShape *shape, int n)
{
	Room		room = {NULL, 0};
	Pass		pass;

	pass_take(&pass, shape, n, &room);
	return room.size + KERNEL_PAD;
}

static void
zero(real *numbers, size_t n)
{
	if (numbers)
		memset(numbers, 0, n * sizeof(real));
}

static void
add(size_t n, real scale, const real *a, real *sum)
{
	for (size_t i = 0; i < n; i++)
		sum[i] += scale * a[i];
}

static double
dot(size_t n, const real *a, const real *b)
{
	double		sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double) a[i] * b[i];
	return sum;
}

/* sum += scale times the sum of n rows, ld apart. */
static void
add_rows(int n, int columns, real scale, const real *a, int ld, real *sum)
{
	for (int i = 0; i < n; i++)
		add(columns, scale, a + (size_t) i * ld, sum);
}

static void
repeat_row(int n, int columns, const real *row, real *c, int ld)
{
	for (int i = 0; columns > 0 && i < n; i++)
		memcpy(c + (size_t) i * ld, row, columns * sizeof(real));
}

/* The layers from `from` on. */
static void
chain_forward(const Chain *chain, const real *theta, int from, int n,
			  ChainPass *pass)
{
	for (int l = from; l < chain->layers; l++)
	{
		const NetworkTensor *weight = &chain->tensor[2 * l];
		int			in = weight->columns;
		int			out = weight->rows;

		repeat_row(n, out, theta + weight[1].offset, pass->u[l + 1], out);
		blas_multiply_add(false, true, n, out, in, 1, pass->h[l], in,
						  theta + weight->offset, in, pass->u[l + 1], out);
		if (l + 1 < chain->layers)
			chain->kernels->activate(chain->activation, 1,
									 kernel_stride(n * out), pass->u[l + 1],
									 pass->h[l + 1]);
	}
}

/* Its tangent; of what goes in, only the first `moving` columns have one. */
static void
chain_tangent(const Chain *chain, const real *theta, const real *direction,
			  int from, int n, int moving, const ChainPass *pass,
			  ChainPass *pass_dot)
{
	for (int l = from; l < chain->layers; l++)
	{
		const NetworkTensor *weight = &chain->tensor[2 * l];
		int			in = weight->columns;
		int			out = weight->rows;
		real	   *u_dot = pass_dot->u[l + 1];

		repeat_row(n, out, direction + weight[1].offset, u_dot, out);
		blas_multiply_add(false, true, n, out, in, 1, pass->h[l], in,
						  direction + weight->offset, in, u_dot, out);
		blas_multiply_add(false, true, n, out, l == from ? moving : in, 1,
						  pass_dot->h[l], in, theta + weight->offset, in,
						  u_dot, out);
		if (l + 1 < chain->layers)
			chain->kernels->tangent(chain->activation, 1,
									kernel_stride(n * out), pass->u[l + 1],
									pass->h[l + 1], u_dot, 0,
									pass_dot->h[l + 1]);
	}
}

/*
 * Backwards through layers to - 1 ... from, from b[to], to the first `inputs`
 * columns of b[from].  Adds scale times the gradient of their parameters.
 */
static void
chain_backward(const Chain *chain, const real *theta, int from, int to, int n,
			   int inputs, real scale, ChainPass *pass, real *gradient)
{
	for (int l = to - 1; l >= from; l--)
	{
		const NetworkTensor *weight = &chain->tensor[2 * l];
		int			in = weight->columns;
		int			out = weight->rows;
		real	   *delta = pass->delta[l + 1];

		if (l + 1 < chain->layers)
			chain->kernels->backward(chain->activation, 1,
									 kernel_stride(n * out), pass->u[l + 1],
									 pass->h[l + 1], pass->b[l + 1], delta);
		blas_multiply_add(true, false, out, in, n, scale, delta, out,
						  pass->h[l], in, gradient + weight->offset, in);
		add_rows(n, out, scale, delta, out, gradient + weight[1].offset);

		zero(pass->b[l], (size_t) n * in);
		blas_multiply_add(false, false, n, l == from ? inputs : in, out, 1,
						  delta, out, theta + weight->offset, in,
						  pass->b[l], in);
	}
}

/* Its tangent from the last layer on; subtracts that of the gradient. */
static void
chain_backward_tangent(const Chain *chain, const real *theta,
					   const real *direction, int from, int n, int moving,
					   int inputs, const ChainPass *pass, ChainPass *pass_dot,
					   real *gradient)
{
	for (int l = chain->layers - 1; l >= from; l--)
	{
		const NetworkTensor *weight = &chain->tensor[2 * l];
		int			in = weight->columns;
		int			out = weight->rows;
		int			wanted = l == from ? inputs : in;
		const real *delta = pass->delta[l + 1];
		real	   *delta_dot = pass_dot->delta[l + 1];

		if (l + 1 < chain->layers)
			chain->kernels->backward_tangent(chain->activation, 1,
											 kernel_stride(n * out),
											 pass->u[l + 1], pass->h[l + 1],
											 pass->b[l + 1],
											 pass_dot->b[l + 1],
											 pass_dot->u[l + 1], 0, delta_dot);
		blas_multiply_add(true, false, out, in, n, -1, delta_dot, out,
						  pass->h[l], in, gradient + weight->offset, in);
		blas_multiply_add(true, false, out, l == from ? moving : in, n, -1,
						  delta, out, pass_dot->h[l], in,
						  gradient + weight->offset, in);
		add_rows(n, out, -1, delta_dot, out, gradient + weight[1].offset);

		zero(pass_dot->b[l], (size_t) n * in);
		blas_multiply_add(false, false, n, wanted, out, 1, delta_dot, out,
						  theta + weight->offset, in, pass_dot->b[l], in);
		blas_multiply_add(false, false, n, wanted, out, 1, delta, out,
						  direction + weight->offset, in, pass_dot->b[l], in);
	}
}

static const real *
embedding(const Plan *plan, const Pass *pass)
{
	return pass->meta.u[plan->meta.layers];
}

/* Scores rows; without `all` only the global layers that adapt are run. */
static void
forward(const Plan *plan, const real *theta, bool all, const real *x,
		const MamlRows *rows, Pass *pass)
{
	int			concatenated = plan->concatenated;
	int			dz = plan->dz;
	int			in = concatenated + dz;
	const real *factor = embedding(plan, pass) + concatenated;
	real	   *score = pass->global.u[plan->global.layers];

	if (all)
	{
		/* these are only read */
		pass->meta.h[0] = (real *) x;
		pass->factor.h[0] = (real *) rows->z;
		chain_forward(&plan->meta, theta, 0, 1, &pass->meta);
		chain_forward(&plan->factor, theta, 0, rows->n, &pass->factor);
		repeat_row(rows->n, concatenated, embedding(plan, pass),
				   pass->global.h[0], in);
		for (int i = 0; dz > 0 && i < rows->n; i++)
			memcpy(pass->global.h[0] + (size_t) i * in + concatenated,
				   rows->z + (size_t) i * dz, dz * sizeof(real));
	}
	chain_forward(&plan->global, theta, all ? 0 : plan->first_layer, rows->n,
				  &pass->global);
	for (int i = 0; i < rows->n; i++)
		score[i] += dot(plan->F, factor,
						pass->factor.u[1] + (size_t) i * plan->F) +
			(rows->offset ? rows->offset[i] : 0);
}

/*
 * The weighted sum of the losses of rows that forward has scored; sets dL/ds
 * for scale times that sum.
 */
static double
row_losses(const Plan *plan, const MamlRows *rows, real scale, Pass *pass)
{
	int			G = plan->global.layers;

	return plan->network->kernels->losses(plan->network->shape.loss, rows->n,
										  scale, pass->global.u[G],
										  rows->label, rows->weight,
										  pass->global.delta[G], NULL);
}

/* Adds what came back to the inputs. */
static void
add_inputs(const Plan *plan, int n, real scale, const Pass *pass,
		   const Inputs *inputs)
{
	int			concatenated = plan->concatenated;
	int			dz = plan->dz;

	if (inputs->x)
		add(plan->dx, scale, pass->meta.b[0], inputs->x);
	for (int i = 0; inputs->z && i < n; i++)
	{
		real	   *z_gradient = inputs->z + (size_t) i * dz;

		add(dz, scale, pass->global.b[0] +
			(size_t) i * (concatenated + dz) + concatenated, z_gradient);
		add(dz, scale, pass->factor.b[0] + (size_t) i * dz, z_gradient);
	}
	if (inputs->offset)
		add(n, scale, pass->global.delta[plan->global.layers], inputs->offset);
}

/*
 * Backwards from dL/ds and from b of global layer `to`.  Adds scale times the
 * gradient.
 */
static void
backward(const Plan *plan, const real *theta, int to, int n, real scale,
		 Pass *pass, const Inputs *inputs, real *gradient)
{
	int			concatenated = plan->concatenated;
	int			in = concatenated + plan->dz;
	int			F = plan->F;
	const real *residual = pass->global.delta[plan->global.layers];
	const real *factor = embedding(plan, pass) + concatenated;
	real	   *delta = pass->meta.delta[plan->meta.layers];

	chain_backward(&plan->global, theta, 0, to, n,
				   inputs->z ? in : concatenated, scale, &pass->global,
				   gradient);
	zero(delta, concatenated + F);
	add_rows(n, concatenated, 1, pass->global.b[0], in, delta);
	zero(pass->factor.delta[1], (size_t) n * F);
	for (int i = 0; i < n; i++)
	{
		size_t		at = (size_t) i * F;

		add(F, residual[i], factor, pass->factor.delta[1] + at);
		add(F, residual[i], pass->factor.u[1] + at, delta + concatenated);
	}
	chain_backward(&plan->factor, theta, 0, 1, n, inputs->z ? plan->dz : 0,
				   scale, &pass->factor, gradient);
	chain_backward(&plan->meta, theta, 0, plan->meta.layers, 1,
				   inputs->x ? plan->dx : 0, scale, &pass->meta, gradient);
	add_inputs(plan, n, scale, pass, inputs);
}

static real
rate_of(const Plan *plan, int tensor)
{
	return plan->network->inner_rate[plan->part == MAML_META ? tensor / 2 : 0];
}

/* to += scale alpha M a */
static void
add_step(const Plan *plan, real scale, const real *a, real *to)
{
	for (int t = plan->first_tensor; t < plan->end_tensor; t++)
	{
		const NetworkTensor *tensor = &plan->network->tensors[t];

		add((size_t) tensor->rows * tensor->columns,
			scale * rate_of(plan, t), a + tensor->offset, to + tensor->offset);
	}
}

static bool
all_finite(size_t n, const real *numbers)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(numbers[i]))
			return false;
	return true;
}

/* Of those that adapt. */
static bool
parameters_finite(const Plan *plan, const real *theta)
{
	const NetworkTensor *tensors = plan->network->tensors;
	size_t		begin = tensors[plan->first_tensor].offset;

	return all_finite(tensors[plan->end_tensor].offset - begin, theta + begin);
}

/* grad L_S at theta_k, after row_losses, as far as it is needed. */
static void
inner_gradient(const Plan *plan, Workspace *w, int n, int k)
{
	const Inputs none = {0};

	zero(w->inner_gradient[k], plan->count);
	if (plan->part == MAML_HEAD)
		chain_backward(&plan->global, w->theta[k], plan->first_layer,
					   plan->global.layers, n, 0, 1, &w->pass[k].global,
					   w->inner_gradient[k]);
	else
		backward(plan, w->theta[k], plan->global.layers, n, 1, &w->pass[k],
				 &none, w->inner_gradient[k]);
}

/* The inner loop, from theta[0]; inner_loop_run of plain MAML. */
static int
descend(const Plan *plan, const real *x, const MamlRows *rows, bool last_loss,
		Workspace *w)
{
	const NetworkShape *shape = &plan->network->shape;
	double		at_zero = 0;

	w->weight = 0;
	w->rises = 0;
	for (int i = 0; i < rows->n; i++)
	{
		real		weight = rows->weight ? rows->weight[i] : 1;

		w->weight += weight;
		at_zero += (double) weight * loss_at_zero(shape->loss, rows->label[i]);
	}
	w->scale = inner_scale(shape->weighting, w->weight);
	w->steps = w->scale > 0 ? shape->steps : 0;
	at_zero *= w->scale;

	for (int k = 0; k <= w->steps; k++)
	{
		Pass	   *pass = &w->pass[k < w->steps ? k : 0];

		if (k > 0 && !parameters_finite(plan, w->theta[k]))
			return k;
		if (k == w->steps && !last_loss)
			break;

		forward(plan, w->theta[k], k == 0 || plan->part != MAML_HEAD, x, rows,
				pass);
		w->loss[k] = w->scale * row_losses(plan, rows, w->scale, pass);
		if (k > 0)
		{
			real		most = w->loss[0] > at_zero ? w->loss[0] : at_zero;

			if (w->loss[k] > w->loss[k - 1])
				w->rises++;
			if (!(w->loss[k] <= DIVERGENCE * most) ||
				!all_finite(plan->concatenated + plan->F,
							embedding(plan, pass)))
				return k;
		}
		if (k == w->steps)
			break;

		inner_gradient(plan, w, rows->n, k);
		if (w->theta[k + 1] != w->theta[k])
			memcpy(w->theta[k + 1], w->theta[k], plan->count * sizeof(real));
		add_step(plan, -1, w->inner_gradient[k], w->theta[k + 1]);
	}
	return 0;
}

/* dL/ds's tangent from that of s; dL/ds itself is set to what it was. */
static void
residual_tangent(const Plan *plan, const Workspace *w, const MamlRows *rows,
				 const Pass *pass, Pass *pass_dot)
{
	int			G = plan->global.layers;
	real	   *residual_dot = pass_dot->global.delta[G];

	plan->network->kernels->losses(plan->network->shape.loss, rows->n,
								   w->scale, pass->global.u[G], rows->label,
								   rows->weight, pass->global.delta[G],
								   residual_dot);
	for (int i = 0; i < rows->n; i++)
		residual_dot[i] *= pass_dot->global.u[G][i];
}

/* v_k from v_k+1 where the layers from first_layer on adapt. */
static void
step_back_head(const Plan *plan, Workspace *w, const MamlTask *task, int k)
{
	int			n = task->support.n;
	int			from = plan->first_layer;
	int			G = plan->global.layers;
	int			in = plan->global.tensor[2 * from].columns;
	const Pass *pass = &w->pass[k];

	chain_tangent(&plan->global, w->theta[k], w->direction, from, n, 0,
				  &pass->global, &w->dot.global);
	residual_tangent(plan, w, &task->support, pass, &w->dot);
	chain_backward_tangent(&plan->global, w->theta[k], w->direction, from, n,
						   0, in, &pass->global, &w->dot.global, w->v);
	add((size_t) n * in, 1, w->dot.global.b[from], w->total.global.b[from]);
	add(n, 1, w->dot.global.delta[G], w->total.global.delta[G]);
}

/* v_k from v_k+1, through the whole network. */
static void
step_back(const Plan *plan, Workspace *w, const MamlTask *task,
		  const Inputs *inputs, int k)
{
	const real *theta = w->theta[k];
	const real *direction = w->direction;
	const Pass *pass = &w->pass[k];
	Pass	   *pass_dot = &w->dot;
	int			n = task->support.n;
	int			concatenated = plan->concatenated;
	int			in = concatenated + plan->dz;
	int			F = plan->F;
	int			G = plan->global.layers;
	const real *factor = embedding(plan, pass) + concatenated;
	const real *factor_dot = embedding(plan, pass_dot) + concatenated;
	const real *residual = pass->global.delta[G];
	const real *residual_dot = pass_dot->global.delta[G];
	real	   *delta_dot = pass_dot->meta.delta[plan->meta.layers];

	/* forwards; x and z have no tangent */
	chain_tangent(&plan->meta, theta, direction, 0, 1, 0, &pass->meta,
				  &pass_dot->meta);
	chain_tangent(&plan->factor, theta, direction, 0, n, 0, &pass->factor,
				  &pass_dot->factor);
	repeat_row(n, concatenated, embedding(plan, pass_dot),
			   pass_dot->global.h[0], in);
	chain_tangent(&plan->global, theta, direction, 0, n, concatenated,
				  &pass->global, &pass_dot->global);
	for (int i = 0; i < n; i++)
	{
		size_t		at = (size_t) i * F;

		pass_dot->global.u[G][i] +=
			dot(F, factor_dot, pass->factor.u[1] + at) +
			dot(F, factor, pass_dot->factor.u[1] + at);
	}
	residual_tangent(plan, w, &task->support, pass, pass_dot);

	/* and back, as `backward` goes */
	chain_backward_tangent(&plan->global, theta, direction, 0, n, concatenated,
						   inputs->z ? in : concatenated, &pass->global,
						   &pass_dot->global, w->v);
	zero(delta_dot, concatenated + F);
	add_rows(n, concatenated, 1, pass_dot->global.b[0], in, delta_dot);
	zero(pass_dot->factor.delta[1], (size_t) n * F);
	for (int i = 0; i < n; i++)
	{
		size_t		at = (size_t) i * F;
		real	   *f_delta_dot = pass_dot->factor.delta[1] + at;

		add(F, residual_dot[i], factor, f_delta_dot);
		add(F, residual[i], factor_dot, f_delta_dot);
		add(F, residual_dot[i], pass->factor.u[1] + at,
			delta_dot + concatenated);
		add(F, residual[i], pass_dot->factor.u[1] + at,
			delta_dot + concatenated);
	}
	chain_backward_tangent(&plan->factor, theta, direction, 0, n, 0,
						   inputs->z ? plan->dz : 0, &pass->factor,
						   &pass_dot->factor, w->v);
	chain_backward_tangent(&plan->meta, theta, direction, 0, 1, 0,
						   inputs->x ? plan->dx : 0, &pass->meta,
						   &pass_dot->meta, w->v);
	add_inputs(plan, n, -1, pass_dot, inputs);
}

/* The part of a step down from theta_k in the gradient of the inner rates. */
static void
add_rate_gradient(const Plan *plan, const Workspace *w, int k, real *gradient)
{
	const NetworkTensor *tensors = plan->network->tensors;
	real	   *rate_gradient = gradient +
		tensors[INNER_RATE(&plan->network->shape)].offset;

	for (int t = plan->first_tensor; t < plan->end_tensor; t++)
		rate_gradient[t / 2] -=
			dot((size_t) tensors[t].rows * tensors[t].columns,
				w->v + tensors[t].offset,
				w->inner_gradient[k] + tensors[t].offset);
}

/* From dJ/dtheta_K to dJ/dtheta_0, both in w->v. */
static void
back_through_steps(const Plan *plan, Workspace *w, const MamlTask *task,
				   int order, const Inputs *inputs, real *gradient)
{
	int			n = task->support.n;
	int			from = plan->first_layer;
	bool		head = plan->part == MAML_HEAD;

	if (head && w->steps > 0)
	{
		zero(w->total.global.b[from],
			 (size_t) n * plan->global.tensor[2 * from].columns);
		zero(w->total.global.delta[plan->global.layers], n);
	}
	for (int k = w->steps - 1; k >= 0; k--)
	{
		if (plan->part == MAML_META)
			add_rate_gradient(plan, w, k, gradient);
		if (order == 1)
			continue;
		zero(w->direction, plan->count);
		add_step(plan, 1, w->v, w->direction);
		if (head)
			step_back_head(plan, w, task, k);
		else
			step_back(plan, w, task, inputs, k);
	}
	if (head && w->steps > 0 && order == 2)
	{
		/* the inputs of pass[0] were set after this was taken from it */
		w->total.meta.h[0] = w->pass[0].meta.h[0];
		w->total.factor.h[0] = w->pass[0].factor.h[0];
		backward(plan, w->theta[0], from, n, -1, &w->total, inputs, w->v);
	}
}

/* The query rows' loss at theta, and its gradient, added. */
static double
query_gradient(const Plan *plan, Workspace *w, const MamlTask *task,
			   real *theta, real scale, const Inputs *inputs, real *gradient)
{
	double		loss;

	forward(plan, theta, true, task->x, &task->query, &w->query);
	loss = row_losses(plan, &task->query, scale, &w->query);
	backward(plan, theta, plan->global.layers, task->query.n, 1, &w->query,
			 inputs, gradient);
	return loss;
}

TaskLoss
maml_task(const Network *network, MamlPart part, const OuterLoss *outer,
		  MamlTask *task, real *memory, real *gradient)
{
	const NetworkShape *shape = &network->shape;
	const MamlRows *support = &task->support;
	const MamlRows *query = &task->query;
	const Inputs support_inputs = {task->x_gradient, support->z_gradient,
	support->offset_gradient};
	const Inputs query_inputs = {task->x_gradient, query->z_gradient,
	query->offset_gradient};
	real		scale = outer->scale / (1 + outer->prior_loss);
	Arena		arena = {memory, memory + maml_size(shape, part, support->n,
													query->n)};
	TaskLoss	loss = {0};
	Plan		plan;
	Workspace	w;

	plan_make(&plan, network, part);
	workspace_take(&w, shape, part, support->n, query->n, &arena);
	w.theta[0] = (real *) network->parameters;	/* only read */
	zero(support->z_gradient, (size_t) support->n * plan.dz);
	zero(support->offset_gradient, support->n);
	zero(query->z_gradient, (size_t) query->n * plan.dz);
	zero(query->offset_gradient, query->n);

	loss.diverged_at = descend(&plan, task->x, support, false, &w);
	if (loss.diverged_at)
		return loss;

	zero(w.v, plan.count);
	loss.query = query_gradient(&plan, &w, task, w.theta[w.steps], scale,
								&query_inputs, w.v);
	back_through_steps(&plan, &w, task, outer->order, &support_inputs,
					   gradient);
	if (outer->prior_loss > 0)
		loss.prior = query_gradient(&plan, &w, task, w.theta[0],
									scale * outer->prior_loss, &query_inputs,
									w.v);
	add(plan.count, 1, w.v, gradient);
	return loss;
}

Adaptation
maml_adapt(const Network *network, MamlPart part, const real *x,
		   const MamlRows *support, real *memory, real *parameters)
{
	const NetworkShape *shape = &network->shape;
	Arena		arena = {memory, memory + maml_adapt_size(shape, support->n)};
	Adaptation	result = {0};
	Plan		plan;
	Workspace	w;

	plan_make(&plan, network, part);
	workspace_take_adapt(&w, shape, support->n, parameters, &arena);
	memcpy(parameters, network->parameters, plan.count * sizeof(real));
	result.diverged_at = descend(&plan, x, support, true, &w);
	if (result.diverged_at == 0)
	{
		result.rises = w.rises;
		if (w.scale > 0)
		{
			real		to_mean = 1 / (w.scale * w.weight);

			result.loss_before = w.loss[0] * to_mean;
			result.loss_after = w.loss[w.steps] * to_mean;
		}
	}
	return result;
}

void
maml_score(const Network *network, const real *parameters, const real *x,
		   int n, const real *z, const real *offset, real *memory, real *score)
{
	const NetworkShape *shape = &network->shape;
	const MamlRows rows = {.n = n, .z = z, .offset = offset};
	Arena		arena = {memory, memory + maml_score_size(shape, n)};
	Room		room = {&arena, 0};
	Plan		plan;
	Pass		pass;

	plan_make(&plan, network, MAML_FULL);
	pass_take(&pass, shape, n, &room);
	forward(&plan, parameters, true, x, &rows, &pass);
	if (n > 0)
		memcpy(score, pass.global.u[shape->global_layers], n * sizeof(real));
}
