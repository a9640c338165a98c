-- What refreshing is worth without training again: models of the first half of
-- each member's rows, tested on the last fifth, with embeddings as old as the
-- network and with newer ones.

SELECT 'half_' || :'seed' AS model, 'half_id_' || :'seed' AS id_model \gset

UPDATE stage SET known = 0.5;

\o /dev/null
SELECT create_model(:'model', jsonb_build_object('seed', :seed));
SELECT create_model(:'id_model', jsonb_build_object('seed', :seed, 'personalization', 'id'));
SELECT limaml_train(:'model');
SELECT limaml_train(:'id_model');
\o
CALL limaml_refresh(:'model');

INSERT INTO scored
SELECT 'half', :seed, t.member_id, t.liked, limaml_score(:'model', t.member_id, f)
FROM test t JOIN film f USING (item_id);

INSERT INTO scored
SELECT 'half-id', :seed, t.member_id, t.liked, limaml_score(:'id_model', t.member_id, f)
FROM test t JOIN film f USING (item_id);

UPDATE stage SET known = 0.8;
CALL limaml_refresh(:'model', only_stale => false);

INSERT INTO scored
SELECT 'half-refreshed', :seed, t.member_id, t.liked, limaml_score(:'model', t.member_id, f)
FROM test t JOIN film f USING (item_id);
