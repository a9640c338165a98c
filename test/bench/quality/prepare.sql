-- The split, the arms that need no model, and the metrics.

CREATE EXTENSION limaml;

-- Each member's rows in time order: the first 80 % train and adapt, the rest
-- test.  The split is not the model's business, so the training rows are a
-- view of their own.  Times tie often: the order of the file decides, since
-- that of the item ids would leave the rarer films to the test.
CREATE TABLE interaction AS
SELECT member_id, item_id, rating >= 4 AS liked, to_timestamp(rated_at) AS rated_at,
       row_number() OVER (PARTITION BY member_id ORDER BY rated_at, line)
         > floor(0.8 * count(*) OVER (PARTITION BY member_id)) AS held_out
FROM rating
ORDER BY member_id, rated_at, line;

CREATE INDEX ON interaction (member_id, rated_at);

CREATE VIEW train AS
SELECT i.member_id, i.liked, i.rated_at, f.*
FROM interaction i JOIN film f USING (item_id)
WHERE NOT i.held_out;

CREATE VIEW test AS
SELECT * FROM interaction WHERE held_out;

ANALYZE;

CREATE TABLE scored (arm text, seed int, member_id int, liked boolean, score double precision);

-- The damped mean: the item's deviation from the overall mean, then the
-- member's from what is left, each over its count plus 5.  A sum of means is no
-- probability at its ends: clipped, for the log loss.
INSERT INTO scored
WITH overall AS (
  SELECT avg(liked::int) AS mean FROM train
), item AS (
  SELECT item_id, sum(liked::int - mean) / (count(*) + 5) AS deviation
  FROM train, overall
  GROUP BY item_id
), member AS (
  SELECT member_id, sum(liked::int - mean - deviation) / (count(*) + 5) AS deviation
  FROM train JOIN item USING (item_id), overall
  GROUP BY member_id
)
SELECT 'damped-mean', NULL, member_id, liked,
       least(greatest(mean + coalesce(item.deviation, 0) + coalesce(member.deviation, 0), 0.02), 0.98)
FROM overall, test LEFT JOIN item USING (item_id) LEFT JOIN member USING (member_id);

-- The best constant there is, which knows the test rows' own rate.
INSERT INTO scored
SELECT 'constant', NULL, member_id, liked, (SELECT avg(liked::int) FROM test)
FROM test;

-- The area under the ROC curve by the ranks of the positives (Mann-Whitney).
CREATE FUNCTION auc(rank_sum numeric, positives bigint, n bigint) RETURNS numeric
IMMUTABLE LANGUAGE sql
RETURN (rank_sum - positives * (positives + 1) / 2.0) / nullif(positives * (n - positives), 0);

CREATE VIEW metric AS
WITH ranked AS (
  -- Equal scores share the mean of their ranks: a tie counts half.
  SELECT *,
         rank() OVER by_score + (count(*) OVER ties - 1) / 2.0 AS rank,
         rank() OVER member_by_score + (count(*) OVER member_ties - 1) / 2.0 AS member_rank,
         -ln(least(greatest(CASE WHEN liked THEN score ELSE 1 - score END, 1e-7), 1)) AS loss
  FROM scored
  WINDOW by_score AS (PARTITION BY arm, seed ORDER BY score),
         ties AS (PARTITION BY arm, seed, score),
         member_by_score AS (PARTITION BY arm, seed, member_id ORDER BY score),
         member_ties AS (PARTITION BY arm, seed, member_id, score)
), by_member AS (
  SELECT arm, seed,
         -- NULL, and so not in the mean, for a member of one class only
         auc(sum(member_rank) FILTER (WHERE liked), count(*) FILTER (WHERE liked), count(*)) AS auc
  FROM ranked
  GROUP BY arm, seed, member_id
)
SELECT overall.arm, overall.seed, auc, mean_auc, ll
FROM (SELECT arm, seed, avg(loss) AS ll,
             auc(sum(rank) FILTER (WHERE liked), count(*) FILTER (WHERE liked), count(*)) AS auc
      FROM ranked GROUP BY arm, seed) overall
JOIN (SELECT arm, seed, avg(auc) AS mean_auc FROM by_member GROUP BY arm, seed) m
  ON m.arm = overall.arm AND m.seed IS NOT DISTINCT FROM overall.seed;
