/*-------------------------------------------------------------------------
 *
 * source.c
 *	  Building and reading the queries over a model's relations.
 *
 * Every identifier is quoted, every relation and operator qualified.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "query/source.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

static SourceColumn
FindColumn(Oid relation, const char *name)
{
	AttrNumber	number = get_attnum(relation, name);
	TypeCacheEntry *cached;
	SourceColumn column;

	if (number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, get_rel_name(relation))));
	column.name = pstrdup(name);
	column.type = get_atttype(relation, number);
	get_typlenbyval(column.type, &column.length, &column.by_value);
	cached = lookup_type_cache(column.type, TYPECACHE_LT_OPR |
							   TYPECACHE_HASH_EXTENDED_PROC);
	column.sortable = OidIsValid(cached->lt_opr);

	/* an enum hashes by OID, which another database has otherwise */
	column.hashable = OidIsValid(cached->hash_extended_proc) &&
		!type_is_enum(getBaseType(column.type));
	return column;
}

char *
FeatureColumn(Oid relation, const char *declared, FeatureKind *kind)
{
	const char *colon = strrchr(declared, ':');
	char	   *name = pstrdup(declared);
	const char *suffix = NULL;

	/* a column of just this name comes before a suffix */
	if (colon && get_attnum(relation, declared) == InvalidAttrNumber)
	{
		name[colon - declared] = '\0';
		suffix = colon + 1;
	}
	*kind = FeatureKindOf(name, FindColumn(relation, name).type, suffix);
	return name;
}

static SourceColumn *
FindColumns(Oid relation, int count, char *const *names)
{
	SourceColumn *columns = palloc(sizeof(SourceColumn) * Max(count, 1));

	for (int i = 0; i < count; i++)
		columns[i] = FindColumn(relation, names[i]);
	return columns;
}

static bool
IsTime(Oid type)
{
	ColumnReader number;

	type = getBaseType(type);
	return type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID ||
		(type != BOOLOID && NumberReaderInit(&number, type));
}

void
SourceInit(Source *source, const Model *model, int features,
		   char *const *feature, int meta_features, char *const *meta_feature,
		   const char *weight)
{
	memset(source, 0, sizeof(*source));
	source->model = model;
	source->interactions = ModelRelationName(model, model->interactions,
											 "interactions");
	EntityKeyInit(&source->key, model, model->interactions, "interactions");
	source->event_time = FindColumn(model->interactions, model->event_time);
	if (!IsTime(source->event_time.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("event time \"%s\" is of type %s",
						model->event_time,
						format_type_be(source->event_time.type)),
				 errhint("It is to be a timestamp, with or without time zone, a date or a number.")));

	source->label = FindColumn(model->interactions, model->label);
	if (!NumberReaderInit(&source->label_reader, source->label.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("label \"%s\" of type %s is neither boolean nor a number",
						model->label, format_type_be(source->label.type))));
	if (weight)
	{
		source->weight = FindColumn(model->interactions, weight);
		if (!NumberReaderInit(&source->weight_reader, source->weight.type))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("weight \"%s\" of type %s is not a number",
							weight, format_type_be(source->weight.type))));
	}
	source->features = features;
	source->feature = FindColumns(model->interactions, features, feature);

	source->meta_features = meta_features;
	if (meta_features > 0)
	{
		source->entities = ModelRelationName(model, model->entities,
											 "entities");
		source->meta_feature = FindColumns(model->entities, meta_features,
										   meta_feature);
		for (int k = 0; k < source->key.count; k++)
		{
			SourceColumn column = FindColumn(model->entities, model->key[k]);

			source->entities_equality[k] =
				KeyEquality(&source->key.columns[k], column.type);
			if (source->entities_equality[k] == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("key column \"%s\" is of type %s in relation \"%s\" and of type %s in relation \"%s\"",
								column.name,
								format_type_be(source->key.columns[k].type),
								get_rel_name(model->interactions),
								format_type_be(column.type),
								get_rel_name(model->entities))));
		}
	}
}

static char **
DeclaredFeatures(Oid relation, int count, char **declared, Encoder *encoder)
{
	char	  **names = palloc(sizeof(char *) * Max(count, 1));

	encoder->count = count;
	encoder->features = palloc0(sizeof(Feature) * Max(count, 1));
	for (int f = 0; f < count; f++)
	{
		names[f] = FeatureColumn(relation, declared[f],
								 &encoder->features[f].kind);
		encoder->features[f].name = names[f];
		for (int other = 0; other < f; other++)
			if (strcmp(names[other], names[f]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("feature \"%s\" is declared twice", names[f])));
	}
	return names;
}

void
SourceInitDeclared(Source *source, const Model *model, const char *weight,
				   Encoder *interaction, Encoder *entity)
{
	char	  **names;
	char	  **meta_names;

	ModelRelationName(model, model->interactions, "interactions");
	if (model->meta_features > 0)
		ModelRelationName(model, model->entities, "entities");
	names = DeclaredFeatures(model->interactions, model->features,
							 model->feature, interaction);
	meta_names = DeclaredFeatures(model->entities, model->meta_features,
								  model->meta_feature, entity);
	SourceInit(source, model, model->features, names, model->meta_features,
			   meta_names, weight);
}

/*
 * The columns a row of interactions has beside its key, from alias i, as c1
 * and so on: one column may serve twice.  Returns their number.
 */
static int
AppendRowColumns(StringInfo sql, const Source *source)
{
	int			count = 0;

#define APPEND_COLUMN(column) \
	appendStringInfo(sql, ", i.%s AS c%d", quote_identifier((column).name), \
					 ++count)

	APPEND_COLUMN(source->event_time);
	APPEND_COLUMN(source->label);
	if (source->weight.name)
		APPEND_COLUMN(source->weight);
	for (int f = 0; f < source->features; f++)
		APPEND_COLUMN(source->feature[f]);
#undef APPEND_COLUMN
	return count;
}

/*
 * Event time; for ties a hash of all other columns, so that which row counts
 * as newer has nothing to do with its label or any feature; and for rows whose
 * hashes tie the columns themselves.
 */
static void
AppendRowOrder(StringInfo sql, const Source *source, const char *direction)
{
	SourceColumn columns[3];
	int			fixed = 0;
	bool		any = false;

	columns[fixed++] = source->label;
	if (source->weight.name)
		columns[fixed++] = source->weight;

	appendStringInfo(sql, "i.%s%s, pg_catalog.hash_record_extended(ROW(",
					 quote_identifier(source->event_time.name), direction);
	for (int c = 0; c < fixed + source->features; c++)
	{
		const SourceColumn *column = c < fixed ? &columns[c] :
			&source->feature[c - fixed];

		if (!column->hashable)
			continue;
		appendStringInfo(sql, "%si.%s", any ? ", " : "",
						 quote_identifier(column->name));
		any = true;
	}
	appendStringInfo(sql, "), 0)%s", direction);
	for (int c = 0; c < fixed + source->features; c++)
	{
		const SourceColumn *column = c < fixed ? &columns[c] :
			&source->feature[c - fixed];

		if (column->sortable)
			appendStringInfo(sql, ", i.%s%s", quote_identifier(column->name),
							 direction);
	}
}

static void
AppendKey(StringInfo sql, const Source *source, const char *alias)
{
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(sql, "%s%s.%s", k > 0 ? ", " : "", alias,
						 quote_identifier(source->key.columns[k].name));
}

/* Only rows that have a label and a time are interactions. */
static void
AppendUsable(StringInfo sql, const Source *source)
{
	appendStringInfo(sql, "i.%s IS NOT NULL AND i.%s IS NOT NULL",
					 quote_identifier(source->label.name),
					 quote_identifier(source->event_time.name));
}

/* The key's columns in alias k: as given in arrays. */
static void
AppendGivenKeys(StringInfo sql, const Source *source)
{
	appendStringInfoString(sql, "ROWS FROM (pg_catalog.unnest(");
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(sql, "%s$%d", k > 0 ? "), pg_catalog.unnest(" : "",
						 k + 1);
	appendStringInfoString(sql, ")) WITH ORDINALITY AS k (");
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(sql, "%s, ",
						 quote_identifier(source->key.columns[k].name));
	appendStringInfoString(sql, "\"place of the entity\")");
}

#define PLACE "k.\"place of the entity\""

/* left.key = right.key, with these operators or the key's own. */
static void
AppendKeyEquality(StringInfo sql, const EntityKey *key,
				  char *const *operators, const char *left, const char *right)
{
	for (int k = 0; k < key->count; k++)
	{
		const char *name = quote_identifier(key->columns[k].name);

		appendStringInfo(sql, "%s%s.%s %s %s.%s", k > 0 ? " AND " : "", left,
						 name, operators ? operators[k] :
						 key->columns[k].equality, right, name);
	}
}

char *
SourceTrainingQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.row_number() OVER (PARTITION BY ");
	AppendKey(&sql, source, "i");
	appendStringInfoString(&sql, " ORDER BY ");
	AppendRowOrder(&sql, source, "");
	appendStringInfoString(&sql, ") AS \"number of the row\", pg_catalog.count(*) OVER (PARTITION BY ");
	AppendKey(&sql, source, "i");
	appendStringInfoString(&sql, "), ");
	AppendKey(&sql, source, "i");
	AppendRowColumns(&sql, source);
	for (int f = 0; f < source->meta_features; f++)
		appendStringInfo(&sql, ", e.%s",
						 quote_identifier(source->meta_feature[f].name));
	appendStringInfo(&sql, " FROM %s AS i", source->interactions);
	if (source->entities)
	{
		appendStringInfo(&sql, " LEFT JOIN %s AS e ON ", source->entities);
		AppendKeyEquality(&sql, &source->key, source->entities_equality, "e",
						  "i");
	}
	appendStringInfoString(&sql, " WHERE ");
	AppendUsable(&sql, source);
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(&sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->key.columns[k].name));
	appendStringInfoString(&sql, " ORDER BY ");
	AppendKey(&sql, source, "i");
	appendStringInfoString(&sql, ", \"number of the row\"");
	return sql.data;
}

char *
SourceSkippedQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*) FROM %s AS i WHERE NOT (",
					 source->interactions);
	AppendUsable(&sql, source);
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(&sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->key.columns[k].name));
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

char *
SourceDuplicatesQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	AppendKey(&sql, source, "e");
	appendStringInfo(&sql, " FROM %s AS e WHERE ", source->entities);
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(&sql, "%se.%s IS NOT NULL", k > 0 ? " AND " : "",
						 quote_identifier(source->key.columns[k].name));
	appendStringInfoString(&sql, " GROUP BY ");
	AppendKey(&sql, source, "e");
	appendStringInfoString(&sql, " HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 LIMIT 1");
	return sql.data;
}

char *
SourceBatchQuery(const Source *source, int support_rows)
{
	StringInfoData sql;
	StringInfoData rows;
	int			columns;

	initStringInfo(&rows);
	appendStringInfoString(&rows, "SELECT " PLACE ", pg_catalog.count(*) OVER (PARTITION BY " PLACE ") AS \"rows of the entity\", pg_catalog.row_number() OVER (PARTITION BY " PLACE " ORDER BY ");
	AppendRowOrder(&rows, source, " DESC");
	appendStringInfoString(&rows, ") AS \"number of the row\"");
	columns = AppendRowColumns(&rows, source);
	appendStringInfoString(&rows, " FROM ");
	AppendGivenKeys(&rows, source);
	appendStringInfo(&rows, " JOIN %s AS i ON ", source->interactions);
	AppendKeyEquality(&rows, &source->key, NULL, "i", "k");
	appendStringInfoString(&rows, " WHERE ");
	AppendUsable(&rows, source);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT " PLACE ", k.\"rows of the entity\"");
	for (int c = 1; c <= columns; c++)
		appendStringInfo(&sql, ", k.c%d", c);
	appendStringInfo(&sql, " FROM (%s) AS k WHERE k.\"number of the row\" OPERATOR(pg_catalog.<=) %d"
					 " ORDER BY " PLACE ", k.\"number of the row\" DESC",
					 rows.data, support_rows);
	return sql.data;
}

char *
SourceEntitiesQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT " PLACE);
	for (int f = 0; f < source->meta_features; f++)
		appendStringInfo(&sql, ", e.%s",
						 quote_identifier(source->meta_feature[f].name));
	appendStringInfoString(&sql, " FROM ");
	AppendGivenKeys(&sql, source);
	appendStringInfo(&sql, " JOIN %s AS e ON ", source->entities);
	AppendKeyEquality(&sql, &source->key, source->entities_equality, "e", "k");
	return sql.data;
}

char *
SourceStaleQuery(const Source *source, bool all)
{
	const Model *model = source->model;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int k = 0; k < source->key.count; k++)
	{
		const char *name = quote_identifier(source->key.columns[k].name);

		appendStringInfo(&sql, "%sCOALESCE(i.%s, e.%s)", k > 0 ? ", " : "",
						 name, name);
	}
	appendStringInfoString(&sql, " FROM (SELECT ");
	AppendKey(&sql, source, "i");
	appendStringInfo(&sql, ", pg_catalog.count(*) AS \"rows of the entity\", pg_catalog.max(i.%s) AS \"newest row\" FROM %s AS i WHERE ",
					 quote_identifier(source->event_time.name),
					 source->interactions);
	AppendUsable(&sql, source);
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(&sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->key.columns[k].name));
	appendStringInfoString(&sql, " GROUP BY ");
	AppendKey(&sql, source, "i");
	appendStringInfo(&sql, ") AS i FULL JOIN (SELECT * FROM %s AS e WHERE e.version OPERATOR(pg_catalog.=) $1) AS e ON ",
					 ModelRelationName(model, model->embeddings, "embeddings"));
	AppendKeyEquality(&sql, &source->key, NULL, "i", "e");
	if (!all)
		appendStringInfoString(&sql, " WHERE i.\"rows of the entity\" IS DISTINCT FROM NULLIF(e.interactions, 0)"
							   " OR i.\"newest row\" IS DISTINCT FROM e.adapted_through");
	return sql.data;
}

static void
CheckColumn(const Source *source, TupleDesc desc, int number,
			const SourceColumn *column)
{
	if (number > desc->natts ||
		TupleDescAttr(desc, number - 1)->atttypid != column->type)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" that model \"%s\" reads was altered in the meantime",
						column->name, source->model->name)));
}

void
SourceCheckRow(const Source *source, TupleDesc desc, int first)
{
	CheckColumn(source, desc, first++, &source->event_time);
	CheckColumn(source, desc, first++, &source->label);
	if (source->weight.name)
		CheckColumn(source, desc, first++, &source->weight);
	for (int f = 0; f < source->features; f++)
		CheckColumn(source, desc, first++, &source->feature[f]);
}

void
SourceCheckEntity(const Source *source, TupleDesc desc, int first)
{
	for (int f = 0; f < source->meta_features; f++)
		CheckColumn(source, desc, first++, &source->meta_feature[f]);
}

bool
SourceSameTime(const Source *source, Datum a, Datum b)
{
	return datumIsEqual(a, b, source->event_time.by_value,
						source->event_time.length);
}

Interaction
SourceReadInteraction(const Source *source, Loss loss, HeapTuple tuple,
					  TupleDesc desc, int first, const Datum *key)
{
	Interaction interaction = {.weight = 1};
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, first, &isnull);
	double		label = ReadNumber(&source->label_reader, datum, isnull);

	if (loss == LOSS_BINARY && label != 0 && label != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("label \"%s\" of %s is %g, neither 0 nor 1",
						source->label.name, KeyText(&source->key, key), label),
				 errhint("Use an expression such as %s > 3 in a view, or the option \"loss\" squared.",
						 source->label.name)));
	if (!isfinite((float) label))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("label \"%s\" of %s is %g, which is not finite",
						source->label.name, KeyText(&source->key, key), label)));
	interaction.label = (float) label;

	if (source->weight.name)
	{
		double		weight;

		datum = SPI_getbinval(tuple, desc, first + 1, &isnull);
		weight = ReadNumber(&source->weight_reader, datum, isnull);
		if (!(weight >= 0) || !isfinite((float) weight))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("weight \"%s\" of %s is %s",
							source->weight.name, KeyText(&source->key, key),
							isnull ? "null" : psprintf("%g", weight)),
					 errhint("Weights are finite numbers from 0.")));
		interaction.weight = (float) weight;
	}
	return interaction;
}
