/*
 * test_memory.c
 *	  That the memory which the headers ask for is enough, to the byte,
 *	  wherever it begins; and that nothing outside an array is touched.
 *
 * Every array that the library is given, in or out, is laid out in one of
 * three ways: ended by a page that must not be touched; begun at any number
 * and fenced by numbers that must not change; or from malloc with not a byte
 * to spare, which is for the address sanitizer to watch.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "math/maml.h"
#include "problem.h"

#define SEEDS 40
#define FENCE 64

typedef enum Layout
{
	LAYOUT_PAGE,
	LAYOUT_FENCE,
	LAYOUT_EXACT,
	LAYOUTS
} Layout;

/* An array, and what it lies in. */
typedef struct Region
{
	real	   *numbers;
	size_t		n;
	char	   *memory;
	size_t		bytes;
	int			shift;			/* numbers before it */
} Region;

static Layout layout;
static Region region[256];
static int	regions;
static Random random_state;

/* n numbers, NaN; only ever freed all together. */
static real *
take(size_t n)
{
	Region	   *r = &region[regions++];
	size_t		bytes = n * sizeof(real);

	r->n = n;
	if (layout == LAYOUT_PAGE)
	{
		size_t		page = sysconf(_SC_PAGESIZE);
		size_t		pages = (bytes + page - 1) / page * page;

		r->bytes = pages + page;
		r->memory = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (r->memory == MAP_FAILED ||
			mprotect(r->memory + pages, page, PROT_NONE) != 0)
			abort();
		memset(r->memory, 0xff, pages);
		r->numbers = (real *) (r->memory + pages - bytes);
	}
	else
	{
		int			fence = layout == LAYOUT_FENCE ? FENCE : 0;

		/* malloc's own alignment is less than the library's */
		r->shift = fence + random_below(&random_state, KERNEL_PAD);
		r->bytes = (r->shift + n + fence) * sizeof(real);
		r->memory = (char *) allocate_reals(r->bytes / sizeof(real));
		r->numbers = (real *) r->memory + r->shift;
	}
	return r->numbers;
}

static real *
take_copy(size_t n, const real *numbers)
{
	real	   *copy = take(n);

	if (numbers && n > 0)
		memcpy(copy, numbers, n * sizeof(real));
	return copy;
}

static real *
take_zeros(size_t n)
{
	real	   *zeros = take(n);

	for (size_t i = 0; i < n; i++)
		zeros[i] = 0;
	return zeros;
}

/* Gives all regions back.  Returns how many had their fence broken. */
static int
give_back(void)
{
	int			broken = 0;

	while (regions > 0)
	{
		Region	   *r = &region[--regions];

		if (layout == LAYOUT_PAGE)
			munmap(r->memory, r->bytes);
		else
		{
			const unsigned char *byte = (unsigned char *) r->memory;
			size_t		begin = r->shift * sizeof(real);
			size_t		end = begin + r->n * sizeof(real);
			bool		touched = false;

			for (size_t i = 0; i < r->bytes; i++)
				touched |= (i < begin || i >= end) && byte[i] != 0xff;
			broken += touched;
			free(r->memory);
		}
	}
	return broken;
}

static Rows
take_rows(const Network *network, const Rows *rows, const real *z)
{
	int			dz = network_candidate_size(&network->shape);
	real	   *half = take((size_t) rows->n *
							network_half_size(&network->shape));

	network_candidate_half(network, rows->n,
						   take_copy((size_t) rows->n * dz, z), dz, half);
	return (Rows)
	{
		.n = rows->n,
		.half = half,
		.label = take_copy(rows->n, rows->label),
		.weight = rows->weight ? take_copy(rows->n, rows->weight) : NULL,
		.offset = rows->offset ? take_copy(rows->n, rows->offset) : NULL
	};
}

static bool
all_numbers(size_t n, const real *numbers)
{
	for (size_t i = 0; i < n; i++)
		if (isnan(numbers[i]))
			return false;
	return true;
}

/* Whether a pass has been given what its shape wants, and no more. */
static bool
pass_is_whole(const GlobalPass *pass, const NetworkShape *shape, bool kept)
{
	int			G = shape->global_layers;
	bool		whole = pass->score && pass->residual &&
		(!pass->curvature == !kept);

	for (int l = 1; l < G; l++)
		whole &= pass->h[l] && pass->sum[l] &&
			(!pass->u[l] == (shape->activation != ACTIVATION_GELU)) &&
			(!pass->b[l] == (shape->activation == ACTIVATION_RELU)) &&
			(!pass->delta[l] == (!kept && l == 1 && G > 2));
	return whole;
}

/* One pass forwards and backwards, and scores, in memory of its own. */
static bool
run_pass(const Network *network, const Rows *rows, const real *z,
		 const real *embedding, bool keep)
{
	const NetworkShape *shape = &network->shape;
	int			n = rows->n;
	int			dz = network_candidate_size(shape);
	real	   *h[NETWORK_MAX_LAYERS] = {NULL};
	real	   *delta[NETWORK_MAX_LAYERS] = {NULL};
	size_t		size = keep ? global_pass_kept_size(shape, n) :
		global_pass_size(shape, n);
	real	   *memory = take(size);
	real	   *scratch = take(network_scratch_size(shape));
	real	   *gradient = take(network_embedding_size(shape));
	real	   *entity = take(network_entity_size(shape));
	real	   *score = take(n);
	real	   *again = take(n);
	Arena		arena = {memory, memory + size};
	GlobalPass	pass;
	real		loss;

	for (int l = 1; keep && l < shape->global_layers; l++)
	{
		size_t		width = kernel_stride(shape->global_width[l]);

		h[l] = take(n * width);
		delta[l] = take(n * width);
	}
	if (keep)
		global_pass_take_kept(&pass, shape, n, h, delta, &arena);
	else
		global_pass_take(&pass, shape, n, &arena);
	if (!pass_is_whole(&pass, shape, keep))
		return false;
	loss = network_forward(network, embedding, rows, 0.5, &pass, scratch);
	network_backward(network, rows, &pass, gradient, scratch);

	network_entity(network, embedding, entity);
	network_score_halves(network, entity, n, rows->half, rows->offset,
						 take(network_score_size(shape, n)), score);
	network_score(network, entity, n, take_copy((size_t) n * dz, z), dz,
				  rows->offset, take(network_score_size(shape, n)), again);
	network_predict(network, n, again);
	return !isnan(loss) && all_numbers(n, pass.score) &&
		all_numbers(n, score) && all_numbers(n, again) &&
		all_numbers(network_embedding_size(shape), gradient);
}

/* An inner loop whose memory must hold all that it takes. */
static bool
run_inner_loop(const Network *network, const real *x, const Rows *rows)
{
	const NetworkShape *shape = &network->shape;
	size_t		size = inner_loop_size(shape, 1, rows->n);
	real	   *memory = take(size);
	size_t		pass_size = global_pass_size(shape, rows->n);
	real	   *pass_memory = take(pass_size);
	Arena		arena = {memory, memory + size};
	Arena		pass_arena = {pass_memory, pass_memory + pass_size};
	InnerLoop	loop;

	inner_loop_take(&loop, shape, 1, rows->n, &arena);
	global_pass_take(&loop.global[0], shape, rows->n, &pass_arena);
	for (int k = 1; k < shape->steps; k++)
		loop.global[k] = loop.global[0];
	if (!loop.first || !loop.factor || !loop.scratch || !loop.meta[0].h[0])
		return false;
	for (int k = 0; k <= shape->steps; k++)
		for (int l = 1; l <= shape->meta_layers; l++)
			if (!loop.meta[k].u[l] || !loop.meta[k].h[l] ||
				!loop.meta[k].b[l] || !loop.meta[k].delta[l])
				return false;
	loop.entity[0].x = x;
	loop.entity[0].rows = rows;
	inner_loop_run(network, true, &loop);
	return true;
}

/* Plain MAML, in memory of its own. */
static bool
run_maml(const Network *network, MamlPart part, const real *x,
		 const LoadedTask *task)
{
	const NetworkShape *shape = &network->shape;
	size_t		count = network_parameter_count(shape);
	int			dz = network_candidate_size(shape);
	int			n = task->support.n;
	int			q = task->query.n;
	OuterLoss	outer = {2, 0.5, 1};
	real	   *gradient = take_zeros(count);
	real	   *parameters = take(count);
	real	   *score = take(q);
	bool		good = true;
	MamlTask	again = {
		.x = x,
		.support = {
			.n = n,
			.z = take_copy((size_t) n * dz, task->support_z),
			.label = take_copy(n, task->support.label),
			.z_gradient = take((size_t) n * dz),
			.offset_gradient = take(n)
		},
		.query = {
			.n = q,
			.z = take_copy((size_t) q * dz, task->query_z),
			.label = take_copy(q, task->query.label),
			.z_gradient = take((size_t) q * dz),
			.offset_gradient = take(q)
		},
		.x_gradient = take_zeros(shape->meta_width[0])
	};

	maml_task(network, part, &outer, &again, take(maml_size(shape, part, n, q)),
			  gradient);
	good &= all_numbers(count, gradient) &&
		all_numbers((size_t) n * dz, again.support.z_gradient) &&
		all_numbers(n, again.support.offset_gradient) &&
		all_numbers((size_t) q * dz, again.query.z_gradient) &&
		all_numbers(q, again.query.offset_gradient) &&
		all_numbers(shape->meta_width[0], again.x_gradient);
	if (maml_adapt(network, part, x, &again.support,
				   take(maml_adapt_size(shape, n)),
				   parameters).diverged_at == 0)
	{
		maml_score(network, parameters, x, q, again.query.z, NULL,
				   take(maml_score_size(shape, q)), score);
		good &= all_numbers(count, parameters) && all_numbers(q, score);
	}
	return good;
}

/* Everything that the library does with memory. */
static bool
run_all(const Loaded *loaded)
{
	const NetworkShape *shape = &loaded->problem->shape;
	const LoadedTask *task = &loaded->task[0];
	size_t		count = network_parameter_count(shape);
	int			dx = shape->meta_width[0];
	int			dz = network_candidate_size(shape);
	int			n = task->support.n;
	int			q = task->query.n;
	int			half_size = network_half_size(shape);
	int			E = network_embedding_size(shape);
	bool		good = true;
	real	   *parameters = take_copy(count, loaded->parameters);
	real	   *x = take_copy(dx, task->x);
	real	   *embedding = take(E);
	Rows		support;
	Rows		query;
	Network		network;

	network_pack(&network, shape, parameters, take(network_packed_size(shape)));
	network.kernels = loaded->network.kernels;
	support = take_rows(&network, &task->support, task->support_z);
	query = take_rows(&network, &task->query, task->query_z);

	if (adapt(&network, x, &support, take(adapt_size(shape, 1, n)),
			  embedding).diverged_at == 0)
		good &= all_numbers(E, embedding);
	for (int keep = 0; keep <= 1; keep++)
		good &= run_pass(&network, &query, task->query_z, take_zeros(E), keep);
	good &= run_inner_loop(&network, x, &support);

	for (int order = 1; order <= 2; order++)
	{
		OuterLoss	outer = {order, 0.5, 1};
		real	   *gradient = take_zeros(count);
		real	   *z_gradient = take((size_t) q * dz);
		real	   *candidate = take(gradient_candidate_size(shape));
		Task		again = {
			.x = x,
			.support = support,
			.query = query,
			.x_gradient = take_zeros(dx),
			.support_half_gradient = take((size_t) n * half_size),
			.query_half_gradient = take((size_t) q * half_size),
			.support_offset_gradient = take(n),
			.query_offset_gradient = take(q)
		};

		if (gradient_task(&network, &outer, &again,
						  take(gradient_size(shape, n, q)),
						  gradient).diverged_at > 0)
			continue;
		gradient_candidate_begin(&network, candidate);
		gradient_candidate(&network, n,
						   take_copy((size_t) n * dz, task->support_z),
						   again.support_half_gradient, candidate, gradient,
						   take((size_t) n * dz));
		gradient_candidate(&network, q,
						   take_copy((size_t) q * dz, task->query_z),
						   again.query_half_gradient, candidate, gradient,
						   z_gradient);
		gradient_candidate_end(&network, candidate, gradient);
		good &= all_numbers((size_t) n * half_size,
							again.support_half_gradient) &&
			all_numbers((size_t) q * half_size, again.query_half_gradient) &&
			all_numbers(n, again.support_offset_gradient) &&
			all_numbers(q, again.query_offset_gradient) &&
			all_numbers((size_t) q * dz, z_gradient) &&
			all_numbers(dx, again.x_gradient) && all_numbers(count, gradient);
	}
	recency_weights(n, 10, NULL, NULL, take_zeros(n));
	for (MamlPart part = MAML_META; part <= MAML_FULL; part++)
		good &= run_maml(&network, part, x, task);
	return good;
}

int
main(void)
{
	static const char *const name[LAYOUTS] = {"ended by a page",
	"fenced", "without a byte to spare"};
	static const ProblemLimits few = {1, 40, 20, 4};
	static const ProblemLimits many = {1, 20, 400, 1};
	int			seeds = seed_count(SEEDS);
	const char *kernels;

	for (int p = 0; (kernels = select_kernels(p)); p++)
		for (layout = LAYOUT_PAGE; layout < LAYOUTS; layout++)
		{
			int			broken = 0;
			int			short_of = 0;

			random_seed(&random_state, 1);
			for (int seed = 1; seed <= seeds; seed++)
			{
				Problem		problem;
				Part	   *rate;
				Loaded		loaded;
				bool		good;
				int			touched;

				problem_draw(&problem, seed % 4 == 0 ? &many : &few, seed);
				rate = &problem.part[INNER_RATE(&problem.shape)];
				for (size_t i = 0; i < rate->count; i++)
					problem.numbers[rate->offset + i] = 0.01;
				problem_load(&loaded, &problem);
				good = run_all(&loaded);
				touched = give_back();
				if (!good || touched > 0)
					note("seed %d: %s", seed, problem_describe(&problem));
				short_of += !good;
				broken += touched;
				loaded_free(&loaded);
				problem_free(&problem);
			}
			check(broken == 0 && short_of == 0, "memory %s on %s: %d arrays "
				  "overrun, %d runs short of memory or with unset results "
				  "(seeds 1 ... %d)", name[layout], kernels, broken, short_of,
				  seeds);
		}
	return check_end();
}
