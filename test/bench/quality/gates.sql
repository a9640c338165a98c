-- Which figures have to reach what.  Compared as printed, to four decimals.

WITH arm AS (
  SELECT arm, avg(auc)::numeric AS auc, avg(mean_auc)::numeric AS mean_auc, avg(ll)::numeric AS ll
  FROM (SELECT arm, auc, mean_auc, ll FROM metric
        UNION ALL SELECT 'cold-' || arm, auc, NULL, ll FROM cold WHERE k = 20) m
  GROUP BY arm
), figure AS (
  SELECT arm || '-' || name AS name, value
  FROM arm, LATERAL (VALUES ('auc', auc), ('mean-auc', mean_auc), ('ll', ll)) v (name, value)
  UNION ALL
  -- What an arm has over another: points of AUC, and log loss relative to it.
  SELECT a.arm || '-over-' || b.arm || '-' || name, value
  FROM arm a, arm b,
       LATERAL (VALUES ('auc', a.auc - b.auc), ('mean-auc', a.mean_auc - b.mean_auc), ('ll', a.ll / b.ll - 1)) v (name, value)
), gate (dataset, name, relation, bound) AS (
  VALUES
    ('ml-100k', 'limaml-auc',                       '>=',  0.802),
    ('ml-100k', 'limaml-mean-auc',                  '>=',  0.714),
    ('ml-100k', 'limaml-ll',                        '<=',  0.542),
    ('ml-100k', 'limaml-f0-auc',                    '>=',  0.795),
    ('ml-100k', 'limaml-f0-ll',                     '<=',  0.550),
    ('ml-100k', 'none-auc',                         '>=',  0.735),
    ('ml-100k', 'none-auc',                         '<=',  0.750),
    ('ml-100k', 'none-ll',                          '>=',  0.592),
    ('ml-100k', 'none-ll',                          '<=',  0.608),
    ('ml-100k', 'limaml-over-none-auc',             '>=',   0.05),
    ('ml-100k', 'limaml-over-none-ll',              '<=', -0.085),
    ('ml-100k', 'limaml-over-damped-mean-auc',      '>',       0),
    ('ml-100k', 'limaml-over-damped-mean-mean-auc', '>',       0),
    ('ml-100k', 'limaml-over-damped-mean-ll',       '<',       0),
    ('ml-100k', 'limaml-over-id-auc',               '>=',  0.006),
    ('ml-100k', 'limaml-over-id-ll',                '<=', -0.018),
    ('ml-100k', 'half-refreshed-over-half-auc',     '>=',  0.016),
    ('ml-100k', 'half-refreshed-over-half-ll',      '<=', -0.030),
    ('ml-100k', 'cold-limaml-over-cold-damped-mean-auc', '>=', 0.006),
    ('ml-100k', 'cold-limaml-over-cold-damped-mean-ll',  '<=', -0.015),
    ('ml-100k', 'prior-over-none-ll',               '<=',   0.03),
    ('ml-100k', 'prior-over-constant-ll',           '<=',      0),
    ('ml-1m',   'limaml-auc',                       '>=',  0.811),
    ('ml-1m',   'limaml-mean-auc',                  '>=',  0.714),
    ('ml-1m',   'limaml-ll',                        '<=',  0.528),
    ('ml-1m',   'limaml-over-id-auc',               '>=',  0.005),
    ('ml-1m',   'limaml-over-id-ll',                '<=', -0.015),
    ('ml-1m',   'limaml-f0-auc',                    '>=',  0.800)
)
SELECT format('gate %s %s %s%s %s', name, value, relation, round(bound, 4),
              CASE WHEN CASE relation WHEN '>=' THEN value >= bound WHEN '>' THEN value > bound
                                      WHEN '<=' THEN value <= bound WHEN '<' THEN value < bound END
                   THEN 'ok' ELSE 'short' END)
FROM gate
LEFT JOIN (SELECT name, round(value, 4) AS value FROM figure) figure USING (name)
WHERE dataset = :'dataset'
ORDER BY name, relation DESC;
