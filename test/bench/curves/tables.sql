-- The tables of the curves: items_1000 ... of so many candidates each (sizes in
-- :candidates), impressions_10000 ... of so many members (sizes in :entities)
-- with 20 rows each, and given, whose :given rows belong to members of 5 rows
-- by m5, ... of 500 by m500 (numbers in :numbers).
-- The same for the same sizes: everything is a hash of where it stands.

CREATE EXTENSION limaml;
CREATE EXTENSION pg_prewarm;

-- The nth of independent numbers between 0 and 1.
CREATE FUNCTION chance(n bigint, of integer) RETURNS real
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN ((hashint8extended(n, of) & 16777215) / 16777216.0::double precision)::real;

SELECT string_agg(format('f%s', f), ', ') AS names,
       string_agg(format('chance(n, %s) AS f%s', f, f), ', ') AS chances
FROM generate_series(1, 32) f \gset

-- What the others are copies of: 200,000 rows.
CREATE TABLE log AS
SELECT n, chance(n, 1) + chance(n, 2) * (n * 7368787 % 7 - 3) / 3.0 + chance(n, 99) > 1 AS clicked, :chances
FROM generate_series(0, 199999::bigint) n;
ANALYZE log;

CREATE VIEW copies AS
SELECT n + 200000 * copy AS nth, copy, log.* FROM generate_series(0, 49::bigint) copy, log;

SELECT format('CREATE TABLE items_%s AS SELECT nth::integer AS item_id, %s FROM copies WHERE copy <= %1$s / 200000 AND nth < %1$s', size, :'names')
FROM unnest(string_to_array(:'candidates', ' ')) size
\gexec

-- Like a log of ninety days: members come and go at random, and every one's
-- rows lie all over the table.  The copies of a row are neighbours, so that this
-- holds for any number of them; they depend on n to be the inner loop.
SELECT format($$CREATE TABLE impressions_%s AS
  SELECT (n * 7368787 %% 10000 + 10000 * copy + 1)::integer AS member_id,
         '2026-01-01'::timestamptz + interval '90 days' * (n / 200000.0::double precision) AS shown_at, clicked, %s
  FROM log, LATERAL generate_series(0 * n, %1$s / 10000 - 1) copy$$, size, :'names')
FROM unnest(string_to_array(:'entities', ' ')) size
\gexec
SELECT format('CREATE INDEX ON impressions_%s (member_id, shown_at)', size)
FROM unnest(string_to_array(:'entities', ' ')) size
\gexec

SELECT string_agg(format('(nth * 7368787 %% (%s / %s) + 1)::integer AS m%2$s', :'given', number), ', ') AS members
FROM unnest(string_to_array(:'numbers', ' ')) number \gset
CREATE TABLE given AS
SELECT :members, '2026-01-01'::timestamptz + interval '90 days' * (nth / :given::double precision) AS shown_at, clicked, :names
FROM copies WHERE copy <= :given / 200000 AND nth < :given;
SELECT format('CREATE INDEX ON given (m%s, shown_at)', number)
FROM unnest(string_to_array(:'numbers', ' ')) number
\gexec

DROP TABLE log CASCADE;
VACUUM (ANALYZE);

-- Trained on a few members, and imported, so that training takes no time.
CREATE VIEW sample AS SELECT * FROM impressions_10000 WHERE member_id <= 500;
\o /dev/null
SELECT limaml_create_model(model, relation::regclass, ARRAY[key], 'clicked', 'shown_at', string_to_array(:'names', ', '),
       options => '{"activation": "relu", "adapts": "meta_block", "embedding_size": 16, "factor_size": 0, "meta_hidden": [64, 32], "global_hidden": [64, 32], "recency": null, "support_rows": 512, "epochs": 1}')
FROM (SELECT 'ctr', 'sample', 'member_id'
      UNION ALL SELECT 'entities_' || size, 'impressions_' || size, 'member_id' FROM unnest(string_to_array(:'entities', ' ')) size
      UNION ALL SELECT 'rows_' || number, 'given', 'm' || number FROM unnest(string_to_array(:'numbers', ' ')) number) m (model, relation, key);
SELECT limaml_train('ctr');
CALL limaml_refresh('ctr');
CREATE TABLE network AS SELECT limaml_export('ctr') AS exported;
-- The first version is deployed, and stays; others come and go.
SELECT limaml_import(model, exported) FROM limaml.model, network WHERE model <> 'ctr';
\o
