/*-------------------------------------------------------------------------
 *
 * vocabulary.h
 *	  The values of a category feature and the table row that each one has.
 *
 * Rows of a feature's table of vectors:
 *
 *		0				NULL, which is a value of its own
 *		1 ... V			the V values of the vocabulary, most frequent first
 *		V + 1 ...		out-of-vocabulary rows, shared by hash of the value
 *
 * A value is an integer where the column's type is one, and otherwise text:
 * the same for the same value whatever the session's settings say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_VOCABULARY_H
#define MODEL_VOCABULARY_H

#include "postgres.h"

/* Most rows that values outside a vocabulary share. */
#define VOCABULARY_MAX_OUTSIDE 32

#define VOCABULARY_NULL_ROW 0

typedef struct CategoryValue
{
	bool		isnull;
	int64		integer;		/* of an integer vocabulary */
	const char *text;			/* of a text vocabulary, in the database's
								 * encoding; not terminated */
	int			length;
} CategoryValue;

typedef struct Vocabulary
{
	bool		is_integer;
	int			count;			/* V */
	int			outside;		/* out-of-vocabulary rows, at least 1 */
	CategoryValue *values;		/* V, in the order of their rows */
	int64	   *counts;			/* how often each was met in training, or NULL
								 * where that is of no use */
	struct integers_hash *integers;
	struct texts_hash *texts;
} Vocabulary;

static inline int
VocabularyRows(const Vocabulary *vocabulary)
{
	return 1 + vocabulary->count + vocabulary->outside;
}

/*
 * A vocabulary of these values, which are copied; false where one stands
 * twice.
 */
extern bool VocabularyInit(Vocabulary *vocabulary, bool is_integer, int count,
						   const CategoryValue *values, int outside);

/* The row of a value. */
extern int32 VocabularyRow(const Vocabulary *vocabulary,
						   const CategoryValue *value);

/*
 * The row that the value of a row would have if training had not seen it;
 * NULL, which has no hash, has the first one that such values share.
 */
extern int32 VocabularyOutsideRow(const Vocabulary *vocabulary, int32 row);

/* Counts values, so as to choose a vocabulary among them. */
typedef struct ValueCounter ValueCounter;

extern ValueCounter *ValueCounterCreate(bool is_integer, int most);
extern void ValueCounterAdd(ValueCounter *counter, const CategoryValue *value);

/* Whether NULL was among the values. */
extern bool ValueCounterSawNull(const ValueCounter *counter);

/* Whether there were two different values, of which NULL may be one. */
extern bool ValueCounterVaried(const ValueCounter *counter);

/* The order of two values of one vocabulary, neither of them NULL. */
extern int	CompareCategoryValues(bool is_integer, const CategoryValue *a,
								  const CategoryValue *b);

/*
 * The vocabulary of all values counted at least min_count times, the most
 * frequent of them where there are more than ValueCounterCreate allowed.  With
 * their counts.
 */
extern void ValueCounterVocabulary(ValueCounter *counter, int min_count,
								   Vocabulary *vocabulary);

#endif							/* MODEL_VOCABULARY_H */
