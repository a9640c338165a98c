-- As many rows to a member as MovieLens 1M has, all of them trained on.
SELECT string_agg(format('chance(n, %s) AS f%s', f, f), ', ') AS chances,
       string_to_array(string_agg(format('f%s', f), ','), ',') AS features FROM generate_series(1, 32) f \gset
CREATE TABLE ratings AS
SELECT (n / 166 + 1)::integer AS member_id, n AS rated_at, chance(n, 1) + chance(n, 2) * (n / 166 % 7 - 3) / 3.0 + chance(n, 99) > 1 AS liked, :chances
FROM generate_series(0, :members::bigint * 166 - 1) n;
ANALYZE ratings;
SET max_parallel_maintenance_workers = 1;
SELECT limaml_create_model('epoch', 'ratings', '{member_id}', 'liked', 'rated_at', :'features',
       options => '{"activation": "relu", "adapts": "meta_block", "embedding_size": 16, "factor_size": 0, "meta_hidden": [64, 32], "global_hidden": [64, 32], "recency": null, "prior_loss": 0, "validation_fraction": 0, "validation_entities": 0, "epochs": 2, "batch_entities": 64, "support_rows": 256}');
SELECT * FROM limaml_train('epoch');
SET max_parallel_maintenance_workers = 0;
SELECT * FROM limaml_train('epoch');
