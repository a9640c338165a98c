-- The figures of each arm, as means over the seeds.

SELECT format('%s warm %s auc %s mean_auc %s ll %s', :'dataset', arm,
              round(avg(auc), 4), round(avg(mean_auc), 4), round(avg(ll)::numeric, 4))
FROM metric
GROUP BY arm
ORDER BY avg(auc) DESC;
