/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Reading and writing the catalog: what every use of a model asks for by
 *	  key, all the rest by SQL with qualified names.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/catalog.h"
#include "model/catalog_scan.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

void
EnterOwner(RightsScope *scope, const Model *model)
{
	/* without an owner it is a superuser who puts things in order */
	Oid			owner = OidIsValid(model->owner) ? model->owner : GetUserId();
	bool		other = owner != GetUserId();

	EnterRights(scope, owner,
				other ? SECURITY_RESTRICTED_OPERATION : 0);
}

static void
ExecuteWrite(const char *sql, Parameters *parameters, int expected)
{
	ExecuteAsCatalog(sql, parameters, false, expected);
}

char *
CatalogModelName(int64 id)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	char	   *name = NULL;
	bool		isnull;

	AddInteger(&parameters, id);
	ExecuteAsCatalog("SELECT model FROM limaml.stored_model "
					 "WHERE id OPERATOR(pg_catalog.=) $1",
					 &parameters, false, SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	if (SPI_processed > 0)
		name = TextDatumGetCString(ResultColumn(1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return name;
}

bool
CatalogModelExists(const char *name)
{
	Parameters	parameters = {0};
	bool		exists;

	AddText(&parameters, name);
	ExecuteAsCatalog("SELECT 1 FROM limaml.stored_model "
					 "WHERE model OPERATOR(pg_catalog.=) $1",
					 &parameters, true, SPI_OK_SELECT);
	exists = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	return exists;
}

/*
 * Whether the caller may see the model, as limaml.model has it, and whose it is
 * (InvalidOid: nobody's that there is).
 */
static bool
IsVisible(Oid embeddings, const char *creator, Oid *owner)
{
	HeapTuple	table = SearchSysCache1(RELOID, ObjectIdGetDatum(embeddings));
	bool		exists = HeapTupleIsValid(table);

	if (exists)
	{
		*owner = ((Form_pg_class) GETSTRUCT(table))->relowner;
		ReleaseSysCache(table);
	}
	else
		*owner = get_role_oid(creator, true);
	return (OidIsValid(*owner) && has_privs_of_role(GetUserId(), *owner)) ||
		(exists && pg_class_aclcheck(embeddings, GetUserId(),
									 ACL_SELECT) == ACLCHECK_OK);
}

/* Columns of a model's row, copied; NULL, InvalidOid or 0 where NULL may be. */
static char *
ModelText(const CatalogScan *scan, const char *column)
{
	bool		isnull;
	Datum		value = CatalogScanColumn(scan, column, TEXTOID, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static char **
ModelTexts(const CatalogScan *scan, const char *column, int *count)
{
	bool		isnull;

	return TextArray(CatalogScanColumn(scan, column, TEXTARRAYOID, &isnull),
					 count);
}

static Oid
ModelRelation(const CatalogScan *scan, const char *column)
{
	bool		isnull;
	Datum		relation = CatalogScanColumn(scan, column, REGCLASSOID,
											 &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(relation);
}

Model *
CatalogFindModel(const char *name, bool read_only)
{
	CatalogScan scan;
	Model	   *model = NULL;

	CatalogScanOpen(&scan, "stored_model", "model");
	CatalogScanKey(&scan, "model", TEXTOID, CStringGetTextDatum(name));
	CatalogScanBegin(&scan, "stored_model_model_key", read_only);
	if (CatalogScanNext(&scan))
	{
		Oid			embeddings = ModelRelation(&scan, "embeddings");
		bool		isnull;
		Datum		creator = CatalogScanColumn(&scan, "owner", NAMEOID,
												&isnull);
		Oid			owner;

		if (IsVisible(embeddings, NameStr(*DatumGetName(creator)), &owner))
		{
			Datum		deployed;

			model = palloc0(sizeof(Model));
			model->id = DatumGetInt64(CatalogScanColumn(&scan, "id", INT8OID,
														&isnull));
			model->name = pstrdup(name);
			model->owner = owner;
			model->interactions = ModelRelation(&scan, "interactions");
			model->key = ModelTexts(&scan, "entity_key", &model->keys);
			model->label = ModelText(&scan, "label");
			model->event_time = ModelText(&scan, "event_time");
			model->feature = ModelTexts(&scan, "features", &model->features);
			model->entities = ModelRelation(&scan, "entities");
			model->meta_feature = ModelTexts(&scan, "meta_features",
											 &model->meta_features);
			model->embeddings = embeddings;
			model->options = DatumGetJsonbPCopy(CatalogScanColumn(&scan, "options",
																  JSONBOID,
																  &isnull));
			deployed = CatalogScanColumn(&scan, "deployed", INT4OID, &isnull);
			model->deployed = isnull ? 0 : DatumGetInt32(deployed);
			model->changes = ModelRelation(&scan, "changes");
		}
	}
	CatalogScanEnd(&scan);
	return model;
}

Model *
CatalogModel(const char *name, bool read_only)
{
	Model	   *model = CatalogFindModel(name, read_only);

	if (model == NULL && CatalogModelExists(name))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for model \"%s\"", name),
				 errhint("Scoring with a model takes SELECT on its embeddings table.")));
	if (model == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" does not exist", name),
				 errhint("The view limaml.model lists the models that you may use.")));
	return model;
}

/* The row of a version, or with -1 the rows of all. */
static void
BeginVersions(CatalogScan *scan, const Model *model, int number,
			  bool read_only)
{
	CatalogScanOpen(scan, "stored_version", "version");
	CatalogScanKey(scan, "model_id", INT8OID, Int64GetDatum(model->id));
	if (number != -1)
		CatalogScanKey(scan, "version", INT4OID, Int32GetDatum(number));
	CatalogScanBegin(scan, "stored_version_pkey", read_only);
}

Version *
CatalogVersion(const Model *model, int number, bool read_only)
{
	CatalogScan scan;
	Version    *version = NULL;

	if (number == 0 && model->deployed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("model \"%s\" has no deployed version", model->name),
				 errhint("Train it with limaml_train, or deploy one of its versions with limaml_deploy.")));

	BeginVersions(&scan, model, number == 0 ? model->deployed : number,
				  read_only);
	while (CatalogScanNext(&scan))
	{
		bool		isnull;
		int			found = DatumGetInt32(CatalogScanColumn(&scan, "version",
															INT4OID, &isnull));
		bytea	   *digest;

		if (version && version->number > found)
			continue;
		if (version == NULL)
			version = palloc(sizeof(Version));
		version->number = found;
		digest = DatumGetByteaPP(CatalogScanColumn(&scan, "digest", BYTEAOID,
												   &isnull));
		if (VARSIZE_ANY_EXHDR(digest) != SAFETENSORS_DIGEST_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("digest of version %d of model \"%s\" has %d bytes",
							version->number, model->name,
							(int) VARSIZE_ANY_EXHDR(digest))));
		memcpy(version->digest, VARDATA_ANY(digest), SAFETENSORS_DIGEST_BYTES);
	}
	CatalogScanEnd(&scan);

	if (version == NULL && number == -1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version", model->name),
				 errhint("Train it with limaml_train.")));
	if (version == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						number == 0 ? model->deployed : number),
				 errhint("The view limaml.version lists the versions.")));
	return version;
}

bool
CatalogHasVersion(const Model *model, int number)
{
	Parameters	parameters = {0};
	bool		found;

	AddInteger(&parameters, model->id);
	AddInt(&parameters, number);
	ExecuteAsCatalog("SELECT FROM limaml.stored_version "
					 "WHERE model_id OPERATOR(pg_catalog.=) $1 "
					 "AND version OPERATOR(pg_catalog.=) $2",
					 &parameters, false, SPI_OK_SELECT);
	found = SPI_processed > 0;
	SPI_freetuptable(SPI_tuptable);
	return found;
}

bytea *
CatalogNetwork(const Model *model, int version, bool read_only)
{
	CatalogScan scan;
	bytea	   *network = NULL;
	bool		isnull;

	BeginVersions(&scan, model, version, read_only);
	if (CatalogScanNext(&scan))
		network = (bytea *) PG_DETOAST_DATUM_COPY(CatalogScanColumn(&scan, "network",
																	BYTEAOID,
																	&isnull));
	CatalogScanEnd(&scan);
	if (network == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" has no version %d", model->name,
						version)));
	return network;
}

bytea *
CatalogValidationNetwork(const Model *model, int version)
{
	Parameters	parameters = {0};
	MemoryContext caller = CurrentMemoryContext;
	bytea	   *network = NULL;
	Datum		datum;
	bool		isnull;

	AddInteger(&parameters, model->id);
	AddInt(&parameters, version);
	ExecuteAsCatalog("SELECT validation_network FROM limaml.stored_version "
					 "WHERE model_id OPERATOR(pg_catalog.=) $1 "
					 "AND version OPERATOR(pg_catalog.=) $2",
					 &parameters, false, SPI_OK_SELECT);
	MemoryContextSwitchTo(caller);
	if (SPI_processed == 0)
		return NULL;
	datum = ResultColumn(1, &isnull);
	if (!isnull)
		network = (bytea *) PG_DETOAST_DATUM_COPY(datum);
	SPI_freetuptable(SPI_tuptable);
	return network;
}

void
CatalogCheckOwner(const Model *model, const char *verb)
{
	if (!OidIsValid(model->owner) && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of model \"%s\" no longer exists",
						model->name)));
	if (OidIsValid(model->owner) &&
		!has_privs_of_role(GetUserId(), model->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of model \"%s\" to %s it", model->name,
						verb)));
}

void
CatalogCheckLoss(const Model *model, const ModelOptions *options)
{
	if (model->label == NULL && options->loss != LOSS_BINARY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"loss\" must be \"binary\" where label is null")));
}

void
CatalogOptions(const Model *model, const Jsonb *given, ModelOptions *options)
{
	OptionsDefault(options);
	OptionsApply(options, model->options, OPTIONS_OF_MODEL);
	if (given)
		OptionsApply(options, given, OPTIONS_OF_TRAINING);
	OptionsFinish(options);
	CatalogCheckLoss(model, options);
}

void
CatalogVersionOptions(const Model *model, const char *trained,
					  ModelOptions *options)
{
	ModelOptions declared;

	OptionsDefault(options);
	OptionsApply(options, DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
															 CStringGetDatum(trained))),
				 OPTIONS_OF_MODEL);
	if (options->negatives == OPTION_UNSET)
		options->negatives = 0;
	OptionsDefault(&declared);
	OptionsApply(&declared, model->options, OPTIONS_OF_MODEL);
	options->items = declared.items;
	options->item_key = declared.item_key;
	if (options->negatives > 0 && options->items == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the network was trained with negatives, and model \"%s\" has no items to draw them from",
						model->name),
				 errhint("Name them with limaml_set_options and the option \"items\".")));
}

void
CatalogInsertModel(const Model *model)
{
	Parameters	parameters = {0};

	AddText(&parameters, model->name);
	AddText(&parameters, GetUserNameFromId(model->owner, false));
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(model->interactions),
				 false);
	AddTexts(&parameters, model->keys, model->key);
	AddText(&parameters, model->label);
	AddText(&parameters, model->event_time);
	AddTexts(&parameters, model->features, model->feature);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(model->entities),
				 !OidIsValid(model->entities));
	AddTexts(&parameters, model->meta_features, model->meta_feature);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(model->embeddings),
				 false);
	AddParameter(&parameters, JSONBOID, JsonbPGetDatum(model->options), false);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(model->changes),
				 !OidIsValid(model->changes));
	ExecuteWrite("INSERT INTO limaml.stored_model (model, owner, interactions,"
				 " entity_key, label, event_time, features, entities,"
				 " meta_features, embeddings, options, changes) "
				 "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
				 &parameters, SPI_OK_INSERT);
}

void
CatalogUpdateModel(const Model *model)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model->id);
	AddParameter(&parameters, JSONBOID, JsonbPGetDatum(model->options), false);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(model->changes),
				 !OidIsValid(model->changes));
	ExecuteWrite("UPDATE limaml.stored_model SET options = $2, changes = $3 "
				 "WHERE id OPERATOR(pg_catalog.=) $1",
				 &parameters, SPI_OK_UPDATE);
}

void
CatalogDeleteModel(const Model *model)
{
	static const char *const deletes[] = {
		"DELETE FROM limaml.stored_batch AS b USING limaml.stored_job AS j "
		"WHERE b.job_id OPERATOR(pg_catalog.=) j.id "
		"AND j.model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_worker AS w USING limaml.stored_job AS j "
		"WHERE w.job_id OPERATOR(pg_catalog.=) j.id "
		"AND j.model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_job "
		"WHERE model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_refresh "
		"WHERE model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_training_log "
		"WHERE model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_trial "
		"WHERE model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_version "
		"WHERE model_id OPERATOR(pg_catalog.=) $1",
		"DELETE FROM limaml.stored_model WHERE id OPERATOR(pg_catalog.=) $1"
	};

	for (int i = 0; i < (int) lengthof(deletes); i++)
	{
		Parameters	parameters = {0};

		AddInteger(&parameters, model->id);
		ExecuteWrite(deletes[i], &parameters, SPI_OK_DELETE);
	}
}

void
CatalogDeleteVersion(const Model *model, int version)
{
	static const char *const deletes[] = {
		"DELETE FROM limaml.stored_refresh "
		"WHERE model_id OPERATOR(pg_catalog.=) $1 "
		"AND version OPERATOR(pg_catalog.=) $2",
		"DELETE FROM limaml.stored_training_log "
		"WHERE model_id OPERATOR(pg_catalog.=) $1 "
		"AND version OPERATOR(pg_catalog.=) $2",
		"DELETE FROM limaml.stored_version "
		"WHERE model_id OPERATOR(pg_catalog.=) $1 "
		"AND version OPERATOR(pg_catalog.=) $2"
	};
	Parameters	trials = {0};

	for (int i = 0; i < (int) lengthof(deletes); i++)
	{
		Parameters	parameters = {0};

		AddInteger(&parameters, model->id);
		AddInt(&parameters, version);
		ExecuteWrite(deletes[i], &parameters, SPI_OK_DELETE);
	}

	/* what was tried remains */
	AddInteger(&trials, model->id);
	AddInt(&trials, version);
	ExecuteWrite("UPDATE limaml.stored_trial SET version = NULL "
				 "WHERE model_id OPERATOR(pg_catalog.=) $1 "
				 "AND version OPERATOR(pg_catalog.=) $2",
				 &trials, SPI_OK_UPDATE);
}

void
CatalogForgetRefresh(const Model *model, int version)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model->id);
	AddInt(&parameters, version);
	ExecuteWrite("DELETE FROM limaml.stored_refresh "
				 "WHERE model_id OPERATOR(pg_catalog.=) $1 "
				 "AND ($2 OPERATOR(pg_catalog.=) 0 "
				 "OR version OPERATOR(pg_catalog.=) $2)",
				 &parameters, SPI_OK_DELETE);
}

void
CatalogForgetOthers(const Model *model, Oid relation)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model->id);
	AddParameter(&parameters, OIDOID, ObjectIdGetDatum(relation), false);
	ExecuteWrite("DELETE FROM limaml.stored_refresh AS r "
				 "USING limaml.stored_model AS m "
				 "WHERE m.id OPERATOR(pg_catalog.=) r.model_id "
				 "AND m.id OPERATOR(pg_catalog.<>) $1 AND m.changes IS NOT NULL "
				 "AND (m.interactions OPERATOR(pg_catalog.=) $2 "
				 "OR m.entities OPERATOR(pg_catalog.=) $2)",
				 &parameters, SPI_OK_DELETE);
}

void
CatalogDeploy(const Model *model, int version, bool only_first)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model->id);
	AddInt(&parameters, version);
	AddBool(&parameters, only_first);
	ExecuteWrite("UPDATE limaml.stored_model SET deployed = $2 "
				 "WHERE id OPERATOR(pg_catalog.=) $1 "
				 "AND (deployed IS NULL OR NOT $3)",
				 &parameters, SPI_OK_UPDATE);

	/*
	 * Changes are followed for the deployed version and those that are to
	 * succeed it, not for those that it succeeded.
	 */
	if (OidIsValid(model->changes) && !only_first)
	{
		Parameters	others = {0};

		AddInteger(&others, model->id);
		AddInt(&others, version);
		ExecuteWrite("DELETE FROM limaml.stored_refresh "
					 "WHERE model_id OPERATOR(pg_catalog.=) $1 "
					 "AND version OPERATOR(pg_catalog.<>) $2",
					 &others, SPI_OK_DELETE);
	}
}

int
CatalogInsertVersion(const Model *model, const VersionRecord *record)
{
	Parameters	lock = {0};
	Parameters	parameters = {0};
	bool		isnull;
	int			version;

	/* the model's row counts its versions, and its lock makes others wait */
	AddInteger(&lock, model->id);
	ExecuteWrite("UPDATE limaml.stored_model "
				 "SET versions = versions OPERATOR(pg_catalog.+) 1 "
				 "WHERE id OPERATOR(pg_catalog.=) $1 RETURNING versions",
				 &lock, SPI_OK_UPDATE_RETURNING);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("model \"%s\" was dropped in the meantime",
						model->name)));
	version = DatumGetInt32(ResultColumn(1, &isnull));
	SPI_freetuptable(SPI_tuptable);

	AddInteger(&parameters, model->id);
	AddInt(&parameters, version);
	AddParameter(&parameters, BYTEAOID, PointerGetDatum(record->network),
				 false);
	AddBytes(&parameters, record->digest, SAFETENSORS_DIGEST_BYTES);
	AddText(&parameters, record->options);
	AddInteger(&parameters, record->entities);
	AddInteger(&parameters, record->interactions);
	AddInt(&parameters, record->epochs);
	AddDouble(&parameters, record->train_loss);
	AddDouble(&parameters, record->validation_loss);
	AddDouble(&parameters, record->validation_auc);
	AddDouble(&parameters, record->baseline_auc);
	AddDouble(&parameters, record->seconds);
	AddParameter(&parameters, BYTEAOID,
				 PointerGetDatum(record->validation_network),
				 record->validation_network == NULL);
	ExecuteWrite("INSERT INTO limaml.stored_version (model_id, version,"
				 " network, digest, options, entities, interactions, epochs,"
				 " train_loss, validation_loss, validation_auc, baseline_auc,"
				 " seconds, validation_network) VALUES ($1, $2, $3, $4,"
				 " $5::pg_catalog.jsonb, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
				 &parameters, SPI_OK_INSERT);
	return version;
}

void
CatalogInsertEpoch(const Model *model, int version, const EpochRecord *record)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model->id);
	AddInt(&parameters, version);
	AddInt(&parameters, record->epoch);
	AddDouble(&parameters, record->train_loss);
	AddDouble(&parameters, record->validation_loss);
	AddDouble(&parameters, record->validation_auc);
	AddDouble(&parameters, record->baseline_auc);
	AddDouble(&parameters, record->learning_rate);
	AddDouble(&parameters, record->seconds);
	AddBool(&parameters, record->kept);
	AddBool(&parameters, record->refit);
	ExecuteWrite("INSERT INTO limaml.stored_training_log (model_id, version,"
				 " epoch, train_loss, validation_loss, validation_auc,"
				 " baseline_auc, learning_rate, seconds, kept, refit) "
				 "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
				 &parameters, SPI_OK_INSERT);
}

int
CatalogNextSearch(const Model *model)
{
	Parameters	parameters = {0};
	bool		isnull;
	int			search;

	AddInteger(&parameters, model->id);
	ExecuteAsCatalog("SELECT COALESCE(pg_catalog.max(search), 0)"
					 " OPERATOR(pg_catalog.+) 1 FROM limaml.stored_trial "
					 "WHERE model_id OPERATOR(pg_catalog.=) $1",
					 &parameters, false, SPI_OK_SELECT);
	search = DatumGetInt32(ResultColumn(1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return search;
}

void
CatalogInsertTrial(const Model *model, const TrialRecord *record)
{
	Parameters	parameters = {0};

	AddInteger(&parameters, model->id);
	AddInt(&parameters, record->search);
	AddInt(&parameters, record->trial);
	AddParameter(&parameters, JSONBOID, JsonbPGetDatum(record->options),
				 false);
	AddInt(&parameters, record->epochs);
	AddInt(&parameters, record->best.epoch);
	AddDouble(&parameters, record->best.train_loss);
	AddDouble(&parameters, record->best.validation_loss);
	AddDouble(&parameters, record->best.validation_auc);
	AddDouble(&parameters, record->best.baseline_auc);
	AddDouble(&parameters, record->seconds);
	AddParameter(&parameters, INT4OID, Int32GetDatum(record->version),
				 record->version == 0);
	ExecuteWrite("INSERT INTO limaml.stored_trial (model_id, search, trial,"
				 " options, epochs, best_epoch, train_loss, validation_loss,"
				 " validation_auc, baseline_auc, seconds, version) "
				 "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
				 &parameters, SPI_OK_INSERT);
}

void
ModelLock(LOCKTAG *tag, int64 model_id, uint16 kind)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (model_id >> 32),
						 (uint32) model_id, kind);
}

void
CatalogLockRefresh(const Model *model)
{
	LOCKTAG		lock;

	ModelLock(&lock, model->id, REFRESH_LOCK);
	if (LockAcquire(&lock, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("model \"%s\" is being refreshed", model->name),
				 errhint("Wait for the job that the view limaml.progress shows, or end it with limaml_cancel.")));
}

bool
CatalogExists(void)
{
	Oid			extension = get_extension_oid("limaml", true);
	Oid			schema = get_namespace_oid("limaml", true);
	Oid			table = OidIsValid(schema) ?
		get_relname_relid("stored_job", schema) : InvalidOid;

	return OidIsValid(extension) && OidIsValid(table) &&
		getExtensionOfObject(RelationRelationId, table) == extension;
}

/* What pg_extension says, which no cache has. */
static Oid
FindExtensionSchema(void)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	Oid			schema = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("limaml"));
	scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	if (!OidIsValid(schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"limaml\" does not exist")));
	return schema;
}

Oid
ExtensionSchema(void)
{
	/* an extension with a schema of its own is never moved, only made again */
	static Oid	known = InvalidOid;
	static Oid	schema = InvalidOid;
	Oid			table = get_relname_relid("stored_version",
										  get_namespace_oid("limaml", false));

	if (table != known || !OidIsValid(schema))
	{
		schema = FindExtensionSchema();
		known = table;
	}
	return schema;
}

Oid
MetaEmbeddingType(void)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
						   CStringGetDatum("meta_embedding"),
						   ObjectIdGetDatum(ExtensionSchema()));
}

int
CatalogCheckEmbeddings(const Model *model, Oid embedding_type)
{
	AttrNumber	number;
	Oid			type;
	Oid			collation;
	int32		width;

	ModelRelationName(model, model->embeddings, "embeddings");
	number = get_attnum(model->embeddings, "embedding");
	if (number <= 0 || get_atttype(model->embeddings, number) != embedding_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("embeddings table \"%s\" of model \"%s\" has no column \"embedding\" of type meta_embedding",
						get_rel_name(model->embeddings), model->name)));
	get_atttypetypmodcoll(model->embeddings, number, &type, &width,
						  &collation);
	return width;
}

bool
CatalogEmbeddingsAreForeign(const Model *model)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(model->embeddings, NoLock, NULL))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return true;
	return false;
}

List *
LockRelationTree(Oid relation, LOCKMODE mode)
{
	LockRelationOid(relation, mode);
	if (get_rel_name(relation) == NULL)
	{
		UnlockRelationOid(relation, mode);
		return NIL;
	}
	return find_all_inheritors(relation, mode, NULL);
}

char *
ModelRelationName(const Model *model, Oid relation, const char *role)
{
	char	   *name = get_rel_name(relation);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the %s relation of model \"%s\" no longer exists",
						role, model->name),
				 relation == model->changes && OidIsValid(relation) ?
				 errhint("Set the option \"staleness\" anew with limaml_set_options, or drop the model.") :
				 errhint("Drop the model with limaml_drop_model and create it again.")));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
									  name);
}
