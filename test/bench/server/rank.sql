-- Whole statements of limaml_rank, one after another: median and p95, ms.
DO $$
DECLARE
  begun timestamptz;
  taken double precision[];
BEGIN
  FOR i IN 1..220 LOOP
    begun := clock_timestamp();
    EXECUTE format('SELECT * FROM limaml_rank(''ctr'', %s, ''thousand'')', i % 100 + 1);
    taken[i] := 1000 * extract(epoch FROM clock_timestamp() - begun);
  END LOOP;
  CREATE TEMP TABLE taken AS SELECT t FROM unnest(taken) WITH ORDINALITY AS u (t, n) WHERE n > 20;
END $$;
SELECT round(percentile_disc(0.5) WITHIN GROUP (ORDER BY t)::numeric, 3), round(percentile_disc(0.95) WITHIN GROUP (ORDER BY t)::numeric, 3) FROM taken;
