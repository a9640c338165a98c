# What happens at the same time: batches that others see while a refresh runs,
# cancelling it, two that train, and a model that is dropped under them.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'max_connections = 20');
$node->start;

# A row of member 3500 takes as long as somebody holds the lock of the gate, so
# that a refresh stands still in its fourth batch, and training in its scan.
$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, (m * 7 + n * 3) % 50 AS item_id, n AS at, (m + n) % 3 = 0 AS liked
	FROM generate_series(1, 5000) m, generate_series(1, 6) n;
	CREATE INDEX ON rating (member_id, at);
	ANALYZE rating;
	CREATE FUNCTION gate(member_id integer, item_id integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$
	BEGIN
		IF member_id = 3500 THEN
			PERFORM pg_advisory_xact_lock_shared(1);
		END IF;
		RETURN item_id;
	END $$;
	CREATE VIEW gated AS SELECT member_id, gate(member_id, item_id) AS item_id, at, liked FROM rating;
	SELECT limaml_create_model('taste', 'gated', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('taste');
});

my %output;
my @harnesses;
sub run_in_background
{
	my ($name, $sql) = @_;
	my $output = $output{$name} = { out => '', err => '' };
	my $harness = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . " application_name=$name", '-c', $sql ],
		'<', \undef, '>', \$output->{out}, '2>', \$output->{err});
	push @harnesses, $harness;
	return $harness;
}

sub wait_for
{
	my ($name, $condition) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND $condition")
		|| die "$name does not come to $condition";
}

sub close_gate
{
	my $harness = run_in_background('gate', q{SELECT pg_advisory_lock(1), pg_sleep(600)});
	wait_for('gate', q{wait_event = 'PgSleep'});
	return $harness;
}

sub open_gate
{
	my ($harness) = @_;
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gate'});
	$harness->finish;
	return;
}

sub cancel
{
	my ($name) = @_;
	my $start = time();
	$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = '$name'");
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '$name'");
	return time() - $start;
}

my $locked = q{wait_event_type = 'Lock'};
my $counts = q{SELECT version, count(*) FROM taste_embedding GROUP BY version ORDER BY version};

# A refresh commits each batch: others see it while the next is made

my $gate = close_gate();
my $refresh = run_in_background('refresh', q{CALL limaml_refresh('taste')});
wait_for('refresh', $locked);
my ($seen) = $node->safe_psql('postgres', $counts) =~ /^1\|(\d+)$/;
ok($seen > 0 && $seen < 5000, 'batches are visible while the refresh runs');
is( $node->safe_psql('postgres', q{SELECT bool_and(limaml_embedding('taste', member_id) = embedding) FROM taste_embedding}),
	't', 'and are what scoring uses');
my ($status, $out, $err) = $node->psql('postgres', q{CALL limaml_refresh('taste')});
is($status, 0, 'a second refresh is no error');
like($err, qr/model "taste" is being refreshed by another session/, 'but says so and leaves');

# Cancelled, it leaves the batches that it had finished, and no lock

ok(cancel('refresh') < 2, 'a refresh is cancelled at once');
$refresh->finish;
like($output{refresh}{err}, qr/canceling statement due to user request/, 'and says so');
is($node->safe_psql('postgres', $counts), "1|$seen", 'what was finished remains');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid > 2}), '0', 'the lock is free');
($status, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '500ms'; CALL limaml_refresh('taste')});
like($err, qr/canceling statement due to statement timeout/, 'statement_timeout ends it as well');
my ($left) = $node->safe_psql('postgres', $counts) =~ /^1\|(\d+)$/;
ok($left >= $seen && $left < 5000, 'with as much left');
open_gate($gate);
$node->safe_psql('postgres', q{CALL limaml_refresh('taste')});
is($node->safe_psql('postgres', $counts), '1|5000', 'the next run does the rest');

# Rows that arrive while a refresh runs make their entities stale for the next

$gate = close_gate();
$refresh = run_in_background('refresh', q{CALL limaml_refresh('taste', only_stale => false)});
wait_for('refresh', $locked);
$node->safe_psql('postgres', q{INSERT INTO rating SELECT m, 7, 100, true FROM unnest('{1,3500,4999}'::int[]) m});
open_gate($gate);
$refresh->finish;
is($output{refresh}{err} =~ /ERROR/, '', 'no error');
$node->safe_psql('postgres', q{CALL limaml_refresh('taste')});
is( $node->safe_psql('postgres', q{
		SELECT count(*), bool_and(limaml_adapt('taste', member_id) = embedding) FROM taste_embedding
		WHERE member_id IN (1, 3500, 4999) AND interactions = 7 AND adapted_through = 100}),
	'3|t', 'and none is forgotten');

# An error in a later batch, a role that is lost, a session that ends

$gate = close_gate();
$refresh = run_in_background('refresh', q{CALL limaml_refresh('taste', only_stale => false)});
wait_for('refresh', $locked);
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'refresh'});
$refresh->finish;
open_gate($gate);
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'a session that ends leaves no lock');

# Training beside a refresh: neither waits for the other's work

$gate = close_gate();
$refresh = run_in_background('refresh', q{CALL limaml_refresh('taste', only_stale => false)});
wait_for('refresh', $locked);
my $train = run_in_background('train', q{SELECT version FROM limaml_train('taste')});
wait_for('train', $locked);
open_gate($gate);
$_->finish for $refresh, $train;
is($output{train}{out}, "2\n", 'training during a refresh');
is($output{refresh}{err} =~ /ERROR/, '', 'and the refresh goes through');

# Two at once train versions of their own

$gate = close_gate();
my @trains = map { run_in_background("train$_", "SELECT version FROM limaml_train('taste', '{\"seed\": $_}')") } 1, 2;
wait_for("train$_", $locked) for 1, 2;
open_gate($gate);
$_->finish for @trains;
is(join('', sort map { $output{"train$_"}{out} } 1, 2), "3\n4\n", 'two trainings make two versions')
	|| diag $output{train1}{err}, $output{train2}{err};
is($node->safe_psql('postgres', q{SELECT deployed FROM limaml.model}), '1', 'and deploy none');

# Cancelled training leaves nothing

my $state = q{SELECT (SELECT count(*) FROM limaml.version), (SELECT count(*) FROM limaml.training_log), (SELECT count(*) FROM pg_class)};
my $before = $node->safe_psql('postgres', $state);
$train = run_in_background('train', q{SELECT limaml_train('taste', '{"epochs": 10000, "patience": 10000}')});
wait_for('train', q{now() - query_start > interval '2 s'});
ok(cancel('train') < 2, 'training is cancelled within about a second');
$train->finish;
like($output{train}{err}, qr/canceling statement due to user request/, 'and says so');
is($node->safe_psql('postgres', $state), $before, 'and nothing is left of it');

# A model that is dropped while it is trained or refreshed: an error that tells, no more

for my $verb (q{SELECT limaml_train('taste')}, q{CALL limaml_refresh('taste', only_stale => false)})
{
	$gate = close_gate();
	my $busy = run_in_background('busy', $verb);
	wait_for('busy', $locked);
	my $drop = run_in_background('drop', q{SELECT limaml_drop_model('taste')});
	# either it waits for the other, or it is done at once
	$node->poll_query_until('postgres', qq{
		SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'drop')
			OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'drop' AND $locked)});
	open_gate($gate);
	$_->finish for $busy, $drop;
	is($output{drop}{err}, '', "dropped while: $verb");
	unlike($output{busy}{err}, qr/cache lookup failed|could not open relation with OID|tuple concurrently/, 'and no internal error')
		|| diag $output{busy}{err};
	is($node->safe_psql('postgres', q{
			SELECT (SELECT count(*) FROM limaml.stored_model), (SELECT count(*) FROM limaml.stored_version),
				(SELECT count(*) FROM limaml.stored_training_log), to_regclass('taste_embedding')}),
		'0|0|0|', 'nothing remains of the model');
	$node->safe_psql('postgres', q{
		SELECT limaml_create_model('taste', 'gated', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
		SELECT limaml_train('taste');
	});
}

# Scoring goes on while a version is deployed

my $scoring = run_in_background('scoring',
	q{SELECT count(DISTINCT limaml_score('taste', 1, i % 50)) <= 50 FROM generate_series(1, 200000) i});
$node->safe_psql('postgres', q{SELECT limaml_train('taste', '{"seed": 5}'); SELECT limaml_deploy('taste')});
$scoring->finish;
is($output{scoring}{out}, "t\n", 'a statement scores with one version');

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no crash');
$node->stop;
done_testing();
