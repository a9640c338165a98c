/*-------------------------------------------------------------------------
 *
 * encoder.h
 *	  From a row's columns to the numbers that the network reads.
 *
 * In two steps.  A column's datum becomes a *code*: a standardised number, or
 * a category's row.  Codes are small and final, so training keeps them.  A
 * row's codes become its *encoding*, z (or x for an entity), by putting each
 * number and each category's vector in its place; vectors are learned, so
 * this step is repeated whenever they have moved.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_ENCODER_H
#define MODEL_ENCODER_H

#include "postgres.h"

#include <math.h>

#include "fmgr.h"

#include "model/vocabulary.h"

typedef enum FeatureKind
{
	FEATURE_NUMERIC,
	FEATURE_CATEGORY
} FeatureKind;

extern const char *const feature_kind_labels[];

/* How a datum of some type is read; by type, chosen once per column. */
typedef enum ReadMethod
{
	READ_INT2,
	READ_INT4,
	READ_INT8,
	READ_FLOAT4,
	READ_FLOAT8,
	READ_NUMERIC,
	READ_BOOL,
	READ_TEXT,
	READ_BPCHAR,				/* trailing blanks mean nothing */
	READ_NAME,
	READ_CHAR,
	READ_UUID,
	READ_ENUM,
	READ_BINARY,				/* any other type: by its send function */
	READ_LITERAL				/* an untyped literal: a C string */
} ReadMethod;

typedef struct ColumnReader
{
	ReadMethod	method;
	FmgrInfo	send;			/* of READ_BINARY */
} ColumnReader;

typedef union FeatureCode
{
	float		number;			/* standardised; NaN where it is missing */
	int32		row;			/* of a category's table */
} FeatureCode;

typedef struct Feature
{
	char	   *name;			/* the column's */
	FeatureKind kind;

	/* numeric */
	double		mean;
	double		sd;				/* over 0 */
	double		scale;			/* 1 / sd */
	bool		missing_flag;	/* one number more: whether it is missing */

	/* category */
	Vocabulary	vocabulary;
	int			size;			/* numbers in a vector */
	float	   *vectors;		/* VocabularyRows x size */
	float	   *wide;			/* VocabularyRows, or NULL for an entity's */

	bool		inert;			/* in training: all values there are are one */

	int			at;				/* where in the encoding it begins */
	int			width;			/* numbers there */
	int			plain;			/* features from this one on that are but a
								 * number each */
} Feature;

typedef struct Encoder
{
	int			count;
	Feature    *features;
	int			width;			/* dz or dx */
} Encoder;

/* A numeric value under this many standard deviations counts as it is. */
#define ENCODER_CLIP 8.0

/*
 * The kind a column of this type has unless a suffix says so, or the kind
 * that `suffix` names if the type can have it.  Errors name the column.
 */
extern FeatureKind FeatureKindOf(const char *column, Oid type,
								 const char *suffix);

/* Whether a category column of this type has an integer vocabulary. */
extern bool CategoryIsInteger(Oid type);

/*
 * Sets up reading of a column of this type as a number or as a category;
 * false where a value of the type is no such thing.
 */
extern bool NumberReaderInit(ColumnReader *reader, Oid type);
extern bool CategoryReaderInit(ColumnReader *reader, bool is_integer,
							   Oid type);

/* NULL is NaN. */
extern double ReadNumber(const ColumnReader *reader, Datum datum, bool isnull);

/* The text, if any, is in the current memory context or the datum's own. */
extern void ReadCategory(ColumnReader *reader, bool is_integer, Datum datum,
						 bool isnull, CategoryValue *value);

/* A reader for one feature as trained; the error names what was found. */
extern void FeatureReaderInit(ColumnReader *reader, const Feature *feature,
							  Oid type);
extern FeatureCode ReadFeature(ColumnReader *reader, const Feature *feature,
							   Datum datum, bool isnull);

/*
 * The code of a feature whose value is not known: a number's training mean, or
 * what the category's value would be if training had not seen it.
 */
extern FeatureCode NeutralCode(const Feature *feature, FeatureCode code);

/*
 * Puts a code into the encoding of its row (of which it is feature->width
 * numbers from feature->at).  Returns what it adds to the row's offset: a wide
 * scalar.
 */
static inline float
EncodeCode(const Feature *feature, FeatureCode code, float *encoding)
{
	float	   *at = encoding + feature->at;

	if (feature->kind == FEATURE_NUMERIC)
	{
		bool		missing = isnan(code.number);

		at[0] = missing ? 0 : code.number;
		if (feature->missing_flag)
			at[1] = missing ? 1 : 0;
		return 0;
	}
	memcpy(at, feature->vectors + (size_t) code.row * feature->size,
		   feature->size * sizeof(float));
	return feature->wide ? feature->wide[code.row] : 0;
}

/* NaN stays NaN. */
static inline float
StandardizeNumber(const Feature *feature, double number)
{
	double		standard = (number - feature->mean) * feature->scale;

	if (standard < -ENCODER_CLIP)
		return -ENCODER_CLIP;
	return standard > ENCODER_CLIP ? ENCODER_CLIP : standard;
}

/* The same for a column's value. */
static inline float
EncodeColumn(ColumnReader *reader, const Feature *feature, Datum datum,
			 bool isnull, float *encoding)
{
	return EncodeCode(feature, ReadFeature(reader, feature, datum, isnull),
					  encoding);
}

/* Places the features one after the other: at, width, plain, encoder->width. */
extern void EncoderLayout(Encoder *encoder);

/*
 * The encoding of a row's codes (encoder->width numbers).  Returns its offset,
 * the sum of its wide scalars.
 */
extern float Encode(const Encoder *encoder, const FeatureCode *codes,
					float *encoding);

/* Mean and deviation of the numbers of training rows. */
typedef struct NumberStatistics
{
	int64		count;			/* finite numbers */
	int64		missing;
	double		mean;
	double		squares;		/* sum of squared distances from the mean */
} NumberStatistics;

extern void NumberStatisticsAdd(NumberStatistics *statistics, double number);
extern void NumberStatisticsFeature(const NumberStatistics *statistics,
									Feature *feature);

#endif							/* MODEL_ENCODER_H */
