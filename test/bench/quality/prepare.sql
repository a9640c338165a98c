-- The split, the arms that need no model, and the metrics.

CREATE EXTENSION limaml;

-- Each member's rows in time order.  Times tie often: the order of the file
-- decides, since that of the item ids would leave the rarer films to the test.
CREATE TABLE interaction AS
SELECT member_id, item_id, rating >= 4 AS liked, to_timestamp(rated_at) AS rated_at,
       row_number() OVER (PARTITION BY member_id ORDER BY rated_at, line) AS position,
       count(*) OVER (PARTITION BY member_id) AS rows
FROM rating
ORDER BY member_id, rated_at, line;

CREATE INDEX ON interaction (member_id, rated_at);

-- What a model knows: a share of each member's rows, the first ones, and of
-- five parts of the members all but one, or all.
CREATE TABLE stage (known numeric, cold int);

INSERT INTO stage VALUES (0.8, NULL);

-- The split is not the model's business, so the rows it knows are a view.
CREATE VIEW train AS
SELECT i.member_id, i.liked, i.rated_at, f.*
FROM stage, interaction i JOIN film f USING (item_id)
WHERE i.position <= floor(stage.known * i.rows)
AND (stage.cold IS NULL OR i.member_id % 5 <> stage.cold);

CREATE VIEW test AS
SELECT * FROM interaction WHERE position > floor(0.8 * rows);

-- The first fifty rows of members that no model knows and who have thirty.
CREATE VIEW cold_row AS
SELECT i.member_id, i.liked, i.rated_at, i.position, f.*
FROM stage, interaction i JOIN film f USING (item_id)
WHERE i.member_id % 5 = stage.cold AND i.rows >= 30 AND i.position <= 50;

ANALYZE;

CREATE FUNCTION create_model(model text, options jsonb) RETURNS void LANGUAGE sql
BEGIN ATOMIC
SELECT limaml_create_model(
  model         => model,
  interactions  => 'train',
  entity_key    => '{member_id}',
  label         => 'liked',
  event_time    => 'rated_at',
  features      => ARRAY['item_id:category', 'year'] || (
    SELECT array_agg(attname::text ORDER BY attnum)       -- the genres
    FROM pg_attribute
    WHERE attrelid = 'film'::regclass AND atttypid = 'boolean'::regtype),
  entities      => 'member',
  meta_features => '{age, gender, occupation}',
  options       => options);
END;

CREATE TABLE scored (arm text, seed int, member_id int, liked boolean, score double precision);

-- The damped mean: the item's deviation from the overall mean, then the
-- member's from what is left, each over its count plus 5.
CREATE VIEW item_mean AS
WITH overall AS (
  SELECT avg(liked::int) AS mean FROM train
)
SELECT item_id, mean, sum(liked::int - mean) / (count(*) + 5) AS deviation
FROM train, overall
GROUP BY item_id, mean;

-- A sum of means is no probability at its ends: clipped, for the log loss.
CREATE FUNCTION probability(mean numeric) RETURNS double precision IMMUTABLE LANGUAGE sql
RETURN least(greatest(mean, 0.02), 0.98);

INSERT INTO scored
WITH member AS (
  SELECT member_id, sum(liked::int - mean - deviation) / (count(*) + 5) AS deviation
  FROM train JOIN item_mean USING (item_id)
  GROUP BY member_id
)
SELECT 'damped-mean', NULL, member_id, liked,
       probability((SELECT max(mean) FROM item_mean) + coalesce(i.deviation, 0) + coalesce(member.deviation, 0))
FROM test LEFT JOIN item_mean i USING (item_id) LEFT JOIN member USING (member_id);

-- The best constant there is, which knows the test rows' own rate.
INSERT INTO scored
SELECT 'constant', NULL, member_id, liked, (SELECT avg(liked::int) FROM test)
FROM test;

-- Figures of arms that limaml_evaluate has scored.
CREATE TABLE evaluated (arm text, seed int, metric text, value double precision);

CREATE VIEW metric AS
SELECT arm, seed,
       limaml_auc(score, liked) AS auc,
       limaml_mean_auc(score, liked, member_id) AS mean_auc,
       limaml_log_loss(least(greatest(score, 1e-7), 1 - 1e-7), liked) AS ll
FROM scored
GROUP BY arm, seed
UNION ALL
SELECT arm, seed, max(value) FILTER (WHERE metric = 'auc'), max(value) FILTER (WHERE metric = 'mean_auc'),
       max(value) FILTER (WHERE metric = 'log_loss')
FROM evaluated
GROUP BY arm, seed;

-- Unknown members after their first k rows, one split of the members per seed.
CREATE TABLE cold (arm text, seed int, k int, auc double precision, ll double precision);
