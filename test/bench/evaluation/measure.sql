-- Arms, unknown members and old embeddings, with limaml_compare and
-- limaml_evaluate alone.  After prepare.sql.

CREATE VIEW warm_member AS SELECT * FROM interaction WHERE member_id % 5 <> 0;
CREATE VIEW cold_member AS SELECT * FROM interaction WHERE member_id % 5 = 0 AND position <= 50;
CREATE VIEW first_half AS SELECT * FROM interaction WHERE position <= floor(0.5 * rows);
CREATE VIEW second_half AS SELECT * FROM interaction WHERE position > floor(0.5 * rows);

\o /dev/null
SELECT create_model('everyone', 'interaction');

CREATE TABLE arms AS
SELECT arm, segment, metric, round(value::numeric, 5) AS value, round(over_none::numeric, 5) AS over_none,
       round(over_id::numeric, 5) AS over_id, round(standard_error::numeric, 5) AS standard_error,
       round(train_seconds::numeric, 1) AS train_seconds, bytes_per_entity
FROM limaml_compare('everyone', '{damped_mean, none, id, first_order, limaml, head, full}', :seeds);

-- How many members and rows the segments have: those of a version trained on
-- what limaml_compare trains on are the same whatever the network.
SELECT create_model('defaults', 'warm_member');
SELECT create_model('cold', 'warm_member', '{"support_split": "prefix", "inner_weighting": "damped",
                                             "inner_steps": 3, "inner_rate": 30}');
SELECT limaml_train('defaults'), limaml_train('cold');

CREATE TABLE cold AS
SELECT options, e.segment::int AS k, e.entities, e.interactions, e.metric, round(e.value::numeric, 5) AS value,
       round(e.unadapted::numeric, 5) AS unadapted, round(e.standard_error::numeric, 5) AS standard_error
FROM unnest('{defaults, cold}'::text[]) options,
     limaml_evaluate(options, 'cold_member', support => CASE WHEN :'dataset' = 'movietweetings' THEN '{0, 1, 3, 5, 10}'
                                                              ELSE '{0, 1, 3, 5, 10, 20}' END::int[]) e;

SELECT create_model('half', 'first_half');
SELECT limaml_train('half');

CREATE TABLE lag AS
SELECT l.lag, e.entities, e.interactions, e.metric, round(e.value::numeric, 5) AS value,
       round(e.unadapted::numeric, 5) AS unadapted, round(e.standard_error::numeric, 5) AS standard_error
FROM unnest('{0, 1 minute, 10 minutes, 1 hour, 1 day, 7 days, 30 days, 1000 years}'::interval[]) WITH ORDINALITY l (lag, place),
     limaml_evaluate('half', 'second_half', refresh_lag => ARRAY[l.lag]) e
ORDER BY place;
\o
