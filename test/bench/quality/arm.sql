-- One model: :arm with :options and :seed.

SELECT translate(:'arm', '-', '_') || '_' || :'seed' AS model \gset

\o /dev/null
SELECT limaml_create_model(
  model         => :'model',
  interactions  => 'train',
  entity_key    => '{member_id}',
  label         => 'liked',
  event_time    => 'rated_at',
  features      => ARRAY['item_id:category', 'year'] || (
    SELECT array_agg(attname::text ORDER BY attnum)       -- the genres
    FROM pg_attribute
    WHERE attrelid = 'film'::regclass AND atttypid = 'boolean'::regtype),
  entities      => 'member',
  meta_features => '{age, gender, occupation}',
  options       => :'options'::jsonb || jsonb_build_object('seed', :seed));

SELECT * FROM limaml_train(:'model');
\o

-- Before the first refresh nobody has an embedding: the prior scores.  That is
-- all there is to the unadapted network.
SELECT :'arm' = 'none' AS unadapted, :'arm' = 'limaml' AS with_prior \gset
\if :unadapted
\else
  \if :with_prior
    INSERT INTO scored
    SELECT 'prior', :seed, t.member_id, t.liked, limaml_score(:'model', t.member_id, f)
    FROM test t JOIN film f USING (item_id);
  \endif
  CALL limaml_refresh(:'model');
\endif

INSERT INTO scored
SELECT :'arm', :seed, t.member_id, t.liked, limaml_score(:'model', t.member_id, f)
FROM test t JOIN film f USING (item_id);
