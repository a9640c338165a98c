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
 * A column has one code, whatever it holds, so that rows are all of one size.
 * Where one is too few, the code says where among *lists* beside the rows the
 * others are: the numbers of a vector, or the rows of categories.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_ENCODER_H
#define MODEL_ENCODER_H

#include "postgres.h"

#include <math.h>

#include "fmgr.h"

#include "math/standardize.h"
#include "model/column_place.h"
#include "model/vocabulary.h"

typedef enum FeatureKind
{
	FEATURE_NUMERIC,
	FEATURE_CATEGORY,
	FEATURE_CATEGORIES,			/* any number of values, whose vectors' mean
								 * is taken */
	FEATURE_VECTOR				/* numbers, as many in every row */
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

/* How categories or a vector are held. */
typedef enum ListForm
{
	LIST_ARRAY,
	LIST_PGVECTOR,				/* the type that pgvector has */
	LIST_LITERAL				/* an untyped literal: a C string */
} ListForm;

typedef struct ColumnReader
{
	ReadMethod	method;			/* of a list: of its elements */
	FmgrInfo	function;		/* of READ_BINARY the type's send function, of
								 * LIST_LITERAL array_in */

	/* categories and vectors */
	ListForm	form;
	Oid			element_type;
	int16		element_length;
	bool		element_by_value;
	char		element_align;
} ColumnReader;

typedef union FeatureCode
{
	float		number;			/* standardised; NaN where it is missing */
	int32		row;			/* of a category's table.  Of categories: the
								 * row that they all have, or -1 - the place
								 * of their list.  Of a vector: that place, or
								 * VOCABULARY_NULL_ROW where it is missing */
	int32		count;			/* with which a list begins: codes to come */
} FeatureCode;

/* Lists of rows' codes; grows as they are read. */
typedef struct CodeLists
{
	MemoryContext context;		/* of the codes */
	FeatureCode *codes;			/* NULL at first */
	int			used;
	int			room;
} CodeLists;

/* What one element of a vector was in the training rows. */
typedef struct VectorElement
{
	double		mean;
	double		sd;				/* over 0 */
	double		scale;			/* 1 / sd */
	bool		inert;			/* as a feature's */
} VectorElement;

typedef struct Feature
{
	char	   *name;			/* the column's */
	FeatureKind kind;

	/* numeric */
	double		mean;
	double		sd;				/* over 0 */
	double		scale;			/* 1 / sd */
	bool		missing_flag;	/* one number more: whether it is missing */

	/* category and categories */
	Vocabulary	vocabulary;
	int			size;			/* numbers in a vector, learned or given */
	float	   *vectors;		/* VocabularyRows x size */
	float	   *wide;			/* VocabularyRows, or NULL for an entity's */

	/* vector: missing_flag, size and */
	VectorElement *elements;

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
	bool		has_lists;		/* rows' codes may have lists */
} Encoder;

/*
 * Where an encoder's first features lie in a tuple.  Numbers that are float4 and
 * lie side by side are read in one loop.
 */
typedef struct FeaturePlaces
{
	int			count;
	const ColumnPlace *place;
	int		   *numbers;		/* that lie so from each feature on, or 0 */
	double	   *mean;			/* of each feature that is such a number */
	double	   *scale;
} FeaturePlaces;

/* A numeric value under this many standard deviations counts as it is. */
#define ENCODER_CLIP 8.0

/* No encoding has more numbers, and no vector: products of two fit an int. */
#define ENCODER_MAX_WIDTH 32768

/* Whether a feature has a table of learned vectors. */
static inline bool
HasTable(const Feature *feature)
{
	return feature->kind == FEATURE_CATEGORY ||
		feature->kind == FEATURE_CATEGORIES;
}

/* Whether a feature's codes may have lists. */
static inline bool
HasLists(const Feature *feature)
{
	return feature->kind == FEATURE_CATEGORIES ||
		feature->kind == FEATURE_VECTOR;
}

/*
 * The kind a column of this type has unless a suffix says so, or the kind
 * that `suffix` names if the type can have it.  Errors name the column.
 */
extern FeatureKind FeatureKindOf(const char *column, Oid type,
								 const char *suffix);

/*
 * Whether a category column of this type has an integer vocabulary, or one of
 * categories.
 */
extern bool CategoryIsInteger(Oid type);
extern bool CategoriesAreInteger(Oid type);

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

/*
 * The values of a column of categories, without those that are NULL; returns
 * how many there are.  They are in the current memory context or the datum's.
 */
extern int	ReadCategories(ColumnReader *reader, const Feature *feature,
						   Datum datum, bool isnull, CategoryValue **values);

/*
 * The numbers of a vector that is not NULL, in the current memory context;
 * returns how many there are.  NULL is NaN.
 */
extern int	ReadVector(ColumnReader *reader, const Feature *feature,
					   Datum datum, double **numbers);

/* A reader for one feature as trained; the error names what was found. */
extern void FeatureReaderInit(ColumnReader *reader, const Feature *feature,
							  Oid type);

/* If the code has a list, that is added to `lists`. */
extern FeatureCode ReadFeature(ColumnReader *reader, const Feature *feature,
							   Datum datum, bool isnull, CodeLists *lists);

/* The same of an encoder's first features. */
extern void ReadColumns(ColumnReader *readers, const Encoder *encoder,
						int count, const Datum *values, const bool *isnull,
						FeatureCode *codes, CodeLists *lists);

/*
 * The same from a tuple's data, in which the features have these places.  Which
 * of them are numbers side by side is found out once, before the first tuple;
 * that and the places live as long as tuples are read.
 */
extern void FeaturePlacesInit(FeaturePlaces *features,
							  const ColumnReader *readers,
							  const Encoder *encoder, int count,
							  const ColumnPlace *places);
extern void ReadColumnsInPlace(ColumnReader *readers, const Encoder *encoder,
							   const FeaturePlaces *features,
							   const char *data, FeatureCode *codes,
							   CodeLists *lists);

/* The list of a code that has one: its count, then its codes. */
static inline const FeatureCode *
CodeList(FeatureCode code, const FeatureCode *lists)
{
	return lists + (-1 - code.row);
}

/* The codes of the rows, in a feature's table, whose mean a code stands for. */
static inline const FeatureCode *
CodeRows(const FeatureCode *code, const FeatureCode *lists, int *count)
{
	const FeatureCode *list;

	if (code->row >= 0)
	{
		*count = 1;
		return code;
	}
	list = CodeList(*code, lists);
	*count = list->count;
	return list + 1;
}

/*
 * Copies the list that a code has in `from`, or those of a row's codes, to the
 * end of `to`, and makes the codes say so.
 */
extern void MoveCode(const Feature *feature, FeatureCode *code,
					 const FeatureCode *from, CodeLists *to);
extern void MoveCodes(const Encoder *encoder, FeatureCode *codes,
					  const FeatureCode *from, CodeLists *to);

/*
 * Whether a row's codes, whose lists are within so many codes, can be some that
 * the features give: then encoding them is safe.
 */
extern bool CodesAreValid(const Encoder *encoder, const FeatureCode *codes,
						  const FeatureCode *lists, int length);

/* What a code of categories or of a vector comes to; see EncodeCode. */
extern float EncodeList(const Feature *feature, FeatureCode code,
						const FeatureCode *lists, float *at);

/*
 * The code of a feature whose value is not known: the training mean of a number
 * or of a vector's, or a value of the category that training has not seen.  If
 * it has a list, that is added to `lists`.
 */
extern FeatureCode NeutralCode(const Feature *feature, FeatureCode code,
							   CodeLists *lists);

/*
 * Puts a code into the encoding of its row (of which it is feature->width
 * numbers from feature->at).  Returns what it adds to the row's offset: a wide
 * scalar.
 */
static inline float
EncodeCode(const Feature *feature, FeatureCode code, const FeatureCode *lists,
		   float *encoding)
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
	if (feature->kind != FEATURE_CATEGORY)
		return EncodeList(feature, code, lists, at);
	memcpy(at, feature->vectors + (size_t) code.row * feature->size,
		   feature->size * sizeof(float));
	return feature->wide ? feature->wide[code.row] : 0;
}

static inline float
Standardize(double number, double mean, double scale)
{
	return standardize(number, mean, scale, ENCODER_CLIP);
}

/* The same as EncodeCode for a column's value; `lists` is room to work in. */
static inline float
EncodeColumn(ColumnReader *reader, const Feature *feature, Datum datum,
			 bool isnull, CodeLists *lists, float *encoding)
{
	FeatureCode code;

	lists->used = 0;
	code = ReadFeature(reader, feature, datum, isnull, lists);
	return EncodeCode(feature, code, lists->codes, encoding);
}

/*
 * Places the features one after the other: at, width, plain, and the encoder's
 * width and has_lists.
 */
extern void EncoderLayout(Encoder *encoder);

/*
 * The encoding of a row's codes (encoder->width numbers), whose lists are in
 * `lists`.  Returns its offset, the sum of its wide scalars.
 */
extern float Encode(const Encoder *encoder, const FeatureCode *codes,
					const FeatureCode *lists, float *encoding);

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

/* The same of vectors, element by element. */
typedef struct VectorStatistics
{
	MemoryContext context;		/* of the elements' */
	int			length;			/* of all vectors; 0 before the first */
	bool		missing;		/* some are */
	NumberStatistics *elements;
} VectorStatistics;

extern void VectorStatisticsAdd(VectorStatistics *statistics,
								ColumnReader *reader, const Feature *feature,
								Datum datum, bool isnull);

/* An error if there was no vector: then its length is not known. */
extern void VectorStatisticsFeature(const VectorStatistics *statistics,
									Feature *feature);

#endif							/* MODEL_ENCODER_H */
