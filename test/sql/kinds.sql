--
-- Kinds of features: arrays as categories and as vectors, each held against a
-- definition that is known to work or against what can be worked out by hand.
--

SET client_min_messages = warning;
SET extra_float_digits = 3;
\set SHOW_CONTEXT never
CREATE SCHEMA kinds_test;
SET search_path = kinds_test, public;

-- The numbers of a vector, and how far two vectors are apart
CREATE FUNCTION numbers(meta_embedding) RETURNS real[] LANGUAGE sql AS 'SELECT $1::real[]';
CREATE FUNCTION distance(a real[], b real[]) RETURNS float8 LANGUAGE sql AS $$
	SELECT max(abs(x - y)) FROM unnest(a, b) _(x, y)
$$;

--
-- Arrays of one element or none are what the element or NULL would be, and a
-- vector is what its elements would be: to the bit, from training on.
--

CREATE TABLE rating AS
SELECT m AS member_id, n AS at, (i + m) % 3 = 0 AS liked, tag, CASE WHEN tag IS NOT NULL THEN ARRAY[tag] ELSE (ARRAY[NULL, '{}', '{NULL}']::text[])[1 + n % 3]::text[] END AS tags,
	a, b, ARRAY[a, b] AS v, c, CASE WHEN c IS NOT NULL THEN ARRAY[c] END AS w
FROM generate_series(1, 40) m, generate_series(1, 25) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) AS i) _,
	LATERAL (SELECT CASE WHEN i % 6 > 0 THEN 't' || i % 6 END AS tag, (i % 101 / 10.0)::real AS a, (i % 7)::real AS b, CASE WHEN i % 9 > 0 THEN i % 9 END AS c) __;
CREATE TABLE member AS SELECT m AS member_id, nullif(m % 4, 0) AS plan, CASE WHEN m % 4 > 0 THEN ARRAY[m % 4] END AS plans, m % 7 AS age, m % 5 / 2.0::float8 AS days, ARRAY[m % 7, m % 5 / 2.0::float8] AS known FROM generate_series(1, 40) m;

SELECT limaml_create_model('one', 'rating', '{member_id}', 'liked', 'at', '{tag,a,b,c}', 'member', '{plan:category,age,days}', options => '{"embedding_size": 8, "epochs": 3, "category_dropout": 0.1}');
SELECT limaml_create_model('many', 'rating', '{member_id}', 'liked', 'at', '{tags,v,w:vector}', 'member', '{plans,known}', options => '{"embedding_size": 8, "epochs": 3, "category_dropout": 0.1}');
SELECT version, epochs, entities, interactions FROM limaml_train('one');
SELECT version, epochs, entities, interactions FROM limaml_train('many');
SELECT bool_and((a.train_loss, a.validation_loss, a.validation_auc, a.baseline_auc) IS NOT DISTINCT FROM (b.train_loss, b.validation_loss, b.validation_auc, b.baseline_auc)) AS same_log, count(*) > 3 AS epochs
FROM limaml.training_log a JOIN limaml.training_log b USING (refit, epoch) WHERE a.model = 'one' AND b.model = 'many';
CALL limaml_refresh('one');
CALL limaml_refresh('many');
SELECT count(*), bool_and(numbers(a.embedding) = numbers(b.embedding)) AS same, bool_and((a.loss_before, a.loss_after) = (b.loss_before, b.loss_after)) AS same_losses,
	bool_and(limaml_adapt('many', member_id) = b.embedding) AS adapted
FROM one_embedding a JOIN many_embedding b USING (member_id);
SELECT count(*), bool_and(limaml_score('many', member_id, tags, v, w) = limaml_score('one', member_id, tag, a, b, c)) AS values,
	bool_and(limaml_score('many', member_id, r) = limaml_score('one', member_id, r)) AS rows,
	bool_and(limaml_score('many', member_id, ROW(tags, v, w)) = limaml_score('one', member_id, r)) AS records,
	bool_and(limaml_score('many', NULL, r) = limaml_score('one', NULL, r)) AS priors,
	bool_and(numbers(limaml_candidate_vector('many', r)) = numbers(limaml_candidate_vector('one', r))) AS vectors,
	bool_and(abs(limaml_score_vector('many', member_id, limaml_candidate_vector('many', r)) - limaml_score('many', member_id, r)) < 1e-6) AS score_vector
FROM rating r;
-- Tags, w and the score are explained alike; a vector is left out at the mean of the training rows, which are nine of ten
SELECT count(*), bool_and(x.contribution = y.contribution) AS same
FROM (SELECT * FROM rating WHERE at = 3) r, LATERAL limaml_explain('many', member_id, r) x
JOIN LATERAL limaml_explain('one', member_id, r) y ON y.feature = CASE x.feature WHEN 'tags' THEN 'tag' WHEN 'w' THEN 'c' ELSE x.feature END;
SELECT count(*), max(abs(contribution - (s.score - n.score))) < 0.1 * avg(abs(contribution)) AS mean_is_neutral
FROM rating r, LATERAL limaml_explain('many', member_id, r) x,
	LATERAL (SELECT contribution AS score FROM limaml_explain('many', member_id, tags, v, w) WHERE feature = '(score)') s,
	LATERAL (SELECT contribution AS score FROM limaml_explain('many', member_id, tags, (SELECT ARRAY[avg(a), avg(b)]::real[] FROM rating), w) WHERE feature = '(score)') n
WHERE x.feature = 'v' AND at = 5;
SELECT bool_and(numbers(limaml_embedding('many', m)) = numbers(limaml_embedding('one', m))) AS strangers FROM generate_series(41, 43) m;
SELECT bool_and(a.score = b.score) AS rank FROM limaml_rank('one', 7, 'rating', 50) a JOIN limaml_rank('many', 7, 'rating', 50) b USING (rank);
SELECT bool_and(a = b) AS top FROM (SELECT limaml_top(5, 'one', member_id, at, tag, rating.a, b, c) AS a, limaml_top(5, 'many', member_id, at, tags, v, w) AS b FROM rating GROUP BY member_id) _;
SELECT count(*), bool_and(a IS NOT DISTINCT FROM b) AS evaluate FROM (SELECT ROW(e.*) AS a, row_number() OVER () AS n FROM limaml_evaluate('one') e) a JOIN (SELECT ROW(e.*) AS b, row_number() OVER () AS n FROM limaml_evaluate('many') e) b USING (n);
SELECT bool_and((a.arm, a.segment, a.metric, a.value) IS NOT DISTINCT FROM (b.arm, b.segment, b.metric, b.value)) AS compare
FROM (SELECT *, row_number() OVER () AS n FROM limaml_compare('one', '{none,id,limaml,full}', 1)) a JOIN (SELECT *, row_number() OVER () AS n FROM limaml_compare('many', '{none,id,limaml,full}', 1)) b USING (n);
SELECT count(*) AS best, bool_and((a.trial, a.options, a.validation_auc) IS NOT DISTINCT FROM (b.trial, b.options, b.validation_auc)) AS tune
FROM limaml_tune('one', '{"min_count": [1, 100]}', 3) a JOIN limaml_tune('many', '{"min_count": [1, 100]}', 3) b USING (trial);
SELECT limaml_drop_version(model, max(version)) FROM limaml.version WHERE model IN ('one', 'many') GROUP BY model HAVING max(version) > 1;

-- Export and import keep all of it
SELECT limaml_import('many', limaml_export('many'));
SELECT count(DISTINCT digest) FROM limaml.version WHERE model = 'many';

-- From memory or from a file
CREATE TABLE wide AS SELECT member_id, at, liked, tags, array_fill(a, '{60}') || (ARRAY[b, c] || v) AS v FROM rating, generate_series(1, 5) n;
SELECT limaml_create_model('wide', 'wide', '{member_id}', 'liked', 'at', '{tags,v}', options => '{"embedding_size": 4, "epochs": 2}');
SET maintenance_work_mem = '1MB';
SELECT version FROM limaml_train('wide');
RESET maintenance_work_mem;
SELECT version FROM limaml_train('wide');
SELECT count(DISTINCT digest) AS networks FROM limaml.version WHERE model = 'wide';

--
-- Several values
--

CREATE TABLE film AS
SELECT m AS member_id, n AS at, (ARRAY['a', 'b', 'c', 'd', 'e', 'f'])[1 : i % 7] AS tags, CASE WHEN i % 5 > 0 THEN ARRAY[i % 3, nullif(i % 4, 2), 1]::float8[] END AS v, i % 2 = 0 AS liked
FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) AS i) _;
SELECT limaml_create_model('film', 'film', '{member_id}', 'liked', 'at', '{tags,v}', options => '{"embedding_size": 8, "epochs": 3, "min_count": 200, "validation_fraction": 0}');
SELECT version FROM limaml_train('film');
CALL limaml_refresh('film');

-- What is known of them: values that occurred 200 times, in all rows together
CREATE FUNCTION metadata(file bytea) RETURNS jsonb LANGUAGE sql AS $$
	SELECT (convert_from(substr(file, 9, get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2)), 'UTF8')::jsonb #>> '{__metadata__,limaml}')::jsonb
$$;
SELECT metadata(limaml_export('film')) #> '{features,0}' AS tags, metadata(limaml_export('film')) #- '{features,0}' #> '{features,0,missing}' AS missing;
SELECT metadata(limaml_export('film')) #> '{features,0,vocabulary}' = jsonb_agg(tag ORDER BY n DESC, tag) AS frequent
FROM (SELECT tag, count(*) AS n FROM film, unnest(tags) tag GROUP BY tag HAVING count(*) >= 200) _;

-- Order and repetition mean nothing where all values are one; NULL is no value
SELECT n, count(*), count(DISTINCT limaml_score('film', 1, tags, ARRAY[1, 1, 1])) AS scores FROM (VALUES
	(1, '{a,b,c}'::text[]), (1, '{c,a,b}'), (1, '{b,NULL,c,a,NULL}'), (1, '[5:7]={b,a,c}'),
	(2, '{a}'), (2, '{a,a}'), (2, '{a,a,a,a,a,a,a}'), (2, '{NULL,a}'),
	(3, NULL), (3, '{}'), (3, '{NULL}'), (3, '{NULL,NULL}'),
	(4, '{never}'), (4, '{never,never}')) _(n, tags) GROUP BY n ORDER BY n;
SELECT count(DISTINCT limaml_score('film', 1, tags, ARRAY[1, 1, 1])) AS different FROM (VALUES ('{a,b,c}'::text[]), ('{a,b}'), ('{a}'), ('{b}'), ('{}'), ('{a,a,b}'), ('{a,b,b}'), ('{a,never}')) _(tags);

-- Of several values it is the mean of the values' candidate vectors, in which
-- everything is linear, wide scalars too; as often as a value is there
CREATE FUNCTION vector_of(tags text[]) RETURNS real[] LANGUAGE sql AS $$ SELECT numbers(limaml_candidate_vector('film', tags, ARRAY[1, 2, 1])) $$;
CREATE FUNCTION mean_of(VARIADIC tags text[]) RETURNS real[] LANGUAGE sql AS $$
	SELECT array_agg(mean ORDER BY n) FROM (SELECT n, avg(x)::real AS mean FROM unnest(tags) tag, unnest(vector_of(ARRAY[tag])) WITH ORDINALITY _(x, n) GROUP BY n) _
$$;
SELECT distance(vector_of('{a,b}'), mean_of('a', 'b')) < 1e-6 AS two, distance(vector_of('{a,b,a}'), mean_of('a', 'a', 'b')) < 1e-6 AS repeated,
	distance(vector_of('{a,never}'), mean_of('a', 'never')) < 1e-6 AS unknown, distance(vector_of('{a,b,c,d,e,f}'), mean_of('a', 'b', 'c', 'd', 'e', 'f')) < 1e-6 AS six,
	distance(vector_of('{a,b}'), vector_of('{a}')) > 1e-3 AS and_not_by_chance;

-- What one value among others says is learned, and so is how many there are
CREATE TABLE planted AS
SELECT m AS member_id, n AS at, tags, 'good' = ANY (tags) AS liked, (SELECT count(*) FROM unnest(tags) tag WHERE tag = 'good')::float8 / cardinality(tags) AS share
FROM generate_series(1, 60) m, generate_series(1, 40) n, LATERAL (SELECT array_agg(CASE abs(hashint4(m * 1000 + n * 10 + j)) % 6 WHEN 0 THEN 'good' ELSE 'tag ' || abs(hashint4(m * 1000 + n * 10 + j)) % 20 END) AS tags FROM generate_series(1, 1 + abs(hashint4(m * 41 + n)) % 6) j) _;
SELECT limaml_create_model('planted', 'planted', '{member_id}', 'liked', 'at', '{tags}', options => '{"embedding_size": 4, "epochs": 12}');
SELECT limaml_create_model('share', 'planted', '{member_id}', 'share', 'at', '{tags}', options => '{"embedding_size": 4, "epochs": 6, "loss": "squared"}');
SELECT validation_auc > 0.99 AS learned FROM limaml_train('planted');
SELECT validation_loss < 0.1 * (SELECT var_pop(share) FROM planted) AS learned FROM limaml_train('share');

-- Elements of vectors are standardised; NULL and NaN are the mean, and what is
-- far away is as far as 8 deviations
CREATE TABLE trained AS SELECT metadata(limaml_export('film')) #> '{features,1}' AS v;
CREATE FUNCTION vector_of(v float8[]) RETURNS real[] LANGUAGE sql AS $$ SELECT numbers(limaml_candidate_vector('film', '{a}'::text[], v)) $$;
SELECT round((v #>> '{mean,0}')::numeric, 3) = (SELECT round(avg(f.v[1])::numeric, 3) FROM film f) AS mean, round((v #>> '{mean,1}')::numeric, 3) = (SELECT round(avg(f.v[2])::numeric, 3) FROM film f) AS mean_without_null,
	round((v #>> '{sd,0}')::numeric, 3) = (SELECT round(stddev_pop(f.v[1])::numeric, 3) FROM film f) AS sd, v -> 'missing' AS missing FROM trained;
SELECT distance(vector_of(ARRAY[NULL, 1, 1]), vector_of(ARRAY[m, 1, 1])) < 1e-6 AS null, vector_of(ARRAY[NULL, 1, 1]) = vector_of(ARRAY['NaN', 1, 1]::float8[]) AS nan,
	distance(vector_of(ARRAY[1e30, 1, 1]), vector_of(ARRAY[m + 8 * sd, 1, 1])) < 1e-5 AS far, vector_of(ARRAY[1e30, 1, 1]) = vector_of(ARRAY['Infinity', 1, 1]::float8[]) AS infinite,
	vector_of(ARRAY[1, 1, 1]) = vector_of(ARRAY[1, 1, 9]) AS constant, vector_of(NULL::float8[]) <> vector_of(ARRAY[NULL, NULL, NULL]::float8[]) AS missing
FROM trained, LATERAL (SELECT (v #>> '{mean,0}')::float8 AS m, (v #>> '{sd,0}')::float8 AS sd) _;

-- Types that convert, literals, and arrays of any kind of storage
SELECT count(DISTINCT score) AS scores FROM (VALUES
	(limaml_score('film', 3, '{a,b}'::text[], '{1,2,3}'::float8[])), (limaml_score('film', 3, '{a,b}', '{1,2,3}')), (limaml_score('film', 3, '{b,a}', '[1,2,3]')), (limaml_score('film', 3, '{"a",b}', ' {1,2,3}')),
	(limaml_score('film', 3, '{a,b}'::varchar[], '{1,2,3}'::real[])), (limaml_score('film', 3, '{a,b}'::name[], '{1,2,3}'::int[])), (limaml_score('film', 3, '{a,b}'::char(9)[], '{1,2,3}'::smallint[])),
	(limaml_score('film', 3, '{a,b}'::"char"[], '{1,2,3}'::numeric[])), (limaml_score('film', 3, ARRAY['a', 'b'], ARRAY[1, 2, 3]::bigint[])), (limaml_score('film', 3, ROW('{a,b}'::text[], '{1,2,3}'::float8[])))) _(score);
CREATE TABLE big AS SELECT array_agg(t) || array_fill('b'::text, '{100000}') AS tags, '{1,2,3}'::real[] AS v FROM generate_series(1, 100000) n, LATERAL (SELECT CASE n % 2 WHEN 0 THEN 'a' ELSE NULL END AS t) _;
SELECT abs(limaml_score('film', 3, big) - limaml_score('film', 3, '{a,b,b}', '{1,2,3}')) < 1e-4 AS long FROM big;

-- A row that is NULL has nothing
SELECT limaml_score('film', 3, NULL::film) = limaml_score('film', 3, NULL::text[], NULL::real[]) AS null_row;

--
-- Every type that there may be, of features and of meta features
--

CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE DOMAIN code AS varchar(5) CHECK (VALUE <> 'x');
CREATE DOMAIN codes AS text[] CHECK (array_length(VALUE, 1) < 9);
CREATE DOMAIN point3 AS real[];
CREATE TABLE every AS
SELECT m AS member_id, n AS at, i % 2 = 0 AS liked,
	ARRAY['t' || i % 4, 't' || i % 5] AS "text", ARRAY['v' || i % 4]::varchar(9)[] AS "varchar", ARRAY['c' || i % 3]::char(5)[] AS "char", ARRAY['n' || i % 3]::name[] AS "name", ARRAY[chr(97 + i % 3)]::"char"[] AS "one",
	ARRAY['calm', CASE i % 3 WHEN 0 THEN 'wild' END]::mood[] AS "enum", ARRAY[md5((i % 3)::text)]::uuid[] AS "uuid", ARRAY[i % 3, i % 4]::smallint[] AS "int2", ARRAY[i % 3, i % 4] AS "int4", ARRAY[i % 3]::bigint[] AS "int8",
	ARRAY['d' || i % 3]::code[] AS of_domain, ARRAY['d' || i % 3, 'e']::codes AS domain_of, ARRAY[i % 2 = 0] AS "bool", ARRAY[i % 3 / 2.0] AS "numeric", ARRAY[date '2024-01-01' + i % 3] AS "date", ARRAY[i % 4 / 2.0]::real[] AS "real as categories",
	ARRAY[i % 3, i % 4]::real[] AS "float4", ARRAY[i % 3, i % 4]::float8[] AS "float8", ARRAY[i % 3]::point3 AS domain_vector, ARRAY[i % 3]::bigint[] AS "int8 as vector", ARRAY[i % 2 = 0, true] AS "bool as vector", ARRAY[i % 3 / 2.0] AS "numeric as vector"
FROM generate_series(1, 20) m, generate_series(1, 15) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) AS i) _;
CREATE TABLE "every member" AS SELECT DISTINCT ON (member_id) * FROM every ORDER BY member_id, at;
CREATE FUNCTION feature_list() RETURNS text[] LANGUAGE sql AS $$
	SELECT '{text,varchar,char,name,one,enum,uuid,int2,int4,int8,of_domain,domain_of,bool:categories,numeric:categories,date:categories,"real as categories:categories",float4,float8,domain_vector,"int8 as vector:vector","bool as vector:vector","numeric as vector:vector"}'::text[]
$$;
SELECT limaml_create_model('every', 'every', '{member_id}', 'liked', 'at', feature_list(), '"every member"', feature_list(), options => '{"embedding_size": 8, "epochs": 2, "category_size": 4}');
SELECT version FROM limaml_train('every');
SELECT f ->> 'name' AS name, f ->> 'kind' AS kind, f ->> 'values' AS values, f -> 'vocabulary' AS vocabulary, jsonb_array_length(f -> 'mean') AS length
FROM jsonb_array_elements(metadata(limaml_export('every')) -> 'features') f;
SELECT jsonb_path_query_array(metadata(limaml_export('every')), '$.features[*].kind') = jsonb_path_query_array(metadata(limaml_export('every')), '$.meta_features[*].kind') AS meta_features;
CALL limaml_refresh('every');
SELECT count(*), bool_and(limaml_adapt('every', member_id) = embedding) AS adapted FROM every_embedding;
SELECT bool_and(s BETWEEN 0 AND 1) AS scored, count(DISTINCT s) > 100 AS varied, bool_and(s = limaml_score('every', member_id, "text", "varchar", "char", "name", "one", "enum", "uuid", "int2", "int4", "int8", of_domain, domain_of, "bool", "numeric", "date", "real as categories",
	"float4", "float8", domain_vector, "int8 as vector", "bool as vector", "numeric as vector")) AS values
FROM every r, LATERAL (SELECT limaml_score('every', member_id, r) AS s) _;
SELECT limaml_import('every', limaml_export('every'));
SELECT count(DISTINCT digest) FROM limaml.version WHERE model = 'every';

-- Rows of one time are ordered by what arrays hold, however they are stored
CREATE TABLE tied AS SELECT m AS member_id, 1 AS at, ARRAY['t' || i % 3, 't' || i % 5] AS tags, ARRAY[i % 2, 0]::real[] AS v, i % 2 = 0 AS liked FROM generate_series(1, 25) m, generate_series(1, 12) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) AS i) _;
CREATE TABLE "tied other way" AS SELECT * FROM tied ORDER BY tags, liked, v;
SELECT limaml_create_model(t, t::regclass, '{member_id}', 'liked', 'at', '{tags,v}', options => '{"embedding_size": 4, "epochs": 2, "support_rows": 5}') FROM (VALUES ('tied'), ('"tied other way"')) _(t);
SELECT version FROM limaml_train('tied');
SELECT version FROM limaml_train('"tied other way"');
SELECT count(DISTINCT digest) AS networks FROM limaml.version WHERE model LIKE '%tied%';
CALL limaml_refresh('tied');
CALL limaml_refresh('"tied other way"');
SELECT bool_and(a.embedding = b.embedding) AS same FROM tied_embedding a JOIN """tied other way""_embedding" b USING (member_id);

--
-- What is wrong with an array
--

SELECT limaml_score('film', 1, '{{a,b},{c,d}}'::text[], '{1,2,3}'::float8[]);
SELECT limaml_score('film', 1, '{{a,b},{c,d}}', '{1,2,3}');
SELECT limaml_score('film', 1, '{a}'::text[], '{{1,2,3}}'::float8[]);
SELECT limaml_score('film', 1, '{a}'::text[], '{1,2}'::float8[]);
SELECT limaml_score('film', 1, '{a}'::text[], '{}'::float8[]);
SELECT limaml_score('film', 1, '{a}', '[1,2,3,4]');
\set VERBOSITY terse
SELECT limaml_score('film', 1, '{a}', '[1,2');
SELECT limaml_score('film', 1, '{a}', '[');
SELECT limaml_score('film', 1, '{a}', '');
SELECT limaml_score('film', 1, '{a}', '1');
SELECT limaml_score('film', 1, '{a', '{1,2,3}');
\set VERBOSITY default
SELECT limaml_score('film', 1, 'a'::text, '{1,2,3}');
SELECT limaml_score('film', 1, '{a}', 1);
SELECT limaml_score('film', 1, '{1,2}'::int[], '{1,2,3}');
SELECT limaml_score('film', 1, '{a}', '{a,b,c}'::text[]);
SELECT limaml_score('film', 1, '{a}', now());
SELECT limaml_score('film', 1, VARIADIC ARRAY['a', 'b']);
SELECT limaml_rank('film', 1, $$SELECT '{a}'::text[] AS tags, '{1,2}'::real[] AS v$$);

CREATE TABLE bad AS SELECT member_id, at, liked, tags, v, '{}'::real[] AS empty, NULL::real[] AS nothing, CASE WHEN at = 19 THEN '{1,2,3}' ELSE '{1,2}' END::real[] AS uneven, CASE WHEN at = 19 THEN '{{1,2}}' ELSE '{1,2}' END::real[] AS "two-dimensional",
	CASE WHEN at = 19 THEN '{{a},{b}}' ELSE '{a,b}' END::text[] AS "grid", array_fill(1::real, '{32769}') AS "long" FROM film WHERE member_id < 3 AND at < 20;
CREATE FUNCTION try(feature text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM limaml_create_model('bad', 'bad', '{member_id}', 'liked', 'at', ARRAY[feature], options => '{"validation_fraction": 0}');
	PERFORM limaml_train('bad', '{"epochs": 1}');
	RAISE EXCEPTION 'nothing is wrong';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, message, nullif(detail, ''), nullif(hint, ''));
END
$$;
SELECT feature, try(feature) FROM unnest('{empty,nothing,uneven,two-dimensional,grid,long}'::text[]) feature;

-- A length that only later rows have
SELECT limaml_create_model('bad', 'bad', '{member_id}', 'liked', 'at', '{uneven}', options => '{"validation_fraction": 0.3, "validation_entities": 0, "epochs": 1}');
SELECT limaml_train('bad');
UPDATE bad SET uneven = '{1,2}';
SELECT version FROM limaml_train('bad');
UPDATE bad SET uneven = '{1,2,3}' WHERE at = 3;
CALL limaml_refresh('bad');
SELECT limaml_adapt('bad', 1);
UPDATE bad SET uneven = NULL WHERE at = 3;
CALL limaml_refresh('bad');
SELECT count(*) FROM bad_embedding;
ALTER TABLE bad ALTER uneven TYPE text[];
SELECT limaml_adapt('bad', 1);
SELECT limaml_drop_model('bad');

-- Kinds, each of a type that cannot be it
CREATE TYPE pair AS (a int, b int);
CREATE TABLE odd (member_id int, at int, liked boolean, number int, word text, words text[], numbers real[], counts int[], dates date[], flags boolean[], amounts numeric[], pairs pair[], pair pair, span int4range, spans int4range[], document jsonb, documents jsonb[], at_time timestamptz, times timestamptz[], length interval, "Label; DROP TABLE odd" timestamptz);
CREATE FUNCTION kind_of(feature text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	PERFORM limaml_create_model('odd', 'odd', '{member_id}', 'liked', 'at', ARRAY[feature]);
	PERFORM limaml_drop_model('odd');
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(hint, ''));
END
$$;
SELECT attname || suffix AS feature, kind_of(attname || suffix) FROM pg_attribute, unnest(ARRAY['', ':numeric', ':category', ':categories', ':vector']) WITH ORDINALITY _(suffix, n) WHERE attrelid = 'odd'::regclass AND attnum > 3 ORDER BY attnum, n;

--
-- A file that says something else about arrays than its tensors
--

CREATE FUNCTION try_import(change jsonb, path text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	file bytea := limaml_export('film');
	length int := get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2);
	header jsonb := convert_from(substr(file, 9, length), 'UTF8');
	text bytea;
BEGIN
	header := jsonb_set(header #- '{__metadata__,digest}', '{__metadata__,limaml}', to_jsonb(jsonb_set(metadata(file), path::text[], change)::text));
	text := convert_to(header::text, 'UTF8');
	text := text || convert_to(repeat(' ', (8 - length(text) % 8) % 8), 'UTF8');
	PERFORM limaml_import('film', set_byte(set_byte(set_byte(decode('0000000000000000', 'hex'), 0, length(text) % 256), 1, length(text) / 256 % 256), 2, length(text) / 65536) || text || substr(file, 9 + length));
	RETURN 'imported';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT path, left(change::text, 30) AS change, try_import(change, path) FROM (VALUES
	('{seed}', '1'::jsonb), ('{features,1,mean}', '[1, 2]'), ('{features,1,mean}', '[]'), ('{features,1,mean}', '[1, 2, "3"]'), ('{features,1,mean}', '[1, 2, null]'), ('{features,1,mean}', '[1, 2, [3]]'), ('{features,1,mean}', '[1, 2, 1e400]'), ('{features,1,mean}', '1'), ('{features,1,mean}', '{}'),
	('{features,1,sd}', '[1, 2]'), ('{features,1,sd}', '[1, 2, 0]'), ('{features,1,sd}', '[1, 2, -1]'), ('{features,1,sd}', '[1, 2, 3, 4]'), ('{features,1,sd}', 'null'), ('{features,1,missing}', 'false'), ('{features,1,missing}', '1'),
	('{features,1,kind}', '"numeric"'), ('{features,1,kind}', '"categories"'), ('{features,1,kind}', '"category"'), ('{features,0,kind}', '"vector"'), ('{features,0,size}', '8'), ('{features,0,vocabulary}', '["a"]'), ('{features,0,vocabulary}', '["a", "a"]')) _(path, change);
SELECT try_import(to_jsonb(array_fill(1, '{100000}')), '{features,1,mean}');

-- Another kind for the same tensor is sound, and then asks for other columns
SELECT try_import('"category"', '{features,0,kind}');
SELECT limaml_deploy('film', max(version), force => true) IS NOT NULL AS deployed FROM limaml.version WHERE model = 'film';
SELECT limaml_score('film', 1, '{a}'::text[], '{1,2,3}'::real[]);
SELECT limaml_score('film', 1, 'a'::text, '{1,2,3}'::real[]) BETWEEN 0 AND 1 AS scores;

\set VERBOSITY terse
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA kinds_test CASCADE;
