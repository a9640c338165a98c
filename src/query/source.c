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

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "query/key_places.h"
#include "query/source.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

static bool
IsNullable(Oid relation, AttrNumber number)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relation),
										Int16GetDatum(number));
	bool		nullable;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u",
			 number, relation);
	/* what a foreign server holds is not checked */
	nullable = !((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull ||
		get_rel_relkind(relation) == RELKIND_FOREIGN_TABLE;
	ReleaseSysCache(tuple);
	return nullable;
}

/* Whether an index of the relation finds the rows of one entity. */
static bool
KeyIsIndexed(const Model *model)
{
	Relation	relation = relation_open(model->interactions, AccessShareLock);
	List	   *indexes = relation->rd_rel->relhasindex ?
		RelationGetIndexList(relation) : NIL;
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID,
											ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;
		int			columns = 0;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		for (int a = 0; a < model->keys && a < index->indnkeyatts; a++)
			for (int k = 0; k < model->keys; k++)
				columns += index->indkey.values[a] ==
					get_attnum(model->interactions, model->key[k]);
		if (columns == model->keys && index->indisvalid &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
			found = true;
		ReleaseSysCache(tuple);
	}
	relation_close(relation, AccessShareLock);
	return found;
}

/* Whether a type's hash is alike in every database. */
static bool
HasStableHash(Oid type)
{
	Oid			element;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		element = getBaseType(element);
	return OidIsValid(lookup_type_cache(type, TYPECACHE_HASH_EXTENDED_PROC)->hash_extended_proc) &&
		!type_is_enum(type) && !type_is_rowtype(type) &&
		(!OidIsValid(element) ||
		 (!type_is_enum(element) && !type_is_rowtype(element)));
}

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
	cached = lookup_type_cache(column.type, TYPECACHE_LT_OPR);
	column.sortable = OidIsValid(cached->lt_opr);
	column.nullable = IsNullable(relation, number);

	column.hashable = HasStableHash(column.type);
	return column;
}

/* Splits a feature as declared; returns the suffix, or NULL. */
static const char *
SplitFeature(Oid relation, const char *declared, char **name)
{
	const char *colon = strrchr(declared, ':');

	*name = pstrdup(declared);

	/* a column of just this name comes before a suffix */
	if (colon == NULL || get_attnum(relation, declared) != InvalidAttrNumber)
		return NULL;
	(*name)[colon - declared] = '\0';
	return colon + 1;
}

char *
FeatureName(Oid relation, const char *declared)
{
	char	   *name;

	(void) SplitFeature(relation, declared, &name);
	return name;
}

char *
FeatureColumn(Oid relation, const char *declared, FeatureKind *kind)
{
	char	   *name;
	const char *suffix = SplitFeature(relation, declared, &name);

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
		(type != BOOLOID && type != UNKNOWNOID &&
		 NumberReaderInit(&number, type));
}

static void
CheckEventTime(const Source *source)
{
	if (!IsTime(source->event_time.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("event time \"%s\" is of type %s",
						source->event_time.name,
						format_type_be(source->event_time.type)),
				 errhint("It is to be a timestamp, with or without time zone, a date or a number.")));
}

/* Checks the types of label and weight, and prepares to read them. */
static void
InitReaders(Source *source)
{
	if (!NumberReaderInit(&source->label_reader, source->label.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("label \"%s\" of type %s is neither boolean nor a number",
						source->label.name,
						format_type_be(source->label.type))));
	if (source->weight.name &&
		!NumberReaderInit(&source->weight_reader, source->weight.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("weight \"%s\" of type %s is not a number",
						source->weight.name,
						format_type_be(source->weight.type))));
}

/* The label; where a model has none every row is one that happened. */
static void
FindLabel(Source *source, const Model *model)
{
	if (model->label == NULL)
	{
		source->label.type = BOOLOID;
		get_typlenbyval(BOOLOID, &source->label.length,
						&source->label.by_value);
	}
	else
		source->label = FindColumn(model->interactions, model->label);
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
	source->key_indexed = KeyIsIndexed(model);
	source->key_has_places = KeyHasPlaces(&source->key);
	source->event_time = FindColumn(model->interactions, model->event_time);
	FindLabel(source, model);
	if (weight)
		source->weight = FindColumn(model->interactions, weight);
	CheckEventTime(source);
	InitReaders(source);
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

/* A column of rows that are in no relation. */
static SourceColumn
RowColumn(const char *name, Oid type)
{
	SourceColumn column = {.name = pstrdup(name), .type = getBaseType(type)};

	get_typlenbyval(column.type, &column.length, &column.by_value);
	return column;
}

void
SourceInitTime(Source *source, int features, const char *event_time, Oid type)
{
	memset(source, 0, sizeof(*source));
	source->event_time = RowColumn(event_time, type);
	CheckEventTime(source);
	source->features = features;
}

void
SourceInitLabel(Source *source, const char *label, Oid label_type,
				const char *weight, Oid weight_type)
{
	source->label = RowColumn(label, label_type);
	if (weight)
		source->weight = RowColumn(weight, weight_type);
	InitReaders(source);
}

static char **
DeclaredFeatures(Oid relation, int count, char **declared, Encoder *encoder)
{
	char	  **names = palloc(sizeof(char *) * Max(count, 1));

	encoder->count = count;
	encoder->features = palloc0(sizeof(Feature) * Max(count, 1));
	encoder->has_lists = false;
	for (int f = 0; f < count; f++)
	{
		names[f] = FeatureColumn(relation, declared[f],
								 &encoder->features[f].kind);
		encoder->features[f].name = names[f];
		encoder->has_lists |= HasLists(&encoder->features[f]);
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

Oid
ItemsRelation(const char *name)
{
	List	   *names = textToQualifiedNameList(cstring_to_text(name));
	Oid			relation = RangeVarGetRelid(makeRangeVarFromNameList(names),
											NoLock, true);

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s of the option \"items\" does not exist",
						name),
				 errhint("limaml_set_options(model, '{\"items\": \"...\"}') names another.")));
	return relation;
}

/* The only column of a relation's primary key. */
static char *
PrimaryKeyColumn(Oid relation)
{
	Oid			constraint;
	Bitmapset  *columns = get_primary_key_attnos(relation, false, &constraint);

	if (bms_membership(columns) != BMS_SINGLETON)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("items relation \"%s\" has no primary key of a single column",
						get_rel_name(relation)),
				 errhint("Name the column that tells items apart with the option \"item_key\".")));
	return get_attname(relation, bms_singleton_member(columns) +
					   FirstLowInvalidHeapAttributeNumber, false);
}

/* Whether columns of these types may hold the same values. */
static bool
AreAlike(Oid a, Oid b)
{
	char		category_a;
	char		category_b;
	bool		preferred;

	if (getBaseType(a) == getBaseType(b) ||
		(CategoryIsInteger(a) && CategoryIsInteger(b)))
		return true;
	get_type_category_preferred(getBaseType(a), &category_a, &preferred);
	get_type_category_preferred(getBaseType(b), &category_b, &preferred);
	return category_a == TYPCATEGORY_STRING && category_b == TYPCATEGORY_STRING;
}

/* The key of the items, in their relation and in the interactions. */
static void
FindItemKey(Source *source, const char *key)
{
	Oid			interactions = source->model->interactions;
	ColumnReader reader;

	source->items_key = FindColumn(source->items, key);
	if (get_attnum(interactions, key) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						key, get_rel_name(interactions)),
				 errdetail("It is to say which row of the items relation %s an interaction is with.",
						   source->items_name),
				 errhint("Give it the name of the items' key in a view.")));
	source->item = FindColumn(interactions, key);
	if (!CategoryReaderInit(&reader, CategoryIsInteger(source->items_key.type),
							source->items_key.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot be the key of the items",
						key, format_type_be(source->items_key.type)),
				 errhint("A key is a number, a text, a uuid or another single value.")));
	if (!AreAlike(source->item.type, source->items_key.type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("item key \"%s\" is of type %s in relation %s and of type %s in relation %s",
						key, format_type_be(source->item.type),
						source->interactions,
						format_type_be(source->items_key.type),
						source->items_name)));
}

void
SourceAddItems(Source *source, const char *items, const char *key)
{
	ColumnReader reader;

	source->items = ItemsRelation(items);
	source->items_name =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(source->items)),
								   get_rel_name(source->items));
	FindItemKey(source, key ? key : PrimaryKeyColumn(source->items));

	source->item_feature = palloc(sizeof(int) * Max(source->features, 1));
	source->items_column = palloc(sizeof(SourceColumn) *
								  Max(source->features, 1));
	for (int f = 0; f < source->features; f++)
	{
		const char *name = source->feature[f].name;

		SourceColumn column;

		if (get_attnum(source->items, name) <= 0)
			continue;
		column = FindColumn(source->items, name);
		if (!AreAlike(source->feature[f].type, column.type) &&
			!(NumberReaderInit(&reader, source->feature[f].type) &&
			  NumberReaderInit(&reader, column.type)))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("feature \"%s\" is of type %s in relation %s and of type %s in relation %s",
							name, format_type_be(source->feature[f].type),
							source->interactions, format_type_be(column.type),
							source->items_name)));
		source->items_column[source->item_features] = column;
		source->item_feature[source->item_features++] = f;
	}
	if (source->item_features == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("items relation %s has no column of the features",
						source->items_name),
				 errdetail("A negative has the features of its item, and those that the relation lacks of the row that it goes with.")));
}

/*
 * The columns a row of interactions has beside its key, from alias i, as c1
 * and so on: one column may serve twice.
 */
static void
AppendRowColumns(StringInfo sql, const Source *source)
{
	int			count = 0;

#define APPEND_COLUMN(column) \
	appendStringInfo(sql, ", i.%s AS c%d", quote_identifier((column).name), \
					 ++count)

	APPEND_COLUMN(source->event_time);
	if (source->label.name)
		APPEND_COLUMN(source->label);
	else
		appendStringInfo(sql, ", true AS c%d", ++count);
	if (source->weight.name)
		APPEND_COLUMN(source->weight);
	if (source->item.name)
		APPEND_COLUMN(source->item);
	for (int f = 0; f < source->features; f++)
		APPEND_COLUMN(source->feature[f]);
#undef APPEND_COLUMN
}

/* Alias i's key as columns that can be hashed. */
static void
AppendHashedKey(StringInfo sql, const Source *source)
{
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(sql, "%si.%s%s", k > 0 ? ", " : "",
						 quote_identifier(source->key.columns[k].name),
						 HasStableHash(source->key.columns[k].type) ? "" :
						 "::pg_catalog.text");
}

static void
AppendKeyHash(StringInfo sql, const Source *source)
{
	appendStringInfoString(sql, "pg_catalog.hash_record_extended(ROW(");
	AppendHashedKey(sql, source);
	appendStringInfoString(sql, "), 0)");
}

/*
 * Event time; for ties a hash of all columns, so that which row counts as
 * newer has nothing to do with its label or any feature; and for rows whose
 * hashes tie the columns themselves.  The key is in the hash for the same label
 * of the same item not to be the newer one for everybody.
 */
static void
AppendRowOrder(StringInfo sql, const Source *source)
{
	SourceColumn columns[3];
	int			fixed = 0;

	if (source->label.name)
		columns[fixed++] = source->label;
	if (source->weight.name)
		columns[fixed++] = source->weight;
	if (source->item.name)
		columns[fixed++] = source->item;

	appendStringInfo(sql, "i.%s, pg_catalog.hash_record_extended(ROW(",
					 quote_identifier(source->event_time.name));
	AppendHashedKey(sql, source);
	for (int c = 0; c < fixed + source->features; c++)
	{
		const SourceColumn *column = c < fixed ? &columns[c] :
			&source->feature[c - fixed];

		if (!column->hashable)
			continue;
		appendStringInfo(sql, ", i.%s", quote_identifier(column->name));
	}
	appendStringInfoString(sql, "), 0)");
	for (int c = 0; c < fixed + source->features; c++)
	{
		const SourceColumn *column = c < fixed ? &columns[c] :
			&source->feature[c - fixed];

		if (column->sortable)
			appendStringInfo(sql, ", i.%s", quote_identifier(column->name));
	}
}

static void
AppendKey(StringInfo sql, const Source *source, const char *alias)
{
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(sql, "%s%s.%s", k > 0 ? ", " : "", alias,
						 quote_identifier(source->key.columns[k].name));
}

/*
 * Only rows that have a label and a time are interactions.  What cannot be
 * null is not asked: an index on key and time may then answer by itself.
 */
static void
AppendUsable(StringInfo sql, const Source *source)
{
	appendStringInfoString(sql, "true");
	if (source->label.nullable)
		appendStringInfo(sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->label.name));
	if (source->event_time.nullable)
		appendStringInfo(sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->event_time.name));
}

/* "AND every key column of an alias is there" */
static void
AppendKeyThere(StringInfo sql, const Source *source, const char *alias)
{
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(sql, " AND %s.%s IS NOT NULL", alias,
						 quote_identifier(source->key.columns[k].name));
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

/* The columns that rows are made of, each once, from alias i. */
static void
AppendColumnsOnce(StringInfo sql, const Source *source)
{
	List	   *keys = NIL;
	List	   *names = NIL;
	ListCell   *lc;

	/* keys of two relations need not have one collation */
	for (int k = 0; k < source->key.count; k++)
	{
		const KeyColumn *column = &source->key.columns[k];

		keys = lappend(keys, makeString(pstrdup(column->name)));
		appendStringInfo(sql, "i.%s", quote_identifier(column->name));
		if (OidIsValid(column->collation))
			appendStringInfo(sql, " COLLATE %s AS %s",
							 generate_collation_name(column->collation),
							 quote_identifier(column->name));
		appendStringInfoString(sql, ", ");
	}
	names = list_append_unique(names, makeString(source->event_time.name));
	if (source->label.name)
		names = list_append_unique(names, makeString(source->label.name));
	if (source->weight.name)
		names = list_append_unique(names, makeString(source->weight.name));
	if (source->item.name)
		names = list_append_unique(names, makeString(source->item.name));
	for (int f = 0; f < source->features; f++)
		names = list_append_unique(names, makeString(source->feature[f].name));
	names = list_difference(names, keys);
	foreach(lc, names)
		appendStringInfo(sql, "i.%s, ", quote_identifier(strVal(lfirst(lc))));
}

static void
AppendTestedBranch(StringInfo sql, const Source *source,
				   const SourceTested *tested, bool is_tested)
{
	appendStringInfoString(sql, "SELECT ");
	AppendColumnsOnce(sql, source);
	if (is_tested && tested->segment && !tested->segment_of_entity)
		appendStringInfo(sql, "i.%s::pg_catalog.text", quote_identifier(tested->segment));
	else
		appendStringInfoString(sql, "NULL::pg_catalog.text");
	appendStringInfo(sql, " AS \"limaml: segment\", %s AS \"limaml: is tested\" FROM %s AS i WHERE ",
					 is_tested ? "true" : "false",
					 is_tested && tested->relation ? tested->relation :
					 source->interactions);
	AppendUsable(sql, source);
	AppendKeyThere(sql, source, "i");
	if (is_tested && tested->relation)
		appendStringInfo(sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->event_time.name));
	if (is_tested && tested->relation && source->label.name)
		appendStringInfo(sql, " AND i.%s IS NOT NULL",
						 quote_identifier(source->label.name));
	if (tested->relation && tested->strangers)
	{
		appendStringInfo(sql, " AND NOT EXISTS (SELECT FROM %s AS d WHERE ",
						 source->interactions);
		AppendKeyEquality(sql, &source->key, NULL, "d", "i");
		appendStringInfoChar(sql, ')');
	}
}

/*
 * "(rows that are tested, and rows of their entities that are older) AS i".
 * Without a relation which ones are tested is not the query's matter.
 */
static void
AppendTestedRows(StringInfo sql, const Source *source,
				 const SourceTested *tested)
{
	const char *time = quote_identifier(source->event_time.name);

	appendStringInfoChar(sql, '(');
	if (tested->relation == NULL || tested->strangers)
		AppendTestedBranch(sql, source, tested, true);
	else
	{
		appendStringInfo(sql, "SELECT * FROM (SELECT *, pg_catalog.min(i.%s) FILTER (WHERE i.\"limaml: is tested\") OVER (PARTITION BY ",
						 time);
		AppendKey(sql, source, "i");
		appendStringInfoString(sql, ") AS \"limaml: first that is tested\" FROM (");
		AppendTestedBranch(sql, source, tested, false);
		appendStringInfoString(sql, " UNION ALL ");
		AppendTestedBranch(sql, source, tested, true);
		appendStringInfo(sql, ") AS i) AS i WHERE i.\"limaml: is tested\" OR i.%s OPERATOR(pg_catalog.<) i.\"limaml: first that is tested\"",
						 time);
	}
	appendStringInfoString(sql, ") AS i");
}

/*
 * How many of the entity's rows were there a lag before the row.  No lag at
 * all leaves out those of the row's own time.
 */
static void
AppendLag(StringInfo sql, const Source *source, Interval *lag)
{
	Interval	zero = {0};
	const char *time = quote_identifier(source->event_time.name);
	bool		is_zero = DatumGetBool(DirectFunctionCall2(interval_eq,
														   IntervalPGetDatum(lag),
														   IntervalPGetDatum(&zero)));

	appendStringInfo(sql, ", %s OVER (PARTITION BY ",
					 is_zero ? "pg_catalog.rank()" : "pg_catalog.count(*)");
	AppendKey(sql, source, "i");
	appendStringInfo(sql, " ORDER BY i.%s", time);
	if (is_zero)
		appendStringInfoString(sql, ") OPERATOR(pg_catalog.-) 1");
	else
		appendStringInfo(sql, " RANGE BETWEEN UNBOUNDED PRECEDING AND %s::pg_catalog.interval PRECEDING)",
						 quote_literal_cstr(DatumGetCString(DirectFunctionCall1(interval_out,
																				IntervalPGetDatum(lag)))));
}

char *
SourceRowsQuery(const Source *source, const SourceTested *tested)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.row_number() OVER (PARTITION BY ");
	AppendKey(&sql, source, "i");
	appendStringInfoString(&sql, " ORDER BY ");
	AppendRowOrder(&sql, source);
	appendStringInfoString(&sql, "), pg_catalog.count(*) OVER (PARTITION BY ");
	AppendKey(&sql, source, "i");
	appendStringInfoString(&sql, "), ");
	AppendKeyHash(&sql, source);
	appendStringInfoString(&sql, ", ");
	AppendKey(&sql, source, "i");
	AppendRowColumns(&sql, source);
	for (int f = 0; f < source->meta_features; f++)
		appendStringInfo(&sql, ", e.%s",
						 quote_identifier(source->meta_feature[f].name));
	if (tested)
	{
		if (tested->relation)
		{
			appendStringInfoString(&sql, ", pg_catalog.count(*) FILTER (WHERE i.\"limaml: is tested\") OVER (PARTITION BY ");
			AppendKey(&sql, source, "i");
			appendStringInfoString(&sql, "), ");
		}
		else
			appendStringInfoString(&sql, ", 0::bigint, ");
		if (tested->segment_of_entity)
			appendStringInfo(&sql, "e.%s::pg_catalog.text",
							 quote_identifier(tested->segment));
		else
			appendStringInfoString(&sql, "i.\"limaml: segment\"");
		for (int l = 0; l < tested->lags; l++)
			AppendLag(&sql, source, tested->lag[l]);
		appendStringInfoString(&sql, " FROM ");
		AppendTestedRows(&sql, source, tested);
	}
	else
		appendStringInfo(&sql, " FROM %s AS i", source->interactions);
	if (source->entities)
	{
		appendStringInfo(&sql, " LEFT JOIN %s AS e ON ", source->entities);
		AppendKeyEquality(&sql, &source->key, source->entities_equality, "e",
						  "i");
	}
	if (tested == NULL)
	{
		appendStringInfoString(&sql, " WHERE ");
		AppendUsable(&sql, source);
		AppendKeyThere(&sql, source, "i");
	}
	appendStringInfoString(&sql, " ORDER BY ");
	AppendKey(&sql, source, "i");

	/* by place: a column of the relation may have any name */
	appendStringInfoString(&sql, ", 1");
	return sql.data;
}

static void
CheckTestedColumn(const Source *source, Oid relation, const char *name,
				  Oid type)
{
	SourceColumn column = FindColumn(relation, name);

	if (column.type != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s in relation %s and of type %s in relation \"%s\"",
						name, format_type_be(type), source->interactions,
						format_type_be(column.type), get_rel_name(relation))));
}

char *
SourceTestedRelation(const Source *source, Oid relation)
{
	char	   *name = get_rel_name(relation);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));
	for (int k = 0; k < source->key.count; k++)
		CheckTestedColumn(source, relation, source->key.columns[k].name,
						  source->key.columns[k].type);
	CheckTestedColumn(source, relation, source->event_time.name,
					  source->event_time.type);
	if (source->label.name)
		CheckTestedColumn(source, relation, source->label.name,
						  source->label.type);
	if (source->weight.name)
		CheckTestedColumn(source, relation, source->weight.name,
						  source->weight.type);
	if (source->item.name)
		CheckTestedColumn(source, relation, source->item.name,
						  source->item.type);
	for (int f = 0; f < source->features; f++)
		CheckTestedColumn(source, relation, source->feature[f].name,
						  source->feature[f].type);
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
									  name);
}

char *
SourceSkippedQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*) FROM %s AS i WHERE NOT (",
					 source->interactions);
	AppendUsable(&sql, source);
	AppendKeyThere(&sql, source, "i");
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
SourceBatchQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	if (source->key_has_places)
		AppendKey(&sql, source, "i");
	else
		appendStringInfoString(&sql, PLACE);
	AppendRowColumns(&sql, source);
	appendStringInfoString(&sql, " FROM ");
	if (source->key_has_places)
	{
		appendStringInfo(&sql, "%s AS i WHERE ", source->interactions);
		AppendUsable(&sql, source);
		appendStringInfo(&sql, " AND i.%s %s ANY ($1)",
						 quote_identifier(source->key.columns[0].name),
						 source->key.columns[0].equality);
		return sql.data;
	}
	AppendGivenKeys(&sql, source);
	appendStringInfo(&sql, " JOIN %s AS i ON ", source->interactions);
	AppendKeyEquality(&sql, &source->key, NULL, "i", "k");
	appendStringInfoString(&sql, " WHERE ");
	AppendUsable(&sql, source);
	return sql.data;
}

/* The columns that are read of a row beside its key: how many there are. */
static int
RowColumns(const Source *source, const SourceColumn **columns)
{
	int			count = 0;

	columns[count++] = &source->event_time;
	columns[count++] = &source->label;
	if (source->weight.name)
		columns[count++] = &source->weight;
	if (source->item.name)
		columns[count++] = &source->item;
	for (int f = 0; f < source->features; f++)
		columns[count++] = &source->feature[f];
	return count;
}

/*
 * Whether a row as it is stored is all that a scan need hand over: to take
 * columns out of it would cost as much as to read them.
 */
static bool
RowsAreStored(const Source *source)
{
	Oid			interactions = source->model->interactions;
	char		kind = get_rel_relkind(interactions);
	bool		stored = (kind == RELKIND_RELATION ||
						  kind == RELKIND_PARTITIONED_TABLE ||
						  kind == RELKIND_MATVIEW) &&
		pg_class_aclcheck(interactions, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
	Relation	relation;
	ListCell   *lc;

	if (!stored)
		return false;

	/* a column may be computed for each row, from PostgreSQL 18 on */
	relation = relation_open(interactions, AccessShareLock);
	for (int a = 0; a < RelationGetNumberOfAttributes(relation); a++)
		stored &= TupleDescAttr(RelationGetDescr(relation), a)->attgenerated != 'v';
	relation_close(relation, AccessShareLock);

	/* or another server may have the row */
	foreach(lc, find_all_inheritors(interactions, AccessShareLock, NULL))
		stored &= get_rel_relkind(lfirst_oid(lc)) != RELKIND_FOREIGN_TABLE;
	return stored;
}

char *
SourceAllQuery(const Source *source)
{
	const SourceColumn **columns =
		palloc(sizeof(SourceColumn *) * SourceColumns(source));
	int			count = RowColumns(source, columns);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	if (RowsAreStored(source))
		appendStringInfoString(&sql, "i.*");
	else
	{
		AppendKey(&sql, source, "i");
		for (int c = 0; c < count; c++)
			if (columns[c]->name)
				appendStringInfo(&sql, ", i.%s",
								 quote_identifier(columns[c]->name));
	}
	appendStringInfo(&sql, " FROM %s AS i", source->interactions);
	return sql.data;
}

/* A record of columns of an alias: a function's while one takes as many. */
static void
AppendRecord(StringInfo sql, int count, const SourceColumn *const *columns,
			 const char *alias)
{
	if (count > FUNC_MAX_ARGS)
		appendStringInfoString(sql, "ROW");
	else
		appendStringInfo(sql, "%s.limaml_row",
						 quote_identifier(get_namespace_name(ExtensionSchema())));
	for (int c = 0; c < count; c++)
	{
		appendStringInfoString(sql, c > 0 ? ", " : "(");

		/* a label that there is no column for */
		if (columns[c]->name == NULL)
			appendStringInfoString(sql, "true");
		else
			appendStringInfo(sql, "%s.%s", alias,
							 quote_identifier(columns[c]->name));
	}
	appendStringInfoChar(sql, ')');
}

char *
SourceAdaptQuery(const Source *source)
{
	const char *key = quote_identifier(source->key.columns[0].name);
	const SourceColumn **columns =
		palloc(sizeof(SourceColumn *) *
			   Max(source->features + 3, source->meta_features));
	int			count = 0;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT i.%s, %s.limaml_adapt_agg((SELECT v.network FROM limaml.version AS v"
					 " WHERE v.model OPERATOR(pg_catalog.=) $2 AND v.version OPERATOR(pg_catalog.=) $3), ",
					 key,
					 quote_identifier(get_namespace_name(ExtensionSchema())));
	for (int f = 0; f < source->meta_features; f++)
		columns[f] = &source->meta_feature[f];
	if (source->meta_features > 0)
		AppendRecord(&sql, source->meta_features, columns, "e");
	else
		appendStringInfoString(&sql, "NULL::pg_catalog.record");
	columns[count++] = &source->label;
	columns[count++] = &source->event_time;
	for (int f = 0; f < source->features; f++)
		columns[count++] = &source->feature[f];
	if (source->weight.name)
		columns[count++] = &source->weight;
	appendStringInfoString(&sql, ", ");
	AppendRecord(&sql, count, columns, "i");
	appendStringInfo(&sql, "), pg_catalog.count(*), pg_catalog.max(i.%s) FROM %s AS i",
					 quote_identifier(source->event_time.name),
					 source->interactions);
	if (source->entities)
	{
		appendStringInfo(&sql, " LEFT JOIN %s AS e ON ", source->entities);
		AppendKeyEquality(&sql, &source->key, source->entities_equality, "e",
						  "i");
	}
	appendStringInfoString(&sql, " WHERE ");
	AppendUsable(&sql, source);
	appendStringInfo(&sql, " AND i.%s %s ANY ($1) GROUP BY i.%s", key,
					 source->key.columns[0].equality, key);
	return sql.data;
}

char *
SourceOneQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT 1::pg_catalog.int8");
	AppendRowColumns(&sql, source);
	appendStringInfo(&sql, " FROM %s AS i WHERE ", source->interactions);
	AppendUsable(&sql, source);
	for (int k = 0; k < source->key.count; k++)
		appendStringInfo(&sql, " AND i.%s %s $%d",
						 quote_identifier(source->key.columns[k].name),
						 source->key.columns[k].equality, k + 1);
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
SourceItemsQuery(const Source *source)
{
	const char *key = quote_identifier(source->items_key.name);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT i.%s AS c0", key);
	for (int f = 0; f < source->item_features; f++)
		appendStringInfo(&sql, ", i.%s AS c%d",
						 quote_identifier(source->items_column[f].name),
						 f + 1);
	appendStringInfo(&sql, " FROM %s AS i WHERE i.%s IS NOT NULL",
					 source->items_name, key);
	return sql.data;
}

/* Entities by their rows, those of $2 and later or all: key, count, newest. */
static void
AppendEntities(StringInfo sql, const Source *source, bool newer)
{
	const char *time = quote_identifier(source->event_time.name);

	appendStringInfoString(sql, "(SELECT ");
	AppendKey(sql, source, "i");
	appendStringInfo(sql, ", pg_catalog.count(*) AS \"rows of the entity\", pg_catalog.max(i.%s) AS \"newest row\" FROM %s AS i WHERE ",
					 time, source->interactions);
	AppendUsable(sql, source);
	AppendKeyThere(sql, source, "i");
	if (newer)
		appendStringInfo(sql, " AND i.%s OPERATOR(pg_catalog.>) $2", time);
	appendStringInfoString(sql, " GROUP BY ");
	AppendKey(sql, source, "i");
	appendStringInfoString(sql, ") AS i");
}

/* After the last event time that is one, as a constant; NULL: there is none. */
static const char *
EndOfTime(const Source *source)
{
	Oid			type = getBaseType(source->event_time.type);

	if (type == INT2OID || type == INT4OID || type == INT8OID)
		return NULL;
	return psprintf("'infinity'::%s",
					format_type_extended(type, -1, FORMAT_TYPE_FORCE_QUALIFY));
}

/* Of the newest rows the newest, but for those that are at no time. */
static void
AppendNewest(StringInfo sql, const Source *source)
{
	const char *end = EndOfTime(source);

	appendStringInfoString(sql, "pg_catalog.max(s.\"newest row\")");
	if (end)
		appendStringInfo(sql, " FILTER (WHERE s.\"newest row\" OPERATOR(pg_catalog.<) %s)",
						 end);
	appendStringInfoString(sql, " OVER ()");
}

char *
SourceNewestQuery(const Source *source)
{
	const char *time = quote_identifier(source->event_time.name);
	const char *end = EndOfTime(source);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.max(i.%s) FROM %s AS i WHERE ",
					 time, source->interactions);
	AppendUsable(&sql, source);
	AppendKeyThere(&sql, source, "i");
	if (end)
		appendStringInfo(&sql, " AND i.%s OPERATOR(pg_catalog.<) %s", time,
						 end);
	return sql.data;
}

char *
SourceKeysQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	AppendKey(&sql, source, "i");
	appendStringInfo(&sql, " FROM %s AS i WHERE ", source->interactions);
	AppendUsable(&sql, source);
	AppendKeyThere(&sql, source, "i");
	appendStringInfoString(&sql, " GROUP BY ");
	AppendKey(&sql, source, "i");
	return sql.data;
}

/*
 * Entities without an embedding come in the order of their keys, in which
 * their embeddings then lie; the others in the order of a hash, so that those
 * of one page are updated in many batches: each finds the room that the
 * versions of rows before it have left, and none makes the table grow.
 */
static void
AppendListOrder(StringInfo sql, const Source *source)
{
	bool		hashable = true;

	for (int k = 0; k < source->key.count; k++)
		hashable = hashable &&
			OidIsValid(lookup_type_cache(source->key.columns[k].type,
										 TYPECACHE_HASH_EXTENDED_PROC)->hash_extended_proc);
	appendStringInfoString(sql, " ORDER BY ");
	if (hashable)
	{
		appendStringInfoString(sql, "CASE WHEN l.\"is stored\" THEN pg_catalog.hash_record_extended(ROW(");
		AppendKey(sql, source, "l");
		appendStringInfoString(sql, "), 0) END NULLS FIRST, ");
	}
	AppendKey(sql, source, "l");
}

/* The number of an entity's rows as an embedding has it, which is an integer. */
#define ROWS_OF(alias) \
	"CASE WHEN " alias ".\"rows of the entity\" OPERATOR(pg_catalog.>) 2147483647" \
	" THEN 2147483647 ELSE " alias ".\"rows of the entity\" END"

/* The version's embeddings, of all entities or of that of i, AS e. */
static void
AppendEmbeddings(StringInfo sql, const Source *source, bool all)
{
	const Model *model = source->model;
	const char *table = ModelRelationName(model, model->embeddings,
										  "embeddings");

	/*
	 * By key where few are wanted: nobody analyzes a partitioned table, and a
	 * planner that guesses might read it all, and all interactions too.
	 */
	appendStringInfo(sql, " %s JOIN %s (SELECT * FROM %s AS e WHERE e.version OPERATOR(pg_catalog.=) $1",
					 all ? "FULL" : "LEFT", all ? "" : "LATERAL", table);
	if (!all)
	{
		appendStringInfoString(sql, " AND ");
		AppendKeyEquality(sql, &source->key, NULL, "e", "i");
		appendStringInfoString(sql, " LIMIT 1");
	}
	appendStringInfoString(sql, ") AS e ON ");
	if (all)
		AppendKeyEquality(sql, &source->key, NULL, "i", "e");
	else
		appendStringInfoString(sql, "true");
}

/* All entities, held against all embeddings. */
static void
AppendListOfAll(StringInfo sql, const Source *source, bool different)
{
	appendStringInfoString(sql, "SELECT ");
	for (int k = 0; k < source->key.count; k++)
	{
		const char *name = quote_identifier(source->key.columns[k].name);

		appendStringInfo(sql, "COALESCE(i.%s, e.%s) AS %s, ", name, name,
						 name);
	}
	appendStringInfoString(sql, "i.\"newest row\", e.version IS NOT NULL AS \"is stored\", ");
	appendStringInfoString(sql, different ?
						   ROWS_OF("i") " IS DISTINCT FROM NULLIF(e.interactions, 0)"
						   " OR i.\"newest row\" IS DISTINCT FROM e.adapted_through" :
						   "e.version IS NULL OR e.adapted_at OPERATOR(pg_catalog.<) $2");
	appendStringInfoString(sql, " AS \"is stale\" FROM ");
	AppendEntities(sql, source, false);
	AppendEmbeddings(sql, source, true);
}

/*
 * Entities with rows after $2.  Where the newest is the one that the embedding
 * knows, the entity's rows are counted: some may have come late.
 */
static void
AppendListOfNewer(StringInfo sql, const Source *source)
{
	appendStringInfoString(sql, "WITH n AS MATERIALIZED (SELECT ");
	AppendKey(sql, source, "i");
	appendStringInfoString(sql, ", i.\"newest row\", e.interactions, e.version IS NOT NULL AS \"is stored\","
						   " e.version IS NULL OR i.\"newest row\" IS DISTINCT FROM e.adapted_through AS \"is newer\" FROM ");
	AppendEntities(sql, source, true);
	AppendEmbeddings(sql, source, false);
	appendStringInfoString(sql, "), c AS (SELECT ");
	AppendKey(sql, source, "n");
	if (source->key_indexed)
	{
		/* one entity at a time, or the planner might read all there are */
		appendStringInfo(sql, ", l.* FROM n CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS \"rows of the entity\" FROM %s AS i WHERE ",
						 source->interactions);
		AppendKeyEquality(sql, &source->key, NULL, "i", "n");
		appendStringInfoString(sql, " AND ");
		AppendUsable(sql, source);
		appendStringInfoString(sql, ") AS l WHERE NOT n.\"is newer\"");
	}
	else
	{
		appendStringInfo(sql, ", pg_catalog.count(*) AS \"rows of the entity\" FROM n JOIN %s AS i ON ",
						 source->interactions);
		AppendKeyEquality(sql, &source->key, NULL, "i", "n");
		appendStringInfoString(sql, " WHERE NOT n.\"is newer\" AND ");
		AppendUsable(sql, source);
		appendStringInfoString(sql, " GROUP BY ");
		AppendKey(sql, source, "n");
	}
	appendStringInfoString(sql, ") SELECT ");
	AppendKey(sql, source, "n");
	appendStringInfoString(sql, ", n.\"newest row\", n.\"is stored\", n.\"is newer\" OR "
						   ROWS_OF("c") " OPERATOR(pg_catalog.<>) n.interactions AS \"is stale\" FROM n LEFT JOIN c ON ");
	AppendKeyEquality(sql, &source->key, NULL, "c", "n");
}

/* "(SELECT DISTINCT key... of the table of changed keys)" */
static void
AppendChanged(StringInfo sql, const Source *source)
{
	const Model *model = source->model;

	appendStringInfoString(sql, "(SELECT DISTINCT ");
	AppendKey(sql, source, "q");
	appendStringInfo(sql, " FROM %s AS q WHERE true",
					 ModelRelationName(model, model->changes, "changes"));
	AppendKeyThere(sql, source, "q");
	appendStringInfoChar(sql, ')');
}

char *
SourceChangedQuery(const Source *source)
{
	StringInfoData sql;

	initStringInfo(&sql);
	AppendChanged(&sql, source);
	return sql.data;
}

/* All entities, and those whose keys are written down. */
static void
AppendListOfAllChanged(StringInfo sql, const Source *source)
{
	appendStringInfoString(sql, "SELECT ");
	for (int k = 0; k < source->key.count; k++)
	{
		const char *name = quote_identifier(source->key.columns[k].name);

		appendStringInfo(sql, "COALESCE(a.%s, q.%s) AS %s, ", name, name,
						 name);
	}
	appendStringInfo(sql, "a.\"newest row\", a.\"is stored\" IS TRUE AS \"is stored\","
					 " a.\"is stale\" IS TRUE OR q.%s IS NOT NULL AS \"is stale\" FROM (",
					 quote_identifier(source->key.columns[0].name));
	AppendListOfAll(sql, source, false);
	appendStringInfoString(sql, ") AS a FULL JOIN ");
	AppendChanged(sql, source);
	appendStringInfoString(sql, " AS q ON ");
	AppendKeyEquality(sql, &source->key, NULL, "a", "q");
}

/* Entities whose keys are written down. */
static void
AppendListOfChanged(StringInfo sql, const Source *source)
{
	appendStringInfoString(sql, "SELECT ");
	AppendKey(sql, source, "i");
	appendStringInfo(sql, ", NULL::%s AS \"newest row\", e.version IS NOT NULL AS \"is stored\", true AS \"is stale\" FROM ",
					 format_type_extended(source->event_time.type, -1,
										  FORMAT_TYPE_FORCE_QUALIFY));
	AppendChanged(sql, source);
	appendStringInfoString(sql, " AS i");
	AppendEmbeddings(sql, source, false);
}

/*
 * What a list is made of: key..., newest row, and whether an embedding is
 * stored and whether it is stale.
 */
static void
AppendListed(StringInfo sql, const Source *source, SourceList list)
{
	appendStringInfoChar(sql, '(');
	switch (list)
	{
		case LIST_ALL:
			if (OidIsValid(source->model->changes))
				AppendListOfAllChanged(sql, source);
			else
				AppendListOfAll(sql, source, false);
			break;
		case LIST_DIFFERENT:
			AppendListOfAll(sql, source, true);
			break;
		case LIST_NEWER:
			AppendListOfNewer(sql, source);
			break;
		case LIST_CHANGED:
			AppendListOfChanged(sql, source);
			break;
	}
	appendStringInfoString(sql, ") AS s");
}

char *
SourceListQuery(const Source *source, SourceList list)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	AppendKey(&sql, source, "l");
	appendStringInfoString(&sql, ", l.\"number of entities\", l.\"newest of all\" FROM (SELECT ");
	AppendKey(&sql, source, "s");
	appendStringInfoString(&sql, ", s.\"is stored\", s.\"is stale\", pg_catalog.count(*) FILTER (WHERE s.\"is stale\") OVER () AS \"number of entities\", ");
	AppendNewest(&sql, source);
	appendStringInfoString(&sql, " AS \"newest of all\" FROM ");
	AppendListed(&sql, source, list);
	appendStringInfoString(&sql, ") AS l WHERE l.\"is stale\"");
	AppendListOrder(&sql, source);
	return sql.data;
}

char *
SourceCountQuery(const Source *source, SourceList list)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT s.\"is stored\") FROM ");
	AppendListed(&sql, source, list);
	appendStringInfoString(&sql, " WHERE s.\"is stale\"");
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
	const SourceColumn **columns =
		palloc(sizeof(SourceColumn *) * SourceColumns(source));
	int			count = RowColumns(source, columns);

	for (int c = 0; c < count; c++)
		CheckColumn(source, desc, first + c, columns[c]);
}

static SourceColumn
KeyAsColumn(const Source *source)
{
	SourceColumn key = {
		.name = unconstify(char *, source->key.columns[0].name),
		.type = source->key.columns[0].type
	};

	return key;
}

void
SourceCheckKey(const Source *source, TupleDesc desc)
{
	SourceColumn key = KeyAsColumn(source);

	CheckColumn(source, desc, 1, &key);
}

/* Where a result has a column, counted from 0. */
static int
PlaceOfColumn(const Source *source, TupleDesc desc,
			  const SourceColumn *column)
{
	int			place = 0;

	while (place < desc->natts &&
		   strcmp(NameStr(TupleDescAttr(desc, place)->attname),
				  column->name) != 0)
		place++;
	CheckColumn(source, desc, place + 1, column);
	return place;
}

int
SourceFindColumns(const Source *source, TupleDesc desc, int *at)
{
	const SourceColumn **columns =
		palloc(sizeof(SourceColumn *) * SourceColumns(source));
	int			count = RowColumns(source, columns);
	SourceColumn key = KeyAsColumn(source);

	for (int c = 0; c < count; c++)
		at[c] = columns[c]->name ?
			PlaceOfColumn(source, desc, columns[c]) : -1;
	return PlaceOfColumn(source, desc, &key);
}

void
SourceCheckEntity(const Source *source, TupleDesc desc, int first)
{
	for (int f = 0; f < source->meta_features; f++)
		CheckColumn(source, desc, first++, &source->meta_feature[f]);
}

void
SourceCheckItem(const Source *source, TupleDesc desc)
{
	CheckColumn(source, desc, 1, &source->items_key);
	for (int f = 0; f < source->item_features; f++)
		CheckColumn(source, desc, 2 + f, &source->items_column[f]);
}

/* As hash_record_extended does it, over AppendHashedKey. */
uint64
SourceKeyHash(const Source *source, const Datum *key)
{
	uint64		hash = 0;

	for (int k = 0; k < source->key.count; k++)
	{
		const KeyColumn *column = &source->key.columns[k];
		Datum		one;

		if (HasStableHash(column->type))
		{
			TypeCacheEntry *cached =
				lookup_type_cache(column->type,
								  TYPECACHE_HASH_EXTENDED_PROC_FINFO);

			one = FunctionCall2Coll(&cached->hash_extended_proc_finfo,
									column->collation, key[k],
									Int64GetDatum(0));
		}
		else
		{
			Oid			output;
			bool		varlena;

			getTypeOutputInfo(column->type, &output, &varlena);
			one = DirectFunctionCall2Coll(hashtextextended,
										  DEFAULT_COLLATION_OID,
										  CStringGetTextDatum(OidOutputFunctionCall(output, key[k])),
										  Int64GetDatum(0));
		}
		hash = (hash << 5) - hash + DatumGetUInt64(one);
	}
	return hash;
}

bool
SourceSameTime(const Source *source, Datum a, Datum b)
{
	if (datumIsEqual(a, b, source->event_time.by_value,
					 source->event_time.length))
		return true;

	/* a number is the same however many digits it is written with */
	return !source->event_time.by_value &&
		getBaseType(source->event_time.type) == NUMERICOID &&
		DatumGetBool(DirectFunctionCall2(numeric_eq, a, b));
}

const char *
OfEntity(const Source *source, const Datum *key)
{
	return key ? psprintf(" of %s", KeyText(&source->key, key)) : "";
}

Interaction
SourceReadInteraction(const Source *source, Loss loss, const Datum *values,
					  const bool *isnull, const Datum *key)
{
	Interaction interaction = {.weight = 1,.item = NO_ITEM};
	double		label = ReadNumber(&source->label_reader, values[0], isnull[0]);

	if (loss == LOSS_BINARY && label != 0 && label != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("label \"%s\"%s is %g, neither 0 nor 1",
						source->label.name, OfEntity(source, key), label),
				 errhint("Use an expression such as %s > 3 in a view, or the option \"loss\" squared.",
						 source->label.name)));
	if (!isfinite((float) label))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("label \"%s\"%s is %g, which is not finite",
						source->label.name, OfEntity(source, key), label)));
	interaction.label = (float) label;

	if (source->weight.name)
	{
		double		weight = ReadNumber(&source->weight_reader, values[1],
										isnull[1]);

		if (!(weight >= 0) || !isfinite((float) weight))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("weight \"%s\"%s is %s",
							source->weight.name, OfEntity(source, key),
							isnull[1] ? "null" : psprintf("%g", weight)),
					 errhint("Weights are finite numbers from 0.")));
		interaction.weight = (float) weight;
	}
	return interaction;
}
