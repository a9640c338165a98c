-- The figures of one seed.

SELECT format('%s warm %s seed %s auc %s mean_auc %s ll %s', :'dataset', arm, seed,
              round(auc, 4), round(mean_auc, 4), round(ll::numeric, 4))
FROM metric
WHERE seed = :seed
ORDER BY auc DESC;
