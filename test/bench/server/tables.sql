-- The tables of the server's part: :items candidates of 32 real columns, and
-- :entities members with :rows impressions each, in the order of time.  The
-- same for the same numbers: everything is a hash of where it stands.

CREATE EXTENSION limaml;

-- The nth of independent numbers between 0 and 1.
CREATE FUNCTION chance(n bigint, of integer) RETURNS real
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN ((hashint8extended(n, of) & 16777215) / 16777216.0::double precision)::real;

SELECT string_agg(format('f%s real NOT NULL', f), ', ') AS columns,
       string_agg(format('f%s', f), ', ') AS names,
       string_agg(format('chance(n, %s)', f), ', ') AS chances
FROM generate_series(1, 32) f \gset

CREATE TABLE items (item_id integer NOT NULL, :columns);
INSERT INTO items SELECT n, :chances FROM generate_series(1, :items) n;
CREATE TABLE thousand AS SELECT * FROM items WHERE item_id <= 1000;

-- Like a log of ninety days: members come and go at random, and every one has
-- :rows rows.
CREATE TABLE impressions (member_id integer NOT NULL, shown_at timestamptz NOT NULL, clicked boolean NOT NULL, :columns);
INSERT INTO impressions
SELECT n * 7368787 % :entities + 1, '2026-01-01'::timestamptz + interval '90 days' * (n / (:entities * :rows)::double precision),
       chance(n, 1) + chance(n, 2) * (n * 7368787 % 7 - 3) / 3.0 + chance(n, 99) > 1, :chances
FROM generate_series(0, :entities::bigint * :rows - 1) n;

-- Who has 64 rows, for adapting one member.
INSERT INTO impressions
SELECT :entities + 1, '2026-01-01'::timestamptz + n * interval '1 day', chance(n, 1) > 0.5, :chances
FROM generate_series(0, 63) n;
CREATE INDEX ON impressions (member_id, shown_at);
CREATE INDEX ON impressions (shown_at);
VACUUM ANALYZE items, thousand, impressions;

-- Trained on a few members, and imported, so that training takes no time.
CREATE VIEW sample AS SELECT * FROM impressions WHERE member_id <= 500;
SELECT string_to_array(:'names', ', ') AS features,
       '{"activation": "relu", "adapts": "meta_block", "embedding_size": 16, "factor_size": 0, "meta_hidden": [64, 32], "global_hidden": [64, 32], "recency": null, "epochs": 1}' AS options \gset
\o /dev/null
SELECT limaml_create_model(model, relation::regclass, '{member_id}', 'clicked', 'shown_at', :'features', options => :'options')
FROM (VALUES ('sample', 'sample'), ('ctr', 'impressions')) m (model, relation);
SELECT limaml_train('sample');
SELECT limaml_import('ctr', limaml_export('sample'));
SELECT limaml_deploy('ctr', 1);

-- One whose network is a megabyte, for the first score in a session.
SELECT limaml_create_model('large', 'sample', '{member_id}', 'clicked', 'shown_at', :'features',
       options => :'options'::jsonb || '{"global_hidden": [512, 448]}');
SELECT limaml_train('large');
\o
