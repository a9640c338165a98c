# Features of the type vector that pgvector has, which is found by its name and
# its extension, wherever that is installed.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

plan skip_all => 'pgvector is not installed'
  unless $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'});

# The same numbers as an array and as a vector; the largest is stored apart
$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE SCHEMA elsewhere;
	CREATE EXTENSION vector SCHEMA elsewhere;
	CREATE DOMAIN elsewhere.point AS elsewhere.vector(3);
	CREATE TABLE rating AS
	SELECT m AS member_id, n AS at, hashint4(m * 100 + n) % 2 = 0 AS liked, a, a::elsewhere.vector(3) AS v, a::elsewhere.vector::elsewhere.point AS p, l, l::elsewhere.vector AS w
	FROM generate_series(1, 30) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) AS i) _,
		LATERAL (SELECT CASE WHEN i % 5 > 0 THEN ARRAY[i % 7, i % 4, 1]::real[] END AS a, (SELECT array_agg((hashint4(m * j + n) % 1000)::real) FROM generate_series(1, 900) j) AS l) __;
	CREATE TABLE member AS SELECT m AS member_id, ARRAY[m % 5, m % 3]::real[] AS a, ARRAY[m % 5, m % 3]::elsewhere.vector AS v FROM generate_series(1, 30) m;
	SELECT limaml_create_model('arrays', 'rating', '{member_id}', 'liked', 'at', '{a,l}', 'member', '{a}', options => '{"embedding_size": 4, "epochs": 2}');
	SELECT limaml_create_model('vectors', 'rating', '{member_id}', 'liked', 'at', '{v,w:vector}', 'member', '{v}', options => '{"embedding_size": 4, "epochs": 2}');
	SELECT limaml_create_model('domains', 'rating', '{member_id}', 'liked', 'at', '{p,w}', 'member', '{v}', options => '{"embedding_size": 4, "epochs": 2}');
	SELECT limaml_train(model) FROM unnest('{arrays,vectors,domains}'::text[]) model;
	CALL limaml_refresh('arrays');
	CALL limaml_refresh('vectors');
	CALL limaml_refresh('domains');
});
is($node->safe_psql('postgres', q{
	SELECT count(*), bool_and(a.embedding::real[] = v.embedding::real[] AND a.embedding::real[] = d.embedding::real[])
	FROM arrays_embedding a JOIN vectors_embedding v USING (member_id) JOIN domains_embedding d USING (member_id)}), '30|t', 'embeddings are those of arrays');
is($node->safe_psql('postgres', q{
	SELECT count(*), bool_and(limaml_score('arrays', member_id, a, l) = limaml_score('vectors', member_id, v, w) AND limaml_score('arrays', member_id, r) = limaml_score('vectors', member_id, r)
		AND limaml_score('arrays', member_id, r) = limaml_score('domains', member_id, r)) FROM rating r}), '600|t', 'so are scores');
is($node->safe_psql('postgres', q{
	SELECT bool_and(limaml_score('vectors', 1, a, l) = limaml_score('arrays', 1, v, w)) FROM rating}), 't', 'either stands for the other');

sub fails
{
	my ($sql, $error, $name) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql);
	like($err, $error, $name);
}
fails(q{SELECT limaml_score('arrays', 1, elsewhere.subvector(v, 1, 2), l) FROM rating WHERE v IS NOT NULL LIMIT 1}, qr/ERROR:  vector "a" has length 2, where 3 is expected/, 'a vector of another length');
fails(q{SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{v:numeric}')}, qr/column "v" of type elsewhere.vector cannot be numeric/, 'a vector is no number');
fails(q{SELECT limaml_create_model('m', 'rating', '{member_id}', 'liked', 'at', '{v:categories}')}, qr/column "v" of type elsewhere.vector cannot be categories/, 'nor is it categories');

# A type of this name that is somebody else's
$node->safe_psql('postgres', q{CREATE TYPE vector AS (a int); CREATE TABLE other (member_id int, at int, liked boolean, v vector, w elsewhere.halfvec(3))});
fails(q{SELECT limaml_create_model('m', 'other', '{member_id}', 'liked', 'at', '{v:vector}')}, qr/column "v" of type vector cannot be a vector/, 'another type of the name');
fails(q{SELECT limaml_create_model('m', 'other', '{member_id}', 'liked', 'at', '{w:vector}')}, qr/column "w" of type elsewhere.halfvec cannot be a vector/, 'another type of pgvector');

$node->stop;
done_testing();
