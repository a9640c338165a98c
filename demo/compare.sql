-- The held-out AUC beside the same network without adaptation, and beside a
-- damped item + member mean.

SET client_min_messages = warning;

\o /dev/null
SELECT limaml_create_model(
  model         => 'unadapted',
  interactions  => 'likes',
  entity_key    => '{member_id}',
  label         => 'liked',
  event_time    => 'rated_at',
  features      => ARRAY['item_id:category', 'year'] || (
    SELECT array_agg(attname::text ORDER BY attnum)       -- the genres
    FROM pg_attribute
    WHERE attrelid = 'films'::regclass AND atttypid = 'boolean'::regtype),
  entities      => NULL,
  meta_features => '{}',
  options       => '{"personalization": "none"}');
SELECT limaml_train('unadapted');
\o

RESET client_min_messages;

CREATE TEMPORARY TABLE held_out AS
SELECT r.member_id, r.item_id, r.rating >= 4 AS liked,
       limaml_score('taste', r.member_id, f)::float8 AS limaml,
       limaml_score('unadapted', r.member_id, f)::float8 AS unadapted
FROM ratings r JOIN films f USING (item_id)
WHERE r.held_out;

\pset format unaligned
\pset tuples_only on
WITH overall AS (
  SELECT avg(liked::int) AS mean FROM likes
), item AS (
  SELECT item_id, sum(liked::int - mean) / (count(*) + 5) AS deviation
  FROM likes, overall
  GROUP BY item_id
), member AS (
  SELECT member_id, sum(liked::int - mean - deviation) / (count(*) + 5) AS deviation
  FROM likes JOIN item USING (item_id), overall
  GROUP BY member_id
), arm AS (
  SELECT name, liked, score
  FROM held_out LEFT JOIN item USING (item_id) LEFT JOIN member USING (member_id),
       LATERAL (VALUES ('limaml', limaml), ('unadapted', unadapted),
                       ('damped mean', coalesce(item.deviation, 0) + coalesce(member.deviation, 0))) v (name, score)
), ranked AS (
  -- Equal scores share the mean of their ranks: a tie counts half.
  SELECT name, liked,
         rank() OVER (PARTITION BY name ORDER BY score)
         + (count(*) OVER (PARTITION BY name, score) - 1) / 2.0 AS rank
  FROM arm
), auc AS (
  SELECT name, (sum(rank) FILTER (WHERE liked) - likes * (likes + 1) / 2.0) / (likes * dislikes) AS auc
  FROM ranked, (SELECT count(*) FILTER (WHERE liked) AS likes, count(*) FILTER (WHERE NOT liked) AS dislikes
                FROM held_out) n
  GROUP BY name, likes, dislikes
)
SELECT 'held-out AUC: ' || string_agg(format('%s %s', name, round(auc, 4)), ', ' ORDER BY array_position('{limaml,unadapted,damped mean}', name))
FROM auc;
\pset format aligned
\pset tuples_only off
