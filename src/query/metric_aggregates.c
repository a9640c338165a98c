/*-------------------------------------------------------------------------
 *
 * metric_aggregates.c
 *	  Aggregates over (score, label): how well scores rank and predict.
 *
 * Most need their rows by score.  They keep them in a ScoreSort, and those of
 * the first k only the rows that may be among these.  The log loss needs four
 * numbers.
 *
 * Scores that tie have no order.  AUC counts a tied pair half.  The metrics of
 * a ranking are expectations over all orders of the tied rows, so that a
 * constant score gets what chance does, and never what the input's order
 * happens to give.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/int.h"
#include "libpq/pqformat.h"
#include "math/metrics.h"
#include "miscadmin.h"
#include "query/score_sort.h"
#include "utils/array.h"
#include "utils/float.h"

/* exp2(this) times the number of rows is far from an overflow */
#define MAX_RELEVANCE 512.0

/* What a state keeps of the rows */
typedef enum MetricKind
{
	METRIC_ALL,					/* all, the lowest score first */
	METRIC_GROUPS,				/* the same, by group */
	METRIC_FIRST,				/* the best first, up to the best positive one */
	METRIC_TOP,					/* the best k first */
	METRIC_GRADED				/* the same with gains, and the k highest gains */
} MetricKind;

typedef struct MetricState
{
	MetricKind	kind;
	int32		k;
	int64		rows;			/* all that were not NULL */
	int64		positives;		/* of them */
	ScoreSort	sort;			/* METRIC_FIRST and on: by the negative score */
	ScoreSort  *ideal;			/* METRIC_GRADED: the gains above 0, negative */
} MetricState;

/*
 * What a gain at this rank, from 1 on, counts
 */
static inline double
Discount(int64 rank)
{
	CHECK_FOR_INTERRUPTS();
	return 1.0 / log2((double) rank + 1.0);
}

/* ----------------------------------------------------------------------
 * States
 * ---------------------------------------------------------------------- */

static MemoryContext
AggregateContext(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate support function called in non-aggregate context");
	return context;
}

static MetricState *
MakeState(MemoryContext context, MetricKind kind, int32 k, Oid group_type, Oid group_collation)
{
	MetricState *state = MemoryContextAllocZero(context, sizeof(MetricState));

	state->kind = kind;
	state->k = k;
	InitScoreSort(&state->sort, context, group_type, group_collation);

	if (kind == METRIC_TOP || kind == METRIC_GRADED)
		state->sort.keep = k;
	if (kind == METRIC_GRADED)
	{
		state->ideal = MemoryContextAlloc(context, sizeof(ScoreSort));
		InitScoreSort(state->ideal, context, InvalidOid, InvalidOid);
		state->ideal->keep = k;
	}

	return state;
}

static void
CheckSameK(const MetricState *state, int32 k)
{
	if (state->k != k)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be the same for all rows, but is %d and %d",
						Min(state->k, k), Max(state->k, k))));
}

static double
GetBooleanLabel(FunctionCallInfo fcinfo)
{
	return PG_GETARG_BOOL(2) ? 1.0 : 0.0;
}

static double
GetNumberLabel(FunctionCallInfo fcinfo)
{
	double		label = PG_GETARG_FLOAT8(2);

	if (label != 0.0 && label != 1.0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("label must be 0 or 1, but is %s", float8out_internal(label))));

	return label;
}

/*
 * The gain of a relevance: its usual exponential form
 */
static double
GetGain(FunctionCallInfo fcinfo)
{
	double		relevance = PG_GETARG_FLOAT8(2);

	/* Written so that NaN is out of range */
	if (!(relevance >= 0.0 && relevance <= MAX_RELEVANCE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("relevance must be from 0 to %g, but is %s",
						MAX_RELEVANCE, float8out_internal(relevance))));

	return exp2(relevance) - 1.0;
}

static void
CheckScore(double score)
{
	if (isnan(score))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("score must not be NaN")));
}

static void
CheckProbability(double score)
{
	if (score < 0.0 || score > 1.0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("score must be a probability from 0 to 1, but is %s", float8out_internal(score)),
				 errhint("The log loss and the calibration error take no other scores.")));
}

/*
 * Add a row to the state of the arguments (state, score, label [, group or k]);
 * a row with a NULL is none
 */
static Datum
AddRow(FunctionCallInfo fcinfo, MetricKind kind, double (*get_value) (FunctionCallInfo fcinfo))
{
	MemoryContext context = AggregateContext(fcinfo);
	MetricState *state = PG_ARGISNULL(0) ? NULL : (MetricState *) PG_GETARG_POINTER(0);
	int32		k = 0;
	double		score;
	double		value;

	if (kind == METRIC_TOP || kind == METRIC_GRADED)
	{
		if (PG_ARGISNULL(3))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("k must not be NULL")));
		k = PG_GETARG_INT32(3);
		if (k < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("k must be at least 1, but is %d", k)));
		if (state)
			CheckSameK(state, k);
	}

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2) || (kind == METRIC_GROUPS && PG_ARGISNULL(3)))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}

	score = PG_GETARG_FLOAT8(1);
	CheckScore(score);
	value = get_value(fcinfo);

	if (state == NULL)
	{
		Oid			group_type = InvalidOid;

		if (kind == METRIC_GROUPS)
		{
			group_type = get_fn_expr_argtype(fcinfo->flinfo, 3);
			if (!OidIsValid(group_type))
				elog(ERROR, "could not determine the type of the group");
		}
		state = MakeState(context, kind, k, group_type, PG_GET_COLLATION());
	}

	state->rows++;
	if (value > 0.0)
	{
		state->positives++;
		if (kind == METRIC_FIRST)
			state->sort.bound = Min(state->sort.bound, -score);
		if (kind == METRIC_GRADED)
			ScoreSortAdd(state->ideal, fcinfo, -value, 0.0, (Datum) 0);
	}
	ScoreSortAdd(&state->sort, fcinfo, kind >= METRIC_FIRST ? -score : score, value,
				 kind == METRIC_GROUPS ? PG_GETARG_DATUM(3) : (Datum) 0);

	PG_RETURN_POINTER(state);
}

/*
 * The transition functions (internal, score, label [, group or k]).  Errors: a
 * score that is NaN, a number for a label that is neither 0 nor 1, a relevance
 * out of range, a k that is NULL, below 1 or not the same for all rows.
 */
PG_FUNCTION_INFO_V1(limaml_metric_accum);
Datum
limaml_metric_accum(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_ALL, GetBooleanLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_number);
Datum
limaml_metric_accum_number(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_ALL, GetNumberLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_group);
Datum
limaml_metric_accum_group(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_GROUPS, GetBooleanLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_group_number);
Datum
limaml_metric_accum_group_number(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_GROUPS, GetNumberLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_first);
Datum
limaml_metric_accum_first(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_FIRST, GetBooleanLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_first_number);
Datum
limaml_metric_accum_first_number(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_FIRST, GetNumberLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_top);
Datum
limaml_metric_accum_top(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_TOP, GetBooleanLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_top_number);
Datum
limaml_metric_accum_top_number(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_TOP, GetNumberLabel);
}

PG_FUNCTION_INFO_V1(limaml_metric_accum_graded);
Datum
limaml_metric_accum_graded(PG_FUNCTION_ARGS)
{
	return AddRow(fcinfo, METRIC_GRADED, GetGain);
}

/*
 * A state for another process.  Error: it is larger than a bytea may be.
 */
PG_FUNCTION_INFO_V1(limaml_metric_serialize);
Datum
limaml_metric_serialize(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);
	StringInfoData buffer;

	(void) AggregateContext(fcinfo);

	pq_begintypsend(&buffer);
	pq_sendbyte(&buffer, state->kind);
	pq_sendint32(&buffer, state->k);
	pq_sendint32(&buffer, state->sort.group_type);
	pq_sendint32(&buffer, state->sort.group_collation);
	pq_sendint64(&buffer, state->rows);
	pq_sendint64(&buffer, state->positives);
	ScoreSortWrite(&state->sort, &buffer);
	if (state->ideal)
		ScoreSortWrite(state->ideal, &buffer);

	PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

/*
 * The other way there is nothing to do yet: combining reads the rows straight
 * into the state they are added to.  That one may spill, and the rows need not
 * be in memory twice.
 */
PG_FUNCTION_INFO_V1(limaml_metric_deserialize);
Datum
limaml_metric_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	StringInfo	written = palloc0(sizeof(StringInfoData));

	(void) AggregateContext(fcinfo);

	written->data = VARDATA_ANY(bytes);
	written->len = VARSIZE_ANY_EXHDR(bytes);

	PG_RETURN_POINTER(written);
}

/*
 * Add what deserialisation returned to a state.  States of type internal come
 * from nowhere else: the server serialises each that is to be combined.
 */
PG_FUNCTION_INFO_V1(limaml_metric_combine);
Datum
limaml_metric_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = AggregateContext(fcinfo);
	MetricState *state = PG_ARGISNULL(0) ? NULL : (MetricState *) PG_GETARG_POINTER(0);
	StringInfo	buffer;
	MetricKind	kind;
	int32		k;
	Oid			group_type;
	Oid			group_collation;

	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}

	buffer = (StringInfo) PG_GETARG_POINTER(1);
	kind = pq_getmsgbyte(buffer);
	k = pq_getmsgint(buffer, 4);
	group_type = pq_getmsgint(buffer, 4);
	group_collation = pq_getmsgint(buffer, 4);

	if (state == NULL)
		state = MakeState(context, kind, k, group_type, group_collation);
	else
		CheckSameK(state, k);

	state->rows += pq_getmsgint64(buffer);
	state->positives += pq_getmsgint64(buffer);
	ScoreSortRead(&state->sort, fcinfo, buffer);
	if (state->ideal)
		ScoreSortRead(state->ideal, fcinfo, buffer);

	PG_RETURN_POINTER(state);
}

/* ----------------------------------------------------------------------
 * Pairs: AUC
 * ---------------------------------------------------------------------- */

static void
AddTies(PairSum *pairs, const Ties *ties)
{
	pair_sum_add(pairs, ties->positives, ties->rows - ties->positives);
}

/*
 * Whether there is a pair, whose order AUC is about
 */
static bool
HavePairs(const PairSum *pairs)
{
	return pairs->positives > 0 && pairs->negatives > 0;
}

/*
 * limaml_auc(score, label): the share of the pairs of a positive and a negative
 * row in which the positive one scores higher, ties counting half.  NULL where
 * there is no such pair.
 */
PG_FUNCTION_INFO_V1(limaml_auc_final);
Datum
limaml_auc_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);
	PairSum		pairs = {0};
	ScoreReader reader;
	Ties		ties;

	ScoreSortStart(&state->sort, &reader);
	while (ScoreSortTies(&reader, &ties))
		AddTies(&pairs, &ties);

	if (!HavePairs(&pairs))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(pair_sum_auc(&pairs));
}

/*
 * Mean of the groups' AUC, weighted by their rows or not
 */
static Datum
MeanAuc(MetricState *state, FunctionCallInfo fcinfo, bool weighted)
{
	PairSum		pairs = {0};
	ScoreReader reader;
	Ties		ties;
	double		sum = 0.0;
	double		weight = 0.0;
	bool		more;

	ScoreSortStart(&state->sort, &reader);
	do
	{
		more = ScoreSortTies(&reader, &ties);
		if (!more || ties.new_group)
		{
			if (HavePairs(&pairs))
			{
				double		rows = weighted ? (double) (pairs.positives + pairs.negatives) : 1.0;

				sum += rows * pair_sum_auc(&pairs);
				weight += rows;
			}
			memset(&pairs, 0, sizeof(pairs));
		}
		if (more)
			AddTies(&pairs, &ties);
	} while (more);

	if (weight == 0.0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(sum / weight);
}

/*
 * limaml_gauc(score, label, group): the mean of the groups' AUC, weighted by
 * their rows.  Groups of one class have no AUC and are left out; NULL where no
 * other is left.  Error: groups of a type without an order.
 */
PG_FUNCTION_INFO_V1(limaml_gauc_final);
Datum
limaml_gauc_final(PG_FUNCTION_ARGS)
{
	return MeanAuc((MetricState *) PG_GETARG_POINTER(0), fcinfo, true);
}

/*
 * limaml_mean_auc(score, label, group): the same mean with no weights
 */
PG_FUNCTION_INFO_V1(limaml_mean_auc_final);
Datum
limaml_mean_auc_final(PG_FUNCTION_ARGS)
{
	return MeanAuc((MetricState *) PG_GETARG_POINTER(0), fcinfo, false);
}

/* ----------------------------------------------------------------------
 * Probabilities: calibration error and log loss
 * ---------------------------------------------------------------------- */

/*
 * limaml_calibration_error(score, label): the expected calibration error.  Rows
 * are cut by score into ten bins of equally many, as ntile() does, and the
 * result is the mean, weighted by rows, of how far a bin's mean score is from
 * its share of positive rows.  Rows that tie across a cut are spread over both
 * bins: each gets their mean label.  Error: a score that is no probability.
 */
PG_FUNCTION_INFO_V1(limaml_calibration_error_final);
Datum
limaml_calibration_error_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);
	CalibrationSum sum = {.rows = state->rows};
	ScoreReader reader;
	Ties		ties;

	ScoreSortStart(&state->sort, &reader);
	while (ScoreSortTies(&reader, &ties))
	{
		CheckProbability(ties.score);
		calibration_sum_add(&sum, ties.score, ties.rows, ties.positives);
	}

	PG_RETURN_FLOAT8(calibration_sum_error(&sum));
}

/*
 * The log loss sums in fixed point, 64 bits before the binary point and 64
 * after it: sums of integers have no order.  Its state is an array rather than
 * internal, as that of the meta embeddings' aggregates is and for the same
 * reasons, and anyone can call its functions with any array.
 */
typedef struct LossSum
{
	int64		rows;
	int64		infinite;		/* of them, with a loss that is not in the sum */
	int64		whole;
	int64		fraction;		/* the bits of an unsigned one */
} LossSum;

#define LOSS_SUM_LEN 4

static LossSum *
GetLossSum(ArrayType *array)
{
	LossSum    *sum;

	if (ARR_NDIM(array) != 1 ||
		ARR_DIMS(array)[0] != LOSS_SUM_LEN ||
		ARR_HASNULL(array) ||
		ARR_ELEMTYPE(array) != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected state array of limaml_log_loss")));

	sum = (LossSum *) ((char *) array + ARR_OVERHEAD_NONULLS(1));
	if (sum->rows < 0 || sum->infinite < 0 || sum->infinite > sum->rows || sum->whole < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected state array of limaml_log_loss")));

	return sum;
}

static void
LossSumAdd(LossSum *sum, const LossSum *other)
{
	uint64		before = (uint64) sum->fraction;
	uint64		after = before + (uint64) other->fraction;

	sum->fraction = (int64) after;
	if (pg_add_s64_overflow(sum->rows, other->rows, &sum->rows) ||
		pg_add_s64_overflow(sum->infinite, other->infinite, &sum->infinite) ||
		pg_add_s64_overflow(sum->whole, other->whole, &sum->whole) ||
		pg_add_s64_overflow(sum->whole, after < before ? 1 : 0, &sum->whole))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint out of range")));
}

/*
 * The array to change: an aggregate's own state in place, as in float8_accum
 */
static ArrayType *
OwnArray(FunctionCallInfo fcinfo)
{
	if (AggCheckCallContext(fcinfo, NULL))
		return PG_GETARG_ARRAYTYPE_P(0);
	return PG_GETARG_ARRAYTYPE_P_COPY(0);
}

static Datum
AddLoss(FunctionCallInfo fcinfo, double label)
{
	ArrayType  *array = OwnArray(fcinfo);
	LossSum    *sum = GetLossSum(array);
	LossSum		row = {.rows = 1};
	double		score = PG_GETARG_FLOAT8(1);
	double		loss;

	CheckScore(score);
	CheckProbability(score);

	loss = label > 0.0 ? -log(score) : -log1p(-score);
	if (isinf(loss))
		row.infinite = 1;
	else
	{
		double		whole = floor(loss);

		row.whole = (int64) whole;
		row.fraction = (int64) (uint64) ldexp(loss - whole, 64);
	}
	LossSumAdd(sum, &row);

	PG_RETURN_ARRAYTYPE_P(array);
}

/*
 * The transition functions (bigint[], score, label).  Errors: a score that is
 * no probability, a number for a label that is neither 0 nor 1.
 */
PG_FUNCTION_INFO_V1(limaml_log_loss_accum);
Datum
limaml_log_loss_accum(PG_FUNCTION_ARGS)
{
	return AddLoss(fcinfo, GetBooleanLabel(fcinfo));
}

PG_FUNCTION_INFO_V1(limaml_log_loss_accum_number);
Datum
limaml_log_loss_accum_number(PG_FUNCTION_ARGS)
{
	return AddLoss(fcinfo, GetNumberLabel(fcinfo));
}

PG_FUNCTION_INFO_V1(limaml_log_loss_combine);
Datum
limaml_log_loss_combine(PG_FUNCTION_ARGS)
{
	ArrayType  *array = OwnArray(fcinfo);
	LossSum    *sum = GetLossSum(array);

	LossSumAdd(sum, GetLossSum(PG_GETARG_ARRAYTYPE_P(1)));

	PG_RETURN_ARRAYTYPE_P(array);
}

/*
 * limaml_log_loss(score, label): the mean of -ln(score) of the positive rows
 * and -ln(1 - score) of the negative ones, in nats.  Infinity where one was
 * held to be impossible: a wrong 0 or 1 has no other loss.
 */
PG_FUNCTION_INFO_V1(limaml_log_loss_final);
Datum
limaml_log_loss_final(PG_FUNCTION_ARGS)
{
	LossSum    *sum = GetLossSum(PG_GETARG_ARRAYTYPE_P(0));

	if (sum->rows == 0)
		PG_RETURN_NULL();
	if (sum->infinite > 0)
		PG_RETURN_FLOAT8(get_float8_infinity());
	PG_RETURN_FLOAT8(((double) sum->whole + ldexp((double) (uint64) sum->fraction, -64)) / sum->rows);
}

/* ----------------------------------------------------------------------
 * Rankings
 * ---------------------------------------------------------------------- */

/*
 * The discounted gain of k ideal rows
 */
static double
IdealGain(MetricState *state)
{
	double		result = 0.0;
	int64		rank = 0;
	ScoreReader reader;
	Ties		ties;

	if (state->kind == METRIC_TOP)
	{
		while (rank < state->k && rank < state->positives)
			result += Discount(++rank);
		return result;
	}

	/* Rank by rank as below, so that an ideal order comes to the same bits */
	ScoreSortStart(state->ideal, &reader);
	while (rank < state->k && ScoreSortTies(&reader, &ties))
	{
		for (int64 i = 0; i < ties.rows && rank < state->k; i++)
			result += -ties.score * Discount(++rank);
	}
	return result;
}

/*
 * limaml_ndcg(score, relevance, k): the discounted gain of the first k rows as
 * a share of what the best order has.  A row at rank r has the gain
 * 2^relevance - 1, for a label 1 or 0, over log2(r + 1).  NULL where no row has
 * a gain.
 */
PG_FUNCTION_INFO_V1(limaml_ndcg_final);
Datum
limaml_ndcg_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);
	double		gain = 0.0;
	double		ideal;
	int64		rank = 0;
	ScoreReader reader;
	Ties		ties;

	if (state->positives == 0)
		PG_RETURN_NULL();

	/* Each of the ranks that rows share has their mean gain */
	ScoreSortStart(&state->sort, &reader);
	while (rank < state->k && ScoreSortTies(&reader, &ties))
	{
		double		mean = ties.sum / ties.rows;

		for (int64 i = 0; i < ties.rows && rank < state->k; i++)
			gain += mean * Discount(++rank);
	}

	ideal = IdealGain(state);
	PG_RETURN_FLOAT8(Min(gain / ideal, 1.0));
}

/*
 * limaml_mrr(score, label): 1 / rank of the best positive row, whose mean over
 * rankings is the MRR.  NULL where no row is positive.
 *
 * Of m rows that share the ranks from a + 1 on, p of them positive, the first
 * positive one is the j-th with the probability C(m - j, p - 1) / C(m, p).
 */
PG_FUNCTION_INFO_V1(limaml_mrr_final);
Datum
limaml_mrr_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);
	double		result = 0.0;
	double		probability;
	int64		rank = 0;
	ScoreReader reader;
	Ties		ties;

	if (state->positives == 0)
		PG_RETURN_NULL();

	ScoreSortStart(&state->sort, &reader);
	while (ScoreSortTies(&reader, &ties) && ties.positives == 0)
		rank += ties.rows;
	Assert(ties.positives > 0);

	probability = (double) ties.positives / ties.rows;
	for (int64 j = 1; j <= ties.rows - ties.positives + 1 && probability > 0.0; j++)
	{
		CHECK_FOR_INTERRUPTS();
		result += probability / (rank + j);
		if (j < ties.rows)
			probability *= (double) (ties.rows - j - ties.positives + 1) / (ties.rows - j);
	}

	PG_RETURN_FLOAT8(result);
}

/*
 * The chance that of m rows, p of them positive, the first n hold a positive
 * one: 1 - C(m - p, n) / C(m, n), which is symmetric in n and p
 */
static double
HitChance(int64 m, int64 p, int64 n)
{
	int64		factors = Min(n, p);
	int64		other = Max(n, p);
	double		miss = 1.0;

	for (int64 i = 0; i < factors && miss > 0.0; i++)
	{
		CHECK_FOR_INTERRUPTS();
		miss *= (double) Max(m - other - i, 0) / (m - i);
	}
	return 1.0 - miss;
}

/*
 * limaml_hit_rate(score, label, k): 1 if a positive row is among the first k,
 * otherwise 0, and the chance of it where ties leave it open.  NULL where no
 * row is positive.
 */
PG_FUNCTION_INFO_V1(limaml_hit_rate_final);
Datum
limaml_hit_rate_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);
	double		result = 0.0;
	int64		rank = 0;
	ScoreReader reader;
	Ties		ties;

	if (state->positives == 0)
		PG_RETURN_NULL();

	ScoreSortStart(&state->sort, &reader);
	while (result == 0.0 && rank < state->k && ScoreSortTies(&reader, &ties))
	{
		if (ties.positives > 0)
			result = HitChance(ties.rows, ties.positives, Min(ties.rows, state->k - rank));
		rank += ties.rows;
	}

	PG_RETURN_FLOAT8(result);
}

/*
 * How many positive rows are among the first k
 */
static double
Hits(MetricState *state)
{
	double		result = 0.0;
	int64		rank = 0;
	ScoreReader reader;
	Ties		ties;

	ScoreSortStart(&state->sort, &reader);
	while (rank < state->k && ScoreSortTies(&reader, &ties))
	{
		int64		within = Min(ties.rows, state->k - rank);

		result += (double) within * ties.positives / ties.rows;
		rank += ties.rows;
	}
	return result;
}

/*
 * limaml_precision(score, label, k): the positive rows among the first k, over
 * k, however few rows there are
 */
PG_FUNCTION_INFO_V1(limaml_precision_final);
Datum
limaml_precision_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);

	PG_RETURN_FLOAT8(Hits(state) / state->k);
}

/*
 * limaml_recall(score, label, k): the positive rows among the first k, over all
 * positive ones.  NULL where no row is positive.
 */
PG_FUNCTION_INFO_V1(limaml_recall_final);
Datum
limaml_recall_final(PG_FUNCTION_ARGS)
{
	MetricState *state = (MetricState *) PG_GETARG_POINTER(0);

	if (state->positives == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(Hits(state) / state->positives);
}
