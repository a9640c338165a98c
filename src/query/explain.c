/*-------------------------------------------------------------------------
 *
 * explain.c
 *	  limaml_explain: what each feature of a candidate, and the entity's
 *	  embedding, add to a score.
 *
 * Each is replaced, one at a time, by what stands for not knowing it, and what
 * the score loses is its contribution.  Contributions are on the scale of the
 * logit, where the network adds up; since it is not linear, their sum is not
 * what the score is above the baseline, for which all are replaced at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "funcapi.h"
#include "query/candidate.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"

#include "compat.h"

typedef struct Contribution
{
	int			place;			/* as declared, the embedding last */
	const char *feature;
	const char *value;			/* NULL for NULL */
	double		size;
} Contribution;

/* Rows of codes, to be scored together. */
typedef struct Variants
{
	const ModelUse *use;
	int			count;
	float	   *z;
	float	   *offset;
} Variants;

/* Largest first, whatever the sign; NaN, of scores out of range, before all. */
static int
CompareContributions(const void *a, const void *b)
{
	const Contribution *x = a;
	const Contribution *y = b;

	int			order = float8_cmp_internal(fabs(y->size), fabs(x->size));

	return order != 0 ? order : x->place - y->place;
}

static void
VariantsInit(Variants *variants, const ModelUse *use, int most)
{
	int			width = use->trained->interaction.width;

	variants->use = use;
	variants->count = 0;
	variants->z = palloc(mul_size(sizeof(float), mul_size(most, Max(width, 1))));
	variants->offset = palloc(mul_size(sizeof(float), most));
}

static void
AddVariant(Variants *variants, const FeatureCode *codes,
		   const FeatureCode *lists)
{
	const Encoder *encoder = &variants->use->trained->interaction;
	int			i = variants->count++;

	variants->offset[i] = Encode(encoder, codes, lists,
								 variants->z + (Size) i * encoder->width);
}

/* Scores the variants: their logits, and what the model predicts. */
static void
ScoreVariants(const Variants *variants, const EntityVector *vector,
			  float *logit, float *predicted)
{
	const TrainedNetwork *trained = variants->use->trained;
	Size		memory = network_score_size(&trained->shape, variants->count);

	network_score(&trained->network, vector->entity, variants->count,
				  variants->z, trained->interaction.width, variants->offset,
				  palloc(mul_size(sizeof(float), memory)), logit);
	memcpy(predicted, logit, sizeof(float) * variants->count);
	Predict(variants->use, variants->count, predicted);
}

static void
PutRow(ReturnSetInfo *result, const char *feature, const char *value,
	   double contribution)
{
	Datum		values[3];
	bool		nulls[3] = {false, value == NULL, false};

	values[0] = CStringGetTextDatum(feature);
	values[1] = value ? CStringGetTextDatum(value) : (Datum) 0;
	values[2] = Float8GetDatum(contribution);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static char *
PredictionText(float predicted)
{
	return DatumGetCString(DirectFunctionCall1(float4out,
											   Float4GetDatum(predicted)));
}

PG_FUNCTION_INFO_V1(limaml_explain);

/*
 * limaml_explain(model text, entity, VARIADIC candidate "any"): the score,
 * what each feature and the embedding contribute to it, largest first, and
 * what a candidate about which nothing is known has with an entity's prior.
 */
Datum
limaml_explain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ModelUse   *use;
	EntityVector *vector;
	EntityVector *prior;
	Variants	known;			/* the candidate, and it without each feature */
	Variants	unknown;		/* it, and one without any, for the prior */
	Contribution *contributions;
	FeatureCode *codes;
	FeatureCode *neutral;
	CodeLists	lists = {.context = CurrentMemoryContext};
	char	  **text;
	float	   *logit;
	float	   *predicted;
	float		prior_logit[2];
	float		prior_predicted[2];
	int			features;

	InitMaterialize(fcinfo);
	use = UseModel(fcinfo, 1);
	vector = UseEntity(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	prior = UsePrior(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	features = CandidateFeatures(use->trained);
	text = palloc(sizeof(char *) * Max(features, 1));
	codes = CandidateCodes(fcinfo, use, 2, vector->id, &lists, text);
	neutral = palloc(sizeof(FeatureCode) *
					 Max(use->trained->interaction.count, 1));

	VariantsInit(&known, use, features + 1);
	AddVariant(&known, codes, lists.codes);
	for (int f = 0; f < features; f++)
	{
		FeatureCode own = codes[f];

		neutral[f] = NeutralCode(&use->trained->interaction.features[f], own,
								 &lists);
		codes[f] = neutral[f];
		AddVariant(&known, codes, lists.codes);
		codes[f] = own;
	}
	logit = palloc(sizeof(float) * known.count);
	predicted = palloc(sizeof(float) * known.count);
	ScoreVariants(&known, vector, logit, predicted);

	/* to the arm `id` the entity's vector is a feature */
	if (features < use->trained->interaction.count)
		codes[features].row = neutral[features].row = prior->id;
	VariantsInit(&unknown, use, 2);
	AddVariant(&unknown, codes, lists.codes);
	AddVariant(&unknown, neutral, lists.codes);
	ScoreVariants(&unknown, prior, prior_logit, prior_predicted);

	contributions = palloc(sizeof(Contribution) * (features + 1));
	for (int f = 0; f <= features; f++)
	{
		bool		is_entity = f == features;

		contributions[f].place = f;
		contributions[f].feature = is_entity ? "(meta embedding)" :
			use->trained->interaction.features[f].name;
		contributions[f].value = is_entity ?
			UseEntityText(use, PG_GETARG_DATUM(1), PG_ARGISNULL(1)) : text[f];
		contributions[f].size = (double) logit[0] -
			(is_entity ? prior_logit[0] : logit[f + 1]);
	}
	qsort(contributions, features + 1, sizeof(Contribution),
		  CompareContributions);

	PutRow(result, "(score)", PredictionText(predicted[0]), logit[0]);
	for (int i = 0; i <= features; i++)
		PutRow(result, contributions[i].feature, contributions[i].value,
			   contributions[i].size);
	PutRow(result, "(baseline)", PredictionText(prior_predicted[1]),
		   prior_logit[1]);
	return (Datum) 0;
}
