-- The figures of each arm, as means over the seeds.

SELECT format('%s warm %s auc %s mean_auc %s ll %s', :'dataset', arm,
              round(avg(auc)::numeric, 4), round(avg(mean_auc)::numeric, 4), round(avg(ll)::numeric, 4))
FROM metric
GROUP BY arm
ORDER BY avg(auc) DESC;

SELECT format('%s cold %s k %s auc %s ll %s', :'dataset', arm, k, round(avg(auc)::numeric, 4), round(avg(ll)::numeric, 4))
FROM cold
GROUP BY arm, k
ORDER BY k, arm;
