--
-- limaml_evaluate: the same figures as by refreshing, scoring and aggregating;
-- which rows adapt and which are tested; segments, support, lags; what is
-- refused.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '(null)'
CREATE SCHEMA evaluate_test;
SET search_path = evaluate_test, public;

-- 30 members with 0, 3, 12, 40 or 120 declared rows, and 10 newer rows each.
-- Nothing random, nothing that depends on the machine; x makes each row another.
CREATE TABLE every_row AS
SELECT m AS member_id, n AS at, i AS item_id, (m * 31 + n * 7) % 101 / 10.0::float8 + (m * 1000 + n) / 1e5 AS x,
	((i + m) % 2 = 0) <> (hashint4(m * 1000 + n) % 5 = 0) AS liked,
	(i + m) % 2 * 2 + abs(hashint4(n * 1000 + m)) % 100 / 50.0 AS stars,
	CASE n % 4 WHEN 0 THEN 'all' WHEN 1 THEN 'B' WHEN 2 THEN 'a' END AS kind,
	n <= declared AS is_declared
FROM generate_series(1, 30) m, LATERAL (SELECT ('{0,3,12,40,120}'::int[])[1 + m % 5] AS declared) _,
	LATERAL generate_series(1, declared + 10) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) __;
CREATE TABLE rating AS SELECT * FROM every_row WHERE is_declared;
CREATE TABLE later AS SELECT * FROM every_row WHERE NOT is_declared;
CREATE TABLE member AS
SELECT m AS member_id, m % 7 AS age, CASE m % 3 WHEN 0 THEN 'free' WHEN 1 THEN 'paid' END AS plan FROM generate_series(1, 40) m;

CREATE FUNCTION create_small(model text, interactions regclass, label text DEFAULT 'liked', event_time text DEFAULT 'at', options jsonb DEFAULT '{}')
RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, '{member_id}', label, event_time, '{item_id:category,x}', 'member', '{age,plan}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 4, "batch_entities": 8, "learning_rate": 0.01}' || options)
$$;
SELECT create_small('taste', 'rating');
SELECT create_small('stars', 'rating', 'stars', options => '{"loss": "squared"}');
SELECT version FROM unnest('{taste,stars}'::text[]) model, LATERAL limaml_train(model);

----------------------------------------------------------------------------
-- The same, computed another way
----------------------------------------------------------------------------

-- Before any refresh everybody is scored with the prior
CREATE TABLE scored AS
SELECT l.*, limaml_score('taste', member_id, l) AS prior, limaml_score('stars', member_id, l) AS stars_prior,
	(SELECT count(*) FROM rating r WHERE r.member_id = l.member_id) AS support
FROM later l;
CALL limaml_refresh('taste');
CALL limaml_refresh('stars');
ALTER TABLE scored ADD adapted real, ADD stars_adapted real, ADD segment text;
UPDATE scored s SET adapted = limaml_score('taste', member_id, s), stars_adapted = limaml_score('stars', member_id, s),
	segment = CASE WHEN support >= 100 THEN '100+' WHEN support >= 20 THEN '20-99' WHEN support >= 5 THEN '5-19' WHEN support >= 1 THEN '1-4' ELSE '0' END;

-- Figures of scored rows as the aggregates have them
CREATE FUNCTION figures(scored text) RETURNS TABLE (segment text, entities bigint, interactions bigint, metric text, value float8, unadapted float8) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('
		SELECT s.segment, count(DISTINCT member_id), count(*), unnest(''{auc,gauc,mean_auc,log_loss,calibration_error}''::text[]),
			unnest(ARRAY[limaml_auc(adapted, liked), limaml_gauc(adapted, liked, member_id), limaml_mean_auc(adapted, liked, member_id),
				limaml_log_loss(adapted, liked), limaml_calibration_error(adapted, liked)]),
			unnest(ARRAY[limaml_auc(prior, liked), limaml_gauc(prior, liked, member_id), limaml_mean_auc(prior, liked, member_id),
				limaml_log_loss(prior, liked), limaml_calibration_error(prior, liked)])
		FROM %s AS s GROUP BY s.segment', scored);
END
$$;
-- Two scores may round to one probability: then a pair ties that did not
CREATE FUNCTION tolerance(metric text) RETURNS float8 LANGUAGE sql AS $$ SELECT CASE WHEN metric LIKE '%auc' THEN 0.01 ELSE 1e-6 END $$;
-- How many figures there are, and how many of them are not the same
CREATE FUNCTION differences(evaluated text, expected text, OUT evaluations bigint, OUT figures bigint, OUT different bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT count(e), count(f), count(*) FILTER (WHERE e IS NULL OR f IS NULL
			OR (e.entities, e.interactions, e.value IS NULL, e.unadapted IS NULL) IS DISTINCT FROM (f.entities, f.interactions, f.value IS NULL, f.unadapted IS NULL)
			OR abs(e.value - f.value) > tolerance(e.metric) OR abs(e.unadapted - f.unadapted) > tolerance(e.metric))
		FROM %s AS e FULL JOIN %s AS f ON COALESCE(e.segment, ''null'') = COALESCE(f.segment, ''null'') AND e.metric = f.metric', evaluated, expected)
	INTO evaluations, figures, different;
END
$$;
CREATE VIEW with_all AS SELECT * FROM scored UNION ALL
SELECT member_id, at, item_id, x, liked, stars, kind, is_declared, prior, stars_prior, support, adapted, stars_adapted, 'all' FROM scored;

SELECT * FROM differences($$limaml_evaluate('taste', 'later')$$, $$figures('with_all')$$);
SELECT segment, entities, interactions, string_agg(metric, ' ') AS metrics, bool_and(value BETWEEN 0 AND 2) AS values,
	bool_and(value = unadapted) FILTER (WHERE metric = 'log_loss') AS unadapted, bool_and(standard_error BETWEEN 0.0001 AND 0.5) AS standard_errors
FROM (SELECT *, row_number() OVER () FROM limaml_evaluate('taste', 'later')) _ GROUP BY segment, entities, interactions ORDER BY min(row_number);

CREATE VIEW stars_figures AS
SELECT segment, count(DISTINCT member_id) AS entities, count(*) AS interactions, unnest('{rmse,mae}'::text[]) AS metric,
	unnest(ARRAY[sqrt(avg((stars_adapted - stars) ^ 2)), avg(abs(stars_adapted - stars))]) AS value,
	unnest(ARRAY[sqrt(avg((stars_prior - stars) ^ 2)), avg(abs(stars_prior - stars))]) AS unadapted
FROM with_all GROUP BY segment;
SELECT * FROM differences($$limaml_evaluate('stars', 'later')$$, 'stars_figures');
SELECT segment, entities, interactions, string_agg(metric, ' ') AS metrics, bool_and(value BETWEEN 0 AND 4) AS values,
	bool_and(value = unadapted) FILTER (WHERE metric = 'rmse') AS unadapted, bool_and(standard_error BETWEEN 0.0001 AND 2) AS standard_errors
FROM (SELECT *, row_number() OVER () FROM limaml_evaluate('stars', 'later')) _ GROUP BY segment, entities, interactions ORDER BY min(row_number);

-- The embeddings that are stored play no part, and none is stored
CREATE TABLE evaluated AS SELECT * FROM limaml_evaluate('taste', 'later');
SELECT count(*), count(DISTINCT embedding) > 20 AS embeddings FROM taste_embedding;
DELETE FROM taste_embedding;
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('taste', 'later') EXCEPT TABLE evaluated) _;
SELECT count(*) FROM taste_embedding;
BEGIN READ ONLY;
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('taste', 'later') EXCEPT TABLE evaluated) _;
COMMIT;

----------------------------------------------------------------------------
-- Support is what is strictly older than the entity's first tested row
----------------------------------------------------------------------------

BEGIN;
INSERT INTO rating SELECT member_id, first + add, item_id, x, NOT liked
FROM later JOIN (SELECT member_id, min(at) AS first FROM later GROUP BY member_id) _ USING (member_id), unnest('{0,1,100}'::int[]) add;
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('taste', 'later') EXCEPT TABLE evaluated) _;
-- One that is older does count
UPDATE rating SET at = at - 1 WHERE member_id = 1 AND at = 4;
SELECT metric, e.value <> v.value AS value, e.unadapted = v.unadapted AS unadapted
FROM limaml_evaluate('taste', 'later') e JOIN evaluated v USING (segment, metric) WHERE segment = 'all' AND metric = 'log_loss';
ROLLBACK;
-- Rows that are tested do not adapt for those after them
CREATE VIEW later_alone AS SELECT * FROM later l WHERE at = (SELECT max(at) FROM later WHERE member_id = l.member_id);
SELECT abs(e.value - avg(CASE WHEN liked THEN -ln(adapted) ELSE -ln(1 - adapted) END)) < 1e-6 AS prior
FROM limaml_evaluate('taste', 'later_alone') e, scored s
WHERE e.segment = '0' AND metric = 'log_loss' AND s.segment = '0' AND s.at = 10 GROUP BY e.value;

----------------------------------------------------------------------------
-- Without a relation: rows that were held out
----------------------------------------------------------------------------

-- They are those that training validates on
CREATE TABLE validated AS SELECT model, t.* FROM unnest('{taste,stars}'::text[]) model, LATERAL limaml_train(model, '{"epochs": 1}') t;
SELECT v.model, metric, abs(CASE metric WHEN 'auc' THEN value - validation_auc WHEN 'log_loss' THEN value - validation_loss ELSE value ^ 2 / 2 - validation_loss END) < 1e-6 AS value,
	CASE metric WHEN 'auc' THEN abs(unadapted - baseline_auc) < 1e-6 END AS unadapted
FROM validated v, LATERAL limaml_evaluate(v.model, version => v.version) WHERE segment = 'all' AND metric IN ('auc', 'log_loss', 'rmse');
SELECT limaml_drop_version(model, version) FROM validated;
SELECT count(*) FILTER (WHERE segment = 'all') AS all, sum(entities) FILTER (WHERE segment = 'all') = sum(entities) FILTER (WHERE segment <> 'all') AS entities,
	sum(interactions) FILTER (WHERE segment = 'all') = sum(interactions) FILTER (WHERE segment <> 'all') AS interactions
FROM limaml_evaluate('taste') WHERE metric = 'auc';

-- Labels that nothing tells.  A network that may learn a row by heart, by an
-- item of its own, does; that of the first run has not met the rows it is
-- tested on, and guesses.
CREATE TABLE noise AS
SELECT m AS member_id, n AS at, m * 1000 + n AS item_id, abs(hashint4(m * 7919 + n)) % 1000 / 1000.0::float8 AS x, hashint4(m * 1000 + n) % 2 = 0 AS liked
FROM generate_series(1, 120) m, generate_series(1, 50) n;
SELECT create_small('noise', 'noise', options => '{"learning_rate": 0.1, "batch_entities": 4, "prior_loss": 10, "weight_decay": 0, "category_decay": 0, "validation_fraction": 0.2, "epochs": 1}');
SELECT entities, interactions, abs(validation_auc - 0.5) < 0.08 AS validation_auc FROM limaml_train('noise');
SELECT entities, interactions, value > 0.6 AS by_heart FROM limaml_evaluate('noise', 'noise') WHERE segment = 'all' AND metric = 'auc';
SELECT segment, entities, interactions, abs(value - 0.5) < 0.08 AS honest, abs(unadapted - 0.5) < 0.08 AS unadapted
FROM limaml_evaluate('noise') WHERE metric = 'auc';
-- So it remains when newer rows come, and more members
INSERT INTO noise SELECT m, n, m * 1000 + n, abs(hashint4(m * 7919 + n)) % 1000 / 1000.0, hashint4(m * 1000 + n) % 2 = 0
FROM generate_series(1, 150) m, generate_series(51, 100) n;
SELECT segment, entities, interactions, abs(value - 0.5) < 0.08 AS honest, abs(unadapted - 0.5) < 0.08 AS unadapted
FROM limaml_evaluate('noise') WHERE metric = 'auc';

----------------------------------------------------------------------------
-- Segments by a column
----------------------------------------------------------------------------

-- of the relation: NULL is one, "all" another than all rows
CREATE TABLE by_kind AS SELECT row_number() OVER () AS place, * FROM limaml_evaluate('taste', 'later', segment => 'kind');
SELECT place, segment, entities, interactions FROM by_kind WHERE metric = 'auc' ORDER BY place;
CREATE VIEW by_kind_scored AS SELECT member_id, liked, prior, adapted, COALESCE(kind, 'null') AS segment FROM scored;
SELECT * FROM differences($$(SELECT * FROM by_kind WHERE place > 5)$$, $$figures('by_kind_scored')$$);
SELECT * FROM differences($$(SELECT * FROM by_kind WHERE place <= 5)$$, $$(SELECT * FROM figures('with_all') WHERE segment = 'all')$$);
-- of the entities
CREATE VIEW by_plan_scored AS SELECT member_id, liked, prior, adapted, COALESCE(plan, 'null') AS segment FROM scored JOIN member USING (member_id);
SELECT * FROM differences($$(SELECT * FROM limaml_evaluate('taste', 'later', segment => 'plan') OFFSET 5)$$, $$figures('by_plan_scored')$$);
SELECT DISTINCT segment FROM limaml_evaluate('taste', 'later', segment => 'age') ORDER BY 1;
-- of the declared rows, where these are tested
SELECT place = 1 AS all, sum(interactions) = (SELECT sum(interactions) FROM limaml_evaluate('taste') WHERE segment = 'all' AND metric = 'auc') AS sum, count(*)
FROM (SELECT *, row_number() OVER () AS place FROM limaml_evaluate('taste', segment => 'kind') WHERE metric = 'auc') _ GROUP BY 1 ORDER BY 1 DESC;
-- a column of the relation comes before one of the entities
CREATE VIEW later_with_plan AS SELECT *, 'mine' AS plan FROM later;
SELECT segment, interactions FROM limaml_evaluate('taste', 'later_with_plan', segment => 'plan') WHERE metric = 'auc';
SELECT limaml_evaluate('taste', 'later', segment => 'nosuch');
SELECT limaml_evaluate('taste', segment => 'nosuch');
SELECT limaml_evaluate('taste', 'later', segment => 'ctid');
-- A thousand are allowed
CREATE VIEW many AS SELECT *, row_number() OVER () % 1000 AS thousand, row_number() OVER () % 1001 AS more FROM later, generate_series(1, 4) copy;
SELECT count(DISTINCT segment) FROM limaml_evaluate('taste', 'many', segment => 'thousand');
SELECT limaml_evaluate('taste', 'many', segment => 'more');

----------------------------------------------------------------------------
-- Support: the same rows after the first k
----------------------------------------------------------------------------

-- Members without declared rows, with 4 to 12 rows each; and one who has some
CREATE TABLE strangers AS
SELECT m AS member_id, n AS at, i AS item_id, (m * 31 + n * 7) % 101 / 10.0::float8 + (m * 1000 + n) / 1e5 AS x, ((i + m) % 2 = 0) <> (hashint4(m * 1000 + n) % 5 = 0) AS liked
FROM generate_series(31, 60) m, generate_series(1, 4 + m % 9) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
-- The same network over the first so many of these rows alone
CREATE VIEW first_rows AS
SELECT * FROM (SELECT s.*, row_number() OVER (PARTITION BY member_id ORDER BY at) AS number FROM strangers s) _
WHERE number <= current_setting('evaluate_test.first')::int AND at < current_setting('evaluate_test.before')::int;
SET evaluate_test.first = 0;
SET evaluate_test.before = 1000000;
SELECT create_small('first', 'first_rows');
SELECT limaml_import('first', limaml_export('taste'));
CREATE VIEW tested AS SELECT member_id, at, item_id, x, liked FROM (SELECT s.*, row_number() OVER (PARTITION BY member_id ORDER BY at) AS number FROM strangers s) _ WHERE number > 5;
CREATE TABLE after AS SELECT 0 AS k, t.*, limaml_score('first', member_id, t) AS prior, limaml_score_embedding('first', limaml_adapt('first', member_id), t) AS adapted FROM tested t;
SET evaluate_test.first = 1;
INSERT INTO after SELECT 1, t.*, limaml_score('first', member_id, t), limaml_score_embedding('first', limaml_adapt('first', member_id), t) FROM tested t;
SET evaluate_test.first = 5;
INSERT INTO after SELECT 5, t.*, limaml_score('first', member_id, t), limaml_score_embedding('first', limaml_adapt('first', member_id), t) FROM tested t;

SELECT segment, entities, interactions, value = unadapted AS unadapted FROM limaml_evaluate('taste', 'strangers', support => '{0,1,5}') WHERE metric = 'log_loss';
SELECT count(DISTINCT member_id) AS entities, count(*) AS interactions FROM tested;
CREATE VIEW after_scored AS SELECT member_id, liked, prior, adapted, k::text AS segment FROM after;
SELECT * FROM differences($$limaml_evaluate('taste', 'strangers', support => '{0,1,5}')$$, $$figures('after_scored')$$);
-- in the order asked for
SELECT segment FROM limaml_evaluate('taste', 'strangers', support => '{5,0,1}') WHERE metric = 'auc';
SELECT segment, entities, interactions FROM limaml_evaluate('taste', 'strangers', support => '{11}') WHERE metric = 'auc';
-- Who has declared rows is no stranger
CREATE VIEW strangers_and_others AS TABLE strangers UNION ALL SELECT member_id, at, item_id, x, liked FROM later;
SELECT segment, entities, interactions FROM limaml_evaluate('taste', 'strangers_and_others', support => '{0,1,5}') WHERE metric = 'auc';

SELECT limaml_evaluate('taste', 'strangers', support => '{}');
SELECT limaml_evaluate('taste', 'strangers', support => '{1,NULL}');
SELECT limaml_evaluate('taste', 'strangers', support => '{-1}');
SELECT limaml_evaluate('taste', 'strangers', support => '{2147483647}');
SELECT limaml_evaluate('taste', 'rating', support => '{0}');
SELECT limaml_evaluate('taste', support => '{0}');

-- Without a relation: entities that the first run left out
SELECT create_small('cold', 'noise', options => '{"validation_entities": 0.2, "epochs": 1}');
SELECT entities FROM limaml_train('cold');
CREATE TABLE cold AS SELECT * FROM limaml_evaluate('cold', support => '{0,5}');
SELECT segment, entities BETWEEN 15 AND 45 AS entities, interactions BETWEEN 45 * entities AND 95 * entities AS interactions, value = unadapted AS unadapted
FROM cold WHERE metric = 'log_loss';
SELECT count(DISTINCT (entities, interactions)), bool_and(abs(value - 0.5) < 0.1) AS honest FROM cold WHERE metric = 'auc';
-- They are the same every time, and fewer when asked to have more rows
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('cold', support => '{0,5}') EXCEPT TABLE cold) _;
SELECT entities < (SELECT min(entities) FROM cold) AS entities, interactions = entities AS interactions FROM limaml_evaluate('cold', support => '{99}') WHERE metric = 'auc';
SELECT limaml_evaluate('cold', support => '{1000}');
SELECT version FROM limaml_train('cold', '{"validation_entities": 0}');
SELECT limaml_evaluate('cold', version => 2, support => '{0}');
----------------------------------------------------------------------------
-- Lags: each row after what was there so long before it
----------------------------------------------------------------------------

SET IntervalStyle = 'postgres';
-- The same rows with all kinds of event times, two rows
-- a day until after New York's clocks have changed
CREATE TABLE timed AS
SELECT member_id, date '2024-11-01' + (at + 1) / 2 AS day, timestamp '2024-11-01 01:30' + (at + 1) / 2 * interval '24 hours' AS moment,
	timestamptz '2024-11-01 01:30 America/New_York' + (at + 1) / 2 * interval '24 hours' AS instant, at, item_id, x, liked, is_declared
FROM every_row WHERE member_id <= 10 AND member_id % 5 <> 1;
CREATE TABLE timed_declared AS SELECT * FROM timed WHERE is_declared;
CREATE TABLE timed_later AS SELECT * FROM timed WHERE NOT is_declared;
SELECT create_small(event_time, 'timed_declared', event_time => event_time) FROM unnest('{day,moment,instant}'::text[]) event_time;
SELECT limaml_import(model, limaml_export('taste')) FROM unnest('{day,moment,instant}'::text[]) model;

-- Each row by itself, with a view of what was there: for each lag in days
CREATE VIEW there AS SELECT * FROM timed WHERE day <= current_setting('evaluate_test.day')::date;
SELECT create_small('there', 'there', event_time => 'day');
SELECT limaml_import('there', limaml_export('taste'));
CREATE TABLE lagged (lag text, member_id int, liked boolean, adapted real);
DO $$
DECLARE
	lag int;
	tested record;
BEGIN
	FOR lag IN SELECT unnest('{0,3,1000}'::int[]) LOOP
		FOR tested IN SELECT member_id, at, day FROM timed_later LOOP
			PERFORM set_config('evaluate_test.day', (tested.day - greatest(lag, 1))::text, true);
			INSERT INTO lagged
			SELECT CASE lag WHEN 0 THEN '00:00:00' ELSE lag || ' days' END, member_id, liked, limaml_score_embedding('there', limaml_adapt('there', member_id), t)
			FROM timed_later t WHERE t.member_id = tested.member_id AND t.at = tested.at;
		END LOOP;
	END LOOP;
END
$$;
SELECT e.segment, e.metric, e.entities, e.interactions, e.value = e.unadapted AS unadapted,
	abs(e.value - CASE metric WHEN 'auc' THEN limaml_auc(adapted, liked) WHEN 'gauc' THEN limaml_gauc(adapted, liked, member_id) ELSE limaml_log_loss(adapted, liked) END) < tolerance(metric) AS same
FROM limaml_evaluate('day', 'timed_later', refresh_lag => '{0,3 days,1000 days}') e JOIN lagged l ON e.segment = l.lag
WHERE metric IN ('auc', 'gauc', 'log_loss') GROUP BY e.segment, e.metric, e.entities, e.interactions, e.value, e.unadapted ORDER BY 1, 2;
-- The kind of time makes no difference
CREATE TABLE by_day AS SELECT * FROM limaml_evaluate('day', 'timed_later', refresh_lag => '{0,3 days,1000 days}');
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('moment', 'timed_later', refresh_lag => '{0,3 days,1000 days}') EXCEPT TABLE by_day) _;
SET TimeZone = 'UTC';
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('instant', 'timed_later', refresh_lag => '{0,3 days,1000 days}') EXCEPT TABLE by_day) _;
-- (days are those of the session's time zone, hours are not)
SET TimeZone = 'America/New_York';
SELECT count(*) AS different FROM (SELECT value FROM limaml_evaluate('instant', 'timed_later', refresh_lag => '{0,72 hours,24000 hours}') EXCEPT SELECT value FROM by_day) _;
RESET TimeZone;
-- Lags are named as the session writes intervals
SET IntervalStyle = 'iso_8601';
SELECT e.segment, e.value = d.value AS same
FROM limaml_evaluate('day', 'timed_later', refresh_lag => '{3 days}') e JOIN by_day d USING (metric) WHERE metric = 'log_loss' AND d.segment = '3 days';
SET IntervalStyle = 'postgres';
-- Held-out rows adapt those after them
SELECT version FROM limaml_train('day', '{"validation_fraction": 0.3}');
SELECT segment, value = unadapted AS unadapted FROM limaml_evaluate('day', version => 2, refresh_lag => '{0,1 day,1000 days}') WHERE metric = 'log_loss';
SELECT e.entities = l.entities AND e.interactions = l.interactions AS same_rows
FROM limaml_evaluate('day', version => 2) e, limaml_evaluate('day', version => 2, refresh_lag => '{0}') l WHERE e.segment = 'all' AND e.metric = 'auc' AND l.metric = 'auc';

SELECT limaml_evaluate('taste', 'later', refresh_lag => '{0}');
SELECT limaml_evaluate('day', 'timed_later', refresh_lag => '{}');
SELECT limaml_evaluate('day', 'timed_later', refresh_lag => '{NULL}');
SELECT limaml_evaluate('day', 'timed_later', refresh_lag => '{1 day,-1 day}');

----------------------------------------------------------------------------
-- What else is refused, and what is not
----------------------------------------------------------------------------

SELECT limaml_evaluate('taste', 'later', segment => 'kind', support => '{0}');
SELECT limaml_evaluate('day', 'timed_later', support => '{0}', refresh_lag => '{0}');
SELECT limaml_evaluate('day', 'timed_later', segment => 'liked', refresh_lag => '{0}');
SELECT limaml_evaluate(NULL, 'later');
SELECT limaml_evaluate('nosuch', 'later');
SELECT limaml_evaluate('taste', 'later', version => 2);
SELECT limaml_evaluate('taste', 'later', version => 0);
SELECT limaml_evaluate('first', 'rating', version => -1);
SELECT create_small('untrained', 'rating');
SELECT limaml_evaluate('untrained');
-- Imported, or trained without rows that validate
\set VERBOSITY default
SELECT limaml_evaluate('first');
SELECT version FROM limaml_train('untrained', '{"validation_fraction": 0}');
SELECT limaml_evaluate('untrained');
\set VERBOSITY terse
SELECT count(*) FROM limaml_evaluate('untrained', 'later');

-- Relations
SELECT limaml_evaluate('taste', 4294967295);
CREATE TABLE empty (LIKE later);
SELECT limaml_evaluate('taste', 'empty');
CREATE VIEW incomplete AS SELECT member_id, at, item_id, liked FROM later;
SELECT limaml_evaluate('taste', 'incomplete');
CREATE VIEW keyless AS SELECT at, item_id, liked, x FROM later;
SELECT limaml_evaluate('taste', 'keyless');
CREATE VIEW other_types AS SELECT member_id, at, item_id::bigint, liked, x FROM later;
SELECT limaml_evaluate('taste', 'other_types');
CREATE VIEW other_key AS SELECT member_id::text, at, item_id, liked, x FROM later;
SELECT limaml_evaluate('taste', 'other_key');
CREATE VIEW other_label AS SELECT member_id, at, item_id, liked::int, x FROM later;
SELECT limaml_evaluate('taste', 'other_label');
-- A view, a materialised view, a partitioned and a temporary table are as good
CREATE VIEW a_view AS SELECT x, liked, item_id, at, member_id FROM later;
CREATE MATERIALIZED VIEW a_materialized_view AS TABLE a_view;
CREATE TABLE partitioned (LIKE later) PARTITION BY HASH (member_id);
CREATE TABLE partition_0 PARTITION OF partitioned FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE partition_1 PARTITION OF partitioned FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO partitioned TABLE later;
CREATE TEMP TABLE temporary AS SELECT * FROM later ORDER BY hashint4(at), x;
SELECT relation, (SELECT count(*) FROM (SELECT * FROM limaml_evaluate('taste', relation) EXCEPT TABLE evaluated) _) AS different
FROM unnest('{a_view,a_materialized_view,partitioned,temporary}'::regclass[]) relation;
-- Rows without a key, a label or a time are skipped
INSERT INTO temporary SELECT NULL, at, item_id, x, liked FROM later;
INSERT INTO temporary SELECT member_id, NULL, item_id, x, liked FROM later;
INSERT INTO temporary SELECT member_id, at, item_id, x, NULL FROM later;
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('taste', 'temporary') EXCEPT TABLE evaluated) _;
ALTER TABLE rating ALTER at SET NOT NULL, ALTER liked SET NOT NULL, ALTER member_id SET NOT NULL;
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('taste', 'temporary') EXCEPT TABLE evaluated) _;
DELETE FROM temporary WHERE member_id IS NOT NULL AND at IS NOT NULL AND liked IS NOT NULL;
SELECT limaml_evaluate('taste', 'temporary');
-- Labels that are none
CREATE TEMP TABLE graded AS SELECT * FROM every_row WHERE not is_declared;
UPDATE graded SET stars = 'NaN' WHERE member_id = 7 AND at = 20;
SELECT limaml_evaluate('stars', 'graded');

-- Nothing depends on how the session is set
SET search_path = '';
SELECT count(*) AS different FROM (SELECT * FROM public.limaml_evaluate('taste', 'evaluate_test.later') EXCEPT TABLE evaluate_test.evaluated) _;
SET search_path = evaluate_test, public;
SET enable_sort = off; SET enable_hashjoin = off; SET work_mem = '64kB';
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('taste', 'later') EXCEPT TABLE evaluated) _;
RESET enable_sort; RESET enable_hashjoin; RESET work_mem;
----------------------------------------------------------------------------
-- Names of any kind, and a key of several columns of text
----------------------------------------------------------------------------

CREATE SCHEMA "Odd; schema";
CREATE TABLE "Odd; schema"."rows ""of"" o'clock" AS
SELECT 'm' || m AS "Member; id", 'c' || m % 2 AS "select", timestamp '2024-01-01' + n * interval '1 hour' AS "When?", (m + n) % 2 = 0 AS "Label; DROP TABLE x",
	'i' || n % 5 AS "it""em", m + n AS "number of the row", n % 3 AS "segment of the row"
FROM generate_series(1, 20) m, generate_series(1, 12) n;
CREATE TABLE "Odd; schema"."more; rows" AS
SELECT "Member; id", "select", "When?" + interval '12 hours' AS "When?", "Label; DROP TABLE x", "it""em", "number of the row", "segment of the row"
FROM "Odd; schema"."rows ""of"" o'clock";
SELECT limaml_create_model('odd "model"; --', '"Odd; schema"."rows ""of"" o''clock"', '{Member; id,select}', 'Label; DROP TABLE x', 'When?', '{"it\"em","number of the row"}',
	embeddings => 'odd', options => '{"embedding_size": 4, "meta_hidden": [4], "global_hidden": [4], "epochs": 1, "validation_fraction": 0.25}');
SELECT version FROM limaml_train('odd "model"; --');
SET search_path = '';
SELECT segment, entities, interactions FROM public.limaml_evaluate('odd "model"; --', '"Odd; schema"."more; rows"', segment => 'segment of the row') WHERE metric = 'auc';
SELECT segment, entities, interactions FROM public.limaml_evaluate('odd "model"; --', '"Odd; schema"."more; rows"', refresh_lag => '{0,1 day}') WHERE metric = 'auc';
SELECT segment, entities, interactions FROM public.limaml_evaluate('odd "model"; --', segment => 'Label; DROP TABLE x') WHERE metric = 'log_loss';
SELECT segment, entities, interactions FROM public.limaml_evaluate('odd "model"; --') WHERE metric = 'log_loss';
SELECT public.limaml_evaluate('odd "model"; --', '"Odd; schema"."more; rows"', support => '{1}');
SELECT public.limaml_evaluate('odd "model"; --', segment => '"select"');
SET search_path = evaluate_test, public;

----------------------------------------------------------------------------
-- Standard errors are deviations over samples of entities
----------------------------------------------------------------------------

CREATE TABLE resampled AS
SELECT r, hashint4(r * 1000 + m) & 2147483647 AS drawn FROM generate_series(1, 300) r, generate_series(1, 30) m;
WITH bootstrap AS (
	SELECT r, limaml_auc(adapted, liked) AS auc, limaml_log_loss(adapted, liked) AS log_loss
	FROM resampled JOIN scored ON member_id = drawn % 30 + 1 GROUP BY r
)
SELECT metric, standard_error / CASE metric WHEN 'auc' THEN auc ELSE log_loss END BETWEEN 0.7 AND 1.4 AS alike
FROM limaml_evaluate('taste', 'later'), (SELECT stddev(auc) AS auc, stddev(log_loss) AS log_loss FROM bootstrap) _
WHERE segment = 'all' AND metric IN ('auc', 'log_loss');
WITH bootstrap AS (
	SELECT r, sqrt(avg((stars_adapted - stars) ^ 2)) AS rmse, avg(abs(stars_adapted - stars)) AS mae
	FROM resampled JOIN scored ON member_id = drawn % 30 + 1 GROUP BY r
)
SELECT metric, standard_error / CASE metric WHEN 'rmse' THEN rmse ELSE mae END BETWEEN 0.7 AND 1.4 AS alike
FROM limaml_evaluate('stars', 'later'), (SELECT stddev(rmse) AS rmse, stddev(mae) AS mae FROM bootstrap) _
WHERE segment = 'all';
-- Of one entity there is nothing to tell
CREATE VIEW later_of_one AS SELECT * FROM later WHERE member_id = 3;
SELECT metric, entities, COALESCE(standard_error, 0) AS standard_error FROM limaml_evaluate('taste', 'later_of_one') WHERE segment = 'all';

----------------------------------------------------------------------------
-- The model's owner and members of that role, who read as the owner does
----------------------------------------------------------------------------

CREATE ROLE limaml_evaluator;
CREATE ROLE limaml_evaluators_deputy IN ROLE limaml_evaluator;
CREATE ROLE limaml_other;
GRANT USAGE ON SCHEMA evaluate_test TO PUBLIC;
GRANT CREATE ON SCHEMA evaluate_test TO limaml_evaluator;
GRANT SELECT ON rating, member TO limaml_evaluator;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evaluate_test TO PUBLIC;
SET ROLE limaml_evaluator;
SELECT create_small('theirs', 'rating');
SELECT version FROM limaml_train('theirs');
SELECT count(*) > 0 AS evaluated FROM limaml_evaluate('theirs');
SELECT limaml_evaluate('theirs', 'later');
SELECT limaml_evaluate('taste', 'later');
RESET ROLE;
GRANT SELECT ON theirs_embedding TO limaml_other;
GRANT SELECT ON later TO limaml_other;
SET ROLE limaml_other;
SELECT limaml_evaluate('theirs', 'later');
RESET ROLE;
SELECT limaml_evaluate('theirs', 'later');
GRANT SELECT ON later TO limaml_evaluator;
SET ROLE limaml_evaluators_deputy;
SELECT count(*) FROM limaml_evaluate('theirs', 'later');
RESET ROLE;

SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA evaluate_test, "Odd; schema" CASCADE;
DROP ROLE limaml_evaluators_deputy, limaml_evaluator, limaml_other;
