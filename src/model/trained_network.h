/*-------------------------------------------------------------------------
 *
 * trained_network.h
 *	  A trained network as a value: the numbers, and how rows are encoded for
 *	  them.  On disk it is a safetensors file; the tensors have PyTorch's
 *	  names, and the metadata's key "limaml" holds all the rest as JSON:
 *
 *		format				1
 *		personalization, activation, loss, adapts, inner_weighting,
 *		inner_steps, recency, support_rows, embedding_size, factor_size
 *							as the options of these names
 *		meta, global		widths of the blocks' layers, inputs first
 *		label, event_time	columns of the interactions, or null; that which
 *							weighs them is among the options
 *		features, meta_features
 *							objects in the order of the encoding: name, kind,
 *							and mean, sd, missing of a numeric one; the same
 *							of a vector, mean and sd being arrays, as long as
 *							the vector; values ("integer" or "text"), size,
 *							outside (the number of out-of-vocabulary rows)
 *							and vocabulary of a category or of categories
 *							(vocabulary.h says which row is whose), and its
 *							counts where items are drawn by them
 *		options				what it was trained with, for the record
 *
 *	  What a feature puts into the encoding: a number, its standardised value,
 *	  and where `missing` is true 1 for NULL and 0 otherwise; a vector the same,
 *	  its elements and then that one number; a category, its value's row of
 *	  NAME.embedding (meta.NAME.embedding of a meta feature); categories, the
 *	  mean of their values' rows, or row 0 where there is none.  NAME.wide gives
 *	  the wide scalars in the same way.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_TRAINED_NETWORK_H
#define MODEL_TRAINED_NETWORK_H

#include "postgres.h"

#include "math/network.h"
#include "model/encoder.h"
#include "model/options.h"
#include "model/safetensors.h"

typedef struct TrainedNetwork
{
	MemoryContext context;		/* holds all of it */
	uint8		digest[SAFETENSORS_DIGEST_BYTES];	/* of its file */
	uint32		fingerprint;	/* the digest's first bytes, never 0 */

	int			personalization;
	double		recency;		/* 0: off */
	int			support_rows;
	int			negatives;		/* per positive row, or 0 */
	Encoder		entity;			/* meta features -> x */
	Encoder		interaction;	/* features -> z */
	const char *options;		/* JSON */

	/* columns of interactions; NULL where a file does not say, or none is */
	const char *label;
	const char *event_time;
	const char *weight;

	NetworkShape shape;
	float	   *parameters;
	float	   *packed;
	Network		network;		/* see TrainedNetworkPack */
} TrainedNetwork;

/*
 * How many features a candidate gives: all, but for the arm `id` the last one,
 * which is the entity itself.
 */
static inline int
CandidateFeatures(const TrainedNetwork *trained)
{
	return trained->interaction.count -
		(trained->personalization == PERSONALIZATION_ID ? 1 : 0);
}

/* The shape that these options and encodings ask for. */
extern void TrainedNetworkShape(TrainedNetwork *trained,
								const ModelOptions *options);

/* Makes trained->network of the shape and the parameters. */
extern void TrainedNetworkPack(TrainedNetwork *trained);

/* The same again after the parameters have changed, in the same memory. */
extern void TrainedNetworkRepack(TrainedNetwork *trained);

/*
 * To be called before a network that was read adapts: most only score, and the
 * first score in a session is not to wait for more.
 */
extern void TrainedNetworkAdapts(const TrainedNetwork *trained);

/* Sets digest and fingerprint too. */
extern bytea *TrainedNetworkWrite(TrainedNetwork *trained);

/*
 * Reads a file into a memory context of its own below `parent`.  Without
 * require_digest a file that never had one will do: another program wrote it.
 */
extern TrainedNetwork *TrainedNetworkRead(const char *bytes, Size length,
										  bool require_digest,
										  MemoryContext parent);

/*
 * The same of a file that stays where it is for as long as the network, which
 * has its numbers there as far as they are aligned.  It is yet to be packed:
 * TrainedNetworkPackForward, or TrainedNetworkAdopt what was packed before.
 * What a known file says is checked no more than it takes to find one's way.
 */
extern TrainedNetwork *TrainedNetworkOpen(const char *bytes, Size length,
										  bool known, MemoryContext parent);
extern void TrainedNetworkPackForward(TrainedNetwork *trained);
extern void TrainedNetworkAdopt(TrainedNetwork *trained, float *packed);

#endif							/* MODEL_TRAINED_NETWORK_H */
