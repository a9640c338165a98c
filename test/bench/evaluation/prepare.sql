-- What is measured on: the interactions of one data set, and models of them.

CREATE EXTENSION limaml;

SELECT to_regclass('member') IS NOT NULL AS has_members,
       CASE WHEN :'dataset' = 'movietweetings' THEN 8 ELSE 4 END AS liked_from \gset

-- Times tie often: what the file has later is later by so many microseconds.
CREATE TABLE interaction AS
SELECT r.member_id, r.rating >= :liked_from AS liked,
       to_timestamp(rated_at) + line * interval '1 microsecond' AS rated_at,
       row_number() OVER (PARTITION BY member_id ORDER BY rated_at, line) AS position,
       count(*) OVER (PARTITION BY member_id) AS rows, f.*
FROM rating r JOIN film f USING (item_id)
ORDER BY member_id, rated_at, line;

ANALYZE;

CREATE FUNCTION create_model(model text, interactions regclass, options jsonb DEFAULT '{}', label text DEFAULT 'liked') RETURNS void LANGUAGE sql
BEGIN ATOMIC
SELECT limaml_create_model(
  model         => model,
  interactions  => interactions,
  entity_key    => '{member_id}',
  label         => label,
  event_time    => 'rated_at',
  features      => ARRAY['item_id:category', 'year'] || (
    SELECT array_agg(attname::text ORDER BY attnum)       -- the genres
    FROM pg_attribute
    WHERE attrelid = 'film'::regclass AND atttypid = 'boolean'::regtype),
  entities      => to_regclass('member'),
  meta_features => CASE WHEN to_regclass('member') IS NULL THEN '{}' ELSE '{age, gender, occupation}'::text[] END,
  options       => options);
END;
