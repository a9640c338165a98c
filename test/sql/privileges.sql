--
-- Privileges follow the tables: SELECT on the embeddings lets a role score,
-- the owner's rights are for all that trains, refreshes, deploys and drops.
--
SET client_min_messages = warning;
CREATE ROLE limaml_owner;
CREATE ROLE limaml_deputy IN ROLE limaml_owner;
CREATE ROLE limaml_reader;
CREATE SCHEMA privileges_test AUTHORIZATION limaml_owner;
GRANT USAGE ON SCHEMA privileges_test, public TO limaml_reader, limaml_owner;
SET search_path = privileges_test, public;

SET ROLE limaml_owner;
CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, (i + m) % 2 = 0 AS liked
FROM generate_series(1, 20) m, generate_series(1, 10) n, LATERAL (SELECT (m * 7 + n * 3) % 12 + 1 AS i) _;
CREATE TABLE member AS SELECT m AS member_id, m % 3 AS age FROM generate_series(1, 30) m;
-- Who reads the rows, as the rows themselves say
CREATE TABLE reads (who name);
CREATE FUNCTION tell() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO privileges_test.reads SELECT current_user WHERE NOT EXISTS (SELECT FROM privileges_test.reads WHERE who OPERATOR(pg_catalog.=) current_user);
	RETURN true;
END
$$;
CREATE VIEW told AS SELECT * FROM rating WHERE tell();
SELECT limaml_create_model('taste', 'told', '{member_id}', 'liked', 'at', '{item_id:category}', 'member', '{age}', options => '{"epochs": 1}');

-- A member of the owner's role trains and refreshes, with the owner's rights
RESET ROLE;
SET ROLE limaml_deputy;
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste');
RESET ROLE;
SELECT version FROM limaml_train('taste');
CALL limaml_refresh('taste');
SELECT who FROM reads ORDER BY 1;

-- Another role sees nothing of it
SET ROLE limaml_reader;
SELECT model FROM limaml.model WHERE model = 'taste';
SELECT limaml_score('taste', 1, 3);
SELECT limaml_score('nosuch', 1, 3);
SELECT count(*) FROM limaml.stored_model;
SELECT count(*) FROM limaml.stored_version;
UPDATE limaml.model SET deployed = 2;
CREATE TABLE limaml.mine ();

-- SELECT on the embeddings is what scoring takes; entities it may not see are
-- entities about which nothing is known
RESET ROLE;
GRANT SELECT ON taste_embedding TO limaml_reader;
SELECT limaml_score('taste', 25, 3) = limaml_score('taste', NULL, 3) AS unknown;
SET ROLE limaml_reader;
SELECT model, owner FROM limaml.model WHERE model = 'taste';
SELECT limaml_score('taste', 1, 3) BETWEEN 0 AND 1 AS scored, limaml_score('taste', 25, 3) = limaml_score('taste', NULL, 3) AS unknown;
SELECT limaml_adapt('taste', 1);
SELECT limaml_train('taste');
CALL limaml_refresh('taste');
SELECT limaml_deploy('taste', 2);
SELECT limaml_import('taste', limaml_export('taste'));
SELECT limaml_drop_model('taste');

-- What this role had found out is not another's
RESET ROLE;
REVOKE SELECT ON taste_embedding FROM limaml_reader;
DO $$
BEGIN
	FOR i IN 1 .. 2 LOOP
		BEGIN
			PERFORM limaml_score('taste', 1, 3);
			RAISE WARNING '% scores', current_user;
		EXCEPTION WHEN insufficient_privilege THEN
			RAISE WARNING '%', SQLERRM;
		END;
		SET LOCAL ROLE limaml_reader;
	END LOOP;
END
$$;

-- The catalog is read with the rights that its views take
REVOKE SELECT ON limaml.model FROM PUBLIC;
SET ROLE limaml_owner;
SELECT limaml_score('taste', 1, 3);
RESET ROLE;
GRANT SELECT ON limaml.model TO PUBLIC;
REVOKE SELECT ON limaml.version FROM PUBLIC;
SET ROLE limaml_owner;
SELECT limaml_score('taste', 1, 3);
RESET ROLE;
GRANT SELECT ON limaml.version TO PUBLIC;
REVOKE USAGE ON SCHEMA limaml FROM PUBLIC;
SET ROLE limaml_owner;
SELECT limaml_score('taste', 1, 3);
RESET ROLE;
GRANT USAGE ON SCHEMA limaml TO PUBLIC;
SET ROLE limaml_owner;
SELECT limaml_score('taste', 1, 3) BETWEEN 0 AND 1 AS scored;
RESET ROLE;

-- The model goes with its table: a new owner of the one owns the other
ALTER TABLE taste_embedding OWNER TO limaml_deputy;
SELECT owner FROM limaml.model WHERE model = 'taste';
SET ROLE limaml_owner;
SELECT limaml_drop_model('taste');
RESET ROLE;
SELECT limaml_drop_model('taste');
DROP SCHEMA privileges_test CASCADE;
REVOKE ALL ON SCHEMA public FROM limaml_reader, limaml_owner;
DROP ROLE limaml_reader, limaml_deputy, limaml_owner;
