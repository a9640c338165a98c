/*-------------------------------------------------------------------------
 *
 * encoder.c
 *	  Reading columns, and encoding what was read.
 *
 * Datums are read in binary.  What a value encodes to may depend on the value
 * and the network alone: an output function would let DateStyle, TimeZone or
 * extra_float_digits into it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/shortest_dec.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "model/encoder.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

/* Numbers from here on are left out of a feature's mean and deviation. */
#define LARGEST_COUNTED 1e150

/* Codes there is room for in new lists. */
#define FIRST_CODES 64

const char *const feature_kind_labels[] = {
	"numeric", "category", "categories", "vector", NULL
};

/* A value of pgvector's type vector. */
typedef struct Pgvector
{
	int32		header;			/* of a varlena */
	int16		length;
	int16		unused;
	float		numbers[FLEXIBLE_ARRAY_MEMBER];
} Pgvector;

/* Readers by type, for numbers and for categories. */
static bool
NumberMethod(Oid type, ReadMethod *method)
{
	switch (type)
	{
		case INT2OID:
			*method = READ_INT2;
			return true;
		case INT4OID:
			*method = READ_INT4;
			return true;
		case INT8OID:
			*method = READ_INT8;
			return true;
		case FLOAT4OID:
			*method = READ_FLOAT4;
			return true;
		case FLOAT8OID:
			*method = READ_FLOAT8;
			return true;
		case NUMERICOID:
			*method = READ_NUMERIC;
			return true;
		case BOOLOID:
			*method = READ_BOOL;
			return true;
		case UNKNOWNOID:
			*method = READ_LITERAL;
			return true;
		default:
			return false;
	}
}

bool
NumberReaderInit(ColumnReader *reader, Oid type)
{
	return NumberMethod(getBaseType(type), &reader->method);
}

/* Whether values of the type are stored as text is. */
static bool
IsStoredAsText(Oid type)
{
	char		category;
	bool		preferred;

	if (type == TEXTOID || type == VARCHAROID)
		return true;
	get_type_category_preferred(type, &category, &preferred);
	return category == TYPCATEGORY_STRING && get_typlen(type) == -1 &&
		type != BPCHAROID;
}

bool
CategoryIsInteger(Oid type)
{
	type = getBaseType(type);
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

bool
CategoryReaderInit(ColumnReader *reader, bool is_integer, Oid type)
{
	Oid			send;
	bool		varlena;

	type = getBaseType(type);
	if (type == UNKNOWNOID)
	{
		reader->method = READ_LITERAL;
		return true;
	}

	/* an array of mixed values has them all as numbers, whole ones too */
	if (is_integer && type != BOOLOID)
		return NumberMethod(type, &reader->method);
	if (is_integer || CategoryIsInteger(type))
		return false;
	if (NumberMethod(type, &reader->method))
		return true;
	if (IsStoredAsText(type))
		reader->method = READ_TEXT;
	else if (type == BPCHAROID)
		reader->method = READ_BPCHAR;
	else if (type == NAMEOID)
		reader->method = READ_NAME;
	else if (type == CHAROID)
		reader->method = READ_CHAR;
	else if (type == UUIDOID)
		reader->method = READ_UUID;
	else if (type_is_enum(type))
		reader->method = READ_ENUM;
	else if (get_typtype(type) == TYPTYPE_BASE &&
			 get_element_type(type) == InvalidOid)
	{
		getTypeBinaryOutputInfo(type, &send, &varlena);
		fmgr_info(send, &reader->function);
		reader->method = READ_BINARY;
	}
	else
		return false;
	return true;
}

/* Whether the type is pgvector's, wherever that was installed. */
static bool
IsPgvector(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;
	bool		found;
	Oid			extension;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	found = strcmp(NameStr(form->typname), "vector") == 0 &&
		form->typtype == TYPTYPE_BASE && form->typlen == -1;
	ReleaseSysCache(tuple);
	if (!found)
		return false;
	extension = getExtensionOfObject(TypeRelationId, type);
	name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	return name && strcmp(name, "vector") == 0;
}

/* The type of an array's elements; invalid where the type is no array. */
static Oid
ElementType(Oid type)
{
	Oid			element = get_element_type(getBaseType(type));

	return OidIsValid(element) ? getBaseType(element) : InvalidOid;
}

bool
CategoriesAreInteger(Oid type)
{
	Oid			element = ElementType(type);

	return OidIsValid(element) && CategoryIsInteger(element);
}

/*
 * Sets up reading of a column as categories or a vector; false where a value
 * of the type is no such thing.
 */
static bool
ListReaderInit(ColumnReader *reader, FeatureKind kind, bool is_integer,
			   Oid type)
{
	type = getBaseType(type);
	reader->form = LIST_ARRAY;
	reader->element_type = ElementType(type);
	if (type == UNKNOWNOID)
	{
		reader->form = LIST_LITERAL;
		fmgr_info(F_ARRAY_IN, &reader->function);
		reader->element_type = kind == FEATURE_VECTOR ? FLOAT8OID :
			is_integer ? INT8OID : TEXTOID;
	}
	else if (kind == FEATURE_VECTOR && IsPgvector(type))
	{
		reader->form = LIST_PGVECTOR;
		return true;
	}
	if (!OidIsValid(reader->element_type))
		return false;
	get_typlenbyvalalign(reader->element_type, &reader->element_length,
						 &reader->element_by_value, &reader->element_align);
	return kind == FEATURE_VECTOR ?
		NumberReaderInit(reader, reader->element_type) :
		CategoryReaderInit(reader, is_integer, reader->element_type);
}

/* Whether a column of this type can be a feature of this kind. */
static bool
CanBe(Oid type, FeatureKind kind)
{
	ColumnReader reader;

	if (getBaseType(type) == UNKNOWNOID)
		return false;
	switch (kind)
	{
		case FEATURE_NUMERIC:
			return NumberReaderInit(&reader, type);
		case FEATURE_CATEGORY:
			return CategoryReaderInit(&reader, CategoryIsInteger(type), type);
		case FEATURE_CATEGORIES:
			return ListReaderInit(&reader, kind, CategoriesAreInteger(type),
								  type);
		case FEATURE_VECTOR:
			return ListReaderInit(&reader, kind, false, type);
	}
	return false;				/* keep compiler quiet */
}

/* Whether values of the type are a category without anybody saying so. */
static bool
IsCategory(Oid type)
{
	return IsStoredAsText(type) || type == BPCHAROID || type == NAMEOID ||
		type == CHAROID || type == UUIDOID || type_is_enum(type);
}

/* The kind that a suffix names. */
static FeatureKind
SuffixKind(const char *column, Oid type, const char *suffix)
{
	static const char *const what[] = {
		"numeric", "a category", "categories", "a vector"
	};
	static const char *const hints[] = {
		"Numeric features are of an integer, floating-point, numeric or boolean type.",
		"Put what identifies a value into one column of a view, as text or as a number.",
		"Categories are an array of values that can each be a category.",
		"Vectors are arrays of numbers, or of the type vector that pgvector has."
	};
	int			kind = 0;

	while (feature_kind_labels[kind] &&
		   strcmp(feature_kind_labels[kind], suffix) != 0)
		kind++;
	if (feature_kind_labels[kind] == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown feature kind \"%s\" of column \"%s\"",
						suffix, column),
				 errhint("Known kinds are numeric, category, categories and vector.")));
	if (!CanBe(type, kind))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot be %s",
						column, format_type_be(type), what[kind]),
				 errhint("%s", kind == FEATURE_CATEGORY &&
						 CanBe(type, FEATURE_CATEGORIES) ?
						 "Add \":categories\" for what an array holds." :
						 hints[kind])));
	return kind;
}

FeatureKind
FeatureKindOf(const char *column, Oid type, const char *suffix)
{
	Oid			base = getBaseType(type);
	Oid			element = ElementType(type);
	const char *hint;

	if (suffix)
		return SuffixKind(column, type, suffix);
	if (CanBe(type, FEATURE_NUMERIC))
		return FEATURE_NUMERIC;
	if (IsCategory(base))
		return FEATURE_CATEGORY;
	if (OidIsValid(element))
	{
		if (element == FLOAT4OID || element == FLOAT8OID)
			return FEATURE_VECTOR;
		if (IsCategory(element) || CategoryIsInteger(element))
			return FEATURE_CATEGORIES;
	}
	else if (CanBe(type, FEATURE_VECTOR))
		return FEATURE_VECTOR;

	switch (base)
	{
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case TIMEOID:
		case TIMETZOID:
		case INTERVALOID:
			hint = "Use a number made of it in a view, for example extract(epoch FROM %s).";
			break;
		case JSONOID:
		case JSONBOID:
			hint = "Use a field of it in a view, for example %s ->> 'color'.";
			break;
		default:
			if (CanBe(type, FEATURE_VECTOR))
				hint = "Add \":vector\" if %s holds as many numbers in every row, or \":categories\" if it holds any number of values.";
			else if (CanBe(type, FEATURE_CATEGORIES))
				hint = "Add \":categories\" to tell the values apart that %s holds.";
			else if (CanBe(type, FEATURE_CATEGORY))
				hint = "Use a number made of %s in a view, or add \":category\" to tell its values apart.";
			else
				hint = "Use a number or a text made of %s in a view.";
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of type %s cannot be a feature",
					column, format_type_be(type)),
			 errhint(hint, quote_identifier(column))));
	return FEATURE_NUMERIC;		/* keep compiler quiet */
}

double
ReadNumber(const ColumnReader *reader, Datum datum, bool isnull)
{
	if (isnull)
		return get_float8_nan();
	switch (reader->method)
	{
		case READ_INT2:
			return DatumGetInt16(datum);
		case READ_INT4:
			return DatumGetInt32(datum);
		case READ_INT8:
			return (double) DatumGetInt64(datum);
		case READ_FLOAT4:
			return DatumGetFloat4(datum);
		case READ_FLOAT8:
			return DatumGetFloat8(datum);
		case READ_NUMERIC:
			return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
													  datum));
		case READ_BOOL:
			return DatumGetBool(datum) ? 1 : 0;
		case READ_LITERAL:
			return DatumGetFloat8(DirectFunctionCall1(float8in, datum));
		default:
			elog(ERROR, "column reader %d reads no number", reader->method);
	}
	return 0;					/* keep compiler quiet */
}

/* The label of an enum's value. */
static char *
EnumLabel(Oid value)
{
	HeapTuple	tuple = SearchSysCache1(ENUMOID, ObjectIdGetDatum(value));
	char	   *label;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for enum value %u", value);
	label = pstrdup(NameStr(((Form_pg_enum) GETSTRUCT(tuple))->enumlabel));
	ReleaseSysCache(tuple);
	return label;
}

/* Bytes as bytea's hex format has them. */
static char *
HexText(const char *bytes, int length)
{
	char	   *text = palloc(2 + 2 * length + 1);

	memcpy(text, "\\x", 2);
	text[2 + hex_encode(bytes, length, text + 2)] = '\0';
	return text;
}

/* The integer that a floating-point number is; an error where it is none. */
static int64
WholeNumber(float8 number)
{
	if (number != rint(number) || !FLOAT8_FITS_IN_INT64(number))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("%g is no value of a category of integers", number)));
	return (int64) number;
}

void
ReadCategory(ColumnReader *reader, bool is_integer, Datum datum, bool isnull,
			 CategoryValue *value)
{
	value->isnull = isnull;
	value->integer = 0;
	value->text = NULL;
	value->length = -1;			/* until known: that of a C string */
	if (isnull)
		return;

	switch (reader->method)
	{
		case READ_INT2:
			value->integer = DatumGetInt16(datum);
			return;
		case READ_INT4:
			value->integer = DatumGetInt32(datum);
			return;
		case READ_INT8:
			value->integer = DatumGetInt64(datum);
			return;
		case READ_LITERAL:
			if (is_integer)
			{
				value->integer = DatumGetInt64(DirectFunctionCall1(int8in, datum));
				return;
			}
			value->text = DatumGetCString(datum);
			break;
		case READ_FLOAT4:
			if (is_integer)
			{
				value->integer = WholeNumber(DatumGetFloat4(datum));
				return;
			}
			else
			{
				char	   *text = palloc(FLOAT_SHORTEST_DECIMAL_LEN);

				float_to_shortest_decimal_buf(DatumGetFloat4(datum), text);
				value->text = text;
				break;
			}
		case READ_FLOAT8:
			if (is_integer)
			{
				value->integer = WholeNumber(DatumGetFloat8(datum));
				return;
			}
			else
			{
				char	   *text = palloc(DOUBLE_SHORTEST_DECIMAL_LEN);

				double_to_shortest_decimal_buf(DatumGetFloat8(datum), text);
				value->text = text;
				break;
			}
		case READ_NUMERIC:
			if (is_integer)
			{
				Datum		trimmed = DirectFunctionCall1(numeric_trim_scale, datum);

				if (numeric_is_nan(DatumGetNumeric(trimmed)) ||
					numeric_is_inf(DatumGetNumeric(trimmed)) ||
					DatumGetInt32(DirectFunctionCall1(numeric_scale, trimmed)) > 0)
					ereport(ERROR,
							(errcode(ERRCODE_DATATYPE_MISMATCH),
							 errmsg("%s is no value of a category of integers",
									DatumGetCString(DirectFunctionCall1(numeric_out, trimmed)))));
				value->integer = DatumGetInt64(DirectFunctionCall1(numeric_int8, trimmed));
				return;
			}

			/* 1.0 and 1.00 are one value */
			value->text = DatumGetCString(DirectFunctionCall1(numeric_out,
															  DirectFunctionCall1(numeric_trim_scale,
																				  datum)));
			break;
		case READ_BOOL:
			value->text = DatumGetBool(datum) ? "true" : "false";
			break;
		case READ_TEXT:
		case READ_BPCHAR:
			{
				text	   *t = DatumGetTextPP(datum);

				value->text = VARDATA_ANY(t);
				value->length = VARSIZE_ANY_EXHDR(t);
				if (reader->method == READ_BPCHAR)
					value->length = bpchartruelen(unconstify(char *, value->text),
												  value->length);
				break;
			}
		case READ_NAME:
			value->text = NameStr(*DatumGetName(datum));
			break;
		case READ_CHAR:
			{
				unsigned char c = (unsigned char) DatumGetChar(datum);

				/* as the type's output has it: one byte may be no character */
				value->text = IS_HIGHBIT_SET(c) ? psprintf("\\%03o", c) :
					psprintf("%c", c);
				break;
			}
		case READ_UUID:
			value->text = DatumGetCString(DirectFunctionCall1(uuid_out, datum));
			break;
		case READ_ENUM:
			value->text = EnumLabel(DatumGetObjectId(datum));
			break;
		case READ_BINARY:
			{
				bytea	   *sent = SendFunctionCall(&reader->function, datum);

				value->text = HexText(VARDATA(sent), VARSIZE(sent) - VARHDRSZ);
				break;
			}
	}
	if (value->length < 0)
		value->length = strlen(value->text);

	/* a network's file is UTF-8; this encoding alone may hold anything else */
	if (GetDatabaseEncoding() == PG_SQL_ASCII &&
		!pg_verify_mbstr(PG_UTF8, value->text, value->length, true))
	{
		value->text = HexText(value->text, value->length);
		value->length = strlen(value->text);
	}
}

/*
 * The elements of an array, or of a literal that is read as one; returns how
 * many there are.
 */
static int
ReadList(ColumnReader *reader, const Feature *feature, Datum datum,
		 Datum **values, bool **nulls)
{
	ArrayType  *array;
	int			count;

	if (reader->form == LIST_LITERAL)
	{
		char	   *text = DatumGetCString(datum);
		int			length = strlen(text);

		/* pgvector's vectors have brackets, in which arrays have bounds */
		if (feature->kind == FEATURE_VECTOR && length > 1 && text[0] == '[' &&
			text[length - 1] == ']')
			text = psprintf("{%.*s}", length - 2, text + 1);
		datum = InputFunctionCall(&reader->function, text,
								  reader->element_type, -1);
	}
	array = DatumGetArrayTypeP(datum);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("array of feature \"%s\" has %d dimensions, where one is expected",
						feature->name, ARR_NDIM(array))));

	/* elements may be of a domain over the type */
	deconstruct_array(array, ARR_ELEMTYPE(array), reader->element_length,
					  reader->element_by_value, reader->element_align, values,
					  nulls, &count);
	return count;
}

int
ReadCategories(ColumnReader *reader, const Feature *feature, Datum datum,
			   bool isnull, CategoryValue **values)
{
	Datum	   *elements;
	bool	   *nulls;
	int			given = isnull ? 0 :
		ReadList(reader, feature, datum, &elements, &nulls);
	int			count = 0;

	*values = given == 0 ? NULL :
		palloc_extended(mul_size(given, sizeof(CategoryValue)),
						MCXT_ALLOC_HUGE);
	for (int i = 0; i < given; i++)
		if (!nulls[i])
			ReadCategory(reader, feature->vocabulary.is_integer, elements[i],
						 false, &(*values)[count++]);
	if (!isnull)
	{
		pfree(elements);
		pfree(nulls);
	}
	return count;
}

static void
CheckVectorLength(const Feature *feature, int expected, int found)
{
	if (found != expected)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("vector \"%s\" has length %d, where %d is expected",
						feature->name, found, expected),
				 errdetail("The length is that of the vectors in the training rows.")));
}

int
ReadVector(ColumnReader *reader, const Feature *feature, Datum datum,
		   double **numbers)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	if (reader->form == LIST_PGVECTOR)
	{
		const Pgvector *vector = (Pgvector *) PG_DETOAST_DATUM(datum);

		count = vector->length;
		if (VARSIZE(vector) != offsetof(Pgvector, numbers) +
			count * sizeof(float))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("vector \"%s\" is not as pgvector has it",
							feature->name)));
		*numbers = palloc(sizeof(double) * Max(count, 1));
		for (int i = 0; i < count; i++)
			(*numbers)[i] = vector->numbers[i];
		return count;
	}
	count = ReadList(reader, feature, datum, &elements, &nulls);
	*numbers = palloc_extended(mul_size(Max(count, 1), sizeof(double)),
							   MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
		(*numbers)[i] = ReadNumber(reader, elements[i], nulls[i]);
	pfree(elements);
	pfree(nulls);
	return count;
}

/* What a feature's column has to hold, for a message. */
static const char *
FeatureHolds(const Feature *feature)
{
	switch (feature->kind)
	{
		case FEATURE_NUMERIC:
			return "numbers";
		case FEATURE_CATEGORY:
			return feature->vocabulary.is_integer ?
				"a category of integers" : "a category of texts";
		case FEATURE_CATEGORIES:
			return feature->vocabulary.is_integer ?
				"arrays of integers" : "arrays of texts";
		case FEATURE_VECTOR:
			return "vectors";
	}
	return NULL;				/* keep compiler quiet */
}

void
FeatureReaderInit(ColumnReader *reader, const Feature *feature, Oid type)
{
	bool		is_integer = HasTable(feature) &&
		feature->vocabulary.is_integer;
	bool		found;

	if (HasLists(feature))
		found = ListReaderInit(reader, feature->kind, is_integer, type);
	else if (feature->kind == FEATURE_NUMERIC)
		found = NumberReaderInit(reader, type);
	else
		found = CategoryReaderInit(reader, is_integer, type);

	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("feature \"%s\" was trained on %s, not on type %s",
						feature->name, FeatureHolds(feature),
						format_type_be(type)),
				 errhint("Cast the value, or train the model again.")));
}

static void
FeatureErrorContext(void *arg)
{
	errcontext("feature \"%s\"", ((const Feature *) arg)->name);
}

static bool
IsPlainNumber(ReadMethod method)
{
	return method <= READ_FLOAT8 || method == READ_BOOL;
}

/*
 * Adds an empty list of so many codes; the code becomes its.  Returns where
 * they go.
 */
static FeatureCode *
AddList(CodeLists *lists, int count, FeatureCode *code)
{
	FeatureCode *list;

	if (count >= PG_INT32_MAX - lists->used)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("arrays and vectors of the rows at work have more than %d elements",
						PG_INT32_MAX)));
	if (lists->used + count >= lists->room)
	{
		int64		room = Max(lists->room, FIRST_CODES);
		Size		size;

		while (lists->used + count >= room)
			room = Min(2 * room, PG_INT32_MAX);
		size = mul_size(room, sizeof(FeatureCode));
		lists->codes = lists->codes ? repalloc_huge(lists->codes, size) :
			MemoryContextAllocHuge(lists->context, size);
		lists->room = (int) room;
	}
	code->row = -1 - lists->used;
	list = lists->codes + lists->used;
	list->count = count;
	lists->used += 1 + count;
	return list + 1;
}

static int
CompareRows(const void *a, const void *b)
{
	int32		x = ((const FeatureCode *) a)->row;
	int32		y = ((const FeatureCode *) b)->row;

	return (x > y) - (x < y);
}

/* In the order of their rows: the order of an array means nothing. */
static FeatureCode
CategoriesCode(ColumnReader *reader, const Feature *feature, Datum datum,
			   bool isnull, CodeLists *lists)
{
	FeatureCode code = {.row = VOCABULARY_NULL_ROW};
	CategoryValue *values;
	int			count = ReadCategories(reader, feature, datum, isnull,
									   &values);
	int			before = lists->used;
	FeatureCode *rows;

	if (count == 0)
		return code;
	rows = AddList(lists, count, &code);
	for (int i = 0; i < count; i++)
		rows[i].row = VocabularyRow(&feature->vocabulary, &values[i]);
	qsort(rows, count, sizeof(FeatureCode), CompareRows);
	if (rows[0].row == rows[count - 1].row)
	{
		code = rows[0];
		lists->used = before;
	}
	return code;
}

/* The same bytes for numbers that are the same to the network. */
static FeatureCode
VectorCode(ColumnReader *reader, const Feature *feature, Datum datum,
		   bool isnull, CodeLists *lists)
{
	FeatureCode code = {.row = VOCABULARY_NULL_ROW};
	double	   *numbers;
	FeatureCode *list;

	if (isnull)
		return code;
	CheckVectorLength(feature, feature->size,
					  ReadVector(reader, feature, datum, &numbers));
	list = AddList(lists, feature->size, &code);
	for (int i = 0; i < feature->size; i++)
	{
		const VectorElement *element = &feature->elements[i];
		float		number = Standardize(numbers[i], element->mean,
										 element->scale);

		list[i].number = isnan(number) || number == 0 ? 0 : number;
	}
	pfree(numbers);
	return code;
}

static FeatureCode
CategoryCode(ColumnReader *reader, const Feature *feature, Datum datum,
			 bool isnull)
{
	CategoryValue value;
	FeatureCode code;

	ReadCategory(reader, feature->vocabulary.is_integer, datum, isnull,
				 &value);
	code.row = VocabularyRow(&feature->vocabulary, &value);
	return code;
}

static FeatureCode
NumberCode(const ColumnReader *reader, const Feature *feature, Datum datum,
		   bool isnull)
{
	FeatureCode code;

	code.number = Standardize(ReadNumber(reader, datum, isnull),
							  feature->mean, feature->scale);
	return code;
}

FeatureCode
ReadFeature(ColumnReader *reader, const Feature *feature, Datum datum,
			bool isnull, CodeLists *lists)
{
	FeatureCode code;
	ErrorContextCallback callback;

	/* what cannot fail needs no context, and is most of what there is */
	if (feature->kind == FEATURE_NUMERIC && IsPlainNumber(reader->method))
		return NumberCode(reader, feature, datum, isnull);

	callback.callback = FeatureErrorContext;
	callback.arg = unconstify(Feature *, feature);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (feature->kind == FEATURE_NUMERIC)
		code = NumberCode(reader, feature, datum, isnull);
	else if (feature->kind == FEATURE_CATEGORY)
		code = CategoryCode(reader, feature, datum, isnull);
	else if (feature->kind == FEATURE_CATEGORIES)
		code = CategoriesCode(reader, feature, datum, isnull, lists);
	else
		code = VectorCode(reader, feature, datum, isnull, lists);
	error_context_stack = callback.previous;
	return code;
}

FeatureCode
NeutralCode(const Feature *feature, FeatureCode code, CodeLists *lists)
{
	FeatureCode neutral = {.number = 0};

	if (feature->kind == FEATURE_VECTOR)
	{
		FeatureCode *numbers = AddList(lists, feature->size, &neutral);

		for (int i = 0; i < feature->size; i++)
			numbers[i].number = 0;
	}
	else if (HasTable(feature))
		neutral.row = VocabularyOutsideRow(&feature->vocabulary,
										   Max(code.row, VOCABULARY_NULL_ROW));
	return neutral;
}

void
ReadColumns(ColumnReader *readers, const Encoder *encoder, int count,
			 const Datum *values, const bool *isnull, FeatureCode *codes,
			 CodeLists *lists)
{
	for (int f = 0; f < count; f++)
	{
		const Feature *feature = &encoder->features[f];

		/* the kind of which there are most, without a call */
		if (feature->kind == FEATURE_NUMERIC && !isnull[f] &&
			readers[f].method == READ_FLOAT4)
			codes[f].number = Standardize(DatumGetFloat4(values[f]),
										  feature->mean, feature->scale);
		else
			codes[f] = ReadFeature(&readers[f], feature, values[f], isnull[f],
								   lists);
	}
}

void
FeaturePlacesInit(FeaturePlaces *features, const ColumnReader *readers,
				  const Encoder *encoder, int count,
				  const ColumnPlace *places)
{
	features->count = count;
	features->place = places;
	features->numbers = palloc0(sizeof(int) * Max(count, 1));
	features->mean = palloc0(sizeof(double) * Max(count, 1));
	features->scale = palloc0(sizeof(double) * Max(count, 1));
	for (int f = count - 1; f >= 0; f--)
	{
		const Feature *feature = &encoder->features[f];
		bool		beside = f + 1 < count &&
			places[f + 1].at == places[f].at + (int) sizeof(float4);

		if (feature->kind != FEATURE_NUMERIC ||
			readers[f].method != READ_FLOAT4)
			continue;
		features->numbers[f] = 1 + (beside ? features->numbers[f + 1] : 0);
		features->mean[f] = feature->mean;
		features->scale[f] = feature->scale;
	}
}

void
ReadColumnsInPlace(ColumnReader *readers, const Encoder *encoder,
				   const FeaturePlaces *features, const char *data,
				   FeatureCode *codes, CodeLists *lists)
{
	StaticAssertStmt(sizeof(FeatureCode) == sizeof(float),
					 "numbers are read as an array of codes");

	for (int f = 0; f < features->count;)
	{
		const ColumnPlace *place = &features->place[f];
		int			numbers = features->numbers[f];

		if (numbers > 0)
		{
			standardize_all(numbers, data + place->at, features->mean + f,
							features->scale + f, ENCODER_CLIP,
							&codes[f].number);
			f += numbers;
			continue;
		}
		codes[f] = ReadFeature(&readers[f], &encoder->features[f],
							   ColumnInPlace(data, place), false, lists);
		f++;
	}
}

void
MoveCode(const Feature *feature, FeatureCode *code, const FeatureCode *from,
		 CodeLists *to)
{
	const FeatureCode *list;
	FeatureCode *copy;

	if (!HasLists(feature) || code->row >= 0)
		return;
	list = CodeList(*code, from);
	copy = AddList(to, list->count, code);
	memcpy(copy, list + 1, sizeof(FeatureCode) * list->count);
}

void
MoveCodes(const Encoder *encoder, FeatureCode *codes, const FeatureCode *from,
		  CodeLists *to)
{
	for (int f = 0; encoder->has_lists && f < encoder->count; f++)
		MoveCode(&encoder->features[f], &codes[f], from, to);
}

/* Whether numbers as standardised; NaN is what is missing. */
static bool
NumbersAreValid(int count, const FeatureCode *codes)
{
	for (int i = 0; i < count; i++)
		if (fabsf(codes[i].number) > ENCODER_CLIP)
			return false;
	return true;
}

static bool
RowsAreValid(const Vocabulary *vocabulary, int count, const FeatureCode *codes)
{
	for (int i = 0; i < count; i++)
		if (codes[i].row < 0 || codes[i].row >= VocabularyRows(vocabulary))
			return false;
	return true;
}

bool
CodesAreValid(const Encoder *encoder, const FeatureCode *codes,
			  const FeatureCode *lists, int length)
{
	for (int f = 0; f < encoder->count; f++)
	{
		const Feature *feature = &encoder->features[f];
		const FeatureCode *code = &codes[f];
		int			count = 1;

		if (HasLists(feature) && code->row < 0)
		{
			int			at = -1 - code->row;

			if (at >= length || lists[at].count < 0 ||
				lists[at].count > length - at - 1)
				return false;
			count = lists[at].count;
			code = lists + at + 1;
		}
		switch (feature->kind)
		{
			case FEATURE_NUMERIC:
				if (!NumbersAreValid(1, code))
					return false;
				break;
			case FEATURE_CATEGORY:
			case FEATURE_CATEGORIES:
				if (count == 0 ||
					!RowsAreValid(&feature->vocabulary, count, code))
					return false;
				break;
			case FEATURE_VECTOR:
				if (code == &codes[f] ? code->row != VOCABULARY_NULL_ROW :
					count != feature->size || !NumbersAreValid(count, code))
					return false;
				break;
		}
	}
	return true;
}

float
EncodeList(const Feature *feature, FeatureCode code, const FeatureCode *lists,
		   float *at)
{
	const FeatureCode *rows;
	int			count;
	int			size = feature->size;
	float		share;
	float		wide = 0;

	if (feature->kind == FEATURE_VECTOR)
	{
		bool		missing = code.row >= 0;

		if (missing)
			memset(at, 0, size * sizeof(float));
		else
			memcpy(at, CodeList(code, lists) + 1, size * sizeof(float));
		if (feature->missing_flag)
			at[size] = missing ? 1 : 0;
		return 0;
	}

	rows = CodeRows(&code, lists, &count);
	share = 1.0f / count;
	memset(at, 0, size * sizeof(float));
	for (int r = 0; r < count; r++)
	{
		const float *vector = feature->vectors + (Size) rows[r].row * size;

		for (int i = 0; i < size; i++)
			at[i] += vector[i];
		if (feature->wide)
			wide += feature->wide[rows[r].row];
	}
	for (int i = 0; i < size; i++)
		at[i] *= share;
	return wide * share;
}

void
EncoderLayout(Encoder *encoder)
{
	encoder->width = 0;
	encoder->has_lists = false;
	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		feature->at = encoder->width;
		feature->width = feature->kind == FEATURE_NUMERIC ? 1 : feature->size;
		if (!HasTable(feature) && feature->missing_flag)
			feature->width++;
		encoder->width += feature->width;
		encoder->has_lists = encoder->has_lists || HasLists(feature);
	}
	for (int f = encoder->count - 1; f >= 0; f--)
	{
		Feature    *feature = &encoder->features[f];

		feature->plain = 0;
		if (feature->kind == FEATURE_NUMERIC && !feature->missing_flag)
			feature->plain = 1 +
				(f + 1 < encoder->count ? feature[1].plain : 0);
	}
}

float
Encode(const Encoder *encoder, const FeatureCode *codes,
	   const FeatureCode *lists, float *encoding)
{
	float		offset = 0;
	int			f = 0;

	while (f < encoder->count)
	{
		const Feature *feature = &encoder->features[f];
		float	   *at = encoding + feature->at;

		if (feature->plain == 0)
		{
			offset += EncodeCode(feature, codes[f++], lists, encoding);
			continue;
		}
		for (int i = 0; i < feature->plain; i++)
			at[i] = isnan(codes[f + i].number) ? 0 : codes[f + i].number;
		f += feature->plain;
	}
	return offset;
}

void
NumberStatisticsAdd(NumberStatistics *statistics, double number)
{
	double		distance = number - statistics->mean;

	if (isnan(number))
		statistics->missing++;

	/* infinities, and what has no square, say nothing of mean and deviation */
	if (!(fabs(number) < LARGEST_COUNTED))
		return;
	statistics->count++;
	statistics->mean += distance / statistics->count;
	statistics->squares += distance * (number - statistics->mean);
}

/*
 * The mean and deviation that numbers are standardised by.  Returns whether
 * they do not vary.
 */
static bool
Deviation(const NumberStatistics *statistics, double *mean, double *sd,
		  double *scale)
{
	double		variance = statistics->count > 0 ?
		statistics->squares / statistics->count : 0;

	*mean = statistics->mean;

	/* a constant tells rows apart only by being there or not */
	*sd = variance > 0 ? sqrt(variance) : 1;
	*scale = 1 / *sd;
	return variance == 0;
}

void
NumberStatisticsFeature(const NumberStatistics *statistics, Feature *feature)
{
	feature->inert = Deviation(statistics, &feature->mean, &feature->sd,
							   &feature->scale);
	feature->missing_flag = statistics->missing > 0 && statistics->count > 0;
}

void
VectorStatisticsAdd(VectorStatistics *statistics, ColumnReader *reader,
					const Feature *feature, Datum datum, bool isnull)
{
	double	   *numbers;
	int			length;

	if (isnull)
	{
		statistics->missing = true;
		return;
	}
	length = ReadVector(reader, feature, datum, &numbers);
	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("vector \"%s\" of a training row is empty",
						feature->name),
				 errhint("A vector that is not known is NULL.")));
	if (length > ENCODER_MAX_WIDTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("vector \"%s\" has length %d, which exceeds %d",
						feature->name, length, ENCODER_MAX_WIDTH)));
	if (statistics->length == 0)
	{
		statistics->length = length;
		statistics->elements =
			MemoryContextAllocZero(statistics->context,
								   sizeof(NumberStatistics) * length);
	}
	CheckVectorLength(feature, statistics->length, length);
	for (int i = 0; i < length; i++)
		NumberStatisticsAdd(&statistics->elements[i], numbers[i]);
	pfree(numbers);
}

void
VectorStatisticsFeature(const VectorStatistics *statistics, Feature *feature)
{
	if (statistics->length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("vector \"%s\" is null in all training rows",
						feature->name),
				 errdetail("The length is that of the vectors in the training rows.")));
	feature->size = statistics->length;
	feature->elements = palloc(sizeof(VectorElement) * feature->size);
	feature->missing_flag = statistics->missing;
	feature->inert = true;
	for (int i = 0; i < feature->size; i++)
	{
		VectorElement *element = &feature->elements[i];

		element->inert = Deviation(&statistics->elements[i], &element->mean,
								   &element->sd, &element->scale);
		feature->inert = feature->inert && element->inert;
	}
}
