-- Likes alone, as a table of what happened has them: where a held-out one ranks
-- among films that its member has not liked.  After prepare.sql.

CREATE VIEW likes AS SELECT * FROM interaction WHERE liked;

\o /dev/null
SELECT create_model('likes', 'likes', '{"items": "film"}', label => NULL);

CREATE TABLE implicit AS
SELECT arm, segment, metric, round(value::numeric, 5) AS value, round(standard_error::numeric, 5) AS standard_error,
       round(train_seconds::numeric, 1) AS train_seconds
FROM limaml_compare('likes', '{damped_mean, none, id, limaml}', :seeds);
\o
