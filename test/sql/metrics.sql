--
-- Aggregates over scores and labels, against the same in plain SQL.
--

\pset null '(null)'
SET extra_float_digits = 0;

-- Definitions, on rows that can be counted by hand

CREATE TABLE few (score double precision, label boolean, member text);
INSERT INTO few VALUES (0.1, false, 'a'), (0.4, true, 'b'), (0.4, false, 'b'), (0.9, true, 'a'), (0.6, false, 'a'), (0.2, true, 'c');

SELECT limaml_auc(score, label) AS auc, limaml_gauc(score, label, member) AS gauc,
	limaml_mean_auc(score, label, member) AS mean_auc FROM few;
SELECT round(limaml_log_loss(score, label)::numeric, 12) AS log_loss,
	round(avg(-ln(CASE WHEN label THEN score ELSE 1 - score END))::numeric, 12) AS expected FROM few;
SELECT limaml_mrr(score, label) AS mrr, limaml_hit_rate(score, label, 1) AS hit_rate, limaml_precision(score, label, 2) AS precision,
	limaml_recall(score, label, 3) AS recall, round(limaml_recall(score, label, 4)::numeric, 12) AS recall_4 FROM few;
SELECT round(limaml_ndcg(score, label, 3)::numeric, 12) AS ndcg,
	round((1 + 0.5 / 2) / (1 + 1 / log(2.0, 3.0) + 0.5), 12) AS expected FROM few;
SELECT limaml_calibration_error(score, label) AS by_one, (SELECT avg(abs(score - label::int)) FROM few WHERE score <> 0.4) * 4 / 6 +
	(abs(0.4 - 0.5) + abs(0.4 - 0.5)) / 6 AS expected FROM few;

-- Graded relevance has the gain 2^relevance - 1, which for 0 and 1 is linear
SELECT round(limaml_ndcg(-position, relevance, 3)::numeric, 12) AS ndcg,
	round((3 + 7 / log(2.0, 3.0) + 0) / (7 + 3 / log(2.0, 3.0) + 1 / 2.0), 12) AS expected
FROM (VALUES (1, 2), (2, 3), (3, 0), (4, 1)) v (position, relevance);
SELECT limaml_ndcg(-position, relevance, 3) AS best
FROM (VALUES (1, 3.5), (2, 3), (3, 2), (4, 2), (5, 0.1)) v (position, relevance);

-- A constant score gets what chance does: of 20 rows 5 are positive
SELECT limaml_auc(0.3, i <= 5) AS auc, limaml_precision(0.3, i <= 5, 8) AS precision, limaml_recall(0.3, i <= 5, 8) AS recall,
	round(limaml_hit_rate(0.3, i <= 5, 8)::numeric, 12) AS hit_rate,
	round(1 - 15 * 14 * 13 * 12 * 11 * 10 * 9 * 8 / (20 * 19 * 18 * 17 * 16 * 15 * 14 * 13.0), 12) AS chance,
	limaml_calibration_error(0.3, i <= 5) AS calibration_error
FROM generate_series(1, 20) i;
-- and so do the ranks of one positive row of four
SELECT limaml_mrr(0.3, i = 1) AS mrr, (1 + 1 / 2.0 + 1 / 3.0 + 1 / 4.0) / 4 AS chance,
	round(limaml_ndcg(0.3, i = 1, 3)::numeric, 12) AS ndcg, round((1 + 1 / log(2.0, 3.0) + 1 / 2.0) / 4, 12) AS chance,
	limaml_gauc(0.3, i = 1, 1) AS gauc, limaml_mean_auc(0.3, i = 1, 1) AS mean_auc,
	limaml_log_loss(0.25, i = 1) AS log_loss, -(ln(0.25::float8) + 3 * ln(0.75::float8)) / 4 AS entropy
FROM generate_series(1, 4) i;

-- Types of score and label

SELECT limaml_auc(s::real, l) AS real_boolean, limaml_auc(s::numeric, l::int) AS numeric_integer, limaml_auc(s::int, l::int::bigint) AS integer_bigint,
	limaml_auc(s, l::int::real) AS numeric_real, limaml_auc(s::smallint, l::int::numeric) AS smallint_numeric
FROM (VALUES (1.0, false), (2, true), (3, false), (4, true)) v (s, l);
SELECT limaml_auc(s::float8, l) AS double_boolean, limaml_auc(s::float8, l::int::smallint) AS double_smallint, limaml_auc(s::real, l::int) AS real_integer,
	limaml_auc(s::real, l::int::bigint) AS real_bigint, limaml_auc(s, l) AS numeric_boolean
FROM (VALUES (1.0, false), (2, true), (3, false), (4, true)) v (s, l);
SELECT limaml_gauc(s::real, l, 1) AS gauc, limaml_mean_auc(s, l::int, 1) AS mean_auc, limaml_log_loss(s / 5, l::int) = limaml_log_loss(s / 5, l) AS log_loss,
	limaml_calibration_error(s / 5, l::int) = limaml_calibration_error(s / 5, l) AS calibration_error,
	limaml_ndcg(s, l::int, 2) = limaml_ndcg(s, l, 2) AS ndcg, limaml_mrr(s, l::int) = limaml_mrr(s, l) AS mrr,
	limaml_hit_rate(s, l::int, 2) = limaml_hit_rate(s, l, 2) AS hit_rate, limaml_precision(s, l::int, 2) = limaml_precision(s, l, 2) AS precision,
	limaml_recall(s, l::int, 2) = limaml_recall(s, l, 2) AS recall
FROM (VALUES (1.0, false), (2, true), (3, false), (4, true)) v (s, l);
SELECT limaml_auc(NULL, true) AS null_boolean, limaml_auc(NULL, 1) AS null_integer, limaml_auc(0.5, NULL) AS numeric_null,
	limaml_auc(0.5::real, NULL) AS real_null, limaml_auc(1, '1') AS integer_literal, limaml_gauc(NULL, true, 1) AS gauc,
	limaml_ndcg(0.5, NULL::real, 3) AS ndcg, limaml_hit_rate(NULL, 1, 3) AS hit_rate, limaml_recall(NULL, true, 3) AS recall;
-- as of sum(NULL), the server does not know which is meant
SELECT limaml_auc(NULL, NULL);
SELECT limaml_ndcg(0.5, NULL, 3);
SELECT limaml_auc(0.5, 'x'::text);

-- Groups may be of any type that has an order

SELECT limaml_mean_auc(score, label, member) AS text, limaml_mean_auc(score, label, member::"char") AS "char",
	limaml_mean_auc(score, label, ROW (member, 1)) AS record, limaml_mean_auc(score, label, ARRAY[member]) AS "array",
	limaml_mean_auc(score, label, ascii(member)::numeric) AS "numeric", limaml_mean_auc(score, label, md5(member)::uuid) AS uuid,
	limaml_mean_auc(score, label, member::name) AS name, limaml_mean_auc(score, label, member = 'a') AS "boolean" FROM few;
SELECT limaml_gauc(score, label, g) FROM (SELECT score, label, CASE WHEN member = 'a' THEN 1.0 ELSE 1.000 END AS g FROM few) q;
SELECT limaml_gauc(score, label, point(1, 2)) FROM few;

-- What is undefined is NULL

CREATE FUNCTION metrics(relation text) RETURNS TABLE (metric text, value double precision) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format($q$
		SELECT unnest('{auc, gauc, mean_auc, log_loss, calibration_error, ndcg, ndcg of numbers, mrr, hit_rate, precision, recall}'::text[]),
			unnest(ARRAY[limaml_auc(score, label), limaml_gauc(score, label, member), limaml_mean_auc(score, label, member),
				limaml_log_loss(score, label), limaml_calibration_error(score, label), limaml_ndcg(score, label, 3), limaml_ndcg(score, label::int, 3),
				limaml_mrr(score, label), limaml_hit_rate(score, label, 3), limaml_precision(score, label, 3), limaml_recall(score, label, 3)])
		FROM %s$q$, relation);
END
$$;

SELECT metric, none.value AS none, nulls.value AS nulls, negatives.value IS NULL AS negatives, positives.value IS NULL AS positives,
	single.value AS single
FROM metrics('few WHERE false') none
JOIN metrics('(VALUES (NULL, true, ''a''), (0.5, NULL, ''a''), (NULL, NULL, NULL)) v (score, label, member)') nulls USING (metric)
JOIN metrics('few WHERE NOT label') negatives USING (metric)
JOIN metrics('few WHERE label') positives USING (metric)
JOIN metrics('few WHERE score = 0.9') single USING (metric);

-- Rows with a NULL are left out
SELECT count(*) AS metrics, count(*) FILTER (WHERE without.value = with_nulls.value) AS the_same
FROM metrics('few') without
JOIN metrics('(SELECT * FROM few UNION ALL VALUES (NULL, true, ''a''), (0.3, NULL, ''a''), (NULL, NULL, NULL)) v') with_nulls USING (metric);
SELECT limaml_gauc(score, label, NULLIF(member, 'c')) = limaml_gauc(score, label, member) AS no_group FROM few;

-- Infinities are an order, and -0 is 0
SELECT limaml_auc(s, l) AS auc, limaml_mrr(s, l) AS mrr, limaml_ndcg(s, l, 5) AS ndcg
FROM (VALUES ('infinity'::float8, true), ('-infinity', false), (0, true), ('-0', false), (1e300, true)) v (s, l);
SELECT limaml_auc(s, l) AS auc, limaml_mrr(s, l) AS mrr
FROM (VALUES ('0'::float8, true), ('-0', false)) v (s, l);

-- Errors

SELECT limaml_auc('NaN'::float8, true);
SELECT limaml_log_loss('NaN'::real, true);
SELECT limaml_ndcg('NaN'::float8, 1, 3);
SELECT limaml_gauc('NaN', true, 1);
SELECT limaml_auc(0.5, 2);
SELECT limaml_auc(0.5, 'NaN'::float8);
SELECT limaml_log_loss(0.5, 0.5);
SELECT limaml_ndcg(0.5, -1, 3);
SELECT limaml_ndcg(0.5, 'NaN'::float8, 3);
SELECT limaml_ndcg(0.5, 513, 3);
SELECT limaml_ndcg(0.5, true, 0);
SELECT limaml_ndcg(0.5, 1, 0);
SELECT limaml_hit_rate(NULL, true, -1);
SELECT limaml_precision(0.5, true, NULL);
SELECT limaml_recall(score, label, (score * 10)::int) FROM few;
SELECT limaml_log_loss(1.5, true);
SELECT limaml_log_loss('-infinity', true);
SELECT limaml_log_loss(1 + 1e-15, false);
SELECT limaml_calibration_error(s, true) FROM (VALUES (0.5), (1.5)) v (s);
SELECT limaml_calibration_error(s, true) FROM (VALUES (0.5), (-0.5)) v (s);

-- A 0 or 1 that is right costs nothing, and one that is wrong all
SELECT limaml_log_loss(l::int, l) AS right, limaml_log_loss(1 - l::int, l) AS wrong FROM (VALUES (false), (true)) v (l);
SELECT limaml_log_loss(p, true) AS one_of_many FROM (VALUES (0.5), (0), (0.5)) v (p);
SELECT round(limaml_log_loss('5e-324'::float8, true)::numeric, 9) AS smallest;

-- Its transition functions check their state
SELECT limaml_log_loss_accum('{0,0,0}', 0.5, true);
SELECT limaml_log_loss_accum('{{0,0,0,0}}', 0.5, true);
SELECT limaml_log_loss_accum('{0,0,0,NULL}', 0.5, true);
SELECT limaml_log_loss_final('{-1,0,0,0}');
SELECT limaml_log_loss_combine('{0,0,0,0}', '{1,2,0,0}');
SELECT limaml_log_loss_accum('{9223372036854775807,0,0,0}', 0.5, true);
SELECT limaml_log_loss_combine('{1,0,9223372036854775807,-1}', '{1,0,0,1}');
SELECT limaml_log_loss_combine('{1,1,2,-1}', '{1,0,0,1}');

-- DISTINCT, FILTER, ORDER BY, and HAVING
SELECT limaml_auc(DISTINCT score, label) AS "distinct", limaml_auc(score, label) FILTER (WHERE member <> 'c') AS filter,
	limaml_auc(score, label ORDER BY random()) AS ordered, limaml_ndcg(score, label, 2 ORDER BY member) = limaml_ndcg(score, label, 2) AS ndcg FROM few;
SELECT member, limaml_mrr(score, label) AS mrr FROM few GROUP BY member HAVING limaml_auc(score, label) IS NOT NULL ORDER BY member;
SELECT member, limaml_auc(score, label) AS auc FROM few GROUP BY ROLLUP (member) ORDER BY member;

-- Window functions, with growing and with moving frames
SELECT score, limaml_auc(score, label) OVER w AS auc, limaml_mean_auc(score, label, member) OVER w AS mean_auc,
	round(limaml_log_loss(score, label) OVER w::numeric, 6) AS log_loss, limaml_mrr(score, label) OVER w AS mrr,
	limaml_precision(score, label, 2) OVER (PARTITION BY member) AS precision
FROM few WINDOW w AS (ORDER BY score) ORDER BY score, precision;
SELECT score, limaml_auc(score, label) OVER (ORDER BY score, label ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS auc FROM few ORDER BY score, label;

-- Without a search path
SET search_path = '';
SELECT public.limaml_auc(score, label) AS auc, public.limaml_gauc(score, label, member) AS gauc FROM public.few;
RESET search_path;

-- Flags and comments
SELECT p.prokind, p.proname ~ '_(accum|combine)' AS takes_nulls, p.provolatile, p.proparallel, count(*),
	count(*) FILTER (WHERE p.proisstrict) AS strict, count(obj_description(p.oid, 'pg_proc')) AS comments
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
WHERE p.proname ~ '^limaml_(metric|auc|gauc|mean_auc|log_loss|calibration_error|ndcg|mrr|hit_rate|precision|recall)(_|$)'
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2;

-- Pairs: random scores, with many and with few ties, of several sizes

SELECT setseed(0.4);
CREATE TABLE pairs AS
SELECT size, levels, CASE WHEN levels = 0 THEN random() ELSE round((random() * levels)::numeric) / levels END::double precision AS score,
	random() < 0.3 AS label, (random() * 5)::int AS member
FROM unnest(ARRAY[2, 3, 7, 8, 9, 10, 11, 40, 333]) size, unnest(ARRAY[0, 1, 3, 20]) levels, generate_series(1, size);

CREATE VIEW exact AS
SELECT p.size, p.levels, p.member, count(*) AS pairs,
	avg(CASE WHEN p.score > n.score THEN 1 WHEN p.score = n.score THEN 0.5 ELSE 0 END) AS auc
FROM pairs p JOIN pairs n ON (p.size, p.levels, p.member) = (n.size, n.levels, n.member) AND p.label AND NOT n.label
GROUP BY p.size, p.levels, p.member;

SELECT count(*) AS relations, count(auc) AS defined, count(*) FILTER (WHERE abs(auc - expected) < 1e-14 OR auc IS NULL AND expected IS NULL) AS right
FROM (SELECT size, levels, limaml_auc(score, label) AS auc FROM pairs GROUP BY size, levels) a
LEFT JOIN (
	SELECT p.size, p.levels, avg(CASE WHEN p.score > n.score THEN 1 WHEN p.score = n.score THEN 0.5 ELSE 0 END) AS expected
	FROM pairs p JOIN pairs n ON (p.size, p.levels) = (n.size, n.levels) AND p.label AND NOT n.label
	GROUP BY p.size, p.levels) e USING (size, levels);

SELECT count(*) AS relations, count(gauc) AS defined,
	count(*) FILTER (WHERE abs(gauc - expected_gauc) < 1e-14 OR gauc IS NULL AND expected_gauc IS NULL) AS gauc_right,
	count(*) FILTER (WHERE abs(mean_auc - expected_mean) < 1e-14 OR mean_auc IS NULL AND expected_mean IS NULL) AS mean_auc_right
FROM (SELECT size, levels, limaml_gauc(score, label, member) AS gauc, limaml_mean_auc(score, label, member::text) AS mean_auc
	FROM pairs GROUP BY size, levels) a
LEFT JOIN (SELECT size, levels, sum(auc * rows) / sum(rows) AS expected_gauc, avg(auc) AS expected_mean
	FROM exact JOIN (SELECT size, levels, member, count(*) AS rows FROM pairs GROUP BY size, levels, member) m USING (size, levels, member)
	GROUP BY size, levels) e USING (size, levels);

-- Probabilities

SELECT count(*) AS relations, count(*) FILTER (WHERE abs(log_loss - expected) < 1e-14) AS right
FROM (SELECT limaml_log_loss(p, label) AS log_loss, avg(-ln(CASE WHEN label THEN p ELSE 1 - p END)) AS expected
	FROM (SELECT *, (score + 0.01) / 1.02 AS p FROM pairs) q GROUP BY size, levels) r;

-- Bins are those of ntile(); tied rows are in each with the share of it that
-- their ranks have
SELECT count(*) AS relations, count(*) FILTER (WHERE abs(error - expected) < 1e-14) AS right
FROM (SELECT size, levels, limaml_calibration_error(score, label) AS error FROM pairs GROUP BY size, levels) a
JOIN (
	SELECT size, levels, sum(abs(gap)) / size AS expected
	FROM (
		SELECT size, levels, bin, sum(score - mean) AS gap
		FROM (
			SELECT size, levels, score, avg(label::int) OVER (PARTITION BY size, levels, score) AS mean,
				ntile(10) OVER (PARTITION BY size, levels ORDER BY score) AS bin
			FROM pairs) r
		GROUP BY size, levels, bin) b
	GROUP BY size, levels) e USING (size, levels);

-- Rankings: the mean over all orders that the scores allow

CREATE TABLE orders AS
WITH RECURSIVE step AS (
	SELECT n, '{}'::int[] AS path FROM generate_series(1, 5) n
	UNION ALL
	SELECT n, path || i FROM step, generate_series(1, n) i WHERE i <> ALL (path)
)
SELECT n, row_number() OVER () AS id, path FROM step WHERE cardinality(path) = n;

CREATE TABLE rankings AS
SELECT n, ranking, i, (random() * levels)::int AS score, (random() * 3)::int AS relevance, random() < 0.4 AS label
FROM generate_series(1, 5) n, generate_series(1, 20) ranking, LATERAL (SELECT ranking % 4 AS levels) l, generate_series(1, n) i;
ANALYZE orders, rankings;

CREATE TABLE discounts AS SELECT array_agg(ln(2) / ln(rank + 1) ORDER BY rank) AS discount FROM generate_series(1, 6) rank;
CREATE TABLE expectation AS
SELECT n, ranking, k, avg(dcg) AS dcg, avg(graded) AS graded, max(best.ideal) AS ideal, max(best.ideal_graded) AS ideal_graded, avg(1.0 / first) AS mrr,
	avg((hits > 0)::int) AS hit_rate, avg(hits) / k AS precision, avg(hits) / NULLIF(max(best.positives), 0) AS recall
FROM (
	SELECT n, ranking, o.id, k, sum(label::int * discount[place]) FILTER (WHERE place <= k) AS dcg,
		sum((2 ^ relevance - 1) * discount[place]) FILTER (WHERE place <= k) AS graded,
		min(place) FILTER (WHERE label) AS first, count(*) FILTER (WHERE label AND place <= k) AS hits
	FROM (
		SELECT n, r.ranking, o.id, o.place, r.score, r.label, r.relevance,
			lag(r.score) OVER (PARTITION BY n, r.ranking, o.id ORDER BY o.place) < r.score AS wrong
		FROM (SELECT n, id, i, place FROM orders, unnest(path) WITH ORDINALITY u (i, place)) o JOIN rankings r USING (n, i)) o,
		generate_series(1, 6) k, discounts
	GROUP BY n, ranking, o.id, k
	HAVING count(*) FILTER (WHERE wrong) = 0) orders_allowed
JOIN (
	SELECT n, ranking, k, sum(label::int * discount[by_label]) FILTER (WHERE by_label <= k) AS ideal,
		sum((2 ^ relevance - 1) * discount[by_relevance]) FILTER (WHERE by_relevance <= k) AS ideal_graded,
		count(*) FILTER (WHERE label) AS positives
	FROM (
		SELECT *, row_number() OVER (PARTITION BY n, ranking ORDER BY label DESC) AS by_label,
			row_number() OVER (PARTITION BY n, ranking ORDER BY relevance DESC) AS by_relevance
		FROM rankings) r, generate_series(1, 6) k, discounts
	GROUP BY n, ranking, k) best USING (n, ranking, k)
GROUP BY n, ranking, k;

CREATE FUNCTION near(double precision, double precision) RETURNS boolean LANGUAGE sql IMMUTABLE AS
	'SELECT CASE WHEN $1 IS NULL OR $2 IS NULL THEN $1 IS NULL AND $2 IS NULL ELSE abs($1 - $2) < 1e-12 END';

SELECT count(*) AS rankings, count(e.recall) AS with_positives, count(*) FILTER (WHERE near(m.ndcg, e.dcg / NULLIF(ideal, 0))) AS ndcg,
	count(*) FILTER (WHERE near(m.graded, e.graded / NULLIF(ideal_graded, 0))) AS graded, count(*) FILTER (WHERE near(m.mrr, e.mrr)) AS mrr,
	count(*) FILTER (WHERE near(m.hit_rate, CASE WHEN e.recall IS NOT NULL THEN e.hit_rate END)) AS hit_rate,
	count(*) FILTER (WHERE near(m.precision, e.precision)) AS precision, count(*) FILTER (WHERE near(m.recall, e.recall)) AS recall
FROM (
	SELECT n, ranking, k, limaml_ndcg(score, label, k) AS ndcg, limaml_ndcg(score, relevance, k) AS graded, limaml_mrr(score, label) AS mrr,
		limaml_hit_rate(score, label, k) AS hit_rate, limaml_precision(score, label, k) AS precision, limaml_recall(score, label, k) AS recall
	FROM rankings, generate_series(1, 6) k GROUP BY n, ranking, k) m
FULL JOIN expectation e USING (n, ranking, k);

-- Larger: in other processes, on disk, in other orders.  All to the bit.

CREATE TABLE many AS
SELECT i, CASE WHEN i % 3 = 0 THEN random()::real ELSE round(random()::numeric, 3)::real END::double precision AS score, random() < 0.1 AS label,
	i % 50 AS member, CASE WHEN random() < 0.1 THEN random() * 4 ELSE 0 END AS relevance
FROM generate_series(1, 50000) i;
-- a signed score for the order, in which a half of the rows tie
CREATE VIEW signed AS
SELECT i, score - 0.5 AS score, label, member, 'member ' || member AS name, relevance FROM many;
ANALYZE many;

CREATE FUNCTION all_metrics(relation text) RETURNS double precision[] LANGUAGE plpgsql AS $$
DECLARE
	result double precision[];
BEGIN
	EXECUTE format($q$
		SELECT ARRAY[limaml_auc(score, label), limaml_calibration_error(score + 0.5, label), limaml_log_loss(score * 0.9 + 0.5, label),
			limaml_gauc(score, label, member), limaml_mean_auc(score, label, name), limaml_mean_auc(score, label, ROW (member %% 7, name)),
			limaml_mrr(score, label), limaml_mrr(-i, i > 49990), limaml_ndcg(score, label, 10), limaml_ndcg(score, label, 45000),
			limaml_ndcg(score, relevance, 10), limaml_ndcg(score, relevance, 25000), limaml_ndcg(score, relevance, 1000000),
			limaml_hit_rate(score, label, 10), limaml_hit_rate(-score, label, 1), limaml_precision(score, label, 1000),
			limaml_recall(score, label, 1000), limaml_recall(i, label, 2000)]
		FROM %s$q$, relation) INTO result;
	RETURN result;
END
$$;

CREATE FUNCTION temporary_blocks(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || query INTO plan;
	RETURN (plan->0->'Plan'->>'Temp Written Blocks')::bigint;
END
$$;

SET max_parallel_workers_per_gather = 0;
SET work_mem = '1GB';
CREATE TABLE result AS SELECT 'in memory' AS how, all_metrics('signed') AS metrics;
SELECT temporary_blocks('SELECT limaml_auc(score, label) FROM many') AS temporary_blocks;
INSERT INTO result SELECT 'in another order', all_metrics('(SELECT * FROM signed ORDER BY md5(i::text)) q');

SET work_mem = '64kB';
INSERT INTO result SELECT 'spilled', all_metrics('signed');
SELECT temporary_blocks('SELECT limaml_auc(score, label) FROM many') > 0 AS auc, temporary_blocks('SELECT limaml_gauc(score, label, member) FROM many') > 0 AS gauc,
	temporary_blocks('SELECT limaml_ndcg(score, label, 25000) FROM many') > 0 AS large_k,
	temporary_blocks('SELECT limaml_ndcg(score, label, 10) FROM many') > 0 AS small_k, temporary_blocks('SELECT limaml_mrr(score, label) FROM many') > 0 AS mrr;

SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
INSERT INTO result SELECT 'spilled in parallel', all_metrics('signed');
RESET work_mem;
SET parallel_leader_participation = off;
INSERT INTO result SELECT 'in workers alone', all_metrics('signed');
RESET parallel_leader_participation;

SELECT how, metrics = (SELECT metrics FROM result WHERE how = 'in memory') AS the_same FROM result;
SELECT count(*) AS metrics, count(*) FILTER (WHERE m BETWEEN 0 AND 2) AS sensible FROM result, unnest(metrics) m WHERE how = 'in memory';

-- Every aggregate is partial
EXPLAIN (COSTS OFF)
SELECT limaml_log_loss(score, label), limaml_log_loss(score, label::int) FROM many;
EXPLAIN (COSTS OFF)
SELECT limaml_auc(score, label), limaml_calibration_error(score, label), limaml_gauc(score, label, member), limaml_mean_auc(score, label, member),
	limaml_ndcg(score, label, 10), limaml_ndcg(score, relevance, 10), limaml_mrr(score, label), limaml_hit_rate(score, label, 10),
	limaml_precision(score, label, 10), limaml_recall(score, label, 10),
	limaml_auc(score, label::int), limaml_calibration_error(score, label::int), limaml_gauc(score, label::int, member),
	limaml_mean_auc(score, label::int, member), limaml_mrr(score, label::int), limaml_hit_rate(score, label::int, 10),
	limaml_precision(score, label::int, 10), limaml_recall(score, label::int, 10) FROM many;
EXPLAIN (COSTS OFF)
SELECT member, limaml_ndcg(score, label, 10) FROM many GROUP BY member ORDER BY member;

-- without workers, too
CREATE TABLE parts (LIKE many) PARTITION BY HASH (i);
CREATE TABLE part_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT * FROM many;
ANALYZE parts;
SET max_parallel_workers_per_gather = 0;
SET enable_partitionwise_aggregate = on;
EXPLAIN (COSTS OFF)
SELECT member < 25, limaml_auc(score, label) FROM parts GROUP BY 1 ORDER BY 1;
SELECT count(*) AS groups FROM (SELECT member < 25, limaml_auc(score, label), limaml_ndcg(score, relevance, 7), limaml_mrr(score, label) FROM parts GROUP BY 1
	INTERSECT SELECT member < 25, limaml_auc(score, label), limaml_ndcg(score, relevance, 7), limaml_mrr(score, label) FROM many GROUP BY 1) q;
RESET enable_partitionwise_aggregate;
SET max_parallel_workers_per_gather = 2;

-- whoever notices it, a worker or who combines
\set SHOW_CONTEXT never
SELECT limaml_recall(score, label, 1 + i % 2) FROM many;
\set SHOW_CONTEXT errors
SELECT limaml_auc(NULLIF(score, score), label) AS no_rows, limaml_auc(score, label) FILTER (WHERE i = 7) AS one_row FROM many;

-- Large groups, by sorting, by hashing and in parallel; the spilled ones at once
CREATE TABLE grouped AS SELECT 'workers'::text AS how, member, limaml_auc(score, label) AS auc, limaml_ndcg(score, relevance, 5000) AS ndcg FROM many GROUP BY member;
SET max_parallel_workers_per_gather = 0;
SET work_mem = '64kB';
SET enable_hashagg = off;
INSERT INTO grouped SELECT 'sorted', member, limaml_auc(score, label), limaml_ndcg(score, relevance, 5000) FROM many GROUP BY member;
RESET enable_hashagg;
SET enable_sort = off;
INSERT INTO grouped SELECT 'hashed', member, limaml_auc(score, label), limaml_ndcg(score, relevance, 5000) FROM many GROUP BY member;
SELECT count(DISTINCT how) AS ways, count(DISTINCT member) AS groups, count(DISTINCT (member, auc, ndcg)) AS results FROM grouped;

-- Hashed, they take at most 64 kB each, and not work_mem
SET work_mem = '512kB';
SET hash_mem_multiplier = 1;
SELECT temporary_blocks('SELECT i % 6, limaml_auc(score, label) FROM many GROUP BY 1') > 0 AS spilled;
RESET hash_mem_multiplier;
RESET enable_sort;
SET work_mem = '64kB';

-- One state for two aggregates is read twice
SELECT limaml_auc(score, label) = (SELECT metrics[1] FROM result LIMIT 1) AS auc,
	near(limaml_precision(score, label, 1000) * 1000, limaml_recall(score, label, 1000) * count(*) FILTER (WHERE label)) AS shared FROM signed;
-- and so is one that a rescan finds in its hash table
SET enable_material = off;
SET enable_sort = off;
EXPLAIN (COSTS OFF)
SELECT n, sum(auc), sum(ndcg) FROM generate_series(1, 3) n
LEFT JOIN (SELECT member % 2 AS half, limaml_auc(score, label) AS auc, limaml_ndcg(score, relevance, 12000) AS ndcg FROM many GROUP BY 1) h ON n > half GROUP BY n;
SELECT count(DISTINCT (half, auc, ndcg)) AS results, count(*) AS times FROM generate_series(2, 4) n
LEFT JOIN (SELECT member % 2 AS half, limaml_auc(score, label) AS auc, limaml_ndcg(score, relevance, 12000) AS ndcg FROM many GROUP BY 1) h ON n > half;
RESET enable_material;
RESET enable_sort;
-- Other rescans begin afresh
SELECT n, (SELECT limaml_auc(score, label) FROM many WHERE i % 2 = n % 2) = (SELECT limaml_auc(score, label) FROM many WHERE i % 2 = (n + 2) % 2) AS the_same
FROM generate_series(1, 4) n;
-- A window function stays in memory
SELECT count(*) AS groups FROM (SELECT DISTINCT half, auc = limaml_auc(score, label) OVER (PARTITION BY half) AS the_same
	FROM (SELECT member % 2 AS half, score, label FROM many) m JOIN (SELECT member % 2 AS half, limaml_auc(score, label) AS auc FROM many GROUP BY 1) h USING (half)) r
WHERE the_same;
-- and one that is not read to its end leaves nothing open
SELECT limaml_mrr(score, score < 0.9) > 0 AS mrr FROM many;

RESET ALL;
DROP VIEW exact, signed;
DROP TABLE few, pairs, orders, rankings, discounts, expectation, many, parts, result, grouped;
DROP FUNCTION metrics, all_metrics, temporary_blocks, near;
