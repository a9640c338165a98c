--
-- The type meta_embedding: input and output, type modifier, casts, order,
-- hash, distances, aggregates.
--

-- Text

SELECT '[0.1,-2,3]'::meta_embedding;
SELECT '[0.1,-2,3]@1a2b3c4d'::meta_embedding;
SELECT '[0.1,-2,3]@1A2B3C4D'::meta_embedding;
SELECT '[1]@00000000'::meta_embedding;
SELECT '[1]@0000000f'::meta_embedding;
SELECT E' \t\n\r\f\x0b[ \t1 ,\n2\x0b, 3\f]@ffffffff \r\n'::meta_embedding;
SELECT '[-0,+1,.5,1.,1e3,0x1p-2,1e-45,3.4028235e38]'::meta_embedding;
SELECT '[0.30000001192092896,16777217,123456789,1e10,1e-7]'::meta_embedding;

-- the shortest exact form, whatever the setting says
SET extra_float_digits = -15;
SELECT '[0.3,0.33333334,3.1415927]'::meta_embedding;
SET extra_float_digits = 3;
SELECT '[0.3,0.33333334,3.1415927]'::meta_embedding;
RESET extra_float_digits;

-- Text that is wrong

CREATE FUNCTION try_text(input text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
BEGIN
	RETURN input::meta_embedding::text;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || message || CASE detail WHEN '' THEN '' ELSE ' / ' || detail END;
END
$$;

SELECT try_text(input) FROM unnest(ARRAY[
	'', ' ', 'x', '1', '1,2', '{1,2}', '(1,2)', '@1a2b3c4d', ']', '][', ',',
	'[', '[ ', '[]', '[ ]', '[]@1a2b3c4d', '[,]', '[,1]', '[1,]', '[1,,2]', '[1', '[1,', '[1 ', '[1 2]', '[1;2]',
	'[[1]]', '[1]]', '[1],', '[1] x', '[1][2]', '[1]1', '[a]', '[1,a]', '["1"]', '[1a]', '[0x]', '[1e]', '[1e+]', '[--1]',
	'[+-1]', '[1.2.3]', '[.]', '[-]', '[e1]', '[1,2]@', '[1]@1', '[1]@1a2b3c4', '[1]@1a2b3c4d5', '[1]@1a2b3c4g', '[1]@ 1a2b3c4d',
	'[1] @1a2b3c4d', '[1]@1a2b 3c4d', '[1]@1a2b3c4d@1a2b3c4d', '[1]@0x1a2b3c', '[1]@-a2b3c4d', '[1]@+a2b3c4d', '[1]@@', '[1@1a2b3c4d]',
	'[1]@1a2b3c4d,', '[1]@1a2b3c4d]', '[NaN]', '[nan]', '[-nan]', '[1,NaN]', '[nan(1)]', '[inf]', '[-inf]', '[Infinity]', '[1,-Infinity]',
	'[1e39]', '[-1e39]', '[3.4028236e38]', '[1e-46]', '[-1e-46]', '[1,1e400]', '[0x1p128]', 'null', 'NULL', '[null]', '[1,NULL]'
]) input;

SELECT try_text('[' || repeat('1,', 15999) || '1]') = '[' || repeat('1,', 15999) || '1]' AS widest;
SELECT try_text('[' || repeat('1,', 16000) || '1]');
SELECT try_text(repeat(',', 100000)) = '22P02: invalid input syntax for type meta_embedding: "' || repeat(',', 100000) ||
	'" / The elements must start with "[".' AS commas;

-- Every string that is one character away from a good one either is an
-- embedding, whose text and bytes mean the same again, or an error that names
-- the type
CREATE FUNCTION mutate(good text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT overlay(good PLACING '' FROM i FOR 1) FROM generate_series(1, length(good)) i
	UNION
	SELECT overlay(good PLACING c FROM i FOR n)
	FROM generate_series(1, length(good) + 1) i, generate_series(0, 1) n,
		unnest(regexp_split_to_array(E'[]{}@,.;+-0189abefginptxEFGN"\\/ \t\n', '')) c
$$;

CREATE FUNCTION check_mutants(OUT strings bigint, OUT accepted bigint, OUT refused bigint, OUT failed bigint) LANGUAGE plpgsql AS $$
DECLARE
	mutant text;
	value meta_embedding;
	message text;
	detail text;
BEGIN
	strings := 0; accepted := 0; refused := 0; failed := 0;
	FOR mutant IN
		SELECT mutate('[0.5,-2]@1a2b3c4d') UNION SELECT mutate('[1e3,7]') UNION SELECT mutate(' [ 1 , -0x2p1 ] ') UNION SELECT mutate('[nan,inf]')
	LOOP
		strings := strings + 1;
		BEGIN
			value := mutant;
			accepted := accepted + 1;
			IF value::text::meta_embedding <> value OR
				meta_embedding_send(value::text::meta_embedding) <> meta_embedding_send(value) OR
				octet_length(meta_embedding_send(value)) <> 8 + 4 * limaml_dims(value)
			THEN
				failed := failed + 1;
				RAISE NOTICE 'accepted: "%"', mutant;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
			refused := refused + 1;
			IF SQLSTATE NOT IN ('22P02', '22003', '22000') OR message || detail !~ 'meta_embedding' THEN
				failed := failed + 1;
				RAISE NOTICE 'refused: "%": % %', mutant, SQLSTATE, message;
			END IF;
		END;
	END LOOP;
END
$$;

SELECT strings > 2000 AS many, accepted > 100 AS some_accepted, refused > 1000 AS most_refused, failed FROM check_mutants();

-- Soft errors, where the server has them
DO $$
DECLARE
	valid int;
BEGIN
	IF current_setting('server_version_num')::int >= 160000 THEN
		EXECUTE $sql$
			SELECT count(*) FROM unnest(ARRAY[
				'x', '[', '[]', '[1', '[1]x', '[1]@', '[a]', '[nan]', '[inf]', '[1e39]', '[' || repeat('1,', 16000) || '1]', '[1,2]'
			]) input WHERE pg_catalog.pg_input_is_valid(input, 'meta_embedding(1)')
		$sql$ INTO valid;
		IF valid <> 0 THEN
			RAISE 'valid: %', valid;
		END IF;
		EXECUTE $sql$ SELECT pg_catalog.pg_input_is_valid('[1]', 'meta_embedding(1)')::int $sql$ INTO valid;
		IF valid <> 1 THEN
			RAISE 'not valid';
		END IF;
	END IF;
END
$$;

-- Type modifier

CREATE TABLE embedding (id int PRIMARY KEY, e meta_embedding(3));
INSERT INTO embedding VALUES (1, '[1,2,3]'), (2, '[4,5,6]@1a2b3c4d'), (3, NULL);
INSERT INTO embedding VALUES (4, '[1,2]');
INSERT INTO embedding VALUES (4, '[1,2,3,4]');
INSERT INTO embedding VALUES (4, '{1,2}'::real[]);
INSERT INTO embedding SELECT 4, '[1,2]'::meta_embedding;
INSERT INTO embedding VALUES (4, ARRAY[7,8,9]::real[]), (5, ARRAY[7,8,9]::double precision[]);
UPDATE embedding SET e = '[1]' WHERE id = 1;
UPDATE embedding SET e = (SELECT sum(e) FROM embedding WHERE id = 2) WHERE id = 1;
COPY embedding FROM stdin;
6	[1,2,3,4]
\.
COPY embedding FROM stdin;
6	[-0,1e-7,3]@00000001
\.
SELECT * FROM embedding ORDER BY id;

SELECT '[1,2,3]'::meta_embedding(3), CAST('[1,2,3]'::meta_embedding AS meta_embedding(3));
SELECT '[1,2,3]'::meta_embedding(2);
SELECT CAST('[1,2,3]'::meta_embedding AS meta_embedding(2));
SELECT e::meta_embedding(3), e::meta_embedding FROM embedding WHERE id < 4 ORDER BY id;
SELECT e::meta_embedding(4) FROM embedding;
ALTER TABLE embedding ALTER COLUMN e TYPE meta_embedding(4);
SELECT format_type(atttypid, atttypmod), attstorage, attalign FROM pg_attribute WHERE attrelid = 'embedding'::regclass AND attname = 'e';

SELECT '[1]'::meta_embedding(0);
SELECT '[1]'::meta_embedding(-1);
SELECT '[1]'::meta_embedding(16000);
SELECT '[1]'::meta_embedding(16001);
SELECT '[1]'::meta_embedding(1, 1);
SELECT '[1]'::meta_embedding('x');
SELECT '[1]'::meta_embedding(9999999999);

-- Arrays of the type, and rows

SELECT ARRAY['[1,2]', '[3]@1a2b3c4d', NULL]::meta_embedding[];
SELECT ('{"[1,2]",NULL,"[3]@1a2b3c4d"}'::meta_embedding[])[3];
SELECT '{"[1,2]"}'::meta_embedding(2)[], '{"[1,2]"}'::meta_embedding(3)[];
SELECT ARRAY['[1,2]'::meta_embedding]::meta_embedding(3)[];
SELECT ARRAY['[1,2]', '[3]']::meta_embedding[] < ARRAY['[1,2]', '[4]']::meta_embedding[] AS less;
SELECT array_agg(e ORDER BY e) FROM embedding;
SELECT array_position(ARRAY['[1]', '[2]']::meta_embedding[], '[2]');
SELECT ROW(1, '[1,2]'::meta_embedding) = ROW(1, '[1,2]'::meta_embedding) AS equal;

-- Text round trip, as dump and restore do it

COPY embedding TO stdout;
\copy embedding TO 'results/meta_embedding.txt'
CREATE TABLE restored (LIKE embedding);
\copy restored FROM 'results/meta_embedding.txt'
SELECT count(*) FROM embedding a FULL JOIN restored b USING (id) WHERE meta_embedding_send(a.e) IS DISTINCT FROM meta_embedding_send(b.e);

-- with numbers of every size
SELECT setseed(0.5);
CREATE TABLE random_embedding AS
	SELECT i AS id, array_to_meta_embedding(x, -1, false) AS e
	FROM (SELECT i, array_agg(((random() - 0.5) * 10 ^ (random() * 82 - 44))::double precision) AS x
		FROM generate_series(1, 1000) i, generate_series(1, 1 + i % 10) GROUP BY i) y;
SELECT count(*), count(*) FILTER (WHERE meta_embedding_send(e::text::meta_embedding) <> meta_embedding_send(e)) AS differ,
	count(*) FILTER (WHERE meta_embedding_send(e::real[]::meta_embedding) <> meta_embedding_send(e)) AS differ_real,
	count(*) FILTER (WHERE meta_embedding_send(e::double precision[]::meta_embedding) <> meta_embedding_send(e)) AS differ_double
FROM random_embedding;

-- Binary

SELECT meta_embedding_send('[1,-2,0.5]@1a2b3c4d');
SELECT meta_embedding_send('[-0]');

\copy embedding TO 'results/meta_embedding.bin' WITH (FORMAT binary)
TRUNCATE restored;
\copy restored FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
SELECT * FROM restored ORDER BY id;

CREATE TABLE restored_array (a meta_embedding[], e meta_embedding);
\copy (SELECT array_agg(e ORDER BY id), NULL FROM embedding) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy restored_array FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
SELECT * FROM restored_array;

TRUNCATE restored;
\copy random_embedding TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy restored FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
ALTER TABLE restored ALTER COLUMN e TYPE meta_embedding;
\copy restored FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
SELECT count(*) FROM random_embedding a FULL JOIN restored b USING (id) WHERE meta_embedding_send(a.e) IS DISTINCT FROM meta_embedding_send(b.e);

-- Binary that is wrong: a bytea's binary form is its bytes, so that a column
-- of the type can be made to receive anything

CREATE TABLE received (e meta_embedding);
\set VERBOSITY terse
-- nothing, and parts of the header
\copy (SELECT ''::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x0001'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00010000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00010000000000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
-- the header alone, and parts of the elements
\copy (SELECT '\x0001000000000000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00010000000000003f'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00010000000000003f8000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00020000000000003f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
-- bytes left over
\copy (SELECT '\x00010000000000003f80000000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00010000000000003f8000003f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
-- no dimension, and too many
\copy (SELECT '\x0000000000000000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00000000000000003f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x3e81000000000000'::bytea || decode(repeat('3f800000', 16001), 'hex')) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\xffff000000000000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x8001000000000000'::bytea || decode(repeat('3f800000', 1), 'hex')) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
-- a reserved field in use
\copy (SELECT '\x00010001000000003f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00018000000000003f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
-- elements that are no number: quiet, signalling and negative NaN, infinities
\copy (SELECT '\x00010000000000007fc00000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00010000000000007f800001'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x0001000000000000ffc00000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x00020000000000003f8000007f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy (SELECT '\x0001000000000000ff800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
-- another number of dimensions than declared
ALTER TABLE received ALTER COLUMN e TYPE meta_embedding(2);
\copy (SELECT '\x00010000000000003f800000'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
\set VERBOSITY default
-- and what is right after all
\copy (SELECT '\x00020000ffffffff800000007f7fffff'::bytea) TO 'results/meta_embedding.bin' WITH (FORMAT binary)
\copy received FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
SELECT * FROM received;

-- Casts

SELECT ARRAY[1.5,-2,3]::real[]::meta_embedding, ARRAY[1.5,-2,0.1]::double precision[]::meta_embedding(3);
SELECT '[1.5,-2,0.1]@1a2b3c4d'::meta_embedding::real[], '[1.5,-2,0.5]@1a2b3c4d'::meta_embedding::double precision[];
SELECT '[1.5]@1a2b3c4d'::meta_embedding::real[]::meta_embedding;
SELECT NULL::real[]::meta_embedding, NULL::meta_embedding::real[];
SELECT '[2:3]={1,2}'::real[]::meta_embedding;
SELECT array_remove(ARRAY[1,NULL,2]::real[], NULL)::meta_embedding, (ARRAY[NULL,1,2]::double precision[])[2:3]::meta_embedding;
SELECT ARRAY[1e-300,-1e-300]::double precision[]::meta_embedding;

SELECT '{}'::real[]::meta_embedding;
SELECT '{}'::double precision[]::meta_embedding;
SELECT '{{1,2}}'::real[]::meta_embedding;
SELECT '{{1},{2}}'::double precision[]::meta_embedding;
SELECT '{1,NULL}'::real[]::meta_embedding;
SELECT '{NULL}'::double precision[]::meta_embedding;
SELECT '{1,NaN}'::real[]::meta_embedding;
SELECT '{NaN}'::double precision[]::meta_embedding;
SELECT '{Infinity}'::real[]::meta_embedding;
SELECT '{1,-Infinity}'::double precision[]::meta_embedding;
SELECT '{1e300}'::double precision[]::meta_embedding;
SELECT '{-3.4028236e38}'::double precision[]::meta_embedding;
SELECT '{1,2}'::real[]::meta_embedding(3);
SELECT '{1,2}'::double precision[]::meta_embedding(1);
SELECT array_fill(0::real, ARRAY[16001])::meta_embedding;
SELECT array_fill(0::double precision, ARRAY[16001])::meta_embedding;
SELECT ARRAY[1,2]::meta_embedding;

-- in an assignment, but not in an expression
CREATE TABLE array_embedding (r real[], d double precision[]);
INSERT INTO array_embedding SELECT e, e FROM embedding WHERE id = 2;
SELECT * FROM array_embedding;
SELECT '[1]'::meta_embedding = '{1}'::real[];
SELECT castsource::regtype, casttarget::regtype, castcontext FROM pg_cast
WHERE 'meta_embedding'::regtype IN (castsource, casttarget) ORDER BY 1::text, 2::text;

-- Order

SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, meta_embedding_cmp(a, b) AS cmp
FROM (VALUES
	('[1,2]'::meta_embedding, '[1,2]'::meta_embedding),
	('[1,2]', '[1,3]'),
	('[2,1]', '[1,3]'),
	('[1,2]', '[1,2,0]'),
	('[1,3]', '[1,2,0]'),
	('[1,2,-1]', '[1,2]'),
	('[0,1]', '[-0,1]'),
	('[1]', '[1]@00000001'),
	('[1]@00000001', '[1]@00000001'),
	('[1]@ffffffff', '[1]@00000001'),
	('[1]@ffffffff', '[2]@00000001'),
	('[1]@ffffffff', '[1,0]@00000001'),
	('[1]', NULL)) v(a, b);

CREATE TABLE ordered (e meta_embedding);
INSERT INTO ordered VALUES ('[2]'), ('[1]@00000002'), (NULL), ('[1,0]'), ('[-1,5]'), ('[1]'), ('[0]'), ('[1]@00000001'), ('[1,-5]'),
	('[-1e38]'), ('[1e-45]'), ('[1]@00000002'), ('[2]'), ('[-0]'), (NULL), ('[1,0,0]');
SELECT e FROM ordered WHERE e IS DISTINCT FROM '[-0]' ORDER BY e;
SELECT e FROM ordered WHERE e IS DISTINCT FROM '[-0]' ORDER BY e DESC NULLS LAST LIMIT 3;
SELECT count(*), count(e), count(DISTINCT e) FROM ordered;
SELECT e, count(*) FROM ordered WHERE e <> '[0]' GROUP BY e ORDER BY e;
SELECT count(*) FROM (SELECT DISTINCT e FROM ordered) d;

-- one order: of any two, one holds; and it is transitive
SELECT count(*) FILTER (WHERE (a.e < b.e)::int + (a.e = b.e)::int + (a.e > b.e)::int <> 1) AS trichotomy,
	count(*) FILTER (WHERE meta_embedding_cmp(a.e, b.e) <> - meta_embedding_cmp(b.e, a.e)) AS antisymmetry
FROM ordered a, ordered b WHERE a.e IS NOT NULL AND b.e IS NOT NULL;
SELECT count(*) AS transitivity FROM ordered a, ordered b, ordered c WHERE a.e <= b.e AND b.e <= c.e AND a.e > c.e;

-- Hash: equal where equal, and as the extended one where its seed is 0

SELECT count(*) FILTER (WHERE a.e = b.e AND meta_embedding_hash(a.e) <> meta_embedding_hash(b.e)) AS hash,
	count(*) FILTER (WHERE a.e = b.e AND meta_embedding_hash_extended(a.e, 7) <> meta_embedding_hash_extended(b.e, 7)) AS hash_extended,
	count(*) FILTER (WHERE (meta_embedding_hash_extended(a.e, 0) & 4294967295) <> (meta_embedding_hash(a.e)::bigint & 4294967295)) AS low
FROM ordered a, ordered b;
SELECT count(DISTINCT meta_embedding_hash(e)) = count(DISTINCT e) AS spread FROM ordered;
SELECT count(DISTINCT meta_embedding_hash(e)) > 990 AS spread,
	count(*) FILTER (WHERE meta_embedding_hash_extended(e, 1) = meta_embedding_hash_extended(e, 2)) AS same FROM random_embedding;

CREATE TABLE parted (e meta_embedding) PARTITION BY HASH (e);
CREATE TABLE parted0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parted SELECT e FROM random_embedding;
INSERT INTO parted SELECT e FROM ordered;
SELECT count(*), count(DISTINCT tableoid) FROM parted;
SELECT count(*) FROM parted WHERE e = '[0]';

-- Plans: index, hash join, merge join, hashed and sorted groups

CREATE TABLE grouped AS SELECT ('[' || i % 100 || ',1]')::meta_embedding(2) AS e, i FROM generate_series(1, 1000) i;
CREATE INDEX grouped_e ON grouped (e);
ANALYZE grouped;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM grouped WHERE e = '[7,1]';
SELECT count(*) FROM grouped WHERE e = '[7,1]';
EXPLAIN (COSTS OFF) SELECT i FROM grouped WHERE e >= '[97,1]' AND e < '[99]' ORDER BY e, i LIMIT 3;
SELECT count(*), min(i), max(i) FROM grouped WHERE e >= '[97,1]' AND e < '[99]';
EXPLAIN (COSTS OFF) SELECT e FROM grouped ORDER BY e LIMIT 1;
SELECT e FROM grouped ORDER BY e LIMIT 1;
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP INDEX grouped_e;
CREATE INDEX grouped_e ON grouped USING hash (e);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM grouped WHERE e = '[7,1]';
SELECT count(*) FROM grouped WHERE e = '[7,1]';
RESET enable_seqscan;
RESET enable_bitmapscan;
DELETE FROM embedding WHERE id IN (1, 5);
CREATE UNIQUE INDEX ON embedding (e);
INSERT INTO embedding VALUES (7, '[7,8,9]@00000001');
INSERT INTO embedding VALUES (8, '[0,1e-7,3]@00000001');

CREATE TABLE grouped2 AS SELECT ('[' || i || ',1]')::meta_embedding(2) AS e FROM generate_series(50, 149) i;
ANALYZE grouped2;
SET enable_mergejoin = off;
SET enable_nestloop = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM grouped a JOIN grouped2 b ON a.e = b.e;
SELECT count(*) FROM grouped a JOIN grouped2 b ON a.e = b.e;
RESET enable_mergejoin;
SET enable_hashjoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM grouped a JOIN grouped2 b ON a.e = b.e;
SELECT count(*) FROM grouped a JOIN grouped2 b ON a.e = b.e;
RESET enable_hashjoin;
RESET enable_nestloop;

SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT e, count(*) FROM grouped GROUP BY e;
SELECT count(*), sum(n) FROM (SELECT e, count(*) AS n FROM grouped GROUP BY e) g;
RESET enable_sort;
SET enable_hashagg = off;
EXPLAIN (COSTS OFF) SELECT e, count(*) FROM grouped GROUP BY e;
SELECT count(*), sum(n) FROM (SELECT e, count(*) AS n FROM grouped GROUP BY e) g;
RESET enable_hashagg;

-- Distances

SELECT '[1,2]'::meta_embedding <-> '[4,6]', '[1,2]'::meta_embedding <#> '[3,4]', '[1,0]'::meta_embedding <=> '[0,2]';
SELECT limaml_l2_distance('[1,2]', '[4,6]'), limaml_negative_inner_product('[1,2]', '[3,4]'), limaml_cosine_distance('[1,0]', '[0,2]');
SELECT '[1,0]'::meta_embedding <#> '[0,1]' AS zero;
SELECT '[1,2,3]'::meta_embedding <=> '[1,2,3]' AS same, '[1,2,3]'::meta_embedding <=> '[2,4,6]' AS parallel, '[1,2,3]'::meta_embedding <=> '[-1,-2,-3]' AS opposite;
SELECT '[0,0]'::meta_embedding <=> '[1,2]', '[1,2]'::meta_embedding <=> '[0,-0]', '[0]'::meta_embedding <=> '[0]';
-- neither the largest nor the smallest floats leave the range of a double
SELECT round(('[3e38,3e38]'::meta_embedding <-> '[-3e38,-3e38]')::numeric, -36), '[3e38]'::meta_embedding <=> '[-3e38]',
	round(('[3e38,3e38]'::meta_embedding <#> '[3e38,3e38]')::numeric, -74), '[1e-45]'::meta_embedding <=> '[1e-45]', '[1e-45]'::meta_embedding <-> '[0]' > 0;
SELECT count(*) FROM random_embedding WHERE (e <=> e) IS DISTINCT FROM 0 OR (e <-> e) IS DISTINCT FROM 0;
SELECT bool_and(abs((e <-> f) - sqrt((SELECT sum((x - y) ^ 2) FROM unnest(e::double precision[], f::double precision[]) u(x, y)))) <= 1e-9 * (e <-> f))
FROM (SELECT a.e, b.e AS f FROM random_embedding a, random_embedding b WHERE a.id % 100 = 7 AND b.id % 100 = 17) p;
SELECT '[1]'::meta_embedding <-> NULL, NULL::meta_embedding <=> '[1]';
SELECT '[1,2,3]'::meta_embedding <-> '[1,2,3,4]';
SELECT '[1,2,3]'::meta_embedding <#> '[1]';
SELECT '[1]'::meta_embedding <=> '[1,2]';
-- networks
SELECT '[1,2]@1a2b3c4d'::meta_embedding <-> '[4,6]@1a2b3c4d', '[1,2]@1a2b3c4d'::meta_embedding <-> '[4,6]', '[1,2]'::meta_embedding <#> '[3,4]@1a2b3c4d';
SELECT '[1,2]@1a2b3c4d'::meta_embedding <-> '[4,6]@00000001';
SELECT '[1,2]@1a2b3c4d'::meta_embedding <#> '[4,6]@00000001';
SELECT '[1,2]@1a2b3c4d'::meta_embedding <=> '[4,6]@ffffffff';

SELECT limaml_dims('[1,2,3]'), limaml_dims('[1]@1a2b3c4d'), limaml_dims(NULL);
SELECT limaml_norm('[3,-4]'), limaml_norm('[0]'), limaml_norm('[3e38]') > 2.9e38 AS wide, limaml_norm(NULL);

-- Aggregates

SELECT sum(e), avg(e) FROM (VALUES ('[1,2]'::meta_embedding), (NULL), ('[3,-5]')) v(e);
SELECT sum(e), avg(e) FROM (VALUES (NULL::meta_embedding), (NULL)) v(e);
SELECT sum(e), avg(e) FROM embedding WHERE false;
SELECT i, sum(e), avg(e) FROM (VALUES (1, '[1,2]'::meta_embedding), (2, '[3]'), (1, '[5,6]'), (3, NULL)) v(i, e) GROUP BY i ORDER BY i;
SELECT i, sum(e), avg(e) FROM (VALUES (1, '[1,2]'::meta_embedding), (2, '[3,4]'), (1, '[5,6]')) v(i, e) GROUP BY ROLLUP (i) ORDER BY i;
SELECT sum(DISTINCT e), avg(e) FILTER (WHERE e > '[1,2]') FROM (VALUES ('[1,2]'::meta_embedding), ('[1,2]'), ('[3,4]')) v(e);
-- rounded once, at the end
SELECT sum(e) FROM (VALUES ('[16777216]'::meta_embedding), ('[1]'), ('[1]')) v(e);
SELECT avg(e) FROM (VALUES ('[3e38]'::meta_embedding), ('[3e38]'), ('[-3e38]')) v(e);
SELECT avg(e) FROM (VALUES ('[3.4028235e38]'::meta_embedding), ('[3.4028235e38]'), ('[3.4028235e38]')) v(e);
SELECT sum(e) FROM (VALUES ('[1e-45]'::meta_embedding), ('[1e-45]')) v(e);
SELECT sum(e) FROM (VALUES ('[3e38]'::meta_embedding), ('[3e38]')) v(e);
SELECT sum(e) FROM (VALUES ('[0,-3e38]'::meta_embedding), ('[0,-3e38]')) v(e);
SELECT sum(e) FROM (VALUES ('[1,2]'::meta_embedding), ('[3]')) v(e);
SELECT avg(e) FROM (VALUES ('[3]'::meta_embedding), ('[1,2]')) v(e);
-- networks: one is kept, any without leaves none, two are an error in any order
SELECT sum(e), avg(e) FROM (VALUES ('[1]@1a2b3c4d'::meta_embedding), (NULL), ('[3]@1a2b3c4d')) v(e);
SELECT sum(e), avg(e) FROM (VALUES ('[1]@1a2b3c4d'::meta_embedding), ('[3]')) v(e);
SELECT sum(e), avg(e) FROM (VALUES ('[1]'::meta_embedding), ('[3]@1a2b3c4d'), ('[3]@1a2b3c4d')) v(e);
SELECT sum(e), avg(e) FROM (VALUES ('[1]@ffffffff'::meta_embedding)) v(e);
SELECT avg(e) FROM (VALUES ('[1]@1a2b3c4d'::meta_embedding), ('[3]@00000001')) v(e);
SELECT avg(e) FROM (VALUES ('[1]@1a2b3c4d'::meta_embedding), ('[1]'), ('[3]@00000001')) v(e);
SELECT sum(e) FROM (VALUES ('[1]'::meta_embedding), ('[1]@1a2b3c4d'), ('[3]@00000001')) v(e);
-- windows
SELECT i, sum(e) OVER (ORDER BY i), avg(e) OVER (ORDER BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
FROM (VALUES (1, '[1,2]'::meta_embedding), (2, '[3,4]'), (3, NULL), (4, '[5,6]')) v(i, e) ORDER BY i;

-- the functions behind them change no argument, and check every one
SELECT meta_embedding_accum(s, '[1,2]'), meta_embedding_combine(s, s), meta_embedding_avg(s), meta_embedding_sum(s), s
FROM (VALUES ('{2,1,439041101,6,8}'::double precision[])) v(s);
SELECT meta_embedding_accum('{0,0,0}', '[1,2]@1a2b3c4d'), meta_embedding_accum('{0,0,0}', '[1,2]');
SELECT meta_embedding_combine('{0,0,0}', '{0,0,0}'), meta_embedding_combine('{1,1,0,5}', '{0,0,0}'), meta_embedding_combine('{0,0,0}', '{1,0,7,5}'),
	meta_embedding_combine('{1,1,0,5}', '{1,0,7,5}');
SELECT meta_embedding_avg('{0,0,0}'), meta_embedding_sum('{0,0,0}'), meta_embedding_sum('{1,0,4294967295,5}');
SELECT meta_embedding_accum(NULL, '[1]'), meta_embedding_combine(NULL, '{0,0,0}');
SELECT meta_embedding_accum('{1,1,0,5}', '[1,2]');
SELECT meta_embedding_combine('{1,1,0,5}', '{1,1,0,5,6}');
SELECT meta_embedding_combine('{1,0,7,5}', '{1,0,8,5}');
SELECT meta_embedding_accum('{1,0,7,5}', '[1]@00000008');
SELECT meta_embedding_combine('{1,1,0,1e308}', '{1,1,0,1e308}');
SELECT meta_embedding_accum('{1,1,0,1.7976931348623157e308}', '[3e38]') IS NOT NULL AS no_overflow;
SELECT meta_embedding_avg('{1,1,0,1e39}');
SELECT meta_embedding_sum('{1,1,0,-1e39}');

CREATE FUNCTION try_state(state double precision[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	results text[];
	call text;
BEGIN
	FOREACH call IN ARRAY ARRAY['accum($1, ''[1]'')', 'combine($1, ''{0,0,0}'')', 'combine(''{0,0,0}'', $1)', 'avg($1)', 'sum($1)'] LOOP
		BEGIN
			EXECUTE 'SELECT meta_embedding_' || call || '::text' INTO call USING state;
		EXCEPTION WHEN OTHERS THEN
			call := regexp_replace(SQLSTATE || ': ' || SQLERRM, 'meta_embedding_\w+', '...');
		END;
		results := results || call;
	END LOOP;
	RETURN (SELECT string_agg(DISTINCT r, ' / ') FROM unnest(results) r);
END
$$;
SELECT state, try_state(state::double precision[]) FROM unnest(ARRAY[
	'{}', '{0}', '{0,0}', '{{0,0,0}}', '{NULL,0,0}', '{0,0,NULL}', '{1,1,0,NULL}',
	'{1,1,0}', '{0,0,0,0}', '{-1,0,0,5}', '{0.5,0,0,5}', '{NaN,0,0,5}', '{Infinity,0,0,5}', '{1e17,1e17,0,5}',
	'{1,-1,1,5}', '{1,0.5,1,5}', '{1,2,0,5}', '{1,NaN,0,5}', '{1,Infinity,0,5}',
	'{1,0,0,5}', '{1,1,7,5}', '{1,0,-7,5}', '{1,0,0.5,5}', '{1,0,4294967296,5}', '{1,0,NaN,5}', '{1,0,Infinity,5}', '{0,0,7}',
	'{1,1,0,NaN}', '{1,1,0,Infinity}', '{1,1,0,5,-Infinity}']) state;
SELECT try_state('{1,1,0}' || array_fill(1::double precision, ARRAY[16001]));

-- in parallel
CREATE TABLE parallel_embedding WITH (parallel_workers = 2) AS
	SELECT i % 10 AS g, ('[' || i || ',' || -i || ']@1a2b3c4d')::meta_embedding(2) AS e FROM generate_series(1, 10000) i;
ANALYZE parallel_embedding;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(e), sum(e) FROM parallel_embedding;
SELECT avg(e), sum(e) FROM parallel_embedding;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT g, avg(e) FROM parallel_embedding GROUP BY g;
SELECT g, avg(e) FROM parallel_embedding GROUP BY g ORDER BY g;
RESET enable_sort;
EXPLAIN (COSTS OFF) SELECT count(*) FROM parallel_embedding WHERE e <-> '[1,-1]' < 100;
SELECT count(*) FROM parallel_embedding WHERE e <-> '[1,-1]' < 100;
-- a worker without rows, and one with a mistake
SELECT avg(e) FROM parallel_embedding WHERE g = 11;
SELECT avg(e) FROM parallel_embedding WHERE e = '[5,-5]@1a2b3c4d';
INSERT INTO parallel_embedding VALUES (0, '[1,1]@00000001');
SELECT avg(e) IS NULL FROM parallel_embedding;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;

-- Values in every form of storage: with a header of one byte, plain, toasted

CREATE TABLE wide (id int, e meta_embedding);
INSERT INTO wide SELECT i, (SELECT array_agg((j % 7 + i)::real) FROM generate_series(1, n) j)::meta_embedding
FROM (VALUES (1, 3), (2, 100), (3, 600), (4, 16000), (5, 16000)) v(i, n);
SELECT id, limaml_dims(e), pg_column_size(e) - 4 * limaml_dims(e) AS header, octet_length(meta_embedding_send(e)) FROM wide ORDER BY id;
SELECT pg_column_size('[1,2,3]'::meta_embedding);
SELECT pg_relation_size(reltoastrelid) > 128000 AS toasted FROM pg_class WHERE oid = 'wide'::regclass;
SELECT id, e = e::text::meta_embedding AS text, e = e::real[]::meta_embedding AS real, e = e::double precision[]::meta_embedding AS double,
	limaml_dims(e::meta_embedding(16000)) FROM wide WHERE id = 4;
SELECT e::meta_embedding(3) FROM wide WHERE id = 4;
SELECT a.id, b.id, a.e < b.e AS lt, meta_embedding_hash(a.e) = meta_embedding_hash(b.e) AS hash FROM wide a, wide b WHERE a.id + 1 >= b.id AND a.id <= b.id ORDER BY 1, 2;
SELECT a.e <-> b.e = sqrt(16000), round((a.e <=> b.e)::numeric, 4), limaml_norm(a.e) = sqrt(-(a.e <#> a.e)) FROM wide a, wide b WHERE a.id = 4 AND b.id = 5;
SELECT id, avg(e) = e AS avg, sum(e) = e AS sum, avg(e) = '[1]' AS other FROM wide GROUP BY id, e ORDER BY id;
SELECT avg(e)::real[] = (SELECT array_agg(j % 7 + 4.5) FROM generate_series(1, 16000) j)::real[] AS avg FROM wide WHERE id >= 4;
UPDATE wide SET e = (SELECT e FROM wide WHERE id = 5) WHERE id = 4;
SELECT count(DISTINCT e) FROM wide;
\copy wide TO 'results/meta_embedding.bin' WITH (FORMAT binary)
CREATE TABLE wide2 (LIKE wide);
\copy wide2 FROM 'results/meta_embedding.bin' WITH (FORMAT binary)
SELECT count(*) FROM wide JOIN wide2 USING (id, e);
-- with little memory
SET work_mem = '64kB';
SELECT count(*), sum(n) FROM (SELECT e, count(*) AS n FROM random_embedding, generate_series(1, 10) GROUP BY e) g;
SELECT count(*) FROM random_embedding a JOIN random_embedding b USING (e);
RESET work_mem;

-- The catalog entries

SELECT amname, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod WHERE opcname = 'meta_embedding_ops' ORDER BY 1;
SELECT o.oprname, c.oprname AS commutator, n.oprname AS negator, o.oprrest, o.oprjoin, o.oprcanhash, o.oprcanmerge
FROM pg_operator o LEFT JOIN pg_operator c ON c.oid = o.oprcom LEFT JOIN pg_operator n ON n.oid = o.oprnegate
WHERE o.oprleft = 'meta_embedding'::regtype ORDER BY o.oprname COLLATE "C";
SELECT aggfnoid::regprocedure, aggcombinefn, aggfinalmodify FROM pg_aggregate WHERE aggtransfn = 'meta_embedding_accum'::regproc ORDER BY 1::text;
-- nothing volatile, parallel unsafe or without a comment
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e'
WHERE (proname ~ 'meta_embedding' OR 'meta_embedding_accum'::regproc = (SELECT aggtransfn FROM pg_aggregate WHERE aggfnoid = p.oid) OR
		prorettype = 'double precision'::regtype AND proargtypes[0] = 'meta_embedding'::regtype) AND
	(provolatile <> 'i' OR proparallel <> 's' OR obj_description(p.oid, 'pg_proc') IS NULL);
SELECT o.oid::regoperator FROM pg_operator o WHERE oprleft = 'meta_embedding'::regtype AND obj_description(o.oid, 'pg_operator') IS NULL;

DROP TABLE embedding, restored, random_embedding, restored_array, received, array_embedding, ordered, parted, grouped, grouped2, parallel_embedding, wide, wide2;
DROP FUNCTION try_text, mutate, check_mutants, try_state;
