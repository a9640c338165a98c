# A dump carries models, versions, networks and embeddings; what is restored
# scores the same, to the bit, and goes on counting where it stopped.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, i AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, (i + m) % 2 = 0 AS liked
	FROM generate_series(1, 20) m, generate_series(1, 10) n, LATERAL (SELECT (m * 7 + n * 3) % 12 + 1 AS i) _;
	SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 2}');
	SELECT limaml_train('taste');
	CALL limaml_refresh('taste');
	SELECT limaml_train('taste', '{"seed": 1}');

	CREATE TABLE "item; DROP" AS SELECT i AS item_id, ARRAY['k' || i % 3, 'é'] AS kinds, ARRAY[i, nullif(i % 5, 2)]::real[] AS sizes FROM generate_series(1, 30) i;
	CREATE VIEW play AS SELECT member_id, at, i.* FROM rating JOIN "item; DROP" i USING (item_id);
	SELECT limaml_create_model('plays', 'play', '{member_id}', NULL, 'at', '{item_id:category,kinds,sizes}',
		options => '{"epochs": 2, "items": "\\"item; DROP\\"", "item_key": "item_id", "negative_sampling": "popularity"}');
	SELECT limaml_train('plays');
	CALL limaml_refresh('plays');
	CREATE VIEW explained AS SELECT member_id, e.* FROM play, limaml_explain('plays', member_id, item_id, kinds, sizes) e;
	CREATE MATERIALIZED VIEW adapted AS SELECT member_id, limaml_adapt_agg(limaml_network('taste', 1), NULL, r) AS embedding FROM rating r GROUP BY 1;
});
my $scores = q{
	SELECT member_id, item_id, float4send(limaml_score('taste', member_id, item_id)), limaml_embedding('taste', member_id)
	FROM generate_series(0, 21) member_id, generate_series(1, 13) item_id ORDER BY 1, 2};
my $plays = q{
	SELECT member_id, limaml_adapt('plays', member_id) = limaml_embedding('plays', member_id), limaml_embedding('plays', member_id), limaml_neighbors('plays', member_id, 1),
		(SELECT embedding FROM adapted a WHERE a.member_id = m.member_id), (SELECT string_agg(e::text, ', ' ORDER BY e::text) FROM explained e WHERE e.member_id = m.member_id)
	FROM generate_series(1, 20) m (member_id) ORDER BY 1};
my $before = $node->safe_psql('postgres', $scores);
my $plays_before = $node->safe_psql('postgres', $plays);

my $dump = $node->basedir . '/dump.sql';
$node->command_ok(['pg_dump', '-f', $dump, 'postgres'], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok(['psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump], 'restore');

is($node->safe_psql('restored', $scores), $before, 'scores and embeddings are the same');
is($node->safe_psql('restored', $plays), $plays_before, 'items, arrays, views and negatives too');
like($plays_before, qr/^1\|t\|/, 'which are those of a refresh');
is($node->safe_psql('restored', q{SELECT limaml_export('taste', 2) IS NOT NULL, (SELECT count(*) FROM limaml.training_log) > 0}),
	't|t', 'every version and the log are there');
is($node->safe_psql('restored', q{SET client_min_messages = warning; SELECT version FROM limaml_train('taste')}),
	'3', 'versions count on');
$node->safe_psql('restored', q{SELECT limaml_create_model('other', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}')});
is($node->safe_psql('restored', q{SELECT count(DISTINCT id) FROM limaml.model}), '3', 'models have numbers of their own');

$node->stop;
done_testing();
