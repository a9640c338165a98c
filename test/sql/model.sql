--
-- limaml_create_model and limaml_drop_model: what a declaration may say, and
-- what each wrong one is told.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA model_test;
SET search_path = model_test, public;
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TYPE pair AS (a integer, b integer);
CREATE DOMAIN price AS numeric(8,2);

CREATE TABLE rating (
	member_id integer, item_id bigint, liked boolean, stars real, at timestamptz, seen date, local timestamp,
	year smallint, price price, color color, note text, code char(3), short varchar(8), name name, one "char", id uuid,
	tags text[], info jsonb, clock time, length interval, place point, pair pair, address inet, weight double precision,
	version integer, "Mixed Case" integer, "with:colon" integer, "a:category" integer, gone integer
);
ALTER TABLE rating DROP COLUMN gone;
CREATE TABLE member (member_id integer PRIMARY KEY, age integer, plan text, born date);
CREATE TABLE member_by_text (member_id text PRIMARY KEY, age integer);
CREATE VIEW rating_view AS SELECT * FROM rating;
CREATE MATERIALIZED VIEW rating_matview AS SELECT * FROM rating;
CREATE TABLE rating_parts (member_id integer, item_id integer, liked boolean, at timestamptz) PARTITION BY HASH (member_id);
CREATE TABLE rating_part PARTITION OF rating_parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE INDEX rating_index ON rating (member_id);
CREATE SEQUENCE rating_sequence;

-- What a model is, by its catalog and its embeddings table

SELECT limaml_create_model('plain', 'rating', '{member_id}', 'liked', 'at', '{item_id:category, year, color, year2}');
SELECT limaml_create_model('plain', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year,color}');
SELECT model, owner = current_user::regrole AS mine, interactions, entity_key, label, event_time, features, entities,
	meta_features, embeddings, options, deployed
FROM limaml.model WHERE model = 'plain';
\d plain_embedding
SELECT count(*) FROM limaml.version WHERE model = 'plain';
SELECT count(*) FROM limaml.training_log WHERE model = 'plain';
SELECT limaml_drop_model('plain');
SELECT count(*) FROM limaml.model WHERE model = 'plain';
SELECT to_regclass('plain_embedding');

-- Every argument
SELECT limaml_create_model(
	model => 'full', interactions => 'rating', entity_key => '{member_id, item_id}', label => 'stars', event_time => 'seen',
	features => '{year, price:numeric, color:category, note, code, short, name, one, id, "\"Mixed Case\""}',
	entities => 'member', meta_features => '{}', embeddings => 'model_test."Full embeddings"',
	options => '{"embedding_size": 8, "factor_size": 0, "weight": "weight", "loss": "squared", "recency": null, "meta_hidden": [], "global_hidden": [4], "seed": -1}');
SELECT limaml_create_model(
	model => 'full', interactions => 'rating', entity_key => '{member_id, item_id}', label => 'stars', event_time => 'seen',
	features => ARRAY['year', 'price:numeric', 'color:category', 'note', 'code', 'short', 'name', 'one', 'id', 'Mixed Case', 'with:colon', 'a:category', 'address:category', 'seen:category', 'liked'],
	entities => 'member', meta_features => '{}', embeddings => 'model_test."Full embeddings"',
	options => '{"embedding_size": 8, "factor_size": 0, "weight": "weight", "loss": "squared", "recency": null, "meta_hidden": [], "global_hidden": [4], "seed": -1}');
SELECT interactions, entity_key, label, event_time, features, entities, meta_features, embeddings, options
FROM limaml.model WHERE model = 'full';
\d "Full embeddings"
SELECT limaml_drop_model('full');

-- Every kind of relation that has rows, of event time and of key
SELECT limaml_create_model('on view', 'rating_view', '{member_id}', 'liked', 'local', '{year}');
SELECT limaml_create_model('on matview', 'rating_matview', '{note}', 'liked', 'year', '{year}');
SELECT limaml_create_model('on partitions', 'rating_parts', '{member_id}', 'liked', 'at', '{item_id}');
SELECT limaml_create_model('by domain', 'rating', '{price}', 'liked', 'price', '{year}');
SELECT limaml_create_model('by uuid', 'rating', '{id}', 'liked', 'stars', '{year}');
SELECT model, embeddings FROM limaml.model ORDER BY model COLLATE "C";
SELECT a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN limaml.model m ON m.embeddings = a.attrelid
WHERE a.attnum > 0 AND a.attname <> ALL ('{version,embedding,interactions,loss_before,loss_after,adapted_at}')
ORDER BY m.model COLLATE "C", a.attnum;
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;

-- NULL arguments

SELECT limaml_create_model(NULL, 'rating', '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', NULL, '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', NULL, 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', NULL, 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', NULL, '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', NULL);
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', meta_features => NULL);
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', options => NULL);

-- Arrays of the wrong form

SELECT limaml_create_model('m', 'rating', '{}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id,NULL}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{{member_id},{item_id}}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year,NULL}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{{year},{price}}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', 'member', '{NULL}');
SELECT limaml_create_model('m', 'rating', array_fill('member_id'::text, '{32}'), 'liked', 'at', '{year}');

-- Relations

SELECT limaml_create_model('m', 'nowhere', '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 1::regclass, '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 0::regclass, '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating_index', '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating_sequence', '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'pair', '{a}', 'b', 'a', '{b}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', 'rating_index', '{member_id}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', meta_features => '{age}');

-- Columns

SELECT limaml_create_model('m', 'rating', '{nobody}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id,item_id,member_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{ctid}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{gone}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{"........pg.dropped.29........"}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{version}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{place}', 'liked', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{info}', 'liked', 'at', '{year}', embeddings => 'a.b.c.d');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'hated', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'note', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'at', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', '', 'at', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'now', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'note', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'clock', '{year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'stars', 'liked', '{year}');

-- Features

SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{years}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{years:category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{""}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{:category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year:}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year:Category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year:vector}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{"mixed case"}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{note:numeric}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{price,tags:numeric}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{tags:vector}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{tags:category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{note:categories}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{pair:category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{at}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{seen}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{local}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{clock}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{length}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{info}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{place}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{pair}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year,price,year}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year,price,year:category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year,liked}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{liked:category}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{ctid}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', 'member', '{height}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', 'member', '{born}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', 'member', '{age,age}');
SELECT limaml_create_model('m', 'rating', '{item_id}', 'liked', 'at', '{year}', 'member', '{age}');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', 'member_by_text', '{age}');

-- Options, each wrong in its own way

CREATE FUNCTION try_options(options jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', options => options);
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;

SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', options => '{"embeding_size": 8}');
SELECT options, try_options(options::jsonb) FROM unnest(ARRAY[
	'[]', '1', '"seed"', 'null', '[{"seed": 1}]',
	'{"seed": "1"}', '{"seed": 1.5}', '{"seed": null}', '{"seed": true}', '{"seed": [1]}', '{"seed": {}}', '{"seed": 2147483648}', '{"seed": -2147483649}', '{"seed": 1e400}',
	'{"embedding_size": 0}', '{"embedding_size": -1}', '{"embedding_size": 4097}', '{"embedding_size": 1e30}',
	'{"factor_size": -1}', '{"factor_size": 33}', '{"embedding_size": 8, "factor_size": 9}',
	'{"personalization": "maml"}', '{"personalization": "LiMAML"}', '{"personalization": 1}', '{"personalization": ""}', '{"personalization": null}',
	'{"loss": "hinge"}', '{"activation": "sigmoid"}', '{"adapts": "all"}', '{"inner_weighting": "sum"}', '{"support_split": "half"}',
	'{"meta_hidden": 32}', '{"meta_hidden": [0]}', '{"meta_hidden": [-1]}', '{"meta_hidden": [4097]}', '{"meta_hidden": [1.5]}', '{"meta_hidden": ["32"]}', '{"meta_hidden": [null]}',
	'{"meta_hidden": [[32]]}', '{"meta_hidden": {"0": 32}}', '{"meta_hidden": null}', '{"global_hidden": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}', '{"global_hidden": "64"}',
	'{"inner_steps": -1}', '{"inner_steps": 1000000}', '{"inner_rate": -0.1}', '{"inner_rate": "0.1"}', '{"inner_rate": 1e10}',
	'{"learn_inner_rate": 1}', '{"learn_inner_rate": "true"}', '{"order": 0}', '{"order": 3}', '{"recency": 0}', '{"recency": -1}', '{"support_rows": 0}', '{"support_rows": 16385}',
	'{"support_fraction": 1.1}', '{"support_fraction": -0.1}', '{"prior_loss": -1}', '{"category_dropout": 1}', '{"weight": 1}', '{"weight": ""}', '{"weight": "heavy"}', '{"weight": "note"}',
	'{"category_size": 0}', '{"min_count": 0}', '{"max_categories": 0}', '{"epochs": 0}', '{"patience": 0}', '{"batch_entities": 0}', '{"learning_rate": 0}',
	'{"weight_decay": -1}', '{"category_decay": -1}', '{"clip_norm": -1}', '{"validation_fraction": 1}', '{"validation_fraction": -0.1}', '{"seed": 1, "sead": 2}'
]) options;

-- None of all this has left anything behind
SELECT count(*) FROM limaml.model;
SELECT count(*) FROM pg_class WHERE relnamespace = 'model_test'::regnamespace AND relname LIKE '%embedding%';

-- Names: what is a name stays a name

SELECT limaml_create_model('', 'rating', '{member_id}', 'liked', 'at', '{year}');
CREATE TABLE "Ünïcode; DROP TABLE member" ("Schlüssel ""k""" text COLLATE "C", "Label; DROP TABLE rating" boolean, "t' OR true" integer, "Größe" real, "%s%n" text);
INSERT INTO "Ünïcode; DROP TABLE member"
SELECT 'm''"' || m, hashint4(m * 100 + i) % 2 = 0, i, m - i, 'x' || i % 3 FROM generate_series(1, 6) m, generate_series(1, 10) i;
SELECT limaml_create_model($$Modell 'ä"; DROP TABLE rating$$, '"Ünïcode; DROP TABLE member"', ARRAY['Schlüssel "k"'], 'Label; DROP TABLE rating', 't'' OR true',
	ARRAY['Größe', '%s%n'], '"Ünïcode; DROP TABLE member"', '{}', 'model_test."E'' ""; DROP TABLE rating"', '{"embedding_size": 4, "epochs": 1}');
SELECT version FROM limaml_train($$Modell 'ä"; DROP TABLE rating$$);
CALL limaml_refresh($$Modell 'ä"; DROP TABLE rating$$);
SELECT count(*) FROM "E' ""; DROP TABLE rating";
SELECT count(DISTINCT limaml_score($$Modell 'ä"; DROP TABLE rating$$, 'm''"1'::text, r)) > 1 AS differ FROM "Ünïcode; DROP TABLE member" r;
SELECT limaml_embedding($$Modell 'ä"; DROP TABLE rating$$, 'm''"2') = limaml_adapt($$Modell 'ä"; DROP TABLE rating$$, 'm''"2') AS same;
SELECT limaml_score($$Modell 'ä"; DROP TABLE rating$$, 'm''"1'::text, 1.0);
SELECT limaml_drop_model($$Modell 'ä"; DROP TABLE rating$$);
SELECT to_regclass('"E'' ""; DROP TABLE rating"'), to_regclass('rating');

-- A long model name makes a table name that fits
SELECT limaml_create_model(repeat('long', 50), 'rating', '{member_id}', 'liked', 'at', '{year}');
SELECT embeddings FROM limaml.model WHERE model = repeat('long', 50);
SELECT limaml_create_model(repeat('long', 49) || 'lang', 'rating', '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_drop_model(repeat('long', 50));

-- A name or table that is taken; an embeddings table that cannot be

SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'rating');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'nowhere.m');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', embeddings => '');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'a b');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'other_database.model_test.m');
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'Upper_Folds');
SELECT embeddings FROM limaml.model WHERE model = 'm';
SELECT limaml_create_model('m', 'rating', '{item_id}', 'liked', 'at', '{year}');
SELECT limaml_create_model('M', 'rating', '{item_id}', 'liked', 'at', '{year}');
SELECT limaml_drop_model('M');

-- A transaction that is rolled back takes all with it
BEGIN;
SELECT limaml_create_model('rolled back', 'rating', '{item_id}', 'liked', 'at', '{year}');
SELECT limaml_drop_model('m');
SELECT model FROM limaml.model;
ROLLBACK;
SELECT model, embeddings FROM limaml.model;
SELECT to_regclass('"rolled back_embedding"');

-- Models that are not there, or cannot do yet what they are asked

SELECT limaml_drop_model('nobody');
SELECT limaml_drop_model('');
SELECT limaml_drop_model(NULL) IS NULL AS nothing;
SELECT limaml_train('nobody');
SELECT limaml_deploy('nobody');
SELECT limaml_deploy(NULL);
SELECT limaml_deploy('m');
SELECT limaml_deploy('m', 1);
SELECT limaml_deploy('m', 0);
SELECT limaml_deploy('m', -1);
SELECT limaml_export('nobody');
SELECT limaml_export('m');
SELECT limaml_export('m', 1);
SELECT limaml_export('m', 0);
SELECT limaml_import('nobody', '');
CALL limaml_refresh('nobody');
CALL limaml_refresh(NULL);
CALL limaml_refresh('m');
CALL limaml_refresh('m', 1);
CALL limaml_refresh('m', 0);
SELECT limaml_adapt('nobody', 1);
SELECT limaml_adapt('m', 1);
SELECT limaml_embedding('m', 1);
SELECT limaml_score('nobody', 1, 2);
SELECT limaml_score('m', 1, 2);
SELECT limaml_score(NULL, 1, 2);
SELECT limaml_score_embedding('m', '[1]', 2);

-- Under any search path, and whatever it holds

SET search_path = '';
SELECT public.limaml_create_model('homeless', 'model_test.rating', '{member_id}', 'liked', 'at', '{year}');
SELECT public.limaml_create_model('homeless', 'model_test.rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'model_test.homeless');
SELECT embeddings FROM limaml.model WHERE model = 'homeless';
SELECT public.limaml_drop_model('homeless');
CREATE SCHEMA model_decoy;
CREATE TABLE model_decoy.model ();
CREATE TABLE model_decoy.stored_model ();
CREATE DOMAIN model_decoy.meta_embedding AS pg_catalog.text;
CREATE DOMAIN model_decoy.int4 AS pg_catalog.text;
SET search_path = model_decoy, model_test, public, pg_catalog;
SELECT limaml_create_model('decoyed', 'rating', '{member_id}', 'liked', 'at', '{year}');
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'decoyed_embedding'::regclass AND attname = 'embedding';
SELECT limaml_drop_model('decoyed');
SET search_path = model_test, public;
DROP SCHEMA model_decoy CASCADE;

-- What a model stands on goes, and the model can still be dropped

DROP TABLE m_embedding;
DROP TABLE upper_folds;
SELECT limaml_train('m');
SELECT limaml_drop_model('m');
CREATE TABLE short_lived (k integer, y integer, t integer, f integer);
INSERT INTO short_lived SELECT i % 4, i % 2, i, i / 3 FROM generate_series(1, 40) i;
SELECT limaml_create_model('m', 'short_lived', '{k}', 'y', 't', '{f}', options => '{"embedding_size": 4, "epochs": 1}');
SELECT version FROM limaml_train('m');
CALL limaml_refresh('m');
ALTER TABLE short_lived ALTER f TYPE text;
SELECT limaml_train('m', '{"epochs": 1}') IS NOT NULL AS trained;
SELECT limaml_deploy('m', 1);
SELECT limaml_adapt('m', 1);
CALL limaml_refresh('m', only_stale => false);
SELECT limaml_score('m', 1, 5) BETWEEN 0 AND 1 AS scored;
ALTER TABLE short_lived DROP COLUMN f;
SELECT limaml_train('m');
SELECT limaml_adapt('m', 1);
CALL limaml_refresh('m', only_stale => false);
ALTER TABLE short_lived ADD COLUMN f integer;
ALTER TABLE short_lived RENAME COLUMN k TO key;
SELECT limaml_train('m');
SELECT limaml_adapt('m', 1);
CALL limaml_refresh('m');
SELECT limaml_score('m', 1, 5) BETWEEN 0 AND 1 AS scored;
DROP TABLE short_lived;
SELECT limaml_train('m');
SELECT limaml_adapt('m', 1);
CALL limaml_refresh('m');
SELECT limaml_score('m', 1, 5) BETWEEN 0 AND 1 AS scored;
SELECT limaml_embedding('m', 1) IS NOT NULL AS stored;
DROP TABLE m_embedding;
SELECT limaml_score('m', 1, 5);
SELECT limaml_embedding('m', 1);
CALL limaml_refresh('m');
SELECT limaml_drop_model('m');

-- Where the entities are gone, those that have an embedding are scored with it
CREATE TABLE short_rating AS SELECT m AS k, m * n % 7 AS f, n AS t, (m + n) % 3 = 0 AS l FROM generate_series(1, 5) m, generate_series(1, 6) n;
CREATE TABLE short_lived AS SELECT m AS k, m AS a FROM generate_series(1, 9) m;
SELECT limaml_create_model('m', 'short_rating', '{k}', 'l', 't', '{f}', 'short_lived', '{a}', options => '{"embedding_size": 2, "epochs": 1}');
SELECT version FROM limaml_train('m');
CALL limaml_refresh('m');
DROP TABLE short_lived;
SELECT limaml_score('m', 1, 5) BETWEEN 0 AND 1 AS scored;
SELECT limaml_score('m', 9, 5);
SELECT limaml_explain('m', 9, 5);
SELECT limaml_neighbors('m', 9);
SELECT limaml_drop_model('m');
SELECT count(*) FROM limaml.model;
SELECT count(*) FROM limaml.version;
SELECT count(*) FROM limaml.training_log;

-- The extension's tables are its own; so is the schema
DROP TABLE limaml.stored_model;
DROP SCHEMA limaml CASCADE;

-- Functions and operators are marked on purpose, and every one has a comment
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'limaml')
	AND d.deptype = 'e' AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT p.proname, p.provolatile, p.proparallel, p.proisstrict, p.procost FROM pg_proc p
WHERE p.proname ~ '^limaml_' AND p.provolatile <> 'i' ORDER BY p.proname COLLATE "C";

\set VERBOSITY terse
DROP SCHEMA model_test CASCADE;
