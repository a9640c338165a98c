--
-- Interactions and entities as every kind of relation, from declaring to
-- scoring, under names and with columns of every kind; and keys of every type.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA relations_test;
SET search_path = relations_test, public;

-- Columns that were dropped, that are generated, whose names are not ASCII or
-- look like something else, and that stand in another order in each relation
CREATE TYPE channel AS ENUM ('web', 'app');
CREATE TABLE "Impressions; DROP TABLE x" (
	gone int, "Mitglied ü" text, "channel" channel, at timestamptz NOT NULL, gone_too text, "Label; DROP TABLE x" boolean, "Preis €" numeric(8,2), "日本" text,
	tags text[], "a:category" int, v real[], "twice" float8 GENERATED ALWAYS AS ("Preis €" * 2) STORED, "select" uuid
);
ALTER TABLE "Impressions; DROP TABLE x" DROP COLUMN gone, DROP COLUMN gone_too;
INSERT INTO "Impressions; DROP TABLE x" ("Mitglied ü", "channel", at, "Label; DROP TABLE x", "Preis €", "日本", tags, "a:category", v, "select")
SELECT 'M' || m, (ARRAY['web', 'app'])[1 + n % 2]::channel, timestamptz '2024-01-01 UTC' + n * interval '1 hour', i % 2 = 0, i % 100 / 7.0, 'J' || i % 5, (ARRAY['x', 'y', 'z', NULL])[1 : i % 5], i % 4, ARRAY[i % 3, n], md5((i % 6)::text)::uuid
FROM generate_series(1, 15) m, generate_series(1, 30) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) AS i) _;
CREATE TABLE "Mitglieder" (gone int, plans text[], "channel" channel, "Mitglied ü" text, "Ort ß" text);
ALTER TABLE "Mitglieder" DROP COLUMN gone;
INSERT INTO "Mitglieder" SELECT ARRAY['p' || m % 3, 'p' || m % 4], c, 'M' || m, 'ß' || m % 3 FROM generate_series(1, 15) m, unnest(enum_range(NULL::channel)) c;

CREATE TABLE partitioned ("select" uuid, v real[], "channel" channel, "a:category" int, tags text[], "日本" text, "twice" float8, "Preis €" numeric(8,2), "Label; DROP TABLE x" boolean, at timestamptz, "Mitglied ü" text) PARTITION BY RANGE (at);
CREATE TABLE "partition 1" (extra int, LIKE partitioned);
ALTER TABLE "partition 1" DROP COLUMN extra;
ALTER TABLE partitioned ATTACH PARTITION "partition 1" FOR VALUES FROM (MINVALUE) TO ('2024-01-01 12:00 UTC');
CREATE TABLE "partition 2" PARTITION OF partitioned FOR VALUES FROM ('2024-01-01 12:00 UTC') TO (MAXVALUE) PARTITION BY HASH ("Mitglied ü");
CREATE TABLE "partition 2.0" PARTITION OF "partition 2" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "partition 2.1" PARTITION OF "partition 2" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO partitioned SELECT "select", v, "channel", "a:category", tags, "日本", "twice", "Preis €", "Label; DROP TABLE x", at, "Mitglied ü" FROM "Impressions; DROP TABLE x" ORDER BY at DESC;
CREATE TABLE "partitioned members" (LIKE "Mitglieder") PARTITION BY LIST ("channel");
CREATE TABLE "members by web" PARTITION OF "partitioned members" FOR VALUES IN ('web');
CREATE TABLE "members by others" PARTITION OF "partitioned members" DEFAULT;
INSERT INTO "partitioned members" TABLE "Mitglieder";

CREATE VIEW view AS SELECT "Label; DROP TABLE x", at, "twice", "Mitglied ü", "channel", tags, "日本", "Preis €", v, "select", "a:category" FROM "Impressions; DROP TABLE x" WHERE "Mitglied ü" IS NOT NULL;
CREATE VIEW "view of members" AS SELECT "Ort ß", "Mitglied ü", "channel", plans FROM "Mitglieder";
CREATE MATERIALIZED VIEW matview AS SELECT * FROM view ORDER BY "select", at;
CREATE MATERIALIZED VIEW "matview of members" AS TABLE "Mitglieder";

CREATE EXTENSION IF NOT EXISTS postgres_fdw;
DO $$ BEGIN EXECUTE format('CREATE SERVER limaml_loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname %L, port %L, host %L)', current_database(), current_setting('port'), split_part(current_setting('unix_socket_directories'), ',', 1)); END $$;
CREATE USER MAPPING FOR CURRENT_USER SERVER limaml_loopback;
CREATE FOREIGN TABLE "foreign" (at timestamptz, "Mitglied ü" text, "channel" channel, tags text[], "日本" text, "Preis €" numeric(8,2), "Label; DROP TABLE x" boolean, v real[], "twice" float8, "a:category" int, "select" uuid) SERVER limaml_loopback OPTIONS (schema_name 'relations_test', table_name 'partitioned');
CREATE FOREIGN TABLE "foreign members" (plans text[], "channel" channel, "Mitglied ü" text, "Ort ß" text) SERVER limaml_loopback OPTIONS (schema_name 'relations_test', table_name 'Mitglieder');

CREATE TABLE relation AS SELECT * FROM (VALUES
	('a table', '"Impressions; DROP TABLE x"', '"Mitglieder"'), ('a partitioned table', 'partitioned', '"partitioned members"'), ('a view', 'view', '"view of members"'), ('a materialised view', 'matview', '"matview of members"'),
	('a foreign table', '"foreign"', '"foreign members"')) _(model, interactions, entities);

-- The same network from each, to the bit
SELECT model, limaml_create_model(model, interactions::regclass, '{"Mitglied ü","channel"}', 'Label; DROP TABLE x', 'at', '{"Preis €","日本",tags,"a:category",v,"twice",select}', entities::regclass, '{plans,"Ort ß"}', options => '{"embedding_size": 4, "epochs": 2}') FROM relation;
SELECT model, t.version, t.epochs, t.entities, t.interactions FROM relation, LATERAL limaml_train(model) t;
SELECT count(*) AS models, count(DISTINCT digest) AS networks FROM limaml.version WHERE model IN (SELECT model FROM relation);

-- The same embeddings, stored and adapted now, by ROW and by record
DO $$ DECLARE m text; BEGIN FOR m IN SELECT model FROM relation LOOP CALL limaml_refresh(m); END LOOP; END $$;
CREATE VIEW embedding AS
SELECT 'a table' AS model, * FROM "a table_embedding" UNION ALL SELECT 'a partitioned table', * FROM "a partitioned table_embedding" UNION ALL SELECT 'a view', * FROM "a view_embedding" UNION ALL
SELECT 'a materialised view', * FROM "a materialised view_embedding" UNION ALL SELECT 'a foreign table', * FROM "a foreign table_embedding";
SELECT e.model, count(*), bool_and(e.embedding = o.embedding AND (e.interactions, e.adapted_through, e.loss_before, e.loss_after) = (o.interactions, o.adapted_through, o.loss_before, o.loss_after)) AS same,
	bool_and(limaml_adapt(e.model, ROW(e."Mitglied ü", e."channel")) = o.embedding) AS adapted, bool_and(limaml_embedding(e.model, ROW(e."Mitglied ü"::varchar, e."channel")) = o.embedding) AS found
FROM embedding e JOIN embedding o USING ("Mitglied ü", "channel") WHERE o.model = 'a table' GROUP BY e.model ORDER BY e.model COLLATE "C";
SELECT model, limaml_embedding(model, ROW('nobody', 'web')) = limaml_embedding('a table', ROW('nobody', 'web')) AS stranger FROM relation;

-- The same scores, of rows of each relation, of values, and of ranked rows
CREATE TABLE score AS SELECT at, "Mitglied ü", "channel", limaml_score('a table', ROW("Mitglied ü", "channel"), "Preis €", "日本", tags, "a:category", v, "twice", "select") AS score FROM "Impressions; DROP TABLE x";
SELECT count(*), bool_and(limaml_score('a table', ROW("Mitglied ü", "channel"), r) = score) AS same FROM "Impressions; DROP TABLE x" r JOIN score USING (at, "Mitglied ü", "channel");
SELECT count(*), bool_and(limaml_score('a partitioned table', ROW("Mitglied ü", "channel"), r) = score) AS same FROM partitioned r JOIN score USING (at, "Mitglied ü", "channel");
SELECT count(*), bool_and(limaml_score('a view', ROW("Mitglied ü", "channel"), r) = score) AS same FROM view r JOIN score USING (at, "Mitglied ü", "channel");
SELECT count(*), bool_and(limaml_score('a materialised view', ROW("Mitglied ü", "channel"), r) = score) AS same FROM matview r JOIN score USING (at, "Mitglied ü", "channel");
SELECT count(*), bool_and(limaml_score('a foreign table', ROW("Mitglied ü", "channel"), r) = score) AS same FROM "foreign" r JOIN score USING (at, "Mitglied ü", "channel");
SELECT model, r.scores = o.scores AS same FROM relation, LATERAL (SELECT array_agg(score ORDER BY rank) AS scores FROM limaml_rank(model, ROW('M7', 'app'), interactions, 20)) r, (SELECT array_agg(score ORDER BY rank) AS scores FROM limaml_rank('a table', ROW('M7', 'app'), '"Impressions; DROP TABLE x"', 20)) o;
SELECT model, bool_and((e.segment, e.entities, e.interactions, e.metric, e.value, e.unadapted) IS NOT DISTINCT FROM (o.segment, o.entities, o.interactions, o.metric, o.value, o.unadapted)) AS same
FROM relation, LATERAL (SELECT row_number() OVER () AS n, * FROM limaml_evaluate(model)) e JOIN (SELECT row_number() OVER () AS n, * FROM limaml_evaluate('a table')) o USING (n) GROUP BY model ORDER BY model COLLATE "C";

-- A row that is new is met in each, and nobody else is adapted
INSERT INTO "Impressions; DROP TABLE x" ("Mitglied ü", "channel", at, "Label; DROP TABLE x", "Preis €", "日本", tags, "a:category", v, "select") VALUES ('M3', 'web', '2024-03-01 UTC', true, 3.5, 'J1', '{x,never}', 9, '{1,2}', md5('0')::uuid);
INSERT INTO partitioned SELECT "select", v, "channel", "a:category", tags, "日本", "twice", "Preis €", "Label; DROP TABLE x", at, "Mitglied ü" FROM "Impressions; DROP TABLE x" WHERE at > '2024-02-01 UTC';
REFRESH MATERIALIZED VIEW matview;
CREATE TEMP TABLE before AS TABLE embedding;
DO $$ DECLARE m text; BEGIN FOR m IN SELECT model FROM relation LOOP CALL limaml_refresh(m); END LOOP; END $$;
SELECT model, count(*) FILTER (WHERE e.embedding <> b.embedding) AS changed, count(*) FILTER (WHERE e.adapted_at <> b.adapted_at) AS adapted, bool_and(e.embedding = o.embedding) AS same
FROM embedding e JOIN before b USING (model, "Mitglied ü", "channel") JOIN "a table_embedding" o USING ("Mitglied ü", "channel") GROUP BY model ORDER BY model COLLATE "C";

-- Triggers are for tables
SELECT limaml_create_model('m', 'view', '{"Mitglied ü"}', 'Label; DROP TABLE x', 'at', '{tags}', options => '{"staleness": "changes"}');
SELECT limaml_create_model('m', '"foreign"', '{"Mitglied ü"}', 'Label; DROP TABLE x', 'at', '{tags}', options => '{"staleness": "changes"}');

-- What a view cannot read, or a foreign server does not have, is its own error
CREATE FOREIGN TABLE "not there" (member int, at int, liked boolean, tags text[]) SERVER limaml_loopback OPTIONS (schema_name 'relations_test', table_name 'nowhere');
SELECT limaml_create_model('not there', '"not there"', '{member}', 'liked', 'at', '{tags}');
\set VERBOSITY terse
SELECT limaml_train('not there');
\set VERBOSITY default

-- With nothing in the search path
SET search_path = '';
SELECT (public.limaml_train('a table')).version;
CALL public.limaml_refresh('a table', version => 2);
SELECT public.limaml_deploy('a table', 2);
SELECT public.limaml_score('a table', ROW('M1', 'web'), i) BETWEEN 0 AND 1 AS scored FROM relations_test."Impressions; DROP TABLE x" i LIMIT 1;
SET search_path = relations_test, public;

--
-- Keys of every type, alone and all together
--

CREATE DOMAIN "short code" AS char(4);
CREATE TABLE visit AS
SELECT k, 'T' || k AS "text", ('v' || k)::varchar(5) AS "varchar", k::char(3) AS "bpchar", ('s' || k)::"short code" AS "domain", ('n' || k)::name AS "name", (CASE k WHEN 0 THEN 'web' ELSE 'app' END)::channel AS "enum",
	md5(k::text)::uuid AS "uuid", k::smallint AS "int2", k::bigint * 10000000000 AS "int8", k / 4.0 AS "numeric", k / 4.0::float8 AS "float8", date '2024-01-01' + k AS "date", timestamptz '2024-01-01 UTC' + k * interval '1 hour' AS "timestamptz",
	k = 1 AS "bool", ('10.0.0.' || k)::inet AS "inet", k * interval '1 day' AS "interval", n AS at, hashint4(n * 10 + k) % 2 = 0 AS liked, ARRAY['t' || n % 3, 't' || n % 4] AS tags
FROM generate_series(0, 4) k, generate_series(1, 12) n;
CREATE TABLE by AS SELECT attname AS model, ARRAY[attname::text] AS key FROM pg_attribute WHERE attrelid = 'visit'::regclass AND attnum > 1 AND attname <> ALL ('{at,liked,tags}')
UNION ALL SELECT 'all', array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'visit'::regclass AND attnum > 1 AND attname <> ALL ('{at,liked,tags}');
SELECT count(limaml_create_model(model, 'visit', key, 'liked', 'at', '{tags}', options => '{"embedding_size": 4, "epochs": 1}')::text) FROM by;
SELECT model, t.entities, t.interactions FROM by, LATERAL limaml_train(model) t ORDER BY model COLLATE "C";
CREATE FUNCTION check_key(model text, key text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	columns text := (SELECT string_agg(format('%I', k), ', ') FROM unnest(key) k);
	result text;
BEGIN
	EXECUTE format('SELECT concat_ws('' '', count(*), bool_and(embedding = limaml_adapt(%1$L, k)), bool_and(embedding = limaml_embedding(%1$L, k)), bool_and(limaml_score(%1$L, k, ''{t1,t2}'') = limaml_score_embedding(%1$L, embedding, ''{t1,t2}'')))
		FROM %2$I, LATERAL (SELECT %3$s) _(k)', model, model || '_embedding', CASE WHEN cardinality(key) > 1 THEN 'ROW(' || columns || ')' ELSE columns END) INTO result;
	RETURN result;
END
$$;
DO $$ DECLARE m text; BEGIN FOR m IN SELECT model FROM by LOOP CALL limaml_refresh(m); END LOOP; END $$;
SELECT model, check_key(model, key) AS "entities, adapted, found, scored" FROM by ORDER BY model COLLATE "C";

DROP VIEW embedding;
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SERVER limaml_loopback CASCADE;
DROP SCHEMA relations_test CASCADE;
