/*-------------------------------------------------------------------------
 *
 * trained_network.c
 *	  Writing a trained network to a safetensors file, and reading it back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "common/shortest_dec.h"
#include "access/htup_details.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "model/trained_network.h"
#include "port/pg_bswap.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "compat.h"

#define FORMAT_VERSION 1
#define METADATA_KEY "limaml"

/* No width of a network exceeds this. */
#define MAX_WIDTH ENCODER_MAX_WIDTH

/* Tensors that a feature's table has: its vectors and its wide scalars. */
typedef struct FeatureTable
{
	Feature    *feature;
	char	   *vectors_name;
	char	   *wide_name;		/* NULL for an entity's */
} FeatureTable;

static void
SetDigest(TrainedNetwork *trained, const uint8 *digest)
{
	uint32		first;

	memcpy(trained->digest, digest, SAFETENSORS_DIGEST_BYTES);
	memcpy(&first, digest, sizeof(first));
	trained->fingerprint = pg_ntoh32(first);
	if (trained->fingerprint == 0)
		trained->fingerprint = 1;
}

void
TrainedNetworkShape(TrainedNetwork *trained, const ModelOptions *options)
{
	NetworkShape *shape = &trained->shape;
	int			l;

	memset(shape, 0, sizeof(*shape));
	shape->activation = options->activation;
	shape->loss = options->loss;
	shape->factor_size = options->factor_size;
	shape->adapts = options->adapts;
	shape->weighting = options->inner_weighting;
	shape->steps = options->personalization == PERSONALIZATION_NONE ||
		options->personalization == PERSONALIZATION_ID ? 0 :
		options->inner_steps;

	shape->meta_layers = options->meta_hidden.count + 1;
	shape->meta_width[0] = trained->entity.width;
	for (l = 0; l < options->meta_hidden.count; l++)
		shape->meta_width[l + 1] = options->meta_hidden.width[l];
	shape->meta_width[l + 1] = options->embedding_size;

	shape->global_layers = options->global_hidden.count + 1;
	shape->global_width[0] = network_concatenated_size(shape) +
		trained->interaction.width;
	for (l = 0; l < options->global_hidden.count; l++)
		shape->global_width[l + 1] = options->global_hidden.width[l];
	shape->global_width[l + 1] = 1;

	if (shape->meta_width[0] > MAX_WIDTH || shape->global_width[0] > MAX_WIDTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("features take %d numbers, which exceeds %d",
						Max(shape->meta_width[0], shape->global_width[0]),
						MAX_WIDTH)));
}

/* Memory for the packed network, which nobody has touched yet. */
static void
AllocatePacked(TrainedNetwork *trained)
{
	Size		size = mul_size(network_packed_size(&trained->shape),
								sizeof(float));

	trained->packed = MemoryContextAllocHuge(trained->context, size);
}

void
TrainedNetworkPack(TrainedNetwork *trained)
{
	AllocatePacked(trained);
	TrainedNetworkRepack(trained);
}

void
TrainedNetworkPackForward(TrainedNetwork *trained)
{
	AllocatePacked(trained);
	network_pack_forward(&trained->network, &trained->shape,
						 trained->parameters, trained->packed);
}

void
TrainedNetworkAdopt(TrainedNetwork *trained, float *packed)
{
	trained->packed = packed;
	network_adopt(&trained->network, &trained->shape, trained->parameters,
				  packed);
}

void
TrainedNetworkRepack(TrainedNetwork *trained)
{
	network_pack(&trained->network, &trained->shape, trained->parameters,
				 trained->packed);
}

void
TrainedNetworkAdapts(const TrainedNetwork *trained)
{
	if (!trained->network.packed_back)
		network_pack_back(&unconstify(TrainedNetwork *, trained)->network);
}

/* The tables of both encoders, in the order of their tensors. */
static List *
FeatureTables(TrainedNetwork *trained)
{
	List	   *tables = NIL;

	for (int e = 0; e < 2; e++)
	{
		Encoder    *encoder = e == 0 ? &trained->interaction : &trained->entity;

		for (int f = 0; f < encoder->count; f++)
		{
			FeatureTable *table;

			if (!HasTable(&encoder->features[f]))
				continue;
			table = palloc0(sizeof(FeatureTable));
			table->feature = &encoder->features[f];
			table->vectors_name = psprintf("%s%s.embedding",
										   e == 0 ? "" : "meta.",
										   table->feature->name);
			if (e == 0)
				table->wide_name = psprintf("%s.wide", table->feature->name);
			tables = lappend(tables, table);
		}
	}
	return tables;
}

static void
WriteWidths(StringInfo json, const char *key, int layers, const int *width)
{
	appendStringInfo(json, ", \"%s\": [", key);
	for (int l = 0; l <= layers; l++)
		appendStringInfo(json, "%s%d", l > 0 ? ", " : "", width[l]);
	appendStringInfoChar(json, ']');
}

static void
WriteDouble(StringInfo json, const char *key, double number)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

	double_to_shortest_decimal_buf(number, digits);
	appendStringInfo(json, ", \"%s\": %s", key, digits);
}

/* What a vector's elements were, one after the other. */
static void
WriteElements(StringInfo json, const char *key, const Feature *feature,
			  bool sd)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

	appendStringInfo(json, ", \"%s\": [", key);
	for (int i = 0; i < feature->size; i++)
	{
		const VectorElement *element = &feature->elements[i];

		double_to_shortest_decimal_buf(sd ? element->sd : element->mean,
									   digits);
		appendStringInfo(json, "%s%s", i > 0 ? ", " : "", digits);
	}
	appendStringInfoChar(json, ']');
}

static void
WriteColumn(StringInfo json, const char *key, const char *column)
{
	appendStringInfo(json, ", \"%s\": ", key);
	if (column)
		escape_json(json, column);
	else
		appendStringInfoString(json, "null");
}

static void
WriteFeatures(StringInfo json, const char *key, const Encoder *encoder)
{
	appendStringInfo(json, ", \"%s\": [", key);
	for (int f = 0; f < encoder->count; f++)
	{
		const Feature *feature = &encoder->features[f];
		const Vocabulary *vocabulary = &feature->vocabulary;

		appendStringInfoString(json, f > 0 ? ", {\"name\": " : "{\"name\": ");
		escape_json(json, feature->name);
		appendStringInfo(json, ", \"kind\": \"%s\"",
						 feature_kind_labels[feature->kind]);
		if (!HasTable(feature))
		{
			if (feature->kind == FEATURE_VECTOR)
			{
				WriteElements(json, "mean", feature, false);
				WriteElements(json, "sd", feature, true);
			}
			else
			{
				WriteDouble(json, "mean", feature->mean);
				WriteDouble(json, "sd", feature->sd);
			}
			appendStringInfo(json, ", \"missing\": %s}",
							 feature->missing_flag ? "true" : "false");
			continue;
		}
		appendStringInfo(json, ", \"values\": \"%s\", \"size\": %d, \"outside\": %d, \"vocabulary\": [",
						 vocabulary->is_integer ? "integer" : "text",
						 feature->size, vocabulary->outside);
		for (int v = 0; v < vocabulary->count; v++)
		{
			const CategoryValue *value = &vocabulary->values[v];

			if (v > 0)
				appendStringInfoString(json, ", ");
			if (vocabulary->is_integer)
				appendStringInfo(json, INT64_FORMAT, value->integer);
			else
				escape_json(json, pnstrdup(value->text, value->length));
		}
		appendStringInfoChar(json, ']');
		if (vocabulary->counts)
		{
			appendStringInfoString(json, ", \"counts\": [");
			for (int v = 0; v < vocabulary->count; v++)
				appendStringInfo(json, "%s" INT64_FORMAT, v > 0 ? ", " : "",
								 vocabulary->counts[v]);
			appendStringInfoChar(json, ']');
		}
		appendStringInfoChar(json, '}');
	}
	appendStringInfoChar(json, ']');
}

static char *
WriteMetadata(const TrainedNetwork *trained)
{
	const NetworkShape *shape = &trained->shape;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"format\": %d", FORMAT_VERSION);
	appendStringInfo(&json, ", \"personalization\": \"%s\"",
					 personalization_labels[trained->personalization]);
	appendStringInfo(&json, ", \"activation\": \"%s\"",
					 activation_labels[shape->activation]);
	appendStringInfo(&json, ", \"loss\": \"%s\"", loss_labels[shape->loss]);
	appendStringInfo(&json, ", \"adapts\": \"%s\"",
					 adapts_labels[shape->adapts]);
	appendStringInfo(&json, ", \"inner_weighting\": \"%s\"",
					 inner_weighting_labels[shape->weighting]);
	appendStringInfo(&json, ", \"inner_steps\": %d", shape->steps);
	if (trained->recency > 0)
		WriteDouble(&json, "recency", trained->recency);
	else
		appendStringInfoString(&json, ", \"recency\": null");
	appendStringInfo(&json, ", \"support_rows\": %d", trained->support_rows);
	appendStringInfo(&json, ", \"embedding_size\": %d, \"factor_size\": %d",
					 network_embedding_size(shape), shape->factor_size);
	WriteWidths(&json, "meta", shape->meta_layers, shape->meta_width);
	WriteWidths(&json, "global", shape->global_layers, shape->global_width);
	WriteColumn(&json, "label", trained->label);
	WriteColumn(&json, "event_time", trained->event_time);
	WriteFeatures(&json, "features", &trained->interaction);
	WriteFeatures(&json, "meta_features", &trained->entity);
	appendStringInfo(&json, ", \"options\": %s}", trained->options);
	return json.data;
}

static void
AddMetadata(Safetensors *file, const char *key, const char *value)
{
	SafetensorsMetadata *metadata = palloc(sizeof(SafetensorsMetadata));

	metadata->key = key;
	metadata->value = value;
	file->metadata = lappend(file->metadata, metadata);
}

static void
AddTensor(Safetensors *file, const char *name, int dimensions, int64 rows,
		  int64 columns, const float *numbers)
{
	SafetensorsTensor *tensor = palloc(sizeof(SafetensorsTensor));

	tensor->name = name;
	tensor->dimensions = dimensions;
	tensor->shape[0] = dimensions == 1 ? columns : rows;
	tensor->shape[1] = columns;
	tensor->numbers = numbers;
	file->tensors = lappend(file->tensors, tensor);
}

bytea *
TrainedNetworkWrite(TrainedNetwork *trained)
{
	Safetensors file = {0};
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	int			count = network_tensors(&trained->shape, tensors);
	ListCell   *lc;
	bytea	   *bytes;
	const Safetensors *written;

	/* PyTorch's tools look for this key */
	AddMetadata(&file, "format", "pt");
	AddMetadata(&file, METADATA_KEY, WriteMetadata(trained));
	for (int t = 0; t < count; t++)
		AddTensor(&file, tensors[t].name, tensors[t].dimensions,
				  tensors[t].rows, tensors[t].columns,
				  trained->parameters + tensors[t].offset);
	foreach(lc, FeatureTables(trained))
	{
		FeatureTable *table = lfirst(lc);
		int			rows = VocabularyRows(&table->feature->vocabulary);

		AddTensor(&file, table->vectors_name, 2, rows, table->feature->size,
				  table->feature->vectors);
		if (table->wide_name)
			AddTensor(&file, table->wide_name, 1, 1, rows,
					  table->feature->wide);
	}

	bytes = SafetensorsWrite(&file);
	written = SafetensorsRead(VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ,
							  false);
	SetDigest(trained, written->digest);
	return bytes;
}

/* From here on: reading.  What a field is not is an error naming the field. */

pg_noreturn static void BadNetwork(const char *what, const char *name);

static void
BadNetwork(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("invalid limaml network: \"%s\" %s", name, what)));
}

static JsonbValue *
Field(JsonbContainer *object, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name,
													 strlen(name), NULL);

	if (value == NULL)
		BadNetwork("is missing", name);
	return value;
}

static double
NumberOf(const JsonbValue *value, const char *name, double least, double most)
{
	double		number;

	if (value->type != jbvNumeric)
		BadNetwork("is not a number", name);
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
												NumericGetDatum(value->val.numeric)));
	if (!(number >= least && number <= most))
		BadNetwork("is out of range", name);
	return number;
}

static double
NumberField(JsonbContainer *object, const char *name, double least,
			double most)
{
	return NumberOf(Field(object, name), name, least, most);
}

static int
IntegerField(JsonbContainer *object, const char *name, int least, int most)
{
	double		number = NumberField(object, name, least, most);

	if (number != rint(number))
		BadNetwork("is not an integer", name);
	return (int) number;
}

static bool
BooleanField(JsonbContainer *object, const char *name)
{
	JsonbValue *value = Field(object, name);

	if (value->type != jbvBool)
		BadNetwork("is not true or false", name);
	return value->val.boolean;
}

static char *
StringField(JsonbContainer *object, const char *name)
{
	JsonbValue *value = Field(object, name);

	if (value->type != jbvString)
		BadNetwork("is not a string", name);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* A column's name, or NULL where there is none. */
static char *
ColumnField(JsonbContainer *object, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name,
													 strlen(name), NULL);

	return value == NULL || value->type == jbvNull ? NULL :
		StringField(object, name);
}

/* Negatives per positive row, of which a file need not say anything. */
static int
NegativesField(JsonbContainer *options)
{
	JsonbValue *value = getKeyJsonValueFromContainer(options, "negatives",
													 strlen("negatives"), NULL);

	return value == NULL || value->type == jbvNull ? 0 :
		IntegerField(options, "negatives", 0, PG_INT32_MAX);
}

static int
ChoiceField(JsonbContainer *object, const char *name,
			const char *const *labels)
{
	char	   *label = StringField(object, name);

	for (int i = 0; labels[i]; i++)
		if (strcmp(labels[i], label) == 0)
			return i;
	BadNetwork("is not one of the known words", name);
	return 0;					/* keep compiler quiet */
}

static JsonbContainer *
ArrayField(JsonbContainer *object, const char *name)
{
	JsonbValue *value = Field(object, name);

	if (value->type != jbvBinary ||
		!JsonContainerIsArray(value->val.binary.data) ||
		JsonContainerIsScalar(value->val.binary.data))
		BadNetwork("is not an array", name);
	return value->val.binary.data;
}

/* Widths of 1 ... NETWORK_MAX_LAYERS layers; returns the number of layers. */
static int
WidthsField(JsonbContainer *object, const char *name, int *width)
{
	JsonbContainer *array = ArrayField(object, name);
	int			count = JsonContainerSize(array);

	if (count < 2 || count > NETWORK_MAX_LAYERS + 1)
		BadNetwork("has too few or too many layers", name);
	for (int l = 0; l < count; l++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, l);
		double		number;

		if (value->type != jbvNumeric)
			BadNetwork("has a width that is not a number", name);
		number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
													NumericGetDatum(value->val.numeric)));

		/* a block may read nothing, but every layer emits something */
		if (!(number >= (l == 0 ? 0 : 1) && number <= MAX_WIDTH) ||
			number != rint(number))
			BadNetwork("has a width out of range", name);
		width[l] = (int) number;
	}
	return count - 1;
}

static void
ReadVocabulary(JsonbContainer *object, const char *feature,
			   Vocabulary *vocabulary)
{
	static const char *const value_labels[] = {"text", "integer", NULL};
	JsonbContainer *array = ArrayField(object, "vocabulary");
	bool		is_integer = ChoiceField(object, "values", value_labels) == 1;
	int			count = JsonContainerSize(array);
	int			outside = IntegerField(object, "outside", 1,
									   VOCABULARY_MAX_OUTSIDE);
	CategoryValue *values;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			i = 0;

	values = palloc_extended(mul_size(Max(count, 1), sizeof(CategoryValue)),
							 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	it = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (value.type != (is_integer ? jbvNumeric : jbvString))
			BadNetwork("has a vocabulary of other values than it says", feature);
		if (is_integer)
		{
			/* text is the one form that cannot round an integer */
			char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
																	 NumericGetDatum(value.val.numeric)));

			if (strspn(digits, "-0123456789") != strlen(digits))
				BadNetwork("has a vocabulary of other values than it says",
						   feature);
			values[i++].integer =
				DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(digits)));
		}
		else
		{
			values[i].text = value.val.string.val;
			values[i++].length = value.val.string.len;
		}
	}
	if (!VocabularyInit(vocabulary, is_integer, count, values, outside))
		BadNetwork("has a vocabulary with a value twice", feature);
}

/* The numbers that a vector is standardised by; `size` is set too. */
static void
ReadElements(JsonbContainer *object, Feature *feature)
{
	JsonbContainer *means = ArrayField(object, "mean");
	JsonbContainer *sds = ArrayField(object, "sd");

	feature->size = JsonContainerSize(means);
	if (feature->size < 1 || feature->size > MAX_WIDTH)
		BadNetwork("has too few or too many elements", feature->name);
	if (JsonContainerSize(sds) != JsonContainerSize(means))
		BadNetwork("has means and deviations of different lengths",
				   feature->name);
	feature->elements = palloc(mul_size(feature->size,
										sizeof(VectorElement)));
	for (int i = 0; i < feature->size; i++)
	{
		double		sd = NumberOf(getIthJsonbValueFromContainer(sds, i), "sd",
								  DBL_MIN, DBL_MAX);

		feature->elements[i] = (VectorElement)
		{
			.mean = NumberOf(getIthJsonbValueFromContainer(means, i), "mean",
							 -DBL_MAX, DBL_MAX),
			.sd = sd,
			.scale = 1 / sd
		};
	}
}

/* How often each value was met; only the category of the items says it. */
static void
ReadCounts(JsonbContainer *object, const char *feature,
		   Vocabulary *vocabulary)
{
	JsonbContainer *array;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			i = 0;

	if (getKeyJsonValueFromContainer(object, "counts", strlen("counts"),
									 NULL) == NULL)
		return;
	array = ArrayField(object, "counts");
	if ((int) JsonContainerSize(array) != vocabulary->count)
		BadNetwork("has a vocabulary of another size than its counts", feature);
	vocabulary->counts = palloc_extended(mul_size(Max(vocabulary->count, 1),
												  sizeof(int64)),
										 MCXT_ALLOC_HUGE);
	it = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		double		count = -1;

		if (token != WJB_ELEM)
			continue;
		if (value.type == jbvNumeric)
			count = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
													   NumericGetDatum(value.val.numeric)));
		if (!(count >= 0 && count < 0x1p53) || count != rint(count))
			BadNetwork("has a count that is none", feature);
		vocabulary->counts[i++] = (int64) count;
	}
}

static void
ReadFeatures(JsonbContainer *object, const char *key, Encoder *encoder)
{
	JsonbContainer *array = ArrayField(object, key);

	encoder->count = JsonContainerSize(array);
	if (encoder->count > MaxTupleAttributeNumber)
		BadNetwork("names more columns than a row can have", key);
	encoder->features = palloc0(mul_size(Max(encoder->count, 1),
										 sizeof(Feature)));
	for (int f = 0; f < encoder->count; f++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, f);
		Feature    *feature = &encoder->features[f];
		JsonbContainer *described;

		CHECK_FOR_INTERRUPTS();

		if (value->type != jbvBinary ||
			!JsonContainerIsObject(value->val.binary.data))
			BadNetwork("has an element that is not an object", key);
		described = value->val.binary.data;
		feature->name = StringField(described, "name");
		for (int other = 0; other < f; other++)
			if (strcmp(encoder->features[other].name, feature->name) == 0)
				BadNetwork("stands twice among its features", feature->name);
		feature->kind = ChoiceField(described, "kind", feature_kind_labels);
		if (feature->kind == FEATURE_NUMERIC)
		{
			feature->mean = NumberField(described, "mean", -DBL_MAX, DBL_MAX);
			feature->sd = NumberField(described, "sd", DBL_MIN, DBL_MAX);
			feature->scale = 1 / feature->sd;
			feature->missing_flag = BooleanField(described, "missing");
		}
		else if (feature->kind == FEATURE_VECTOR)
		{
			ReadElements(described, feature);
			feature->missing_flag = BooleanField(described, "missing");
		}
		else
		{
			feature->size = IntegerField(described, "size", 1, MAX_WIDTH);
			ReadVocabulary(described, feature->name, &feature->vocabulary);
			ReadCounts(described, feature->name, &feature->vocabulary);
		}
	}
	EncoderLayout(encoder);
	if (encoder->width < 0 || encoder->width > MAX_WIDTH)
		BadNetwork("encode to too many numbers", key);
}

/*
 * Whether all are finite: of none that is has the exponent all its bits.  Two
 * are looked at together, which need not be aligned.
 */
static bool
AreFinite(const float *numbers, Size count)
{
	const char *bytes = (const char *) numbers;
	uint64		found = 0;

	for (Size i = 0; i < count / 2; i++)
	{
		uint64		pair;

		memcpy(&pair, bytes + i * sizeof(pair), sizeof(pair));
		found |= (pair & UINT64CONST(0x7f8000007f800000)) +
			UINT64CONST(0x0080000000800000);
	}
	if (count % 2 == 1)
	{
		uint32		last;

		memcpy(&last, bytes + (count - 1) * sizeof(last), sizeof(last));
		found |= (last & 0x7f800000) + 0x00800000;
	}
	return (found & UINT64CONST(0x8000000080000000)) == 0;
}

/* A file, and what may be done with it. */
typedef struct NetworkFile
{
	Safetensors *safetensors;
	bool		lasting;		/* it need not be copied */
	bool		known;			/* it was checked before */
} NetworkFile;

/*
 * The numbers of a tensor of this shape, where the file has them, aligned or
 * not; every tensor is asked for exactly once.
 */
static const float *
TakeTensor(NetworkFile *file, const char *name, int dimensions, int64 rows,
		   int64 columns)
{
	ListCell   *lc;

	foreach(lc, file->safetensors->tensors)
	{
		SafetensorsTensor *tensor = lfirst(lc);

		if (strcmp(tensor->name, name) != 0)
			continue;
		if (tensor->dimensions != dimensions ||
			tensor->shape[dimensions - 1] != columns ||
			(dimensions == 2 && tensor->shape[0] != rows))
			BadNetwork("has another shape than its features and widths ask for",
					   name);
		if (!file->known &&
			!AreFinite(tensor->numbers, mul_size(rows, columns)))
			BadNetwork("has a number that is not finite", name);
		file->safetensors->tensors =
			foreach_delete_current(file->safetensors->tensors, lc);
		return tensor->numbers;
	}
	BadNetwork("is missing", name);
}

static bool
IsAligned(const float *numbers)
{
	return (uintptr_t) numbers % sizeof(float) == 0;
}

/* A tensor's numbers: as a copy, unless they may stay where they are. */
static float *
TakeNumbers(NetworkFile *file, const char *name, int dimensions, Size rows,
			Size columns)
{
	const float *numbers = TakeTensor(file, name, dimensions, rows, columns);
	Size		count = mul_size(rows, columns);
	float	   *copy;

	if (file->lasting && IsAligned(numbers))
		return unconstify(float *, numbers);
	copy = palloc_extended(mul_size(Max(count, 1), sizeof(float)),
						   MCXT_ALLOC_HUGE);
	if (count > 0)
		memcpy(copy, numbers, count * sizeof(float));
	return copy;
}

/*
 * The network's parameters.  A file of our own has them as they are wanted, so
 * that one which lasts need not be copied.
 */
static float *
TakeParameters(NetworkFile *file, const NetworkShape *shape,
			   const NetworkTensor *tensors, int count)
{
	const float *found[NETWORK_MAX_TENSORS];
	float	   *parameters;
	bool		together;

	for (int t = 0; t < count; t++)
		found[t] = TakeTensor(file, tensors[t].name, tensors[t].dimensions,
							  tensors[t].rows, tensors[t].columns);
	together = file->lasting && count > 0 && IsAligned(found[0]);
	for (int t = 0; t < count && together; t++)
		together = (const char *) found[t] ==
			(const char *) found[0] + tensors[t].offset * sizeof(float);
	if (together)
		return unconstify(float *, found[0]);

	parameters = palloc_extended(mul_size(network_parameter_count(shape),
										  sizeof(float)), MCXT_ALLOC_HUGE);
	for (int t = 0; t < count; t++)
		if (tensors[t].rows > 0 && tensors[t].columns > 0)
			memcpy(parameters + tensors[t].offset, found[t],
				   sizeof(float) * tensors[t].rows * tensors[t].columns);
	return parameters;
}

/* Everything that the metadata says. */
static void
ReadMetadata(TrainedNetwork *trained, Jsonb *json)
{
	NetworkShape *shape = &trained->shape;
	JsonbContainer *root = &json->root;
	JsonbValue *options;
	int			embedding_size;

	if (!JB_ROOT_IS_OBJECT(json))
		BadNetwork("is not an object", METADATA_KEY);
	if (IntegerField(root, "format", 1, PG_INT32_MAX) != FORMAT_VERSION)
		BadNetwork("is not one that this version of limaml reads", "format");

	trained->personalization = ChoiceField(root, "personalization",
										   personalization_labels);
	shape->activation = ChoiceField(root, "activation", activation_labels);
	shape->loss = ChoiceField(root, "loss", loss_labels);
	shape->adapts = ChoiceField(root, "adapts", adapts_labels);
	shape->weighting = ChoiceField(root, "inner_weighting",
								   inner_weighting_labels);
	shape->steps = IntegerField(root, "inner_steps", 0, NETWORK_MAX_STEPS);
	if (Field(root, "recency")->type != jbvNull)
		trained->recency = NumberField(root, "recency", 1e-3, 1e9);
	trained->support_rows = IntegerField(root, "support_rows", 1, 16384);
	embedding_size = IntegerField(root, "embedding_size", 1, MAX_WIDTH);
	shape->factor_size = IntegerField(root, "factor_size", 0, embedding_size);
	shape->meta_layers = WidthsField(root, "meta", shape->meta_width);
	shape->global_layers = WidthsField(root, "global", shape->global_width);
	trained->label = ColumnField(root, "label");
	trained->event_time = ColumnField(root, "event_time");
	ReadFeatures(root, "features", &trained->interaction);
	ReadFeatures(root, "meta_features", &trained->entity);
	if (trained->personalization == PERSONALIZATION_ID &&
		(trained->interaction.count == 0 ||
		 trained->interaction.features[trained->interaction.count - 1].kind != FEATURE_CATEGORY))
		BadNetwork("has no category for the entity itself", "features");
	options = Field(root, "options");
	if (options->type != jbvBinary ||
		!JsonContainerIsObject(options->val.binary.data))
		BadNetwork("is not an object", "options");
	trained->options = JsonbToCString(NULL, options->val.binary.data,
									  options->val.binary.len);
	trained->weight = ColumnField(options->val.binary.data, "weight");
	trained->negatives = NegativesField(options->val.binary.data);

	if (network_embedding_size(shape) != embedding_size ||
		shape->meta_width[0] != trained->entity.width)
		BadNetwork("does not fit the meta features and embedding_size", "meta");
	if (shape->global_width[0] != network_concatenated_size(shape) +
		trained->interaction.width ||
		shape->global_width[shape->global_layers] != 1)
		BadNetwork("does not fit the features and embedding_size", "global");
}

static void
MetadataErrorContext(void *arg)
{
	errcontext("metadata of a limaml network");
}

/* All but the packing. */
static TrainedNetwork *
ReadNetwork(NetworkFile *file, bool require_digest, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "limaml network",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	TrainedNetwork *trained = MemoryContextAllocZero(context,
													 sizeof(TrainedNetwork));
	const Safetensors *safetensors = file->safetensors;
	const char *metadata = SafetensorsGetMetadata(safetensors, METADATA_KEY);
	Jsonb	   *json;
	NetworkTensor tensors[NETWORK_MAX_TENSORS];
	int			count;
	ErrorContextCallback callback;
	ListCell   *lc;

	if (metadata == NULL)
		BadNetwork("is missing from the file's metadata", METADATA_KEY);
	if (!safetensors->has_digest && require_digest)
		BadNetwork("is missing from the file's metadata", "digest");

	trained->context = context;
	callback.callback = MetadataErrorContext;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(metadata)));
	old = MemoryContextSwitchTo(context);
	ReadMetadata(trained, json);
	error_context_stack = callback.previous;

	count = network_tensors(&trained->shape, tensors);
	trained->parameters = TakeParameters(file, &trained->shape, tensors,
										 count);
	for (int l = 0; l < trained->shape.meta_layers; l++)
		if (trained->parameters[tensors[INNER_RATE(&trained->shape)].offset + l] < 0)
			BadNetwork("is negative", "inner_rate");
	foreach(lc, FeatureTables(trained))
	{
		FeatureTable *table = lfirst(lc);
		Feature    *feature = table->feature;
		int			rows = VocabularyRows(&feature->vocabulary);

		feature->vectors = TakeNumbers(file, table->vectors_name, 2, rows,
									   feature->size);
		if (table->wide_name)
			feature->wide = TakeNumbers(file, table->wide_name, 1, 1, rows);
	}
	if (safetensors->tensors != NIL)
		BadNetwork("is no tensor of this network",
				   ((SafetensorsTensor *) linitial(safetensors->tensors))->name);

	if (safetensors->has_digest)
		SetDigest(trained, safetensors->digest);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, parent);
	return trained;
}

TrainedNetwork *
TrainedNetworkRead(const char *bytes, Size length, bool require_digest,
				   MemoryContext parent)
{
	NetworkFile file = {.safetensors = SafetensorsRead(bytes, length, false)};
	TrainedNetwork *trained = ReadNetwork(&file, require_digest, parent);

	TrainedNetworkPackForward(trained);
	return trained;
}

TrainedNetwork *
TrainedNetworkOpen(const char *bytes, Size length, bool known,
				   MemoryContext parent)
{
	NetworkFile file = {
		.safetensors = SafetensorsRead(bytes, length, known),
		.lasting = true,
		.known = known
	};

	return ReadNetwork(&file, true, parent);
}
