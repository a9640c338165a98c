/*
 * problem.c
 *	  Random problems, and problems given to the library.
 */
#include "problem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static void
add_part(Problem *problem, const char *name, int dimensions, int rows,
		 int columns)
{
	Part	   *part = &problem->part[problem->parts++];

	snprintf(part->name, sizeof(part->name), "%.23s", name);
	part->dimensions = dimensions;
	part->rows = rows;
	part->columns = columns;
	part->offset = problem->count;
	part->count = (size_t) rows * columns;
	problem->count += part->count;
}

static void
allocate_rows(RowSet *rows)
{
	rows->label = allocate(rows->n * sizeof(double));
	rows->weight = allocate(rows->n * sizeof(double));
}

void
problem_layout(Problem *problem)
{
	const NetworkShape *shape = &problem->shape;
	NetworkTensor tensor[NETWORK_MAX_TENSORS];
	int			dx = shape->meta_width[0];
	int			dz = network_candidate_size(shape);

	problem->parts = 0;
	problem->count = 0;
	problem->tensors = network_tensors(shape, tensor);
	for (int t = 0; t < problem->tensors; t++)
		add_part(problem, tensor[t].name, tensor[t].dimensions,
				 tensor[t].rows, tensor[t].columns);
	for (int t = 0; t < problem->tasks; t++)
	{
		int			n = problem->support[t].n;
		int			q = problem->query[t].n;

		add_part(problem, "x", 1, 1, dx);
		add_part(problem, "support.z", 2, n, dz);
		add_part(problem, "support.offset", 1, 1, n);
		add_part(problem, "query.z", 2, q, dz);
		add_part(problem, "query.offset", 1, 1, q);
		allocate_rows(&problem->support[t]);
		allocate_rows(&problem->query[t]);
	}
	problem->numbers = allocate(problem->count * sizeof(double));
}

void
problem_free(Problem *problem)
{
	for (int t = 0; t < problem->tasks; t++)
	{
		free(problem->support[t].label);
		free(problem->support[t].weight);
		free(problem->query[t].label);
		free(problem->query[t].weight);
	}
	free(problem->numbers);
}

/* Uniform in least ... most. */
static int
draw_between(Random *random, int least, int most)
{
	return least + random_below(random, most - least + 1);
}

/* True once in n times. */
static bool
draw_rarely(Random *random, int n)
{
	return random_below(random, n) == 0;
}

/* Both precisions compute with the same numbers, so these are floats. */
static double
draw_number(Random *random, double scale)
{
	return (float) (scale * random_normal(random));
}

static void
draw_shape(NetworkShape *shape, const ProblemLimits *limits, Random *random)
{
	int			E;

	memset(shape, 0, sizeof(*shape));
	shape->activation = random_below(random, 3);
	shape->loss = random_below(random, 2);
	shape->weighting = random_below(random, 4);
	shape->adapts = draw_rarely(random, 3) ?
		ADAPTS_EMBEDDING : ADAPTS_META_BLOCK;
	shape->steps = draw_between(random, 0, limits->steps);
	shape->meta_layers = draw_between(random, 1, 4);
	shape->global_layers = draw_between(random, 1, 4);
	for (int l = 0; l <= shape->meta_layers; l++)
		shape->meta_width[l] = draw_between(random, 1, limits->width);
	if (draw_rarely(random, 6))
		shape->meta_width[0] = 0;
	E = shape->meta_width[shape->meta_layers];
	shape->factor_size = draw_rarely(random, 3) ? 0 :
		draw_rarely(random, 4) ? E : draw_between(random, 0, E);
	for (int l = 1; l < shape->global_layers; l++)
		shape->global_width[l] = draw_between(random, 1, limits->width);
	shape->global_width[shape->global_layers] = 1;
	shape->global_width[0] = E - shape->factor_size +
		(draw_rarely(random, 8) ? 0 : draw_between(random, 1, limits->width));
}

static void
draw_rows(RowSet *rows, Loss loss, Random *random)
{
	bool		no_weight_at_all = draw_rarely(random, 12);

	rows->no_weights = draw_rarely(random, 4);
	for (int i = 0; i < rows->n; i++)
	{
		if (loss == LOSS_SQUARED)
			rows->label[i] = draw_number(random, 1);
		else if (draw_rarely(random, 8))
			rows->label[i] = (float) random_uniform(random);
		else
			rows->label[i] = random_below(random, 2);

		if (rows->no_weights)
			rows->weight[i] = 1;
		else if (no_weight_at_all || draw_rarely(random, 5))
			rows->weight[i] = 0;
		else
			rows->weight[i] = (float) (0.1 + 2 * random_uniform(random));
	}
}

static void
draw_part(Problem *problem, const Part *part, double scale, Random *random)
{
	for (size_t i = 0; i < part->count; i++)
		problem->numbers[part->offset + i] = draw_number(random, scale);
}

void
problem_draw(Problem *problem, const ProblemLimits *limits, uint64_t seed)
{
	NetworkShape *shape = &problem->shape;
	Random		random;
	double		query_weight = 0;

	random_seed(&random, seed);
	memset(problem, 0, sizeof(*problem));
	draw_shape(shape, limits, &random);
	problem->prior_loss = draw_rarely(&random, 4) ? 0 :
		(float) (0.1 + random_uniform(&random));
	problem->tasks = draw_between(&random, 1, limits->tasks);
	for (int t = 0; t < problem->tasks; t++)
	{
		problem->support[t].n = draw_rarely(&random, 6) ? 0 :
			draw_between(&random, 1, limits->rows);
		problem->query[t].n = t > 0 && draw_rarely(&random, 8) ? 0 :
			draw_between(&random, 1, limits->rows);
	}
	problem_layout(problem);

	for (int t = 0; t < problem->tensors; t++)
	{
		const Part *part = &problem->part[t];

		if (t == INNER_RATE(shape))
			for (size_t i = 0; i < part->count; i++)
				problem->numbers[part->offset + i] =
					(float) (0.05 + 0.4 * random_uniform(&random));
		else if (part->dimensions == 1)
			draw_part(problem, part, 0.3, &random);
		else
			draw_part(problem, part, 1 / sqrt(part->columns), &random);
	}
	for (int t = 0; t < problem->tasks; t++)
	{
		draw_rows(&problem->support[t], shape->loss, &random);
		draw_rows(&problem->query[t], shape->loss, &random);
		problem->support[t].no_offsets = draw_rarely(&random, 4);
		problem->query[t].no_offsets = draw_rarely(&random, 4);
		for (int p = 0; p < TASK_PARTS; p++)
			draw_part(problem, task_part(problem, t, p), 1, &random);
		if (problem->support[t].no_offsets)
			draw_part(problem, task_part(problem, t, PART_SUPPORT_OFFSET), 0,
					  &random);
		if (problem->query[t].no_offsets)
			draw_part(problem, task_part(problem, t, PART_QUERY_OFFSET), 0,
					  &random);
		for (int i = 0; i < problem->query[t].n; i++)
			query_weight += problem->query[t].weight[i];
	}

	/* a batch whose query rows weigh nothing has no objective */
	if (query_weight == 0)
	{
		problem->query[0].no_weights = false;
		problem->query[0].weight[0] = 1.5;
	}
}

const char *
problem_describe(const Problem *problem)
{
	static const char *const activation[] = {"tanh", "relu", "gelu"};
	static const char *const weighting[] = {"mean", "sqrt", "damped",
	"sqrt_damped"};
	static char text[512];
	const NetworkShape *shape = &problem->shape;
	int			at;

	at = snprintf(text, sizeof(text), "%s, %s loss, %s, adapts %s, %d steps, "
				  "factor %d, prior loss %.2g, meta",
				  activation[shape->activation],
				  shape->loss == LOSS_BINARY ? "binary" : "squared",
				  weighting[shape->weighting],
				  shape->adapts == ADAPTS_META_BLOCK ? "meta block" :
				  "embedding", shape->steps, shape->factor_size,
				  problem->prior_loss);
	for (int l = 0; l <= shape->meta_layers; l++)
		at += snprintf(text + at, sizeof(text) - at, " %d",
					   shape->meta_width[l]);
	at += snprintf(text + at, sizeof(text) - at, ", global");
	for (int l = 0; l <= shape->global_layers; l++)
		at += snprintf(text + at, sizeof(text) - at, " %d",
					   shape->global_width[l]);
	at += snprintf(text + at, sizeof(text) - at, ", rows");
	for (int t = 0; t < problem->tasks; t++)
		at += snprintf(text + at, sizeof(text) - at, " %d+%d",
					   problem->support[t].n, problem->query[t].n);
	return text;
}

double
problem_scale(const Problem *problem)
{
	double		weight = 0;

	for (int t = 0; t < problem->tasks; t++)
		for (int i = 0; i < problem->query[t].n; i++)
			weight += problem->query[t].weight[i];
	return 1 / weight;
}

/* n numbers as the library has them. */
static real *
to_reals(size_t n, const double *numbers)
{
	real	   *reals = allocate_reals(n);

	for (size_t i = 0; i < n; i++)
		reals[i] = numbers[i];
	return reals;
}

static real *
part_to_reals(const Problem *problem, int task, int part)
{
	const Part *p = task_part(problem, task, part);

	return to_reals(p->count, problem->numbers + p->offset);
}

static Rows
load_rows(const Loaded *loaded, int task, const RowSet *rows, const real *z,
		  int offset_part)
{
	Rows		result = {
		.n = rows->n,
		.half = loaded_half(loaded, rows->n, z),
		.label = to_reals(rows->n, rows->label)
	};

	if (!rows->no_weights)
		result.weight = to_reals(rows->n, rows->weight);
	if (!rows->no_offsets)
		result.offset = part_to_reals(loaded->problem, task, offset_part);
	return result;
}

static void
free_rows(Rows *rows)
{
	free((real *) rows->half);
	free((real *) rows->label);
	free((real *) rows->weight);
	free((real *) rows->offset);
}

void
problem_load(Loaded *loaded, const Problem *problem)
{
	const NetworkShape *shape = &problem->shape;

	loaded->problem = problem;
	loaded->parameters = to_reals(network_parameter_count(shape),
								  problem->numbers);
	loaded->packed = allocate_reals(network_packed_size(shape));
	network_pack(&loaded->network, shape, loaded->parameters, loaded->packed);

	/* of some, layers are shifted however few their rows and weights */
	loaded->kernels = *loaded->network.kernels;
	if ((problem->support[0].n + shape->global_width[1]) % 2 == 0)
		loaded->kernels.shift_rows = loaded->kernels.shift_weights = 1;
	loaded->network.kernels = &loaded->kernels;
	for (int t = 0; t < problem->tasks; t++)
	{
		LoadedTask *task = &loaded->task[t];

		task->x = shape->meta_width[0] > 0 ?
			part_to_reals(problem, t, PART_X) : NULL;
		task->support_z = part_to_reals(problem, t, PART_SUPPORT_Z);
		task->query_z = part_to_reals(problem, t, PART_QUERY_Z);
		task->support = load_rows(loaded, t, &problem->support[t],
								  task->support_z, PART_SUPPORT_OFFSET);
		task->query = load_rows(loaded, t, &problem->query[t], task->query_z,
								PART_QUERY_OFFSET);
	}
}

void
loaded_free(Loaded *loaded)
{
	for (int t = 0; t < loaded->problem->tasks; t++)
	{
		LoadedTask *task = &loaded->task[t];

		free(task->x);
		free(task->support_z);
		free(task->query_z);
		free_rows(&task->support);
		free_rows(&task->query);
	}
	free(loaded->parameters);
	free(loaded->packed);
}

real *
loaded_half(const Loaded *loaded, int n, const real *z)
{
	const NetworkShape *shape = &loaded->problem->shape;
	real	   *half = allocate_reals((size_t) n * network_half_size(shape));

	network_candidate_half(&loaded->network, n, z,
						   network_candidate_size(shape), half);
	return half;
}

void
loaded_scores(const Loaded *loaded, const real *embedding, const Rows *rows,
			  real *score)
{
	const NetworkShape *shape = &loaded->network.shape;
	real	   *entity = allocate_reals(network_entity_size(shape));
	real	   *memory = allocate_reals(network_score_size(shape, rows->n));

	network_entity(&loaded->network, embedding, entity);
	network_score_halves(&loaded->network, entity, rows->n, rows->half,
						 rows->offset, memory, score);
	free(entity);
	free(memory);
}

Adaptation
loaded_adapt(const Loaded *loaded, int task, real *embedding)
{
	const LoadedTask *t = &loaded->task[task];
	real	   *memory = allocate_reals(adapt_size(&loaded->network.shape, 1,
												   t->support.n));
	Adaptation	adaptation = adapt(&loaded->network, t->x, &t->support, memory,
								   embedding);

	free(memory);
	return adaptation;
}

/* Copies a task's gradient of a part to its place among all. */
static void
put_part(const Loaded *loaded, int task, int part, const real *numbers,
		 double *gradient)
{
	const Part *p = task_part(loaded->problem, task, part);

	for (size_t i = 0; i < p->count; i++)
		gradient[p->offset + i] = numbers[i];
}

/* One side's rows: the rest of their gradient, from that of the halves. */
static void
put_rows(const Loaded *loaded, int task, int n, const real *z, int z_part,
		 const real *half_gradient, int offset_part,
		 const real *offset_gradient, real *parameters, double *gradient)
{
	const NetworkShape *shape = &loaded->problem->shape;
	real	   *z_gradient =
		allocate_reals((size_t) n * network_candidate_size(shape));
	real	   *memory = allocate_reals(gradient_candidate_size(shape));

	gradient_candidate_begin(&loaded->network, memory);
	gradient_candidate(&loaded->network, n, z, half_gradient, memory,
					   parameters, z_gradient);
	gradient_candidate_end(&loaded->network, memory, parameters);
	put_part(loaded, task, z_part, z_gradient, gradient);
	put_part(loaded, task, offset_part, offset_gradient, gradient);
	free(memory);
	free(z_gradient);
}

int
loaded_gradient(const Loaded *loaded, int order, double *gradient,
				double *objective)
{
	const Problem *problem = loaded->problem;
	const NetworkShape *shape = &problem->shape;
	size_t		count = network_parameter_count(shape);
	int			half_size = network_half_size(shape);
	real	   *parameters = calloc(count, sizeof(real));
	OuterLoss	outer = {order, problem->prior_loss, problem_scale(problem)};
	double		loss = 0;
	int			diverged_at = 0;

	for (int t = 0; t < problem->tasks; t++)
	{
		const LoadedTask *given = &loaded->task[t];
		int			n = given->support.n;
		int			q = given->query.n;
		int			dx = shape->meta_width[0];
		real	   *memory = allocate_reals(gradient_size(shape, n, q));
		Task		task = {
			.x = given->x,
			.support = given->support,
			.query = given->query,
			.x_gradient = allocate_reals(dx),
			.support_half_gradient = allocate_reals((size_t) n * half_size),
			.query_half_gradient = allocate_reals((size_t) q * half_size),
			.support_offset_gradient = allocate_reals(n),
			.query_offset_gradient = allocate_reals(q)
		};
		TaskLoss	part;

		if (dx > 0)
			memset(task.x_gradient, 0, dx * sizeof(real));
		part = gradient_task(&loaded->network, &outer, &task, memory,
							 parameters);
		loss += part.query + problem->prior_loss * part.prior;
		if (diverged_at == 0)
			diverged_at = part.diverged_at;

		put_part(loaded, t, PART_X, task.x_gradient, gradient);
		put_rows(loaded, t, n, given->support_z, PART_SUPPORT_Z,
				 task.support_half_gradient, PART_SUPPORT_OFFSET,
				 task.support_offset_gradient, parameters, gradient);
		put_rows(loaded, t, q, given->query_z, PART_QUERY_Z,
				 task.query_half_gradient, PART_QUERY_OFFSET,
				 task.query_offset_gradient, parameters, gradient);
		free(memory);
		free(task.x_gradient);
		free(task.support_half_gradient);
		free(task.query_half_gradient);
		free(task.support_offset_gradient);
		free(task.query_offset_gradient);
	}

	for (size_t i = 0; i < count; i++)
		gradient[i] = parameters[i];
	free(parameters);
	*objective = loss * problem_scale(problem) / (1 + problem->prior_loss);
	return diverged_at;
}
