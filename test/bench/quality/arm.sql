-- One model: :arm with :options and :seed.

SELECT translate(:'arm', '-', '_') || '_' || :'seed' AS model,
       :'arm' = 'none' AS unadapted, :'arm' = 'limaml' AS with_prior,
       :'arm' IN ('head', 'full') AS evaluated \gset

\o /dev/null
SELECT create_model(:'model', :'options'::jsonb || jsonb_build_object('seed', :seed));
SELECT * FROM limaml_train(:'model');
\o

-- A network per member is stored nowhere: it is adapted where it is needed.
\if :evaluated
  CREATE TEMPORARY VIEW tested AS
  SELECT t.member_id, t.liked, t.rated_at, f.* FROM test t JOIN film f USING (item_id);
  INSERT INTO evaluated
  SELECT :'arm', :seed, metric, value
  FROM limaml_evaluate(:'model', 'tested', version => 1)
  WHERE segment = 'all' AND metric IN ('auc', 'mean_auc', 'log_loss');
  DROP VIEW tested;
\else
  -- Before the first refresh nobody has an embedding: the prior scores.  That
  -- is all there is to the unadapted network.
  \if :with_prior
    INSERT INTO scored
    SELECT 'prior', :seed, t.member_id, t.liked, limaml_score(:'model', t.member_id, f)
    FROM test t JOIN film f USING (item_id);
  \endif
  \if :unadapted
  \else
    CALL limaml_refresh(:'model');
  \endif
  INSERT INTO scored
  SELECT :'arm', :seed, t.member_id, t.liked, limaml_score(:'model', t.member_id, f)
  FROM test t JOIN film f USING (item_id);
\endif
