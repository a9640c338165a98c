--
-- limaml_explain: what a feature contributes is what limaml_score loses
-- without it, however key and candidate are given; and every wrong use.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA explain_test;
SET search_path = explain_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, n AS at, nullif(i % 7, 3) AS year, 'k' || i % 3 AS kind, hashint4(m * 1000 + i) % 3 = 0 AS liked
FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age, CASE m % 3 WHEN 0 THEN 'free' ELSE 'paid' END AS plan FROM generate_series(1, 40) m;
CREATE TABLE item AS SELECT repeat('x', i % 9) AS title, 'k' || i % 3 AS kind, i AS item_id, nullif(i % 7, 3) AS year FROM generate_series(1, 45) i;
\o /dev/null
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year,kind}', 'member', '{age,plan}',
	options => '{"embedding_size": 8, "factor_size": 3, "meta_hidden": [8], "global_hidden": [21, 7], "epochs": 4}');
SELECT limaml_train('m');
CALL limaml_refresh('m');
\o

CREATE FUNCTION logit(p double precision) RETURNS double precision LANGUAGE sql IMMUTABLE AS 'SELECT ln(p / (1 - p))';
CREATE FUNCTION near(a double precision, b double precision) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT abs(a - b) < 1e-4';
-- The mean that training has found, as the network's file says it
CREATE VIEW mean AS
SELECT (f ->> 'mean')::float8 AS year FROM limaml_export('m') file,
	LATERAL (SELECT convert_from(substr(file, 9, get_byte(file, 0) + 256 * get_byte(file, 1)), 'UTF8')::jsonb AS header) _,
	jsonb_array_elements((header #>> '{__metadata__,limaml}')::jsonb -> 'features') f WHERE f ->> 'name' = 'year';
-- By position among rows, which are those of one call
CREATE VIEW explained AS
SELECT m AS member_id, i.item_id, e.*
FROM generate_series(1, 41) m, item i, LATERAL ROWS FROM (limaml_explain('m', m, i)) WITH ORDINALITY AS e (feature, value, contribution, place);

-- The rows of a call, and their order

SELECT feature, value IS NULL AS is_null, CASE WHEN feature NOT LIKE '(%' THEN value END AS value, contribution = 0 AS is_0
FROM limaml_explain('m', 7, 5, 5, 'k2') ORDER BY feature COLLATE "C";
SELECT count(*), bool_and(place = 1) FILTER (WHERE feature = '(score)') AS score_first, bool_and(place = 6) FILTER (WHERE feature = '(baseline)') AS baseline_last FROM explained;
SELECT bool_and(abs(contribution) >= coalesce(abs(next), 0)) AS falls
FROM (SELECT contribution, lead(contribution) OVER (PARTITION BY member_id, item_id ORDER BY place) AS next FROM explained WHERE place BETWEEN 2 AND 5) _;

-- The score is limaml_score's; each feature is replaced by what the same
-- candidate would be without it

SELECT bool_and(value::real = limaml_score('m', member_id, i)) AS score, bool_and(near(contribution, logit(value::real))) AS logit
FROM explained JOIN item i USING (item_id) WHERE feature = '(score)';
CREATE TABLE without AS
SELECT member_id, item_id, logit(limaml_score('m', member_id, i)) AS logit,
	logit(limaml_score('m', member_id, 1000000, year, kind)) AS item_id_,
	logit(limaml_score('m', member_id, item_id, (SELECT year FROM mean), kind)) AS year_,
	logit(limaml_score('m', member_id, item_id, year, 'unseen')) AS kind_
FROM item i, generate_series(1, 41) member_id;
SELECT feature, bool_and(near(contribution, logit - CASE feature WHEN 'item_id' THEN item_id_ WHEN 'year' THEN year_ ELSE kind_ END)) AS same,
	count(DISTINCT round(contribution::numeric, 4)) > 5 AS differ
FROM explained JOIN without USING (member_id, item_id) WHERE feature NOT LIKE '(%' GROUP BY feature ORDER BY feature COLLATE "C";
SELECT bool_and(near(contribution, 0)) AS never_seen FROM explained WHERE feature = 'item_id' AND item_id > 40;
SELECT bool_and(value IS NULL AND contribution <> 0) AS missing FROM explained WHERE feature = 'year' AND item_id % 7 = 3;

-- The embedding against the prior of what is known about the entity: with the
-- rows gone and nothing stored, that is what scores
CREATE TABLE stored AS SELECT * FROM m_embedding;
CREATE TABLE before AS SELECT * FROM explained WHERE feature IN ('(meta embedding)', '(baseline)');
DELETE FROM m_embedding;
SELECT bool_and(near(b.contribution, w.logit - logit(limaml_score('m', b.member_id, i)))) AS against_prior, bool_or(abs(b.contribution) > 0.01) AS matters,
	bool_and(b.value = 'member_id ' || b.member_id) AS names_it, bool_and((b.contribution = 0) = (b.member_id > 30)) AS none_stored
FROM before b JOIN without w USING (member_id, item_id) JOIN item i USING (item_id) WHERE feature = '(meta embedding)';
SELECT bool_and(near(contribution, logit(limaml_score('m', member_id, 1000000, (SELECT year FROM mean), 'unseen')))
	AND value::real = limaml_score('m', member_id, 1000000, (SELECT year FROM mean), 'unseen')) AS baseline FROM before WHERE feature = '(baseline)';
SELECT bool_and(contribution = 0) AS nothing_stored FROM explained WHERE feature = '(meta embedding)';
INSERT INTO m_embedding SELECT * FROM stored;

-- One candidate, given in every way

CREATE TABLE seven AS SELECT * FROM limaml_explain('m', 7, 5, 5, 'k2');
SELECT count(*) AS by_row FROM (SELECT e.* FROM item i, limaml_explain('m', 7, i) e WHERE item_id = 5 INTERSECT ALL TABLE seven) _;
SELECT count(*) AS in_the_select_list FROM (SELECT (limaml_explain('m', 7, i)).* FROM item i WHERE item_id = 5 INTERSECT ALL TABLE seven) _;
SELECT count(*) AS anonymous FROM (SELECT * FROM limaml_explain('m', '7', ROW(5, 5, 'k2'::text)) INTERSECT ALL TABLE seven) _;
SELECT count(*) AS untyped FROM (SELECT * FROM limaml_explain('m', '7', '5', '5', 'k2') INTERSECT ALL TABLE seven) _;
SELECT count(*) AS other_types FROM (SELECT * FROM limaml_explain('m', 7::bigint, 5::numeric, 5::smallint, 'k2'::varchar) INTERSECT ALL TABLE seven) _;
SELECT feature, value, contribution = 0 AS is_0 FROM limaml_explain('m', NULL, NULL::item) WHERE feature NOT IN ('(score)', '(baseline)') ORDER BY feature COLLATE "C";
SELECT feature, value FROM limaml_explain('m', 7, 5, 5.50, NULL) WHERE feature NOT LIKE '(%' ORDER BY feature COLLATE "C";

-- A feature's value outside of a vocabulary that others outside share with it

\o /dev/null
SELECT limaml_create_model('rare', 'rating', '{member_id}', 'liked', 'at', '{kind,item_id:category}', options => '{"embedding_size": 4, "epochs": 4, "min_count": 16}');
SELECT limaml_train('rare');
\o
SELECT bool_and(EXISTS (SELECT FROM generate_series(1000, 1200) unseen
	WHERE near(e.contribution, logit(limaml_score('rare', 7, i.kind, i.item_id)) - logit(limaml_score('rare', 7, i.kind, unseen))))) AS out_of_vocabulary
FROM item i, limaml_explain('rare', 7, i) e WHERE e.feature = 'item_id';

-- Other networks: keys of two columns, arrays of values, values for scores,
-- and those that nobody adapts

CREATE TABLE visit AS SELECT member_id, kind AS "the channel", item_id, year, at, liked::int + year AS worth FROM rating;
\o /dev/null
SELECT limaml_create_model('worth', 'visit', '{member_id,the channel}', 'worth', 'at', '{item_id,year}', options => '{"embedding_size": 4, "epochs": 2, "loss": "squared"}');
SELECT limaml_train('worth');
CALL limaml_refresh('worth');
SELECT limaml_create_model('ids', 'rating', '{member_id}', 'liked', 'at', '{kind}', options => '{"embedding_size": 4, "epochs": 3, "personalization": "id"}');
SELECT limaml_train('ids');
SELECT limaml_create_model('nobody', 'rating', '{member_id}', 'liked', 'at', '{kind}', options => '{"embedding_size": 4, "epochs": 1, "personalization": "none"}');
SELECT limaml_train('nobody');
\o
SELECT feature, CASE WHEN feature IN ('(score)', '(baseline)') THEN near(value::float8, contribution)::text ELSE value END AS value, contribution <> 0 AS matters
FROM limaml_explain('worth', ROW(7, 'k1'), VARIADIC '{5,2}'::float8[]) ORDER BY feature COLLATE "C";
SELECT bool_and(near(contribution, logit(limaml_score('ids', m, 'k1')) - logit(limaml_score('ids', NULL, 'k1')))) AS against_a_stranger, bool_or(abs(contribution) > 0.01) AS matters
FROM generate_series(1, 35) m, limaml_explain('ids', m, 'k1') WHERE feature = '(meta embedding)';
SELECT feature, value FROM limaml_explain('ids', 7, 'k1') WHERE feature NOT IN ('(score)', '(baseline)') ORDER BY feature COLLATE "C";
SELECT contribution FROM limaml_explain('nobody', 7, 'k1') WHERE feature = '(meta embedding)';

-- Who may score may explain, and sees of an entity what it may see

CREATE ROLE explain_user;
GRANT USAGE ON SCHEMA explain_test TO explain_user;
SET ROLE explain_user;
SELECT limaml_explain('m', 7, 5, 5, 'k2');
RESET ROLE;
GRANT SELECT ON m_embedding TO explain_user;
CREATE TABLE owners AS SELECT * FROM limaml_explain('m', 7, 5, 5, 'k2');
GRANT SELECT ON owners TO explain_user;
SET ROLE explain_user;
SELECT count(*) AS same, count(*) FILTER (WHERE o.contribution <> e.contribution) AS other_prior
FROM limaml_explain('m', 7, 5, 5, 'k2') e JOIN owners o USING (feature);
RESET ROLE;
BEGIN READ ONLY;
SELECT count(*) FROM limaml_explain('m', 7, 5, 5, 'k2');
COMMIT;
SET search_path = '';
SELECT count(*) FROM public.limaml_explain('m', 7, 5, 5, 'k2');
SET search_path = explain_test, public;

-- The version that is deployed explains

\o /dev/null
SELECT limaml_train('m', '{"seed": 1}');
\o
SELECT count(*) AS the_deployed_one FROM (SELECT * FROM limaml_explain('m', 7, 5, 5, 'k2') INTERSECT ALL TABLE seven) _;
\o /dev/null
SELECT limaml_deploy('m', 2, force => true);
\o
SELECT bool_and(value::real = limaml_score('m', 7, 5, 5, 'k2')) AS the_new_one, bool_and(value <> (SELECT value FROM seven WHERE feature = '(score)')) AS differs
FROM limaml_explain('m', 7, 5, 5, 'k2') WHERE feature = '(score)';

-- Wrong uses

SELECT limaml_explain('unknown', 7, 5, 5, 'k2');
SELECT limaml_explain(NULL, 7, 5, 5, 'k2');
SELECT limaml_explain('m', 7);
SELECT limaml_explain('m', 7, 5);
SELECT limaml_explain('m', 7, 5, 5, 'k2', 1);
SELECT limaml_explain('m', 7, m) FROM member m LIMIT 1;
SELECT limaml_explain('m', 7, 'five', 5, 'k2');
SELECT limaml_explain('m', 7, 5, now(), 'k2');
SELECT limaml_explain('m', 'seven', 5, 5, 'k2');
SELECT limaml_explain('worth', 7, 5, 5);
SELECT limaml_explain('worth', ROW(7, 'k1'), VARIADIC '{5}'::int[]);
SELECT limaml_explain('worth', ROW(7, 'k1'), VARIADIC NULL::int[]);
\o /dev/null
SELECT limaml_create_model('untrained', 'rating', '{member_id}', 'liked', 'at', '{kind}');
\o
SELECT limaml_explain('untrained', 7, 'k1');

\o /dev/null
SELECT limaml_drop_model(model) FROM limaml.model WHERE model IN ('m', 'rare', 'worth', 'ids', 'nobody', 'untrained');
\o
DROP SCHEMA explain_test CASCADE;
DROP ROLE explain_user;
