-- The figures of one seed.

SELECT format('%s warm %s seed %s auc %s mean_auc %s ll %s', :'dataset', arm, seed,
              round(auc::numeric, 4), round(mean_auc::numeric, 4), round(ll::numeric, 4))
FROM metric
WHERE seed = :seed
ORDER BY auc DESC;

SELECT format('%s cold %s k %s split %s auc %s ll %s', :'dataset', arm, k, seed, round(auc::numeric, 4), round(ll::numeric, 4))
FROM cold
WHERE seed = :seed
ORDER BY k, arm;
