--
-- What roles may not do, and try: read the catalog, use another's model, hide
-- code in views, triggers and the search path.  Nobody's code runs with anybody
-- else's rights.
--

SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE ROLE regress_limaml_owner;
CREATE ROLE regress_limaml_member;
CREATE ROLE regress_limaml_scorer;
CREATE ROLE regress_limaml_stranger;
GRANT regress_limaml_owner TO regress_limaml_member;
CREATE SCHEMA hostile_test;
GRANT ALL ON SCHEMA hostile_test TO regress_limaml_owner;
GRANT USAGE ON SCHEMA hostile_test TO PUBLIC;
SET search_path = hostile_test, public;

SET ROLE regress_limaml_owner;
CREATE TABLE rating AS
SELECT m AS member_id, n % 5 AS item_id, n AS at, n % 7 AS year, hashint4(m * 100 + n) % 2 = 0 AS liked
FROM generate_series(1, 10) m, generate_series(1, 12) n;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age, 'secret' AS note FROM generate_series(1, 20) m;
CREATE FUNCTION create_small(model text, interactions regclass DEFAULT 'rating', entities regclass DEFAULT 'member') RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, interactions, '{member_id}', 'liked', 'at', '{item_id:category,year}', entities, '{age}',
		options => '{"embedding_size": 4, "meta_hidden": [3], "global_hidden": [5], "epochs": 1, "category_size": 2}')
$$;
SELECT create_small('taste');
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste');
CREATE TABLE truth AS SELECT member_id, limaml_score('taste', member_id, 1, 2) AS score FROM generate_series(1, 30) member_id;
GRANT SELECT ON truth TO PUBLIC;
CREATE FUNCTION network() RETURNS bytea LANGUAGE sql SECURITY DEFINER SET search_path = public AS $$ SELECT limaml_export('taste') $$;

-- Without any right: the model is not there to see, and nothing can be done

SET ROLE regress_limaml_stranger;
SELECT count(*) FROM limaml.model;
SELECT count(*) FROM limaml.version;
SELECT count(*) FROM limaml.training_log;
SELECT * FROM limaml.stored_model;
SELECT * FROM limaml.stored_version;
SELECT * FROM limaml.stored_training_log;
SELECT nextval('limaml.stored_model_id');
CREATE TABLE limaml.mine ();
INSERT INTO limaml.model (model) VALUES ('mine');
UPDATE limaml.model SET deployed = 1;
DELETE FROM limaml.version;
SELECT limaml_score('taste', 1, 1, 2);
SELECT limaml_score_embedding('taste', '[1,2,3,4]', 1, 2);
SELECT limaml_embedding('taste', 1);
SELECT limaml_adapt('taste', 1);
SELECT limaml_train('taste');
SELECT limaml_deploy('taste');
SELECT limaml_export('taste');
SELECT limaml_import('taste', network());
SELECT limaml_drop_model('taste');
CALL limaml_refresh('taste');
\set VERBOSITY terse
SELECT limaml_create_model('mine', 'rating', '{member_id}', 'liked', 'at', '{year}');
\set VERBOSITY default

-- SELECT on the embeddings table is enough to score one's own candidates, and for no more

RESET ROLE;
GRANT SELECT ON taste_embedding TO regress_limaml_scorer;
SET ROLE regress_limaml_scorer;
SELECT model, owner, deployed FROM limaml.model;
SELECT model, version, deployed, length(network) > 1000 AS network FROM limaml.version;
SELECT count(*) > 0 AS log FROM limaml.training_log;
SELECT bool_and(limaml_score('taste', member_id, 1, 2) = score) AS score, bool_and(limaml_score('taste', member_id, c) = score) AS by_row,
	bool_and(limaml_score_embedding('taste', limaml_embedding('taste', member_id), 1, 2) = score) AS by_embedding
FROM truth, (SELECT 2 AS year, 1 AS item_id) c WHERE member_id <= 10;
SELECT limaml_export('taste') = network() AS export;
SELECT * FROM rating;
SELECT * FROM member;

-- What is known about an entity is for those who may read it: a new entity is
-- an unknown one to all others, and not an error
SELECT bool_and(limaml_score('taste', t.member_id, 1, 2) = u.score) AS unknown FROM truth t, truth u WHERE t.member_id BETWEEN 11 AND 30 AND u.member_id = 30;
RESET ROLE;
GRANT SELECT (member_id, age) ON member TO regress_limaml_scorer;
SET ROLE regress_limaml_scorer;
SELECT bool_and(limaml_score('taste', member_id, 1, 2) = score) AS known FROM truth;
SELECT note FROM member;
SELECT limaml_adapt('taste', 1);
RESET ROLE;
GRANT SELECT ON rating TO regress_limaml_scorer;
SET ROLE regress_limaml_scorer;
SELECT limaml_adapt('taste', 1) = limaml_embedding('taste', 1) AS adapted;
SELECT limaml_train('taste');
SELECT limaml_deploy('taste', 1);
SELECT limaml_import('taste', network());
SELECT limaml_drop_model('taste');
CALL limaml_refresh('taste');
RESET ROLE;
REVOKE SELECT ON taste_embedding FROM regress_limaml_scorer;
SET ROLE regress_limaml_scorer;
SELECT limaml_score('taste', 1, 1, 2);
SELECT count(*) FROM limaml.version;

-- Members of the owner's role do what the owner may, and with the owner's rights

SET ROLE regress_limaml_member;
SELECT model FROM limaml.model;
SELECT version FROM limaml_train('taste');
SELECT limaml_deploy('taste', 2, force => true);
CALL limaml_refresh('taste');
SELECT limaml_deploy('taste', 1);
SELECT limaml_import('taste', network());
SELECT relname, relowner::regrole FROM pg_class WHERE relname ~ '^taste_embedding_v.$' ORDER BY relname;
SELECT limaml_score('taste', 1, 1, 2) > 0 AS scored;

-- A superuser too; and what is made remains the owner's
RESET ROLE;
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste', only_stale => false);
SELECT relowner::regrole FROM pg_class WHERE relname = 'taste_embedding_v4';

-- The owner has lost a right: so has everyone who trains for the owner
REVOKE SELECT ON rating FROM regress_limaml_owner;
ALTER TABLE rating OWNER TO CURRENT_USER;
REVOKE ALL ON rating FROM regress_limaml_owner;
SELECT limaml_train('taste');
CALL limaml_refresh('taste', only_stale => false);
GRANT SELECT ON rating TO regress_limaml_owner;
SELECT version FROM limaml_train('taste');

-- Row-level security is the owner's own, whoever calls
ALTER TABLE rating ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON rating TO regress_limaml_owner USING (member_id <= 4);
SELECT entities FROM limaml_train('taste');
SET ROLE regress_limaml_member;
SELECT entities FROM limaml_train('taste');
RESET ROLE;
CALL limaml_refresh('taste', 7);
SELECT count(*) FROM taste_embedding WHERE version = 7;
DROP POLICY few ON rating;
ALTER TABLE rating DISABLE ROW LEVEL SECURITY;

-- A function in the owner's view runs as the owner, not as the superuser that calls

SET ROLE regress_limaml_owner;
CREATE TABLE caught (who name, what text);
CREATE FUNCTION trojan(value integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO hostile_test.caught VALUES (current_user, 'select');
	RETURN value;
END
$$;
CREATE VIEW trojan_view AS SELECT member_id, item_id, at, trojan(year) AS year, liked FROM rating;
SELECT create_small('trojan', 'trojan_view');
RESET ROLE;
SELECT version FROM limaml_train('trojan');
CALL limaml_refresh('trojan');
SELECT DISTINCT who FROM caught;

-- ... and cannot take on the caller's role, nor leave something behind for it
SET ROLE regress_limaml_owner;
CREATE OR REPLACE FUNCTION trojan(value integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	CREATE ROLE regress_limaml_trojan SUPERUSER;
	RETURN value;
END
$$;
RESET ROLE;
SELECT limaml_train('trojan');
CALL limaml_refresh('trojan', only_stale => false);
SET ROLE regress_limaml_owner;
CREATE OR REPLACE FUNCTION trojan(value integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	SET SESSION AUTHORIZATION DEFAULT;
	RETURN value;
END
$$;
RESET ROLE;
SELECT limaml_train('trojan');
SET ROLE regress_limaml_owner;
CREATE OR REPLACE FUNCTION trojan(value integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE IF NOT EXISTS trojan_temp (a integer);
	RETURN value;
END
$$;
RESET ROLE;
SELECT limaml_train('trojan');
-- a trigger that waits for the commit would run as the caller
SET ROLE regress_limaml_owner;
CREATE OR REPLACE FUNCTION trojan(value integer) RETURNS integer LANGUAGE sql AS 'SELECT value';
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER AS $$
BEGIN
	INSERT INTO hostile_test.caught VALUES (current_user, 'late');
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON trojan_embedding DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
CREATE FUNCTION early() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO hostile_test.caught VALUES (current_user, 'early');
	RETURN NEW;
END
$$;
CREATE TRIGGER early BEFORE INSERT ON trojan_embedding FOR EACH ROW EXECUTE FUNCTION early();
DELETE FROM caught;
DELETE FROM trojan_embedding;
RESET ROLE;
CALL limaml_refresh('trojan');
DROP TRIGGER late ON trojan_embedding;
CALL limaml_refresh('trojan');
SELECT DISTINCT what, who FROM caught ORDER BY 1;

-- An owner that has made others' table its model's, or another's model its own

SET ROLE regress_limaml_stranger;
SELECT limaml_create_model('stolen', 'hostile_test.rating', '{member_id}', 'liked', 'at', '{year}', embeddings => 'pg_temp.stolen');
RESET ROLE;
GRANT CREATE ON SCHEMA hostile_test TO regress_limaml_stranger;
SET ROLE regress_limaml_stranger;
SELECT limaml_create_model('stolen', 'rating', '{member_id}', 'liked', 'at', '{year}');
SELECT limaml_train('stolen');
SELECT limaml_create_model('taste', 'truth', '{member_id}', 'score', 'member_id', '{score}');
SELECT limaml_drop_model('stolen');
RESET ROLE;
REVOKE CREATE ON SCHEMA hostile_test FROM regress_limaml_stranger;

-- A hostile schema first in the search path does nothing

CREATE SCHEMA hostile AUTHORIZATION regress_limaml_stranger;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
SET ROLE regress_limaml_stranger;
CREATE FUNCTION hostile.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
CREATE FUNCTION hostile.equal(integer, integer) RETURNS boolean LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT true $$;
CREATE FUNCTION hostile.equal(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT true $$;
CREATE FUNCTION hostile.less(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT true $$;
CREATE OPERATOR hostile.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.equal);
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.equal);
CREATE OPERATOR hostile.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.less);
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT pg_catalog.now() $$;
CREATE FUNCTION hostile.unnest(integer[]) RETURNS SETOF integer LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT 1 $$;
CREATE FUNCTION hostile.hash_record_extended(record, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile.trap(); END $$;
CREATE AGGREGATE hostile.count(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '1000');
CREATE AGGREGATE hostile.max(integer) (SFUNC = int4larger, STYPE = integer, INITCOND = '99999');
CREATE TABLE hostile.rating (member_id integer);
CREATE TABLE hostile.safe_embedding (member_id integer);
CREATE DOMAIN hostile.int4 AS pg_catalog.text;
CREATE DOMAIN hostile.trained_network AS pg_catalog.text;
CREATE TABLE hostile.item (item_id integer);
CREATE FUNCTION hostile.jsonb_build_object(text, integer) RETURNS jsonb LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT '{}'::jsonb $$;
CREATE FUNCTION hostile.nearer(public.meta_embedding, public.meta_embedding) RETURNS double precision LANGUAGE sql AS $$ SELECT hostile.trap(); SELECT 1.0::double precision $$;
CREATE OPERATOR hostile.<-> (LEFTARG = public.meta_embedding, RIGHTARG = public.meta_embedding, FUNCTION = hostile.nearer);
RESET ROLE;
CREATE TABLE item AS SELECT DISTINCT ON (item_id) item_id, year FROM rating;
SET search_path = hostile, hostile_test, public, pg_catalog;
SELECT public.limaml_create_model('safe', 'hostile_test.rating', '{member_id}', 'liked', 'at', '{item_id:category,year}', 'hostile_test.member', '{age}', 'hostile_test.safe_embedding',
	'{"embedding_size": 4, "meta_hidden": [3], "global_hidden": [5], "epochs": 1, "category_size": 2}');
SELECT version, entities, interactions FROM public.limaml_train('safe');
CALL public.limaml_refresh('safe');
CALL public.limaml_refresh('safe');
SELECT interactions, adapted_through FROM hostile_test.safe_embedding WHERE member_id OPERATOR(pg_catalog.=) 1;
SELECT public.limaml_score('safe', 1, 1, 2) OPERATOR(pg_catalog.>) 0 AS scored, public.limaml_adapt('safe', 1) OPERATOR(public.=) public.limaml_embedding('safe', 1) AS adapted;
SELECT public.limaml_deploy('safe');
SELECT public.limaml_import('safe', public.limaml_export('safe'));
SELECT pg_catalog.count(*) FROM public.limaml_explain('safe', 1, 1, 2);
SELECT pg_catalog.count(*) FROM public.limaml_neighbors('safe', 1, 3);
SELECT public.limaml_adapt_agg(public.limaml_network('safe', 1), m, r) OPERATOR(public.=) public.limaml_adapt('safe', 1) AS aggregated
FROM hostile_test.rating r, hostile_test.member m WHERE r.member_id OPERATOR(pg_catalog.=) 1 AND m.member_id OPERATOR(pg_catalog.=) 1 GROUP BY m.member_id, m;
SELECT public.limaml_drop_model('safe');
SELECT public.limaml_create_model('safe', 'hostile_test.rating', '{member_id}', NULL, 'at', '{item_id:category,year}', 'hostile_test.member', '{age}', 'hostile_test.safe_embedding',
	'{"embedding_size": 4, "meta_hidden": [3], "global_hidden": [5], "epochs": 1, "category_size": 2, "items": "hostile_test.item", "item_key": "item_id", "negative_sampling": "popularity"}');
SELECT version, entities, interactions FROM public.limaml_train('safe');
CALL public.limaml_refresh('safe');
SELECT public.limaml_adapt('safe', 1) OPERATOR(public.=) public.limaml_embedding('safe', 1) AS adapted;
SELECT pg_catalog.count(*) FROM public.limaml_evaluate('safe') WHERE segment OPERATOR(pg_catalog.=) 'all';
SET search_path = '';
SELECT public.limaml_adapt('safe', 2) OPERATOR(public.=) public.limaml_embedding('safe', 2) AS adapted;
SELECT public.limaml_drop_model('safe');
SET search_path = hostile_test, public;

-- A setting of the caller's is the caller's again, after errors as well
SET ROLE regress_limaml_member;
SELECT limaml_train('taste', '{"epochs": 0}');
SELECT limaml_train('taste', '{"weight": "nothing"}');
CALL limaml_refresh('taste', 99);
SELECT current_user, session_user = current_user AS session, current_setting('search_path') AS search_path;
RESET ROLE;

-- The owner drops it, also where the embeddings table has gone before
SET ROLE regress_limaml_owner;
SELECT create_small('gone');
DROP TABLE gone_embedding;
SELECT limaml_drop_model('gone');
SELECT limaml_drop_model('taste');
SELECT limaml_drop_model('trojan');
RESET ROLE;
SELECT count(*) FROM limaml.model;

\set VERBOSITY terse
DROP SCHEMA hostile CASCADE;
DROP SCHEMA hostile_test CASCADE;
DROP OWNED BY regress_limaml_owner, regress_limaml_member, regress_limaml_scorer, regress_limaml_stranger;
DROP ROLE regress_limaml_owner, regress_limaml_member, regress_limaml_scorer, regress_limaml_stranger;
