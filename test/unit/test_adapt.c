/*
 * test_adapt.c
 *	  The inner loop at its edges: divergence, saturated logits, recency, what
 *	  is reported, and what is added to rather than set.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "reference.h"

#define SEEDS 60

#ifdef LIMAML_DOUBLE
#define TOLERANCE 1e-10
#else
#define TOLERANCE 1e-4
#endif

static const ProblemLimits small = {2, 20, 12, 8};

static void
set_rates(Problem *problem, double rate)
{
	const Part *part = &problem->part[INNER_RATE(&problem->shape)];

	for (size_t i = 0; i < part->count; i++)
		problem->numbers[part->offset + i] = rate;
}

static double
support_weight(const Problem *problem, int task)
{
	double		weight = 0;

	for (int i = 0; i < problem->support[task].n; i++)
		weight += problem->support[task].weight[i];
	return weight;
}

static bool
all_finite(size_t n, const real *numbers)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(numbers[i]))
			return false;
	return true;
}

/*
 * The step after which a plain inner loop has diverged, by the definition: a
 * loss that is not finite or a hundred times the larger of the first and what
 * a constant 0 costs.  -1 where rounding decides.
 */
static int
plain_divergence(const Problem *problem, int task, const ReferenceRun *run)
{
	const NetworkShape *shape = &problem->shape;
	const RowSet *rows = &problem->support[task];
	double		weight = support_weight(problem, task);
	double		limit = 0;

	if (weight == 0)
		return 0;
	for (int i = 0; i < rows->n; i++)
		limit += rows->weight[i] * (shape->loss == LOSS_BINARY ? log(2) :
									rows->label[i] * rows->label[i] / 2);
	limit *= inner_scale(shape->weighting, weight);
	limit = 100 * fmax(limit, run->loss[0]);
	for (int k = 1; k <= shape->steps; k++)
	{
		if (fabs(run->loss[k] / limit - 1) < 0.01)
			return -1;
		if (!(run->loss[k] <= limit))
			return k;
	}
	return 0;
}

/* Rates from harmless to absurd. */
static void
test_divergence(void)
{
	static const double rates[] = {0.1, 3, 30, 1e3, 1e6};
	int			seeds = seed_count(SEEDS);
	int			diverged = 0;
	int			converged = 0;
	int			wrong = 0;
	int			touched = 0;

	for (int seed = 1; seed <= seeds; seed++)
		for (int r = 0; r < 5; r++)
		{
			Problem		problem;
			Loaded		loaded;
			int			E;
			int			bad = wrong + touched;
			real	   *embedding;

			problem_draw(&problem, &small, seed);
			set_rates(&problem, rates[r]);
			E = network_embedding_size(&problem.shape);
			embedding = allocate_reals(E);
			problem_load(&loaded, &problem);
			for (int t = 0; t < problem.tasks; t++)
			{
				Adaptation	adaptation;
				ReferenceRun run;
				int			expected;

				reference_run(&problem, problem.numbers, t, NULL, &run);
				expected = plain_divergence(&problem, t, &run);
				memset(embedding, 0xff, E * sizeof(real));
				adaptation = loaded_adapt(&loaded, t, embedding);
				if (adaptation.diverged_at)
				{
					/* nothing may be left of it */
					diverged++;
					for (int j = 0; j < E; j++)
						touched += !isnan(embedding[j]);
				}
				else
				{
					converged++;
					touched += !all_finite(E, embedding) ||
						!isfinite(adaptation.loss_after);
				}

				/* chaos makes the precise step depend on rounding */
				if (rates[r] <= 3 && expected >= 0 &&
					adaptation.diverged_at != expected)
					wrong++;
				reference_free(&run);
			}
			if (wrong + touched > bad)
				note("seed %d, rate %g: %s", seed, rates[r],
					 problem_describe(&problem));
			loaded_free(&loaded);
			free(embedding);
			problem_free(&problem);
		}
	check(wrong == 0 && touched == 0 && converged > 0 && diverged > 0,
		  "%d inner loops diverged, at the step they should, and left nothing; "
		  "%d did not, and are finite", diverged, converged);
}

/*
 * Absurd rates, where the network does not saturate: a squared loss or an
 * embedding that meets the candidates linearly.
 */
static void
test_absurd_rate(void)
{
	int			seeds = seed_count(SEEDS);
	int			tried = 0;
	int			missed = 0;
	int			touched = 0;

	for (int seed = 1; seed <= seeds; seed++)
	{
		NetworkShape *shape;
		Problem		problem;
		Loaded		loaded;
		size_t		count;
		real	   *gradient;
		real	   *embedding;

		problem_draw(&problem, &small, seed);
		shape = &problem.shape;
		if (shape->steps < 3 || shape->factor_size == 0 ||
			problem.support[0].n < 3 || support_weight(&problem, 0) == 0)
		{
			problem_free(&problem);
			continue;
		}
		shape->loss = LOSS_SQUARED;
		set_rates(&problem, 1e8);
		problem_load(&loaded, &problem);
		embedding = allocate_reals(network_embedding_size(shape));
		tried++;
		missed += loaded_adapt(&loaded, 0, embedding).diverged_at == 0;
		touched += !isnan(embedding[0]);

		/* the outer loop's gradient has nothing of it either */
		shape->steps++;			/* its loop measures no loss at the end */
		count = network_parameter_count(shape);
		gradient = calloc(count, sizeof(real));
		{
			const LoadedTask *given = &loaded.task[0];
			OuterLoss	outer = {2, 0.5, problem_scale(&problem)};
			real	   *x_gradient = calloc(shape->meta_width[0], sizeof(real));
			real	   *memory;
			Task		task = {.x = given->x, .support = given->support,
			.query = given->query, .x_gradient = x_gradient};
			TaskLoss	loss;

			loaded.network.shape = *shape;
			memory = allocate_reals(gradient_size(shape, given->support.n,
												  given->query.n));
			loss = gradient_task(&loaded.network, &outer, &task, memory,
								 gradient);
			missed += loss.diverged_at == 0;
			for (size_t i = 0; i < count; i++)
				touched += gradient[i] != 0;
			for (int i = 0; i < shape->meta_width[0]; i++)
				touched += x_gradient[i] != 0;
			touched += loss.query != 0 || loss.prior != 0;
			free(memory);
			free(x_gradient);
		}
		free(gradient);
		free(embedding);
		loaded_free(&loaded);
		problem_free(&problem);
	}
	check(tried > 0 && missed == 0 && touched == 0,
		  "an absurd inner rate diverges, and touches nothing: %d tried, %d "
		  "missed", tried, missed);
}

/*
 * Rates whose steps overflow: whatever the activation makes of infinities and
 * NaN, what is not reported as diverged is finite.
 */
static void
test_overflow(Activation activation, const char *name)
{
#ifdef LIMAML_DOUBLE
	static const double rates[] = {1e100, 1e200, 1e300, 1e308};
#else
	static const double rates[] = {1e20, 1e30, 1e36, 1e38};
#endif
	int			seeds = seed_count(SEEDS);
	int			bad = 0;

	for (int seed = 1; seed <= seeds; seed++)
		for (int r = 0; r < 4; r++)
		{
			Problem		problem;
			Loaded		loaded;
			int			E;
			int			before = bad;
			real	   *embedding;

			problem_draw(&problem, &small, seed);
			problem.shape.activation = activation;
			set_rates(&problem, rates[r]);
			E = network_embedding_size(&problem.shape);
			embedding = allocate_reals(E);
			problem_load(&loaded, &problem);
			for (int t = 0; t < problem.tasks; t++)
			{
				Adaptation	adaptation = loaded_adapt(&loaded, t, embedding);

				bad += adaptation.diverged_at == 0 &&
					(!all_finite(E, embedding) ||
					 !isfinite(adaptation.loss_after));
			}
			if (bad > before && bad <= 3)
				note("seed %d, rate %g: %s", seed, rates[r],
					 problem_describe(&problem));
			loaded_free(&loaded);
			free(embedding);
			problem_free(&problem);
		}
	check(bad == 0, "%s: an embedding that is not finite is reported as "
		  "diverged; %d were not", name, bad);
}

/* Losses reported are means, and rises are counted. */
static void
test_report(void)
{
	int			seeds = seed_count(SEEDS);
	double		worst = 0;
	int			wrong = 0;
	int			with_rises = 0;

	for (int seed = 1; seed <= seeds; seed++)
	{
		Problem		problem;
		Loaded		loaded;
		real	   *embedding;

		problem_draw(&problem, &small, seed);
		set_rates(&problem, 1.5);
		embedding = allocate_reals(network_embedding_size(&problem.shape));
		problem_load(&loaded, &problem);
		for (int t = 0; t < problem.tasks; t++)
		{
			const RowSet *rows = &problem.support[t];
			const double *z = problem.numbers +
				task_part(&problem, t, PART_SUPPORT_Z)->offset;
			const double *offset = problem.numbers +
				task_part(&problem, t, PART_SUPPORT_OFFSET)->offset;
			Adaptation	adaptation = loaded_adapt(&loaded, t, embedding);
			double		weight = support_weight(&problem, t);
			int			E = network_embedding_size(&problem.shape);
			int			dz = network_candidate_size(&problem.shape);
			int			K = problem.shape.steps;
			double		mean[2] = {0, 0};
			int			rises = 0;
			bool		close = false;
			ReferenceRun run;

			if (adaptation.diverged_at)
				continue;
			reference_run(&problem, problem.numbers, t, NULL, &run);
			for (int i = 0; i < rows->n && weight > 0; i++)
				for (int end = 0; end < 2; end++)
				{
					const double *e = run.embedding + (end ? K * E : 0);
					double		score;

					score = reference_score(&problem.shape, problem.numbers,
											e, z + (size_t) i * dz, offset[i]);
					mean[end] += rows->weight[i] / weight *
						reference_loss(problem.shape.loss, score,
									   rows->label[i]);
				}
			for (int k = 1; k <= K; k++)
			{
				double		change = run.loss[k] - run.loss[k - 1];

				rises += change > 0;
				close |= weight > 0 &&
					fabs(change) < 1e-3 * (fabs(run.loss[k]) + 1e-3);
			}
			worst = fmax(worst, relative_error(adaptation.loss_before, mean[0],
											   1e-2));

			/* a loop that jumps about makes much of rounding */
			if (rises == 0)
				worst = fmax(worst, relative_error(adaptation.loss_after,
												   mean[1], 1e-2));
			wrong += !close && adaptation.rises != rises;
			with_rises += !close && rises > 0;
			reference_free(&run);
		}
		loaded_free(&loaded);
		free(embedding);
		problem_free(&problem);
	}
	check(worst < TOLERANCE, "losses before and after are weighted means: "
		  "worst relative error %.2g", worst);
	check(wrong == 0 && with_rises > 0,
		  "support losses that rise are counted; %d loops had some",
		  with_rises);
}

/* Without rows or weight, an entity keeps the prior's embedding. */
static void
test_cold_start(void)
{
	int			seeds = seed_count(SEEDS);
	int			wrong = 0;

	for (int seed = 1; seed <= seeds; seed++)
	{
		Problem		problem;
		Loaded		loaded;
		int			E;
		real	   *prior;
		real	   *without;
		real	   *weightless;
		real	   *memory;
		real	   *weight;
		Rows		rows;
		Adaptation	adaptation;

		problem_draw(&problem, &small, seed);
		problem_load(&loaded, &problem);
		E = network_embedding_size(&problem.shape);
		prior = allocate_reals(E);
		without = allocate_reals(E);
		weightless = allocate_reals(E);
		weight = calloc(problem.support[0].n + 1, sizeof(real));
		memory = allocate_reals(adapt_size(&problem.shape, 1,
										   problem.support[0].n));

		rows = loaded.task[0].support;
		rows.weight = weight;
		adaptation = adapt(&loaded.network, loaded.task[0].x, &rows, memory,
						   weightless);
		wrong += adaptation.diverged_at != 0 || adaptation.rises != 0 ||
			adaptation.loss_before != 0 || adaptation.loss_after != 0;

		rows = (Rows) {0};
		adaptation = adapt(&loaded.network, loaded.task[0].x, &rows, memory,
						   without);
		wrong += adaptation.diverged_at != 0 || adaptation.rises != 0 ||
			adaptation.loss_before != 0 || adaptation.loss_after != 0;

		loaded.network.shape.steps = 0;
		loaded_adapt(&loaded, 0, prior);
		wrong += memcmp(prior, without, E * sizeof(real)) != 0 ||
			memcmp(prior, weightless, E * sizeof(real)) != 0;
		loaded_free(&loaded);
		free(prior);
		free(without);
		free(weightless);
		free(memory);
		free(weight);
		problem_free(&problem);
	}
	check(wrong == 0, "no rows, no weight and no step: the prior's embedding, "
		  "bit for bit");
}

/*
 * Whether every logit of an entity that has not moved is as far out as makes
 * its slope less than 1e-18, which is as good as 0.
 */
static bool
all_saturated(const Problem *problem)
{
	const NetworkShape *shape = &problem->shape;
	int			dz = network_candidate_size(shape);
	bool		saturated = true;

	for (int t = 0; t < problem->tasks; t++)
	{
		ReferenceRun run;

		reference_run(problem, problem->numbers, t, NULL, &run);
		for (int side = 0; side < 2; side++)
		{
			const RowSet *rows = side ?
				&problem->query[t] : &problem->support[t];
			const double *z = problem->numbers +
				task_part(problem, t, side ? PART_QUERY_Z :
						  PART_SUPPORT_Z)->offset;
			const double *offset = problem->numbers +
				task_part(problem, t, side ? PART_QUERY_OFFSET :
						  PART_SUPPORT_OFFSET)->offset;

			for (int i = 0; i < rows->n; i++)
			{
				double		score = reference_score(shape, problem->numbers,
													run.embedding,
													z + (size_t) i * dz,
													offset[i]);

				saturated &= (rows->label[i] == 1 ? score : -score) > 42;
			}
		}
		reference_free(&run);
	}
	return saturated;
}

/*
 * Every logit is right and far out: the loop stands still, the gradient is 0
 * to the last bit, and nothing computed on the way is denormal.
 */
static void
test_saturated(void)
{
	int			seeds = seed_count(SEEDS);
	int			moved = 0;
	int			stills = 0;
	int			denormal = 0;

	for (int seed = 1; seed <= seeds; seed++)
		for (int far = 30; far <= 120; far += 15)
		{
			Problem		problem;
			Loaded		loaded;
			int			E;
			size_t		size;
			real	   *embedding;
			real	   *prior;
			real	   *memory;
			double	   *gradient;
			double		loss;
			bool		still;
			Arena		arena;
			InnerLoop	loop;
			uint64_t   *masks;
			uint64_t   *masks_end;
			int			before = moved + denormal;

			problem_draw(&problem, &small, seed);
			problem.shape.loss = LOSS_BINARY;
			for (int t = 0; t < problem.tasks; t++)
				for (int side = 0; side < 2; side++)
				{
					RowSet	   *rows = side ?
						&problem.query[t] : &problem.support[t];
					double	   *offset = problem.numbers +
						task_part(&problem, t, side ? PART_QUERY_OFFSET :
								  PART_SUPPORT_OFFSET)->offset;

					rows->no_offsets = false;
					for (int i = 0; i < rows->n; i++)
					{
						rows->label[i] = i % 2;
						offset[i] = i % 2 ? far + i / 8.0 : -far - i / 8.0;
					}
				}
			problem_load(&loaded, &problem);
			E = network_embedding_size(&problem.shape);
			embedding = allocate_reals(E);
			prior = allocate_reals(E);
			gradient = allocate(problem.count * sizeof(double));

			loaded_adapt(&loaded, 0, embedding);
			loaded_gradient(&loaded, 2, gradient, &loss);
			still = all_saturated(&problem);
			for (size_t i = 0; i < problem.count; i++)
			{
				/* two slopes over 1e-18 may have a product under 1e-36 */
				if (still)
				{
					denormal += is_denormal(gradient[i]);
					moved += gradient[i] != 0;
				}
			}

			/*
			 * All that the loop leaves in its memory, once it was zero; but
			 * masks are no numbers.
			 */
			size = adapt_size(&problem.shape, 1, problem.support[0].n);
			memory = calloc(size, sizeof(real));
			arena = (Arena) {memory, memory + size};
			inner_loop_take(&loop, &problem.shape, 1, problem.support[0].n,
							&arena);
			masks = loop.entity[0].shift.mask;
			masks_end = masks + loop.entity[0].shift.most *
				kernel_masks(problem.shape.global_width[1]);
			adapt(&loaded.network, loaded.task[0].x, &loaded.task[0].support,
				  memory, embedding);
			for (size_t i = 0; i < size; i++)
				denormal += is_denormal(memory[i]) &&
					(memory + i < (real *) masks ||
					 memory + i >= (real *) masks_end);
			loaded.network.shape.steps = 0;
			loaded_adapt(&loaded, 0, prior);
			if (still)
				moved += memcmp(embedding, prior, E * sizeof(real)) != 0;
			stills += still;
			for (int j = 0; j < E; j++)
				denormal += is_denormal(embedding[j]);
			if (moved + denormal > before)
				note("seed %d, logits about %d: %s", seed, far,
					 problem_describe(&problem));
			free(embedding);
			free(prior);
			free(memory);
			free(gradient);
			loaded_free(&loaded);
			problem_free(&problem);
		}
	check(moved == 0 && stills > 0,
		  "saturated logits move nothing, of %d batches", stills);
	check(denormal == 0, "saturated logits make nothing denormal");
}

/* Weights by the number of newer rows; rows of one time are equally new. */
static void
test_recency(void)
{
	enum
	{
		ROWS = 300
	};
	double		worst = 0;
	int			newest = 0;
	int			time[ROWS];
	bool		same_time[ROWS];
	real		weight[ROWS];
	real		tied[ROWS];
	Random		random;

	random_seed(&random, 1);
	for (int i = 0; i < ROWS; i++)
	{
		same_time[i] = i > 0 && random_below(&random, 3) == 0;
		time[i] = i == 0 ? 0 : time[i - 1] + !same_time[i];
		weight[i] = tied[i] = 1 + i % 3;
	}
	recency_weights(ROWS, 100, NULL, NULL, weight);
	recency_weights(ROWS, 100, same_time, NULL, tied);
	for (int i = 0; i < ROWS; i++)
	{
		int			newer = 0;

		for (int j = 0; j < ROWS; j++)
			newer += time[j] > time[i];
		worst = fmax(worst, relative_error(weight[i], (1 + i % 3) *
										   exp((i - ROWS + 1) / 100.0), 0));
		worst = fmax(worst, relative_error(tied[i], (1 + i % 3) *
										   exp(-newer / 100.0), 0));
		newest += newer == 0 && tied[i] != 1 + i % 3;
	}
	newest += weight[ROWS - 1] != 1 + (ROWS - 1) % 3;
	weight[0] = 3;
	recency_weights(1, 2, NULL, NULL, weight);
	newest += weight[0] != 3;
	recency_weights(0, 2, NULL, NULL, NULL);

	/* rows that are sampled share the age of the one before, and age nobody */
	{
		real		mixed[3 * ROWS];
		real		alone[ROWS];
		bool		is_sampled[3 * ROWS];
		bool		mixed_time[3 * ROWS];
		int			n = 0;
		int			at = 0;

		for (int i = 0; i < ROWS; i++)
		{
			alone[i] = 1 + i % 3;
			for (int s = 0; s <= i % 3; s++)
			{
				mixed[n] = alone[i];
				is_sampled[n] = s > 0;
				mixed_time[n++] = s > 0 || same_time[i];
			}
		}
		recency_weights(ROWS, 100, same_time, NULL, alone);
		recency_weights(n, 100, mixed_time, is_sampled, mixed);
		for (int i = 0; i < ROWS; i++)
			for (int s = 0; s <= i % 3; s++)
				newest += mixed[at++] != alone[i];
	}
	check(worst < 1e-6 && newest == 0,
		  "recency: the newest rows keep their weight, worst relative error "
		  "%.2g", worst);
}

/* How far numbers are from twice others, relative to the largest. */
static double
off_twice(size_t n, const real *twice, const real *once)
{
	double		largest = 1e-3;
	double		worst = 0;

	for (size_t i = 0; i < n; i++)
		largest = fmax(largest, fabs(twice[i]));
	for (size_t i = 0; i < n; i++)
		worst = fmax(worst, relative_error(twice[i], 2.0 * once[i], largest));
	return worst;
}

/* A second task is added to the gradient; rows' gradients are set. */
static void
test_added(void)
{
	int			seeds = seed_count(SEEDS);
	double		worst = 0;
	int			wrong = 0;

	for (int seed = 1; seed <= seeds; seed++)
	{
		Problem		problem;
		Loaded		loaded;
		NetworkShape *shape = &problem.shape;
		const LoadedTask *given = &loaded.task[0];
		size_t		count;
		size_t		half;
		int			dx;
		real	   *gradient[2];
		real	   *x_gradient[2];
		real	   *half_gradient[2];
		real	   *memory;

		problem_draw(&problem, &small, seed);
		problem_load(&loaded, &problem);
		dx = shape->meta_width[0];
		count = network_parameter_count(shape);
		half = (size_t) given->query.n * network_half_size(shape);
		memory = allocate_reals(gradient_size(shape, given->support.n,
											  given->query.n));
		for (int i = 0; i < 2; i++)
		{
			OuterLoss	outer = {2, problem.prior_loss, 1};
			Task		task = {.x = given->x, .support = given->support,
			.query = given->query};

			gradient[i] = calloc(count, sizeof(real));
			x_gradient[i] = calloc(dx, sizeof(real));
			half_gradient[i] = allocate_reals(half);
			task.x_gradient = x_gradient[i];
			task.query_half_gradient = half_gradient[i];
			for (int time = 0; time <= i; time++)
				gradient_task(&loaded.network, &outer, &task, memory,
							  gradient[i]);
		}
		worst = fmax(worst, off_twice(count, gradient[1], gradient[0]));
		worst = fmax(worst, off_twice(dx, x_gradient[1], x_gradient[0]));
		wrong += memcmp(half_gradient[0], half_gradient[1],
						half * sizeof(real)) != 0;

		/* nobody asks for the inputs': the parameters' is the same */
		{
			OuterLoss	outer = {2, problem.prior_loss, 1};
			Task		task = {.x = given->x, .support = given->support,
			.query = given->query};

			memset(gradient[1], 0, count * sizeof(real));
			gradient_task(&loaded.network, &outer, &task, memory, gradient[1]);
			wrong += memcmp(gradient[0], gradient[1],
							count * sizeof(real)) != 0;
		}
		for (int i = 0; i < 2; i++)
		{
			free(gradient[i]);
			free(x_gradient[i]);
			free(half_gradient[i]);
		}
		free(memory);
		loaded_free(&loaded);
		problem_free(&problem);
	}
	check(worst < TOLERANCE, "gradients of parameters and x are added to: worst "
		  "relative error %.2g", worst);
	check(wrong == 0, "gradients of rows are set; and none need be asked for");
}

/* Normal numbers: for free. */
static real *
draw_reals(size_t n, Random *random)
{
	real	   *numbers = allocate_reals(n);

	for (size_t i = 0; i < n; i++)
		numbers[i] = random_normal(random);
	return numbers;
}

/* Gradients of n rows' halves, of which all padding is zero: for free. */
static real *
draw_half_gradient(const NetworkShape *shape, size_t n, Random *random)
{
	int			ld = network_half_size(shape);
	int			first = kernel_stride(shape->global_width[1]);
	real	   *half = draw_reals(n * ld, random);

	for (size_t i = 0; i < n * ld; i++)
	{
		int			j = i % ld;

		if (j < first ? j >= shape->global_width[1] :
			j - first >= shape->factor_size)
			half[i] = 0;
	}
	return half;
}

/*
 * By how much the gradient of a matrix from z to a half, whose row j has the
 * half's number at + j, is off what it was before and what rows add to it.
 */
static double
off_products(int rows, int dz, int ld_gradient, const real *gradient,
			 const real *before, size_t n, const real *half, int ld,
			 const real *z)
{
	double		worst = 0;

	for (int j = 0; j < rows; j++)
		for (int k = 0; k < dz; k++)
		{
			size_t		at = (size_t) j * ld_gradient + k;
			double		sum = before[at];
			double		size = fabs(sum);

			for (size_t i = 0; i < n; i++)
			{
				sum += (double) half[i * ld + j] * z[i * dz + k];
				size += fabs((double) half[i * ld + j] * z[i * dz + k]);
			}
			worst = fmax(worst, fabs(gradient[at] - sum) / size);
		}
	return worst;
}

/* What a row's z has, of the real numbers of its half. */
static double
off_z_gradient(const Network *network, size_t n, const real *half,
			   const real *z_gradient)
{
	const NetworkShape *shape = &network->shape;
	const NetworkTensor *weight = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
	const real *c_z = network->parameters + weight->offset +
		network_concatenated_size(shape);
	const real *p = network->parameters +
		network->tensors[FACTOR_WEIGHT(shape)].offset;
	int			dz = network_candidate_size(shape);
	int			ld = network_half_size(shape);
	double		worst = 0;

	for (size_t i = 0; i < n; i++, half += ld)
		for (int k = 0; k < dz; k++)
		{
			double		sum = 0;
			double		size = 1e-30;

			for (int j = 0; j < weight->rows + shape->factor_size; j++)
			{
				int			f = j - weight->rows;
				double		term = f < 0 ?
					(double) half[j] * c_z[(size_t) j * weight->columns + k] :
					(double) half[kernel_stride(weight->rows) + f] *
					p[(size_t) f * dz + k];

				sum += term;
				size += fabs(term);
			}
			worst = fmax(worst, fabs(z_gradient[i * dz + k] - sum) / size);
		}
	return worst;
}

/* C_z's and P's gradient, and z's, of few rows or many, in one part or two. */
static void
test_candidate(void)
{
	static const int some[] = {0, 1, 7, 255, 256, 257, 600};
	int			seeds = seed_count(SEEDS);
	double		worst = 0;
	int			wrong = 0;

	for (int seed = 1; seed <= seeds; seed++)
	{
		Problem		problem;
		Loaded		loaded;
		Random		random;
		const Network *network = &loaded.network;
		const NetworkShape *shape = &problem.shape;
		const NetworkTensor *weight;
		size_t		count;
		size_t		c_z;
		size_t		p;
		int			dz;
		int			ld;

		problem_draw(&problem, &small, seed);
		problem_load(&loaded, &problem);
		random_seed(&random, seed);
		weight = &network->tensors[GLOBAL_WEIGHT(shape, 0)];
		c_z = weight->offset + network_concatenated_size(shape);
		p = network->tensors[FACTOR_WEIGHT(shape)].offset;
		count = network_parameter_count(shape);
		dz = network_candidate_size(shape);
		ld = network_half_size(shape);
		for (size_t s = 0; s < sizeof(some) / sizeof(some[0]); s++)
		{
			int			n = some[s];
			int			part = random_below(&random, n + 1);
			real	   *z = draw_reals((size_t) n * dz, &random);
			real	   *half = draw_half_gradient(shape, n, &random);
			real	   *memory =
				allocate_reals(gradient_candidate_size(shape));
			real	   *z_gradient = draw_reals((size_t) n * dz, &random);
			real	   *before = draw_reals(count, &random);
			real	   *gradient = allocate_reals(count);

			memcpy(gradient, before, count * sizeof(real));
			gradient_candidate_begin(network, memory);
			gradient_candidate(network, part, z, half, memory, gradient,
							   z_gradient);
			gradient_candidate(network, n - part, z + (size_t) part * dz,
							   half + (size_t) part * ld, memory, gradient,
							   z_gradient + (size_t) part * dz);
			gradient_candidate_end(network, memory, gradient);
			worst = fmax(worst, off_products(weight->rows, dz, weight->columns,
											 gradient + c_z, before + c_z, n,
											 half, ld, z));
			worst = fmax(worst, off_products(shape->factor_size, dz, dz,
											 gradient + p, before + p, n,
											 half + kernel_stride(weight->rows),
											 ld, z));
			worst = fmax(worst, off_z_gradient(network, n, half, z_gradient));

			/* and nothing else */
			for (size_t i = 0; i < count; i++)
			{
				bool		of_c_z = i >= weight->offset &&
					i < weight->offset +
					(size_t) weight->rows * weight->columns &&
					(i - weight->offset) % weight->columns >=
					(size_t) network_concatenated_size(shape);
				bool		of_p = i >= p &&
					i < p + (size_t) shape->factor_size * dz;

				wrong += !of_c_z && !of_p && gradient[i] != before[i];
			}
			free(z);
			free(half);
			free(memory);
			free(z_gradient);
			free(before);
			free(gradient);
		}
		loaded_free(&loaded);
		problem_free(&problem);
	}
	check(worst < TOLERANCE, "gradients of candidate maps and rows' z: worst "
		  "relative error %.2g", worst);
	check(wrong == 0, "nothing but candidate maps is added to");
}

int
main(void)
{
	test_divergence();
	test_absurd_rate();
	test_overflow(ACTIVATION_TANH, "tanh");
	test_overflow(ACTIVATION_RELU, "relu");
	test_overflow(ACTIVATION_GELU, "gelu");
	test_report();
	test_cold_start();
	test_saturated();
	test_recency();
	test_added();
	test_candidate();
	return check_end();
}
