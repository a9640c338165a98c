--
-- limaml_neighbors: the nearest stored embeddings, and every wrong use
-- (test/t/013_pgvector.pl has those that an index of pgvector's finds).
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA neighbors_test;
SET search_path = neighbors_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, n AS at, hashint4(m * 1000 + i) % 3 = 0 AS liked
FROM generate_series(1, 60) m, generate_series(1, 12) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
INSERT INTO rating SELECT member_id + 100, item_id, at, liked FROM rating WHERE member_id <= 3;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age FROM generate_series(1, 200) m;
CREATE VIEW visit AS SELECT member_id, 'ch ''' || item_id % 2 AS "the channel", item_id, at, liked FROM rating;
\o /dev/null
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', 'member', '{age}', options => '{"embedding_size": 6, "epochs": 3}');
SELECT limaml_train('m');
CALL limaml_refresh('m');
SELECT limaml_create_model('c', 'visit', '{member_id,the channel}', 'liked', 'at', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 2}');
SELECT limaml_train('c');
CALL limaml_refresh('c');
\o

-- They are those that the distance operator says, in its order

CREATE VIEW pair AS
SELECT m, e.member_id, e.embedding <-> limaml_embedding('m', m) AS distance, row_number() OVER (PARTITION BY m ORDER BY e.embedding <-> limaml_embedding('m', m), e.member_id) AS place
FROM generate_series(1, 120) m, m_embedding e WHERE e.member_id <> m;
SELECT count(*), bool_and(n.distance = p.distance AND n.key = jsonb_build_object('member_id', p.member_id)) AS same
FROM pair p JOIN (SELECT * FROM generate_series(1, 120) m, LATERAL limaml_neighbors('m', m, 5) WITH ORDINALITY AS n (key, distance, place)) n USING (m, place);
SELECT count(*) AS k_by_default FROM limaml_neighbors('m', 7);
SELECT count(*) AS all_others, count(*) FILTER (WHERE key ->> 'member_id' = '7') AS itself FROM limaml_neighbors('m', 7, 2147483647);
SELECT count(*) AS one FROM limaml_neighbors('m', 7, 1);

-- An entity without an embedding has its prior's neighbors, an unknown one too
SELECT count(*) AS without, bool_and(n.distance = e.embedding <-> limaml_embedding('m', 200)) AS to_its_prior
FROM limaml_neighbors('m', 200, 100) n JOIN m_embedding e ON e.member_id = (key ->> 'member_id')::int;
SELECT count(*) AS unknown, bool_and(n.distance = e.embedding <-> limaml_embedding('m', -1)) AS to_the_prior
FROM limaml_neighbors('m', NULL, 100) n JOIN m_embedding e ON e.member_id = (key ->> 'member_id')::int;
SELECT count(*) FROM limaml_neighbors('m', '7') s JOIN limaml_neighbors('m', 7::bigint) b USING (key, distance);

-- Keys of several columns
SELECT count(*), count(DISTINCT key), bool_and(n.distance = e.embedding <-> limaml_embedding('c', ROW(7, 'ch ''1'))) AS same,
	bool_or(e.member_id = 7) AS its_other_channel
FROM limaml_neighbors('c', ROW(7, 'ch ''1'), 1000) n JOIN c_embedding e ON key = jsonb_build_object('member_id', member_id, 'the channel', "the channel");
SELECT count(*) - 1 AS others FROM c_embedding;

-- The deployed version's alone; in both, members 1, 2 and 3 are as near to
-- those who did what they did as can be
\o /dev/null
CREATE TABLE first AS SELECT m, n.* FROM generate_series(1, 10) m, limaml_neighbors('m', m) n;
SELECT limaml_train('m', '{"seed": 1}');
CALL limaml_refresh('m', version => 2);
\o
SELECT count(*) AS of_the_first FROM generate_series(1, 10) m CROSS JOIN LATERAL limaml_neighbors('m', m) n JOIN first USING (m, key, distance);
\o /dev/null
SELECT limaml_deploy('m', 2);
\o
SELECT count(*) AS of_the_first FROM generate_series(1, 10) m CROSS JOIN LATERAL limaml_neighbors('m', m) n JOIN first USING (m, key, distance);
SELECT count(*), bool_and(n.distance = e.embedding <-> limaml_embedding('m', 7)) AS of_the_second
FROM limaml_neighbors('m', 7, 100) n JOIN m_embedding e ON e.member_id = (key ->> 'member_id')::int AND version = 2;

-- Who may read, and only read

CREATE ROLE neighbors_user;
GRANT USAGE ON SCHEMA neighbors_test TO neighbors_user;
SET ROLE neighbors_user;
SELECT limaml_neighbors('m', 7);
RESET ROLE;
GRANT SELECT ON m_embedding TO neighbors_user;
SET ROLE neighbors_user;
SELECT count(*) FROM limaml_neighbors('m', 7);
RESET ROLE;
BEGIN READ ONLY;
SELECT count(*) FROM limaml_neighbors('m', 7);
COMMIT;
SET search_path = '';
SELECT count(*) FROM public.limaml_neighbors('m', 7);
SET search_path = neighbors_test, public;
-- Row-level security hides rows as from any query
ALTER TABLE m_embedding ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON m_embedding FOR SELECT USING (member_id < 10);
SET ROLE neighbors_user;
SELECT count(*) AS shown FROM limaml_neighbors('m', 7, 100);
RESET ROLE;

DROP VIEW pair;

-- Nothing stored, and wrong uses

UPDATE m_embedding SET embedding = '[1,2,3,4,5,6]@00000001' WHERE version = 2 AND member_id = 1;
DO $$
BEGIN
	PERFORM limaml_neighbors('m', 7);
EXCEPTION WHEN data_exception THEN
	RAISE WARNING '%', regexp_replace(SQLERRM, ' and .*', '');
END
$$;
TRUNCATE m_embedding;
SELECT limaml_neighbors('m', 7);
SELECT limaml_neighbors('unknown', 7);
SELECT limaml_neighbors(NULL, 7);
SELECT limaml_neighbors('m', 7, 0);
SELECT limaml_neighbors('m', 7, -1);
SELECT limaml_neighbors('m', 7, NULL);
SELECT limaml_neighbors('m', 'seven');
SELECT limaml_neighbors('m', now());
SELECT limaml_neighbors('c', 7);
\o /dev/null
SELECT limaml_create_model('ids', 'rating', '{member_id}', 'liked', 'at', '{item_id}', options => '{"epochs": 1, "personalization": "id"}');
SELECT limaml_create_model('untrained', 'rating', '{member_id}', 'liked', 'at', '{item_id}');
SELECT limaml_train('ids');
\o
SELECT limaml_neighbors('ids', 7);
SELECT limaml_neighbors('untrained', 7);

\o /dev/null
SELECT limaml_drop_model(model) FROM limaml.model WHERE model IN ('m', 'c', 'ids', 'untrained');
\o
DROP SCHEMA neighbors_test CASCADE;
DROP ROLE neighbors_user;
