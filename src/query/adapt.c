/*-------------------------------------------------------------------------
 *
 * adapt.c
 *	  Reading entities' newest interactions, and adapting on them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "math/adapt.h"
#include "miscadmin.h"
#include "query/adapt.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Rows that are fetched from the cursor at a time. */
#define FETCH_ROWS 1000

static void
FreePlan(void *plan)
{
	SPI_freeplan(plan);
}

/* A plan over arrays of keys, which goes when the adapter does. */
static SPIPlanPtr
PreparePlan(const Adapter *adapter, const char *sql)
{
	const Source *source = &adapter->source;
	Oid			types[INDEX_MAX_KEYS];
	MemoryContextCallback *callback;
	SPIPlanPtr	plan;

	for (int k = 0; k < source->key.count; k++)
	{
		types[k] = get_array_type(source->key.columns[k].type);
		if (!OidIsValid(types[k]))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("could not find array type for data type %s",
							format_type_be(source->key.columns[k].type))));
	}
	plan = SPI_prepare(sql, source->key.count, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare: %s", sql);
	callback = MemoryContextAlloc(adapter->context,
								  sizeof(MemoryContextCallback));
	callback->func = FreePlan;
	callback->arg = plan;
	MemoryContextRegisterResetCallback(adapter->context, callback);
	return plan;
}

static char **
FeatureNames(const Encoder *encoder)
{
	char	  **names = palloc(sizeof(char *) * Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
		names[f] = encoder->features[f].name;
	return names;
}

static ColumnReader *
FeatureReaders(const Encoder *encoder, const SourceColumn *columns)
{
	ColumnReader *readers = palloc0(sizeof(ColumnReader) *
									Max(encoder->count, 1));

	for (int f = 0; f < encoder->count; f++)
		FeatureReaderInit(&readers[f], &encoder->features[f],
						  columns[f].type);
	return readers;
}

static float *
Numbers(Size rows, Size columns)
{
	return palloc_extended(mul_size(Max(mul_size(rows, columns), 1),
									sizeof(float)), MCXT_ALLOC_HUGE);
}

void
AdapterInit(Adapter *adapter, const Model *model,
			const TrainedNetwork *trained)
{
	const NetworkShape *shape = &trained->shape;
	int			rows = Max(trained->support_rows, 1);
	ModelOptions options;
	Jsonb	   *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														  CStringGetDatum(trained->options)));
	MemoryContext context = CurrentMemoryContext;

	/* which column weighs rows is the version's matter, not the model's */
	OptionsDefault(&options);
	OptionsApply(&options, json, false);

	adapter->trained = trained;
	adapter->context = context;
	SourceInit(&adapter->source, model,
			   trained->interaction.count, FeatureNames(&trained->interaction),
			   trained->entity.count, FeatureNames(&trained->entity),
			   options.weight);
	adapter->readers = FeatureReaders(&trained->interaction,
									  adapter->source.feature);
	adapter->meta_readers = FeatureReaders(&trained->entity,
										   adapter->source.meta_feature);
	adapter->batch = AllocSetContextCreate(context, "limaml batch",
										   ALLOCSET_DEFAULT_SIZES);
	adapter->rows_plan = NULL;
	adapter->entities_plan = NULL;
	adapter->x = Numbers(1, trained->entity.width);
	adapter->z = Numbers(rows, trained->interaction.width);
	adapter->half = Numbers(rows, network_half_size(shape));
	adapter->label = Numbers(rows, 1);
	adapter->weight = Numbers(rows, 1);
	adapter->offset = Numbers(rows, 1);
	adapter->same_time = palloc(sizeof(bool) * rows);
	adapter->memory = Numbers(adapt_size(shape, rows), 1);
}

/* The key columns' values as one array each. */
static Datum *
KeyArrays(const Adapter *adapter, int count, Datum **key)
{
	const EntityKey *columns = &adapter->source.key;
	Datum	   *arrays = palloc(sizeof(Datum) * columns->count);

	for (int k = 0; k < columns->count; k++)
	{
		const KeyColumn *column = &columns->columns[k];

		arrays[k] = PointerGetDatum(construct_array(key[k], count,
													column->type,
													column->typlen,
													column->typbyval,
													column->typalign));
	}
	return arrays;
}

void
UnknownEntityCodes(const Encoder *encoder, FeatureCode *codes)
{
	for (int f = 0; f < encoder->count; f++)
	{
		if (encoder->features[f].kind == FEATURE_NUMERIC)
			codes[f].number = get_float4_nan();
		else
			codes[f].row = VOCABULARY_NULL_ROW;
	}
}

void
EntityCodes(Adapter *adapter, int count, Datum **key, bool read_only,
			 FeatureCode *codes)
{
	const Encoder *encoder = &adapter->trained->entity;
	MemoryContext old = CurrentMemoryContext;
	bool	   *met;

	/* until it is met, an entity is one about which nothing is known */
	for (int i = 0; i < count; i++)
		UnknownEntityCodes(encoder, codes + i * encoder->count);
	if (encoder->count == 0)
		return;

	if (adapter->entities_plan == NULL)
		adapter->entities_plan = PreparePlan(adapter,
											 SourceEntitiesQuery(&adapter->source));
	MemoryContextSwitchTo(old);
	met = palloc0(sizeof(bool) * count);
	if (SPI_execute_plan(adapter->entities_plan,
						 KeyArrays(adapter, count, key), NULL, read_only,
						 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the entities");
	MemoryContextSwitchTo(old);
	SourceCheckEntity(&adapter->source, SPI_tuptable->tupdesc, 2);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[r];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int			i = (int) DatumGetInt64(SPI_getbinval(tuple, desc, 1,
														  &isnull)) - 1;

		if (met[i])
		{
			Datum		values[INDEX_MAX_KEYS];

			for (int k = 0; k < adapter->source.key.count; k++)
				values[k] = key[k][i];
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("entities relation %s has more than one row of %s",
							adapter->source.entities,
							KeyText(&adapter->source.key, values))));
		}
		met[i] = true;
		for (int f = 0; f < encoder->count; f++)
		{
			Datum		datum = SPI_getbinval(tuple, desc, 2 + f, &isnull);

			codes[i * encoder->count + f] =
				ReadFeature(&adapter->meta_readers[f], &encoder->features[f],
							datum, isnull);
		}
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Adapts an entity on the n rows that stand in the adapter. */
static void
AdaptOne(Adapter *adapter, int n, const FeatureCode *codes,
		 const Datum *key, AdaptedEntity *adapted)
{
	const TrainedNetwork *trained = adapter->trained;
	Rows		rows = {
		.n = n,
		.half = adapter->half,
		.label = adapter->label,
		.weight = adapter->weight,
		.offset = adapter->offset
	};
	Adaptation	adaptation;

	Encode(&trained->entity, codes, adapter->x);
	network_candidate_half(&trained->network, n, adapter->z,
						   trained->interaction.width, adapter->half);
	if (trained->recency > 0)
		recency_weights(n, trained->recency, adapter->same_time,
						adapter->weight);
	adapted->embedding =
		MemoryContextAlloc(adapter->batch,
						   network_embedding_size(&trained->shape) *
						   sizeof(float));
	adaptation = adapt(&trained->network, adapter->x, &rows, adapter->memory,
					   adapted->embedding);
	if (adaptation.diverged_at)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the inner loop diverged for %s at step %d",
						KeyText(&adapter->source.key, key),
						adaptation.diverged_at),
				 errhint("Train the model with a lower option \"inner_rate\".")));
	for (int i = 0; i < network_embedding_size(&trained->shape); i++)
		if (!isfinite(adapted->embedding[i]))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("the embedding of %s is not finite",
							KeyText(&adapter->source.key, key))));
	adapted->loss_before = adaptation.loss_before;
	adapted->loss_after = adaptation.loss_after;
}

AdaptedEntity *
AdaptEntities(Adapter *adapter, int count, Datum **key, bool read_only)
{
	const TrainedNetwork *trained = adapter->trained;
	const Encoder *encoder = &trained->interaction;
	const Source *source = &adapter->source;
	int			keys = source->key.count;
	int			first = 5 + (source->weight.name ? 1 : 0);
	FeatureCode *meta_codes;
	FeatureCode *codes;
	AdaptedEntity *adapted;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext row_context;
	Portal		portal;
	int			at = 0;			/* the entity whose rows are being read */
	int			n = 0;			/* rows of it so far */
	Datum		values[INDEX_MAX_KEYS];

	MemoryContextReset(adapter->batch);
	MemoryContextSwitchTo(adapter->batch);
	adapted = palloc0(sizeof(AdaptedEntity) * count);
	codes = palloc(sizeof(FeatureCode) * Max(encoder->count, 1));
	meta_codes = palloc(mul_size(sizeof(FeatureCode),
								 mul_size(count, Max(trained->entity.count, 1))));
	row_context = AllocSetContextCreate(adapter->batch, "limaml rows",
										ALLOCSET_DEFAULT_SIZES);
	EntityCodes(adapter, count, key, read_only, meta_codes);

	if (adapter->rows_plan == NULL)
		adapter->rows_plan = PreparePlan(adapter,
										 SourceBatchQuery(source,
														  trained->support_rows));
	MemoryContextSwitchTo(adapter->batch);
	portal = SPI_cursor_open(NULL, adapter->rows_plan,
							 KeyArrays(adapter, count, key), NULL, read_only);
	SourceCheckRow(source, portal->tupDesc, 3);
	for (;;)
	{
		uint64		fetched;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		fetched = SPI_processed;
		MemoryContextSwitchTo(row_context);

		/* one more turn after the last row ends the last entities */
		for (uint64 r = 0; r <= fetched; r++)
		{
			HeapTuple	tuple;
			TupleDesc	desc = SPI_tuptable->tupdesc;
			Interaction interaction;
			Datum		datum;
			bool		isnull;
			int			place = count;

			if (r == fetched && fetched > 0)
				break;
			if (fetched > 0)
			{
				tuple = SPI_tuptable->vals[r];
				place = (int) DatumGetInt64(SPI_getbinval(tuple, desc, 1,
														  &isnull)) - 1;
			}
			for (; at < place; at++, n = 0)
			{
				CHECK_FOR_INTERRUPTS();
				for (int k = 0; k < keys; k++)
					values[k] = key[k][at];
				AdaptOne(adapter, n, meta_codes + at * trained->entity.count,
						 values, &adapted[at]);
			}
			if (fetched == 0)
				break;

			for (int k = 0; k < keys; k++)
				values[k] = key[k][at];
			interaction = SourceReadInteraction(source, trained->shape.loss,
												tuple, desc, 4, values);
			adapted[at].interactions =
				DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
			datum = SPI_getbinval(tuple, desc, 3, &isnull);
			interaction.same_time = n > 0 &&
				SourceSameTime(source, datum, adapted[at].adapted_through);
			MemoryContextSwitchTo(adapter->batch);
			adapted[at].adapted_through =
				datumCopy(datum, source->event_time.by_value,
						  source->event_time.length);
			MemoryContextSwitchTo(row_context);
			for (int f = 0; f < encoder->count; f++)
			{
				datum = SPI_getbinval(tuple, desc, first + f, &isnull);
				codes[f] = ReadFeature(&adapter->readers[f],
									   &encoder->features[f], datum, isnull);
			}
			adapter->label[n] = interaction.label;
			adapter->weight[n] = interaction.weight;
			adapter->same_time[n] = interaction.same_time;
			adapter->offset[n] = Encode(encoder, codes,
										adapter->z + (Size) n * encoder->width);
			n++;
		}
		SPI_freetuptable(SPI_tuptable);
		MemoryContextReset(row_context);
		if (fetched == 0)
			break;
	}
	SPI_cursor_close(portal);
	MemoryContextSwitchTo(caller);
	return adapted;
}
