-- Whole statements over the candidates of each size in :candidates, in turns:
-- prints the size, the median of the rounds in nanoseconds, and that of summing
-- the columns by a bare query.  Size 1 is for what a statement costs up to its
-- first row, which binds the model.  Little ones are repeated, for their mean.
SET max_parallel_workers_per_gather = 0;
SET jit = off;
CREATE TABLE items_1 AS SELECT * FROM items_1000 LIMIT 1;
ANALYZE items_1;
SELECT string_agg(format('f%s', f), ' + ') AS plus FROM generate_series(1, 32) f \gset
CREATE TEMP TABLE statement AS
SELECT size::bigint, what, format(query, 'items_' || size) AS query
FROM unnest(string_to_array('1 ' || :'candidates', ' ')) size,
     (VALUES ('score', 'SELECT sum(limaml_score(''ctr'', 42, i)) FROM %I i'), ('bare', 'SELECT sum(' || :'plus' || ') FROM %I')) q (what, query);
CREATE TEMP TABLE taken (size bigint, what text, round integer, nanoseconds double precision);
DO $$
DECLARE
  begun timestamptz;
  s record;
  repeats integer;
BEGIN
  FOR round IN 0..5 LOOP
    FOR s IN SELECT * FROM statement ORDER BY size, what LOOP
      repeats := least(500, greatest(1, 200000 / s.size));
      begun := clock_timestamp();
      FOR i IN 1..repeats LOOP
        EXECUTE s.query;
      END LOOP;
      INSERT INTO taken VALUES (s.size, s.what, round, 1e9 * extract(epoch FROM clock_timestamp() - begun) / repeats);
    END LOOP;
  END LOOP;
END $$;
SELECT size, round(percentile_disc(0.5) WITHIN GROUP (ORDER BY nanoseconds) FILTER (WHERE what = 'score')),
       round(percentile_disc(0.5) WITHIN GROUP (ORDER BY nanoseconds) FILTER (WHERE what = 'bare'))
FROM taken WHERE round > 0 GROUP BY size ORDER BY size;
