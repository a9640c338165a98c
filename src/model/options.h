/*-------------------------------------------------------------------------
 *
 * options.h
 *	  A model's options: what they are called, what they may be, and what
 *	  they are unless said otherwise.
 *
 * create_model stores those that were given, as jsonb; train may override
 * them; a version keeps all that it was trained with.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_OPTIONS_H
#define MODEL_OPTIONS_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "math/network.h"

typedef enum Personalization
{
	PERSONALIZATION_LIMAML,
	PERSONALIZATION_FIRST_ORDER,	/* its inner gradients taken as constants */
	PERSONALIZATION_NONE,		/* the same network, which nobody adapts */
	PERSONALIZATION_ID,			/* that, with a learned vector and a wide
								 * scalar per entity: wide and deep */
	PERSONALIZATION_HEAD,		/* the decision layers adapt: MeLU */
	PERSONALIZATION_FULL		/* all layers adapt: MAML */
} Personalization;

/* Whether what adapts is a network per entity, which no embedding holds. */
#define KEEPS_NETWORKS(personalization) \
	((personalization) == PERSONALIZATION_HEAD || \
	 (personalization) == PERSONALIZATION_FULL)

/* Which of an entity's rows adapt in training and which judge. */
typedef enum SupportSplit
{
	SPLIT_RANDOM_HALF,			/* each row either, with equal chance */
	SPLIT_PREFIX,				/* the oldest k adapt, k log-uniform from 0 */
	SPLIT_MIXED,				/* one of the two above, with equal chance */
	SPLIT_FIXED					/* the oldest support_fraction adapt */
} SupportSplit;

/* How negatives are drawn from the items. */
typedef enum NegativeSampling
{
	SAMPLING_UNIFORM,			/* each candidate with equal chance */
	SAMPLING_POPULARITY			/* by its number of interactions, to the 0.75 */
} NegativeSampling;

/* Negatives per positive row, where nobody says and all labels are positive. */
#define DEFAULT_NEGATIVES 4

/* How a refresh knows which entities have changed. */
typedef enum Staleness
{
	STALENESS_EVENT_TIME,		/* they have rows newer than the last one */
	STALENESS_CHANGES			/* triggers wrote their keys down */
} Staleness;

/* The hidden widths of a block; one layer fewer than the block has. */
typedef struct HiddenWidths
{
	int			count;
	int			width[NETWORK_MAX_LAYERS - 1];
} HiddenWidths;

/* An option that is not given is what suits the others: see OptionsFinish. */
#define OPTION_UNSET (-1)

typedef struct ModelOptions
{
	/* the network */
	int			personalization;
	int			loss;
	int			embedding_size;
	int			factor_size;
	HiddenWidths meta_hidden;
	HiddenWidths global_hidden;
	int			activation;
	int			category_size;

	/* the inner loop */
	int			adapts;
	int			inner_steps;
	double		inner_rate;
	bool		learn_inner_rate;
	int			inner_weighting;
	double		recency;		/* 0: off */
	int			support_rows;

	/* the outer loop */
	int			order;
	int			support_split;
	double		support_fraction;
	double		prior_loss;
	double		category_dropout;
	char	   *weight;			/* column, or NULL */
	int			min_count;
	int			max_categories;
	int			epochs;
	int			patience;
	int			batch_entities;
	double		learning_rate;
	double		weight_decay;
	double		category_decay;
	double		clip_norm;
	double		validation_fraction;	/* of each entity's rows, the newest */
	double		validation_entities;	/* share of them */
	double		test_fraction;	/* of each entity's rows, the newest */
	int			seed;

	/* negatives, where only what happened is in the table */
	int			negatives;		/* per positive row, or OPTION_UNSET */
	int			negative_sampling;
	char	   *items;			/* relation, qualified and quoted, or NULL */
	char	   *item_key;		/* column of it, or NULL: its primary key */

	/* refreshing, which is the model's and not a version's matter */
	Interval   *refresh_interval;	/* of the launcher's, or NULL */
	int			staleness;
	Interval   *lateness;		/* how late a row may commit or arrive */
} ModelOptions;

/* Labels as options and networks spell them, in the order of the enums. */
extern const char *const personalization_labels[];
extern const char *const loss_labels[];
extern const char *const activation_labels[];
extern const char *const adapts_labels[];
extern const char *const inner_weighting_labels[];

extern void OptionsDefault(ModelOptions *options);

/* Who gives options, and so which ones may be given. */
typedef enum OptionsUse
{
	OPTIONS_OF_MODEL,			/* any */
	OPTIONS_OF_TRAINING,		/* not the model's own, nor the table's */
	OPTIONS_OF_CHANGE			/* of a model that there is: not the table's */
} OptionsUse;

/* Lays the given options over those there are.  Errors name the option. */
extern void OptionsApply(ModelOptions *options, const Jsonb *given,
						 OptionsUse use);

/* Whether an option is an integer; an error where there is none so called. */
extern bool OptionIsInteger(const char *name);

/* What is not any single option's business; after the last OptionsApply. */
extern void OptionsFinish(ModelOptions *options);

/*
 * Sets how many negatives there are, once that is known, and what depends on
 * it: OptionsFinish does so by itself where it is given.
 */
extern void OptionsSettle(ModelOptions *options, int negatives);

/*
 * All options of training as a JSON object, written as jsonb writes it: a network file that
 * is read and written again is to be the same to the byte.
 */
extern char *OptionsToJson(const ModelOptions *options);

#endif							/* MODEL_OPTIONS_H */
