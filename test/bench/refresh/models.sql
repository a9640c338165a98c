-- The network is trained on a sample and imported, so that training takes no
-- time to speak of: 'ctr' twice, as version 1 and 2, which are refreshed with
-- two workers and with one, both from nothing.

CREATE VIEW sample AS SELECT * FROM impressions WHERE member_id <= 20000;
CREATE VIEW few AS SELECT * FROM impressions WHERE member_id <= 50000;

\o /dev/null
SELECT limaml_create_model(
  model        => model,
  interactions => relation::regclass,
  entity_key   => '{member_id}',
  label        => 'clicked',
  event_time   => 'shown_at',
  features     => '{price, category, position, dwell, item_id:category}')
FROM (VALUES ('sample', 'sample'), ('few', 'few'), ('ctr', 'impressions')) m (model, relation);

SELECT limaml_train('sample', '{"epochs": 1}');
SELECT limaml_import(model, limaml_export('sample'))
FROM (VALUES ('few'), ('ctr'), ('ctr')) m (model);
SELECT limaml_deploy('few', 1), limaml_deploy('ctr', 1);
