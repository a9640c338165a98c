--
-- A refresh of all entities where they are many: in shares, each of which one
-- pass over the interactions finds.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA pass_test;
SET search_path = pass_test, public;

-- Columns in another order than the model's, and one that is gone
CREATE TABLE shown (title text, clicked boolean, gone integer, price real, member_id integer, words text[], at timestamptz);
ALTER TABLE shown DROP COLUMN gone;
INSERT INTO shown
SELECT 't' || n % 7, hashint4(n) % 3 = 0, n % 11, n % 40000, ARRAY['w' || n % 5, 'w' || n % 3], timestamptz '2026-01-01 UTC' + n % 86400 * interval '1 s'
FROM generate_series(1, 120000) n;

-- rows of nobody, at no time, without a label: none of them counts
INSERT INTO shown SELECT 't1', CASE WHEN n % 3 > 0 THEN true END, 1, CASE WHEN n % 3 <> 1 THEN 50000 + n END, '{}', CASE WHEN n % 3 <> 2 THEN timestamptz '2026-02-01 UTC' END
FROM generate_series(1, 30) n;
ANALYZE shown;
CREATE VIEW few AS SELECT * FROM shown WHERE member_id < 50;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age FROM generate_series(0, 40010, 2) m;
ALTER TABLE member ADD PRIMARY KEY (member_id);

CREATE FUNCTION create_model(model text, relation regclass, options jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, relation, '{member_id}', 'clicked', 'at', '{price,title:category,words:categories}', 'member', '{age}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1, "support_rows": 2}' || options)
$$;
SELECT create_model('few', 'few');
SELECT version FROM limaml_train('few');
SELECT create_model('shown', 'shown'), limaml_import('shown', limaml_export('few')), limaml_import('shown', limaml_export('few'));

-- The first is by passes, as is all that is not only what is stale; within a
-- transaction it is by a list of the keys.

CREATE VIEW jobs AS SELECT j.state, j.entities, j.adapted, j.interactions, s.shares, (SELECT count(*) FROM limaml.stored_batch b WHERE b.job_id = j.job) AS batches
FROM limaml.job j JOIN limaml.stored_job s ON s.id = j.job WHERE j.model = 'shown' ORDER BY j.job DESC LIMIT 1;
CREATE FUNCTION differing(a int, b int) RETURNS TABLE (embeddings bigint, differ bigint, alone bigint) LANGUAGE sql AS $$
	SELECT count(*), count(*) FILTER (WHERE ROW(x.embedding, x.interactions, x.adapted_through, x.loss_before, x.loss_after)
			IS DISTINCT FROM ROW(y.embedding, y.interactions, y.adapted_through, y.loss_before, y.loss_after)),
		count(*) FILTER (WHERE x.version IS NULL OR y.version IS NULL)
	FROM (SELECT * FROM shown_embedding WHERE version = a) x FULL JOIN (SELECT * FROM shown_embedding WHERE version = b) y USING (member_id)
$$;
CALL limaml_refresh('shown', 1);
TABLE jobs;
BEGIN;
CALL limaml_refresh('shown', 2);
COMMIT;
TABLE jobs;
SELECT * FROM differing(1, 2);

-- The next one follows what is newer
INSERT INTO shown VALUES ('t2', true, 3, 7, '{w1}', '2026-03-01 UTC');
CALL limaml_refresh('shown', 1);
TABLE jobs;
CALL limaml_refresh('shown', 2);

-- All again; and where the planner knows too few, and there is little memory: a part has more entities than fit
CALL limaml_refresh('shown', 1, false);
TABLE jobs;
SELECT * FROM differing(1, 2);
ALTER TABLE shown ALTER COLUMN member_id SET (n_distinct = 9000);
ANALYZE shown;
SET limaml.work_mem = '1MB';
CALL limaml_refresh('shown', 1, false);
RESET limaml.work_mem;
TABLE jobs;
SELECT * FROM differing(1, 2);
ALTER TABLE shown ALTER COLUMN member_id RESET (n_distinct);
ANALYZE shown;

-- Nobody has told the planner how many they are
CREATE TABLE copied AS SELECT * FROM shown;
SELECT create_model('copied', 'copied'), limaml_import('copied', limaml_export('few'));
CALL limaml_refresh('copied');
SELECT j.state, j.entities, s.shares FROM limaml.job j JOIN limaml.stored_job s ON s.id = j.job WHERE j.model = 'copied';
SELECT count(*) AS embeddings, count(*) FILTER (WHERE c.embedding IS DISTINCT FROM s.embedding) AS differ
FROM copied_embedding c FULL JOIN (SELECT * FROM shown_embedding WHERE version = 1) s USING (member_id);

-- Who has no row any more has the prior; who never had one has none
DELETE FROM shown WHERE member_id BETWEEN 100 AND 120;
CALL limaml_refresh('shown', 1, false);
BEGIN;
CALL limaml_refresh('shown', 2, false);
COMMIT;
SELECT * FROM differing(1, 2);
SELECT count(*), sum(interactions), bool_and(adapted_through IS NULL) FROM shown_embedding WHERE version = 1 AND member_id BETWEEN 100 AND 120;

-- A row that cannot be adapted on names its entity, and nothing is stored
CREATE TABLE rated AS SELECT member_id, at, price, CASE WHEN member_id = 777 THEN 2 ELSE clicked::int END AS clicked, title, words FROM shown;
ANALYZE rated;
SELECT create_model('rated', 'rated'), limaml_import('rated', limaml_export('few'));
CALL limaml_refresh('rated');
SELECT count(*) FROM rated_embedding;
UPDATE rated SET clicked = 1 WHERE member_id = 777 AND clicked = 2;

-- Who may read no more than the columns of a model has it all the same
CREATE ROLE limaml_pass_owner;
GRANT USAGE, CREATE ON SCHEMA pass_test TO limaml_pass_owner;
GRANT SELECT (member_id, at, price, clicked, title, words) ON rated TO limaml_pass_owner;
GRANT SELECT ON member TO limaml_pass_owner;
ALTER TABLE rated ADD COLUMN secret text;
ALTER TABLE rated_embedding OWNER TO limaml_pass_owner;
SET ROLE limaml_pass_owner;
SELECT * FROM rated LIMIT 0;
CALL limaml_refresh('rated');
RESET ROLE;
SELECT count(*) AS entities, count(*) FILTER (WHERE limaml_adapt('rated', member_id) IS DISTINCT FROM embedding) AS differ FROM rated_embedding WHERE member_id % 500 = 0;
SELECT count(*) FROM rated_embedding;

-- Keys that a view makes anew for each row, and that are not in one piece
CREATE DOMAIN pair AS integer[];
CREATE FUNCTION as_pair(m integer) RETURNS pair LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	p pass_test.pair := ARRAY[m, 0];
BEGIN
	p[3] := 7;
	RETURN p;
END $$;
CREATE VIEW paired AS SELECT as_pair(member_id) AS pair, clicked, at, price FROM shown WHERE member_id < 12000 AND at IS NOT NULL;
CREATE VIEW few_pairs AS SELECT * FROM paired LIMIT 100;
SELECT limaml_create_model(model, relation::regclass, '{pair}', 'clicked', 'at', '{price}', options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1}')
FROM (VALUES ('few_pairs', 'few_pairs'), ('paired', 'paired')) v (model, relation);
SELECT version FROM limaml_train('few_pairs');
SELECT limaml_import('paired', limaml_export('few_pairs'));
CALL limaml_refresh('paired');
SELECT j.state, j.entities, s.shares FROM limaml.job j JOIN limaml.stored_job s ON s.id = j.job WHERE j.model = 'paired';
SELECT count(*) FILTER (WHERE limaml_adapt('paired', pair) IS DISTINCT FROM embedding) AS differ, count(*) AS compared FROM paired_embedding WHERE pair[1] % 500 = 0;

-- Columns that are read where they lie, each being of one length: some null, one younger than most rows, a partition in another order
CREATE TABLE plain (tiny smallint, clicked boolean, f real, who uuid, g double precision, at timestamptz, kind integer) PARTITION BY LIST ((kind % 2));
CREATE TABLE plain_even PARTITION OF plain FOR VALUES IN (0);
CREATE TABLE plain_odd (kind integer, at timestamptz, tiny smallint, clicked boolean, g double precision, who uuid, f real);
ALTER TABLE plain ATTACH PARTITION plain_odd FOR VALUES IN (1);
CREATE FUNCTION plain_rows(first integer, last integer) RETURNS TABLE (tiny smallint, clicked boolean, f real, who uuid, g double precision, at timestamptz, kind integer) LANGUAGE sql AS $$
	SELECT n % 13, hashint4(n) % 3 = 0, CASE WHEN n % 7 > 0 THEN n % 11 END, md5((n % 9000)::text)::uuid, n % 17 / 3.0, timestamptz '2026-01-01 UTC' + n * interval '1 s', n % 5
	FROM generate_series(first, last) n
$$;
INSERT INTO plain SELECT * FROM plain_rows(1, 30000);
ALTER TABLE plain ADD COLUMN late real, ADD COLUMN later real;
CREATE FUNCTION odd_number(n integer) RETURNS real LANGUAGE sql RETURN (ARRAY['NaN', 'Infinity', '-Infinity', 1e3, -1e3, '-0', 1e-40, n]::real[])[n % 8 + 1];
INSERT INTO plain SELECT p.*, tiny / 7.0, odd_number(tiny) FROM plain_rows(30001, 60000) p;
INSERT INTO plain SELECT 1, CASE WHEN n > 10 THEN true END, 1, md5(n::text)::uuid, 1, CASE WHEN n <= 10 THEN timestamptz '2026-02-01 UTC' END, 1, 1, 1 FROM generate_series(1, 20) n;
ANALYZE plain;
CREATE VIEW few_plain AS SELECT * FROM plain WHERE who < '02000000-0000-0000-0000-000000000000';
SELECT limaml_create_model(model, relation::regclass, '{who}', 'clicked', 'at', '{late,later,tiny,f,g,kind:category}', options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1}')
FROM (VALUES ('few_plain', 'few_plain'), ('plain', 'plain')) v (model, relation);
SELECT version FROM limaml_train('few_plain');
SELECT limaml_import('plain', limaml_export('few_plain'));
CALL limaml_refresh('plain');
SELECT j.state, j.entities, j.interactions, s.shares FROM limaml.job j JOIN limaml.stored_job s ON s.id = j.job WHERE j.model = 'plain';
SELECT count(*) FILTER (WHERE limaml_adapt('plain', who) IS DISTINCT FROM embedding) AS differ, count(*) AS compared, count(DISTINCT embedding) > 100 AS different FROM plain_embedding WHERE who < '08000000-0000-0000-0000-000000000000';

-- and one that has a default for the rows before it
ALTER TABLE plain ADD COLUMN latest smallint DEFAULT 3;
INSERT INTO plain SELECT p.*, tiny / 7.0, odd_number(tiny), tiny FROM plain_rows(60001, 70000) p;
SELECT limaml_create_model('latest', 'plain', '{who}', 'clicked', 'at', '{late,later,latest,f}', options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1, "batch_entities": 1024}');
SELECT version FROM limaml_train('latest');
CALL limaml_refresh('latest');
SELECT count(*) FILTER (WHERE limaml_adapt('latest', who) IS DISTINCT FROM embedding) AS differ, count(*) AS compared FROM latest_embedding WHERE who < '08000000-0000-0000-0000-000000000000';

-- Of few entities those with very many rows are found by a pass, too, and their rows need not wait; but where they are not so few
CREATE TABLE long AS SELECT n % 6000 AS member_id, timestamptz '2026-01-01 UTC' + n * interval '1 s' AS at, n % 11 AS price, hashint4(n) % 3 = 0 AS clicked, 't' || n % 7 AS title, NULL::text[] AS words FROM generate_series(1, 40000) n;
ALTER TABLE long ALTER COLUMN member_id SET (n_distinct = 30);
ANALYZE long;
CREATE VIEW few_long AS SELECT * FROM long WHERE member_id < 30;
SELECT create_model(model, model::regclass), limaml_import(model, limaml_export('few')) FROM unnest('{few_long,long}'::text[]) model;
UPDATE pg_class SET reltuples = 3000000 WHERE oid = 'long'::regclass;
CALL limaml_refresh('long');
SET limaml.work_mem = '1MB';
CALL limaml_refresh('long', NULL, false);
CALL limaml_refresh('few_long');
RESET limaml.work_mem;
SELECT j.model, j.kind, j.entities, j.adapted, j.interactions, s.shares FROM limaml.job j JOIN limaml.stored_job s ON s.id = j.job WHERE j.model IN ('long', 'few_long') ORDER BY j.job;
SELECT count(*) FILTER (WHERE limaml_adapt('long', member_id) IS DISTINCT FROM embedding) AS differ, count(*) AS compared FROM long_embedding WHERE member_id % 100 = 0;
SELECT count(*) FILTER (WHERE l.embedding IS DISTINCT FROM f.embedding) AS differ, count(*) AS compared FROM long_embedding l JOIN few_long_embedding f USING (member_id);

-- Changes: the keys of all that a pass adapts are taken, and no other
SELECT create_model('changed', 'shown', '{"staleness": "changes"}'), limaml_import('changed', limaml_export('few'));
CALL limaml_refresh('changed');
UPDATE shown SET price = price + 1 WHERE member_id % 100 = 1;
DELETE FROM shown WHERE member_id BETWEEN 200 AND 202;
SELECT count(DISTINCT member_id) FROM changed_embedding_changes;
CALL limaml_refresh('changed', NULL, false);
SELECT count(*) FROM changed_embedding_changes;
SELECT count(*) FILTER (WHERE limaml_adapt('changed', member_id) IS DISTINCT FROM embedding) AS differ, count(*) AS compared FROM changed_embedding WHERE member_id % 100 IN (0, 1, 2);

-- A key of texts that are equal without being alike, times that are numerics, a view of partitions, no label, negatives
CREATE TABLE parted (who numeric, at numeric, item integer) PARTITION BY LIST ((item % 2));
CREATE TABLE parted_even (item integer, at numeric, who numeric);
ALTER TABLE parted ATTACH PARTITION parted_even FOR VALUES IN (0);
CREATE TABLE parted_odd PARTITION OF parted FOR VALUES IN (1);
INSERT INTO parted SELECT (n % 34000)::numeric(8, 2) + CASE WHEN n % 2 = 0 THEN 0.10 ELSE 0.1000 END, n::numeric / 3, n % 13 FROM generate_series(1, 70000) n;
CREATE TABLE item AS SELECT i AS item, 'k' || i % 4 AS kind FROM generate_series(0, 12) i;
ALTER TABLE item ADD PRIMARY KEY (item);
CREATE VIEW likes AS SELECT p.*, i.kind FROM parted p JOIN item i USING (item);
ANALYZE parted, item;
SELECT limaml_create_model('likes', 'likes', '{who}', NULL, 'at', '{item:category,kind}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1, "items": "pass_test.item", "item_key": "item", "negatives": 2, "batch_entities": 512}');
SELECT version FROM limaml_train('likes');

-- with so little memory that there are many shares, and parts of one with more entities than fit, whose rows wait again
SET limaml.work_mem = '1MB';
CALL limaml_refresh('likes');
RESET limaml.work_mem;
SELECT j.state, j.entities, s.shares > 2 AS shares FROM limaml.job j JOIN limaml.stored_job s ON s.id = j.job WHERE j.model = 'likes' AND j.kind = 'refresh';
SELECT count(*), sum(interactions), count(DISTINCT embedding) > 10 AS different FROM likes_embedding;
SELECT count(*) FILTER (WHERE limaml_adapt('likes', who) IS DISTINCT FROM embedding) AS differ, count(*) AS compared FROM likes_embedding WHERE who % 1000 < 1;

SET client_min_messages = error;
SELECT limaml_drop_model(model) FROM unnest('{few,shown,copied,rated,few_pairs,paired,few_plain,plain,latest,few_long,long,changed,likes}'::text[]) model;
DROP SCHEMA pass_test CASCADE;
DROP ROLE limaml_pass_owner;
