--
-- limaml_train: which rows it learns from, what it refuses, what it stores.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA train_test;
SET search_path = train_test, public;

-- 30 members, each with a taste for even or odd items that shows in 5 of 6
-- ratings; nothing random, nothing that depends on the machine
CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, n AS at, i % 7 AS year, 'k' || i % 3 AS kind,
	((i + m) % 2 = 0) <> (hashint4(m * 1000 + i) % 6 = 0) AS liked, 1 + n % 3 AS weight
FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age, CASE m % 3 WHEN 0 THEN 'free' ELSE 'paid' END AS plan FROM generate_series(1, 30) m;

CREATE FUNCTION create_small(model text, interactions regclass, label text DEFAULT 'liked', features text[] DEFAULT '{item_id:category,year}', options jsonb DEFAULT '{}')
RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, '{member_id}', label, 'at', features, 'member', '{age,plan}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 3, "batch_entities": 8}' || options)
$$;

-- The metadata of a network as JSON
CREATE FUNCTION metadata(network bytea) RETURNS jsonb LANGUAGE sql AS $$
	SELECT (convert_from(substr(network, 9, get_byte(network, 0) + 256 * get_byte(network, 1) + 65536 * get_byte(network, 2)), 'UTF8')::jsonb
		-> '__metadata__' ->> 'limaml')::jsonb
$$;

-- What it says of a feature, rounded
CREATE FUNCTION feature(model text, name text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT CASE WHEN f ? 'mean' THEN f || jsonb_build_object('mean', round((f ->> 'mean')::numeric, 6), 'sd', round((f ->> 'sd')::numeric, 6)) ELSE f END
	FROM metadata(limaml_export(model)) m, jsonb_array_elements((m -> 'features') || (m -> 'meta_features')) f
	WHERE f ->> 'name' = feature.name
$$;

-- Trains and rolls back: the digest, or the error
CREATE FUNCTION try_train(model text, options jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	trained int;
	result text;
BEGIN
	SELECT version INTO trained FROM limaml_train(model, options);
	SELECT encode(v.digest, 'hex') INTO result FROM limaml.version v WHERE v.model = try_train.model AND v.version = trained;
	RAISE EXCEPTION USING ERRCODE = 'P0999', MESSAGE = result;
EXCEPTION
	WHEN SQLSTATE 'P0999' THEN RETURN SQLERRM;
	WHEN OTHERS THEN RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;

-- What training returns is what the catalog says

SELECT create_small('taste', 'rating');
CREATE TABLE trained AS SELECT * FROM limaml_train('taste', '{"inner_steps": 3}');
SELECT version, epochs BETWEEN 1 AND 3 AS epochs, entities, interactions, train_loss BETWEEN 0.1 AND 0.8 AS train_loss,
	validation_loss BETWEEN 0.1 AND 0.8 AS validation_loss, validation_auc BETWEEN 0 AND 1 AS validation_auc,
	baseline_auc BETWEEN 0 AND 1 AS baseline_auc, seconds BETWEEN 0 AND 60 AS seconds FROM trained;
SELECT v.deployed, v.digest = sha256(overlay(v.network PLACING convert_to(repeat('0', 64), 'UTF8') FROM 9 + length('{"__metadata__":{"digest":"') FOR 64)) AS digest,
	(v.entities, v.interactions, v.epochs, v.train_loss, v.validation_loss, v.validation_auc, v.baseline_auc, v.seconds) =
	(t.entities, t.interactions, t.epochs, t.train_loss, t.validation_loss, t.validation_auc, t.baseline_auc, t.seconds) AS same,
	v.created_at <= now() AS created, v.network = limaml_export('taste') AS exported
FROM limaml.version v JOIN trained t USING (version) WHERE model = 'taste';
SELECT deployed FROM limaml.model WHERE model = 'taste';

-- Every option is in the version, defaults too
\a\t
SELECT key, value FROM limaml.version, jsonb_each(options) WHERE model = 'taste' ORDER BY key COLLATE "C";
\a\t

-- The log has a row per epoch: those that validate, and then those on all rows
SELECT refit, array_agg(epoch ORDER BY epoch) = array_agg(row_number) AS epochs, count(*) FILTER (WHERE kept) AS kept,
	bool_and(train_loss > 0) AS losses, bool_and((validation_loss > 0 AND validation_auc BETWEEN 0 AND 1 AND baseline_auc BETWEEN 0 AND 1)) AS validates,
	bool_and(learning_rate > 0 AND learning_rate <= 0.01) AS rates, bool_and(seconds >= 0) AS seconds
FROM (SELECT *, (row_number() OVER (PARTITION BY refit ORDER BY epoch))::int FROM limaml.training_log WHERE model = 'taste') _ GROUP BY refit ORDER BY refit;
SELECT (SELECT max(l.epoch) FROM limaml.training_log l WHERE l.model = 'taste' AND l.refit) = t.epochs AS refit,
	(l.train_loss, l.validation_loss, l.validation_auc, l.baseline_auc) = (t.train_loss, t.validation_loss, t.validation_auc, t.baseline_auc) AS kept
FROM trained t JOIN limaml.training_log l ON l.model = 'taste' AND l.version = t.version AND l.kept;

-- A second version is there but not deployed, until it is
SELECT version FROM limaml_train('taste', '{"seed": 2}');
SELECT version, deployed FROM limaml.version WHERE model = 'taste' ORDER BY version;
SELECT limaml_deploy('taste');
SELECT version, deployed FROM limaml.version WHERE model = 'taste' ORDER BY version;
SELECT limaml_deploy('taste', 1);
SELECT limaml_deploy('taste', 3);
SELECT deployed FROM limaml.model WHERE model = 'taste';
SELECT inhrelid::regclass, pg_get_expr(relpartbound, oid) FROM pg_inherits JOIN pg_class ON oid = inhrelid
WHERE inhparent = 'taste_embedding'::regclass ORDER BY 1;

-- It learns: what adapted on a member's rows ranks that member's newest rows
-- better than what did not
SELECT create_small('learns', 'rating', options => '{"epochs": 30, "patience": 30, "learning_rate": 0.01, "weight_decay": 0, "category_decay": 0, "validation_fraction": 0.2}');
SELECT validation_auc > 0.7 AS adapted, validation_auc > baseline_auc + 0.15 AS over_unadapted, train_loss < 0.65 AS loss FROM limaml_train('learns');

-- One seed, the same bytes; another seed, other bytes

SELECT try_train('taste', '{"inner_steps": 3}') = encode(digest, 'hex') AS same_seed FROM limaml.version WHERE model = 'taste' AND version = 1;
SELECT try_train('taste', '{"inner_steps": 3, "seed": 0}') = encode(digest, 'hex') AS seed_0 FROM limaml.version WHERE model = 'taste' AND version = 1;
SELECT count(DISTINCT try_train('taste', jsonb_build_object('seed', seed))) AS different FROM unnest('{0,1,-1,2147483647,-2147483648}'::int[]) seed;

-- Not what order the rows lie in, nor how the session is set
CREATE TABLE rating_reversed AS SELECT * FROM rating ORDER BY hashint4(at), member_id DESC;
SELECT create_small('reversed', 'rating_reversed');
SET extra_float_digits = -10;
SET DateStyle = 'German';
SET work_mem = '64kB';
SET enable_hashjoin = off;
SELECT try_train('reversed', '{"inner_steps": 3}') = encode(digest, 'hex') AS same_rows FROM limaml.version WHERE model = 'taste' AND version = 1;
RESET extra_float_digits;
RESET DateStyle;
RESET work_mem;
RESET enable_hashjoin;

-- Options that training may give, each of which makes another network

CREATE TABLE tried AS
SELECT options, try_train('taste', options::jsonb) AS digest FROM unnest(ARRAY[
	'{}', '{"activation": "gelu"}', '{"activation": "relu"}', '{"adapts": "meta_block"}', '{"order": 1}', '{"loss": "squared"}',
	'{"personalization": "none"}', '{"inner_weighting": "mean"}', '{"inner_weighting": "damped"}', '{"inner_weighting": "sqrt_damped"}',
	'{"support_split": "prefix"}', '{"support_split": "mixed"}', '{"support_split": "fixed"}', '{"support_split": "fixed", "support_fraction": 0.2}',
	'{"learn_inner_rate": true}', '{"inner_rate": 0.1}', '{"inner_rate": 0}', '{"inner_steps": 0}', '{"inner_steps": 1}', '{"recency": null}', '{"recency": 5}',
	'{"prior_loss": 0}', '{"category_dropout": 0.5}', '{"weight": "weight"}', '{"category_size": 3}', '{"min_count": 20}', '{"max_categories": 5}',
	'{"factor_size": 0}', '{"factor_size": 8}', '{"meta_hidden": []}', '{"meta_hidden": [4, 4, 4]}', '{"global_hidden": []}', '{"global_hidden": [4, 4, 4]}',
	'{"epochs": 1}', '{"epochs": 6, "patience": 6}', '{"batch_entities": 1}', '{"batch_entities": 65536}', '{"learning_rate": 0.1}', '{"weight_decay": 0}', '{"category_decay": 0}',
	'{"clip_norm": 0.01}', '{"validation_fraction": 0}', '{"validation_fraction": 0.5}', '{"support_rows": 1}', '{"seed": 3}'
]) options;
SELECT options, digest FROM tried WHERE digest !~ '^[0-9a-f]{64}$';
SELECT array_agg(options) FROM tried GROUP BY digest HAVING count(*) > 1;
SELECT try_train('taste', '{"clip_norm": 0}') ~ '^[0-9a-f]{64}$' AS unclipped;

-- What personalization none trains scores as the prior does, whoever asks
SELECT create_small('nobody', 'rating', options => '{"personalization": "none"}');
SELECT validation_auc = baseline_auc AS unadapted FROM limaml_train('nobody');
SELECT limaml_adapt('nobody', 1) = limaml_embedding('nobody', 1) AS prior;

-- Learned inner rates, and those that are not
SELECT create_small('rates', 'rating', options => '{"inner_rate": 0.25}');
SELECT version FROM limaml_train('rates');
SELECT version FROM limaml_train('rates', '{"learn_inner_rate": true}');
CREATE FUNCTION tensor(network bytea, name text) RETURNS bytea LANGUAGE sql AS $$
	SELECT substr(network, 9 + length + (t -> 0)::int, ((t -> 1)::int - (t -> 0)::int))
	FROM (SELECT get_byte(network, 0) + 256 * get_byte(network, 1) + 65536 * get_byte(network, 2)) _(length),
		LATERAL (SELECT convert_from(substr(network, 9, length), 'UTF8')::jsonb -> name -> 'data_offsets') __(t)
$$;
SELECT tensor(limaml_export('rates', 1), 'inner_rate') AS given, tensor(limaml_export('rates', 2), 'inner_rate') <> tensor(limaml_export('rates', 1), 'inner_rate') AS learned;

-- Options that training may not give

SELECT limaml_train('taste', '{"embedding_size": 16}');
SELECT limaml_train('taste', '{"embedding_size": 8, "epochs": 1}') IS NOT NULL AS the_same_size;
SELECT limaml_train('taste', '{"factor_size": 9}');
SELECT limaml_train('taste', '{"epoch": 1}');
SELECT limaml_train('taste', '{"epochs": 0}');
SELECT limaml_train('taste', '{"weight": "kind"}');
SELECT limaml_train('taste', '{"weight": "mass"}');
SELECT limaml_train('taste', '[]');
SELECT (limaml_train('taste', NULL)) IS NULL AS nothing;
SELECT count(*) FROM limaml.version WHERE model = 'taste';

-- Statistics and vocabularies are those of the training rows alone.  Member 1's
-- newest row is the only one of item 1000 and of kind "new", and far from all
-- others' year; with every fifth row held out it only validates.

CREATE TABLE split AS
SELECT member_id, n AS at, n % 2 = member_id % 2 AS liked, 10 + n AS item_id, n::float8 AS year, 'old' AS kind
FROM generate_series(1, 4) member_id, generate_series(1, 5) n;
UPDATE split SET item_id = 1000, year = 1e6, kind = 'new' WHERE at = 5;
SELECT create_small('split', 'split', features => '{item_id:category,year,kind}', options => '{"validation_fraction": 0.2, "category_size": 2}');
SELECT entities, interactions FROM limaml_train('split');
SELECT feature('split', 'item_id') AS item_id, feature('split', 'year') AS year, feature('split', 'kind') AS kind;
SELECT feature('split', 'age') AS age, feature('split', 'plan') AS plan;

-- Most frequent first, as many as max_categories, those with min_count
INSERT INTO split SELECT member_id, 0, true, 10 + least(member_id, 3), 0, 'old' FROM generate_series(1, 4) member_id;
SELECT options, feature('split', 'item_id') -> 'vocabulary' AS vocabulary, feature('split', 'item_id') -> 'outside' AS outside
FROM unnest('{"{}","{\"max_categories\": 3}","{\"min_count\": 5}","{\"min_count\": 5, \"max_categories\": 1}","{\"min_count\": 100}"}'::jsonb[]) options,
	LATERAL (SELECT limaml_deploy('split', (limaml_train('split', options)).version)) _;

-- NULL, NaN and infinite features: no value, and said so

CREATE TABLE holes AS
SELECT member_id, n AS at, (n + member_id) % 2 = 0 AS liked,
	CASE n WHEN 1 THEN NULL WHEN 2 THEN 'NaN' WHEN 3 THEN 'Infinity' WHEN 4 THEN '-Infinity' ELSE n::float8 END AS f,
	CASE n WHEN 1 THEN NULL ELSE n END::numeric AS whole, CASE WHEN n > 2 THEN 'x' END AS kind, NULL::int AS never, 7 AS constant, CASE WHEN n <= 10 THEN n END AS late
FROM generate_series(1, 6) member_id, generate_series(1, 12) n;
SELECT create_small('holes', 'holes', features => '{f,whole,kind,never,constant,late,never2:category}');
ALTER TABLE holes ADD never2 int;
SELECT create_small('holes', 'holes', features => '{f,whole,kind,never,constant,late,never2:category}', options => '{"validation_fraction": 0.17}');
SELECT entities, interactions, train_loss BETWEEN 0 AND 2 AS loss FROM limaml_train('holes');
SELECT feature('holes', f) AS feature FROM unnest('{f,whole,kind,never,constant,late,never2}'::text[]) f;
CALL limaml_refresh('holes');
SELECT limaml_score('holes', 1, f::float8, NULL::numeric, NULL::text, NULL::int, NULL::int, 1, NULL::int) BETWEEN 0 AND 1 AS scored
FROM unnest('{NULL,NaN,Infinity,-Infinity,1e308,-1e308,1e-320}'::float8[]) f;

-- Labels

CREATE TABLE labels AS SELECT member_id, n AS at, n AS item_id, 1 AS year, n % 2 AS y, (n % 2)::float8 AS d, (n % 2)::numeric AS num FROM generate_series(1, 3) member_id, generate_series(1, 6) n;
SELECT create_small('labels', 'labels', 'y');
SELECT create_small('float labels', 'labels', 'd');
SELECT create_small('numeric labels', 'labels', 'num');
SELECT entities, interactions FROM unnest('{labels,float labels,numeric labels}'::text[]) model, LATERAL limaml_train(model);
UPDATE labels SET y = 2 WHERE member_id = 2 AND at = 3;
SELECT limaml_train('labels');
UPDATE labels SET y = -1 WHERE member_id = 2 AND at = 3;
SELECT limaml_train('labels');
UPDATE labels SET d = 0.5, num = 0.5 WHERE member_id = 3 AND at = 4;
SELECT limaml_train('float labels');
SELECT limaml_train('numeric labels');
SELECT interactions FROM limaml_train('numeric labels', '{"loss": "squared"}');
UPDATE labels SET d = 'NaN', num = 'NaN' WHERE member_id = 3 AND at = 4;
SELECT limaml_train('float labels');
SELECT limaml_train('float labels', '{"loss": "squared"}');
SELECT limaml_train('numeric labels', '{"loss": "squared"}');
UPDATE labels SET d = '-Infinity', num = 1e300 WHERE member_id = 3 AND at = 4;
SELECT limaml_train('float labels', '{"loss": "squared"}');
SELECT limaml_train('numeric labels', '{"loss": "squared"}');

-- One class only, among the rows that train
UPDATE labels SET y = 1;
SELECT limaml_train('labels');
UPDATE labels SET y = 0;
SELECT limaml_train('labels');
UPDATE labels SET y = 1 WHERE at = 6;
SELECT limaml_train('labels', '{"validation_fraction": 0.17}');
SELECT interactions FROM limaml_train('labels', '{"validation_fraction": 0}');
SELECT interactions FROM limaml_train('labels', '{"validation_fraction": 0.17, "loss": "squared"}');
SELECT validation_loss IS NULL AS loss, validation_auc IS NULL AS auc, baseline_auc IS NULL AS baseline, epochs FROM limaml_train('labels', '{"validation_fraction": 0}');

-- Rows without a label, a time or a key are skipped, and counted
UPDATE labels SET y = 1;
UPDATE labels SET y = NULL WHERE member_id = 1 AND at = 1;
SET client_min_messages = notice;
SELECT limaml_train('labels');
UPDATE labels SET at = NULL WHERE member_id = 2 AND at = 2;
UPDATE labels SET member_id = NULL WHERE member_id = 3 AND at IN (3, 4);
SELECT limaml_train('labels');
SET client_min_messages = warning;
UPDATE labels SET y = at % 2 WHERE y IS NOT NULL;
SELECT entities, interactions FROM limaml_train('labels');

-- No rows, or none that counts
UPDATE labels SET y = NULL;
SELECT limaml_train('labels');
TRUNCATE labels;
SELECT limaml_train('labels');
INSERT INTO labels VALUES (1, 1, 1, 1, 1);
SELECT limaml_train('labels');
INSERT INTO labels VALUES (1, 2, 1, 1, 0);
SELECT entities, interactions FROM limaml_train('labels');

-- Weights

CREATE TABLE weights AS SELECT *, 1.0::float8 AS w FROM rating;
SELECT create_small('weights', 'weights');
SELECT try_train('weights', '{"weight": "w"}') ~ '^[0-9a-f]{64}$' AS trained;
UPDATE weights SET w = 0;
SELECT try_train('weights', '{"weight": "w"}');
UPDATE weights SET w = 0.5 WHERE member_id % 2 = 0;
SELECT try_train('weights', '{"weight": "w"}') ~ '^[0-9a-f]{64}$' AS half_weightless;
UPDATE weights SET w = NULL WHERE member_id = 7 AND at = 3;
SELECT limaml_train('weights', '{"weight": "w"}');
UPDATE weights SET w = -0.5 WHERE w IS NULL;
SELECT limaml_train('weights', '{"weight": "w"}');
UPDATE weights SET w = 'NaN' WHERE w < 0;
SELECT limaml_train('weights', '{"weight": "w"}');
UPDATE weights SET w = 'Infinity' WHERE w = 'NaN';
SELECT limaml_train('weights', '{"weight": "w"}');

-- Entities: none is unknown, one is known, two are a mistake

CREATE TABLE twins AS SELECT * FROM member;
SELECT limaml_create_model('twins', 'rating', '{member_id}', 'liked', 'at', '{year}', 'twins', '{age,plan}', options => '{"embedding_size": 4, "epochs": 1}');
DELETE FROM twins WHERE member_id = 3;
INSERT INTO twins VALUES (NULL, 1, 'x'), (NULL, 2, 'y');
SELECT entities FROM limaml_train('twins');
SELECT feature('twins', 'age') -> 'missing' AS missing, feature('twins', 'plan') -> 'vocabulary' AS vocabulary;
INSERT INTO twins VALUES (7, 1, 'x');
SELECT limaml_train('twins');
SELECT limaml_adapt('twins', 7);
SELECT limaml_adapt('twins', 8) IS NOT NULL AS adapted;

-- The inner loop diverges: whose, at which step, and what to do

SELECT create_small('diverges', 'rating', options => '{"loss": "squared", "activation": "relu", "inner_steps": 10, "batch_entities": 1000}');
DO $$
BEGIN
	PERFORM limaml_train('diverges', '{"inner_rate": 1e9}');
EXCEPTION WHEN numeric_value_out_of_range THEN
	DECLARE hint text;
	BEGIN
		GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
		RAISE WARNING '% (%)', regexp_replace(SQLERRM, 'member_id [0-9]+ at step [0-9]+', 'member_id M at step K'), hint;
	END;
END $$;
SELECT count(*) FROM limaml.version WHERE model = 'diverges';
SELECT count(*) FROM limaml.training_log WHERE model = 'diverges';

-- A key of several columns, and features of every kind of category

CREATE TYPE color AS ENUM ('red', 'green', 'Blue ö');
CREATE TABLE kinds AS
SELECT n % 5 AS a, 'b' || n % 3 AS b, n AS at, hashint4(n) % 2 = 0 AS liked, (enum_range(NULL::color))[1 + n % 3] AS color,
	('t' || n % 4)::text AS t, ('v' || n % 4)::varchar(5) AS v, ('c' || n % 4)::char(5) AS c, ('n' || n % 4)::name AS n,
	chr(97 + n % 4)::"char" AS one, md5((n % 4)::text)::uuid AS id, n % 2 = 0 AS yes, (n % 4) / 4.0::float8 AS f8, (n % 4) / 4.0::float4 AS f4,
	(n % 4 / 2.0)::numeric(8,3) AS num, date '2020-01-01' + n % 4 AS d, ('10.0.0.' || n % 4)::inet AS ip, (n % 4)::smallint AS i2, (n % 4) * 10000000000 AS i8
FROM generate_series(1, 200) n;
SELECT limaml_create_model('kinds', 'kinds', '{a,b}', 'liked', 'at', '{color,t,v,c,n,one,id,yes:category,f8:category,f4:category,num:category,d:category,ip:category,i2:category,i8:category}',
	options => '{"embedding_size": 4, "epochs": 1, "category_size": 2}');
SELECT entities, interactions FROM limaml_train('kinds');
SELECT f ->> 'name' AS name, f ->> 'values' AS values, f -> 'vocabulary' AS vocabulary
FROM metadata(limaml_export('kinds')) m, jsonb_array_elements(m -> 'features') f;
CALL limaml_refresh('kinds');
SELECT count(*) FROM kinds_embedding;

\set VERBOSITY terse
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA train_test CASCADE;
