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
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "model/encoder.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

/* Numbers from here on are left out of a feature's mean and deviation. */
#define LARGEST_COUNTED 1e150

const char *const feature_kind_labels[] = {"numeric", "category", NULL};

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
		fmgr_info(send, &reader->send);
		reader->method = READ_BINARY;
	}
	else
		return false;
	return true;
}

FeatureKind
FeatureKindOf(const char *column, Oid type, const char *suffix)
{
	Oid			base = getBaseType(type);
	ColumnReader reader;
	const char *hint;

	if (suffix && strcmp(suffix, "category") == 0)
	{
		if (!CategoryReaderInit(&reader, CategoryIsInteger(type), type))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of type %s cannot be a category",
							column, format_type_be(type)),
					 errhint("Put what identifies a value into one column of a view, as text or as a number.")));
		return FEATURE_CATEGORY;
	}
	if (suffix && strcmp(suffix, "numeric") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown feature kind \"%s\" of column \"%s\"",
						suffix, column),
				 errhint("Known kinds are numeric and category.")));
	if (NumberMethod(base, &reader.method) && base != UNKNOWNOID)
		return FEATURE_NUMERIC;
	if (suffix)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot be numeric",
						column, format_type_be(type)),
				 errhint("Numeric features are of an integer, floating-point, numeric or boolean type.")));
	if (IsStoredAsText(base) || base == BPCHAROID || base == NAMEOID ||
		base == CHAROID || base == UUIDOID || type_is_enum(base))
		return FEATURE_CATEGORY;

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
			hint = CategoryReaderInit(&reader, false, type) ?
				"Use a number made of %s in a view, or add \":category\" to tell its values apart." :
				"Use a number or a text made of %s in a view.";
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
				bytea	   *sent = SendFunctionCall(&reader->send, datum);

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

void
FeatureReaderInit(ColumnReader *reader, const Feature *feature, Oid type)
{
	bool		is_integer = feature->kind == FEATURE_CATEGORY &&
		feature->vocabulary.is_integer;
	bool		found = feature->kind == FEATURE_NUMERIC ?
		NumberReaderInit(reader, type) :
		CategoryReaderInit(reader, is_integer, type);

	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("feature \"%s\" was trained on %s, not on type %s",
						feature->name,
						feature->kind == FEATURE_NUMERIC ? "numbers" :
						is_integer ? "a category of integers" :
						"a category of texts",
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

FeatureCode
ReadFeature(ColumnReader *reader, const Feature *feature, Datum datum,
			bool isnull)
{
	FeatureCode code;
	ErrorContextCallback callback;

	/* what cannot fail needs no context, and is most of what there is */
	if (feature->kind == FEATURE_NUMERIC && IsPlainNumber(reader->method))
	{
		code.number = StandardizeNumber(feature,
										ReadNumber(reader, datum, isnull));
		return code;
	}

	callback.callback = FeatureErrorContext;
	callback.arg = unconstify(Feature *, feature);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (feature->kind == FEATURE_NUMERIC)
		code.number = StandardizeNumber(feature,
										ReadNumber(reader, datum, isnull));
	else
	{
		CategoryValue value;

		ReadCategory(reader, feature->vocabulary.is_integer, datum, isnull,
					 &value);
		code.row = VocabularyRow(&feature->vocabulary, &value);
	}
	error_context_stack = callback.previous;
	return code;
}

FeatureCode
NeutralCode(const Feature *feature, FeatureCode code)
{
	if (feature->kind == FEATURE_NUMERIC)
		return (FeatureCode) {.number = 0};
	return (FeatureCode)
	{
		.row = VocabularyOutsideRow(&feature->vocabulary, code.row)
	};
}

void
EncoderLayout(Encoder *encoder)
{
	encoder->width = 0;
	for (int f = 0; f < encoder->count; f++)
	{
		Feature    *feature = &encoder->features[f];

		feature->at = encoder->width;
		if (feature->kind == FEATURE_NUMERIC)
			feature->width = feature->missing_flag ? 2 : 1;
		else
			feature->width = feature->size;
		encoder->width += feature->width;
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
Encode(const Encoder *encoder, const FeatureCode *codes, float *encoding)
{
	float		offset = 0;
	int			f = 0;

	while (f < encoder->count)
	{
		const Feature *feature = &encoder->features[f];
		float	   *at = encoding + feature->at;

		if (feature->plain == 0)
		{
			offset += EncodeCode(feature, codes[f++], encoding);
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

void
NumberStatisticsFeature(const NumberStatistics *statistics, Feature *feature)
{
	double		variance = statistics->count > 0 ?
		statistics->squares / statistics->count : 0;

	feature->mean = statistics->mean;

	/* a constant tells rows apart only by being there or not */
	feature->sd = variance > 0 ? sqrt(variance) : 1;
	feature->scale = 1 / feature->sd;
	feature->missing_flag = statistics->missing > 0 && statistics->count > 0;
	feature->inert = variance == 0;
}
