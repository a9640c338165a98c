--
-- What the planner makes of scoring: whole rows become the columns that the
-- model needs, and stay right whatever happens to the model under a plan that
-- is kept.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA plan_test;
SET search_path = plan_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, n AS at, i % 7 AS year, i % 5 / 4.0 AS price, hashint4(m * 1000 + i) % 2 = 0 AS liked
FROM generate_series(1, 30) m, generate_series(1, 10) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
CREATE TABLE item AS SELECT repeat('x', i) AS title, i % 5 / 4.0 AS price, i AS item_id, i % 7 AS year FROM generate_series(1, 45) i;
ANALYZE item;

CREATE FUNCTION make(features text[]) RETURNS void LANGUAGE sql AS $$
SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', features, options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 2}');
SELECT limaml_train('m');
CALL limaml_refresh('m');
$$;
CREATE FUNCTION unmake() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM limaml_drop_model('m');
	DROP TABLE IF EXISTS m_embedding;
END $$;
\o /dev/null
SELECT make('{item_id:category,year}');
\o
CREATE TABLE scores AS SELECT item_id, limaml_score('m', 1, item_id, year) AS score FROM item;

-- The columns, from wherever they come

EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('m', 1, item) FROM item;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score_embedding('m', limaml_embedding('m', 1), i) FROM item i;
CREATE VIEW shown AS SELECT year + 0 AS year, item_id, title FROM item WHERE price > 0;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('m', 1, shown) FROM shown;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('m', 1, s) FROM (SELECT upper(title) AS title, year, item_id FROM item) s;
EXPLAIN (COSTS OFF, VERBOSE) SELECT (SELECT limaml_score('m', 1, i) WHERE i.price > 0) FROM item i;

-- and with the scores of columns

SELECT bool_and(limaml_score('m', 1, i) = score) AS row, bool_and(limaml_score_embedding('m', limaml_embedding('m', 1), i) = score) AS embedding,
	bool_and((SELECT limaml_score('m', 1, i)) = score) AS of_outside
FROM item i JOIN scores USING (item_id);
SELECT bool_and(limaml_score('m', 1, s) = score) AS of_a_view FROM shown s JOIN scores USING (item_id);
SELECT bool_and(limaml_score('m', 1, i) = limaml_score('m', 1, i.item_id, i.year)) AS of_an_outer_join, count(*) FILTER (WHERE i.item_id IS NULL) AS null_rows
FROM generate_series(40, 50) n LEFT JOIN item i ON i.item_id = n;
CREATE TABLE parted (year int, item_id int, title text) PARTITION BY RANGE (item_id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (20);
CREATE TABLE parted_2 (title text, item_id int, gone int, year int);
ALTER TABLE parted_2 DROP gone;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (20) TO (100);
INSERT INTO parted SELECT year, item_id, title FROM item;
SELECT bool_and(limaml_score('m', 1, p) = score) AS of_partitions FROM parted p JOIN scores USING (item_id);
CREATE TABLE emptied AS SELECT * FROM item LIMIT 0;
SELECT count(limaml_score('m', 1, e)) FROM emptied e;

-- What cannot be bound while planning is bound while it runs

EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('m', 1, ROW(item_id, year)) FROM item;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('unknown', 1, item) FROM item;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score(NULL, 1, item) FROM item;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('m', 1, s) FROM (SELECT year, item_id, random() FROM item) s;
EXPLAIN (COSTS OFF, VERBOSE) SELECT limaml_score('m', 1, s) FROM (SELECT year, title FROM item) s;
SELECT limaml_score('m', 1, s) FROM (SELECT year, title FROM item) s;
SELECT limaml_score('unknown', 1, item) FROM item;
SET plan_cache_mode = force_generic_plan;
PREPARE named(text) AS SELECT bool_and(limaml_score($1, 1, i) = score) AS same FROM item i JOIN scores USING (item_id);
EXECUTE named('m');
EXECUTE named('unknown');

-- The function that it becomes, called by hand

SELECT limaml_score_columns('m', '{year, item_id}', 1, 3, 17) = limaml_score('m', 1, 17, 3) AS by_name;
SELECT limaml_score_columns('m', '{year, price}', 1, 3, 17);
SELECT limaml_score_columns('m', '{year}', 1, 3, 17);
SELECT limaml_score_columns('m', '{year, item_id, price}', 1, 3, 17);
SELECT limaml_score_columns('m', '{year, NULL}', 1, 3, 17);
SELECT limaml_score_columns('m', NULL, 1, 17, 3) = limaml_score('m', 1, 17, 3) AS no_names;

-- A plan that is kept, and a model that is dropped and made again under it:
-- with its features in another order, with others, with more, and not at all

PREPARE kept AS SELECT bool_and(limaml_score('m', 1, i) = score) AS same, count(*) FROM item i JOIN scores USING (item_id);
CREATE FUNCTION kept_too() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT bool_and(limaml_score('m', 1, i) = score) FROM item i JOIN scores USING (item_id));
END $$;
EXECUTE kept;
SELECT kept_too();
\o /dev/null
SELECT unmake();
SELECT make('{year,item_id:category}');
\o
TRUNCATE scores;
INSERT INTO scores SELECT item_id, limaml_score('m', 1, year, item_id) FROM item;
EXECUTE kept;
SELECT kept_too();
\o /dev/null
SELECT unmake();
SELECT make('{price,year}');
\o
TRUNCATE scores;
INSERT INTO scores SELECT item_id, limaml_score('m', 1, price, year) FROM item;
EXECUTE kept;
SELECT kept_too();
\o /dev/null
SELECT unmake();
SELECT make('{price,item_id,year:category}');
\o
TRUNCATE scores;
INSERT INTO scores SELECT item_id, limaml_score('m', 1, price, item_id, year) FROM item;
EXECUTE kept;
SELECT kept_too();
SELECT unmake();
EXECUTE kept;
SELECT kept_too();
\o /dev/null
SELECT make('{item_id:category,year}');
\o
TRUNCATE scores;
INSERT INTO scores SELECT item_id, limaml_score('m', 1, item_id, year) FROM item;
EXECUTE kept;
SELECT kept_too();

-- A column that is renamed, and one that takes its name
ALTER TABLE item RENAME year TO old_year;
ALTER TABLE item RENAME price TO year;
SELECT bool_and(limaml_score('m', 1, i) = limaml_score('m', 1, i.item_id, i.year)) AS renamed FROM item i;
EXECUTE kept;
ALTER TABLE item RENAME year TO price;
ALTER TABLE item RENAME old_year TO year;
EXECUTE kept;
RESET plan_cache_mode;

-- A score costs enough for large tables to be scanned in parallel, and not so
-- much that small ones are

CREATE TABLE many AS SELECT item_id, year FROM item, generate_series(1, 6000);
ANALYZE many;
EXPLAIN (COSTS OFF) SELECT item_id FROM many m ORDER BY limaml_score('m', 1, m) DESC LIMIT 10;
EXPLAIN (COSTS OFF) SELECT item_id FROM item i ORDER BY limaml_score('m', 1, i) DESC LIMIT 10;

SELECT unmake();
DROP SCHEMA plan_test CASCADE;
