/*-------------------------------------------------------------------------
 *
 * entity_key.h
 *	  An entity's key: how an SQL argument becomes values of its columns, and
 *	  how it is named in a message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_ENTITY_KEY_H
#define MODEL_ENTITY_KEY_H

#include "postgres.h"

#include "fmgr.h"

#include "model/catalog.h"
#include "model/encoder.h"

typedef struct KeyColumn
{
	const char *name;
	Oid			type;
	int32		typmod;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	char	   *equality;		/* OPERATOR(schema.=) of the type */
	Oid			order;			/* its btree operator family */
} KeyColumn;

typedef struct EntityKey
{
	int			count;
	KeyColumn  *columns;
} EntityKey;

/* How values of other types become the key's. */
typedef struct KeyConversion
{
	Oid			source;
	bool		by_function;	/* cast */
	bool		by_text;		/* cast through the types' text form */
	FmgrInfo	cast;
	Oid			output;
	Oid			input;
	Oid			input_parameter;
} KeyConversion;

typedef struct KeyBinding
{
	const EntityKey *key;
	const char *model;
	Oid			argument;		/* type of the SQL argument */
	Oid			row_type;		/* of the last row seen, where it is one */
	int32		row_typmod;
	KeyConversion *conversions; /* one per column */
	MemoryContext context;
} KeyBinding;

/*
 * The key's columns as they stand in a relation of the model's; role says
 * which one it is.
 */
extern void EntityKeyInit(EntityKey *key, const Model *model, Oid relation,
						  const char *role);

/*
 * Prepares to convert arguments of this type, in the current memory context.
 * An error where that cannot be.
 */
extern void KeyBindingInit(KeyBinding *binding, const EntityKey *key,
						   const Model *model, Oid argument);

/*
 * Converts an argument to the key's values.  Returns false where the entity
 * is NULL or a column of it is.
 */
extern bool KeyValues(KeyBinding *binding, Datum argument, bool isnull,
					  Datum *values);

/*
 * The equality of another relation's column of this type with a key column,
 * as OPERATOR(schema.=), or NULL where there is none.
 */
extern char *KeyEquality(const KeyColumn *column, Oid type);

/* Reads entities as values of a category. */
typedef struct KeyReader
{
	const EntityKey *key;
	bool		is_integer;		/* the values are */
	ColumnReader *columns;
} KeyReader;

/* An error where a key column is of no type that a category may have. */
extern void KeyReaderInit(KeyReader *reader, const EntityKey *key);

/* An error unless a category that was trained holds such values. */
extern void KeyReaderCheck(const KeyReader *reader,
						   const Vocabulary *vocabulary);
extern void ReadKey(KeyReader *reader, const Datum *values,
					CategoryValue *value);

/* "member_id 42", or "(member_id, channel) (42, email)". */
extern char *KeyText(const EntityKey *key, const Datum *values);

#endif							/* MODEL_ENTITY_KEY_H */
