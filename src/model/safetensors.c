/*-------------------------------------------------------------------------
 *
 * safetensors.c
 *	  Reading and writing safetensors files.
 *
 * A file may come from anywhere: every length and offset is checked against
 * the bytes there are before it is used.  The JSON is the server's to parse.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "model/safetensors.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"

#include "compat.h"

#ifdef WORDS_BIGENDIAN
#error "safetensors files are little-endian, and so must the processor be"
#endif

/* The format's own bound on a header. */
#define MAX_HEADER_BYTES 100000000

/* A larger bytea could be stored, but as text, as in a dump, not be read. */
#define MAX_FILE_BYTES ((MaxAllocSize - 1024) / 2)

#define LENGTH_BYTES 8
#define DIGEST_HEX (2 * SAFETENSORS_DIGEST_BYTES)
#define FIRST_KEYS "{\"__metadata__\":{\"digest\":\""

StaticAssertDecl(SAFETENSORS_DIGEST_BYTES == PG_SHA256_DIGEST_LENGTH,
				 "a digest is a SHA-256");

pg_noreturn static void BadFile(const char *format,...) pg_attribute_printf(1, 2);

static void
BadFile(const char *format,...)
{
	StringInfoData detail;
	va_list		args;
	int			needed;

	initStringInfo(&detail);
	do
	{
		va_start(args, format);
		needed = appendStringInfoVA(&detail, format, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&detail, needed);
	} while (needed > 0);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("invalid safetensors file: %s", detail.data)));
}

static void
HeaderErrorContext(void *arg)
{
	errcontext("header of a safetensors file");
}

/* SHA-256 of the file with zeros in place of the digest at `at`. */
static void
FileDigest(const char *bytes, Size length, Size at, uint8 *digest)
{
	static const char zeros[DIGEST_HEX + 1] =
		"0000000000000000000000000000000000000000000000000000000000000000";
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (context == NULL ||
		pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) bytes, at) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) zeros, DIGEST_HEX) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) bytes + at + DIGEST_HEX,
							 length - at - DIGEST_HEX) < 0 ||
		pg_cryptohash_final(context, digest, SAFETENSORS_DIGEST_BYTES) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(context);
}

void
SafetensorsPreload(void)
{
	static const char file[DIGEST_HEX];
	uint8		digest[SAFETENSORS_DIGEST_BYTES];
	ResourceOwner outer = CurrentResourceOwner;
	ResourceOwner owner = ResourceOwnerCreate(NULL, "limaml digest");

	/* the postmaster has no owner of what a digest takes */
	CurrentResourceOwner = owner;
	FileDigest(file, sizeof(file), 0, digest);
	CurrentResourceOwner = outer;
	ResourceOwnerDelete(owner);
}

/* A non-negative integer of the header. */
static int64
HeaderInteger(const JsonbValue *value, const char *tensor)
{
	Datum		number;

	if (value->type != jbvNumeric ||
		numeric_is_nan(value->val.numeric) ||
		!DatumGetBool(DirectFunctionCall2(numeric_ge,
										  NumericGetDatum(value->val.numeric),
										  DirectFunctionCall1(int8_numeric, Int64GetDatum(0)))) ||
		!DatumGetBool(DirectFunctionCall2(numeric_le,
										  NumericGetDatum(value->val.numeric),
										  DirectFunctionCall1(int8_numeric, Int64GetDatum(PG_INT32_MAX)))))
		BadFile("tensor \"%s\" has a size or offset that is no integer from 0 to %d",
				tensor, PG_INT32_MAX);
	number = NumericGetDatum(value->val.numeric);
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, number,
										  DirectFunctionCall2(numeric_trunc, number,
															  Int32GetDatum(0)))))
		BadFile("tensor \"%s\" has a size or offset that is not an integer",
				tensor);
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
}

/* The integers of an array; returns how many, at most `most`. */
static int
HeaderIntegers(JsonbContainer *object, const char *key, const char *tensor,
			   int most, int64 *integers)
{
	JsonbValue *array = getKeyJsonValueFromContainer(object, key, strlen(key),
													 NULL);
	int			count;

	if (array == NULL || array->type != jbvBinary ||
		!JsonContainerIsArray(array->val.binary.data) ||
		JsonContainerIsScalar(array->val.binary.data))
		BadFile("tensor \"%s\" has no array \"%s\"", tensor, key);
	count = JsonContainerSize(array->val.binary.data);
	if (count > most)
		BadFile("\"%s\" of tensor \"%s\" has more than %d numbers", key,
				tensor, most);
	for (int i = 0; i < count; i++)
		integers[i] = HeaderInteger(getIthJsonbValueFromContainer(array->val.binary.data, i),
									tensor);
	return count;
}

typedef struct TensorPlace
{
	SafetensorsTensor *tensor;
	int64		begin;
	int64		end;
} TensorPlace;

static int
ComparePlaces(const ListCell *a, const ListCell *b)
{
	const TensorPlace *x = lfirst(a);
	const TensorPlace *y = lfirst(b);

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return (x->end > y->end) - (x->end < y->end);
}

static TensorPlace *
ReadTensor(const char *name, const JsonbValue *value, const char *data,
		   Size data_length)
{
	TensorPlace *place = palloc0(sizeof(TensorPlace));
	SafetensorsTensor *tensor = palloc0(sizeof(SafetensorsTensor));
	JsonbContainer *object;
	JsonbValue *dtype;
	int64		offsets[2];
	int64		numbers = 1;

	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		BadFile("tensor \"%s\" is not described by an object", name);
	object = value->val.binary.data;
	dtype = getKeyJsonValueFromContainer(object, "dtype", 5, NULL);
	if (dtype == NULL || dtype->type != jbvString ||
		dtype->val.string.len != 3 || memcmp(dtype->val.string.val, "F32", 3) != 0)
		BadFile("tensor \"%s\" is not of dtype F32", name);

	tensor->name = name;
	tensor->dimensions = HeaderIntegers(object, "shape", name, 2,
										tensor->shape);
	if (tensor->dimensions == 0)
		BadFile("tensor \"%s\" has no dimensions", name);
	for (int d = 0; d < tensor->dimensions; d++)
		numbers *= tensor->shape[d];	/* under 2^62 */
	if (HeaderIntegers(object, "data_offsets", name, 2, offsets) != 2)
		BadFile("\"data_offsets\" of tensor \"%s\" is not a pair", name);
	if (offsets[0] > offsets[1] || (uint64) offsets[1] > data_length)
		BadFile("tensor \"%s\" lies outside of the file", name);
	if (numbers > PG_INT32_MAX ||
		offsets[1] - offsets[0] != numbers * (int64) sizeof(float))
		BadFile("tensor \"%s\" has another length than its shape says", name);

	tensor->numbers = (const float *) (data + offsets[0]);
	place->tensor = tensor;
	place->begin = offsets[0];
	place->end = offsets[1];
	return place;
}

static List *
ReadMetadata(const JsonbValue *value)
{
	List	   *metadata = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		BadFile("\"__metadata__\" is not an object");
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
		{
			SafetensorsMetadata *m = palloc(sizeof(SafetensorsMetadata));

			if (v.type != jbvString)
				BadFile("\"%s\" of \"__metadata__\" is not a string", key);
			m->key = key;
			m->value = pnstrdup(v.val.string.val, v.val.string.len);
			metadata = lappend(metadata, m);
		}
	}
	return metadata;
}

/*
 * Checks the digest that the metadata gives, wherever in the header it is.  Of
 * a file that is known it is right.
 */
static void
CheckDigest(Safetensors *safetensors, const char *bytes, Size length,
			Size header_length, bool known)
{
	const char *hex = SafetensorsGetMetadata(safetensors, "digest");
	const char *found;
	uint8		given[SAFETENSORS_DIGEST_BYTES];

	if (hex == NULL)
		return;
	if (strlen(hex) != DIGEST_HEX || strspn(hex, "0123456789abcdef") != DIGEST_HEX)
		BadFile("its digest is not %d hexadecimal digits", DIGEST_HEX);
	hex_decode(hex, DIGEST_HEX, (char *) given);
	found = memmem(bytes + LENGTH_BYTES, header_length, hex, DIGEST_HEX);
	if (found == NULL)
		BadFile("its digest is not written plainly");
	if (known)
		memcpy(safetensors->digest, given, SAFETENSORS_DIGEST_BYTES);
	else
		FileDigest(bytes, length, found - bytes, safetensors->digest);
	if (memcmp(given, safetensors->digest, SAFETENSORS_DIGEST_BYTES) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("invalid safetensors file: its digest does not match its content"),
				 errhint("If the file was changed on purpose, remove \"digest\" from its metadata.")));
	safetensors->has_digest = true;
}

Safetensors *
SafetensorsRead(const char *bytes, Size length, bool known)
{
	Safetensors *safetensors = palloc0(sizeof(Safetensors));
	ErrorContextCallback callback;
	uint64		header_length;
	char	   *header;
	Jsonb	   *json;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;
	List	   *places = NIL;
	ListCell   *lc;
	int64		covered = 0;

	if (length < LENGTH_BYTES)
		BadFile("it has %zu bytes, fewer than a header's length takes", length);
	memcpy(&header_length, bytes, LENGTH_BYTES);
	if (header_length > MAX_HEADER_BYTES ||
		header_length > length - LENGTH_BYTES)
		BadFile("its header of " UINT64_FORMAT " bytes does not fit in %zu bytes",
				header_length, length);
	if (memchr(bytes + LENGTH_BYTES, '\0', header_length))
		BadFile("its header has a zero byte");

	callback.callback = HeaderErrorContext;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	header = pnstrdup(bytes + LENGTH_BYTES, header_length);
	header = pg_any_to_server(header, header_length, PG_UTF8);
	json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(header)));
	error_context_stack = callback.previous;
	if (!JB_ROOT_IS_OBJECT(json))
		BadFile("its header is not an object");

	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && strcmp(name, "__metadata__") == 0)
			safetensors->metadata = ReadMetadata(&v);
		else if (token == WJB_VALUE)
			places = lappend(places,
							 ReadTensor(name, &v,
										bytes + LENGTH_BYTES + header_length,
										length - LENGTH_BYTES - header_length));
	}

	/* the format wants every byte to belong to one tensor */
	list_sort(places, ComparePlaces);
	foreach(lc, places)
	{
		TensorPlace *place = lfirst(lc);

		if (place->begin != covered)
			BadFile("tensor \"%s\" does not begin where the one before it ends",
					place->tensor->name);
		covered = place->end;
		safetensors->tensors = lappend(safetensors->tensors, place->tensor);
	}
	if ((uint64) covered != length - LENGTH_BYTES - header_length)
		BadFile("it has %zu bytes after its last tensor",
				(Size) (length - LENGTH_BYTES - header_length - covered));

	CheckDigest(safetensors, bytes, length, header_length, known);
	return safetensors;
}

bool
SafetensorsStartDigest(const char *bytes, Size length, uint8 *digest)
{
	const char *hex = bytes + LENGTH_BYTES + strlen(FIRST_KEYS);

	StaticAssertStmt(LENGTH_BYTES + sizeof(FIRST_KEYS) - 1 + DIGEST_HEX <=
					 SAFETENSORS_START_BYTES,
					 "the start of a file has its digest");
	if (length < SAFETENSORS_START_BYTES ||
		memcmp(bytes + LENGTH_BYTES, FIRST_KEYS, strlen(FIRST_KEYS)) != 0)
		return false;
	for (int i = 0; i < DIGEST_HEX; i++)
		if (strchr("0123456789abcdef", hex[i]) == NULL || hex[i] == '\0')
			return false;
	hex_decode(hex, DIGEST_HEX, (char *) digest);
	return true;
}

const char *
SafetensorsGetMetadata(const Safetensors *safetensors, const char *key)
{
	ListCell   *lc;

	foreach(lc, safetensors->metadata)
	{
		SafetensorsMetadata *m = lfirst(lc);

		if (strcmp(m->key, key) == 0)
			return m->value;
	}
	return NULL;
}

static Size
TensorBytes(const SafetensorsTensor *tensor)
{
	Size		bytes = mul_size(tensor->shape[0], sizeof(float));

	return tensor->dimensions > 1 ? mul_size(bytes, tensor->shape[1]) : bytes;
}

bytea *
SafetensorsWrite(const Safetensors *safetensors)
{
	StringInfoData header;
	ListCell   *lc;
	Size		offset = 0;
	char	   *utf8;
	uint64		header_length;
	bytea	   *file;
	char	   *at;
	uint8		digest[SAFETENSORS_DIGEST_BYTES];

	initStringInfo(&header);
	appendStringInfoString(&header, FIRST_KEYS);
	appendStringInfoSpaces(&header, DIGEST_HEX);
	appendStringInfoChar(&header, '"');
	foreach(lc, safetensors->metadata)
	{
		SafetensorsMetadata *m = lfirst(lc);

		appendStringInfoChar(&header, ',');
		escape_json(&header, m->key);
		appendStringInfoChar(&header, ':');
		escape_json(&header, m->value);
	}
	appendStringInfoChar(&header, '}');
	foreach(lc, safetensors->tensors)
	{
		SafetensorsTensor *t = lfirst(lc);

		appendStringInfoChar(&header, ',');
		escape_json(&header, t->name);
		appendStringInfo(&header, ":{\"dtype\":\"F32\",\"shape\":[" INT64_FORMAT,
						 t->shape[0]);
		if (t->dimensions > 1)
			appendStringInfo(&header, "," INT64_FORMAT, t->shape[1]);
		appendStringInfo(&header, "],\"data_offsets\":[%zu,%zu]}", offset,
						 add_size(offset, TensorBytes(t)));
		offset = add_size(offset, TensorBytes(t));
	}
	appendStringInfoChar(&header, '}');

	/* blanks, so that the numbers are aligned in the file */
	utf8 = pg_server_to_any(header.data, header.len, PG_UTF8);
	header_length = strlen(utf8);
	if (TYPEALIGN(LENGTH_BYTES, header_length) > MAX_HEADER_BYTES ||
		add_size(offset, header_length) > MAX_FILE_BYTES - 2 * LENGTH_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("network is too large to be stored"),
				 errdetail("It takes %zu bytes of numbers and " UINT64_FORMAT " bytes of vocabularies.",
						   offset, header_length),
				 errhint("Lower max_categories or category_size, or raise min_count.")));
	file = palloc(VARHDRSZ + LENGTH_BYTES +
				  TYPEALIGN(LENGTH_BYTES, header_length) + offset);
	at = VARDATA(file);
	memcpy(at + LENGTH_BYTES, utf8, header_length);
	while (header_length % LENGTH_BYTES != 0)
		at[LENGTH_BYTES + header_length++] = ' ';
	memcpy(at, &header_length, LENGTH_BYTES);
	at += LENGTH_BYTES + header_length;
	foreach(lc, safetensors->tensors)
	{
		SafetensorsTensor *t = lfirst(lc);

		if (TensorBytes(t) > 0)
			memcpy(at, t->numbers, TensorBytes(t));
		at += TensorBytes(t);
	}
	SET_VARSIZE(file, at - (char *) file);

	at = VARDATA(file) + LENGTH_BYTES + strlen(FIRST_KEYS);
	FileDigest(VARDATA(file), VARSIZE(file) - VARHDRSZ, at - VARDATA(file),
			   digest);
	hex_encode((const char *) digest, SAFETENSORS_DIGEST_BYTES, at);
	return file;
}
