-- complain if the script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION limaml" to load this file. \quit

----------------------------------------------------------------------------
-- The type meta_embedding: one entity's small vector
--
-- COST is what was measured at 32 dimensions, in additions of two integers,
-- rounded down.
----------------------------------------------------------------------------

CREATE TYPE meta_embedding;

CREATE FUNCTION meta_embedding_in(cstring, oid, integer) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION meta_embedding_out(meta_embedding) RETURNS cstring
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION meta_embedding_recv(internal, oid, integer) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION meta_embedding_send(meta_embedding) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION meta_embedding_typmod_in(cstring[]) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

-- Random floats do not compress: external storage spares the attempt, and lets
-- the header of a large value be read without the rest.
CREATE TYPE meta_embedding (
	INPUT = meta_embedding_in,
	OUTPUT = meta_embedding_out,
	RECEIVE = meta_embedding_recv,
	SEND = meta_embedding_send,
	TYPMOD_IN = meta_embedding_typmod_in,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = external
);

COMMENT ON TYPE meta_embedding IS 'meta embedding of an entity: a vector of finite floats with the fingerprint of the network that made it';
COMMENT ON FUNCTION meta_embedding_in(cstring, oid, integer) IS 'I/O';
COMMENT ON FUNCTION meta_embedding_out(meta_embedding) IS 'I/O';
COMMENT ON FUNCTION meta_embedding_recv(internal, oid, integer) IS 'I/O';
COMMENT ON FUNCTION meta_embedding_send(meta_embedding) IS 'I/O';
COMMENT ON FUNCTION meta_embedding_typmod_in(cstring[]) IS 'I/O typmod';

-- Casts

CREATE FUNCTION meta_embedding(meta_embedding, integer, boolean) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION array_to_meta_embedding(real[], integer, boolean) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION array_to_meta_embedding(double precision[], integer, boolean) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION meta_embedding_to_float4(meta_embedding) RETURNS real[]
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;

CREATE FUNCTION meta_embedding_to_float8(meta_embedding) RETURNS double precision[]
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;

COMMENT ON FUNCTION meta_embedding(meta_embedding, integer, boolean) IS 'check that the number of dimensions is the declared one';
COMMENT ON FUNCTION array_to_meta_embedding(real[], integer, boolean) IS 'convert real[] to meta_embedding, without fingerprint';
COMMENT ON FUNCTION array_to_meta_embedding(double precision[], integer, boolean) IS 'convert double precision[] to meta_embedding, without fingerprint';
COMMENT ON FUNCTION meta_embedding_to_float4(meta_embedding) IS 'convert meta_embedding to real[], losing the fingerprint';
COMMENT ON FUNCTION meta_embedding_to_float8(meta_embedding) IS 'convert meta_embedding to double precision[], losing the fingerprint';

CREATE CAST (meta_embedding AS meta_embedding)
	WITH FUNCTION meta_embedding(meta_embedding, integer, boolean) AS IMPLICIT;

-- No cast from or to an array is implicit.  It would drop the fingerprint
-- inside an expression where nobody sees it; a function with a real[] and a
-- double precision[] variant could no longer be resolved; and an operator on
-- arrays (say, of intarray or cube) would silently take an embedding.
CREATE CAST (real[] AS meta_embedding)
	WITH FUNCTION array_to_meta_embedding(real[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (double precision[] AS meta_embedding)
	WITH FUNCTION array_to_meta_embedding(double precision[], integer, boolean) AS ASSIGNMENT;

CREATE CAST (meta_embedding AS real[])
	WITH FUNCTION meta_embedding_to_float4(meta_embedding) AS ASSIGNMENT;

CREATE CAST (meta_embedding AS double precision[])
	WITH FUNCTION meta_embedding_to_float8(meta_embedding) AS ASSIGNMENT;

COMMENT ON CAST (meta_embedding AS meta_embedding) IS 'enforces the declared number of dimensions';
COMMENT ON CAST (real[] AS meta_embedding) IS 'without fingerprint';
COMMENT ON CAST (double precision[] AS meta_embedding) IS 'without fingerprint, rounded to single precision';
COMMENT ON CAST (meta_embedding AS real[]) IS 'loses the fingerprint';
COMMENT ON CAST (meta_embedding AS double precision[]) IS 'loses the fingerprint';

-- Order and equality: elements, then dimensions, then fingerprint

CREATE FUNCTION meta_embedding_lt(meta_embedding, meta_embedding) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_le(meta_embedding, meta_embedding) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_eq(meta_embedding, meta_embedding) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_ne(meta_embedding, meta_embedding) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_ge(meta_embedding, meta_embedding) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_gt(meta_embedding, meta_embedding) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_cmp(meta_embedding, meta_embedding) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2;

CREATE FUNCTION meta_embedding_hash(meta_embedding) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION meta_embedding_hash_extended(meta_embedding, bigint) RETURNS bigint
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

COMMENT ON FUNCTION meta_embedding_lt(meta_embedding, meta_embedding) IS 'implementation of < operator';
COMMENT ON FUNCTION meta_embedding_le(meta_embedding, meta_embedding) IS 'implementation of <= operator';
COMMENT ON FUNCTION meta_embedding_eq(meta_embedding, meta_embedding) IS 'implementation of = operator';
COMMENT ON FUNCTION meta_embedding_ne(meta_embedding, meta_embedding) IS 'implementation of <> operator';
COMMENT ON FUNCTION meta_embedding_ge(meta_embedding, meta_embedding) IS 'implementation of >= operator';
COMMENT ON FUNCTION meta_embedding_gt(meta_embedding, meta_embedding) IS 'implementation of > operator';
COMMENT ON FUNCTION meta_embedding_cmp(meta_embedding, meta_embedding) IS 'less-equal-greater';
COMMENT ON FUNCTION meta_embedding_hash(meta_embedding) IS 'hash';
COMMENT ON FUNCTION meta_embedding_hash_extended(meta_embedding, bigint) IS 'hash with a seed';

CREATE OPERATOR < (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = meta_embedding_lt,
	COMMUTATOR = >, NEGATOR = >=,
	RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);

CREATE OPERATOR <= (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = meta_embedding_le,
	COMMUTATOR = >=, NEGATOR = >,
	RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);

CREATE OPERATOR = (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = meta_embedding_eq,
	COMMUTATOR = =, NEGATOR = <>,
	RESTRICT = eqsel, JOIN = eqjoinsel,
	HASHES, MERGES
);

CREATE OPERATOR <> (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = meta_embedding_ne,
	COMMUTATOR = <>, NEGATOR = =,
	RESTRICT = neqsel, JOIN = neqjoinsel
);

CREATE OPERATOR >= (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = meta_embedding_ge,
	COMMUTATOR = <=, NEGATOR = <,
	RESTRICT = scalargesel, JOIN = scalargejoinsel
);

CREATE OPERATOR > (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = meta_embedding_gt,
	COMMUTATOR = <, NEGATOR = <=,
	RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);

COMMENT ON OPERATOR < (meta_embedding, meta_embedding) IS 'less than';
COMMENT ON OPERATOR <= (meta_embedding, meta_embedding) IS 'less than or equal';
COMMENT ON OPERATOR = (meta_embedding, meta_embedding) IS 'equal, fingerprint included';
COMMENT ON OPERATOR <> (meta_embedding, meta_embedding) IS 'not equal';
COMMENT ON OPERATOR >= (meta_embedding, meta_embedding) IS 'greater than or equal';
COMMENT ON OPERATOR > (meta_embedding, meta_embedding) IS 'greater than';

CREATE OPERATOR CLASS meta_embedding_ops
	DEFAULT FOR TYPE meta_embedding USING btree AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 1 meta_embedding_cmp(meta_embedding, meta_embedding);

CREATE OPERATOR CLASS meta_embedding_ops
	DEFAULT FOR TYPE meta_embedding USING hash AS
	OPERATOR 1 =,
	FUNCTION 1 meta_embedding_hash(meta_embedding),
	FUNCTION 2 meta_embedding_hash_extended(meta_embedding, bigint);

COMMENT ON OPERATOR CLASS meta_embedding_ops USING btree IS 'order of meta embeddings, for grouping, sorting and joining';
COMMENT ON OPERATOR CLASS meta_embedding_ops USING hash IS 'hash of meta embeddings, for grouping and joining';

-- Distances and measures

CREATE FUNCTION limaml_l2_distance(meta_embedding, meta_embedding) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION limaml_negative_inner_product(meta_embedding, meta_embedding) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION limaml_cosine_distance(meta_embedding, meta_embedding) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION limaml_dims(meta_embedding) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION limaml_norm(meta_embedding) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

COMMENT ON FUNCTION limaml_l2_distance(meta_embedding, meta_embedding) IS 'Euclidean distance; implementation of <-> operator';
COMMENT ON FUNCTION limaml_negative_inner_product(meta_embedding, meta_embedding) IS 'negative inner product; implementation of <#> operator';
COMMENT ON FUNCTION limaml_cosine_distance(meta_embedding, meta_embedding) IS 'cosine distance; implementation of <=> operator';
COMMENT ON FUNCTION limaml_dims(meta_embedding) IS 'number of dimensions';
COMMENT ON FUNCTION limaml_norm(meta_embedding) IS 'Euclidean norm';

CREATE OPERATOR <-> (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = limaml_l2_distance,
	COMMUTATOR = <->
);

CREATE OPERATOR <#> (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = limaml_negative_inner_product,
	COMMUTATOR = <#>
);

CREATE OPERATOR <=> (
	LEFTARG = meta_embedding, RIGHTARG = meta_embedding, FUNCTION = limaml_cosine_distance,
	COMMUTATOR = <=>
);

COMMENT ON OPERATOR <-> (meta_embedding, meta_embedding) IS 'Euclidean distance';
COMMENT ON OPERATOR <#> (meta_embedding, meta_embedding) IS 'negative inner product';
COMMENT ON OPERATOR <=> (meta_embedding, meta_embedding) IS 'cosine distance';

-- Aggregates. SSPACE is the state of the default 32 dimensions, for the planner
-- to know what a hash of them takes.

CREATE FUNCTION meta_embedding_accum(double precision[], meta_embedding) RETURNS double precision[]
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION meta_embedding_combine(double precision[], double precision[]) RETURNS double precision[]
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION meta_embedding_avg(double precision[]) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION meta_embedding_sum(double precision[]) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

COMMENT ON FUNCTION meta_embedding_accum(double precision[], meta_embedding) IS 'aggregate transition function';
COMMENT ON FUNCTION meta_embedding_combine(double precision[], double precision[]) IS 'aggregate combine function';
COMMENT ON FUNCTION meta_embedding_avg(double precision[]) IS 'aggregate final function';
COMMENT ON FUNCTION meta_embedding_sum(double precision[]) IS 'aggregate final function';

CREATE AGGREGATE avg(meta_embedding) (
	SFUNC = meta_embedding_accum,
	STYPE = double precision[],
	SSPACE = 304,
	COMBINEFUNC = meta_embedding_combine,
	FINALFUNC = meta_embedding_avg,
	INITCOND = '{0,0,0}',
	PARALLEL = SAFE
);

CREATE AGGREGATE sum(meta_embedding) (
	SFUNC = meta_embedding_accum,
	STYPE = double precision[],
	SSPACE = 304,
	COMBINEFUNC = meta_embedding_combine,
	FINALFUNC = meta_embedding_sum,
	INITCOND = '{0,0,0}',
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE avg(meta_embedding) IS 'the average (arithmetic mean) of all meta embeddings';
COMMENT ON AGGREGATE sum(meta_embedding) IS 'sum of all meta embeddings';

/* ---------------------------------------------------------------------- *
 * The catalog: tables that nobody but the extension's owner can reach, and
 * views that show a role what it may use.
 * ---------------------------------------------------------------------- */

CREATE SCHEMA limaml;

COMMENT ON SCHEMA limaml IS 'models, versions and training logs of the extension limaml';

CREATE SEQUENCE limaml.stored_model_id;

CREATE TABLE limaml.stored_model (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('limaml.stored_model_id'),
	model text NOT NULL UNIQUE,
	owner name NOT NULL,
	interactions regclass NOT NULL,
	entity_key text[] NOT NULL,
	label text,
	event_time text NOT NULL,
	features text[] NOT NULL,
	entities regclass,
	meta_features text[] NOT NULL,
	embeddings regclass NOT NULL,
	changes regclass,
	options jsonb NOT NULL,
	versions integer NOT NULL DEFAULT 0,
	deployed integer,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

/*
 * A network as a value.  It has no CHECK, for which postgres_fdw would keep it
 * to itself: whoever decodes one validates it.  It is not in the schema of the
 * functions, where the parser would take limaml_network('ctr') for a cast.
 */
CREATE DOMAIN limaml.trained_network AS bytea;

COMMENT ON DOMAIN limaml.trained_network IS 'a trained network: a safetensors file';

CREATE TABLE limaml.stored_version (
	model_id bigint NOT NULL,
	version integer NOT NULL,
	network limaml.trained_network NOT NULL,
	validation_network limaml.trained_network,
	digest bytea NOT NULL,
	options jsonb NOT NULL,
	entities bigint NOT NULL,
	interactions bigint NOT NULL,
	epochs integer NOT NULL,
	train_loss double precision,
	validation_loss double precision,
	validation_auc double precision,
	baseline_auc double precision,
	seconds double precision,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (model_id, version)
);

/* uncompressed, so that a slice of it is read without the rest */
ALTER TABLE limaml.stored_version
	ALTER COLUMN network SET STORAGE EXTERNAL,
	ALTER COLUMN validation_network SET STORAGE EXTERNAL;

CREATE TABLE limaml.stored_training_log (
	model_id bigint NOT NULL,
	version integer NOT NULL,
	refit boolean NOT NULL,
	epoch integer NOT NULL,
	train_loss double precision,
	validation_loss double precision,
	validation_auc double precision,
	baseline_auc double precision,
	learning_rate double precision,
	seconds double precision,
	kept boolean NOT NULL,
	PRIMARY KEY (model_id, version, refit, epoch)
);

/* What limaml_tune has tried. */
CREATE TABLE limaml.stored_trial (
	model_id bigint NOT NULL,
	search integer NOT NULL,
	trial integer NOT NULL,
	options jsonb NOT NULL,
	epochs integer NOT NULL,
	best_epoch integer NOT NULL,
	train_loss double precision,
	validation_loss double precision,
	validation_auc double precision,
	baseline_auc double precision,
	seconds double precision,
	version integer,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (model_id, search, trial)
);

/*
 * How far a version's embeddings are refreshed.  complete_at is NULL until
 * every entity has one; newest_event is the newest event time then, as its
 * type's send function writes it.  Not dumped: without it a refresh looks at
 * everything once.
 */
CREATE TABLE limaml.stored_refresh (
	model_id bigint NOT NULL,
	version integer NOT NULL,
	since timestamptz NOT NULL,
	complete_at timestamptz,
	newest_event bytea,
	event_type oid,
	PRIMARY KEY (model_id, version)
);

CREATE SEQUENCE limaml.stored_job_id;

/* A refresh or a training run, in the background or not. */
CREATE TABLE limaml.stored_job (
	id bigint PRIMARY KEY,
	model_id bigint NOT NULL,
	kind text NOT NULL,
	version integer,
	only_stale boolean,
	options jsonb,
	background boolean NOT NULL,
	workers integer NOT NULL,
	state text NOT NULL DEFAULT 'running',
	phase text NOT NULL,
	started_by name NOT NULL,
	started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	finished_at timestamptz,
	listed_at timestamptz,
	entities bigint,
	shares integer,
	are_new boolean NOT NULL DEFAULT false,
	newest_event bytea,
	event_type oid,
	error text
);

COMMENT ON COLUMN limaml.stored_job.entities IS 'to adapt: counted, or where there are shares and they run, about how many';
COMMENT ON COLUMN limaml.stored_job.are_new IS 'none of the entities in shares had an embedding when the job began';
COMMENT ON COLUMN limaml.stored_job.shares IS 'in how many shares all entities are, each of which is a batch; NULL where they are listed';

CREATE INDEX ON limaml.stored_job (model_id, id);

/*
 * Entities of a job that wait to be adapted: a batch, which a worker claims by
 * its row's lock.  Without keys it is as many as its number says of the shares.
 */
CREATE TABLE limaml.stored_batch (
	job_id bigint NOT NULL,
	batch integer NOT NULL,
	entities bigint NOT NULL,
	keys bytea[],
	PRIMARY KEY (job_id, batch)
);

ALTER TABLE limaml.stored_batch ALTER COLUMN keys SET STORAGE EXTERNAL;

/* What each worker of a job has done; a row changes with every batch. */
CREATE TABLE limaml.stored_worker (
	job_id bigint NOT NULL,
	worker integer NOT NULL,
	pid integer NOT NULL,
	entities bigint NOT NULL DEFAULT 0,
	interactions bigint NOT NULL DEFAULT 0,
	reading double precision NOT NULL DEFAULT 0,
	adapting double precision NOT NULL DEFAULT 0,
	writing double precision NOT NULL DEFAULT 0,
	restarts integer NOT NULL DEFAULT 0,
	heartbeat timestamptz NOT NULL,
	PRIMARY KEY (job_id, worker)
) WITH (fillfactor = 50);

SELECT pg_catalog.pg_extension_config_dump('limaml.stored_model_id', '');
SELECT pg_catalog.pg_extension_config_dump('limaml.stored_model', '');
SELECT pg_catalog.pg_extension_config_dump('limaml.stored_version', '');
SELECT pg_catalog.pg_extension_config_dump('limaml.stored_training_log', '');
SELECT pg_catalog.pg_extension_config_dump('limaml.stored_trial', '');

/*
 * A model belongs to whom its embeddings table belongs to.  The name of who
 * created it only serves where that table has been dropped: a restore may be
 * into a cluster that does not know the role.
 */
CREATE VIEW limaml.model WITH (security_barrier) AS
	SELECT m.id, m.model, o.owner, m.interactions, m.entity_key, m.label,
		m.event_time, m.features, m.entities, m.meta_features, m.embeddings,
		m.options, m.deployed, m.created_at, m.changes
	FROM limaml.stored_model AS m
		LEFT JOIN pg_catalog.pg_class AS c
			ON c.oid OPERATOR(pg_catalog.=) m.embeddings
		CROSS JOIN LATERAL (
			SELECT COALESCE(c.relowner::pg_catalog.regrole,
				pg_catalog.to_regrole(pg_catalog.quote_ident(m.owner))) AS owner
		) AS o
	WHERE pg_catalog.pg_has_role(o.owner, 'USAGE')
		OR pg_catalog.has_table_privilege(m.embeddings, 'SELECT');

CREATE VIEW limaml.version WITH (security_barrier) AS
	SELECT m.model, v.version,
		v.version OPERATOR(pg_catalog.=) m.deployed IS TRUE AS deployed,
		v.network, v.digest, v.options, v.entities, v.interactions, v.epochs,
		v.train_loss, v.validation_loss, v.validation_auc, v.baseline_auc,
		v.seconds, v.created_at
	FROM limaml.stored_version AS v
		JOIN limaml.model AS m ON m.id OPERATOR(pg_catalog.=) v.model_id;

CREATE VIEW limaml.training_log WITH (security_barrier) AS
	SELECT m.model, l.version, l.refit, l.epoch, l.train_loss, l.validation_loss,
		l.validation_auc, l.baseline_auc, l.learning_rate, l.seconds, l.kept
	FROM limaml.stored_training_log AS l
		JOIN limaml.model AS m ON m.id OPERATOR(pg_catalog.=) l.model_id;

CREATE VIEW limaml.trial WITH (security_barrier) AS
	SELECT m.model, t.search, t.trial, t.options, t.epochs, t.best_epoch,
		t.train_loss, t.validation_loss, t.validation_auc, t.baseline_auc,
		t.seconds, t.version, t.created_at
	FROM limaml.stored_trial AS t
		JOIN limaml.model AS m ON m.id OPERATOR(pg_catalog.=) t.model_id;

CREATE VIEW limaml.job WITH (security_barrier) AS
	SELECT j.id AS job, m.model, j.kind, j.version, j.only_stale, j.options,
		j.state, j.background, j.workers, j.started_by, j.started_at,
		j.finished_at, j.entities, w.adapted, w.interactions,
		pg_catalog.date_part('epoch',
			COALESCE(j.finished_at, pg_catalog.clock_timestamp())
			OPERATOR(pg_catalog.-) j.started_at) AS seconds,
		w.reading, w.adapting, w.writing,
		/* it may quote rows */
		CASE WHEN pg_catalog.pg_has_role(m.owner, 'USAGE') THEN j.error END AS error
	FROM limaml.stored_job AS j
		JOIN limaml.model AS m ON m.id OPERATOR(pg_catalog.=) j.model_id
		CROSS JOIN LATERAL (
			SELECT pg_catalog.sum(w.entities)::bigint AS adapted,
				pg_catalog.sum(w.interactions)::bigint AS interactions,
				pg_catalog.sum(w.reading) AS reading,
				pg_catalog.sum(w.adapting) AS adapting,
				pg_catalog.sum(w.writing) AS writing
			FROM limaml.stored_worker AS w
			WHERE w.job_id OPERATOR(pg_catalog.=) j.id
		) AS w;

/*
 * The jobs that somebody is at: whose workers hold the model's lock.  Its last
 * field is REFRESH_LOCK or TRAINING_LOCK of model/catalog.h.
 */
CREATE VIEW limaml.progress WITH (security_barrier) AS
	SELECT j.job, j.model, j.version, s.phase, w.workers, COALESCE(j.adapted, 0) AS done,
		j.entities AS total, COALESCE(j.interactions, 0) AS rows_read,
		j.adapted OPERATOR(pg_catalog./) NULLIF(a.seconds, 0) AS entities_per_second,
		/* of all entities the total is what the planner thinks */
		GREATEST(j.entities OPERATOR(pg_catalog.-) j.adapted, 0)
			OPERATOR(pg_catalog.*) a.seconds
			OPERATOR(pg_catalog./) NULLIF(j.adapted, 0)
			OPERATOR(pg_catalog.*) interval '1 second' AS time_left,
		j.seconds OPERATOR(pg_catalog.*) interval '1 second' AS elapsed,
		w.heartbeat
	FROM limaml.job AS j
		JOIN limaml.stored_job AS s ON s.id OPERATOR(pg_catalog.=) j.job
		CROSS JOIN LATERAL (
			SELECT pg_catalog.count(*) AS workers, pg_catalog.max(w.heartbeat) AS heartbeat
			FROM limaml.stored_worker AS w
				JOIN pg_catalog.pg_locks AS l
					ON l.pid OPERATOR(pg_catalog.=) w.pid
					AND l.locktype OPERATOR(pg_catalog.=) 'advisory'
					AND l.granted
					AND l.database::bigint OPERATOR(pg_catalog.=) (
						SELECT d.oid::bigint FROM pg_catalog.pg_database AS d
						WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
					AND l.classid::bigint OPERATOR(pg_catalog.=)
						(s.model_id OPERATOR(pg_catalog.>>) 32)
					AND l.objid::bigint OPERATOR(pg_catalog.=)
						(s.model_id OPERATOR(pg_catalog.&) 4294967295)
					AND l.objsubid OPERATOR(pg_catalog.=)
						CASE s.kind WHEN 'refresh' THEN 19533 ELSE 19534 END
			WHERE w.job_id OPERATOR(pg_catalog.=) j.job
		) AS w
		CROSS JOIN LATERAL (
			SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()
				OPERATOR(pg_catalog.-) s.listed_at) AS seconds
		) AS a
	WHERE j.state OPERATOR(pg_catalog.=) 'running';

COMMENT ON VIEW limaml.model IS 'the models that you own or may score with';
COMMENT ON VIEW limaml.version IS 'the trained versions of these models';
COMMENT ON VIEW limaml.job IS 'their refreshes and training runs, past and present';
COMMENT ON VIEW limaml.progress IS 'those that are running, and when they will be done';
COMMENT ON VIEW limaml.training_log IS 'how training went, a row per epoch';
COMMENT ON VIEW limaml.trial IS 'what limaml_tune has tried: options, and how the best epoch did on the rows that validate';

GRANT USAGE ON SCHEMA limaml TO PUBLIC;
GRANT SELECT ON limaml.model, limaml.version, limaml.training_log, limaml.trial, limaml.job, limaml.progress TO PUBLIC;

/* ---------------------------------------------------------------------- *
 * The verbs.
 * ---------------------------------------------------------------------- */

CREATE FUNCTION limaml_create_model(
	model text,
	interactions regclass,
	entity_key text[],
	label text,
	event_time text,
	features text[],
	entities regclass DEFAULT NULL,
	meta_features text[] DEFAULT '{}',
	embeddings text DEFAULT NULL,
	options jsonb DEFAULT '{}'
) RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_create_model(text, regclass, text[], text, text, text[], regclass, text[], text, jsonb)
	IS 'declare a model and create its embeddings table';

CREATE FUNCTION limaml_train(
	model text,
	options jsonb DEFAULT '{}',
	OUT version integer,
	OUT epochs integer,
	OUT entities bigint,
	OUT interactions bigint,
	OUT train_loss double precision,
	OUT validation_loss double precision,
	OUT validation_auc double precision,
	OUT baseline_auc double precision,
	OUT seconds double precision
) RETURNS record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;

COMMENT ON FUNCTION limaml_train(text, jsonb)
	IS 'train a new version of a model; the first one is deployed';

/* A type, for an argument to have the name of a column that it makes. */
CREATE TYPE limaml.evaluation AS (
	segment text,
	entities bigint,
	interactions bigint,
	metric text,
	value double precision,
	unadapted double precision,
	standard_error double precision
);

COMMENT ON TYPE limaml.evaluation IS 'a row of limaml_evaluate';

CREATE FUNCTION limaml_evaluate(
	model text,
	relation regclass DEFAULT NULL,
	version integer DEFAULT NULL,
	segment text DEFAULT NULL,
	support integer[] DEFAULT NULL,
	refresh_lag interval[] DEFAULT NULL
) RETURNS SETOF limaml.evaluation
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000;

COMMENT ON FUNCTION limaml_evaluate(text, regclass, integer, text, integer[], interval[])
	IS 'how well a version predicts rows that it has not learned from, adapted and not, by segments';

CREATE FUNCTION limaml_compare(
	model text,
	arms text[] DEFAULT '{damped_mean,none,id,limaml}',
	seeds integer DEFAULT 3,
	OUT arm text,
	OUT segment text,
	OUT metric text,
	OUT value double precision,
	OUT over_none double precision,
	OUT over_id double precision,
	OUT standard_error double precision,
	OUT train_seconds double precision,
	OUT bytes_per_entity integer
) RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;

COMMENT ON FUNCTION limaml_compare(text, text[], integer)
	IS 'train other ways to personalise on a model''s rows, and tell how well each predicts the newest';

CREATE FUNCTION limaml_tune(
	model text,
	search jsonb,
	trials integer,
	OUT version integer,
	OUT trial integer,
	OUT options jsonb,
	OUT validation_loss double precision,
	OUT validation_auc double precision,
	OUT seconds double precision
) RETURNS record
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;

COMMENT ON FUNCTION limaml_tune(text, jsonb, integer)
	IS 'search for better options on the rows that validate, and train a version with the best';

CREATE FUNCTION limaml_deploy(model text, version integer DEFAULT NULL, force boolean DEFAULT false) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_deploy(text, integer, boolean)
	IS 'score with this version, or the newest, from now on';

CREATE FUNCTION limaml_drop_version(model text, version integer) RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_drop_version(text, integer)
	IS 'forget a version that is not deployed, and its embeddings';

CREATE FUNCTION limaml_set_options(model text, options jsonb) RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_set_options(text, jsonb)
	IS 'change some of a model''s options';

CREATE FUNCTION limaml_record_changes() RETURNS trigger
	AS 'MODULE_PATHNAME' LANGUAGE C;

COMMENT ON FUNCTION limaml_record_changes()
	IS 'trigger of relations whose models have the option "staleness": "changes"';

CREATE FUNCTION limaml_drop_model(model text) RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_drop_model(text)
	IS 'forget a model, its versions and its embeddings';

CREATE FUNCTION limaml_export(model text, version integer DEFAULT NULL) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 1000;

COMMENT ON FUNCTION limaml_export(text, integer)
	IS 'the network of a version, or of the deployed one, as a safetensors file';

CREATE FUNCTION limaml_import(model text, network bytea) RETURNS integer
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_import(text, bytea)
	IS 'add a safetensors file as a version of a model';

CREATE FUNCTION limaml_adapt(model text, entity "any") RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 10000;

COMMENT ON FUNCTION limaml_adapt(text, "any")
	IS 'embedding of an entity, adapted now on its newest interactions';

/*
 * Networks as values, and what depends on its arguments alone: it may run on
 * any server, in any worker.  Network and rows are checked where they are read.
 */

CREATE FUNCTION limaml_network(model text, version integer DEFAULT NULL) RETURNS limaml.trained_network
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 5;

COMMENT ON FUNCTION limaml_network(text, integer)
	IS 'the network of a version, or of the deployed one, as a value';

CREATE FUNCTION limaml_row(VARIADIC "any") RETURNS record
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 30;

COMMENT ON FUNCTION limaml_row("any")
	IS 'a record as ROW() makes one, but a function, which can be sent to other servers';

CREATE FUNCTION limaml_adapt_agg_transition(internal, limaml.trained_network, record, record) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_adapt_agg_combine(internal, internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 500;

CREATE FUNCTION limaml_adapt_agg_serialize(internal) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10000;

CREATE FUNCTION limaml_adapt_agg_deserialize(bytea, internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 4000;

CREATE FUNCTION limaml_adapt_agg_final(internal) RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 2500;

/* SSPACE is the state of an entity with 20 interactions of five features. */
CREATE AGGREGATE limaml_adapt_agg(network limaml.trained_network, entity record, interaction record) (
	SFUNC = limaml_adapt_agg_transition,
	STYPE = internal,
	SSPACE = 2048,
	COMBINEFUNC = limaml_adapt_agg_combine,
	SERIALFUNC = limaml_adapt_agg_serialize,
	DESERIALFUNC = limaml_adapt_agg_deserialize,
	FINALFUNC = limaml_adapt_agg_final,
	PARALLEL = SAFE
);

COMMENT ON FUNCTION limaml_adapt_agg_transition(internal, limaml.trained_network, record, record)
	IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_adapt_agg_combine(internal, internal)
	IS 'aggregate combine function';
COMMENT ON FUNCTION limaml_adapt_agg_serialize(internal)
	IS 'aggregate serialization function';
COMMENT ON FUNCTION limaml_adapt_agg_deserialize(bytea, internal)
	IS 'aggregate deserialization function';
COMMENT ON FUNCTION limaml_adapt_agg_final(internal)
	IS 'aggregate final function';
COMMENT ON AGGREGATE limaml_adapt_agg(limaml.trained_network, record, record)
	IS 'embedding adapted on a group''s interactions';

CREATE FUNCTION limaml_embedding(model text, entity "any") RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 500;

COMMENT ON FUNCTION limaml_embedding(text, "any")
	IS 'stored embedding of an entity, or else its prior';

CREATE FUNCTION limaml_score_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION limaml_score_embedding_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION limaml_score(model text, entity "any", VARIADIC candidate "any") RETURNS real
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 50 SUPPORT limaml_score_support;

CREATE FUNCTION limaml_score_embedding(model text, embedding meta_embedding, VARIADIC candidate "any") RETURNS real
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 50 SUPPORT limaml_score_embedding_support;

CREATE FUNCTION limaml_score_embedding(network limaml.trained_network, embedding meta_embedding, VARIADIC candidate "any") RETURNS real
	AS 'MODULE_PATHNAME', 'limaml_score_embedding_network' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

-- What the planner makes of those of a model where the candidate is a whole row.

CREATE FUNCTION limaml_score_columns(model text, columns text[], entity "any", VARIADIC candidate "any") RETURNS real
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_score_embedding_columns(model text, columns text[], embedding meta_embedding, VARIADIC candidate "any") RETURNS real
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 50;

COMMENT ON FUNCTION limaml_score(text, "any", "any")
	IS 'probability that an entity likes a candidate';
COMMENT ON FUNCTION limaml_score_embedding(text, meta_embedding, "any")
	IS 'probability that whoever has this embedding likes a candidate';
COMMENT ON FUNCTION limaml_score_embedding(limaml.trained_network, meta_embedding, "any")
	IS 'probability by a network at hand that whoever has this embedding likes a candidate';
COMMENT ON FUNCTION limaml_score_support(internal)
	IS 'plans limaml_score of whole rows';
COMMENT ON FUNCTION limaml_score_embedding_support(internal)
	IS 'plans limaml_score_embedding of whole rows';
COMMENT ON FUNCTION limaml_score_columns(text, text[], "any", "any")
	IS 'limaml_score of a row, given by its columns';
COMMENT ON FUNCTION limaml_score_embedding_columns(text, text[], meta_embedding, "any")
	IS 'limaml_score_embedding of a row, given by its columns';

CREATE FUNCTION limaml_rank(model text, entity "any", candidates text, k integer DEFAULT 10,
	OUT rank integer, OUT score real, OUT candidate jsonb) RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL UNSAFE COST 10000 ROWS 10;

COMMENT ON FUNCTION limaml_rank(text, "any", text, integer)
	IS 'best candidates of a relation or query for an entity';

CREATE FUNCTION limaml_top_transition(internal, integer, text, "any", "any", VARIADIC "any") RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_top_final(internal) RETURNS jsonb
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 100;

CREATE AGGREGATE limaml_top(k integer, model text, entity "any", item "any", VARIADIC candidate "any") (
	SFUNC = limaml_top_transition,
	STYPE = internal,
	SSPACE = 65536,
	FINALFUNC = limaml_top_final,
	PARALLEL = SAFE
);

COMMENT ON FUNCTION limaml_top_transition(internal, integer, text, "any", "any", "any")
	IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_top_final(internal)
	IS 'aggregate final function';
COMMENT ON AGGREGATE limaml_top(integer, text, "any", "any", "any")
	IS 'best candidates of a group, by their items';

CREATE FUNCTION limaml_explain(model text, entity "any", VARIADIC candidate "any",
	OUT feature text, OUT value text, OUT contribution double precision) RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 2000 ROWS 10;

COMMENT ON FUNCTION limaml_explain(text, "any", "any")
	IS 'what each feature and the meta embedding contribute to a score, on the scale of its logit';

CREATE FUNCTION limaml_neighbors(model text, entity "any", k integer DEFAULT 10,
	OUT key jsonb, OUT distance double precision) RETURNS SETOF record
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL UNSAFE COST 100000 ROWS 10;

COMMENT ON FUNCTION limaml_neighbors(text, "any", integer)
	IS 'entities whose stored embeddings are nearest to an entity''s';

CREATE FUNCTION limaml_enable_pgvector() RETURNS void
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;

COMMENT ON FUNCTION limaml_enable_pgvector()
	IS 'create casts between meta_embedding and the type vector of pgvector';

CREATE FUNCTION limaml_candidate_vector(model text, VARIADIC candidate "any") RETURNS meta_embedding
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 50;

COMMENT ON FUNCTION limaml_candidate_vector(text, "any")
	IS 'what a candidate is to every entity, for limaml_score_vector';

CREATE FUNCTION limaml_score_vector(model text, entity "any", vector meta_embedding) RETURNS real
	AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 25;

COMMENT ON FUNCTION limaml_score_vector(text, "any", meta_embedding)
	IS 'probability that an entity likes the candidate that has this vector';

CREATE FUNCTION limaml_keep_candidate_vector() RETURNS trigger
	AS 'MODULE_PATHNAME' LANGUAGE C;

COMMENT ON FUNCTION limaml_keep_candidate_vector()
	IS 'trigger that keeps candidate vectors in a column: model, column';

CREATE PROCEDURE limaml_refresh(model text, version integer DEFAULT NULL, only_stale boolean DEFAULT true)
	AS 'MODULE_PATHNAME' LANGUAGE C;

COMMENT ON PROCEDURE limaml_refresh(text, integer, boolean)
	IS 'adapt the entities that have new interactions and store their embeddings';

CREATE FUNCTION limaml_refresh_start(
	model text,
	workers integer DEFAULT NULL,
	version integer DEFAULT NULL,
	only_stale boolean DEFAULT true
) RETURNS bigint
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;

COMMENT ON FUNCTION limaml_refresh_start(text, integer, integer, boolean)
	IS 'start a refresh in background workers, and return its job';

CREATE FUNCTION limaml_train_start(model text, options jsonb DEFAULT '{}') RETURNS bigint
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 100000;

COMMENT ON FUNCTION limaml_train_start(text, jsonb)
	IS 'start training in a background worker, and return its job';

CREATE FUNCTION limaml_wait(job bigint) RETURNS text
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 100000;

COMMENT ON FUNCTION limaml_wait(bigint)
	IS 'wait until a job has ended, and return how: done, failed or cancelled';

CREATE FUNCTION limaml_cancel(job bigint) RETURNS boolean
	AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 100000;

COMMENT ON FUNCTION limaml_cancel(bigint)
	IS 'end a job; what its batches have stored remains.  False if it had ended';

CREATE FUNCTION limaml.freshness_of_models(
	OUT model text,
	OUT version integer,
	OUT entities bigint,
	OUT adapted bigint,
	OUT stale bigint,
	OUT oldest timestamptz,
	OUT refreshed_at timestamptz
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'limaml_freshness' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000000;

COMMENT ON FUNCTION limaml.freshness_of_models() IS 'implementation of limaml.freshness';

CREATE VIEW limaml.freshness AS SELECT * FROM limaml.freshness_of_models();

COMMENT ON VIEW limaml.freshness IS 'how up to date the embeddings of your models are';

GRANT SELECT ON limaml.freshness TO PUBLIC;

/* ---------------------------------------------------------------------- *
 * Metrics: aggregates over scores and labels
 *
 * Their transition functions take NULLs, since a state of type internal has
 * no value to start from; rows with one are left out.  The final functions
 * leave the state as it was, but for its being sorted, so that aggregates over
 * the same arguments share one and all are window functions, too.  COST is what
 * was measured with a row's share of sorting a million of them.  SSPACE is the
 * state of a ranking of 20 rows.
 * ---------------------------------------------------------------------- */

CREATE FUNCTION limaml_metric_accum(internal, double precision, boolean) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum(internal, double precision, double precision) RETURNS internal
	AS 'MODULE_PATHNAME', 'limaml_metric_accum_number' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_group(internal, double precision, boolean, anyelement) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_group(internal, double precision, double precision, anyelement) RETURNS internal
	AS 'MODULE_PATHNAME', 'limaml_metric_accum_group_number' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_first(internal, double precision, boolean) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_first(internal, double precision, double precision) RETURNS internal
	AS 'MODULE_PATHNAME', 'limaml_metric_accum_first_number' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_top(internal, double precision, boolean, integer) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_top(internal, double precision, double precision, integer) RETURNS internal
	AS 'MODULE_PATHNAME', 'limaml_metric_accum_top_number' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_accum_graded(internal, double precision, double precision, integer) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;

CREATE FUNCTION limaml_metric_combine(internal, internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 1000;

CREATE FUNCTION limaml_metric_serialize(internal) RETURNS bytea
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1000;

CREATE FUNCTION limaml_metric_deserialize(bytea, internal) RETURNS internal
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE FUNCTION limaml_auc_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_gauc_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_mean_auc_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_calibration_error_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_ndcg_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_mrr_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_hit_rate_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_precision_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_recall_final(internal) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE FUNCTION limaml_log_loss_accum(bigint[], double precision, boolean) RETURNS bigint[]
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;

CREATE FUNCTION limaml_log_loss_accum(bigint[], double precision, double precision) RETURNS bigint[]
	AS 'MODULE_PATHNAME', 'limaml_log_loss_accum_number' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;

CREATE FUNCTION limaml_log_loss_combine(bigint[], bigint[]) RETURNS bigint[]
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

CREATE FUNCTION limaml_log_loss_final(bigint[]) RETURNS double precision
	AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;

COMMENT ON FUNCTION limaml_metric_accum(internal, double precision, boolean) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum(internal, double precision, double precision) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_group(internal, double precision, boolean, anyelement) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_group(internal, double precision, double precision, anyelement) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_first(internal, double precision, boolean) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_first(internal, double precision, double precision) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_top(internal, double precision, boolean, integer) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_top(internal, double precision, double precision, integer) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_accum_graded(internal, double precision, double precision, integer) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_metric_combine(internal, internal) IS 'aggregate combine function';
COMMENT ON FUNCTION limaml_metric_serialize(internal) IS 'aggregate serialization function';
COMMENT ON FUNCTION limaml_metric_deserialize(bytea, internal) IS 'aggregate deserialization function';
COMMENT ON FUNCTION limaml_auc_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_gauc_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_mean_auc_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_calibration_error_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_ndcg_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_mrr_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_hit_rate_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_precision_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_recall_final(internal) IS 'aggregate final function';
COMMENT ON FUNCTION limaml_log_loss_accum(bigint[], double precision, boolean) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_log_loss_accum(bigint[], double precision, double precision) IS 'aggregate transition function';
COMMENT ON FUNCTION limaml_log_loss_combine(bigint[], bigint[]) IS 'aggregate combine function';
COMMENT ON FUNCTION limaml_log_loss_final(bigint[]) IS 'aggregate final function';

CREATE AGGREGATE limaml_auc(score double precision, label boolean) (
	SFUNC = limaml_metric_accum,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_auc_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_auc(score double precision, label double precision) (
	SFUNC = limaml_metric_accum,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_auc_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_gauc(score double precision, label boolean, "group" anyelement) (
	SFUNC = limaml_metric_accum_group,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_gauc_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_gauc(score double precision, label double precision, "group" anyelement) (
	SFUNC = limaml_metric_accum_group,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_gauc_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_mean_auc(score double precision, label boolean, "group" anyelement) (
	SFUNC = limaml_metric_accum_group,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_mean_auc_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_mean_auc(score double precision, label double precision, "group" anyelement) (
	SFUNC = limaml_metric_accum_group,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_mean_auc_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_log_loss(score double precision, label boolean) (
	SFUNC = limaml_log_loss_accum,
	STYPE = bigint[],
	SSPACE = 56,
	COMBINEFUNC = limaml_log_loss_combine,
	FINALFUNC = limaml_log_loss_final,
	INITCOND = '{0,0,0,0}',
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_log_loss(score double precision, label double precision) (
	SFUNC = limaml_log_loss_accum,
	STYPE = bigint[],
	SSPACE = 56,
	COMBINEFUNC = limaml_log_loss_combine,
	FINALFUNC = limaml_log_loss_final,
	INITCOND = '{0,0,0,0}',
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_calibration_error(score double precision, label boolean) (
	SFUNC = limaml_metric_accum,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_calibration_error_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_calibration_error(score double precision, label double precision) (
	SFUNC = limaml_metric_accum,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_calibration_error_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_ndcg(score double precision, relevance boolean, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_ndcg_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_ndcg(score double precision, relevance double precision, k integer) (
	SFUNC = limaml_metric_accum_graded,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_ndcg_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_mrr(score double precision, label boolean) (
	SFUNC = limaml_metric_accum_first,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_mrr_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_mrr(score double precision, label double precision) (
	SFUNC = limaml_metric_accum_first,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_mrr_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_hit_rate(score double precision, label boolean, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_hit_rate_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_hit_rate(score double precision, label double precision, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_hit_rate_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_precision(score double precision, label boolean, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_precision_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_precision(score double precision, label double precision, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_precision_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_recall(score double precision, label boolean, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_recall_final,
	PARALLEL = SAFE
);

CREATE AGGREGATE limaml_recall(score double precision, label double precision, k integer) (
	SFUNC = limaml_metric_accum_top,
	STYPE = internal,
	SSPACE = 672,
	COMBINEFUNC = limaml_metric_combine,
	SERIALFUNC = limaml_metric_serialize,
	DESERIALFUNC = limaml_metric_deserialize,
	FINALFUNC = limaml_recall_final,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE limaml_auc(double precision, boolean) IS 'area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half';
COMMENT ON AGGREGATE limaml_auc(double precision, double precision) IS 'area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half';
COMMENT ON AGGREGATE limaml_gauc(double precision, boolean, anyelement) IS 'mean of the groups'' AUC, weighted by their rows; groups of one class are left out';
COMMENT ON AGGREGATE limaml_gauc(double precision, double precision, anyelement) IS 'mean of the groups'' AUC, weighted by their rows; groups of one class are left out';
COMMENT ON AGGREGATE limaml_mean_auc(double precision, boolean, anyelement) IS 'mean of the groups'' AUC; groups of one class are left out';
COMMENT ON AGGREGATE limaml_mean_auc(double precision, double precision, anyelement) IS 'mean of the groups'' AUC; groups of one class are left out';
COMMENT ON AGGREGATE limaml_log_loss(double precision, boolean) IS 'mean log loss of probabilities, in nats';
COMMENT ON AGGREGATE limaml_log_loss(double precision, double precision) IS 'mean log loss of probabilities, in nats';
COMMENT ON AGGREGATE limaml_calibration_error(double precision, boolean) IS 'expected calibration error of probabilities, over ten bins of equally many rows';
COMMENT ON AGGREGATE limaml_calibration_error(double precision, double precision) IS 'expected calibration error of probabilities, over ten bins of equally many rows';
COMMENT ON AGGREGATE limaml_ndcg(double precision, boolean, integer) IS 'normalised discounted cumulative gain of the first k rows of a ranking';
COMMENT ON AGGREGATE limaml_ndcg(double precision, double precision, integer) IS 'normalised discounted cumulative gain of the first k rows of a ranking';
COMMENT ON AGGREGATE limaml_mrr(double precision, boolean) IS 'reciprocal rank of the first positive row of a ranking';
COMMENT ON AGGREGATE limaml_mrr(double precision, double precision) IS 'reciprocal rank of the first positive row of a ranking';
COMMENT ON AGGREGATE limaml_hit_rate(double precision, boolean, integer) IS 'whether a positive row is among the first k of a ranking';
COMMENT ON AGGREGATE limaml_hit_rate(double precision, double precision, integer) IS 'whether a positive row is among the first k of a ranking';
COMMENT ON AGGREGATE limaml_precision(double precision, boolean, integer) IS 'share of positive rows among the first k of a ranking';
COMMENT ON AGGREGATE limaml_precision(double precision, double precision, integer) IS 'share of positive rows among the first k of a ranking';
COMMENT ON AGGREGATE limaml_recall(double precision, boolean, integer) IS 'share of the positive rows that are among the first k of a ranking';
COMMENT ON AGGREGATE limaml_recall(double precision, double precision, integer) IS 'share of the positive rows that are among the first k of a ranking';
