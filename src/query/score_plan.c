/*-------------------------------------------------------------------------
 *
 * score_plan.c
 *	  Scoring as the planner sees it: a call that gives candidates as whole
 *	  rows becomes one that gives the columns which the model needs.
 *
 * Forming a row and taking it apart again costs more than the network.  The
 * new call says the columns' names, and the executor binds features to them
 * by name as it does to a row's: it asks the model as it then is.  Should that
 * be another one, of features that the plan does not read, the call fails; but
 * the plan depends on the model's embeddings table, with which a model is
 * dropped, and so it is made anew instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "model/catalog.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "query/source.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* A whole row's columns: their names, and what gives each. */
typedef struct RowColumns
{
	int			count;
	char	  **names;
	Node	  **values;
} RowColumns;

static void
AddColumn(RowColumns *columns, const char *name, Node *value)
{
	columns->names[columns->count] = pstrdup(name);
	columns->values[columns->count++] = value;
}

static void
StartColumns(RowColumns *columns, int most)
{
	columns->count = 0;
	columns->names = palloc(sizeof(char *) * Max(most, 1));
	columns->values = palloc(sizeof(Node *) * Max(most, 1));
}

/* Whether they are f1 ... fn, which the executor binds by place. */
static bool
IsAnonymous(const RowColumns *columns)
{
	for (int c = 0; c < columns->count; c++)
		if (strcmp(columns->names[c], psprintf("f%d", c + 1)) != 0)
			return false;
	return true;
}

/* The columns of a relation's whole row; false where it is anything else. */
static bool
ColumnsOfVar(PlannerInfo *root, const Var *var, RowColumns *columns)
{
	RangeTblEntry *rte;
	TupleDesc	desc;

	if (var->varattno != InvalidAttrNumber)
		return false;
	for (Index level = 0; level < var->varlevelsup; level++)
	{
		root = root->parent_root;
		if (root == NULL)
			return false;
	}
	rte = rt_fetch(var->varno, root->parse->rtable);
	if (rte->rtekind != RTE_RELATION)
		return false;
	desc = lookup_rowtype_tupdesc(var->vartype, var->vartypmod);
	StartColumns(columns, desc->natts);
	for (int a = 0; a < desc->natts; a++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, a);

		Var		   *column;

		if (attribute->attisdropped)
			continue;

		/* a copy, for it may be NULL where the row is: after an outer join */
		column = copyObject(unconstify(Var *, var));
		column->varattno = column->varattnosyn = a + 1;
		column->vartype = attribute->atttypid;
		column->vartypmod = attribute->atttypmod;
		column->varcollid = attribute->attcollation;
		AddColumn(columns, NameStr(attribute->attname), (Node *) column);
	}
	ReleaseTupleDesc(desc);
	return true;
}

/* The same of a row that is written out, as those of a view are. */
static bool
ColumnsOfRow(const RowExpr *row, RowColumns *columns)
{
	int			count = list_length(row->args);

	/* what is left out would not be evaluated */
	if (contain_volatile_functions((Node *) row))
		return false;
	StartColumns(columns, count);
	if (row->colnames)
	{
		if (list_length(row->colnames) != count)
			return false;
		for (int c = 0; c < count; c++)
			AddColumn(columns, strVal(list_nth(row->colnames, c)),
					  list_nth(row->args, c));
	}
	else
	{
		TupleDesc	desc = lookup_rowtype_tupdesc(row->row_typeid, -1);

		for (int c = 0; c < Min(count, desc->natts); c++)
			if (!TupleDescAttr(desc, c)->attisdropped)
				AddColumn(columns, NameStr(TupleDescAttr(desc, c)->attname),
						  list_nth(row->args, c));
		ReleaseTupleDesc(desc);
	}
	return true;
}

/* The model's features among the columns, and only them; false unless all are. */
static bool
KeepFeatures(const Model *model, RowColumns *columns)
{
	RowColumns	kept;

	StartColumns(&kept, model->features);
	for (int f = 0; f < model->features; f++)
	{
		char	   *name = FeatureName(model->interactions, model->feature[f]);
		int			c = 0;

		while (c < columns->count && strcmp(columns->names[c], name) != 0)
			c++;
		if (c == columns->count)
			return false;
		AddColumn(&kept, name, columns->values[c]);
	}
	*columns = kept;
	return true;
}

static Const *
NamesConst(const RowColumns *columns)
{
	Datum	   *names = palloc(sizeof(Datum) * columns->count);

	for (int c = 0; c < columns->count; c++)
		names[c] = CStringGetTextDatum(columns->names[c]);
	return makeConst(TEXTARRAYOID, -1, DEFAULT_COLLATION_OID, -1,
					 PointerGetDatum(construct_array(names, columns->count,
													 TEXTOID, -1, false,
													 TYPALIGN_INT)),
					 false, false);
}

/*
 * The call with columns, or NULL where it stays as it is: then its execution
 * will do, or say what is wrong.
 */
static Node *
BindColumns(PlannerInfo *root, const FuncExpr *call, const char *name)
{
	static const Oid own_types[] = {TEXTOID, TEXTARRAYOID};
	Node	   *model_name = linitial(call->args);
	Node	   *who = lsecond(call->args);
	Node	   *candidate = lthird(call->args);
	RowColumns	columns;
	MemoryContext context = CurrentMemoryContext;
	Model	   *model;
	List	   *arguments;
	Oid			types[4];
	Oid			function;

	if (!IsA(model_name, Const) || ((Const *) model_name)->constisnull)
		return NULL;
	if (IsA(candidate, Var))
	{
		if (!ColumnsOfVar(root, (Var *) candidate, &columns))
			return NULL;
	}
	else if (!IsA(candidate, RowExpr) ||
			 !ColumnsOfRow((RowExpr *) candidate, &columns))
		return NULL;
	if (IsAnonymous(&columns))
		return NULL;

	SPI_connect();
	MemoryContextSwitchTo(context);
	model = CatalogFindModel(TextDatumGetCString(((Const *) model_name)->constvalue),
							 true);
	SPI_finish();
	if (model == NULL || !OidIsValid(model->embeddings) ||
		!KeepFeatures(model, &columns) ||
		columns.count + 3 > FUNC_MAX_ARGS)
		return NULL;

	types[0] = own_types[0];
	types[1] = own_types[1];
	types[2] = strcmp(name, "limaml_score_columns") == 0 ? ANYOID :
		MetaEmbeddingType();
	types[3] = ANYOID;
	function = LookupFuncName(list_make2(makeString(get_namespace_name(ExtensionSchema())),
										 makeString(pstrdup(name))),
							  4, types, true);
	if (!OidIsValid(function))
		return NULL;
	root->glob->relationOids = lappend_oid(root->glob->relationOids,
										   model->embeddings);

	arguments = list_make3(model_name, NamesConst(&columns), who);
	for (int c = 0; c < columns.count; c++)
		arguments = lappend(arguments, columns.values[c]);
	return (Node *) makeFuncExpr(function, call->funcresulttype, arguments,
								 call->funccollid, call->inputcollid,
								 COERCE_EXPLICIT_CALL);
}

static Datum
Simplify(FunctionCallInfo fcinfo, const char *name)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestSimplify))
	{
		SupportRequestSimplify *simplify = (SupportRequestSimplify *) request;
		const FuncExpr *call = simplify->fcall;

		/* without a query there are no relations */
		if (simplify->root && !call->funcvariadic &&
			list_length(call->args) == 3)
			PG_RETURN_POINTER(BindColumns(simplify->root, call, name));
	}
	PG_RETURN_POINTER(NULL);
}

PG_FUNCTION_INFO_V1(limaml_score_support);

/* Of limaml_score. */
Datum
limaml_score_support(PG_FUNCTION_ARGS)
{
	return Simplify(fcinfo, "limaml_score_columns");
}

PG_FUNCTION_INFO_V1(limaml_score_embedding_support);

/* Of limaml_score_embedding. */
Datum
limaml_score_embedding_support(PG_FUNCTION_ARGS)
{
	return Simplify(fcinfo, "limaml_score_embedding_columns");
}
