--
-- CALL limaml_refresh: which entities are stale, and what is stored of them.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA refresh_test;
SET search_path = refresh_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, i % 7 AS year,
	((i + m) % 2 = 0) <> (hashint4(m * 1000 + i) % 6 = 0) AS liked
FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age FROM generate_series(1, 40) m;

CREATE FUNCTION create_small(model text, interactions regclass, options jsonb DEFAULT '{}') RETURNS int LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, '{member_id}', 'liked', 'at', '{item_id:category,year}', 'member', '{age}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 3, "batch_entities": 8}' || options);
	SELECT version FROM limaml_train(model)
$$;

SELECT create_small('taste', 'rating', '{"staleness": "changes"}');

-- The first refresh makes all, the second none

-- Which rows a refresh has written since the last look
CREATE TABLE seen (member_id int, version int, written text);
CREATE FUNCTION refreshed() RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	result int[];
BEGIN
	SELECT array_agg(e.member_id ORDER BY e.member_id) INTO result
	FROM taste_embedding e LEFT JOIN seen s USING (member_id, version) WHERE s.written IS DISTINCT FROM e.ctid || ' ' || e.xmin;
	DELETE FROM seen;
	INSERT INTO seen SELECT e.member_id, e.version, e.ctid || ' ' || e.xmin FROM taste_embedding e;
	RETURN result;
END
$$;
SELECT refreshed();
CALL limaml_refresh('taste');
SELECT refreshed();
CALL limaml_refresh('taste');
SELECT refreshed();
SELECT count(*), bool_and(version = 1) AS version, bool_and(interactions = 20) AS interactions, bool_and(adapted_through = '2024-01-21 UTC') AS through,
	bool_and(loss_before > 0 AND loss_after > 0) AS losses, avg(loss_after) < avg(loss_before) AS better, bool_and(adapted_at BETWEEN now() - interval '1 hour' AND now()) AS adapted_at,
	bool_and(limaml_dims(embedding) = 8) AS dims, count(DISTINCT embedding) AS different
FROM taste_embedding;

-- Every embedding is what limaml_adapt makes, bit for bit
CREATE FUNCTION adapted(version int DEFAULT 1) RETURNS boolean LANGUAGE sql AS $$
	SELECT bool_and(limaml_adapt('taste', e.member_id) = e.embedding) AND count(*) > 0 FROM taste_embedding e WHERE e.version = adapted.version
$$;
SELECT adapted();

-- What makes an entity stale: a new row, also of the same time or an old one, a row that is gone

INSERT INTO rating VALUES (3, 1, '2024-03-01 UTC', 1, true);
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
INSERT INTO rating VALUES (3, 2, '2024-03-01 UTC', 1, true), (4, 2, '2023-01-01 UTC', 1, true);
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
DELETE FROM rating WHERE member_id = 5 AND at = '2024-01-21 UTC';
DELETE FROM rating WHERE member_id = 6 AND at < '2024-01-03 UTC';
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
SELECT member_id, interactions, adapted_through AT TIME ZONE 'UTC' AS through FROM taste_embedding WHERE member_id IN (3, 4, 5, 6, 7) ORDER BY member_id;
UPDATE rating SET at = '2024-04-01 UTC' WHERE member_id = 8 AND at = '2024-01-21 UTC';
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- Moved from one to another: both
UPDATE rating SET member_id = 9 WHERE member_id = 10 AND at = '2024-01-21 UTC';
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- A new entity, known or not
INSERT INTO rating VALUES (31, 1, '2024-03-01 UTC', 1, true), (99, 1, '2024-03-01 UTC', 1, true);
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- All rows of an entity gone: its prior, once
DELETE FROM rating WHERE member_id = 11;
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
SELECT interactions, adapted_through, embedding = limaml_adapt('taste', 11) AS prior, loss_before, loss_after FROM taste_embedding WHERE member_id = 11;
CALL limaml_refresh('taste');
SELECT refreshed();
INSERT INTO rating VALUES (11, 1, '2024-03-01 UTC', 1, true);
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- Rows of the embeddings table are its owner's: one that was deleted is made when all are, or its entity changes
DELETE FROM taste_embedding WHERE member_id = 12;
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
UPDATE rating SET year = year WHERE member_id = 12;
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- Rows that do not count: no key, no label, no time
INSERT INTO rating VALUES (NULL, 1, '2024-05-01 UTC', 1, true), (13, 1, '2024-05-01 UTC', 1, NULL), (14, 1, NULL, 1, true), (200, 1, NULL, 1, true);
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- Another feature, another meta feature, of an entity without rows as well
UPDATE member SET age = 3 WHERE member_id = 35;
UPDATE rating SET year = 6 WHERE member_id = 15;
UPDATE member SET age = 4 WHERE member_id = 16;
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
CREATE TEMP TABLE before AS SELECT * FROM taste_embedding;
CALL limaml_refresh('taste', only_stale => false);
SELECT cardinality(refreshed()), adapted();
SELECT array_agg(a.member_id ORDER BY a.member_id) AS changed FROM taste_embedding a JOIN before b USING (member_id) WHERE a.embedding <> b.embedding;

-- By event time: rows newer than the newest of the last complete refresh less the lateness

SELECT limaml_set_options('taste', '{"staleness": "event_time", "lateness": "2 days"}');
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
CREATE TABLE newest AS SELECT max(at) AS at FROM rating WHERE liked IS NOT NULL AND member_id IS NOT NULL;
-- newer, as new, late, too late, and what no new row tells
INSERT INTO rating SELECT 20, 1, at + interval '1 second', 1, true FROM newest;
INSERT INTO rating SELECT 21, 1, at, 1, true FROM newest;
INSERT INTO rating SELECT 22, 1, at - interval '47 hours', 1, true FROM newest;
INSERT INTO rating SELECT 23, 1, at - interval '49 hours', 1, true FROM newest;
UPDATE rating SET year = 5 WHERE member_id = 24;
DELETE FROM rating WHERE member_id = 25 AND item_id % 2 = 0;
INSERT INTO rating SELECT 34, 1, at, 1, true FROM newest;
CALL limaml_refresh('taste');
SELECT refreshed();
CALL limaml_refresh('taste');
SELECT refreshed();
CALL limaml_refresh('taste', only_stale => false);
SELECT cardinality(refreshed()), adapted();
-- a row from the future hides none that come after it
INSERT INTO rating VALUES (26, 1, '2999-01-01 UTC', 1, true);
CALL limaml_refresh('taste');
SELECT refreshed();
INSERT INTO rating VALUES (27, 1, now(), 1, true), (28, 1, 'infinity', 1, true);
CALL limaml_refresh('taste');
SELECT refreshed();
INSERT INTO rating VALUES (29, 1, now(), 1, true);
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
SELECT limaml_set_options('taste', '{"staleness": "changes"}');
CALL limaml_refresh('taste');
SELECT cardinality(refreshed());

-- Another version's embeddings stand beside

SELECT version FROM limaml_train('taste', '{"seed": 1}');
CALL limaml_refresh('taste', 2);
SELECT version, count(*) FROM taste_embedding GROUP BY version ORDER BY version;
SELECT cardinality(refreshed());
CALL limaml_refresh('taste', version => 2);
CALL limaml_refresh('taste');
SELECT refreshed();
SELECT count(*) AS the_same FROM taste_embedding a JOIN taste_embedding b USING (member_id) WHERE a.version = 1 AND b.version = 2 AND a.embedding = b.embedding;
SELECT limaml_deploy('taste', 2);
SELECT adapted(2);
SELECT limaml_deploy('taste', 1);
CALL limaml_refresh('taste', 3);
CALL limaml_refresh('taste', NULL, NULL);
CALL limaml_refresh('taste', -1);

-- A version's partition that was dropped
BEGIN;
DROP TABLE taste_embedding_v2;
CALL limaml_refresh('taste', 2);
ROLLBACK;

-- Within a transaction, in a function, from a DO block, where it cannot commit

BEGIN;
INSERT INTO rating VALUES (17, 1, '2024-06-01 UTC', 1, true);
CALL limaml_refresh('taste');
SELECT count(*) FROM taste_embedding WHERE adapted_through = '2024-06-01 UTC';
ROLLBACK;
SELECT count(*) FROM taste_embedding WHERE adapted_through = '2024-06-01 UTC';
CALL limaml_refresh('taste');
SELECT refreshed();
INSERT INTO rating VALUES (17, 1, '2024-06-01 UTC', 1, true);
CREATE FUNCTION refresh_in_function() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CALL limaml_refresh('taste'); RETURN 1; END $$;
SELECT refresh_in_function();
SELECT refreshed(), adapted();
INSERT INTO rating VALUES (18, 1, '2024-06-01 UTC', 1, true);
DO $$ BEGIN CALL limaml_refresh('taste'); CALL limaml_refresh('taste'); COMMIT; CALL limaml_refresh('taste'); END $$;
SELECT refreshed(), adapted();
INSERT INTO rating VALUES (19, 1, '2024-06-01 UTC', 1, true);
DO $$
BEGIN
	CALL limaml_refresh('taste');
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN NULL;
END $$;
SELECT refreshed();
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO rating VALUES (20, 1, '2024-06-01 UTC', 1, true);
CALL limaml_refresh('taste');
COMMIT;
SELECT refreshed(), adapted();

-- An error keeps what there was, and the lock is free again
ALTER TABLE rating ALTER liked TYPE int USING liked::int;
INSERT INTO rating VALUES (21, 1, '2024-06-01 UTC', 1, 5), (22, 1, '2024-06-01 UTC', 1, 1);
CALL limaml_refresh('taste');
SELECT refreshed();
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
UPDATE rating SET liked = 1 WHERE liked = 5;
CALL limaml_refresh('taste');
SELECT refreshed(), adapted();

-- The result has nothing to do with how rows lie, nor with who shares a batch

CREATE TABLE tied AS SELECT m AS member_id, i AS item_id, date '2024-01-01' + i / 5 AS at, i % 7 AS year, (i + m) % 3 > 0 AS liked
FROM generate_series(1, 30) m, generate_series(1, 30) i;
CREATE TABLE tied_other_way AS SELECT * FROM tied ORDER BY hashint4(item_id), member_id DESC;
CREATE INDEX ON tied_other_way (member_id, at DESC, item_id);
SELECT create_small('tied', 'tied', '{"support_rows": 7, "recency": 10}');
SELECT create_small('tied other way', 'tied_other_way', '{"support_rows": 7, "recency": 10}');
CALL limaml_refresh('tied');
DO $$ BEGIN FOR m IN 1..30 LOOP CALL limaml_refresh('tied other way'); END LOOP; END $$;
SELECT count(*), bool_and(a.embedding = b.embedding) AS same, bool_and(a.embedding = limaml_adapt('tied', member_id)) AS adapted, bool_and(a.interactions = 30) AS interactions
FROM tied_embedding a JOIN "tied other way_embedding" b USING (member_id);

-- One by one, in a batch of 2,500, and with work_mem as it comes
CREATE TABLE crowd AS SELECT m AS member_id, i AS item_id, i AS at, i % 7 AS year, hashint4(m * 10 + i) % 2 = 0 AS liked FROM generate_series(1, 2500) m, generate_series(1, 3) i;
SELECT create_small('crowd', 'crowd', '{"epochs": 1}');
CALL limaml_refresh('crowd');
SELECT count(*), bool_and(interactions = 3) AS interactions FROM crowd_embedding;
SELECT count(*), bool_and(limaml_adapt('crowd', member_id) = embedding) AS adapted FROM crowd_embedding WHERE member_id % 50 = 0;
CREATE TEMP TABLE crowd_before AS SELECT *, xmin::text AS written FROM crowd_embedding;
SET work_mem = '64kB';
SET enable_hashjoin = off;
SET enable_hashagg = off;
CALL limaml_refresh('crowd', only_stale => false);
RESET work_mem;
RESET enable_hashjoin;
RESET enable_hashagg;
SELECT count(*), bool_and(a.embedding = b.embedding) AS same, bool_and(a.xmin::text <> b.written) AS refreshed FROM crowd_embedding a JOIN crowd_before b USING (member_id);

-- In one pass: parts wait on disk, with times that are no values, and arrays
CREATE TABLE pass AS SELECT m AS member_id, i AS item_id, (i + m / 100000.0)::numeric AS at, CASE WHEN m % 5 < 4 THEN array_fill(i, ARRAY[m % 5]) || 9 END AS tags, CASE WHEN i % 4 > 0 THEN ARRAY[m % 7, i]::real[] END AS v,
	hashint4(m * 10 + i) % 2 = 0 AS liked FROM generate_series(1, 5) i, generate_series(1, 33000) m;
SELECT limaml_create_model('pass', 'pass', '{member_id}', 'liked', 'at', '{item_id:category,tags,v}', options => '{"embedding_size": 8, "epochs": 1, "support_rows": 2}');
SELECT version FROM limaml_train('pass');
CALL limaml_refresh('pass');
SELECT count(*), bool_and(e.interactions = 5) AS interactions, bool_and(e.adapted_through = p.at) AS newest, count(DISTINCT e.xmin::text) AS transactions FROM pass_embedding e JOIN (SELECT member_id, max(at) AS at FROM pass GROUP BY member_id) p USING (member_id);
SELECT count(*), bool_and(limaml_adapt('pass', member_id) = embedding) AS adapted FROM pass_embedding WHERE member_id % 1000 = 1;

-- Only the newest support_rows count
INSERT INTO tied SELECT 1, 500 + i, '2000-01-01', 1, i % 2 = 0 FROM generate_series(1, 10) i;
CREATE TEMP TABLE tied_before AS SELECT * FROM tied_embedding;
CALL limaml_refresh('tied');
SELECT a.interactions, a.embedding = b.embedding AS same FROM tied_embedding a JOIN tied_before b USING (member_id) WHERE member_id = 1;
INSERT INTO tied SELECT 1, 500 + i, '2025-01-01', 1, true FROM generate_series(1, 7) i;
DELETE FROM tied WHERE member_id = 1 AND at < '2025-01-01';
CALL limaml_refresh('tied');
CREATE TEMP TABLE seven AS SELECT embedding FROM tied_embedding WHERE member_id = 1;
INSERT INTO tied SELECT 1, i, '2001-01-01', 1, false FROM generate_series(1, 100) i;
CALL limaml_refresh('tied');
SELECT e.interactions, e.embedding = s.embedding AS the_seven FROM tied_embedding e, seven s WHERE member_id = 1;

-- Recency: older rows count less, and not at all where it is off
SELECT create_small('recent', 'tied', '{"recency": 1}');
SELECT (limaml_train('recent', '{"recency": null}')).version;
CREATE FUNCTION moves() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	before meta_embedding := limaml_adapt('recent', 2);
	moved boolean;
BEGIN
	UPDATE tied SET at = date '2024-01-01' + (date '2024-01-10' - at) WHERE member_id = 2;
	moved := (before <-> limaml_adapt('recent', 2)) > 1e-4;
	UPDATE tied SET at = date '2024-01-01' + (date '2024-01-10' - at) WHERE member_id = 2;
	RETURN moved;
END
$$;
SELECT moves() AS with_recency;
SELECT limaml_deploy('recent', 2);
SELECT moves() AS without;

-- A view with more rows than a fetch, an infinite time, times before the epoch
CREATE TABLE long AS SELECT m AS member_id, i % 50 AS item_id, CASE WHEN i = 1 THEN '-infinity' WHEN i = 3000 THEN 'infinity' ELSE timestamp '1960-01-01' + i * interval '1 day' END AS at, 1 AS year, i % 3 > 0 AS liked
FROM generate_series(1, 2) m, generate_series(1, 3000) i;
SELECT create_small('long', 'long', '{"support_rows": 16384, "epochs": 1}');
CALL limaml_refresh('long');
SELECT member_id, interactions, adapted_through, limaml_adapt('long', member_id) = embedding AS adapted FROM long_embedding ORDER BY 1;
CALL limaml_refresh('long');

-- A list of entities that takes more memory than there is
CREATE TABLE multitude AS SELECT m AS member_id, m % 50 AS item_id, m AS at, m % 7 AS year, m % 3 > 0 AS liked FROM generate_series(1, 12000) m;
SELECT create_small('multitude', 'multitude', '{"epochs": 1}');
SET limaml.work_mem = '1MB';
CALL limaml_refresh('multitude');
CALL limaml_refresh('multitude', only_stale => false);
RESET limaml.work_mem;
SELECT count(*), bool_and(interactions = 1) AS whole FROM multitude_embedding;

-- The inner loop diverges: which entity, at which step, and nothing stored
SELECT limaml_create_model('diverges', 'rating', '{member_id}', 'liked', 'at', '{year}',
	options => '{"embedding_size": 4, "meta_hidden": [], "global_hidden": [], "epochs": 1, "loss": "squared", "activation": "relu", "inner_steps": 20, "inner_rate": 1, "learning_rate": 1e-9}');
SELECT version FROM limaml_train('diverges');
UPDATE rating SET liked = 1000000000 WHERE member_id = 23;
DO $$
DECLARE
	message text;
	hint text;
BEGIN
	UPDATE rating SET year = 2147483647 WHERE member_id = 23;
	ALTER TABLE rating ALTER liked TYPE float8;
	UPDATE rating SET liked = 3e38 WHERE member_id = 23;
	CALL limaml_refresh('diverges');
EXCEPTION WHEN numeric_value_out_of_range THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RAISE WARNING '% / %', regexp_replace(message, 'step \d+', 'step K'), hint;
END $$;
SELECT count(*) FROM diverges_embedding;

-- A key that is of another type from one batch to the next
CREATE TABLE retyped AS SELECT m::numeric AS member_id, n AS at, n % 3 AS year, n % 2 = 0 AS liked FROM generate_series(1, 40) m, generate_series(1, 5) n;
SELECT limaml_create_model('retyped', 'retyped', '{member_id}', 'liked', 'at', '{year}', options => '{"embedding_size": 4, "epochs": 1}');
SELECT version FROM limaml_train('retyped');
CREATE FUNCTION retype() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	ALTER TABLE refresh_test.retyped ALTER member_id TYPE int;
	RETURN NULL;
END $$;
CREATE TRIGGER retype AFTER INSERT ON retyped_embedding FOR EACH STATEMENT EXECUTE FUNCTION retype();
CALL limaml_refresh('retyped');

\set VERBOSITY terse
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA refresh_test CASCADE;
