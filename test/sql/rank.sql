--
-- limaml_rank, limaml_top and candidate vectors: the same scores as
-- limaml_score has, and every wrong use.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA rank_test;
SET search_path = rank_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, n AS at, i % 7 AS year, 'k' || i % 3 AS kind, hashint4(m * 1000 + i) % 3 = 0 AS liked
FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 300 + 1 AS i) _;
CREATE TABLE item AS SELECT repeat('x', i % 9) AS title, 'k' || i % 3 AS kind, i AS item_id, i % 7 AS year FROM generate_series(1, 300) i;
CREATE TABLE "Odd items" AS SELECT * FROM item WHERE item_id % 2 = 1;
\o /dev/null
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year,kind}',
	options => '{"embedding_size": 8, "factor_size": 3, "meta_hidden": [8], "global_hidden": [21, 7], "epochs": 3}');
SELECT limaml_train('m');
CALL limaml_refresh('m');
\o

-- What limaml_rank says is what ORDER BY says

CREATE VIEW best AS SELECT member_id, item_id, limaml_score('m', member_id, i) AS score,
	rank() OVER (PARTITION BY member_id ORDER BY limaml_score('m', member_id, i) DESC) AS rank
FROM item i, generate_series(1, 32) member_id;
SELECT rank, score = b.score AS same_score, candidate = to_jsonb(i) AS same_row
FROM limaml_rank('m', 7, 'item', 3) r JOIN item i ON i.item_id = (candidate->>'item_id')::int JOIN best b USING (rank, item_id, score) WHERE b.member_id = 7 ORDER BY rank;
SELECT count(*), bool_and(r.score = b.score AND r.rank >= b.rank) AS same
FROM generate_series(1, 32) m CROSS JOIN LATERAL limaml_rank('m', m, 'item', 300) r JOIN best b ON b.member_id = m AND b.item_id = (r.candidate->>'item_id')::int;
SELECT count(*), min(rank), max(rank), bool_and(score >= next) AS falls FROM (SELECT *, lead(score, 1, 0) OVER (ORDER BY rank) AS next FROM limaml_rank('m', 7, 'item', 1000)) _;
SELECT count(*) AS k_by_default FROM limaml_rank('m', 7, 'item');
SELECT count(*) AS one FROM limaml_rank('m', 7, 'item', 1);
SELECT count(*) AS all_there_are FROM limaml_rank('m', 7, 'item', 2147483647);
SELECT bool_and(r.candidate = i.candidate AND r.score = i.score) AS unknown_entity FROM limaml_rank('m', NULL::int, 'item') r JOIN limaml_rank('m', 1000, 'item') i USING (rank);

-- Candidates from anywhere

SELECT count(*) FROM limaml_rank('m', 7, 'rank_test.item');
SELECT count(*), bool_and((candidate->>'item_id')::int % 2 = 1) AS odd FROM limaml_rank('m', 7, '"Odd items"');
SELECT rank, candidate FROM limaml_rank('m', 7, 'SELECT item_id, year, kind FROM item WHERE item_id < 0');
SELECT count(*), bool_and(candidate ? 'n') AS more_columns FROM limaml_rank('m', 7, 'WITH a_few AS (SELECT * FROM item LIMIT 50) SELECT kind, 1 AS n, item_id, year FROM a_few', 100);
SELECT count(*) FROM limaml_rank('m', 7, 'TABLE item;', 5);
SELECT candidate FROM limaml_rank('m', 7, $$VALUES (1, 1, 'k1')$$);
SELECT candidate FROM limaml_rank('m', 7, $$SELECT 5 AS item_id, NULL::int AS year, 'k2' AS kind, ARRAY[1, 2] AS "an array", '2026-01-01'::date AS day$$);

-- Of equal scores the first to come is first
SELECT array_agg(candidate->'n' ORDER BY rank) FROM limaml_rank('m', 7, 'SELECT n, 5 AS item_id, 5 AS year, ''k2'' AS kind FROM generate_series(1, 1000) n ORDER BY n', 6);

-- limaml_top is limaml_rank by groups

CREATE TABLE tops AS SELECT member_id, limaml_top(5, 'm', member_id, item_id, i) AS top FROM item i, generate_series(1, 32) member_id GROUP BY member_id;
SELECT count(*), bool_and(same) FROM (
	SELECT (t.item = (r.candidate->>'item_id')::int AND t.score = r.score) AS same
	FROM tops, LATERAL ROWS FROM (jsonb_to_recordset(top) AS (item int, score real)) WITH ORDINALITY AS t (item, score, rank)
	JOIN LATERAL limaml_rank('m', member_id, 'item', 5) r ON r.rank = t.rank) _;
SELECT bool_and(t.top = u.top) AS by_values FROM tops t JOIN
	(SELECT member_id, limaml_top(5, 'm', member_id, item_id, item_id, year, kind) AS top FROM item, generate_series(1, 32) member_id GROUP BY member_id) u USING (member_id);
SELECT jsonb_array_length(limaml_top(1000, 'm', 7, item_id, i)) FROM item i;
SELECT limaml_top(3, 'm', 7, item_id, i) FROM item i WHERE false;
SELECT jsonb_path_query_array(limaml_top(2, 'm', 7, x, i), '$[*].item') AS other_items FROM (SELECT ROW(item_id, title)::text || '"' AS x, i FROM item i WHERE item_id = 4) _ (x, i);
SELECT jsonb_path_query_array(limaml_top(2, 'm', 7, NULL::date, i), '$[*].item') AS null_items FROM item i;
SELECT jsonb_path_query_array(limaml_top(1, 'm', 7, 'one', i), '$[*].item') AS untyped FROM item i;
SELECT bool_and(jsonb_array_length(top) = least(n, 3)) AS in_a_window FROM (SELECT limaml_top(3, 'm', 7, item_id, i) OVER (ORDER BY item_id) AS top, item_id AS n FROM item i) _;

-- Candidate vectors

ALTER TABLE item ADD vector meta_embedding;
UPDATE item SET vector = limaml_candidate_vector('m', item);
SELECT count(*), bool_and(abs(limaml_score_vector('m', m, vector) - limaml_score('m', m, i)) < 1e-6) AS same_scores FROM item i, generate_series(1, 32) m;
SELECT limaml_score_vector('m', 7, NULL) IS NULL AS null_vector, abs(limaml_score_vector('m', NULL::int, vector) - limaml_score('m', NULL::int, i)) < 1e-6 AS unknown_entity FROM item i WHERE item_id = 7;
SELECT limaml_candidate_vector('m', 7, 0, 'k1') = vector AS by_values FROM item WHERE item_id = 7;
CREATE TRIGGER keep BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION limaml_keep_candidate_vector('m', 'vector');
INSERT INTO item (item_id, year, kind) VALUES (301, 3, 'k9');
UPDATE item SET year = 6, vector = NULL WHERE item_id < 5;
SELECT count(*), bool_and(abs(limaml_score_vector('m', 7, vector) - limaml_score('m', 7, i)) < 1e-6) AS kept FROM item i WHERE item_id < 5 OR item_id = 301;

-- Who may read, and only read

CREATE ROLE rank_user;
GRANT USAGE ON SCHEMA rank_test TO rank_user;
GRANT SELECT ON m_embedding TO rank_user;
SET ROLE rank_user;
SELECT count(*) FROM limaml_rank('m', 7, 'item');
SELECT count(*) FROM limaml_rank('m', 7, $$SELECT 1 AS item_id, 2 AS year, 'k1' AS kind$$);
RESET ROLE;
BEGIN READ ONLY;
SELECT count(*) FROM limaml_rank('m', 7, 'item');
COMMIT;
SET search_path = '';
SELECT count(*) FROM public.limaml_rank('m', 7, 'rank_test.item');
SELECT count(*) FROM public.limaml_rank('m', 7, 'item');
SET search_path = rank_test, public;
SELECT limaml_rank('m', 7, 'DELETE FROM item RETURNING *');
SELECT limaml_rank('m', 7, 'WITH gone AS (DELETE FROM item RETURNING *) SELECT * FROM gone');
SELECT limaml_rank('m', 7, 'SELECT * FROM item FOR UPDATE');
SELECT limaml_rank('m', 7, 'SELECT * FROM item; DROP TABLE item');
SELECT limaml_rank('m', 7, 'DROP TABLE item');
SELECT limaml_rank('m', 7, 'COPY item TO STDOUT');
SELECT limaml_rank('m', 7, 'SELECT * INTO more FROM item');
SELECT limaml_rank('m', 7, 'ROLLBACK');
SELECT count(*) AS all_there FROM item;

-- Wrong uses

SELECT limaml_rank('unknown', 7, 'item');
SELECT limaml_rank(NULL, 7, 'item');
SELECT limaml_rank('m', 7, NULL);
SELECT limaml_rank('m', 7, '');
SELECT limaml_rank('m', 7, 'itme');
SELECT limaml_rank('m', 7, 'nowhere.item');
SELECT limaml_rank('m', 7, 'a.b.c.d');
SELECT limaml_rank('m', 7, 'SELECT FROM item');
SELECT limaml_rank('m', 7, 'SELECT item_id, kind FROM item');
SELECT limaml_rank('m', 7, 'SELECT item_id, year, kind FROM item WHERE $1 = 1');
SELECT limaml_rank('m', 7, 'SELECT item_id, kind AS year, kind FROM item');
SELECT limaml_rank('m', 7, 'item WHERE');
SELECT limaml_rank('m', 7, 'item', 0);
SELECT limaml_rank('m', 7, 'item', NULL);
SELECT limaml_rank('m', 'seven', 'item');
SELECT limaml_top(0, 'm', 7, item_id, i) FROM item i;
SELECT limaml_top(NULL, 'm', 7, item_id, i) FROM item i;
SELECT limaml_top(year, 'm', 7, item_id, i) FROM item i WHERE year > 0;
SELECT limaml_top(3, 'm', item_id, item_id, i) FROM item i;
SELECT limaml_top(3, NULL, 7, item_id, i) FROM item i;
SELECT limaml_top(3, CASE WHEN item_id < 9 THEN 'm' ELSE 'n' END, 7, item_id, i) FROM item i;
SELECT limaml_top(3, 'm', 7, item_id, item_id) FROM item i;
SELECT limaml_candidate_vector('m', 7);
SELECT limaml_candidate_vector(NULL, 7, 0, 'k1');
SELECT limaml_score_vector('m', 7, limaml_embedding('m', 7));
SELECT limaml_score_vector('m', 7, '[1,2,3]');
SELECT limaml_score_embedding('m', vector, 7, 0, 'k1') FROM item WHERE item_id = 7;
\o /dev/null
SELECT limaml_train('m', '{"seed": 2}');
SELECT limaml_deploy('m', force => true);
\o
SELECT limaml_score_vector('m', 7, vector) FROM item WHERE item_id = 7;
UPDATE item SET vector = limaml_candidate_vector('m', item);
SELECT bool_and(abs(limaml_score_vector('m', 7, vector) - limaml_score('m', 7, i)) < 1e-6) AS anew FROM item i;
SELECT limaml_keep_candidate_vector();
CREATE TRIGGER after AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION limaml_keep_candidate_vector('m', 'vector');
INSERT INTO item (item_id) VALUES (400);
DROP TRIGGER after ON item;
DROP TRIGGER keep ON item;
CREATE TRIGGER few BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION limaml_keep_candidate_vector('m');
INSERT INTO item (item_id) VALUES (400);
DROP TRIGGER few ON item;
CREATE TRIGGER wrong BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION limaml_keep_candidate_vector('m', 'vectro');
INSERT INTO item (item_id) VALUES (400);
DROP TRIGGER wrong ON item;
CREATE TRIGGER wrong BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION limaml_keep_candidate_vector('m', 'title');
INSERT INTO item (item_id) VALUES (400);
DROP TRIGGER wrong ON item;

\o /dev/null
SELECT limaml_drop_model('m');
\o
DROP SCHEMA rank_test CASCADE;
DROP ROLE rank_user;
