--
-- Tables that hold only what happened: negatives drawn from a relation of
-- items, in training, adaptation and evaluation.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA implicit_test;
SET search_path = implicit_test, public;

-- 48 items of two kinds, and 60 members who take 12 of one kind and a few of
-- the other; nothing random
CREATE TABLE item (item_id int PRIMARY KEY, kind text, price float8);
INSERT INTO item SELECT i, CASE i % 2 WHEN 0 THEN 'even' ELSE 'odd' END, 1 + i % 5 FROM generate_series(1, 48) i;
CREATE TABLE play AS
SELECT m AS member_id, item_id, date '2024-01-01' + n AS at, abs(hashint4(m * 77 + n)) % 24 AS hour, kind, price
FROM generate_series(1, 60) m, generate_series(1, 14) n,
	LATERAL (SELECT 1 + (2 * ((m * 5 + n * 7) % 24) + m + CASE n % 7 WHEN 3 THEN 1 ELSE 0 END) % 48 AS item_id) _ JOIN item USING (item_id);
CREATE INDEX ON play (member_id, at);
CREATE TABLE member AS SELECT m AS member_id, m % 3 AS age FROM generate_series(1, 60) m;

CREATE FUNCTION create_small(model text, interactions regclass, label text DEFAULT NULL, features text[] DEFAULT '{item_id:category,kind,hour}', options jsonb DEFAULT '{}')
RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, '{member_id}', label, 'at', features, 'member', '{age}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 12, "batch_entities": 8, "category_size": 8}' || options)
$$;
CREATE FUNCTION log_of(model text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s %s', train_loss, validation_loss, validation_auc), ';' ORDER BY refit, epoch) FROM limaml.training_log l WHERE l.model = log_of.model AND l.version = 1
$$;
CREATE FUNCTION digest(model text, version int DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT encode(digest, 'hex') FROM limaml.version v WHERE v.model = digest.model AND v.version = digest.version
$$;

-- What is missing, and what is wrong

SELECT create_small('none', 'play');
SELECT create_small('none', 'play', options => '{"items": "item", "loss": "squared"}');
SELECT create_small('none', 'play', options => '{"items": 5}');
SELECT create_small('none', 'play', options => '{"items": "nosuch"}');
SELECT create_small('none', 'play', options => '{"items": "not..a name"}');
\set SHOW_CONTEXT errors
SELECT create_small('none', 'play', options => '{"items": "item; DROP TABLE play"}');
SELECT create_small('none', 'play', options => '{"items": "a.b.c.d"}');
\set SHOW_CONTEXT never
SELECT create_small('none', 'play', options => '{"items": "item_pkey"}');
SELECT create_small('none', 'play', options => '{"items": "item", "item_key": 1}');
SELECT create_small('none', 'play', options => '{"items": "item", "item_key": "nosuch"}');
SELECT create_small('none', 'play', options => '{"items": "member"}');
SELECT create_small('none', 'play', features => '{hour}', options => '{"items": "item"}');
SELECT create_small('none', 'play', options => '{"items": "item", "negatives": -1}');
SELECT create_small('none', 'play', options => '{"items": "item", "negatives": 101}');
SELECT create_small('none', 'play', options => '{"items": "item", "negatives": 1.5}');
SELECT create_small('none', 'play', options => '{"items": "item", "negatives": 100, "support_rows": 1000}');
SELECT create_small('none', 'play', options => '{"items": "item", "negative_sampling": "by chance"}');
SELECT create_small('none', 'play', 'hour', options => '{"items": "item", "negatives": 1, "loss": "squared"}');
SELECT create_small('none', 'play', 'hour', options => '{"negatives": 1}');
SELECT create_small('none', 'play', 'hour', options => '{"item_key": "item_id"}');
CREATE TABLE other_item AS SELECT item_id::text AS item_id, kind, price FROM item;
SELECT create_small('none', 'play', options => '{"items": "other_item"}');
SELECT create_small('none', 'play', options => '{"items": "other_item", "item_key": "item_id"}');
CREATE TABLE tag (tag int[] PRIMARY KEY, kind text);
SELECT create_small('none', 'play', options => '{"items": "tag"}');
ALTER TABLE play ADD tag int[];
SELECT create_small('none', 'play', options => '{"items": "tag"}');
ALTER TABLE play DROP tag;
CREATE TABLE bad_kind AS SELECT item_id, 1 AS kind FROM item;
SELECT create_small('none', 'play', options => '{"items": "bad_kind", "item_key": "item_id"}');
CREATE TEMP TABLE passing AS SELECT * FROM item;
SELECT create_small('none', 'play', options => '{"items": "passing", "item_key": "item_id"}');
SELECT limaml_set_options('none', '{}');

-- One class without items is an error that names the option
CREATE TABLE liked AS SELECT *, true AS liked FROM play;
SELECT create_small('liked', 'liked', 'liked');
SELECT limaml_train('liked');
SELECT limaml_set_options('liked', '{"items": "item", "negatives": 0}');
SELECT limaml_train('liked');
SELECT limaml_train('liked', '{"items": "other"}');
SELECT limaml_train('liked', '{"item_key": "other"}');

-- A label that is always true is as good as none, and the order of the tables
-- makes no difference
SELECT create_small('plays', 'play', options => '{"items": "item"}');
SELECT label IS NULL AS no_label, options -> 'items' AS items FROM limaml.model WHERE model = 'plays';
SELECT version, entities, interactions, validation_auc > baseline_auc + 0.2 AS adapts FROM limaml_train('plays');
SELECT options -> 'negatives' AS negatives, options -> 'negative_sampling' AS sampling, options ? 'items' AS items FROM limaml.version WHERE model = 'plays';
SELECT limaml_set_options('liked', '{"negatives": null}');
SELECT version FROM limaml_train('liked');
CREATE TABLE backwards AS SELECT * FROM play ORDER BY at DESC, member_id DESC;
CREATE TABLE item_backwards AS SELECT * FROM item ORDER BY item_id DESC;
SELECT create_small('backwards', 'backwards', options => '{"items": "item_backwards", "item_key": "item_id"}');
SET max_parallel_maintenance_workers = 0;
SELECT version FROM limaml_train('backwards');
RESET max_parallel_maintenance_workers;
SELECT log_of('plays') = log_of('liked') AS label, digest('plays') = digest('backwards') AS reordered;
SELECT limaml_train('plays', '{"loss": "squared"}');
SELECT limaml_set_options('plays', '{"loss": "squared"}');
SELECT version FROM limaml_train('plays', '{"negatives": 1}');
SELECT version FROM limaml_train('plays', '{"seed": 1}');
SELECT count(DISTINCT digest('plays', v)) AS different FROM generate_series(1, 3) v;

-- Members are told apart by what they take: adapted, they are ranked better
SELECT metric, value > unadapted * 1.5 AS better FROM limaml_evaluate('plays')
WHERE segment = 'all' AND metric NOT IN ('log_loss', 'calibration_error');
SELECT min(interactions) = max(interactions) AND min(interactions) < 60 * 14 / 4 AS without_negatives FROM limaml_evaluate('plays') WHERE segment = 'all';
SELECT count(*) > 0 AS figures, count(*) FILTER (WHERE (a.*) IS DISTINCT FROM (b.*)) AS other
FROM limaml_evaluate('plays') a FULL JOIN limaml_evaluate('plays') b USING (segment, metric);

-- A refresh, of all or of one by one, in any order of the rows
CALL limaml_refresh('plays');
CALL limaml_refresh('backwards');
SELECT count(*), bool_and(p.embedding = b.embedding) AS reordered, bool_and(limaml_adapt('plays', member_id) = p.embedding) AS adapt
FROM plays_embedding p JOIN backwards_embedding b USING (member_id);
SELECT avg(limaml_score('plays', member_id, item_id, kind, 12)) FILTER (WHERE (member_id + item_id) % 2 = 1) >
	3 * avg(limaml_score('plays', member_id, item_id, kind, 12)) FILTER (WHERE (member_id + item_id) % 2 = 0) AS apart
FROM member, item;

-- New rows change whose they are, and nobody else's negatives
CREATE TABLE before AS SELECT member_id, embedding FROM plays_embedding;
INSERT INTO play SELECT 7, item_id, date '2024-06-01', 3, kind, price FROM item WHERE item_id = 11;
INSERT INTO backwards SELECT 7, item_id, date '2024-06-01', 3, kind, price FROM item WHERE item_id = 11;
CALL limaml_refresh('plays');
CALL limaml_refresh('backwards', only_stale => false);
SELECT array_agg(member_id) FILTER (WHERE p.embedding <> o.embedding) AS changed, bool_and(p.embedding = b.embedding) AS as_all
FROM plays_embedding p JOIN before o USING (member_id) JOIN backwards_embedding b USING (member_id);

-- Against the metrics of SQL: held-out rows among all that a member has not
-- taken; where there are no more than 100 of these, all are drawn
CREATE TABLE held AS SELECT m AS member_id, item_id, date '2024-08-01' AS at, m % 24 AS hour, kind, price
FROM generate_series(1, 60) m, LATERAL (SELECT * FROM item WHERE (item_id + m) % 2 = 1
	AND item_id NOT IN (SELECT item_id FROM play WHERE member_id = m) ORDER BY hashint4(item_id * 100 + m) LIMIT 1) _;
WITH ranked AS (
	SELECT h.member_id, limaml_hit_rate(s, i.item_id = h.item_id, 10) AS hit, limaml_ndcg(s, i.item_id = h.item_id, 10) AS gain
	FROM held h, item i, LATERAL (SELECT limaml_score_embedding('plays', limaml_adapt('plays', h.member_id), i.item_id, i.kind, h.hour)) _ (s)
	WHERE i.item_id = h.item_id OR i.item_id NOT IN (SELECT item_id FROM play WHERE member_id = h.member_id)
	GROUP BY h.member_id)
SELECT e.metric, abs(value - CASE WHEN metric LIKE 'hit%' THEN (SELECT avg(hit) FROM ranked) ELSE (SELECT avg(gain) FROM ranked) END) < 1e-6 AS same,
	value > unadapted AS better, standard_error > 0 AS error, entities, interactions
FROM limaml_evaluate('plays', 'held') e WHERE segment = 'all' AND metric LIKE '%@10%';
SELECT count(*), count(*) FILTER (WHERE value IS NULL) AS undefined FROM limaml_evaluate('plays', 'held', segment => 'kind');
SELECT segment, metric, value BETWEEN 0 AND 1 AS value FROM limaml_evaluate('plays', 'held', refresh_lag => '{0,90 days}') WHERE metric LIKE 'ndcg%';
CREATE TABLE stranger AS SELECT 1000 + member_id AS member_id, item_id, at, hour, kind, price FROM play WHERE member_id <= 10;
SELECT segment, entities, interactions, value BETWEEN 0 AND 1 AS value FROM limaml_evaluate('plays', 'stranger', support => '{0,5}') WHERE metric = 'hit_rate@10 (all)';

-- More than 100 candidates: drawn ones are ranked above more easily than all
CREATE TABLE many AS SELECT * FROM item UNION ALL SELECT i, CASE i % 2 WHEN 0 THEN 'even' ELSE 'odd' END, 1 FROM generate_series(49, 600) i;
SELECT limaml_set_options('plays', '{"items": "many", "item_key": "item_id"}');
SELECT max(value) FILTER (WHERE metric = 'ndcg@10') > max(value) FILTER (WHERE metric = 'ndcg@10 (all)') AS easier,
	max(value) FILTER (WHERE metric = 'ndcg@10') > 0 AS some FROM limaml_evaluate('plays', 'held');
SELECT limaml_set_options('plays', '{"items": "item", "item_key": null}');

-- All arms, and the baseline, see the same negatives
SELECT arm, count(*) FILTER (WHERE metric IN ('hit_rate@10', 'ndcg@10') AND value BETWEEN 0 AND 1) AS ranked, count(*) FILTER (WHERE metric LIKE '%(all)') AS of_all
FROM limaml_compare('plays', '{damped_mean,none,id,head,limaml}', 1) WHERE segment = 'all' GROUP BY arm ORDER BY arm;
SELECT limaml_tune('plays', '{"negatives": [1, 4]}', 2);
SELECT limaml_tune('plays', '{"negative_sampling": ["uniform", "popularity"]}', 2);
SELECT count(*) FROM limaml_tune('plays', '{"inner_rate": [1, 5]}', 2);

-- By popularity: the network keeps how often it has met each item
SELECT limaml_train('plays', '{"negative_sampling": "popularity"}') IS NOT NULL AS trained;
SELECT feature ->> 'name' AS name, feature ? 'counts' AS counts, jsonb_array_length(feature -> 'counts') = jsonb_array_length(feature -> 'vocabulary') AS of_all
FROM (SELECT limaml_export('plays', max(version)) FROM limaml.version WHERE model = 'plays') f (n), LATERAL jsonb_array_elements((convert_from(substr(n, 9, get_byte(n, 0) + 256 * get_byte(n, 1)), 'UTF8')::jsonb
	-> '__metadata__' ->> 'limaml')::jsonb -> 'features') feature;
SELECT create_small('imported', 'play', options => '{"items": "item"}');
SELECT limaml_import('imported', limaml_export('plays', max(version))) FROM limaml.version WHERE model = 'plays';
CALL limaml_refresh('imported');
CALL limaml_refresh('plays', 5);
SELECT count(*), bool_and(i.embedding = p.embedding) AS same FROM imported_embedding i JOIN plays_embedding p USING (member_id) WHERE p.version = 5;
SELECT create_small('no items', 'liked', 'liked');
SELECT limaml_import('no items', limaml_export('plays'));
SELECT create_small('by kind', 'play', features => '{kind,price}', options => '{"items": "item", "negative_sampling": "popularity"}');
SELECT limaml_train('by kind');
SELECT limaml_train('by kind', '{"negative_sampling": "uniform"}') IS NOT NULL AS trained;

-- Both classes: what is labelled 0 gets no negatives, and others only if asked
CREATE TABLE rated AS SELECT *, extract(day FROM n.at) % 3 > 0 AS liked FROM play n;
SELECT create_small('rated', 'rated', 'liked', options => '{"items": "item"}');
SELECT version FROM limaml_train('rated');
SELECT version FROM limaml_train('rated', '{"negatives": 2}');
SELECT version, options -> 'negatives' AS negatives FROM limaml.version WHERE model = 'rated' ORDER BY version;
CALL limaml_refresh('rated', 2);
SELECT limaml_deploy('rated', 2);
SELECT count(*), bool_and(limaml_adapt('rated', member_id) = embedding) AS same FROM rated_embedding WHERE version = 2;
SELECT count(DISTINCT metric) FROM limaml_evaluate('rated');

-- Who has taken everything has no negatives; of all but one they are that one
CREATE TABLE few AS SELECT * FROM item WHERE item_id <= 6;
CREATE TABLE greedy AS SELECT m AS member_id, item_id, n AS at, 0 AS hour, kind, price
FROM generate_series(1, 20) m, generate_series(1, CASE m WHEN 1 THEN 6 WHEN 2 THEN 5 ELSE 3 END) n, LATERAL (SELECT 1 + (n + m) % 6 AS item_id) _ JOIN few USING (item_id);
SELECT create_small('greedy', 'greedy', options => '{"items": "few", "item_key": "item_id", "validation_fraction": 0}');
SELECT version, interactions FROM limaml_train('greedy');
CALL limaml_refresh('greedy');
SELECT bool_and(limaml_adapt('greedy', member_id) = embedding) AS same, bool_and(loss_before >= 0) AS loss FROM greedy_embedding;
SELECT count(DISTINCT arm) FROM limaml_compare('greedy', '{damped_mean,limaml}', 1);

-- Arrays of one value are what the value would be, in negatives as well; those
-- that the items lack are the interaction's
CREATE VIEW play_arrays AS SELECT member_id, item_id, at, ARRAY[hour::text] AS hours, ARRAY[kind] AS kinds, ARRAY[price] AS prices, hour::text AS hour, kind, price FROM play;
CREATE VIEW item_arrays AS SELECT item_id, ARRAY[kind] AS kinds, ARRAY[price] AS prices FROM item;
SELECT create_small('values', 'play_arrays', features => '{item_id:category,hour,kind,price}', options => '{"items": "item", "epochs": 3}');
SELECT create_small('arrays', 'play_arrays', features => '{item_id:category,hours,kinds,prices}', options => '{"items": "item_arrays", "item_key": "item_id", "epochs": 3}');
SELECT version FROM limaml_train('values');
SELECT version FROM limaml_train('arrays');
SELECT log_of('values') = log_of('arrays') AS same;
CALL limaml_refresh('values');
CALL limaml_refresh('arrays');
SELECT count(*), bool_and(v.embedding::real[] = a.embedding::real[]) AS same, bool_and(limaml_adapt('arrays', member_id) = a.embedding) AS adapt
FROM values_embedding v JOIN arrays_embedding a USING (member_id);
SELECT count(*), count(*) FILTER (WHERE a.value IS DISTINCT FROM v.value OR a.unadapted IS DISTINCT FROM v.unadapted) AS differ
FROM limaml_evaluate('values') v JOIN limaml_evaluate('arrays') a USING (segment, metric);
SELECT count(*), count(*) FILTER (WHERE a.value IS DISTINCT FROM v.value) AS differ
FROM limaml_compare('values', '{none,id,limaml}', 1) v JOIN limaml_compare('arrays', '{none,id,limaml}', 1) a USING (arm, segment, metric);

-- Keys of other types, items of a view, and rows of items that are not there
CREATE TYPE flavour AS ENUM ('sweet', 'sour', 'salt', 'bitter', 'none');
CREATE TABLE "Dish; DROP" (id uuid PRIMARY KEY, "Name" text, taste flavour, vegan boolean);
INSERT INTO "Dish; DROP" SELECT md5(i::text)::uuid, 'dish ' || i, (enum_range(NULL::flavour))[1 + i % 5], i % 2 = 0 FROM generate_series(1, 30) i;
CREATE TABLE eaten AS SELECT m AS member_id, id, n AS at, "Name", taste, vegan FROM generate_series(1, 20) m, generate_series(1, 6) n,
	LATERAL (SELECT md5((1 + (m * 3 + n * 2) % 30)::text)::uuid AS id) _ JOIN "Dish; DROP" USING (id);
INSERT INTO eaten SELECT 1, gen_random_uuid(), 50, 'unknown', 'none', true;
INSERT INTO eaten SELECT 2, NULL, 50, 'unknown', NULL, NULL;
SELECT create_small('eaten', 'eaten', features => '{id,taste,vegan}', options => '{"items": "\"Dish; DROP\""}');
SELECT options -> 'items' AS items FROM limaml.model WHERE model = 'eaten';
SELECT version, interactions FROM limaml_train('eaten', '{"negative_sampling": "popularity"}');
CALL limaml_refresh('eaten');
SELECT count(*), bool_and(limaml_adapt('eaten', member_id) = embedding) AS same FROM eaten_embedding;
CREATE VIEW menu AS SELECT taste, vegan, "Name" FROM "Dish; DROP" UNION ALL SELECT 'none', false, NULL;
SELECT create_small('by name', 'eaten', features => '{"Name",taste,vegan}', options => '{"items": "menu"}');
SELECT create_small('by name', 'eaten', features => '{"Name",taste,vegan}', options => '{"items": "menu", "item_key": "Name"}');
SELECT version FROM limaml_train('by name');
SET search_path = '';
SELECT public.limaml_adapt('by name', 3) IS NOT NULL AS adapted;
SET search_path = implicit_test, public;

-- Whoever adapts reads the items with his own rights, a refresh with the owner's
CREATE ROLE limaml_taster;
GRANT USAGE ON SCHEMA implicit_test TO limaml_taster;
GRANT SELECT ON play, plays_embedding, member TO limaml_taster;
SET ROLE limaml_taster;
SELECT limaml_score('plays', 1, 1, 'odd', 12) BETWEEN 0 AND 1 AS scores;
SELECT limaml_adapt('plays', 1);
RESET ROLE;
GRANT SELECT ON item TO limaml_taster;
SET ROLE limaml_taster;
SELECT limaml_adapt('plays', 1) = embedding AS adapted FROM plays_embedding WHERE member_id = 1 AND version = 1;
RESET ROLE;

-- What has changed since, as a model, a version or a query finds it
INSERT INTO other_item SELECT * FROM other_item LIMIT 1;
ALTER TABLE other_item ALTER item_id TYPE int USING item_id::int;
SELECT limaml_set_options('plays', '{"items": "other_item", "item_key": "item_id"}');
SELECT limaml_adapt('plays', 1);
SELECT limaml_train('plays');
TRUNCATE other_item;
SELECT limaml_adapt('plays', 1);
SET client_min_messages = error;
ALTER TABLE other_item DROP kind, DROP item_id;
RESET client_min_messages;
SET client_min_messages = warning;
SELECT limaml_adapt('plays', 1);
DROP TABLE other_item;
SELECT limaml_adapt('plays', 1);
CALL limaml_refresh('plays', only_stale => false);
SELECT limaml_evaluate('plays');
SELECT limaml_set_options('plays', '{"items": null}');
SELECT limaml_set_options('plays', '{"items": null, "item_key": null}');
SELECT limaml_set_options('liked', '{"items": null, "item_key": null}');
SELECT limaml_adapt('liked', 1);
SELECT limaml_set_options('plays', '{"items": "item", "item_key": null}');
SELECT limaml_adapt('plays', 2) = embedding AS as_before FROM plays_embedding WHERE member_id = 2 AND version = 1;

-- Lists of codes move along with the rows that negatives are made of: a vector
-- is as its elements are, and arrays train, adapt and are evaluated
CREATE TABLE spot AS SELECT item_id, (item_id % 4)::real AS x, (item_id % 7)::real AS y, ARRAY[item_id % 4, item_id % 7]::real[] AS xy, ARRAY['t' || item_id % 5, 't' || item_id % 3] AS tags FROM item;
CREATE TABLE visit AS SELECT member_id, item_id, at, hour, x, y, xy, tags FROM play JOIN spot USING (item_id);
SELECT create_small('numbers', 'visit', features => '{item_id:category,x,y,hour}', options => '{"items": "spot", "item_key": "item_id"}');
SELECT create_small('vectors', 'visit', features => '{item_id:category,xy,hour}', options => '{"items": "spot", "item_key": "item_id"}');
SELECT create_small('tags', 'visit', features => '{tags,xy,hour}', options => '{"items": "spot", "item_key": "item_id", "epochs": 2, "support_rows": 5}');
SELECT model, limaml_train(model) IS NOT NULL AS trained FROM unnest('{numbers,vectors,tags}'::text[]) model;
SELECT log_of('numbers') = log_of('vectors') AS same_training;
CALL limaml_refresh('numbers');
CALL limaml_refresh('vectors');
CALL limaml_refresh('tags');
SELECT count(*), bool_and(n.embedding::real[] = v.embedding::real[]) AS same, bool_and(v.embedding = limaml_adapt('vectors', member_id)) AS adapt, bool_and(t.embedding = limaml_adapt('tags', member_id)) AS adapt_on_tags
FROM numbers_embedding n JOIN vectors_embedding v USING (member_id) JOIN tags_embedding t USING (member_id);
SELECT count(*) > 0 AS metrics, bool_and(n.value IS NOT DISTINCT FROM v.value) AS same FROM limaml_evaluate('numbers') n FULL JOIN limaml_evaluate('vectors') v USING (segment, metric);
SELECT count(DISTINCT metric) FROM limaml_evaluate('tags');

-- The aggregate sees neither items nor keys, and so do other servers
DO $$ BEGIN
	PERFORM limaml_adapt_agg(limaml_network('numbers'), NULL, limaml_row(true, at, item_id, x, y, hour)) FROM visit;
EXCEPTION WHEN feature_not_supported THEN
	RAISE WARNING '%', regexp_replace(SQLERRM, 'network [0-9a-f]{8}', 'network N');
END $$;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
ALTER TABLE tags_embedding DROP CONSTRAINT tags_embedding_pkey;
DROP TABLE tags_embedding_v1;
CREATE FOREIGN TABLE tags_embedding_v1 PARTITION OF tags_embedding FOR VALUES IN (1) SERVER nowhere;
CALL limaml_refresh('tags');
DROP FOREIGN DATA WRAPPER nothing CASCADE;

-- Memory is bounded, and so is the time of ranking
SET maintenance_work_mem = '1MB';
CREATE TABLE endless AS SELECT i AS item_id, 'odd' AS kind FROM generate_series(1, 130000) i;
SELECT limaml_set_options('plays', '{"items": "endless", "item_key": "item_id"}');
SELECT limaml_adapt('plays', 2);
RESET maintenance_work_mem;
SELECT limaml_adapt('plays', 2) IS NOT NULL AS adapted;
SET client_min_messages = notice;
SELECT metric, value IS NOT NULL AS known FROM limaml_evaluate('plays', 'stranger', support => '{13}') WHERE metric LIKE '%@10%';

SET client_min_messages = error;
SELECT count(limaml_drop_model(model)) FROM limaml.model
WHERE interactions IN (SELECT oid FROM pg_class WHERE relnamespace = 'implicit_test'::regnamespace);
DROP SCHEMA implicit_test CASCADE;
DROP ROLE limaml_taster;
