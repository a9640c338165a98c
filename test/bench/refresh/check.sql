-- The embeddings there are, those that are wrong, and how many are missing.
-- What is stored beside an embedding is compared with the rows for all
-- entities; the embedding itself with one that is made now, to the last bit,
-- for :sample of those stored since :'since'.

WITH rows_of AS (
  SELECT member_id, count(*) AS interactions, max(shown_at) AS newest
  FROM impressions
  GROUP BY member_id
), stored AS (
  SELECT * FROM ctr_embedding WHERE version = 1
), compared AS MATERIALIZED (
  SELECT member_id, s.version IS NOT NULL AS stored,
         r.interactions IS DISTINCT FROM s.interactions OR r.newest IS DISTINCT FROM s.adapted_through AS differs
  FROM rows_of r FULL JOIN stored s USING (member_id)
), sampled AS (
  SELECT member_id, embedding
  FROM stored
  WHERE adapted_at >= :'since'
  ORDER BY hashint8extended(member_id, 30)
  LIMIT :sample
), wrong AS (
  SELECT member_id FROM compared WHERE stored AND differs
  UNION
  SELECT member_id FROM sampled WHERE embedding IS DISTINCT FROM limaml_adapt('ctr', member_id)
)
SELECT (SELECT count(*) FROM compared WHERE stored),
       (SELECT count(*) FROM wrong),
       (SELECT count(*) FROM compared WHERE NOT stored),
       (SELECT count(*) FROM sampled);
