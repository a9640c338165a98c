--
-- limaml_adapt_agg, limaml_network, limaml_row: the same bits as a refresh's,
-- whatever the plan, the order of the rows and the way they are given; and
-- everything that can be wrong with them.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA adapt_agg_test;
SET search_path = adapt_agg_test, public;

-- More rows than support_rows, ties in time, rows that are no interactions,
-- members that nobody knows
CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, '2024-01-01'::timestamptz + n / 4 * interval '1 day' AS at, i % 7 AS year,
	CASE WHEN n % 9 > 0 THEN 'k' || i % 3 END AS kind, CASE WHEN n % 7 > 0 THEN i / 3.0 END AS price,
	((i + m) % 2 = 0) <> (hashint4(m * 1000 + i) % 6 = 0) AS liked, (n % 5 + 1)::real / 2 AS importance,
	'm' || m AS name, CASE m % 2 WHEN 0 THEN 'web' ELSE 'app' END AS channel, (m % 10)::smallint AS short
FROM generate_series(1, 40) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
INSERT INTO rating (member_id, item_id, at, liked, importance, name) VALUES
	(1, 1, NULL, true, 1, 'm1'), (1, 1, '2030-01-01', NULL, 1, 'm1'), (2, 1, NULL, NULL, NULL, 'm2');
CREATE TABLE member AS
SELECT m AS member_id, CASE WHEN m % 11 > 0 THEN m % 5 END AS age, CASE m % 3 WHEN 0 THEN 'free' ELSE 'paid' END AS plan, 'm' || m AS name
FROM generate_series(1, 45) m WHERE m <> 7;
ANALYZE;

CREATE VIEW plain AS SELECT * FROM rating;
SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year,kind,price}', 'member', '{age,plan}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 2, "support_rows": 6}');
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste');

CREATE TABLE stored AS SELECT member_id, embedding FROM taste_embedding;
-- What is wrong with a query, with no number in it that depends on training
CREATE FUNCTION say(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE query;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' / ', SQLSTATE, SQLERRM, NULLIF(detail, ''), NULLIF(hint, '')), 'etwork [0-9a-f]{8}', 'etwork N', 'g');
END $$;
CREATE FUNCTION differ(query text) RETURNS TABLE (stored bigint, adapted bigint, differ bigint) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT count(s), count(a), count(*) FILTER (WHERE a.embedding IS DISTINCT FROM s.embedding)
		FROM stored s FULL JOIN (%s) AS a (member_id, embedding) USING (member_id)', query);
END $$;

SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id, m$$);
SELECT * FROM differ($$SELECT member_id, limaml_adapt('taste', member_id) FROM stored$$);

-- Records: tables', views', by name, by place, with a place for every type
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg((SELECT network FROM limaml.version WHERE model = 'taste' AND deployed), m, i) FROM plain i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste', 1), ROW(age, plan), ROW(liked, at, item_id, year, kind, price)) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), limaml_row(age, plan), limaml_row(liked, at, item_id, year, kind, price)) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_export('taste'), limaml_row(age::numeric, plan::varchar), limaml_row(liked::int, at, item_id::bigint, year::float8, kind::name, price)) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM (SELECT price, kind, liked, 1 AS f1, at, item_id, member_id, year FROM rating) i LEFT JOIN (SELECT plan, age, member_id FROM member) m USING (member_id) GROUP BY i.member_id$$);

-- Two types of record at one call site
SELECT * FROM differ($$SELECT member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM (
	SELECT member_id, limaml_row(age, plan) AS m, limaml_row(liked, at, item_id, year, kind, price) AS i FROM rating LEFT JOIN member USING (member_id) WHERE item_id % 2 = 0
	UNION ALL SELECT r.member_id, (CASE WHEN m.member_id IS NULL THEN limaml_row(NULL::int, NULL::text) ELSE limaml_row(m.age::bigint, m.plan) END), limaml_row(liked, at, item_id::bigint, year, kind, price) FROM rating r LEFT JOIN member m USING (member_id) WHERE item_id % 2 <> 0) _ GROUP BY member_id$$);

-- A table that has lost and gained columns
CREATE TABLE altered AS SELECT 0 AS gone, * FROM rating;
ALTER TABLE altered DROP gone;
ALTER TABLE altered DROP year;
ALTER TABLE altered ADD year bigint;
UPDATE altered SET year = item_id % 7;
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM altered i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
DROP TABLE altered;

-- Orders and plans
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i ORDER BY at DESC, liked, price) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i ORDER BY hashint4(item_id), price) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
SELECT * FROM differ($$SELECT DISTINCT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) OVER (PARTITION BY i.member_id) FROM rating i LEFT JOIN member m USING (member_id)$$);
SELECT count(*), count(*) FILTER (WHERE w.embedding = limaml_embedding('taste', w.member_id)) AS last_of_each FROM (
	SELECT i.member_id, at, liked, limaml_adapt_agg(limaml_network('taste'), m, i) OVER (PARTITION BY i.member_id ORDER BY at) AS embedding,
		row_number() OVER (PARTITION BY i.member_id ORDER BY at DESC) AS n FROM rating i LEFT JOIN member m USING (member_id) WHERE at IS NOT NULL) w WHERE n = 1;
SET enable_hashagg = off;
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
RESET enable_hashagg;
SET enable_sort = off;
SET work_mem = '64kB';
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
RESET work_mem;
RESET enable_sort;

SET parallel_setup_cost = 0;
SET min_parallel_table_scan_size = 0;
SET cpu_operator_cost = 0;
SET enable_sort = off;
ALTER TABLE rating SET (parallel_workers = 3);
EXPLAIN (COSTS OFF) SELECT limaml_adapt_agg(limaml_network('taste'), NULL, i) FROM rating i;
CREATE VIEW in_parallel AS SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, limaml_row(liked, at, item_id, year, kind, price)) AS embedding
FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id;
EXPLAIN (COSTS OFF) SELECT * FROM in_parallel;
SET max_parallel_workers_per_gather = 0;
SELECT * FROM differ('SELECT * FROM in_parallel');
SET max_parallel_workers_per_gather = 1;
SELECT * FROM differ('SELECT * FROM in_parallel');
SET max_parallel_workers_per_gather = 2;
SELECT * FROM differ('SELECT * FROM in_parallel');
SET max_parallel_workers_per_gather = 3;
SELECT * FROM differ('SELECT * FROM in_parallel');
SET parallel_leader_participation = off;
SELECT * FROM differ('SELECT * FROM in_parallel');
RESET enable_sort;
SET enable_hashagg = off;
SELECT * FROM differ('SELECT * FROM in_parallel');
RESET enable_hashagg;
-- what is wrong is found while states are combined, too
SELECT limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i JOIN member m USING (member_id);
ALTER TABLE rating RESET (parallel_workers);
RESET parallel_leader_participation;
RESET max_parallel_workers_per_gather;
RESET cpu_operator_cost;
RESET min_parallel_table_scan_size;
RESET parallel_setup_cost;

-- No setting matters
SET TimeZone = 'Asia/Kathmandu';
SET extra_float_digits = -15;
SET DateStyle = 'German';
SET bytea_output = 'escape';
SELECT * FROM differ($$SELECT i.member_id, limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i LEFT JOIN member m USING (member_id) GROUP BY i.member_id$$);
RESET TimeZone;
RESET extra_float_digits;
RESET DateStyle;
RESET bytea_output;

-- Entities about which nothing is known, and such as have no rows
SELECT limaml_adapt_agg(limaml_network('taste'), NULL, i) = limaml_adapt('taste', 7) AS unknown,
	limaml_adapt_agg(limaml_network('taste'), NULL::member, i) = limaml_adapt('taste', 7) AS null_row,
	limaml_adapt_agg(limaml_network('taste'), limaml_row(NULL::int, NULL::text), i) = limaml_adapt('taste', 7) AS nulls
FROM rating i WHERE member_id = 7;
SELECT member_id, limaml_adapt_agg(limaml_network('taste'), m, i) = limaml_embedding('taste', member_id) AS prior FROM member m LEFT JOIN rating i USING (member_id) WHERE member_id > 43 GROUP BY member_id ORDER BY 1;
SELECT limaml_adapt_agg(limaml_network('taste'), m, i) = limaml_embedding('taste', 44) AS no_interaction FROM rating i, member m WHERE m.member_id = 44 AND (at IS NULL OR liked IS NULL);
SELECT limaml_adapt_agg(limaml_network('taste'), m, i) = limaml_embedding('taste', 44) AS the_same FROM rating i, member m WHERE m.member_id = 44 AND at IS NULL;
SELECT limaml_adapt_agg(limaml_network('taste'), NULL, i) FROM rating i WHERE false;

-- What if: rows that there are not
CREATE TABLE what_if AS SELECT * FROM rating WHERE member_id = 3;
UPDATE what_if SET at = '2024-06-01', item_id = item_id % 40 + 1, liked = NOT liked;
CREATE TABLE supposed AS SELECT member_id, limaml_adapt_agg(limaml_network('taste'), m, i) AS embedding
FROM (SELECT * FROM rating UNION ALL SELECT * FROM what_if UNION ALL SELECT 3, 5, '2024-07-01', 4, 'k1', NULL, true, 1, 'm3', 'web', 1) i JOIN member m USING (member_id) WHERE member_id IN (3, 4) GROUP BY member_id, m;
BEGIN;
INSERT INTO rating SELECT * FROM what_if UNION ALL SELECT 3, 5, '2024-07-01', 4, 'k1', NULL, true, 1, 'm3', 'web', 1;
SELECT member_id, s.embedding = limaml_adapt('taste', member_id) AS as_if, s.embedding = e.embedding AS as_it_is FROM supposed s JOIN stored e USING (member_id) ORDER BY 1;
ROLLBACK;
SELECT limaml_adapt_agg(limaml_network('taste'), m, i) FILTER (WHERE at >= '2024-01-02') = limaml_adapt('taste', 3) AS newest,
	limaml_adapt_agg(limaml_network('taste'), m, i) FILTER (WHERE at < '2024-01-04') = limaml_adapt('taste', 3) AS before
FROM rating i JOIN member m USING (member_id) WHERE member_id = 3;

-- Scores by a network at hand are those of its model
SELECT count(*), count(*) FILTER (WHERE limaml_score_embedding(limaml_network('taste'), limaml_embedding('taste', member_id), i) <> limaml_score('taste', member_id, i)) AS row,
	count(*) FILTER (WHERE limaml_score_embedding(limaml_network('taste'), limaml_embedding('taste', member_id), item_id, year, kind, price) <> limaml_score('taste', member_id, i)) AS columns,
	count(*) FILTER (WHERE limaml_score_embedding((SELECT network FROM limaml.version WHERE model = 'taste'), limaml_embedding('taste', member_id), limaml_row(item_id, year, kind, price)) <> limaml_score('taste', member_id, i)) AS record
FROM rating i WHERE member_id < 10;
SELECT limaml_score_embedding(limaml_network('taste'), NULL, i) FROM rating i LIMIT 1;
SELECT limaml_score_embedding(NULL::limaml.trained_network, embedding, 1, 2, 'k1', 3) FROM stored LIMIT 1;
SELECT say($$SELECT limaml_score_embedding(limaml_network('taste'), embedding, 1, 2, 'k1') FROM stored$$);
SELECT say($$SELECT limaml_score_embedding(limaml_network('taste'), embedding, m) FROM stored, member m$$);
SELECT say($$SELECT limaml_score_embedding(limaml_network('taste'), '[1,2]', 1, 2, 'k1', 3)$$);
SELECT say($$SELECT limaml_score_embedding(limaml_network('taste'), '[1,2,3,4,5,6,7,8]', 1, 2, 'k1', 3)$$);
SELECT say($$SELECT limaml_score_embedding(limaml_network('taste'), '[1,2,3,4,5,6,7,8]@00000001', 1, 2, 'k1', 3)$$);

-- Other options, times and keys
CREATE FUNCTION refreshed(model text, interaction regclass, entity text, key text) RETURNS TABLE (stored bigint, adapted bigint, differ bigint, adapt_differs bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM limaml_train(model);
	EXECUTE format('CALL limaml_refresh(%L)', model);
	RETURN QUERY EXECUTE format('SELECT count(s), count(a), count(*) FILTER (WHERE a.embedding IS DISTINCT FROM s.embedding),
			count(*) FILTER (WHERE a.embedding <> limaml_adapt(%1$L, %5$s))
		FROM %2$I s FULL JOIN (SELECT %4$s, limaml_adapt_agg(limaml_network(%1$L), e, i) AS embedding FROM %3$s i LEFT JOIN %6$s e USING (%4$s) WHERE %7$s GROUP BY %4$s) a USING (%4$s)',
		model, model || '_embedding', interaction, key, CASE WHEN key ~ ',' THEN format('ROW(%s)', key) ELSE key END,
		coalesce(entity, format('(SELECT DISTINCT %s FROM %s)', key, interaction)), regexp_replace(key, ',|$', ' IS NOT NULL AND ', 'g') || 'true');
END $$;
SELECT limaml_create_model('block', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year}', 'member', '{age,plan}',
	options => '{"embedding_size": 8, "epochs": 1, "adapts": "meta_block", "recency": null, "support_rows": 5}');
SELECT * FROM refreshed('block', 'rating', 'member', 'member_id');
SELECT limaml_create_model('weighted', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,kind}', 'member', '{age,plan}',
	options => '{"embedding_size": 8, "epochs": 1, "weight": "importance", "recency": 3}');
UPDATE rating SET importance = 1 WHERE importance IS NULL;
SELECT * FROM refreshed('weighted', 'rating', 'member', 'member_id');
SELECT count(*) AS members, count(*) FILTER (WHERE e.embedding <> a.embedding) AS differ FROM weighted_embedding e JOIN (
	SELECT member_id, limaml_adapt_agg(limaml_network('weighted'), limaml_row(age, plan), limaml_row(liked, at, item_id, kind, importance)) AS embedding FROM rating LEFT JOIN member USING (member_id) GROUP BY 1) a USING (member_id);
-- rows of one time have one age, however its digits are written
SELECT count(*) AS members, count(*) FILTER (WHERE a <-> b < 1e-4) AS alike, count(*) FILTER (WHERE a <-> c < 1e-4) AS at_other_times FROM (
	SELECT limaml_adapt_agg(limaml_network('weighted'), NULL, limaml_row(liked, day::numeric(8, 0), item_id, kind, importance)) AS a,
		limaml_adapt_agg(limaml_network('weighted'), NULL, limaml_row(liked, CASE n % 3 WHEN 0 THEN day::numeric(8, 0) WHEN 1 THEN day::numeric(8, 1) ELSE day::numeric(8, 2) END, item_id, kind, importance)) AS b,
		limaml_adapt_agg(limaml_network('weighted'), NULL, limaml_row(liked, day + n::numeric / 1000, item_id, kind, importance)) AS c
	FROM (SELECT *, date_part('day', at)::int AS day, row_number() OVER (PARTITION BY member_id, at) AS n FROM rating WHERE at IS NOT NULL AND liked IS NOT NULL) _ GROUP BY member_id) _;
SELECT limaml_create_model('squared', 'rating', '{name}', 'price', 'item_id', '{kind,year}', 'member', '{age}',
	options => '{"embedding_size": 4, "epochs": 1, "loss": "squared", "support_rows": 3}');
SELECT * FROM refreshed('squared', 'rating', 'member', 'name');
CREATE TABLE numbered AS SELECT *, (row_number() OVER (ORDER BY at, member_id))::numeric / 7 AS no, at::date AS day, at::timestamp AS moment, extract(epoch FROM at)::float8 AS second FROM rating WHERE liked IS NOT NULL AND at IS NOT NULL;
SELECT limaml_create_model('composite', 'numbered', '{channel,short}', 'liked', 'no', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "support_rows": 7}');
SELECT * FROM refreshed('composite', 'numbered', NULL, 'channel, short');
SELECT limaml_create_model('dated', 'numbered', '{short}', 'liked', 'day', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "support_rows": 9}');
SELECT * FROM refreshed('dated', 'numbered', NULL, 'short');
SELECT limaml_create_model('moments', 'numbered', '{short}', 'liked', 'moment', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "support_rows": 16384}');
SELECT * FROM refreshed('moments', 'numbered', NULL, 'short');
SELECT limaml_create_model('seconds', 'numbered', '{short}', 'liked', 'second', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "personalization": "none"}');
SELECT * FROM refreshed('seconds', 'numbered', NULL, 'short');
SELECT limaml_create_model('ids', 'numbered', '{short}', 'liked', 'second', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "personalization": "id"}');
SELECT * FROM refreshed('ids', 'numbered', NULL, 'short');
SELECT say($$SELECT limaml_score_embedding(limaml_network('ids'), embedding, 1) FROM ids_embedding$$);

-- Untyped literals are of the type that is wanted
SELECT limaml_adapt_agg(limaml_network('taste'), limaml_row('3', 'paid'), limaml_row('1', at, '5', '4', 'k1', NULL)) = limaml_adapt_agg(limaml_network('taste'), ROW(3, 'paid'::text), ROW(true, at, 5, 4, 'k1'::text, NULL::int)) AS literals
FROM (VALUES ('2024-01-01'::timestamptz)) _ (at);
SELECT limaml_row(1, 'x', NULL, ARRAY[1, 2], ROW(1, 2)), limaml_row(VARIADIC ARRAY[1, NULL, 3]), limaml_row(VARIADIC '{}'::int[]), limaml_row(VARIADIC NULL::int[]);
SELECT pg_typeof(limaml_row(1)), limaml_row(1, 'a'::text) = ROW(1, 'a'::text) AS as_row;
SELECT limaml_row();
SELECT limaml_row(VARIADIC array_fill(1, ARRAY[100000]));

-- limaml_network: a version's, or the deployed one's
SELECT limaml_network('taste') = network AS deployed, limaml_network('taste', version) = network AS by_number, pg_typeof(limaml_network('taste')) FROM limaml.version WHERE model = 'taste';
SELECT version FROM limaml_train('taste', '{"seed": 1}');
SELECT limaml_network('taste') = limaml_network('taste', 1) AS deployed, limaml_network('taste', 2) <> limaml_network('taste', 1) AS other;
SELECT version, limaml_adapt_agg(network, m, i) = e.embedding AS is_stored FROM limaml.version v, rating i JOIN member m USING (member_id) LEFT JOIN stored e USING (member_id) WHERE model = 'taste' AND member_id = 5 GROUP BY version, e.embedding ORDER BY 1;
SELECT name, limaml_network(name) = limaml_export(name) AS each FROM unnest('{taste,block,taste,weighted,taste}'::text[]) name;
PREPARE network AS SELECT limaml_network($1) = limaml_export($1) AS prepared;
EXECUTE network('taste');
SELECT limaml_network(NULL);
SELECT limaml_network('nobody');
SELECT limaml_network('taste', 0);
SELECT limaml_network('taste', 99);
SELECT limaml_network('taste'::varchar(10)) = limaml_network('taste'::name::text) AS other_texts;
SELECT provolatile, proparallel, p.oid::regprocedure FROM pg_proc p WHERE p.oid::regprocedure::text ~ '^limaml_(adapt_agg|network|row)|^limaml_score_embedding.*trained_network' ORDER BY p.oid::regprocedure::text COLLATE "C";

-- with any search path
SET search_path = '';
SELECT public.limaml_adapt_agg(public.limaml_network('taste'), NULL, public.limaml_row(true, '2024-01-01'::timestamptz, 1, 2, 'k1', 3)) IS NOT NULL AS without_path;
SET search_path = limaml, public;
SELECT limaml_adapt_agg(limaml_network('taste'), NULL, limaml_row(true, '2024-01-01'::timestamptz, 1, 2, 'k1', 3)) IS NOT NULL AS with_the_catalogs;
SET search_path = adapt_agg_test, public;

-- and the rights of who asks: those to score
CREATE ROLE regress_limaml_analyst;
GRANT USAGE ON SCHEMA adapt_agg_test TO regress_limaml_analyst;
CREATE TABLE given AS SELECT limaml_network('taste') AS network;
GRANT SELECT ON given TO regress_limaml_analyst;
SET ROLE regress_limaml_analyst;
SELECT limaml_network('taste');
SELECT limaml_adapt_agg(network, NULL, limaml_row(true, '2024-01-01'::timestamptz, 1, 2, 'k1', 3)) IS NOT NULL AS at_hand FROM given;
RESET ROLE;
GRANT SELECT ON taste_embedding TO regress_limaml_analyst;
SET ROLE regress_limaml_analyst;
SELECT limaml_network('taste') = network AS may_score FROM given;
SELECT limaml_adapt_agg(limaml_network('taste'), NULL, i) FROM rating i;
RESET ROLE;
DROP OWNED BY regress_limaml_analyst;
DROP ROLE regress_limaml_analyst;

-- Everything that can be wrong

SELECT limaml_adapt_agg(NULL, m, i) FROM rating i, member m;
SELECT limaml_adapt_agg((SELECT network FROM limaml.version WHERE model = 'taste' AND version = 7), m, i) FROM rating i, member m;
SELECT limaml_adapt_agg('taste', m, i) FROM rating i, member m;
SELECT limaml_adapt_agg('\x'::bytea, m, i) FROM rating i, member m;
SELECT limaml_adapt_agg('a model of this name', m, i) FROM rating i, member m;
SELECT limaml_adapt_agg('\x02000000000000007b7d', m, i) FROM rating i, member m;
SELECT regexp_replace(say($$SELECT limaml_adapt_agg(substr(limaml_network('taste'), 1, 1000), m, i) FROM rating i, member m$$), '\d+ bytes', 'N bytes', 'g');
SELECT limaml_adapt_agg(overlay(limaml_network('taste') PLACING '\x00' FROM 40), m, i) FROM rating i, member m;
SELECT limaml_adapt_agg(network, NULL, i) FROM rating i, limaml.version WHERE model = 'nobody';
SELECT say($$SELECT limaml_adapt_agg(network, NULL, i) FROM rating i, limaml.version WHERE model = 'taste'$$);
SELECT limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i, member m;
SELECT limaml_adapt_agg(limaml_network('taste'), m, i) FROM rating i LEFT JOIN member m ON m.member_id = 1 AND i.member_id = 1;
SELECT entity, say(format($$SELECT limaml_adapt_agg(limaml_network('taste'), %s, i) FROM rating i, member m WHERE m.member_id = 1$$, entity)) FROM unnest(ARRAY[
	'm', 'i', 'ROW()', 'ROW(1)', 'ROW(1, ''free''::text, 2)', 'ROW(''free''::text, 1)', 'ROW(now(), ''free''::text)', 'limaml_row(1, 2)', 'limaml_row(''old'', ''free'')', '1', '''(1,free)''']) entity;
SELECT interaction, say(format($$SELECT limaml_adapt_agg(limaml_network('taste'), m, %s) FROM rating i, member m WHERE m.member_id = 1$$, interaction)) FROM unnest(ARRAY[
	'i', 'm', 'ROW()', 'ROW(true, now())', 'ROW(true, now(), 1, 2, ''k1''::text)', 'ROW(true, now(), 1, 2, ''k1''::text, 3, 4)', 'ROW(now(), true, 1, 2, ''k1''::text, 3)',
	'ROW(2, now(), 1, 2, ''k1''::text, 3)', 'ROW(0.5, now(), 1, 2, ''k1''::text, 3)', 'ROW(''NaN''::float8, now(), 1, 2, ''k1''::text, 3)', 'ROW(''Infinity''::float4, now(), 1, 2, ''k1''::text, 3)',
	'ROW(''yes''::text, now(), 1, 2, ''k1''::text, 3)', 'limaml_row(''yes'', now(), 1, 2, ''k1''::text, 3)', 'limaml_row(true, ''2024-01-01'', 1, 2, ''k1'', 3)', 'ROW(true, ''12:00''::time, 1, 2, ''k1''::text, 3)', 'ROW(true, true, 1, 2, ''k1''::text, 3)',
	'ROW(true, now(), ''1''::text, 2, ''k1''::text, 3)', 'ROW(true, now(), 1.5, 2, ''k1''::text, 3)', 'ROW(true, now(), 1, now(), ''k1''::text, 3)', 'ROW(true, now(), 1, 2, 3, 3)', 'ROW(true, now(), 1, 2, ARRAY[''k1''], 3)',
	'limaml_row(true, now(), ''one'', 2, ''k1'', 3)', 'limaml_row(true, now(), 1, ''two'', ''k1'', 3)',
	'(SELECT s FROM (SELECT at, item_id, year, kind, price FROM rating LIMIT 1) s)', '(SELECT s FROM (SELECT liked, item_id, year, kind, price FROM rating LIMIT 1) s)', '(SELECT s FROM (SELECT liked, at, item_id, year AS "Year", kind, price FROM rating LIMIT 1) s)',
	'NULL', 'i.liked']) interaction;
SELECT interaction, say(format($$SELECT limaml_adapt_agg(limaml_network('weighted'), m, %s) FROM rating i, member m WHERE m.member_id = 1$$, interaction)) FROM unnest(ARRAY[
	'i', 'ROW(true, now(), 1, ''k1''::text)', 'ROW(true, now(), 1, ''k1''::text, -1)', 'ROW(true, now(), 1, ''k1''::text, NULL::int)', 'ROW(true, now(), 1, ''k1''::text, ''NaN''::real)', 'ROW(true, now(), 1, ''k1''::text, ''Infinity''::real)',
	'ROW(true, now(), 1, ''k1''::text, 1e300::float8)', 'ROW(true, now(), 1, ''k1''::text, ''much''::text)', '(SELECT s FROM (SELECT liked, at, item_id, kind FROM rating LIMIT 1) s)']) interaction;
SELECT interaction, say(format($$SELECT limaml_adapt_agg(limaml_network('squared'), m, %s) FROM rating i, member m WHERE m.member_id = 1$$, interaction)) FROM unnest(ARRAY[
	'i', 'ROW(''NaN''::float8, 1, ''k1''::text, 2)', 'ROW(1e300::float8, 1, ''k1''::text, 2)', 'ROW(-3, 1, ''k1''::text, 2)']) interaction;
SELECT say($$SELECT limaml_adapt_agg(limaml_network('taste'), NULL, i) FROM (SELECT limaml_row(true, now(), 1, 2, 'k1', 3) AS i UNION ALL SELECT limaml_row(true, now()::timestamp, 1, 2, 'k1', 3)) _$$);
-- nor by two files that say they are one network: all rows are kept alike
SELECT say($$SELECT limaml_adapt_agg(CASE WHEN n = 1 THEN network ELSE set_byte(network, 0, get_byte(network, 0) # 1) END, NULL, i)
	FROM (SELECT 1 AS n, limaml_row(true, 1::bigint, 1, 2, 'k1', 3) AS i UNION ALL SELECT n, limaml_row(true, n::numeric, 1, 2, 'k1', 3) FROM generate_series(2, 9) n) _, limaml_network('taste') network$$);
SELECT limaml_adapt_agg(limaml_network('taste'), m, i, 1) FROM rating i, member m;
SELECT say('SELECT limaml_adapt_agg_final(NULL)') <> 'no error' AS refused;

-- A network that does not say which columns are which, and one whose digest
-- does not come first
CREATE FUNCTION signed(bytes bytea, without text[], digest_first boolean) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	old integer := get_byte(bytes, 0) + 256 * get_byte(bytes, 1);
	head jsonb := convert_from(substr(bytes, 9, old), 'UTF8');
	zeros text := repeat('0', 64);
	header bytea := convert_to(format(CASE WHEN digest_first THEN '{"__metadata__":{"digest":"%s","limaml":%s},%s' ELSE '{"__metadata__": {"digest":"%s","limaml":%s},%s' END,
		zeros, to_json(((head #>> '{__metadata__,limaml}')::jsonb - without)::text), substr((head - '__metadata__')::text, 2)), 'UTF8');
	file bytea := set_byte(set_byte('\x0000000000000000', 0, length(header) % 256), 1, length(header) / 256) || header || substr(bytes, 9 + old);
BEGIN
	RETURN overlay(file PLACING convert_to(encode(sha256(file), 'hex'), 'UTF8') FROM position(convert_to(zeros, 'UTF8') IN file));
END $$;
SELECT what, say(format($$SELECT limaml_adapt_agg(signed(limaml_network('taste', 1), %s), m, i) FROM rating i, member m WHERE m.member_id = 1$$, what))
FROM unnest(ARRAY[$$'{}', true$$, $$'{}', false$$, $$'{label}', true$$, $$'{event_time}', true$$]) what;
SELECT member_id, limaml_adapt_agg(signed(limaml_network('taste', 1), '{label,event_time}', true), limaml_row(age, plan), limaml_row(liked, at, item_id, year, kind, price))::real[] = embedding::real[] AS by_place
FROM rating JOIN member USING (member_id) JOIN stored USING (member_id) WHERE member_id < 3 GROUP BY member_id, embedding ORDER BY 1;
SELECT limaml_import('taste', signed(limaml_network('taste', 1), '{label,event_time}', false));
SELECT limaml_network('taste', 3) = limaml_network('taste', 1) AS names_are_the_models;

-- A network that keeps networks
SELECT limaml_create_model('full', 'numbered', '{short}', 'liked', 'second', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "personalization": "full"}');
SELECT version FROM limaml_train('full');
SELECT say($$SELECT limaml_adapt_agg(limaml_network('full', 1), NULL, i) FROM numbered i$$);
SELECT say($$SELECT limaml_adapt_agg(limaml_network('full', 1), NULL, i) FROM numbered i$$);

-- States from another process may be anything
CREATE AGGREGATE state(limaml.trained_network, record, record) (SFUNC = limaml_adapt_agg_transition, STYPE = internal, FINALFUNC = limaml_adapt_agg_serialize);
CREATE FUNCTION read_state(bytea) RETURNS bigint AS '$libdir/limaml', 'limaml_adapt_agg_deserialize' LANGUAGE C STRICT;
CREATE FUNCTION try_state(bytes bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN read_state(bytes) IS NOT NULL THEN 'read' END;
EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
CREATE TABLE states AS
SELECT state(limaml_network('taste'), m, i) AS bytes, 1 + 4 + 4 + length(limaml_network('taste')) AS head FROM rating i JOIN member m USING (member_id) WHERE member_id = 3;
SELECT try_state(bytes), length(bytes) - head < 1000 AS few_rows FROM states;
SELECT count(*) AS cut, count(*) FILTER (WHERE try_state(substr(bytes, 1, n)) = 'read') AS read FROM states, generate_series(0, length(bytes) - 1) n WHERE n < 200 OR n % 97 = 0 OR n >= head - 10;
SELECT try_state(''), try_state('\x01'), try_state(set_byte(bytes, 0, 2)), try_state(bytes || '\x00') FROM states;
SELECT count(*) AS changed, count(*) FILTER (WHERE try_state(set_byte(bytes, n, get_byte(bytes, n) # mask)) IS NOT NULL) AS answered FROM states, generate_series(0, length(bytes) - 1) n, unnest('{1,128,255}'::int[]) mask WHERE n < 150 OR n >= head - 10;
-- its numbers: of no type, of one that is no time, and more rows than there are
SELECT try_state(overlay(bytes PLACING '\x00000000' FROM 2)) AS no_type, try_state(overlay(bytes PLACING '\x00000010' FROM 2)) AS boolean, try_state(overlay(bytes PLACING '\x0000270f' FROM 2)) AS nothing, try_state(overlay(bytes PLACING '\x7fffffff' FROM 6)) AS long, try_state(overlay(bytes PLACING '\xffffffff' FROM 6)) AS negative FROM states;
SELECT try_state(overlay(bytes PLACING '\x7fc00000' FROM head + 1)) AS nan, try_state(overlay(bytes PLACING '\x0000000000000000' FROM rows + 1)) AS none_seen, try_state(overlay(bytes PLACING '\x7fffffff' FROM rows + 9)) AS many, try_state(overlay(bytes PLACING '\xffffffff' FROM rows + 9)) AS negative,
	try_state(overlay(bytes PLACING '\x00000007' FROM rows + 13)) AS short_time, try_state(overlay(bytes PLACING '\x00000009' FROM rows + 13)) AS long_time, try_state(overlay(bytes PLACING '\x7fffffffffffff00' FROM rows + 17)) AS no_time,
	try_state(overlay(bytes PLACING '\x00000040' FROM rows + 25)) AS label, try_state(overlay(bytes PLACING '\x0000c0ff' FROM rows + 29)) AS weight, try_state(overlay(bytes PLACING '\xffffff7f' FROM rows + 33)) AS category, try_state(overlay(bytes PLACING '\x0000803f0000007f' FROM rows + 37)) AS number
FROM states, LATERAL (SELECT length(bytes) - 4 - 8 - 6 * (4 + 8 + 4 + 4 + 4 * 4 + 4)) _ (rows);

DO $$ BEGIN
	PERFORM limaml_drop_model(model) FROM limaml.model;
END $$;
DROP SCHEMA adapt_agg_test CASCADE;
