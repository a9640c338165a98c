/*-------------------------------------------------------------------------
 *
 * source.h
 *	  A model's source of rows: the SQL that reads interactions and entities,
 *	  and the reading of what it returns.
 *
 * Interactions of one entity are always taken in the order of their event
 * time, and where that ties in an order that follows from all other columns
 * used.  Rows that still tie are alike, so that whatever is computed from them
 * has the same bits however the table is laid out.  The training query sorts
 * them so; those of a batch are sorted by who reads them (adapt.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUERY_SOURCE_H
#define QUERY_SOURCE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "lib/stringinfo.h"

#include "model/catalog.h"
#include "model/encoder.h"
#include "model/entity_key.h"

typedef struct SourceColumn
{
	char	   *name;
	Oid			type;
	int16		length;			/* of its type, as pg_type has it */
	bool		by_value;
	bool		sortable;
	bool		hashable;		/* alike in every database */
	bool		nullable;
} SourceColumn;

typedef struct Source
{
	const Model *model;
	EntityKey	key;
	char	   *interactions;	/* qualified and quoted */
	char	   *entities;		/* the same, or NULL */
	char	   *entities_equality[INDEX_MAX_KEYS];	/* its key = the key */
	bool		key_indexed;	/* by an index of the interactions */
	bool		key_has_places; /* rows of a batch come with their key */
	SourceColumn event_time;
	SourceColumn label;			/* name is NULL where there is none, and every
								 * row a positive */
	SourceColumn weight;		/* name is NULL where there is none */
	SourceColumn item;			/* key of the items, the same */
	int			features;
	SourceColumn *feature;
	int			meta_features;
	SourceColumn *meta_feature;

	/* what negatives are drawn from, where there is an item */
	Oid			items;			/* relation */
	char	   *items_name;		/* qualified and quoted */
	SourceColumn items_key;
	int			item_features;	/* that it has a column for */
	int		   *item_feature;	/* which ones */
	SourceColumn *items_column;

	ColumnReader label_reader;
	ColumnReader weight_reader;
} Source;

/* Where in a row the item is, and the first feature, counted from the label. */
static inline int
SourceItemAt(const Source *source)
{
	return source->weight.name ? 2 : 1;
}

static inline int
SourceFeaturesAt(const Source *source)
{
	return SourceItemAt(source) + (source->item.name ? 1 : 0);
}

/* The column of a feature as declared, whether or not there is one. */
extern char *FeatureName(Oid relation, const char *declared);

/* The same of one that must be there, and the kind that it has. */
extern char *FeatureColumn(Oid relation, const char *declared,
						   FeatureKind *kind);

/*
 * The source of rows with these columns, which must be there and of types
 * that can be what they are used for.  Errors name them.
 */
extern void SourceInit(Source *source, const Model *model,
					   int features, char *const *feature,
					   int meta_features, char *const *meta_feature,
					   const char *weight);

/* The same with the columns that a model declares, and with their kinds. */
extern void SourceInitDeclared(Source *source, const Model *model,
							   const char *weight, Encoder *interaction,
							   Encoder *entity);

/*
 * The same of rows that come from no relation, and have no key and no model:
 * their event time, and then, where they are to be read, label and weight,
 * whose name is NULL where there is none.
 */
extern void SourceInitTime(Source *source, int features,
						   const char *event_time, Oid type);
extern void SourceInitLabel(Source *source, const char *label, Oid label_type,
							const char *weight, Oid weight_type);

/* The relation that the option `items` names; an error where there is none. */
extern Oid	ItemsRelation(const char *name);

/*
 * Adds what negatives are drawn from to a source: this relation's columns of
 * the features, and its key, which the interactions have under the same name.
 * Where `key` is NULL it is the primary key.
 */
extern void SourceAddItems(Source *source, const char *items,
						   const char *key);

/* Rows that a network is evaluated on. */
typedef struct SourceTested
{
	const char *relation;		/* qualified and quoted, whose rows are tested
								 * after those of the interactions that are
								 * older; or NULL: the interactions alone */
	bool		strangers;		/* only of entities without interactions */
	const char *segment;		/* column, or NULL */
	bool		segment_of_entity;	/* it is one of the entities relation */
	int			lags;
	Interval  **lag;
} SourceTested;

/* Checks that a relation has the source's columns, and returns its name. */
extern char *SourceTestedRelation(const Source *source, Oid relation);

/*
 * Rows of all entities, by key and time:
 *		row's number in its entity from 1, number of the entity's rows, a hash
 *		of its key, key..., event time, label, weight?, item?, features...,
 *		meta features...
 * and of those that are tested (NULL: no more than that):
 *		how many of the entity's rows are tested, which are its last, or 0
 *		without a relation; the row's segment as text; and for each lag the
 *		number of the entity's rows that were there so long before the row.
 */
extern char *SourceRowsQuery(const Source *source, const SourceTested *tested);

/* Index of the first key column of such a row. */
#define SOURCE_ROW_KEY 3

/* How many rows have no key, label or event time: one bigint. */
extern char *SourceSkippedQuery(const Source *source);

/* Keys that the entities relation has more than once: key..., one row. */
extern char *SourceDuplicatesQuery(const Source *source);

/*
 * The rows of given entities, in no order.  Parameters are an array of each
 * key column's values.
 *		the key, or where that has no places (key_places.h) its place in the
 *		arrays from 1, event time, label, weight?, item?, features...
 */
extern char *SourceBatchQuery(const Source *source);

/*
 * The rows of all entities, in no order; some have no key, label or event time.
 * SourceFindColumns says where their columns are.
 */
extern char *SourceAllQuery(const Source *source);

/* How many entities have rows, for the planner to tell without running it. */
extern char *SourceKeysQuery(const Source *source);

/* The newest event time of all rows: one value, or NULL. */
extern char *SourceNewestQuery(const Source *source);

/*
 * Entities of given keys, adapted by limaml_adapt_agg, in one statement of the
 * kind that goes to other servers whole: key, embedding, number of rows, newest
 * event time.  Parameters are an array of keys, which have one column, the
 * model's name and the version.
 */
extern char *SourceAdaptQuery(const Source *source);

/* The same of one entity, whose place is 1; parameters are its key. */
extern char *SourceOneQuery(const Source *source);

/* Their meta features: place, meta features...; entities may be missing. */
extern char *SourceEntitiesQuery(const Source *source);

/* All items that have a key, in no order: key, features that they have... */
extern char *SourceItemsQuery(const Source *source);

/* Which entities to adapt for a version. */
typedef enum SourceList
{
	LIST_ALL,					/* but those adapted since $2, a timestamptz,
								 * whose keys are not written down */
	LIST_DIFFERENT,				/* whose rows are more, fewer or newer than
								 * what their embedding was adapted on */
	LIST_NEWER,					/* of these, those with rows after $2, an
								 * event time */
	LIST_CHANGED				/* that triggers have written down */
} SourceList;

/*
 * Entities to adapt: key..., how many they are, and the newest event time of
 * all that were looked at.  Parameters: the version, and $2 where there is one.
 */
extern char *SourceListQuery(const Source *source, SourceList list);

/* The keys that triggers have written down, each once. */
extern char *SourceChangedQuery(const Source *source);

/* How many they are, and how many of them have no embedding. */
extern char *SourceCountQuery(const Source *source, SourceList list);

/* One interaction as read: what math wants of it. */
typedef struct Interaction
{
	float		label;
	float		weight;
	bool		same_time;		/* as the entity's row before */
	bool		sampled;		/* it is a negative of the row before */
	int32		item;			/* which one it is of, or NO_ITEM */
} Interaction;

#define NO_ITEM (-1)

/*
 * Errors if the result of a query has other types than the source's columns
 * had when it was set up: somebody has altered the relation.  Event time,
 * label, weight, item and features begin at column `first`.
 */
extern void SourceCheckRow(const Source *source, TupleDesc desc, int first);

/*
 * Where in the rows of SourceAllQuery the key is, and what else is read of a
 * row: event time, label, weight?, item?, features...  Counted from 0; -1 of a
 * label that there is no column for.  The same error.
 */
extern int	SourceFindColumns(const Source *source, TupleDesc desc, int *at);

/* How many these are, without the key. */
static inline int
SourceColumns(const Source *source)
{
	return 1 + SourceFeaturesAt(source) + source->features;
}

/* The same for the key, of one column, with which a row begins. */
extern void SourceCheckKey(const Source *source, TupleDesc desc);

/* The same for meta features, and for a row of the items. */
extern void SourceCheckEntity(const Source *source, TupleDesc desc, int first);
extern void SourceCheckItem(const Source *source, TupleDesc desc);

/* The hash of an entity's key that SourceRowsQuery has. */
extern uint64 SourceKeyHash(const Source *source, const Datum *key);

/* Whether two event times are one. */
extern bool SourceSameTime(const Source *source, Datum a, Datum b);

/*
 * Reads label and weight, with which values and isnull begin; which item it is
 * of the caller is to find.  Errors name the entity by its key, which may be
 * NULL.
 */
extern Interaction SourceReadInteraction(const Source *source, Loss loss,
										 const Datum *values,
										 const bool *isnull,
										 const Datum *key);

/* " of member_id 42" for messages, or nothing where the key is NULL. */
extern const char *OfEntity(const Source *source, const Datum *key);

#endif							/* QUERY_SOURCE_H */
