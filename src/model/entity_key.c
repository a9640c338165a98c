/*-------------------------------------------------------------------------
 *
 * entity_key.c
 *	  Entity keys.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "model/entity_key.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* An operator as SQL that no search path can turn into another. */
static char *
QualifiedOperator(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *sql;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	sql = psprintf("OPERATOR(%s.%s)",
				   quote_identifier(get_namespace_name(form->oprnamespace)),
				   NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return sql;
}

void
EntityKeyInit(EntityKey *key, const Model *model, Oid relation,
			  const char *role)
{
	key->count = model->keys;
	key->columns = palloc0(sizeof(KeyColumn) * key->count);
	ModelRelationName(model, relation, role);
	for (int k = 0; k < key->count; k++)
	{
		KeyColumn  *column = &key->columns[k];
		AttrNumber	number = get_attnum(relation, model->key[k]);
		TypeCacheEntry *cached;

		if (number <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							model->key[k], get_rel_name(relation)),
					 errdetail("It belongs to the entity key of model \"%s\".",
							   model->name)));
		column->name = model->key[k];
		get_atttypetypmodcoll(relation, number, &column->type,
							  &column->typmod, &column->collation);
		get_typlenbyvalalign(column->type, &column->typlen, &column->typbyval,
							 &column->typalign);
		cached = lookup_type_cache(column->type, TYPECACHE_EQ_OPR |
								   TYPECACHE_BTREE_OPFAMILY);
		if (type_is_rowtype(column->type) ||
			!OidIsValid(get_array_type(column->type)))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of type %s cannot be part of an entity key",
							column->name, format_type_be(column->type)),
					 errhint("A key may have several columns; each is to hold a single value.")));
		if (!OidIsValid(cached->eq_opr) || !OidIsValid(cached->btree_opf))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of type %s cannot be part of an entity key",
							column->name, format_type_be(column->type)),
					 errdetail("Its type has no default btree operator class.")));
		column->equality = QualifiedOperator(cached->eq_opr);
		column->order = cached->btree_opf;
	}
}

char *
KeyEquality(const KeyColumn *column, Oid type)
{
	Oid			base = getBaseType(type);
	Oid			operator;

	if (base == getBaseType(column->type))
		return column->equality;
	operator = get_opfamily_member(column->order, base,
								   getBaseType(column->type),
								   BTEqualStrategyNumber);
	return OidIsValid(operator) ? QualifiedOperator(operator) : NULL;
}

static void
ConversionInit(KeyConversion *conversion, const KeyColumn *column,
			   const char *model, Oid source)
{
	Oid			target = getBaseType(column->type);
	Oid			from = getBaseType(source);
	Oid			function = InvalidOid;
	CoercionPathType path = COERCION_PATH_RELABELTYPE;
	bool		varlena;

	memset(conversion, 0, sizeof(*conversion));
	conversion->source = source;
	if (from == UNKNOWNOID)
	{
		getTypeInputInfo(target, &conversion->input,
						 &conversion->input_parameter);
		return;
	}
	if (from != target)
		path = find_coercion_pathway(target, from, COERCION_ASSIGNMENT,
									 &function);
	switch (path)
	{
		case COERCION_PATH_RELABELTYPE:
			break;
		case COERCION_PATH_FUNC:
			conversion->by_function = true;
			fmgr_info(function, &conversion->cast);
			break;
		case COERCION_PATH_COERCEVIAIO:
			conversion->by_text = true;
			getTypeOutputInfo(from, &conversion->output, &varlena);
			getTypeInputInfo(target, &conversion->input,
							 &conversion->input_parameter);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of model \"%s\" is of type %s, not %s",
							column->name, model, format_type_be(column->type),
							format_type_be(source)),
					 errhint("Cast the key to %s.",
							 format_type_be(column->type))));
	}
}

void
KeyBindingInit(KeyBinding *binding, const EntityKey *key, const Model *model,
			   Oid argument)
{
	binding->key = key;
	binding->model = model->name;
	binding->argument = argument;
	binding->row_type = InvalidOid;
	binding->row_typmod = -1;
	binding->conversions = palloc0(sizeof(KeyConversion) * key->count);
	binding->context = CurrentMemoryContext;

	if (key->count == 1)
		ConversionInit(&binding->conversions[0], &key->columns[0],
					   model->name, argument);
	else if (!type_is_rowtype(argument) && argument != UNKNOWNOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("key of model \"%s\" has %d columns, and type %s has one",
						model->name, key->count, format_type_be(argument)),
				 errhint("Write the key as a row, for example ROW(%s, ...).",
						 key->columns[0].name)));
}

static void
KeyErrorContext(void *arg)
{
	errcontext("key column \"%s\"", ((const KeyColumn *) arg)->name);
}

static Datum
ConvertValue(KeyConversion *conversion, const KeyColumn *column, Datum value)
{
	if (getBaseType(conversion->source) == UNKNOWNOID)
		return OidInputFunctionCall(conversion->input, DatumGetCString(value),
									conversion->input_parameter, -1);
	if (conversion->by_function && conversion->cast.fn_nargs == 1)
		return FunctionCall1Coll(&conversion->cast, column->collation, value);
	if (conversion->by_function && conversion->cast.fn_nargs == 2)
		return FunctionCall2Coll(&conversion->cast, column->collation, value,
								 Int32GetDatum(-1));
	if (conversion->by_function)
		return FunctionCall3Coll(&conversion->cast, column->collation, value,
								 Int32GetDatum(-1), BoolGetDatum(false));
	if (conversion->by_text)
		return OidInputFunctionCall(conversion->input,
									OidOutputFunctionCall(conversion->output,
														  value),
									conversion->input_parameter, -1);
	return value;
}

/* A value of any type as one of the key column's. */
static Datum
Convert(KeyConversion *conversion, const KeyColumn *column, Datum value)
{
	ErrorContextCallback callback;

	callback.callback = KeyErrorContext;
	callback.arg = unconstify(KeyColumn *, column);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	value = ConvertValue(conversion, column, value);
	error_context_stack = callback.previous;
	return value;
}

/* The columns of a key that came as a row. */
static bool
RowKeyValues(KeyBinding *binding, Datum argument, Datum *values)
{
	const EntityKey *key = binding->key;
	HeapTupleHeader row = DatumGetHeapTupleHeader(argument);
	HeapTupleData tuple;
	Oid			type = HeapTupleHeaderGetTypeId(row);
	int32		typmod = HeapTupleHeaderGetTypMod(row);
	TupleDesc	columns = lookup_rowtype_tupdesc(type, typmod);
	Datum	   *fields = palloc(sizeof(Datum) * columns->natts);
	bool	   *nulls = palloc(sizeof(bool) * columns->natts);
	bool		all = true;

	if (columns->natts != key->count)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("key of model \"%s\" has %d columns, not %d",
						binding->model, key->count, columns->natts)));
	if (type != binding->row_type || typmod != binding->row_typmod)
	{
		MemoryContext old = MemoryContextSwitchTo(binding->context);

		binding->row_type = InvalidOid;
		for (int k = 0; k < key->count; k++)
			ConversionInit(&binding->conversions[k], &key->columns[k],
						   binding->model, TupleDescAttr(columns, k)->atttypid);
		binding->row_type = type;
		binding->row_typmod = typmod;
		MemoryContextSwitchTo(old);
	}

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, columns, fields, nulls);
	for (int k = 0; k < key->count; k++)
	{
		if (nulls[k])
			all = false;
		else
			values[k] = Convert(&binding->conversions[k], &key->columns[k],
								fields[k]);
	}
	ReleaseTupleDesc(columns);
	return all;
}

bool
KeyValues(KeyBinding *binding, Datum argument, bool isnull, Datum *values)
{
	if (isnull)
		return false;
	if (binding->key->count > 1 && binding->argument == UNKNOWNOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("key of model \"%s\" has %d columns, and a literal has one",
						binding->model, binding->key->count),
				 errhint("Write the key as a row, for example ROW(%s, ...).",
						 binding->key->columns[0].name)));
	if (binding->key->count > 1)
		return RowKeyValues(binding, argument, values);
	values[0] = Convert(&binding->conversions[0], &binding->key->columns[0],
						argument);
	return true;
}

char *
KeyText(const EntityKey *key, const Datum *values)
{
	StringInfoData names;
	StringInfoData texts;

	initStringInfo(&names);
	initStringInfo(&texts);
	for (int k = 0; k < key->count; k++)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(key->columns[k].type, &output, &varlena);
		appendStringInfo(&names, "%s%s", k > 0 ? ", " : "",
						 key->columns[k].name);
		appendStringInfo(&texts, "%s%s", k > 0 ? ", " : "",
						 OidOutputFunctionCall(output, values[k]));
	}
	return psprintf(key->count > 1 ? "(%s) (%s)" : "%s %s", names.data,
					texts.data);
}

void
KeyReaderInit(KeyReader *reader, const EntityKey *key)
{
	reader->key = key;
	reader->is_integer = key->count == 1 &&
		CategoryIsInteger(key->columns[0].type);
	reader->columns = palloc0(sizeof(ColumnReader) * key->count);
	for (int k = 0; k < key->count; k++)
		if (!CategoryReaderInit(&reader->columns[k], reader->is_integer,
								key->columns[k].type))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of type %s cannot be a category",
							key->columns[k].name,
							format_type_be(key->columns[k].type)),
					 errdetail("The option \"personalization\" is \"id\".")));
}

void
KeyReaderCheck(const KeyReader *reader, const Vocabulary *vocabulary)
{
	if (reader->is_integer != vocabulary->is_integer)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the network knows entities by %s keys, and the model's are %s",
						vocabulary->is_integer ? "integer" : "text",
						reader->is_integer ? "integers" : "not")));
}

void
ReadKey(KeyReader *reader, const Datum *values, CategoryValue *value)
{
	StringInfoData text;

	if (reader->key->count == 1)
	{
		ReadCategory(&reader->columns[0], reader->is_integer, values[0], false,
					 value);
		return;
	}

	/* with their lengths, no two keys make the same text */
	initStringInfo(&text);
	for (int k = 0; k < reader->key->count; k++)
	{
		CategoryValue part;

		ReadCategory(&reader->columns[k], false, values[k], false, &part);
		appendStringInfo(&text, "%d:", part.length);
		appendBinaryStringInfo(&text, part.text, part.length);
	}
	*value = (CategoryValue) {.text = text.data,.length = text.len};
}
