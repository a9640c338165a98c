--
-- limaml_compare and limaml_tune, and the arms that limaml_train trains.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '(null)'
CREATE SCHEMA compare_test;
SET search_path = compare_test, public;

----------------------------------------------------------------------------
-- Nothing leaks: features that tell the label of each member's newest fifth,
-- and of no other row, are of no use to any arm
----------------------------------------------------------------------------

-- 50 rows each, so that test_fraction and validation_fraction 0.2 take the
-- same ten; labels that nothing else tells
CREATE TABLE noise AS
SELECT m AS member_id, n AS at, abs(hashint4(m * 100 + n)) % 50 AS item_id, hashint4(m * 1000 + n) % 2 = 0 AS liked, n > 40 AS newest
FROM generate_series(1, 120) m, generate_series(1, 50) n;
CREATE VIEW planted AS
SELECT member_id, at, item_id, liked,
	CASE WHEN newest THEN liked::int::float8 END AS number, CASE WHEN newest THEN liked::int * 10 ELSE 3 END AS constant_number,
	CASE WHEN newest THEN liked END AS flag, newest AND liked AS constant_flag,
	CASE WHEN newest THEN liked::text END AS kind, CASE WHEN newest THEN liked::text ELSE 'no' END AS constant_kind,
	CASE WHEN newest THEN liked::text ELSE chr(97 + item_id % 3) END AS varied_kind, CASE WHEN NOT newest THEN chr(97 + item_id % 3) WHEN liked THEN 'new' END AS varied_or_null
FROM noise;
SELECT limaml_create_model('planted', 'planted', '{member_id}', 'liked', 'at', '{item_id:category,number,constant_number,flag,constant_flag,kind,constant_kind,varied_kind,varied_or_null}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 2, "learning_rate": 0.02, "validation_fraction": 0.2}');
SELECT arm, abs(value - 0.5) < 0.1 AS chance
FROM limaml_compare('planted', '{damped_mean,none,id,limaml,first_order,head,full}', 1) WHERE metric = 'auc' AND segment = 'all';
SELECT abs(validation_auc - 0.5) < 0.1 AS chance FROM limaml_train('planted');
SELECT abs(value - 0.5) < 0.1 AS chance, abs(unadapted - 0.5) < 0.1 AS unadapted FROM limaml_evaluate('planted') WHERE metric = 'auc' AND segment = 'all';
-- Without the item an entity's newest rows are all alike to whoever has not
-- seen their labels, but for the last bit of their scores
SELECT limaml_create_model('alike', 'planted', '{member_id}', 'liked', 'at', '{number,constant_number,flag,constant_flag,kind,constant_kind,varied_kind,varied_or_null}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 2, "learning_rate": 0.02, "validation_fraction": 0.2}');
SELECT arm, abs(value - 0.5) < 0.05 AS chance FROM limaml_compare('alike', '{damped_mean,none,id,limaml,first_order,head,full}', 1) WHERE metric = 'gauc' AND segment = 'all';
SELECT version FROM limaml_train('alike');
SELECT abs(value - 0.5) < 0.05 AS chance, abs(unadapted - 0.5) < 0.05 AS unadapted FROM limaml_evaluate('alike') WHERE metric = 'gauc' AND segment = 'all';
-- They would tell all, if older rows had them too
CREATE VIEW told AS SELECT member_id, at, item_id, liked, liked::int::float8 AS number, liked::text AS kind FROM noise;
SELECT limaml_create_model('told', 'told', '{member_id}', 'liked', 'at', '{item_id:category,number,kind}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 2, "learning_rate": 0.02, "validation_fraction": 0.2}');
SELECT arm, value > 0.95 AS told FROM limaml_compare('told', '{none,id,limaml,first_order,head,full}', 1) WHERE metric = 'auc' AND segment = 'all';
SELECT validation_auc > 0.95 AS told FROM limaml_train('told');
SELECT value > 0.95 AS told, unadapted > 0.95 AS unadapted FROM limaml_evaluate('told') WHERE metric = 'auc' AND segment = 'all';

----------------------------------------------------------------------------
-- Nor do their labels play any part: turned round they turn round what ranks
-- them, and nothing else
----------------------------------------------------------------------------

-- Every other member likes even items, and the others odd ones; with rows for
-- every segment
CREATE TABLE tastes AS
SELECT m AS member_id, n AS at, i AS item_id, ((i + m) % 2 = 0) <> (hashint4(m * 1000 + n) % 8 = 0) AS liked, 5 * n > 4 * declared AS newest
FROM generate_series(1, 36) m, LATERAL (SELECT ('{30,5,20,30,130,30}'::int[])[1 + m / 2 % 6] AS declared) _,
	LATERAL generate_series(1, declared) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 20 + 1 AS i) __;
CREATE VIEW turned AS SELECT member_id, at, item_id, liked <> newest AS liked FROM tastes;
CREATE FUNCTION create_small(model text, interactions regclass, options jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, '{member_id}', 'liked', 'at', '{item_id:category}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 5, "learning_rate": 0.02, "batch_entities": 8, "weight_decay": 0, "category_decay": 0}' || options)
$$;
SELECT create_small('tastes', 'tastes');
SELECT create_small('turned', 'turned');
SELECT version FROM limaml_train('tastes');
CALL limaml_refresh('tastes');
CREATE FUNCTION stored() RETURNS text LANGUAGE sql AS $$
	SELECT md5((SELECT string_agg(m::text, ',' ORDER BY model) FROM limaml.model m)
		|| (SELECT string_agg(model || version || deployed || digest::text, ',' ORDER BY model, version) FROM limaml.version)
		|| (SELECT count(*) FROM limaml.training_log) || (SELECT count(*) FROM limaml.trial)
		|| (SELECT string_agg(e::text, ',' ORDER BY member_id) FROM tastes_embedding e))
$$;
CREATE TABLE before AS SELECT stored();

CREATE TABLE compared AS SELECT row_number() OVER () AS place, * FROM limaml_compare('tastes', '{damped_mean,none,id,limaml,first_order,head,full}', 2);
CREATE TABLE compared_turned AS SELECT * FROM limaml_compare('turned', '{damped_mean,none,id,limaml,first_order,head,full}', 2);
SELECT arm, count(*), count(*) FILTER (WHERE abs(c.value + t.value - 1) > 1e-9) AS different
FROM compared c JOIN compared_turned t USING (arm, segment, metric) WHERE metric IN ('auc', 'gauc', 'mean_auc') GROUP BY arm ORDER BY min(place);

----------------------------------------------------------------------------
-- What it returns, and leaves alone
----------------------------------------------------------------------------

SELECT stored = stored() AS untouched FROM before;
-- Arms in the order asked for, with the same segments and metrics
SELECT arm, count(*), array_agg(segment ORDER BY place) = (SELECT array_agg(segment ORDER BY place) FROM compared WHERE arm = 'none') AS segments,
	array_agg(metric ORDER BY place) = (SELECT array_agg(metric ORDER BY place) FROM compared WHERE arm = 'none') AS metrics, count(value) AS values
FROM compared c GROUP BY arm ORDER BY min(place);
SELECT segment, string_agg(metric, ' ' ORDER BY place) AS metrics FROM compared WHERE arm = 'id' GROUP BY segment ORDER BY min(place);
SELECT c.arm, bool_and(abs(c.over_none - (c.value - n.value)) < 1e-12) AS over_none, bool_and(abs(c.over_id - (c.value - i.value)) < 1e-12) AS over_id,
	count(c.standard_error) AS standard_errors, min(c.train_seconds) > 0 AND count(DISTINCT c.train_seconds) = 1 AS train_seconds, min(c.bytes_per_entity) AS bytes_per_entity
FROM compared c JOIN compared n USING (segment, metric) JOIN compared i USING (segment, metric) WHERE n.arm = 'none' AND i.arm = 'id' GROUP BY c.arm ORDER BY min(c.place);
-- Two runs differ, and their half distance is the standard error of their mean
SELECT bool_and(standard_error > 0) AS differ FROM compared WHERE arm <> 'damped_mean' AND segment = 'all' AND metric = 'log_loss';
SELECT limaml_set_options('tastes', '{"seed": 1}');
CREATE TABLE second AS SELECT * FROM limaml_compare('tastes', '{limaml,none}', 1);
SELECT count(*), count(over_none) AS over_none, count(over_id) AS over_id, count(standard_error) AS standard_errors FROM second;
SELECT limaml_set_options('tastes', '{"seed": 0}');
SELECT count(*), count(f.over_none) AS over_none, count(f.over_id) AS over_id, count(f.standard_error) AS standard_errors,
	bool_and(abs(f.value + s.value - 2 * c.value) < 1e-12) AS means, bool_and(abs(abs(f.value - s.value) / 2 - c.standard_error) < 1e-12) AS halves
FROM limaml_compare('tastes', '{limaml}', 1) f JOIN second s USING (arm, segment, metric) JOIN compared c USING (arm, segment, metric);
-- Called again, and whatever else is compared, it is the same
SELECT count(*) AS different FROM (
	SELECT arm, segment, metric, value, standard_error, bytes_per_entity FROM limaml_compare('tastes', '{full,first_order,limaml,id,damped_mean}', 2)
	EXCEPT SELECT arm, segment, metric, value, standard_error, bytes_per_entity FROM compared) _;
BEGIN READ ONLY;
SELECT count(*) FROM limaml_compare('tastes', '{none}', 1);
COMMIT;
-- What an entity keeps, with the usual sizes
SELECT limaml_create_model('usual', 'tastes', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
SELECT arm, bytes_per_entity, bytes_per_entity / 4 AS numbers FROM limaml_compare('usual', '{damped_mean,none,id,limaml,first_order,head}', 1) WHERE segment = 'all' AND metric = 'auc';

SELECT limaml_compare('tastes', '{limaml,nosuch}', 1);
SELECT limaml_compare('tastes', '{limaml,none,limaml}', 1);
SELECT limaml_compare('tastes', '{limaml,NULL}', 1);
SELECT limaml_compare('tastes', '{}', 1);
SELECT limaml_compare('tastes', '{limaml}', 0);
SELECT limaml_compare('tastes', '{limaml}', 101);
SELECT limaml_compare('nosuch');
SELECT count(*) FROM limaml_compare(NULL);
SELECT count(*) FROM limaml_compare('tastes', NULL);
SELECT count(*) FROM limaml_compare('tastes', '{limaml}', NULL);
CREATE TABLE few AS SELECT 1 AS member_id, n AS at, n AS item_id, n % 2 = 0 AS liked FROM generate_series(1, 2) n;
SELECT create_small('few', 'few', '{"test_fraction": 0.01, "validation_fraction": 0}');
SELECT limaml_compare('few', '{none}', 1);
TRUNCATE few;
SELECT limaml_compare('few', '{none}', 1);

----------------------------------------------------------------------------
-- What arms are worth
----------------------------------------------------------------------------

-- Where members have opposite tastes it takes personalisation
SELECT create_small('opposite', 'tastes', '{"epochs": 40, "patience": 40, "global_hidden": [16]}');
SELECT arm, over_none > 0.1 AS over_none FROM limaml_compare('opposite', '{none,id,limaml,head,full}', 1) WHERE segment = 'all' AND metric = 'auc';
-- and where only the item counts it is worth nothing
CREATE TABLE popular AS
SELECT m AS member_id, n AS at, i AS item_id, (i % 2 = 0) <> (hashint4(m * 1000 + n) % 8 = 0) AS liked
FROM generate_series(1, 60) m, generate_series(1, 30) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 20 + 1 AS i) _;
SELECT create_small('popular', 'popular');
SELECT arm, value > 0.7 AS value, abs(over_none) < 0.04 AS alike FROM limaml_compare('popular', seeds => 1) WHERE segment = 'all' AND metric = 'auc';


----------------------------------------------------------------------------
-- The damped mean, in SQL
----------------------------------------------------------------------------

-- Items and members of different popularity; 50 rows each, of which 10 are
-- tested and of the others 8 validate
CREATE TABLE moods AS
SELECT m AS member_id, n AS at, i AS item_id, abs(hashint4(m * 1000 + n)) % 100 < 10 + i % 5 * 10 + m % 4 * 12 AS liked,
	n <= 32 AS trains, n > 32 AND n <= 40 AS validates
FROM generate_series(1, 20) m, generate_series(1, 50) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
SELECT create_small('moods', 'moods', '{"validation_fraction": 0.2}');
-- What is expected of each row, by dampings of items and members, having
-- learned from rows that train or from all that are not tested
CREATE FUNCTION damped(of_item float8, of_member float8, with_validation boolean) RETURNS TABLE (member_id int, at int, item float8, both_ float8) LANGUAGE sql AS $$
	WITH learned AS (SELECT * FROM moods WHERE trains OR validates AND with_validation),
		mean AS (SELECT avg(liked::int) AS mean FROM learned),
		items AS (SELECT item_id, sum(liked::int - mean) / (count(*) + of_item) AS deviation FROM learned, mean GROUP BY item_id),
		members AS (SELECT member_id, sum(liked::int - mean - deviation) / (count(*) + of_member) AS deviation FROM learned JOIN items USING (item_id), mean GROUP BY member_id)
	SELECT r.member_id, at, least(greatest(mean + COALESCE(i.deviation, 0), 0.02), 0.98), least(greatest(mean + COALESCE(i.deviation, 0) + m.deviation, 0.02), 0.98)
	FROM moods r LEFT JOIN items i USING (item_id) JOIN members m USING (member_id), mean
$$;
CREATE TABLE chosen AS
SELECT of_item, of_member FROM unnest('{1,2,5,10,20,50}'::float8[]) of_item, unnest('{1,2,5,10,20,50}'::float8[]) of_member,
	LATERAL (SELECT limaml_log_loss(both_, liked) AS loss FROM damped(of_item, of_member, false) JOIN moods USING (member_id, at) WHERE validates) _
ORDER BY loss LIMIT 1;
SELECT bool_and(abs(c.value - e.value) < CASE WHEN metric LIKE '%auc' THEN 1e-3 ELSE 1e-6 END) AS same, count(*)
FROM (SELECT unnest('{auc,gauc,mean_auc,log_loss,calibration_error}'::text[]) AS metric,
		unnest(ARRAY[limaml_auc(both_, liked), limaml_gauc(both_, liked, member_id), limaml_mean_auc(both_, liked, member_id), limaml_log_loss(both_, liked), limaml_calibration_error(both_, liked)]) AS value
	FROM chosen, damped(of_item, of_member, true) JOIN moods USING (member_id, at) WHERE NOT trains AND NOT validates) e
JOIN limaml_compare('moods', '{damped_mean}', 1) c USING (metric) WHERE segment = 'all';

----------------------------------------------------------------------------
-- Arms by limaml_train
----------------------------------------------------------------------------

-- id looks an entity up by its key, and has the vector of NULL for those it
-- has not met
SELECT create_small('looked up', 'tastes', '{"personalization": "id", "epochs": 2}');
SELECT version FROM limaml_train('looked up');
SELECT deployed FROM limaml.model WHERE model = 'looked up';
CALL limaml_refresh('looked up');
SELECT count(*) FROM "looked up_embedding";
SELECT count(DISTINCT limaml_score('looked up', m, 3)) AS differ, count(DISTINCT limaml_score('looked up', -m, 3)) AS strangers,
	bool_and(limaml_score('looked up', -m, 3) = limaml_score('looked up', NULL, 3)) AS as_null FROM generate_series(1, 36) m;
SELECT limaml_score_embedding('looked up', limaml_embedding('looked up', 1), 3);
-- so these scores are what is evaluated; which row is of no matter to it
CREATE VIEW tastes_later AS SELECT member_id + 20 AS member_id, at + 1000 AS at, item_id, liked FROM tastes;
SELECT metric, abs(value - CASE metric WHEN 'auc' THEN auc ELSE log_loss END) < CASE metric WHEN 'auc' THEN 1e-3 ELSE 1e-6 END AS value,
	abs(unadapted - CASE metric WHEN 'auc' THEN auc_of_null ELSE log_loss_of_null END) < CASE metric WHEN 'auc' THEN 1e-3 ELSE 1e-6 END AS unadapted
FROM limaml_evaluate('looked up', 'tastes_later'),
	(SELECT limaml_auc(limaml_score('looked up', member_id, item_id), liked) AS auc, limaml_log_loss(limaml_score('looked up', member_id, item_id), liked) AS log_loss,
		limaml_auc(limaml_score('looked up', NULL, item_id), liked) AS auc_of_null, limaml_log_loss(limaml_score('looked up', NULL, item_id), liked) AS log_loss_of_null FROM tastes_later) _
WHERE segment = 'all' AND metric IN ('auc', 'log_loss');
-- Keys of several columns, of whatever type they are given
CREATE TABLE pairs AS
SELECT left('abcdef', k) AS a, substr('abcdef', k + 1) AS b, m::numeric AS c, n AS at, n % 3 AS item_id, (n + k * 7 + m) % 3 = 0 AS liked
FROM generate_series(0, 6) k, generate_series(1, 4) m, generate_series(1, 12) n;
CREATE VIEW pairs_later AS SELECT a, b, c, at + 100 AS at, item_id, liked FROM pairs;
SELECT limaml_create_model('pairs', 'pairs', '{a,b,c}', 'liked', 'at', '{item_id:category}',
	options => '{"personalization": "id", "embedding_size": 4, "meta_hidden": [4], "global_hidden": [4], "epochs": 2}');
SELECT version FROM limaml_train('pairs');
SELECT count(DISTINCT (a, b, c)) AS entities, count(DISTINCT limaml_score('pairs', ROW(a, b, c), 1)) AS scores,
	bool_and(limaml_score('pairs', ROW(a, b, c), 1) = limaml_score('pairs', ROW(a::varchar, b::name, c::int), 1)) AS other_types,
	bool_and(limaml_score('pairs', ROW(a, b, c), 1) = limaml_score('pairs', ROW(a, b, c * 1.00), 1)) AS other_scale FROM pairs;
SELECT abs(value - auc) < 1e-3 AS same
FROM limaml_evaluate('pairs', 'pairs_later'), (SELECT limaml_auc(limaml_score('pairs', ROW(a, b, c), item_id), liked) AS auc FROM pairs_later) _ WHERE metric = 'auc' AND segment = 'all';

-- head and full keep a network per entity, which is not stored
SELECT version FROM unnest('{head,full}'::text[]) arm, LATERAL limaml_train('tastes', jsonb_build_object('personalization', arm, 'epochs', 2));
SELECT version, deployed, options ->> 'personalization' AS personalization FROM limaml.version WHERE model = 'tastes' ORDER BY version;
\set VERBOSITY default
SELECT limaml_deploy('tastes', 2);
CALL limaml_refresh('tastes', version => 3);
\set VERBOSITY terse
SELECT version, count(*), bool_and(value BETWEEN 0 AND 2) AS value, bool_and(value <> unadapted) FILTER (WHERE segment = 'all' AND metric = 'log_loss') AS adapts
FROM unnest('{2,3}'::int[]) version, LATERAL limaml_evaluate('tastes', version => version) GROUP BY version ORDER BY version;
SELECT version, count(*) FROM unnest('{2,3}'::int[]) version, LATERAL limaml_evaluate('tastes', 'tastes_later', version => version) GROUP BY version ORDER BY version;
SELECT create_small('only head', 'tastes', '{"personalization": "head", "epochs": 1}');
SELECT version FROM limaml_train('only head');
SELECT deployed FROM limaml.model WHERE model = 'only head';
SELECT limaml_score('only head', 1, 3);
CALL limaml_refresh('only head');
SELECT limaml_adapt('only head', 1);
SELECT limaml_export('only head') IS NULL;
-- The newest is evaluated where none is deployed
SELECT count(*) > 0 AS evaluated FROM limaml_evaluate('only head');

-- first_order is limaml with order 1 by another name
SELECT version FROM limaml_train('tastes', '{"epochs": 2, "order": 1}');
SELECT version FROM limaml_train('tastes', '{"epochs": 2, "personalization": "first_order"}');
SELECT version FROM limaml_train('tastes', '{"epochs": 2}');
CREATE FUNCTION scores(version int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM limaml_deploy('tastes', version, force => true);
	RETURN (SELECT string_agg(limaml_score_embedding('tastes', limaml_adapt('tastes', m), m)::text, ' ' ORDER BY m) FROM generate_series(1, 20) m);
END
$$;
SELECT scores(4) = scores(5) AS same, scores(4) <> scores(6) AS another, options ->> 'personalization' AS personalization, options -> 'order' AS order FROM limaml.version WHERE model = 'tastes' AND version = 5;
SELECT limaml_deploy('tastes', 1);

-- Files
SELECT create_small('imported', 'tastes');
SELECT limaml_import('imported', limaml_export('looked up'));
SELECT bool_and(limaml_score('imported', m, 3) = limaml_score('looked up', m, 3)) AS same FROM generate_series(1, 45) m;
SELECT limaml_import('imported', limaml_export('tastes', 5));
SELECT limaml_import('imported', limaml_export('tastes', 2));
SELECT version, deployed, options ->> 'personalization' AS personalization, limaml_export('imported', version) = limaml_export(CASE version WHEN 1 THEN 'looked up' ELSE 'tastes' END, ('{1,5,2}'::int[])[version]) AS same
FROM limaml.version WHERE model = 'imported' ORDER BY version;
SELECT count(*) AS different FROM (SELECT * FROM limaml_evaluate('imported', 'tastes_later', 3) EXCEPT SELECT * FROM limaml_evaluate('tastes', 'tastes_later', 2)) _;

----------------------------------------------------------------------------
-- limaml_tune
----------------------------------------------------------------------------

CREATE TABLE versions AS SELECT model, version, digest FROM limaml.version;
CREATE TABLE found AS SELECT * FROM limaml_tune('tastes',
	'{"learning_rate": {"min": 0.001, "max": 0.1, "log": true}, "inner_rate": {"min": 1, "max": 8}, "inner_steps": {"min": 1, "max": 3}, "global_hidden": [[8], [4, 4], []], "activation": ["tanh", "relu"]}', 8);
-- A row for each trial; half of them goes on each time the epochs double
SELECT search, epochs, count(*), bool_and(best_epoch BETWEEN 1 AND epochs) AS best_epochs, count(version) AS versions FROM limaml.trial WHERE model = 'tastes' GROUP BY search, epochs ORDER BY epochs;
SELECT array_agg(trial ORDER BY trial) AS trials, bool_and(train_loss > 0 AND validation_loss > 0 AND validation_auc BETWEEN 0 AND 1 AND baseline_auc BETWEEN 0 AND 1 AND seconds > 0) AS figures FROM limaml.trial WHERE model = 'tastes';
-- The first is the model as it is, the others what was asked for
SELECT options FROM limaml.trial WHERE model = 'tastes' AND trial = 1;
SELECT count(DISTINCT options) AS options, bool_and((SELECT array_agg(key ORDER BY key COLLATE "C") FROM jsonb_object_keys(options) key) = '{activation,global_hidden,inner_rate,inner_steps,learning_rate}') AS keys,
	bool_and((options ->> 'learning_rate')::float8 BETWEEN 0.001 AND 0.1) AS learning_rate, bool_and((options ->> 'inner_rate')::float8 BETWEEN 1 AND 8) AS inner_rate,
	bool_and(options ->> 'inner_steps' IN ('1', '2', '3')) AS inner_steps, bool_and(options -> 'global_hidden' IN ('[8]', '[4, 4]', '[]')) AS global_hidden, bool_and(options ->> 'activation' IN ('tanh', 'relu')) AS activation
FROM limaml.trial WHERE model = 'tastes' AND trial > 1;
-- The best ran to the end, beat the others that did, made a version, which is not deployed
SELECT f.version, t.version = f.version AS version, t.options = f.options AS options, (t.validation_loss, t.validation_auc, t.seconds) = (f.validation_loss, f.validation_auc, f.seconds) AS figures,
	t.epochs, v.deployed, v.options @> t.options AS chosen
FROM found f JOIN limaml.trial t ON t.model = 'tastes' AND t.trial = f.trial JOIN limaml.version v ON v.model = 'tastes' AND v.version = f.version;
SELECT bool_and(t.validation_auc <= f.validation_auc) AS best FROM found f, limaml.trial t WHERE t.model = 'tastes' AND t.epochs = 5;
SELECT count(*) FROM (SELECT model, version, digest FROM limaml.version EXCEPT TABLE versions) _;
SELECT deployed FROM limaml.model WHERE model = 'tastes';
SELECT count(*) > 0 AS log, count(*) FILTER (WHERE kept) AS kept FROM limaml.training_log JOIN found USING (version) WHERE model = 'tastes';
-- It is what limaml_train makes of these options
SELECT version FROM limaml_train('tastes', (SELECT options FROM found));
SELECT count(DISTINCT digest) AS networks FROM limaml.version WHERE model = 'tastes' AND version >= (SELECT version FROM found);

-- Labels of rows that limaml_compare tests have no part in the choice
CREATE TABLE found_turned AS SELECT * FROM limaml_tune('turned',
	'{"learning_rate": {"min": 0.001, "max": 0.1, "log": true}, "inner_rate": {"min": 1, "max": 8}, "inner_steps": {"min": 1, "max": 3}, "global_hidden": [[8], [4, 4], []], "activation": ["tanh", "relu"]}', 8);
CREATE VIEW tried AS SELECT model, search, trial, options, epochs, best_epoch, train_loss, validation_loss, validation_auc, baseline_auc FROM limaml.trial;
SELECT count(*) AS same FROM tried t JOIN tried o USING (search, trial, options, epochs, best_epoch, train_loss, validation_loss, validation_auc, baseline_auc) WHERE t.model = 'tastes' AND o.model = 'turned';
-- The same seed draws the same, another one something else
SELECT trial = (SELECT trial FROM found) AS trial FROM limaml_tune('tastes',
	'{"learning_rate": {"min": 0.001, "max": 0.1, "log": true}, "inner_rate": {"min": 1, "max": 8}, "inner_steps": {"min": 1, "max": 3}, "global_hidden": [[8], [4, 4], []], "activation": ["tanh", "relu"]}', 8);
SELECT count(*) AS same FROM tried f JOIN tried s USING (model, trial, options, epochs, best_epoch, train_loss, validation_loss, validation_auc, baseline_auc) WHERE model = 'tastes' AND f.search = 1 AND s.search = 2;
SELECT limaml_set_options('tastes', '{"seed": 7}');
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 1, "max": 8}}', 2) IS NOT NULL AS tuned;
SELECT limaml_set_options('tastes', '{"seed": 0}');
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 1, "max": 8}}', 2) IS NOT NULL AS tuned;
SELECT count(DISTINCT options) FROM limaml.trial WHERE model = 'tastes' AND search IN (3, 4) AND trial = 2;
-- Arms, and what needs encoders of its own
SELECT limaml_tune('turned', '{"personalization": ["id", "head", "none", "full"], "min_count": [1, 3], "max_categories": {"min": 5, "max": 30}}', 5) IS NOT NULL AS tuned;
SELECT count(*) FROM limaml.trial WHERE model = 'turned' AND search = 2;
SELECT trial, options FROM limaml_tune('turned', '{"inner_rate": [1]}', 1);

SELECT limaml_tune('tastes', '{"nosuch": [1]}', 2);
SELECT limaml_tune('tastes', '{"nosuch": {"min": 1, "max": 2}}', 2);
SELECT limaml_tune('tastes', jsonb_build_object(option, '[1]'::jsonb), 2) FROM unnest('{loss}'::text[]) option;
SELECT limaml_tune('tastes', '{"weight": ["x"]}', 2);
SELECT limaml_tune('tastes', '{"validation_fraction": [0.5]}', 2);
SELECT limaml_tune('tastes', '{"validation_entities": [0.5]}', 2);
SELECT limaml_tune('tastes', '{"test_fraction": {"min": 0.1, "max": 0.2}}', 2);
SELECT limaml_tune('tastes', '{"embedding_size": [4]}', 2);
SELECT limaml_tune('tastes', '{"lateness": ["1 hour"]}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": 1}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": []}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 1}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 1, "max": "2"}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 1, "max": 2, "step": 1}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 1, "max": 2, "log": 1}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 2, "max": 1}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": 0, "max": 1, "log": true}}', 2);
SELECT limaml_tune('tastes', '{"inner_rate": {"min": -2, "max": -1}}', 2);
SELECT limaml_tune('tastes', '{"activation": {"min": 0, "max": 1}}', 2);
SELECT limaml_tune('tastes', '{"activation": ["sigmoid"]}', 2);
SELECT limaml_tune('tastes', '{"inner_steps": {"min": 1.5, "max": 1.5}}', 2);
SELECT limaml_tune('tastes', '{}', 2);
SELECT limaml_tune('tastes', '[]', 2);
SELECT limaml_tune('tastes', '{"inner_rate": [1]}', 0);
SELECT limaml_tune('tastes', '{"inner_rate": [1]}', 1001);
SELECT limaml_tune('nosuch', '{"inner_rate": [1]}', 2);
SELECT limaml_tune('tastes', NULL, 2) IS NULL AS nothing;
SELECT create_small('unvalidated', 'tastes', '{"validation_fraction": 0}');
SELECT limaml_tune('unvalidated', '{"inner_rate": [1]}', 2);
BEGIN READ ONLY;
SELECT limaml_tune('tastes', '{"inner_rate": [1]}', 2);
ROLLBACK;
SELECT max(search) FROM limaml.trial WHERE model = 'tastes';

-- Who may
CREATE ROLE limaml_tuner;
GRANT USAGE ON SCHEMA compare_test TO limaml_tuner;
SET ROLE limaml_tuner;
SELECT count(*) FROM limaml.trial;
SELECT count(*) FROM limaml.stored_trial;
SELECT limaml_compare('tastes');
SELECT limaml_tune('tastes', '{"inner_rate": [1]}', 1);
RESET ROLE;
GRANT SELECT ON tastes_embedding TO limaml_tuner;
SET ROLE limaml_tuner;
SELECT model, count(*) FROM limaml.trial WHERE search = 1 GROUP BY model;
SELECT limaml_compare('tastes');
SELECT limaml_tune('tastes', '{"inner_rate": [1]}', 1);
RESET ROLE;

-- Trials outlive their version, not their model
SELECT count(*) AS trials, count(version) AS versions FROM limaml.trial WHERE model = 'tastes' AND search = 1;
SELECT limaml_drop_version('tastes', version) FROM found;
SELECT count(*) AS trials, count(version) AS versions FROM limaml.trial WHERE model = 'tastes' AND search = 1;
SELECT limaml_drop_model('turned');
SELECT model, count(DISTINCT search) FROM limaml.trial GROUP BY model;
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
SELECT count(*) FROM limaml.stored_trial;

DROP SCHEMA compare_test CASCADE;
DROP ROLE limaml_tuner;
