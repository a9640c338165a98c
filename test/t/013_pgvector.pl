# pgvector: casts between its vectors and embeddings, an index of its that
# finds the nearest embeddings, and a dump that has both.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sharedir = qx{@{[$ENV{PG_CONFIG} || 'pg_config']} --sharedir};
chomp $sharedir;
plan skip_all => 'pgvector is not installed' unless -e "$sharedir/extension/vector.control";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

# Which of its two indexes there is depends on its version
$node->safe_psql('postgres', 'CREATE SCHEMA "Odd one"; CREATE EXTENSION limaml; CREATE EXTENSION vector SCHEMA "Odd one"');
my $hnsw = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_am WHERE amname = 'hnsw'});

# Who enables it, and how often

$node->safe_psql('postgres', 'CREATE ROLE anyone');
my ($status, $out, $err) = $node->psql('postgres', 'SET ROLE anyone; SELECT limaml_enable_pgvector()');
like($err, qr/permission denied to create casts between meta_embedding and vector/, 'not anyone can');
$node->safe_psql('postgres', q{SET search_path = ''; SELECT public.limaml_enable_pgvector()});
($status, $out, $err) = $node->psql('postgres', 'SET ROLE anyone; SELECT limaml_enable_pgvector()');
like($err, qr/NOTICE:  casts between meta_embedding and vector already exist, skipping$/m, 'a second call finds them');
is($status, 0, 'and anyone may make it');
is($node->safe_psql('postgres', q{
	SELECT count(*), bool_and(castcontext = 'a'), bool_and(provolatile = 'i' AND proisstrict AND proparallel = 's'),
		count(*) FILTER (WHERE EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_cast'::regclass AND objid = c.oid AND deptype = 'e'))
	FROM pg_cast c JOIN pg_proc p ON p.oid = castfunc
	WHERE castsource = 'meta_embedding'::regtype AND casttarget = '"Odd one".vector'::regtype
		OR castsource = '"Odd one".vector'::regtype AND casttarget = 'meta_embedding'::regtype}),
	'2|t|t|0', 'two casts in assignment, no members of an extension');
$node->safe_psql('postgres', 'DROP FUNCTION vector_to_meta_embedding CASCADE; SELECT limaml_enable_pgvector()');
$node->safe_psql('postgres', 'DROP CAST (meta_embedding AS "Odd one".vector)');
($status, $out, $err) = $node->psql('postgres', 'SELECT limaml_enable_pgvector()');
like($err, qr/function meta_embedding_to_vector\(meta_embedding,integer,boolean\) exists already, and is not used by a cast/, 'a function without its cast is an error');
$node->safe_psql('postgres', 'DROP FUNCTION meta_embedding_to_vector; SELECT limaml_enable_pgvector()');

# What they give

is($node->safe_psql('postgres', q{
	SET search_path = public, "Odd one";
	SELECT '[1,-2.5,3]@1a2b3c4d'::meta_embedding::vector, '[1,-2.5,3]'::vector::meta_embedding(3), '[1,2]'::meta_embedding::vector(2)}),
	'[1,-2.5,3]|[1,-2.5,3]|[1,2]', 'values there and back, without a fingerprint');
is($node->safe_psql('postgres', q{
	SET search_path = public, "Odd one";
	CREATE TABLE wide AS SELECT n, (SELECT array_agg(random()::real ORDER BY i) FROM generate_series(1, n) i)::meta_embedding AS e FROM unnest('{1,8,700,16000}'::int[]) n;
	ALTER TABLE wide ADD v vector;
	UPDATE wide SET v = e;
	SELECT bool_and(v::real[] = e::real[] AND v = e::vector AND v::meta_embedding = e AND vector_dims(v) = n), count(*) FROM wide}),
	't|4', 'all widths, from and to tables, short and out of line');
is($node->safe_psql('postgres', q{
	SET search_path = public, "Odd one";
	SELECT wide.e::vector <-> (wide.e::real[])::vector = 0, abs((a.e <-> b.e) - (a.e::vector <-> b.e::vector)) < 1e-6
	FROM wide, (SELECT '[1,2,3]'::meta_embedding) a (e), (SELECT '[3,2,9]'::meta_embedding) b (e) WHERE n = 700}),
	't|t', 'distances');
for (['::meta_embedding::vector(2)', 'expected 2 dimensions, not 3'], ['::vector::meta_embedding(2)', 'expected 2 dimensions, not 3'],
	['::vector <-> \'[1,2,3]\'::meta_embedding', 'operator does not exist'])
{
	my ($expression, $error) = @$_;
	($status, $out, $err) = $node->psql('postgres', qq{SET search_path = public, "Odd one"; SELECT '[1,2,3]'$expression});
	like($err, qr/$error/, $expression);
}

# An index over a model's embeddings

$node->safe_psql('postgres', q{
	CREATE TABLE rating AS
	SELECT m AS member_id, n AS at, abs(hashint4(m * 100 + n)) % 40 AS item_id, hashint4(m * 1000 + n) % 3 = 0 AS liked
	FROM generate_series(1, 3000) m, generate_series(1, 6) n;
	CREATE INDEX ON rating (member_id, at);
	SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}',
		options => '{"embedding_size": 16, "epochs": 1, "batch_entities": 256}');
	SELECT limaml_train('taste');
	CALL limaml_refresh('taste');
	ANALYZE taste_embedding;
});
my $nearest = q{
	SELECT member_id FROM taste_embedding WHERE version = 1
	ORDER BY embedding::"Odd one".vector(16) OPERATOR("Odd one".<->) limaml_embedding('taste', 42)::"Odd one".vector(16) LIMIT 10};

# The share of 20 members' nearest that are found; the index is approximate, and
# now and then misses all of one's
sub recall
{
	my ($database) = @_;
	return $node->safe_psql($database, q{
		SET ivfflat.probes = 20;
		SET enable_seqscan = off;
		SET jit = off;
		SELECT avg((a.member_id = ANY (e.members))::int)
		FROM (SELECT m, limaml_embedding('taste', m) AS own FROM generate_series(23, 42) m OFFSET 0) _
		CROSS JOIN LATERAL (SELECT member_id FROM taste_embedding WHERE version = 1
			ORDER BY embedding::"Odd one".vector(16) OPERATOR("Odd one".<->) own::"Odd one".vector(16) LIMIT 10) a
		CROSS JOIN LATERAL (SELECT array_agg(member_id) AS members FROM (SELECT member_id FROM taste_embedding WHERE version = 1
			ORDER BY embedding <-> own LIMIT 10) _) e});
}
cmp_ok(recall('postgres'), '==', 1, 'without an index the order is exact');
for my $method ($hnsw ? ('hnsw', 'ivfflat') : ('ivfflat'))
{
	my $name = "taste_$method";
	$node->safe_psql('postgres', qq{CREATE INDEX $name ON taste_embedding USING $method ((embedding::"Odd one".vector(16)) "Odd one".vector_l2_ops)});
	like($node->safe_psql('postgres', 'EXPLAIN ' . $nearest), qr/Index Scan using taste_embedding_v1_embedding_idx/, "an $method index is used");
	cmp_ok(recall('postgres'), '>', 0.8, 'and finds the nearest');
	$node->safe_psql('postgres', "DROP INDEX $name") if $method eq 'hnsw';
}

# Embeddings that are refreshed, and a version to come, are in it too
my $last = $hnsw ? 'hnsw' : 'ivfflat';
$node->safe_psql('postgres', qq{
	DROP INDEX taste_ivfflat;
	CREATE INDEX taste_vector ON taste_embedding USING $last ((embedding::"Odd one".vector(16)) "Odd one".vector_l2_ops);
	INSERT INTO rating SELECT 42, 100 + n, n, true FROM generate_series(1, 3) n;
	CALL limaml_refresh('taste');
	SELECT limaml_train('taste', '{"seed": 1}');
	CALL limaml_refresh('taste', version => 2);
});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_partition_tree('taste_vector') WHERE isleaf}), '2', 'each version has its part of the index');
cmp_ok(recall('postgres'), '>', 0.8, 'refreshed embeddings are found');

# limaml_neighbors finds them by it

my $plan = q{LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET auto_explain.log_level = notice; SET client_min_messages = notice;};
($status, $out, $err) = $node->psql('postgres', "$plan SELECT count(*), count(distance) FROM limaml_neighbors('taste', 42)");
is($out, '10|10', 'limaml_neighbors');
like($err, qr/Index Scan using taste_embedding_v1_embedding_idx/, 'uses the index');
my $shared = q{
	SELECT avg((e.keys ? (n.key ->> 'member_id'))::int)
	FROM generate_series(23, 42) m CROSS JOIN LATERAL limaml_neighbors('taste', m, %1$d) n
	CROSS JOIN LATERAL (SELECT jsonb_object_agg(member_id, 1) AS keys FROM (SELECT member_id FROM taste_embedding WHERE version = 1 AND member_id <> m
		ORDER BY embedding <-> limaml_embedding('taste', m) LIMIT %1$d) _) e};
cmp_ok($node->safe_psql('postgres', sprintf $shared, 10), '>', 0.8, 'and so finds the nearest');
for my $k (100, 3000)
{
	# also as the first query of a session, which has not loaded pgvector
	($status, $out, $err) = $node->psql('postgres', "$plan SELECT count(*) FROM limaml_neighbors('taste', 42, $k)");
	is($out, $k == 3000 ? 2999 : $k, "$k of them");
	like($err, $k == 3000 ? qr/Sort Key/ : qr/Index Scan using taste_embedding_v1_embedding_idx/, $k == 3000 ? 'more than an index gives' : 'by the index');
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml_neighbors('taste', 42, 100); SHOW hnsw.ef_search}), "100\n40", 'a setting is as it was') if $hnsw;

# A dump has casts, functions, comments and the index

my $casts = q{
	SELECT castsource::regtype, casttarget::regtype, castfunc::regprocedure, castcontext, obj_description(oid, 'pg_cast'), obj_description(castfunc, 'pg_proc') IS NOT NULL
	FROM pg_cast WHERE '"Odd one".vector'::regtype IN (castsource, casttarget) AND 'meta_embedding'::regtype IN (castsource, casttarget) ORDER BY castsource::regtype::text COLLATE "C"};
my $before = $node->safe_psql('postgres', $casts);
for my $format ('plain', 'custom')
{
	my $dump = $node->basedir . "/$format.dump";
	$node->command_ok([ 'pg_dump', '-F', $format, '-f', $dump, 'postgres' ], "pg_dump as $format");
	$node->safe_psql('postgres', "CREATE DATABASE $format");
	$node->command_ok($format eq 'plain' ?
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($format), '-f', $dump ] :
		[ 'pg_restore', '-e', '-d', $node->connstr($format), $dump ], 'restored');
	is($node->safe_psql($format, $casts), $before, 'the casts are there');
	$node->safe_psql($format, 'ANALYZE taste_embedding');
	like($node->safe_psql($format, 'EXPLAIN ' . $nearest), qr/Index Scan using taste_embedding_v1_embedding_idx/, 'the index is used');
	cmp_ok(recall($format), '>', 0.8, 'and finds the nearest');
	is($node->safe_psql($format, 'SELECT limaml_enable_pgvector()'), '', 'there is nothing to enable');
}

# Either extension may go

($status, $out, $err) = $node->psql('plain', 'DROP EXTENSION vector');
like($err, qr/function meta_embedding_to_vector\(.*\) depends on type/, 'casts keep pgvector from being dropped');
$node->safe_psql('plain', q{DROP EXTENSION vector CASCADE});
is($node->safe_psql('plain', q{SELECT count(*) FROM pg_proc WHERE proname ~ 'vector' AND prosrc ~ 'meta_embedding_to_vector|vector_to_meta_embedding'}), '0', 'with it they go');
is($node->safe_psql('plain', q{SELECT count(limaml_score('taste', member_id, 7)) FROM generate_series(1, 100) member_id}), '100', 'limaml does without');
$node->safe_psql('plain', 'CREATE EXTENSION vector; SELECT limaml_enable_pgvector()');
is($node->safe_psql('plain', q{SELECT '[1,2]'::vector::meta_embedding}), '[1,2]', 'and with the next one');
$node->safe_psql('custom', 'DROP EXTENSION limaml CASCADE');
is($node->safe_psql('custom', q{SELECT '[1,2]'::"Odd one".vector}), '[1,2]', 'pgvector does without limaml');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;
done_testing();
