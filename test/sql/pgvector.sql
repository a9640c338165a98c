--
-- limaml_enable_pgvector where pgvector is not, and its casts on bytes that
-- are laid out as pgvector's vectors are (test/t/013_pgvector.pl has the rest).
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA pgvector_test;
SET search_path = pgvector_test, public;

SELECT limaml_enable_pgvector();
CREATE TYPE vector AS (not_pgvectors real[]);
SELECT limaml_enable_pgvector();
BEGIN READ ONLY;
SELECT limaml_enable_pgvector();
COMMIT;

CREATE FUNCTION to_vector(meta_embedding, integer, boolean) RETURNS bytea AS '$libdir/limaml', 'meta_embedding_to_vector' LANGUAGE c IMMUTABLE STRICT;
CREATE FUNCTION from_vector(bytea, integer, boolean) RETURNS meta_embedding AS '$libdir/limaml', 'vector_to_meta_embedding' LANGUAGE c IMMUTABLE STRICT;

SELECT to_vector('[1,-2]@1a2b3c4d', -1, true);
SELECT to_vector('[1,-2]@1a2b3c4d', 2, true);
SELECT to_vector('[1,-2]@1a2b3c4d', 3, true);
SELECT from_vector('\x020000000000803f000000c0', -1, true), from_vector('\x020000000000803f000000c0', 2, false);
SELECT from_vector('\x020000000000803f000000c0', 3, true);
SELECT n, from_vector(to_vector(e, n, true), n, true)::real[] = e::real[] AS same, limaml_dims(from_vector(to_vector(e, -1, true), -1, true))
FROM unnest('{1,15,600,16000}'::int[]) n, LATERAL (SELECT array_agg(i / 3.0)::real[]::meta_embedding AS e FROM generate_series(1, n) i) _;

-- As stored: short, and out of line
CREATE TABLE stored (e meta_embedding, v bytea);
INSERT INTO stored SELECT e, to_vector(e, -1, true) FROM (SELECT array_agg(i)::float8[]::meta_embedding AS e FROM generate_series(1, 9000) i GROUP BY i > 8) _;
SELECT limaml_dims(e), to_vector(e, -1, true) = v AS same, from_vector(v, -1, true) = e AS and_back FROM stored ORDER BY 1;

-- Bytes that are no vector, or none that an embedding may be
SELECT from_vector('', -1, true);
SELECT from_vector('\x020000', -1, true);
SELECT from_vector('\x00000000', -1, true);
SELECT from_vector('\xffff0000', -1, true);
SELECT from_vector('\x010001000000803f', -1, true);
SELECT from_vector('\x020000000000803f', -1, true);
SELECT from_vector('\x010000000000803f000000c0', -1, true);
SELECT from_vector('\x010000000000c07f', -1, true);
SELECT from_vector('\x010000000000807f', -1, true);
SELECT from_vector('\x813e0000' || decode(repeat('00', 4 * 16001), 'hex'), -1, true);

DROP SCHEMA pgvector_test CASCADE;
