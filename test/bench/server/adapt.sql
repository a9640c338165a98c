-- One member's 64 rows by index: as a query, and adapted on.  Whole statements
-- in turns, medians in microseconds.
SELECT max(member_id) AS member FROM impressions \gset
SELECT string_agg(format('sum(f%s)', f), ', ') AS sums FROM generate_series(1, 32) f \gset
SELECT format('SELECT count(clicked), max(shown_at), %s FROM (SELECT * FROM impressions WHERE member_id = %s ORDER BY shown_at DESC LIMIT 64) r', :'sums', :member) AS query,
       format('SELECT limaml_adapt(''ctr'', %s)', :member) AS adapt \gset
CREATE TEMP TABLE statement AS SELECT :'query' AS query, :'adapt' AS adapt;
DO $$
DECLARE
  begun timestamptz;
  queries double precision[];
  adapts double precision[];
  s record;
BEGIN
  SELECT * INTO s FROM statement;
  FOR i IN 1..520 LOOP
    begun := clock_timestamp();
    EXECUTE s.query;
    queries[i] := 1e6 * extract(epoch FROM clock_timestamp() - begun);
    begun := clock_timestamp();
    EXECUTE s.adapt;
    adapts[i] := 1e6 * extract(epoch FROM clock_timestamp() - begun);
  END LOOP;
  CREATE TEMP TABLE taken AS SELECT q, a FROM unnest(queries, adapts) WITH ORDINALITY AS u (q, a, n) WHERE n > 20;
END $$;
SELECT round(percentile_disc(0.5) WITHIN GROUP (ORDER BY q)::numeric, 1), round(percentile_disc(0.5) WITHIN GROUP (ORDER BY a)::numeric, 1) FROM taken;
