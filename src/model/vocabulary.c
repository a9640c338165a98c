/*-------------------------------------------------------------------------
 *
 * vocabulary.c
 *	  Category values: counting them, keeping some, finding a value's row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "model/vocabulary.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

/* An entry of either hash table: a value, and its row or how often it was. */
typedef struct IntegerEntry
{
	int64		key;
	int64		number;
	char		status;
} IntegerEntry;

typedef struct TextKey
{
	const char *text;
	int			length;
} TextKey;

typedef struct TextEntry
{
	TextKey		key;
	int64		number;
	uint32		hash;
	char		status;
} TextEntry;

static inline uint32
HashInteger(int64 key)
{
	return hash_combine(murmurhash32((uint32) key),
						murmurhash32((uint32) ((uint64) key >> 32)));
}

static inline uint32
HashText(TextKey key)
{
	return hash_bytes((const unsigned char *) key.text, key.length);
}

#define SH_PREFIX integers
#define SH_ELEMENT_TYPE IntegerEntry
#define SH_KEY_TYPE int64
#define SH_KEY key
#define SH_HASH_KEY(table, k) HashInteger(k)
#define SH_EQUAL(table, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define SH_PREFIX texts
#define SH_ELEMENT_TYPE TextEntry
#define SH_KEY_TYPE TextKey
#define SH_KEY key
#define SH_HASH_KEY(table, k) HashText(k)
#define SH_EQUAL(table, a, b) \
	((a).length == (b).length && memcmp((a).text, (b).text, (a).length) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * Distinct values that a counter holds for each that its vocabulary may keep;
 * beyond that the rarest are forgotten, which bounds its memory.
 */
#define COUNTED_PER_KEPT 16

struct ValueCounter
{
	MemoryContext context;		/* holds the counter, its table and texts */
	bool		is_integer;
	bool		saw_null;
	bool		forgot;			/* some values are no longer counted */
	int			most;			/* that a vocabulary may keep */
	integers_hash *integers;
	texts_hash *texts;
};

static TextKey
TextKeyOf(const CategoryValue *value)
{
	return (TextKey)
	{
		value->text, value->length
	};
}

bool
VocabularyInit(Vocabulary *vocabulary, bool is_integer, int count,
			   const CategoryValue *values, int outside)
{
	vocabulary->is_integer = is_integer;
	vocabulary->count = count;
	vocabulary->outside = outside;
	vocabulary->values = palloc_extended(mul_size(Max(count, 1),
												  sizeof(CategoryValue)),
										 MCXT_ALLOC_HUGE);
	vocabulary->counts = NULL;
	vocabulary->integers = NULL;
	vocabulary->texts = NULL;
	if (is_integer)
		vocabulary->integers = integers_create(CurrentMemoryContext, count,
											   NULL);
	else
		vocabulary->texts = texts_create(CurrentMemoryContext, count, NULL);

	for (int i = 0; i < count; i++)
	{
		CategoryValue value = values[i];
		bool		found;

		if (is_integer)
			integers_insert(vocabulary->integers, value.integer,
							&found)->number = i + 1;
		else
		{
			value.text = pnstrdup(value.text, value.length);
			texts_insert(vocabulary->texts, TextKeyOf(&value),
						 &found)->number = i + 1;
		}
		if (found)
			return false;
		vocabulary->values[i] = value;
	}
	return true;
}

/* The row of a value that is not in the vocabulary. */
static int32
OutsideRow(const Vocabulary *vocabulary, uint32 hash)
{
	return 1 + vocabulary->count + hash % vocabulary->outside;
}

int32
VocabularyRow(const Vocabulary *vocabulary, const CategoryValue *value)
{
	uint32		hash;

	if (value->isnull)
		return VOCABULARY_NULL_ROW;
	if (vocabulary->is_integer)
	{
		IntegerEntry *entry = integers_lookup(vocabulary->integers,
											  value->integer);

		if (entry)
			return (int32) entry->number;
		hash = HashInteger(value->integer);
	}
	else
	{
		TextEntry  *entry = texts_lookup(vocabulary->texts,
										 TextKeyOf(value));

		if (entry)
			return (int32) entry->number;
		hash = HashText(TextKeyOf(value));
	}
	return OutsideRow(vocabulary, hash);
}

int32
VocabularyOutsideRow(const Vocabulary *vocabulary, int32 row)
{
	const CategoryValue *value;

	if (row > vocabulary->count)
		return row;
	if (row == VOCABULARY_NULL_ROW)
		return 1 + vocabulary->count;
	value = &vocabulary->values[row - 1];
	return OutsideRow(vocabulary, vocabulary->is_integer ?
					  HashInteger(value->integer) :
					  HashText(TextKeyOf(value)));
}

ValueCounter *
ValueCounterCreate(bool is_integer, int most)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "limaml value counter",
												  ALLOCSET_DEFAULT_SIZES);
	ValueCounter *counter = MemoryContextAllocZero(context, sizeof(*counter));

	counter->context = context;
	counter->is_integer = is_integer;
	counter->most = most;
	if (is_integer)
		counter->integers = integers_create(context, 256, NULL);
	else
		counter->texts = texts_create(context, 256, NULL);
	return counter;
}

/*
 * Forgets the values that were counted least, until half of the room is free.
 * A value that belongs to the most frequent ones is hardly ever among them.
 */
static void
Forget(ValueCounter *counter)
{
	int64		room = (int64) counter->most * COUNTED_PER_KEPT / 2;
	int64		least = 1;

	counter->forgot = true;
	if (counter->is_integer)
	{
		for (; counter->integers->members > room; least++)
		{
			integers_hash *kept = integers_create(counter->context, room, NULL);
			integers_iterator it;
			IntegerEntry *entry;
			bool		found;

			CHECK_FOR_INTERRUPTS();
			integers_start_iterate(counter->integers, &it);
			while ((entry = integers_iterate(counter->integers, &it)) != NULL)
				if (entry->number > least)
					integers_insert(kept, entry->key, &found)->number =
						entry->number;
			integers_destroy(counter->integers);
			counter->integers = kept;
		}
	}
	else
	{
		for (; counter->texts->members > room; least++)
		{
			texts_hash *kept = texts_create(counter->context, room, NULL);
			texts_iterator it;
			TextEntry  *entry;
			bool		found;

			CHECK_FOR_INTERRUPTS();
			texts_start_iterate(counter->texts, &it);
			while ((entry = texts_iterate(counter->texts, &it)) != NULL)
			{
				if (entry->number > least)
					texts_insert(kept, entry->key, &found)->number =
						entry->number;
				else
					pfree(unconstify(char *, entry->key.text));
			}
			texts_destroy(counter->texts);
			counter->texts = kept;
		}
	}
}

void
ValueCounterAdd(ValueCounter *counter, const CategoryValue *value)
{
	bool		found;
	int64		members;

	if (value->isnull)
	{
		counter->saw_null = true;
		return;
	}

	if (counter->is_integer)
	{
		IntegerEntry *entry = integers_insert(counter->integers,
											  value->integer, &found);

		entry->number = found ? entry->number + 1 : 1;
		members = counter->integers->members;
	}
	else
	{
		TextEntry  *entry = texts_insert(counter->texts, TextKeyOf(value),
										 &found);

		if (!found)
		{
			char	   *copy = MemoryContextAlloc(counter->context,
												  Max(value->length, 1));

			memcpy(copy, value->text, value->length);
			entry->key.text = copy;
		}
		entry->number = found ? entry->number + 1 : 1;
		members = counter->texts->members;
	}
	if (!found && members > (int64) counter->most * COUNTED_PER_KEPT)
		Forget(counter);
}

bool
ValueCounterSawNull(const ValueCounter *counter)
{
	return counter->saw_null;
}

typedef struct CountedValue
{
	CategoryValue value;
	int64		count;
	bool		is_integer;
} CountedValue;

int
CompareCategoryValues(bool is_integer, const CategoryValue *a,
					  const CategoryValue *b)
{
	int			order;

	if (is_integer)
		return (a->integer > b->integer) - (a->integer < b->integer);
	order = memcmp(a->text, b->text, Min(a->length, b->length));
	return order != 0 ? order : a->length - b->length;
}

/* Most frequent first, and by value among equals so that rows are certain. */
static int
CompareCounted(const void *a, const void *b)
{
	const CountedValue *x = a;
	const CountedValue *y = b;

	if (x->count != y->count)
		return x->count > y->count ? -1 : 1;
	return CompareCategoryValues(x->is_integer, &x->value, &y->value);
}

bool
ValueCounterVaried(const ValueCounter *counter)
{
	int64		members = counter->is_integer ? counter->integers->members :
		counter->texts->members;

	return counter->forgot || members + (counter->saw_null ? 1 : 0) > 1;
}

void
ValueCounterVocabulary(ValueCounter *counter, int min_count,
					   Vocabulary *vocabulary)
{
	int64		members = counter->is_integer ? counter->integers->members :
		counter->texts->members;
	CountedValue *counted;
	CategoryValue *values;
	int64		frequent = 0;
	int			kept;
	int			outside;

	counted = palloc_extended(mul_size(Max(members, 1), sizeof(CountedValue)),
							  MCXT_ALLOC_HUGE);
	if (counter->is_integer)
	{
		integers_iterator it;
		IntegerEntry *entry;

		integers_start_iterate(counter->integers, &it);
		while ((entry = integers_iterate(counter->integers, &it)) != NULL)
			if (entry->number >= min_count)
				counted[frequent++] = (CountedValue)
			{
				.value = {.integer = entry->key},
				.count = entry->number,.is_integer = true
			};
	}
	else
	{
		texts_iterator it;
		TextEntry  *entry;

		texts_start_iterate(counter->texts, &it);
		while ((entry = texts_iterate(counter->texts, &it)) != NULL)
			if (entry->number >= min_count)
				counted[frequent++] = (CountedValue)
			{
				.value = {.text = entry->key.text,.length = entry->key.length},
				.count = entry->number,.is_integer = false
			};
	}
	qsort(counted, frequent, sizeof(CountedValue), CompareCounted);
	kept = (int) Min(frequent, counter->most);

	/* a row that no training row uses stays zero; one is enough of those */
	outside = (int) Min(members - kept, VOCABULARY_MAX_OUTSIDE);
	if (counter->forgot)
		outside = VOCABULARY_MAX_OUTSIDE;

	values = palloc_extended(mul_size(Max(kept, 1), sizeof(CategoryValue)),
							 MCXT_ALLOC_HUGE);
	for (int i = 0; i < kept; i++)
		values[i] = counted[i].value;
	VocabularyInit(vocabulary, counter->is_integer, kept, values,
				   Max(outside, 1));
	vocabulary->counts = palloc_extended(mul_size(Max(kept, 1), sizeof(int64)),
										 MCXT_ALLOC_HUGE);
	for (int i = 0; i < kept; i++)
		vocabulary->counts[i] = counted[i].count;
	pfree(values);
	pfree(counted);
}
