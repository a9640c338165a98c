# Networks in shared memory: the same bits as a session's own, found by who may
# see them and by nobody else; those that a query uses stay, others make room;
# nothing is left held by a session that ends, however it ends.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @models = map { "m$_" } 1 .. 5;
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
	shared_preload_libraries = 'limaml'
	limaml.shared_networks = 0
	max_connections = 30
});
$node->start;

# Networks that take 60 kB, and 100 packed
$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, (m * 7 + n * 3) % 50 AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, (m + n) % 3 = 0 AS liked
	FROM generate_series(1, 40) m, generate_series(1, 8) n;
	CREATE ROLE stranger;
	CREATE ROLE reader;
} . join('', map { qq{
	SELECT limaml_create_model('m$_', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1, "embedding_size": 16, "meta_hidden": [16], "global_hidden": [128, 64]}');
	SELECT limaml_train('m$_', '{"seed": $_}');
	CALL limaml_refresh('m$_');
	GRANT SELECT ON m${_}_embedding TO reader;
} } 1 .. 5));

my $scores = sub { join(' UNION ALL ', map { "SELECT '$_' AS model, m, limaml_score('$_', m, 7) AS score FROM generate_series(1, 3) m" } @_) . ' ORDER BY 1, 2' };
my $adapted = join(', ', map { "limaml_adapt('$_', 5)::text" } @models);
my $expected = $node->safe_psql('postgres', $scores->(@models));
my $expected_adapted = $node->safe_psql('postgres', "SELECT $adapted");
is(scalar(keys %{ { map { (split /\|/)[2] => 1 } split /\n/, $expected } }), 15, 'networks that differ');

# The memory of a session that has scored with a model
my $memory = sub {
	my ($model) = @_;

	return (split /\n/, $node->safe_psql('postgres', qq{
		SELECT limaml_score('$model', 1, 7);
		SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'limaml network%'}))[1];
};
my $is_shared = sub { $memory->($_[0]) < 50000 };
cmp_ok($memory->('m1'), '>', 100000, 'a session has its own without shared memory');

sub restart_with
{
	my ($size) = @_;

	$node->append_conf('postgresql.conf', "limaml.shared_networks = '$size'");
	$node->restart;
	return;
}

restart_with('8MB');
is($node->safe_psql('postgres', $scores->(@models)), $expected, 'the same scores by who puts them there');
is($node->safe_psql('postgres', $scores->(@models)), $expected, 'and by who finds them');
is($node->safe_psql('postgres', "SELECT $adapted"), $expected_adapted, 'the same adapted embeddings');
ok($is_shared->($_), "$_ is shared") for @models;

# Rights are the catalog's, and the start of a file is no password
my ($status, $out, $err) = $node->psql('postgres', q{SET ROLE stranger; SELECT limaml_score('m1', 1, 7)});
like($err, qr/permission denied for model "m1"/, 'a stranger does not find one');
is($node->safe_psql('postgres', q{SET ROLE reader; SELECT limaml_score('m1', NULL, 7) BETWEEN 0 AND 1}), 't', 'a reader does');
my $start = $node->safe_psql('postgres', q{SELECT encode(substr(network, 1, 100), 'hex') || ' ' || length(network) FROM limaml.version WHERE model = 'm1'});
my ($hex, $length) = split / /, $start;
($status, $out, $err) = $node->psql('postgres', qq{
	SELECT limaml_score_embedding((decode('$hex', 'hex') || decode(repeat('20', $length - 100), 'hex'))::limaml.trained_network, limaml_embedding('m2', 1), 7)});
like($err, qr/invalid safetensors file|header of a safetensors file/, 'nobody is given one for its digest');

# What is deployed counts, in sessions that have found another
my $session = $node->background_psql('postgres');
my $old = $session->query(q{SELECT limaml_score('m1', 1, 7)});
$node->safe_psql('postgres', q{SELECT limaml_train('m1', '{"seed": 77}'); CALL limaml_refresh('m1', 2); SELECT limaml_deploy('m1', 2)});
my $new = $session->query(q{SELECT limaml_score('m1', 1, 7)});
isnt($new, $old, 'another version is used once it is deployed');
is($node->safe_psql('postgres', q{SELECT limaml_score('m1', 1, 7)}), $new, 'by all');
$node->safe_psql('postgres', q{SELECT limaml_deploy('m1', 1)});
is($session->query(q{SELECT limaml_score('m1', 1, 7)}), $old, 'and the first again');
$session->quit;

# Room for two: what a query uses stays, a session that comes back finds its own
# again, and where all are in use one has a network to itself
restart_with('400kB');
my @sessions = map { $node->background_psql('postgres') } 1 .. 2;
my $idle = $node->background_psql('postgres');
is($idle->query($scores->('m3')), $node->safe_psql('postgres', $scores->('m3')), 'one that will make room');
for my $n (0, 1)
{
	$sessions[$n]->query_safe("BEGIN; DECLARE c CURSOR FOR SELECT limaml_score('$models[$n]', m, 7) FROM generate_series(1, 3) m");
	$sessions[$n]->query_safe('FETCH 1 FROM c');
}
ok(!$is_shared->('m4'), 'no room while all are in use');
ok($is_shared->('m1'), 'those in use remain');
is($node->safe_psql('postgres', $scores->(@models)), $expected, 'all score as they did');
my %expected;
push @{ $expected{ (split /\|/)[0] } }, (split /\|/)[2] for split /\n/, $expected;
is($sessions[$_]->query('FETCH ALL FROM c'), join("\n", @{ $expected{ $models[$_] } }[1, 2]), "the query of $models[$_] goes on") for 0, 1;
$sessions[0]->query_safe('COMMIT');
ok($is_shared->('m4'), 'what no query uses makes room');
is($idle->query($scores->('m3')), join("\n", grep { /^m3/ } split /\n/, $expected), 'and its session finds it anew');
is($sessions[0]->query($scores->('m1')), join("\n", grep { /^m1/ } split /\n/, $expected), 'and so does another');
$_->quit for @sessions, $idle;

# Sessions that end in the middle of a query hold nothing
for my $model ('m1', 'm2')
{
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $victim->query('SELECT pg_backend_pid()');

	$victim->query_safe("BEGIN; DECLARE c CURSOR FOR SELECT limaml_score('$model', m, 7) FROM generate_series(1, 3) m");
	$victim->query_safe('FETCH 1 FROM c');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
	eval { $victim->quit };
}
ok($is_shared->($_), "$_ finds room after them") for 'm3', 'm4';

# So do those whose expressions outlive their queries
for my $model ('m1', 'm2', 'm5')
{
	$node->safe_psql('postgres', qq{
		DO \$\$ BEGIN FOR i IN 1 .. 20 LOOP PERFORM limaml_score('$model', i, 7); IF limaml_score('$model', i, 7) > 2 THEN RAISE 'more than 1'; END IF; END LOOP; END \$\$});
}
ok($is_shared->('m3'), 'nor do PL/pgSQL expressions hold any');

# Many sessions, and more networks than there is room for
$node->safe_psql('postgres', 'CREATE TABLE expected AS SELECT * FROM (' . $scores->(@models) . ') _');
$node->pgbench('--no-vacuum --client=8 --transactions=60 --connect', 0, [qr{processed: 480/480}], [qr/^$/], 'many sessions',
	{ '015_many' => q{
		\set m random(1, 5)
		SELECT 1 / (limaml_score('m' || :m, 2, 7) = (SELECT score FROM expected WHERE model = 'm' || :m AND m = 2))::int;
		\set m random(1, 5)
		SELECT 1 / (limaml_score('m' || :m, 3, 7) = (SELECT score FROM expected WHERE model = 'm' || :m AND m = 3))::int;
	} });
$node->pgbench('--no-vacuum --client=8 --transactions=200', 0, [qr{processed: 1600/1600}], [qr/^$/], 'sessions that stay',
	{ '015_stay' => q{
		\set m random(1, 5)
		SELECT 1 / (limaml_score('m' || :m, 2, 7) = (SELECT score FROM expected WHERE model = 'm' || :m AND m = 2))::int;
	} });
ok($is_shared->($_), "$_ finds room after them") for @models;

# A process that is killed takes all sessions with it, and the memory begins anew
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query('SELECT pg_backend_pid()');
$victim->query_safe("BEGIN; DECLARE c CURSOR FOR SELECT limaml_score('m1', m, 7) FROM generate_series(1, 3) m");
$victim->query_safe('FETCH 1 FROM c');
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
my $position = -s $node->logfile;
kill 'KILL', $pid;
eval { $victim->quit };
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $position);
$node->poll_query_until('postgres', 'SELECT true') || die 'the server does not come back';
is($node->safe_psql('postgres', $scores->(@models)), $expected, 'all score as they did after a crash');
ok($is_shared->($_), "$_ finds room after it") for @models;
$node->stop;

done_testing();
