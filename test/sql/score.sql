--
-- limaml_score, limaml_score_embedding, limaml_embedding, limaml_adapt: every
-- way to give a key and a candidate, and every wrong one.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA score_test;
SET search_path = score_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, n AS at, i % 7 AS year, 'k' || i % 3 AS kind,
	((i + m) % 2 = 0) <> (hashint4(m * 1000 + i) % 6 = 0) AS liked
FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age, CASE m % 3 WHEN 0 THEN 'free' ELSE 'paid' END AS plan FROM generate_series(1, 40) m;
CREATE TABLE item AS SELECT i AS item_id, i % 7 AS year, 'k' || i % 3 AS kind, repeat('x', i) AS title FROM generate_series(1, 45) i;
SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year,kind}', 'member', '{age,plan}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 4, "batch_entities": 8}');
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste');

-- One candidate, given in every way, has one score

CREATE TABLE scores AS SELECT item_id, limaml_score('taste', 1, i) AS score FROM item i;
SELECT count(*), count(score), min(score) > 0 AND max(score) < 1 AS probabilities, count(DISTINCT score) > 30 AS differ FROM scores;
SELECT bool_and(limaml_score('taste', 1, item_id, year, kind) = score) AS by_place,
	bool_and(limaml_score('taste', 1, ROW(item_id, year, kind)) = score) AS by_row,
	bool_and(limaml_score('taste', 1, item_id::bigint, year::numeric, kind::varchar) = score) AS other_types,
	bool_and(limaml_score('taste', 1, item_id::smallint, year::float8, kind::name) = score) AS and_others,
	bool_and(limaml_score('taste', 1, item_id, year, kind::char(10)) = score) AS padded
FROM item JOIN scores USING (item_id);
SELECT bool_and(limaml_score('taste', 1, s) = score) AS in_a_subquery FROM (SELECT kind, 'more' AS more, item_id, year FROM item) s JOIN scores USING (item_id);
SELECT bool_and(limaml_score('taste', 1, i) = score) AS in_a_join FROM item i JOIN rating r USING (item_id) JOIN scores USING (item_id) WHERE r.member_id < 4;
CREATE VIEW item_view AS SELECT now() AS added, kind, year, 1 AS f1, item_id FROM item;
SELECT bool_and(limaml_score('taste', 1, v) = score) AS of_a_view FROM item_view v JOIN scores USING (item_id);
CREATE TYPE candidate AS (year int, kind text, item_id int);
SELECT bool_and(limaml_score('taste', 1, (year, kind, item_id)::candidate) = score) AS of_a_type FROM item JOIN scores USING (item_id);
CREATE DOMAIN candidate_domain AS candidate;
SELECT bool_and(limaml_score('taste', 1, (year, kind, item_id)::candidate::candidate_domain) = score) AS of_a_domain FROM item JOIN scores USING (item_id);
SELECT limaml_score('taste', 1, '7', '0', 'k1') = score AS untyped FROM scores WHERE item_id = 7;
SELECT bool_and(limaml_score('taste', 1, r) = score) AS of_records FROM (SELECT item_id, ROW(item_id, year, kind) AS r FROM item) _ JOIN scores USING (item_id);

-- A row that has lost and gained columns
CREATE TABLE altered AS SELECT 0 AS gone, item_id, year, kind FROM item;
ALTER TABLE altered DROP gone;
ALTER TABLE altered ADD added text DEFAULT 'x';
ALTER TABLE altered DROP year;
ALTER TABLE altered ADD year bigint;
UPDATE altered SET year = item_id % 7;
SELECT bool_and(limaml_score('taste', 1, a) = score) AS altered FROM altered a JOIN scores USING (item_id);

-- Other columns, what is stored with the interaction, NULLs: no matter
SELECT limaml_score('taste', 1, r) = s.score AS same FROM rating r JOIN scores s USING (item_id) WHERE limaml_score('taste', 1, r) <> s.score;
UPDATE item SET title = NULL;
SELECT bool_and(limaml_score('taste', 1, i) = score) AS title FROM item i JOIN scores USING (item_id);

-- Values that training has not seen, and none at all, have a score too
SELECT limaml_score('taste', 1, 1000000, 1e30, 'unseen') BETWEEN 0 AND 1 AS unseen, limaml_score('taste', 1, NULL::int, NULL::int, NULL::text) BETWEEN 0 AND 1 AS nothing,
	limaml_score('taste', 1, NULL, NULL, NULL) = limaml_score('taste', 1, NULL::int, NULL::int, NULL::text) AS untyped_nothing,
	limaml_score('taste', 1, NULL::item) = limaml_score('taste', 1, NULL::int, NULL::int, NULL::text) AS null_row,
	limaml_score('taste', 1, 7, 'NaN'::float8, 'k1') = limaml_score('taste', 1, 7, NULL::float8, 'k1') AS nan;

-- VARIADIC arrays
SELECT limaml_create_model('numbers', 'rating', '{member_id}', 'liked', 'at', '{item_id,year}', options => '{"embedding_size": 4, "epochs": 1}');
SELECT version FROM limaml_train('numbers');
SELECT limaml_score('numbers', 1, VARIADIC ARRAY[7, 0]) = limaml_score('numbers', 1, 7, 0) AS variadic,
	limaml_score('numbers', 1, VARIADIC ARRAY[7, NULL]::numeric[]) = limaml_score('numbers', 1, 7, NULL::int) AS with_null,
	limaml_score_embedding('numbers', limaml_embedding('numbers', 1), VARIADIC '{7,0}'::float4[]) = limaml_score('numbers', 1, 7, 0) AS embedding;
SELECT limaml_score('numbers', 1, VARIADIC ARRAY[7]);
SELECT limaml_score('numbers', 1, VARIADIC ARRAY[7, 0, 1]);
SELECT limaml_score('numbers', 1, VARIADIC '{}'::int[]);
SELECT limaml_score('numbers', 1, VARIADIC NULL::int[]);
SELECT limaml_score('numbers', 1, VARIADIC ARRAY['7', '0']);
SELECT limaml_score('numbers', 1, VARIADIC ARRAY[[7, 0]]) = limaml_score('numbers', 1, 7, 0) AS nested;
SELECT limaml_score('numbers', 1, VARIADIC 7);
SELECT limaml_score('numbers', 1, VARIADIC ARRAY[NULL::item]);

-- Candidates that are wrong

SELECT limaml_score('taste', 1);
SELECT limaml_score('taste', 1, 7);
SELECT limaml_score('taste', 1, 7, 0);
SELECT limaml_score('taste', 1, 7, 0, 'k1', 1);
SELECT limaml_score('taste', 1, ROW(7, 0));
SELECT limaml_score('taste', 1, ROW(7, 0, 'k1', 1));
SELECT limaml_score('taste', 1, ROW());
SELECT limaml_score('taste', 1, m) FROM member m LIMIT 1;
SELECT limaml_score('taste', 1, s) FROM (SELECT item_id, year FROM item) s LIMIT 1;
SELECT limaml_score('taste', 1, s) FROM (SELECT item_id, "year" AS "Year", kind FROM item) s LIMIT 1;
SELECT limaml_score('taste', 1, 'seven', 0, 'k1');
SELECT limaml_score('taste', 1, 7, 'zero', 'k1');
SELECT limaml_score('taste', 1, '7'::text, 0, 'k1');
SELECT limaml_score('taste', 1, 7.0, 0, 'k1') = score AS whole FROM scores WHERE item_id = 7;
SELECT limaml_score('taste', 1, 7, '0'::text, 'k1');
SELECT limaml_score('taste', 1, 7, now(), 'k1');
SELECT limaml_score('taste', 1, 7, 0, 1);
SELECT limaml_score('taste', 1, 7, 0, ARRAY['k1']);
SELECT limaml_score('taste', 1, s) FROM (SELECT item_id::text, year, kind FROM item) s LIMIT 1;
SELECT limaml_score('taste', 1, ROW(ROW(7, 0, 'k1')));

-- Keys

SELECT bool_and(limaml_score('taste', '1', i) = score) AS untyped, bool_and(limaml_score('taste', 1::smallint, i) = score) AS int2,
	bool_and(limaml_score('taste', 1::bigint, i) = score) AS int8, bool_and(limaml_score('taste', 1::numeric, i) = score) AS numeric
FROM item i JOIN scores USING (item_id);
SELECT limaml_score('taste', 'one', 7, 0, 'k1');
SELECT limaml_score('taste', 10000000000, 7, 0, 'k1');
SELECT limaml_score('taste', 'one'::text, 7, 0, 'k1');
SELECT limaml_score('taste', true, 7, 0, 'k1');
SELECT limaml_score('taste', now(), 7, 0, 'k1');
SELECT limaml_score('taste', '{1}'::int[], 7, 0, 'k1');
SELECT limaml_score('taste', ROW(1), 7, 0, 'k1');
SELECT limaml_adapt('taste', now());
SELECT limaml_embedding('taste', now());

-- An entity without an embedding has its prior: that of what is known about it
SELECT limaml_score('taste', 31, 7, 0, 'k1') = limaml_score('taste', 46, 7, 0, 'k1') AS known_as_unknown,
	limaml_score('taste', 31, 7, 0, 'k1') = limaml_score('taste', 36, 7, 0, 'k1') AS same_age_other_plan,
	limaml_score('taste', 46, 7, 0, 'k1') = limaml_score('taste', -1, 7, 0, 'k1') AS unknown_alike,
	limaml_score('taste', 46, 7, 0, 'k1') = limaml_score('taste', NULL, 7, 0, 'k1') AS untyped_null,
	limaml_score('taste', 46, 7, 0, 'k1') = limaml_score('taste', NULL::int, 7, 0, 'k1') AS null,
	limaml_score('taste', 46, 7, 0, 'k1') = limaml_score('taste', NULL::bigint, 7, 0, 'k1') AS null_of_other_type;
SELECT limaml_embedding('taste', 31) = limaml_adapt('taste', 31) AS prior, limaml_embedding('taste', 31) = limaml_embedding('taste', 1) AS same,
	limaml_embedding('taste', NULL::int) IS NULL AS null, limaml_adapt('taste', NULL::int) IS NULL AS adapt_null;
SELECT limaml_dims(limaml_embedding('taste', 31)), limaml_embedding('taste', 31)::text ~ '@[0-9a-f]{8}$' AS fingerprint;

-- Stored, found, adapted now: the same bits

SELECT count(*), bool_and(limaml_embedding('taste', member_id) = embedding) AS stored, bool_and(limaml_adapt('taste', member_id) = embedding) AS adapted,
	bool_and(embedding::text = limaml_adapt('taste', member_id::text::int)::text) AS text
FROM taste_embedding WHERE version = 1;
SELECT count(*), bool_and(limaml_score_embedding('taste', embedding, i) = limaml_score('taste', member_id, i)) AS by_row,
	bool_and(limaml_score_embedding('taste', embedding, item_id, year, kind) = limaml_score('taste', member_id, item_id, year, kind)) AS by_place
FROM taste_embedding e, item i;
SELECT bool_and(limaml_score_embedding('taste', limaml_embedding('taste', m), 7, 0, 'k1') = limaml_score('taste', m, 7, 0, 'k1')) AS priors_too FROM generate_series(30, 50) m;
SELECT limaml_score_embedding('taste', NULL, 7, 0, 'k1') IS NULL AS null;
SELECT bool_and(limaml_score_embedding('taste', embedding::text::meta_embedding, 7, 0, 'k1') = limaml_score('taste', member_id, 7, 0, 'k1')) AS through_text FROM taste_embedding;

-- Embeddings of no network, of another width, of another network

SELECT limaml_score_embedding('taste', '[1,2,3]', 7, 0, 'k1');
SELECT limaml_score_embedding('taste', '[1,2,3]@1a2b3c4d', 7, 0, 'k1');
SELECT limaml_score_embedding('taste', limaml_embedding('numbers', 1), 7, 0, 'k1');
SELECT limaml_score_embedding('nobody', '[1]', 7);
CREATE FUNCTION try_score(embedding meta_embedding) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN limaml_score_embedding('taste', embedding, 7, 0, 'k1');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM || ' / ' || detail, '\y[0-9a-f]{8}\y', 'xxxxxxxx', 'g');
END
$$;
SELECT try_score('[1,2,3,4,5,6,7,8]'), try_score('[1,2,3,4,5,6,7,8]@00000001');
SELECT version FROM limaml_train('taste', '{"seed": 1}');
CALL limaml_refresh('taste', 2);
SELECT try_score(embedding) FROM taste_embedding WHERE version = 2 AND member_id = 1;

-- Which version scores is decided by each statement anew, prepared ones too

PREPARE score (int) AS SELECT limaml_score('taste', $1, 7, 0, 'k1');
PREPARE versions (int) AS SELECT e.version FROM taste_embedding e WHERE e.member_id = $1 AND limaml_score_embedding('taste', limaml_embedding('taste', $1), 7, 0, 'k1') = limaml_score('taste', $1, 7, 0, 'k1')
	AND e.embedding = limaml_embedding('taste', $1);
SET plan_cache_mode = force_generic_plan;
CREATE TABLE by_version AS SELECT 1 AS version, limaml_score('taste', 1, 7, 0, 'k1') AS score;
EXECUTE versions (1);
SELECT limaml_deploy('taste', 2);
INSERT INTO by_version SELECT 2, limaml_score('taste', 1, 7, 0, 'k1');
SELECT count(DISTINCT score) FROM by_version;
EXECUTE versions (1);
EXECUTE versions (2);
SELECT limaml_deploy('taste', 1);
EXECUTE versions (1);
BEGIN;
SELECT limaml_deploy('taste', 2);
EXECUTE versions (1);
SAVEPOINT before;
SELECT limaml_deploy('taste', 1);
EXECUTE versions (1);
ROLLBACK TO before;
EXECUTE versions (1);
ROLLBACK;
EXECUTE versions (1);
RESET plan_cache_mode;

-- A statement goes on with the version that it began with
BEGIN;
DECLARE c CURSOR FOR SELECT limaml_score('taste', 1, 7, 0, 'k1') = (SELECT score FROM by_version WHERE version = 1) AS version_1 FROM generate_series(1, 3);
FETCH c;
SELECT limaml_deploy('taste', 2);
FETCH ALL FROM c;
SELECT limaml_score('taste', 1, 7, 0, 'k1') = (SELECT score FROM by_version WHERE version = 2) AS version_2;
ROLLBACK;

-- A loop that refreshes, deploys, inserts or deletes sees what it did
CREATE FUNCTION watch() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	score real := 0;
	now real;
BEGIN
	FOR i IN 1..6 LOOP
		now := limaml_score('taste', 40, 7, 0, 'k1');
		RETURN NEXT format('%s: %s, stored %s, adapted is stored %s', i, CASE WHEN now = score THEN 'the same' ELSE 'another' END,
			limaml_embedding('taste', 40) = (SELECT embedding FROM taste_embedding WHERE version = 1 AND member_id = 40),
			limaml_embedding('taste', 40) = limaml_adapt('taste', 40));
		score := now;
		CASE i
			WHEN 2 THEN INSERT INTO rating SELECT 40, 7, 100 + n, 0, 'k1', true FROM generate_series(1, 5) n;
			WHEN 3 THEN CALL limaml_refresh('taste');
			WHEN 5 THEN DELETE FROM taste_embedding WHERE member_id = 40;
			ELSE NULL;
		END CASE;
	END LOOP;
END
$$;
SELECT watch();
DELETE FROM rating WHERE member_id = 40;

-- An embedding in the table that is not of its version
BEGIN;
UPDATE taste_embedding SET embedding = '[1,2,3,4,5,6,7,8]' WHERE version = 1 AND member_id = 2;
SELECT limaml_score('taste', 2, 7, 0, 'k1');
ROLLBACK;

-- Read-only transactions
BEGIN READ ONLY;
SELECT limaml_score('taste', 1, 7, 0, 'k1') = (SELECT score FROM by_version WHERE version = 1) AS score, limaml_embedding('taste', 1) = limaml_adapt('taste', 1) AS embedding, length(limaml_export('taste')) > 1000 AS export;
SAVEPOINT s;
SELECT limaml_train('taste');
ROLLBACK TO s;
SELECT limaml_deploy('taste');
ROLLBACK TO s;
SELECT limaml_drop_model('taste');
ROLLBACK TO s;
SELECT limaml_import('taste', limaml_export('taste'));
ROLLBACK TO s;
CALL limaml_refresh('taste');
ROLLBACK;

-- Parallel queries: the plan has workers, and the scores are the same

CREATE TABLE many AS SELECT i AS n, i % 45 AS item_id, i % 7 AS year, 'k' || i % 3 AS kind FROM generate_series(1, 20000) i;
ANALYZE many;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE serial_scores AS SELECT n, limaml_score('taste', n % 40, m) AS score FROM many m;
CREATE TABLE serial_mean AS SELECT avg(limaml_score('taste', n % 40, item_id, year, kind)::numeric) AS mean FROM many;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
EXPLAIN (COSTS OFF) SELECT avg(limaml_score('taste', n % 40, item_id, year, kind)::numeric) FROM many;
SELECT avg(limaml_score('taste', n % 40, item_id, year, kind)::numeric) = (SELECT mean FROM serial_mean) AS same_mean FROM many;
EXPLAIN (COSTS OFF) SELECT n, limaml_score('taste', n % 40, m) AS score FROM many m WHERE limaml_score('taste', n % 40, m) > 0;
SELECT count(*), bool_and(p.score = s.score) AS same FROM (SELECT n, limaml_score('taste', n % 40, m) AS score FROM many m WHERE limaml_score('taste', n % 40, m) > 0) p JOIN serial_scores s USING (n);
SELECT bool_and(adapted = e.embedding) AS adapted FROM (SELECT DISTINCT n % 30 + 1 AS member_id, limaml_adapt('taste', n % 30 + 1) AS adapted FROM many WHERE n <= 60) _ JOIN taste_embedding e USING (member_id) WHERE version = 1;
RESET max_parallel_workers_per_gather;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET parallel_leader_participation;

-- Many models and entities in one query; a network cache that holds none
SELECT bool_and(limaml_score(model, 1, VARIADIC ARRAY[7, 0]) BETWEEN 0 AND 1) AS many_models FROM (SELECT 'numbers' AS model FROM generate_series(1, 100)) _;
SET limaml.network_cache = 0;
SELECT bool_and(limaml_score('taste', 1, i) = score) AS uncached, bool_and(limaml_score('numbers', 1, 7, 0) BETWEEN 0 AND 1) AS numbers FROM item i JOIN scores USING (item_id);
RESET limaml.network_cache;
SET limaml.no_such_setting = 1;
SELECT count(DISTINCT limaml_score('taste', m, 7, 0, 'k1')) > 25 AS many_entities FROM generate_series(1, 40000) m;

-- Keys of several columns, of text, of uuid, of a domain, of other integers

CREATE DOMAIN country AS varchar(10) CHECK (VALUE <> 'XX');
CREATE TABLE visit AS
SELECT (n % 3)::bigint AS a, ('c' || n % 2)::country AS b, 'T' || n % 5 AS t, md5((n % 4)::text)::uuid AS u, (n % 3)::numeric(10,2) AS num,
	n AS at, hashint4(n) % 2 = 0 AS liked, n % 9 AS f
FROM generate_series(1, 120) n;
SELECT limaml_create_model(k, 'visit', string_to_array(k, ','), 'liked', 'at', '{f}', options => '{"embedding_size": 4, "epochs": 1}') FROM unnest('{"a,b",t,u,b,num,"a,b,t,u"}'::text[]) k;
SELECT k, (limaml_train(k)).entities FROM unnest('{"a,b",t,u,b,num,"a,b,t,u"}'::text[]) k;
DO $$ BEGIN CALL limaml_refresh('a,b'); CALL limaml_refresh('t'); CALL limaml_refresh('u'); CALL limaml_refresh('b'); CALL limaml_refresh('num'); CALL limaml_refresh('a,b,t,u'); END $$;
SELECT bool_and(limaml_embedding('a,b', ROW(a, b)) = embedding) AS row, bool_and(limaml_embedding('a,b', ROW(a::int, b::text)) = embedding) AS other_types, bool_and(limaml_adapt('a,b', (a, b)) = embedding) AS adapted FROM "a,b_embedding";
SELECT limaml_embedding('a,b', ROW(1, 'c1')) = (SELECT embedding FROM "a,b_embedding" WHERE a = 1 AND b = 'c1') AS literals, limaml_embedding('a,b', ROW(1, NULL)) = limaml_embedding('a,b', ROW(99, 'no')) AS unknown;
SELECT bool_and(limaml_embedding('a,b', (SELECT k FROM (SELECT e.a, e.b) k)) = embedding) AS named FROM "a,b_embedding" e;
SELECT bool_and(limaml_embedding('t', t) = embedding) AS text, bool_and(limaml_embedding('t', t::varchar) = embedding) AS varchar, bool_and(limaml_adapt('t', t::name) = embedding) AS name FROM t_embedding;
SELECT limaml_embedding('t', 'T1') = (SELECT embedding FROM t_embedding WHERE t = 'T1') AS literal, limaml_embedding('t', 't1') = limaml_embedding('t', 'T99') AS case_counts;
SELECT bool_and(limaml_embedding('u', u) = embedding) AS uuid, bool_and(limaml_adapt('u', u) = embedding) AS adapted FROM u_embedding;
SELECT limaml_embedding('u', upper(u::text)::uuid) = embedding AS literal FROM u_embedding LIMIT 1;
SELECT limaml_embedding('u', 'not a uuid');
SELECT bool_and(limaml_embedding('b', b) = embedding) AS domain, bool_and(limaml_embedding('b', b::text) = embedding) AS text FROM b_embedding;
SELECT bool_and(limaml_embedding('num', num) = embedding) AS numeric, bool_and(limaml_embedding('num', num::int) = embedding) AS integer, bool_and(limaml_embedding('num', (num || '000')::numeric) = embedding) AS scale FROM num_embedding;
SELECT bool_and(limaml_embedding('a,b,t,u', ROW(a, b, t, u)) = embedding) AS four FROM "a,b,t,u_embedding";
SELECT limaml_embedding('a,b', 1);
SELECT limaml_embedding('a,b', ROW(1));
SELECT limaml_embedding('a,b', ROW(1, 'c1', 2));
SELECT limaml_embedding('a,b', ROW(now(), 'c1'));
SELECT limaml_embedding('a,b', ROW('x', 'c1'));
SELECT limaml_embedding('a,b', NULL) IS NULL AS nothing, limaml_score('a,b', NULL, 1) = limaml_score('a,b', ROW(99, 'no'), 1) AS unknown;
SELECT limaml_embedding('a,b', '(1,c1)');
SELECT limaml_embedding('t', 1) IS NOT NULL AS a_number_as_text;

\set VERBOSITY terse
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA score_test CASCADE;
