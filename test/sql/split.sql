--
-- Which rows train, validate and are tested: ties, few rows, keys of any type;
-- and what evaluation does about arms, networks and arguments that cannot be.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '(null)'
CREATE SCHEMA split_test;
SET search_path = split_test, public;

CREATE FUNCTION create_small(model text, interactions regclass, key text, features text[] DEFAULT '{item_id:category}', options jsonb DEFAULT '{}')
RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, ARRAY[key], 'liked', 'at', features,
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 4}' || options)
$$;

-- Labels are noise.  Times tie, twenty rows a day: which of them is newer has to
-- differ from member to member, or a label of an item would always be.
CREATE TABLE noise AS
SELECT m AS member_id, date '2024-01-01' + (n - 1) / 20 AS at, abs(hashint4(m * 100 + n)) % 50 AS item_id,
	hashint4(m * 1000 + n) % 2 = 0 AS liked
FROM generate_series(1, 300) m, generate_series(1, 40) n;
SELECT create_small('noise', 'noise', 'member_id');
SELECT arm, value BETWEEN 0.45 AND 0.55 AS chance FROM limaml_compare('noise', seeds => 1) WHERE segment = 'all' AND metric = 'auc';
-- Rows of the day that is tested do not adapt: all support is of the first day
SELECT segment FROM limaml_compare('noise', '{none}', 1) WHERE metric = 'auc';

-- A member's label changes from day to day, and only rows of its own time tell
CREATE TABLE mood AS
SELECT m AS member_id, date '2024-01-01' + (n - 1) / 10 AS at, n % 7 AS item_id, hashint4(m * 100 + (n - 1) / 10) % 2 = 0 AS liked
FROM generate_series(1, 300) m, generate_series(1, 40) n;
SELECT create_small('mood', 'mood', 'member_id', options => '{"test_fraction": 0.1}');
SELECT arm, value BETWEEN 0.4 AND 0.6 AS chance FROM limaml_compare('mood', '{limaml,head}', 1) WHERE segment = 'all' AND metric = 'auc';

-- Shares of few rows are rounded by chance, and by the same chance every time
CREATE TABLE few AS
SELECT m AS member_id, n AS at, (m + n) % 5 AS item_id, (m * n) % 3 = 0 AS liked FROM generate_series(1, 400) m, generate_series(1, 1 + m % 3) n;
SELECT create_small('few', 'few', 'member_id');
SELECT entities, interactions FROM limaml_train('few');
SELECT sum(interactions) BETWEEN 40 AND 140 AS a_tenth, bool_or(segment = '0') AS some_without_support
FROM limaml_evaluate('few') WHERE metric = 'auc' AND segment <> 'all';
CREATE TABLE before AS SELECT * FROM limaml_evaluate('few');
SELECT count(*) AS different FROM (TABLE before EXCEPT SELECT * FROM limaml_evaluate('few')) _;

-- That chance follows from any key: an enum's, and one of two columns
CREATE TYPE who AS ENUM ('a');
DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('ALTER TYPE who ADD VALUE %L', 'w' || i); END LOOP; END $$;
CREATE TABLE enumerated AS SELECT ('w' || m)::who AS member_id, n AS at, (m + n) % 5 AS item_id, (m * n) % 3 = 0 AS liked
FROM generate_series(1, 300) m, generate_series(1, 3) n;
SELECT create_small('enumerated', 'enumerated', 'member_id');
SELECT entities, interactions FROM limaml_train('enumerated');
SELECT sum(interactions) BETWEEN 40 AND 140 AS a_tenth FROM limaml_evaluate('enumerated') WHERE metric = 'auc' AND segment <> 'all';
SELECT count(*) > 0 AS left_out FROM limaml_evaluate('enumerated', support => '{0,1}');

-- The arm id tells keys apart whose texts are one
CREATE TABLE pair (a text, b text, at int, item_id int, liked boolean);
INSERT INTO pair SELECT a, b, n, n % 5, CASE a WHEN 'x' THEN true ELSE false END
FROM (VALUES ('x', 'y, z'), ('x, y', 'z')) _ (a, b), generate_series(1, 60) n;
INSERT INTO pair SELECT 'other' || m, 'o', n, n % 5, hashint4(m * 100 + n) % 2 = 0 FROM generate_series(1, 20) m, generate_series(1, 20) n;
SELECT limaml_create_model('pair', 'pair', '{a,b}', 'liked', 'at', '{item_id:category}',
	options => '{"embedding_size": 8, "personalization": "id", "epochs": 40, "patience": 40, "learning_rate": 0.05}');
SELECT version FROM limaml_train('pair');
SELECT limaml_score('pair', ROW('x', 'y, z'), 1) - limaml_score('pair', ROW('x, y', 'z'), 1) > 0.2 AS apart;

-- Its network knows keys of one type
CREATE TABLE by_text AS SELECT member_id::text AS member_id, at, item_id, liked FROM noise WHERE member_id <= 20;
CREATE TABLE by_number AS SELECT * FROM noise WHERE member_id <= 20;
SELECT create_small('by_text', 'by_text', 'member_id', options => '{"personalization": "id"}');
SELECT create_small('by_number', 'by_number', 'member_id');
SELECT version FROM limaml_train('by_text');
SELECT limaml_import('by_number', limaml_export('by_text'));
SELECT limaml_score('by_number', 1, 3);
SELECT limaml_evaluate('by_number', 'by_number');
ALTER TABLE by_text ALTER member_id TYPE int USING member_id::int;
SELECT limaml_evaluate('by_text');

-- An arm or a trial that diverges is not the end of all others
SELECT create_small('wild', 'noise', 'member_id', options => '{"adapts": "meta_block", "inner_rate": 1e9, "activation": "relu", "epochs": 1}');
SELECT DISTINCT arm FROM limaml_compare('wild', '{none,limaml}', 1);
SELECT trial, options FROM limaml_tune('wild', '{"personalization": ["limaml", "none"]}', 3);
SELECT trial, validation_auc IS NULL AS diverged FROM limaml.trial WHERE options ->> 'personalization' IS DISTINCT FROM 'none' ORDER BY trial;
SELECT limaml_tune('wild', '{"inner_rate": [1e9]}', 1);

-- Null is what suits the others again
SELECT limaml_set_options('few', '{"learning_rate": 0.5}');
SELECT limaml_set_options('few', '{"learning_rate": null, "inner_rate": null, "factor_size": null}');
SELECT version FROM limaml_train('few');
SELECT options -> 'learning_rate' AS learning_rate, options -> 'inner_rate' AS inner_rate, options -> 'factor_size' AS factor_size
FROM limaml.version WHERE model = 'few' ORDER BY version DESC LIMIT 1;

-- What cannot be asked
SELECT limaml_evaluate('few', support => '{1,2,1}');
SELECT limaml_train('noise', '{"epochs": 1}') IS NOT NULL AS trained;
SELECT limaml_evaluate('noise', refresh_lag => '{1 day,24 hours}');
SELECT limaml_evaluate('noise', refresh_lag => '{-1 month 31 days}');
SELECT limaml_evaluate('noise', 0);
SELECT limaml_tune('noise', '{"inner_steps": {"min": 1e400, "max": 2}}', 1);

-- Columns may have the names of ours
CREATE TABLE odd AS SELECT member_id AS "number of the row", at, item_id AS "is tested", item_id AS "segment of the row", liked FROM noise WHERE member_id <= 30;
SELECT create_small('odd', 'odd', 'number of the row', '{is tested:category,segment of the row}');
SELECT version FROM limaml_train('odd');
CREATE TABLE odd_later AS SELECT "number of the row", at + 100 AS at, "is tested", "segment of the row", liked FROM odd;
SELECT DISTINCT entities FROM limaml_evaluate('odd', 'odd_later');

-- Duplicate entities would count rows twice
CREATE TABLE member AS SELECT m AS member_id, m % 3 AS age FROM generate_series(1, 300) m;
SELECT limaml_create_model('members', 'few', '{member_id}', 'liked', 'at', '{item_id:category}', 'member', '{age}', options => '{"epochs": 1}');
SELECT version FROM limaml_train('members');
INSERT INTO member VALUES (7, 0);
SELECT limaml_evaluate('members');

-- Keys of two relations need not have one collation
CREATE TABLE c_key AS SELECT member_id::text COLLATE "C" AS member_id, at, item_id, liked FROM noise WHERE member_id <= 20;
CREATE TABLE posix_key AS SELECT member_id::text COLLATE "POSIX" AS member_id, at + 100 AS at, item_id, liked FROM noise WHERE member_id <= 20;
SELECT create_small('c_key', 'c_key', 'member_id');
SELECT version FROM limaml_train('c_key');
SELECT DISTINCT entities, interactions FROM limaml_evaluate('c_key', 'posix_key');

-- The standard error of one entity is not known
SELECT metric, value IS NULL AS value, standard_error FROM limaml_evaluate('c_key', 'posix_key', segment => 'member_id') WHERE segment = '7' ORDER BY metric COLLATE "C";

SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA split_test CASCADE;
