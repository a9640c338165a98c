-- Members that no network knows, after their first k rows: a fifth of the
-- members, another for each seed.  All are tested on rows 21 to 50.

SELECT 'cold_' || :'seed' AS model \gset

UPDATE stage SET known = 1, cold = :seed % 5;

\o /dev/null
SELECT create_model(:'model', jsonb_build_object(
  'seed', :seed, 'support_split', 'prefix', 'inner_weighting', 'damped', 'adapts', 'embedding',
  'inner_steps', 3, 'inner_rate', 30));
SELECT limaml_train(:'model');
\o

INSERT INTO cold
SELECT 'limaml', :seed, segment::int, max(value) FILTER (WHERE metric = 'auc'), max(value) FILTER (WHERE metric = 'log_loss')
FROM limaml_evaluate(:'model', 'cold_row', support => '{0, 1, 3, 5, 10, 20}')
GROUP BY segment;

INSERT INTO cold
WITH deviation AS (
  SELECT k, c.member_id, sum(c.liked::int - o.mean - coalesce(i.deviation, 0)) / (count(*) + 5) AS deviation
  FROM unnest('{0, 1, 3, 5, 10, 20}'::int[]) k, (SELECT max(mean) AS mean FROM item_mean) o,
       cold_row c LEFT JOIN item_mean i USING (item_id)
  WHERE c.position <= k
  GROUP BY k, c.member_id
)
SELECT 'damped-mean', :seed, k, limaml_auc(score, liked), limaml_log_loss(score, liked)
FROM (
  SELECT k, c.liked, probability(o.mean + coalesce(i.deviation, 0) + coalesce(d.deviation, 0)) AS score
  FROM unnest('{0, 1, 3, 5, 10, 20}'::int[]) k CROSS JOIN (SELECT max(mean) AS mean FROM item_mean) o
       CROSS JOIN cold_row c
       LEFT JOIN item_mean i USING (item_id)
       LEFT JOIN deviation d USING (k, member_id)
  WHERE c.position > 20
) s
GROUP BY k;

UPDATE stage SET known = 0.8, cold = NULL;
