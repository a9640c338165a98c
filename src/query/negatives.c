/*-------------------------------------------------------------------------
 *
 * negatives.c
 *	  Reading items, and drawing negatives from them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "query/negatives.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

/* Rows that are fetched from the cursor at a time. */
#define FETCH_ROWS 1000

/* After so many draws that were taken the others are looked for one by one. */
#define MOST_DRAWS 32

/*
 * What popularity counts as.  A power under 1 draws the rarer ones more often
 * than they happen: as in word2vec (Mikolov et al., NIPS 2013).
 */
#define POPULARITY_POWER 0.75

/* About what an item's key takes, in arrays, in the hash table and sorting. */
#define KEY_SIZE 160

/* An item as it was read. */
typedef struct ReadItem
{
	CategoryValue key;
	Size		codes;			/* where they begin */
	bool		is_integer;
} ReadItem;

typedef struct ItemList
{
	ReadItem   *items;
	FeatureCode *codes;
	CodeLists	lists;			/* of codes */
	int			count;
	int			room;
	Size		texts;			/* bytes of the keys' */
} ItemList;

static int
CompareItems(const void *a, const void *b)
{
	const ReadItem *x = a;
	const ReadItem *y = b;

	return CompareCategoryValues(x->is_integer, &x->key, &y->key);
}

/* Room for one more item, of so many features; an error beyond the limit. */
static ReadItem *
NextItem(ItemList *list, const Source *source)
{
	int			features = source->item_features;
	Size		size = add_size(list->texts,
								mul_size(list->count + 1, KEY_SIZE +
										 2 * features * sizeof(FeatureCode)));

	size = add_size(size, mul_size(list->lists.used, sizeof(FeatureCode)));

	if (size > (Size) maintenance_work_mem * 1024 || list->count == PG_INT32_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("items relation %s has more rows than memory has room for",
						source->items_name),
				 errdetail("%d of them take maintenance_work_mem.",
						   list->count),
				 errhint("Raise it, or name a view of fewer candidates.")));
	if (list->count == list->room)
	{
		list->room = Max(2 * list->room, 1024);
		list->items = list->items ?
			repalloc_huge(list->items, mul_size(list->room, sizeof(ReadItem))) :
			palloc(mul_size(list->room, sizeof(ReadItem)));
		list->codes = list->codes ?
			repalloc_huge(list->codes, mul_size(mul_size(list->room, features),
												sizeof(FeatureCode))) :
			palloc(mul_size(mul_size(list->room, features),
							sizeof(FeatureCode)));
	}
	list->items[list->count].codes = (Size) list->count * features;
	return &list->items[list->count++];
}

/* Reads all rows of the items, in no order. */
static void
ReadList(const Source *source, const Encoder *encoder, ItemList *list,
		 bool read_only)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext row = AllocSetContextCreate(caller, "limaml item",
											  ALLOCSET_DEFAULT_SIZES);
	bool		is_integer = CategoryIsInteger(source->items_key.type);
	ColumnReader key;
	ColumnReader *readers = palloc0(sizeof(ColumnReader) *
									source->item_features);
	int			columns = 1 + source->item_features;
	Datum	   *values = palloc(sizeof(Datum) * columns);
	bool	   *isnull = palloc(sizeof(bool) * columns);
	SPIPlanPtr	plan = SPI_prepare(SourceItemsQuery(source), 0, NULL);
	Portal		portal;

	if (plan == NULL)
		elog(ERROR, "could not prepare the query for items");
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, read_only);
	MemoryContextSwitchTo(caller);
	SourceCheckItem(source, portal->tupDesc);
	memset(&key, 0, sizeof(key));
	if (!CategoryReaderInit(&key, is_integer, source->items_key.type))
		elog(ERROR, "key of items is of a type that was checked");
	for (int f = 0; f < source->item_features; f++)
		FeatureReaderInit(&readers[f],
						  &encoder->features[source->item_feature[f]],
						  source->items_column[f].type);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			ReadItem   *item;

			MemoryContextSwitchTo(caller);
			item = NextItem(list, source);
			MemoryContextSwitchTo(row);
			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  values, isnull);
			ReadCategory(&key, is_integer, values[0], isnull[0], &item->key);
			item->is_integer = is_integer;
			if (!is_integer)
			{
				char	   *text = MemoryContextAlloc(caller,
													  Max(item->key.length, 1));

				memcpy(text, item->key.text, item->key.length);
				item->key.text = text;
				list->texts += 2 * item->key.length;
			}
			for (int f = 0; f < source->item_features; f++)
				list->codes[item->codes + f] =
					ReadFeature(&readers[f],
								&encoder->features[source->item_feature[f]],
								values[1 + f], isnull[1 + f], &list->lists);
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(row);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row);
}

/* How a message names a key. */
static char *
ItemText(const ReadItem *item)
{
	return item->is_integer ? psprintf(INT64_FORMAT, item->key.integer) :
		pnstrdup(item->key.text, item->key.length);
}

/*
 * Sums of the items' weights: what the network's category of the items has met
 * of each, so that negatives do not change with every interaction there is.
 */
static double *
WeightSums(const Source *source, const Encoder *encoder, const Items *items)
{
	const Vocabulary *met = NULL;
	double	   *until;
	double		sum = 0;

	for (int f = 0; f < source->features; f++)
		if (strcmp(source->feature[f].name, source->item.name) == 0 &&
			encoder->features[f].kind == FEATURE_CATEGORY &&
			encoder->features[f].vocabulary.is_integer == items->keys.is_integer)
			met = &encoder->features[f].vocabulary;
	if (met == NULL || met->counts == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("option \"negative_sampling\" \"popularity\" needs the item key \"%s\" among the features, as a category",
						source->item.name),
				 errdetail("Popularity is how often training has met each of its values.")));
	until = palloc_extended(mul_size(Max(items->count, 1), sizeof(double)),
							MCXT_ALLOC_HUGE);
	for (int i = 0; i < items->count; i++)
	{
		int32		row = VocabularyRow(met, &items->keys.values[i]);
		int64		count = row >= 1 && row <= met->count ?
			met->counts[row - 1] : 0;

		/* what nobody took may be drawn as if somebody had */
		sum += pow(Max(count, 1), POPULARITY_POWER);
		until[i] = sum;
	}
	return until;
}

Items *
ItemsRead(const Source *source, const Encoder *encoder,
		  NegativeSampling sampling, bool read_only)
{
	Items	   *items = palloc0(sizeof(Items));
	int			features = source->item_features;
	bool		is_integer = CategoryIsInteger(source->items_key.type);
	ItemList	list = {.lists.context = CurrentMemoryContext};
	CategoryValue *keys;

	if (!CategoryReaderInit(&items->reader, is_integer, source->item.type))
		elog(ERROR, "key of an item is of a type that was checked");
	ReadList(source, encoder, &list, read_only);
	if (list.count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("items relation %s has no items", source->items_name),
				 errdetail("Negatives are drawn from it.")));
	qsort(list.items, list.count, sizeof(ReadItem), CompareItems);
	for (int i = 1; i < list.count; i++)
		if (CompareItems(&list.items[i - 1], &list.items[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("items relation %s has more than one row of %s %s",
							source->items_name, source->items_key.name,
							ItemText(&list.items[i]))));

	items->encoder = encoder;
	items->count = list.count;
	items->features = features;
	items->lists = list.lists;
	items->feature = source->item_feature;
	items->complete = features == source->features;
	items->codes = palloc_extended(mul_size(mul_size(list.count, features),
											sizeof(FeatureCode)),
								   MCXT_ALLOC_HUGE);
	keys = palloc_extended(mul_size(list.count, sizeof(CategoryValue)),
						   MCXT_ALLOC_HUGE);
	for (int i = 0; i < list.count; i++)
	{
		keys[i] = list.items[i].key;
		memcpy(items->codes + (Size) i * features,
			   list.codes + list.items[i].codes,
			   features * sizeof(FeatureCode));
	}
	VocabularyInit(&items->keys, is_integer, list.count, keys, 1);
	if (!is_integer)
		for (int i = 0; i < list.count; i++)
			pfree(unconstify(char *, keys[i].text));
	pfree(keys);
	pfree(list.items);
	pfree(list.codes);
	if (sampling == SAMPLING_POPULARITY)
		items->until = WeightSums(source, encoder, items);
	return items;
}

int32
ItemOf(Items *items, Datum key, bool isnull)
{
	CategoryValue value;
	int32		row;

	ReadCategory(&items->reader, items->keys.is_integer, key, isnull, &value);
	row = VocabularyRow(&items->keys, &value);
	return row == VOCABULARY_NULL_ROW || row > items->count ? NO_ITEM :
		row - 1;
}

void
ItemCodes(const Items *items, int32 item, FeatureCode *codes,
		  CodeLists *lists)
{
	const FeatureCode *from = items->codes + (Size) item * items->features;

	for (int f = 0; f < items->features; f++)
	{
		FeatureCode *code = &codes[items->feature[f]];

		*code = from[f];
		MoveCode(&items->encoder->features[items->feature[f]], code,
				 items->lists.codes, lists);
	}
}

/* What an item weighs. */
static double
ItemWeight(const Items *items, bool uniform, int item)
{
	if (uniform || items->until == NULL)
		return 1;
	return items->until[item] - (item > 0 ? items->until[item - 1] : 0);
}

/* The first item up to which the weights exceed this. */
static int32
ItemAt(const Items *items, double weight)
{
	int			low = 0;
	int			high = items->count - 1;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (items->until[middle] > weight)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Any item that is not taken, by a look at each. */
static int32
DrawOfRest(const Items *items, const Bitmapset *taken, bool uniform,
		   Random *random)
{
	double		sum = 0;
	double		at;
	int32		last = NO_ITEM;

	for (int32 i = 0; i < items->count; i++)
		if (!bms_is_member(i, taken))
			sum += ItemWeight(items, uniform, i);
	at = random_uniform(random) * sum;
	for (int32 i = 0; i < items->count; i++)
	{
		if (bms_is_member(i, taken))
			continue;
		last = i;
		at -= ItemWeight(items, uniform, i);
		if (at < 0)
			break;
	}
	return last;
}

int32
DrawItem(const Items *items, const Bitmapset *taken, bool uniform,
		 Random *random)
{
	for (int d = 0; d < MOST_DRAWS; d++)
	{
		int32		item = uniform || items->until == NULL ?
			(int32) random_below(random, items->count) :
			ItemAt(items, random_uniform(random) * items->until[items->count - 1]);

		if (!bms_is_member(item, taken))
			return item;
	}
	return DrawOfRest(items, taken, uniform, random);
}

void
NegativesSeed(Random *random, int seed, uint64 hash, NegativeUse use,
			  int64 place)
{
	random_seed_stream(random, (uint64) (int64) seed,
					   hash_combine64(hash_combine64(hash, use),
									  (uint64) place));
}

Negatives *
NegativesCreate(Items *items, int count, int seed)
{
	Negatives  *negatives = palloc0(sizeof(Negatives));

	negatives->items = items;
	negatives->count = count;
	negatives->seed = seed;
	negatives->context = CurrentMemoryContext;
	negatives->lists.context = CurrentMemoryContext;
	return negatives;
}

Bitmapset *
TakenItems(const Examples *examples, int n)
{
	Bitmapset  *taken = NULL;

	for (int i = 0; i < n; i++)
	{
		int32		item = ExampleRow(examples, i)->item;

		if (item != NO_ITEM)
			taken = bms_add_member(taken, item);
	}
	return taken;
}

int
AddNegatives(const Negatives *negatives, const Bitmapset *taken,
			 Random *random, char *row, Size row_size, CodeLists *lists)
{
	if (!(((const Interaction *) row)->label > 0.5f))
		return 0;
	for (int i = 0; i < negatives->count; i++)
	{
		char	   *copy = row + (i + 1) * row_size;
		Interaction *negative = (Interaction *) copy;
		int32		item = DrawItem(negatives->items, taken, false, random);

		/* there is none to draw for any other row either */
		if (item == NO_ITEM)
			return 0;
		memcpy(copy, row, row_size);
		negative->label = 0;
		negative->same_time = true;
		negative->sampled = true;
		negative->item = item;
		ItemCodes(negatives->items, item, (FeatureCode *) (negative + 1),
				  lists);
	}
	return negatives->count;
}

Examples
WithNegatives(Negatives *negatives, const Examples *examples, int first,
			  int n, int known, NegativeUse use)
{
	Examples	with = *examples;
	Size		row_size = examples->row_size;
	Size		size;
	Bitmapset  *taken;
	int			rows = 0;

	with.row = examples->row + first * row_size;
	with.parts.rows = n;
	if (negatives == NULL || negatives->count == 0)
		return with;

	size = mul_size(RowsWithNegatives(negatives, Max(n, 1)), row_size);
	if (size > negatives->size)
	{
		if (negatives->rows)
			pfree(negatives->rows);
		negatives->rows = NULL;
		negatives->rows = MemoryContextAllocHuge(negatives->context, size);
		negatives->size = size;
	}
	taken = TakenItems(examples, known);
	negatives->lists.used = 0;
	for (int i = first; i < first + n; i++)
	{
		char	   *row = negatives->rows + rows * row_size;
		Random		random;

		memcpy(row, ExampleRow(examples, i), row_size);
		MoveCodes(negatives->items->encoder,
				  (FeatureCode *) (row + sizeof(Interaction)), examples->lists,
				  &negatives->lists);
		NegativesSeed(&random, negatives->seed, examples->parts.hash, use, i);
		rows += 1 + AddNegatives(negatives, taken, &random, row, row_size,
								 &negatives->lists);
	}
	bms_free(taken);
	with.row = negatives->rows;
	with.meta = NULL;
	with.lists = negatives->lists.codes;
	with.parts.rows = rows;
	return with;
}
