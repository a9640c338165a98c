--
-- The option "staleness": triggers that write changed keys down, and what a refresh makes of them; versions.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA changes_test;
SET search_path = changes_test, public;

CREATE TABLE rating (id int PRIMARY KEY, member_id int, item_id int, at date, liked boolean);
INSERT INTO rating SELECT m * 10 + n, m, (m * 7 + n * 3) % 20, date '2024-01-01' + n, (m + n) % 3 = 0 FROM generate_series(1, 20) m, generate_series(1, 4) n;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age FROM generate_series(1, 25) m;

CREATE FUNCTION create_small(model text, interactions regclass, key text[] DEFAULT '{member_id}', options jsonb DEFAULT '{"staleness": "changes"}', entities regclass DEFAULT NULL)
RETURNS int LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, key, 'liked', 'at', '{item_id:category}', entities, CASE WHEN entities IS NULL THEN '{}' ELSE '{age}'::text[] END,
		options => '{"embedding_size": 4, "meta_hidden": [4], "global_hidden": [4], "epochs": 1}' || options);
	SELECT version FROM limaml_train(model)
$$;
CREATE VIEW triggers AS
SELECT tgrelid::regclass AS table, string_agg(tgname, ' ' ORDER BY tgname) AS triggers
FROM pg_trigger WHERE tgfoid = 'limaml_record_changes()'::regprocedure GROUP BY tgrelid;

-- The option makes triggers and a table of keys

SELECT create_small('taste', 'rating', entities => 'member');
TABLE triggers ORDER BY 1::text;
\d taste_embedding_changes
SELECT changes FROM limaml.model WHERE model = 'taste';
CALL limaml_refresh('taste');

-- Keys that have changed; what a refresh then adapts, with nothing wrong and no key left
CREATE FUNCTION changed() RETURNS int[] LANGUAGE sql AS $$ SELECT array_agg(DISTINCT member_id ORDER BY member_id) FROM taste_embedding_changes $$;
CREATE FUNCTION result(OUT adapted bigint, OUT wrong bigint, OUT missing bigint, OUT changed int[]) LANGUAGE sql AS $$
	SELECT (SELECT adapted FROM limaml.job WHERE model = 'taste' AND kind = 'refresh' ORDER BY job DESC LIMIT 1),
		(SELECT count(*) FROM taste_embedding e, limaml.model WHERE model = 'taste' AND version = deployed AND limaml_adapt('taste', member_id) <> embedding),
		(SELECT count(DISTINCT member_id) FROM rating r WHERE NOT EXISTS (SELECT FROM taste_embedding e, limaml.model WHERE model = 'taste' AND version = deployed AND e.member_id = r.member_id)),
		changed()
$$;
SELECT * FROM result();
CALL limaml_refresh('taste');
SELECT * FROM result();

-- Statements

INSERT INTO rating VALUES (1, 1, 3, '2024-02-01', true);
SELECT changed();
INSERT INTO rating SELECT 2 + n, 2, n, '2024-02-01', true FROM generate_series(0, 2) n;
SELECT changed();
COPY rating FROM STDIN (FORMAT csv);
5,3,1,2024-02-01,t
6,77,1,2024-02-01,f
\.
SELECT changed();
CALL limaml_refresh('taste');
SELECT * FROM result();
UPDATE rating SET liked = NOT liked WHERE id = 41;
UPDATE rating SET item_id = 9 WHERE id = 51;
UPDATE rating SET at = '2020-01-01' WHERE id = 61;
UPDATE rating SET member_id = 8 WHERE id = 71;
SELECT changed();
CALL limaml_refresh('taste');
SELECT * FROM result();
DELETE FROM rating WHERE id = 91;
DELETE FROM rating WHERE member_id = 10;
SELECT changed();
CALL limaml_refresh('taste');
SELECT * FROM result();
SELECT interactions, adapted_through FROM taste_embedding WHERE member_id = 10;
INSERT INTO rating VALUES (111, 12, 5, '2024-02-01', true) ON CONFLICT (id) DO UPDATE SET item_id = 5;
SELECT changed();
INSERT INTO rating VALUES (111, 14, 5, '2024-02-01', true) ON CONFLICT (id) DO UPDATE SET member_id = excluded.member_id;
INSERT INTO rating VALUES (121, 13, 5, '2024-02-01', true) ON CONFLICT (id) DO NOTHING;
SELECT changed();
CALL limaml_refresh('taste');
SELECT * FROM result();
MERGE INTO rating r USING (VALUES (151, 0, true), (161, 17, false), (9, 18, true)) AS s (id, member_id, gone) ON r.id = s.id
WHEN MATCHED AND gone THEN DELETE WHEN MATCHED THEN UPDATE SET member_id = s.member_id WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.member_id, 1, '2024-02-01', true);
SELECT changed();
WITH gone AS (DELETE FROM rating WHERE id = 191 RETURNING *) INSERT INTO rating SELECT 192 + 1000, 20, item_id, at, liked FROM gone;
SELECT changed();
CALL limaml_refresh('taste');
SELECT * FROM result();

-- Entities: one without interactions has no embedding
UPDATE member SET age = 40 WHERE member_id IN (1, 22);
INSERT INTO member VALUES (77, 4), (78, 4);
DELETE FROM member WHERE member_id = 2;
SELECT changed();
CALL limaml_refresh('taste');
SELECT wrong, missing, changed FROM result();
SELECT member_id FROM taste_embedding WHERE member_id IN (1, 2, 22, 77, 78) ORDER BY 1;
CALL limaml_refresh('taste');
SELECT * FROM result();

-- Nothing that matters: no rows, rolled back, a key that is NULL
UPDATE rating SET liked = true WHERE false;
DELETE FROM rating WHERE id < 0;
BEGIN;
UPDATE rating SET liked = NOT liked;
ROLLBACK;
BEGIN;
SAVEPOINT s;
DELETE FROM rating;
ROLLBACK TO s;
COMMIT;
INSERT INTO rating VALUES (900, NULL, 1, '2024-02-01', true);
UPDATE rating SET item_id = 2 WHERE id = 900;
UPDATE rating SET liked = true, at = '2024-03-01' WHERE member_id IS NULL;
INSERT INTO member VALUES (NULL, 1);
SELECT changed();
UPDATE rating SET member_id = 3 WHERE id = 900;
UPDATE rating SET member_id = NULL WHERE id = 43;
SELECT changed();
CALL limaml_refresh('taste');
SELECT * FROM result();

-- In a transaction with what changed
BEGIN;
INSERT INTO rating VALUES (901, 5, 1, '2024-03-01', true);
CALL limaml_refresh('taste');
SELECT * FROM result();
ROLLBACK;
SELECT * FROM result();

-- All, with keys that others have written
INSERT INTO rating VALUES (902, 6, 1, '2024-03-01', true);
CALL limaml_refresh('taste', only_stale => false);
SELECT wrong, missing, changed FROM result();

-- Keys that were written by hand, or of nobody
INSERT INTO taste_embedding_changes VALUES (7), (7), (NULL), (12345);
CALL limaml_refresh('taste');
SELECT wrong, missing, array_remove(changed, NULL) AS changed FROM result();
SELECT count(*) FROM taste_embedding WHERE member_id = 12345;
DELETE FROM taste_embedding_changes;

-- TRUNCATE
BEGIN;
TRUNCATE rating;
SELECT cardinality(changed()) = count(*) AS all FROM taste_embedding;
CALL limaml_refresh('taste');
SELECT wrong, missing, changed FROM result();
ROLLBACK;

-- The option goes, and comes back: all entities once

SELECT limaml_set_options('taste', '{"staleness": "event_time"}');
SELECT * FROM triggers;
SELECT to_regclass('taste_embedding_changes'), (SELECT changes FROM limaml.model WHERE model = 'taste');
UPDATE rating SET liked = NOT liked WHERE id = 41;
SELECT limaml_set_options('taste', '{"staleness": "changes", "lateness": "2 hours"}');
SELECT limaml_set_options('taste', '{"staleness": "changes", "refresh_interval": "1 day"}');
SELECT limaml_set_options('taste', '{"refresh_interval": null}');
SELECT options -> 'staleness' AS staleness, options -> 'lateness' AS lateness, options -> 'refresh_interval' AS every FROM limaml.model WHERE model = 'taste';
SELECT count(*) FROM triggers;
CALL limaml_refresh('taste');
SELECT adapted = (SELECT count(*) FROM taste_embedding) AS all, wrong, missing, changed FROM result();
BEGIN;
SELECT limaml_set_options('taste', '{"staleness": "event_time"}');
SELECT limaml_set_options('taste', '{"staleness": "changes"}');
ROLLBACK;
UPDATE rating SET liked = NOT liked WHERE id = 42;
CALL limaml_refresh('taste');
SELECT * FROM result();

-- Options that are none

SELECT limaml_set_options('taste', '{"staleness": "x"}');
SELECT limaml_set_options('taste', '{"staleness": null}');
SELECT limaml_set_options('taste', '{"staleness": true}');
SELECT limaml_set_options('taste', '{"lateness": "abc"}');
SELECT limaml_set_options('taste', '{"lateness": "-1 hour"}');
SELECT limaml_set_options('taste', '{"lateness": 3600}');
SELECT limaml_set_options('taste', '{"lateness": null}');
SELECT limaml_set_options('taste', '{"refresh_interval": "0"}');
SELECT limaml_set_options('taste', '{"refresh_interval": "-1 day"}');
SELECT limaml_set_options('taste', '{"refresh_interval": "soon"}');
SELECT limaml_set_options('taste', '{"staleness_": "changes"}');
SELECT limaml_set_options('taste', '{"embedding_size": 8}');
SELECT limaml_set_options('taste', '[1]');
SELECT limaml_set_options('nobody', '{}');
SELECT limaml_train('taste', '{"staleness": "changes"}');
SELECT limaml_train('taste', '{"lateness": "1 hour"}');
SELECT limaml_train('taste', '{"refresh_interval": "1 hour"}');
SELECT count(*) FROM limaml.version WHERE model = 'taste';

-- Two models on one table; the triggers go with the last

SELECT create_small('pair', 'rating', '{member_id,item_id}');
CALL limaml_refresh('pair');
SELECT count(*) FROM triggers;
UPDATE rating SET item_id = 11 WHERE id = 21;
TABLE pair_embedding_changes ORDER BY member_id, item_id;
SELECT changed();
CALL limaml_refresh('pair');
CALL limaml_refresh('taste');
SELECT * FROM result();
SELECT count(*) AS wrong FROM pair_embedding WHERE limaml_adapt('pair', ROW(member_id, item_id)) <> embedding;
SELECT limaml_drop_model('taste');
TABLE triggers;
SELECT to_regclass('taste_embedding'), to_regclass('taste_embedding_changes');
DELETE FROM rating WHERE id = 22;
CALL limaml_refresh('pair');
SELECT count(*) AS wrong FROM pair_embedding WHERE limaml_adapt('pair', ROW(member_id, item_id)) <> embedding;
SELECT limaml_drop_model('pair');
TABLE triggers;
UPDATE rating SET item_id = 12 WHERE id = 21;

-- A table of keys that was dropped: writers are told, until the option or the model goes

SELECT create_small('lost', 'rating');
DROP TABLE lost_embedding_changes;
UPDATE rating SET item_id = 13 WHERE id = 21;
CALL limaml_refresh('lost');
SELECT limaml_set_options('lost', '{"staleness": "event_time"}');
UPDATE rating SET item_id = 13 WHERE id = 21;
CALL limaml_refresh('lost');
SELECT limaml_drop_model('lost');
TABLE triggers;

-- Quoted names, several columns, texts

CREATE TABLE "Odd ""Rating""" ("Member Id" text COLLATE "C", "select" varchar(8), item_id int, at timestamp, liked int);
INSERT INTO "Odd ""Rating""" SELECT 'm''' || m % 5, 's"' || m % 2, m % 7, timestamp '2024-01-01' + m * interval '1 hour', m % 2 FROM generate_series(1, 60) m;
SELECT create_small('odd', '"Odd ""Rating"""', '{Member Id,select}');
CALL limaml_refresh('odd');
UPDATE "Odd ""Rating""" SET liked = 1 - liked WHERE "Member Id" = 'm''1' AND "select" = 's"0';
UPDATE "Odd ""Rating""" SET "select" = 'new' WHERE "Member Id" = 'm''2' AND at = (SELECT max(at) FROM "Odd ""Rating""" WHERE "Member Id" = 'm''2');
INSERT INTO "Odd ""Rating""" VALUES ('only one', NULL, 1, '2024-01-01', 1), (NULL, 's"0', 1, '2024-01-01', 1), ('', '', 1, '2024-01-01', 1);
SELECT * FROM odd_embedding_changes GROUP BY 1, 2 ORDER BY 1, 2;
CALL limaml_refresh('odd');
SELECT * FROM odd_embedding_changes;
SELECT count(*), count(*) FILTER (WHERE limaml_adapt('odd', ROW("Member Id", "select")) <> embedding) AS wrong FROM odd_embedding;
SELECT limaml_drop_model('odd');

-- Partitions: through the parent, straight into one, from one to the other, and one that comes later

CREATE TABLE parted (member_id int, channel int, item_id int, at date, liked boolean) PARTITION BY LIST (channel);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY RANGE (at);
CREATE TABLE parted_2_1 PARTITION OF parted_2 DEFAULT;
INSERT INTO parted SELECT member_id, id % 2 + 1, item_id, at, liked FROM rating WHERE member_id IS NOT NULL;
SELECT create_small('parts', 'parted');
TABLE triggers ORDER BY 1::text;
CALL limaml_refresh('parts');
CREATE FUNCTION parts(OUT changed int[], OUT wrong bigint) LANGUAGE sql AS $$
	SELECT (SELECT array_agg(DISTINCT member_id ORDER BY member_id) FROM parts_embedding_changes), (SELECT count(*) FROM parts_embedding WHERE limaml_adapt('parts', member_id) <> embedding)
$$;
INSERT INTO parted VALUES (1, 1, 3, '2024-02-01', true);
INSERT INTO parted_1 VALUES (2, 1, 3, '2024-02-01', true);
INSERT INTO parted_2 VALUES (3, 2, 3, '2024-02-01', true);
INSERT INTO parted_2_1 VALUES (4, 2, 3, '2024-02-01', true);
UPDATE parted SET channel = 3 - channel WHERE member_id = 5;
UPDATE parted_2 SET member_id = 7 WHERE member_id = 6;
DELETE FROM parted_2_1 WHERE member_id = 8;
SELECT * FROM parts();
CALL limaml_refresh('parts');
SELECT * FROM parts();
CREATE TABLE parted_3 (LIKE parted);
INSERT INTO parted_3 VALUES (9, 3, 3, '2024-02-01', true), (99, 3, 3, '2024-02-01', true), (NULL, 3, 3, '2024-02-01', true);
ALTER TABLE parted ATTACH PARTITION parted_3 FOR VALUES IN (3);
CREATE TABLE parted_4 PARTITION OF parted FOR VALUES IN (4);
INSERT INTO parted_4 VALUES (10, 4, 3, '2024-02-01', true);
INSERT INTO parted VALUES (11, 4, 3, '2024-02-01', true);
SELECT * FROM parts();
CALL limaml_refresh('parts');
SELECT * FROM parts();
SELECT count(*) FROM triggers;
DELETE FROM parted_3 WHERE member_id = 99;
TRUNCATE parted_4;
SELECT changed[array_upper(changed, 1) - 2 :] AS changed, wrong FROM parts();
CALL limaml_refresh('parts');
SELECT * FROM parts();
SELECT limaml_drop_model('parts');
TABLE triggers;

-- Children
CREATE TABLE family (LIKE rating);
CREATE TABLE child () INHERITS (family);
INSERT INTO family SELECT * FROM rating WHERE member_id < 10;
INSERT INTO child SELECT * FROM rating WHERE member_id >= 10;
SELECT create_small('family', 'family');
CALL limaml_refresh('family');
UPDATE child SET item_id = 15 WHERE member_id = 12;
UPDATE family SET item_id = 15 WHERE member_id IN (2, 13);
SELECT DISTINCT member_id FROM family_embedding_changes ORDER BY 1;
CALL limaml_refresh('family');
SELECT count(*), count(*) FILTER (WHERE limaml_adapt('family', member_id) <> embedding) AS wrong FROM family_embedding;
SELECT limaml_drop_model('family');
TABLE triggers;

-- Relations that have no such triggers

CREATE VIEW rating_view AS TABLE rating;
CREATE MATERIALIZED VIEW rating_matview AS TABLE rating;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE rating_foreign (id int, member_id int, item_id int, at date, liked boolean) SERVER nowhere;
CREATE VIEW member_view AS TABLE member;
SELECT create_small('refused', 'rating_view');
SELECT create_small('refused', 'rating_matview');
SELECT create_small('refused', 'rating_foreign');
SELECT create_small('refused', 'rating', entities => 'member_view');
SELECT create_small('refused', 'parted_1');
CREATE TABLE wide AS SELECT member_id::bigint, age FROM member;
SELECT create_small('refused', 'rating', entities => 'wide');
SELECT create_small('view', 'rating_view', options => '{}');
SELECT limaml_set_options('view', '{"staleness": "changes"}');
SELECT options -> 'staleness' AS staleness FROM limaml.model WHERE model = 'view';
SELECT limaml_drop_model('view');
TABLE triggers;

-- A partition that is none of those
SELECT create_small('parts', 'parted');
CREATE FOREIGN TABLE parted_5 PARTITION OF parted FOR VALUES IN (5) SERVER nowhere;
CALL limaml_refresh('parts');
DROP FOREIGN TABLE parted_5;
CALL limaml_refresh('parts');
SELECT limaml_drop_model('parts');

-- The trigger's function by itself
SELECT limaml_record_changes();
CREATE TRIGGER for_each_row AFTER INSERT ON wide FOR EACH ROW EXECUTE FUNCTION limaml_record_changes();
INSERT INTO wide VALUES (1, 1);
DROP TABLE wide;

-- Writers need no right on the table of keys, and their search path is nobody's business

CREATE ROLE limaml_changes_owner;
CREATE ROLE limaml_changes_writer;
CREATE ROLE limaml_changes_other;
GRANT ALL ON SCHEMA changes_test TO limaml_changes_owner;
GRANT USAGE ON SCHEMA changes_test TO limaml_changes_writer;
GRANT EXECUTE ON FUNCTION create_small TO limaml_changes_owner;
GRANT SELECT, TRIGGER ON rating TO limaml_changes_owner;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON rating TO limaml_changes_writer;
GRANT SELECT ON rating TO limaml_changes_other;
SET ROLE limaml_changes_owner;
SELECT create_small('owned', 'rating');
CALL limaml_refresh('owned');
SET ROLE limaml_changes_writer;
SELECT * FROM owned_embedding_changes;
INSERT INTO owned_embedding_changes VALUES (1);
INSERT INTO rating VALUES (1001, 1, 1, '2024-03-01', true);
UPDATE rating SET member_id = 3 WHERE id = 32;
DELETE FROM rating WHERE id = 34;
CREATE TEMP TABLE limaml_new (member_id int);
CREATE TEMP TABLE stored_model (id int);
CREATE FUNCTION pg_temp.evil(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called as %', current_user; END $$;
CREATE OPERATOR pg_temp.= (LEFTARG = int, RIGHTARG = int, FUNCTION = pg_temp.evil);
SET search_path = pg_temp, pg_catalog;
INSERT INTO changes_test.rating VALUES (1002, 2, 1, '2024-03-01', true);
UPDATE changes_test.rating SET item_id = 3 WHERE id OPERATOR(pg_catalog.=) 1002;
BEGIN;
TRUNCATE changes_test.rating;
ROLLBACK;
SET search_path = '';
UPDATE changes_test.rating SET item_id = 4 WHERE id = 41;
RESET ROLE;
SET search_path = changes_test, public;
SELECT DISTINCT member_id FROM owned_embedding_changes ORDER BY 1;
SET ROLE limaml_changes_owner;
CALL limaml_refresh('owned');
SELECT count(*) FILTER (WHERE limaml_adapt('owned', member_id) <> embedding) AS wrong FROM owned_embedding;
-- nor is the model anybody else's
SET ROLE limaml_changes_other;
SELECT limaml_set_options('owned', '{"staleness": "event_time"}');
SELECT * FROM owned_embedding_changes;
RESET ROLE;
-- who has no TRIGGER on the table cannot have triggers made
GRANT ALL ON SCHEMA changes_test TO limaml_changes_other;
SET ROLE limaml_changes_other;
SELECT create_small('other', 'rating', options => '{}');
SELECT limaml_set_options('other', '{"staleness": "changes"}');
RESET ROLE;
SELECT limaml_drop_model('other');
-- triggers on a table of others remain, and do nothing
SELECT has_table_privilege('limaml_changes_owner', 'rating', 'TRIGGER');
SET ROLE limaml_changes_owner;
SELECT limaml_drop_model('owned');
RESET ROLE;
TABLE triggers;
INSERT INTO rating VALUES (1003, 3, 1, '2024-03-01', true);
SELECT create_small('taste', 'rating', entities => 'member');
SELECT limaml_drop_model('taste');
TABLE triggers;
DROP OWNED BY limaml_changes_owner, limaml_changes_writer, limaml_changes_other;
DROP ROLE limaml_changes_owner, limaml_changes_writer, limaml_changes_other;

-- A key of another type now: nobody's cast runs with the rights of the model's owner

CREATE ROLE limaml_changes_table;
GRANT ALL ON SCHEMA changes_test TO limaml_changes_table;
CREATE TABLE theirs AS SELECT member_id, item_id, at, liked FROM rating WHERE member_id IS NOT NULL;
ALTER TABLE theirs OWNER TO limaml_changes_table;
SELECT create_small('mine', 'theirs');
SET ROLE limaml_changes_table;
CREATE TYPE evil AS ENUM ('1');
CREATE FUNCTION evil(evil) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called as %', current_user; END $$;
CREATE CAST (evil AS int) WITH FUNCTION evil(evil) AS ASSIGNMENT;
ALTER TABLE theirs DROP member_id, ADD member_id evil;
INSERT INTO theirs VALUES (1, '2024-03-01', true, '1');
ALTER TABLE theirs DROP member_id;
INSERT INTO theirs VALUES (1, '2024-03-01', true);
RESET ROLE;
SELECT limaml_drop_model('mine');
INSERT INTO theirs VALUES (1, '2024-03-01', true);
DROP OWNED BY limaml_changes_table CASCADE;
DROP ROLE limaml_changes_table;

-- Versions

SELECT create_small('taste', 'rating', entities => 'member');
CALL limaml_refresh('taste');
SELECT version FROM limaml_train('taste', '{"seed": 1}');
SELECT limaml_deploy('taste');
SELECT limaml_deploy('taste', 2, NULL);
SELECT limaml_deploy('taste', 3);
SELECT limaml_deploy('taste', 0);
SELECT limaml_deploy('taste', 1);
BEGIN;
SELECT limaml_deploy('taste', 2, force => true);
SELECT deployed FROM limaml.model WHERE model = 'taste';
ROLLBACK;
CALL limaml_refresh('taste', 2);
-- one that comes meanwhile is refreshed for both, one that has lost its rows needs none
INSERT INTO rating VALUES (1004, 333, 1, '2024-03-01', true);
DELETE FROM rating WHERE member_id = 4;
SELECT limaml_deploy('taste');
CALL limaml_refresh('taste');
SELECT * FROM result();
SELECT version, count(*) FROM taste_embedding GROUP BY version ORDER BY version;
SELECT limaml_deploy('taste');
SELECT * FROM result();
CALL limaml_refresh('taste');
SELECT * FROM result();
SELECT limaml_drop_version('taste', 2);
SELECT limaml_drop_version('taste', 3);
SELECT limaml_drop_version('taste', 0);
SELECT limaml_drop_version('taste', 1);
SELECT version, deployed FROM limaml.version WHERE model = 'taste';
SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'taste_embedding'::regclass;
SELECT DISTINCT version FROM limaml.training_log WHERE model = 'taste';
SELECT limaml_drop_version('taste', 1);
-- its number is not used again
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste');
-- without rows left before a version was trained
DELETE FROM rating WHERE member_id = 5;
CALL limaml_refresh('taste');
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste', 4);
SELECT limaml_deploy('taste');
SELECT * FROM result();

SELECT limaml_drop_model('taste');
TABLE triggers;
DROP SERVER nowhere CASCADE;
DROP FOREIGN DATA WRAPPER nothing;
DROP SCHEMA changes_test CASCADE;
