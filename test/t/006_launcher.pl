# The launcher: models whose refresh is due are refreshed by themselves, in any
# database; what fails is tried again, less and less often; what was interrupted
# goes on after a restart.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
	shared_preload_libraries = 'limaml'
	limaml.launcher_naptime = 1
	max_connections = 30
	max_worker_processes = 12
	max_parallel_workers_per_gather = 0
	log_line_prefix = '%m [%p] %b '
});
$node->start;

sub wait_until
{
	my ($database, $what, $sql) = @_;
	$node->poll_query_until($database, "SELECT $sql") || die "it does not come to: $what";
	return;
}

# A row of member 150 takes as long as somebody holds the lock of the gate.
my $members = 200;
for my $database ('one', 'two')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, qq{
		CREATE EXTENSION limaml;
		CREATE TABLE rating AS
		SELECT m AS member_id, (m * 7 + n * 3) % 50 AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, ((m + n) % 3 = 0)::int AS liked
		FROM generate_series(1, $members) m, generate_series(1, 6) n;
		CREATE INDEX ON rating (member_id, at);
		ANALYZE rating;
		CREATE FUNCTION gate(member_id integer, item_id integer) RETURNS integer LANGUAGE plpgsql STABLE AS \$\$
		BEGIN
			IF member_id = 150 THEN
				PERFORM pg_advisory_xact_lock_shared(1);
			END IF;
			RETURN item_id;
		END \$\$;
		CREATE VIEW gated AS SELECT member_id, gate(member_id, item_id) AS item_id, at, liked FROM rating;
		SELECT limaml_create_model('taste', 'gated', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1, "refresh_interval": "1 second"}');
		SELECT limaml_train('taste');
	});
}

my $up_to_date = qq{
	(SELECT count(*) FROM taste_embedding) = $members
	AND NOT EXISTS (SELECT FROM taste_embedding e JOIN (SELECT member_id, count(*), max(at) FROM rating GROUP BY member_id) r USING (member_id)
		WHERE (e.interactions, e.adapted_through) IS DISTINCT FROM (r.count, r.max))};
my $exact = q{SELECT count(*), bool_and(limaml_adapt('taste', member_id) = embedding) FROM taste_embedding};
my $add = q{INSERT INTO rating SELECT m, 7, clock_timestamp(), 1 FROM unnest('{1,77,200}'::int[]) m};

# Refreshed by themselves, first all, then who has new rows

for my $database ('one', 'two')
{
	wait_until($database, 'a first refresh', $up_to_date);
	is($node->safe_psql($database, $exact), "$members|t", "$database: refreshed by itself");
	$node->safe_psql($database, $add);
	wait_until($database, 'a second refresh', $up_to_date);
	is($node->safe_psql($database, $exact), "$members|t", 'and again when rows have arrived');
	wait_until($database, 'its end', q{count(*) = 0 FROM limaml.progress});
	is( $node->safe_psql($database, q{
			SELECT bool_and(state = 'done' AND background AND only_stale AND version = 1 AND kind = 'refresh' AND started_by = current_user), min(workers), max(workers), min(entities) < 200, max(adapted) FROM limaml.job}),
		"t|2|2|t|$members", 'as jobs of the owner');
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'limaml launcher'}), '1', 'there is one launcher');

# Without the interval, no more

sub more_jobs_in_one
{
	my ($number) = @_;
	my $last = $node->safe_psql('one', q{SELECT max(job) FROM limaml.job});
	wait_until('one', "$number more jobs", "max(job) >= $last + $number FROM limaml.job WHERE state = 'done'");
	return;
}
$node->safe_psql('two', q{SELECT limaml_set_options('taste', '{"refresh_interval": null}')});
more_jobs_in_one(2);
wait_until('two', 'idleness', q{count(*) = 0 FROM limaml.progress});
my $last = $node->safe_psql('two', "$add; SELECT max(job) FROM limaml.job");
more_jobs_in_one(3);
is($node->safe_psql('two', q{SELECT max(job) FROM limaml.job}), $last, 'without refresh_interval no refresh starts');
is($node->safe_psql('two', "SELECT $up_to_date"), 'f', 'and embeddings grow old');

# What fails is tried again, less and less often, and hinders no other model

$node->safe_psql('two', q{
	INSERT INTO rating VALUES (5, 1, clock_timestamp(), 7);
	SELECT limaml_set_options('taste', '{"refresh_interval": "1 second"}')});
wait_until('two', 'a failure', "count(*) = 1 FROM limaml.job WHERE job > $last AND state = 'failed'");
is($node->safe_psql('two', "SELECT error FROM limaml.job WHERE job > $last ORDER BY job LIMIT 1"),
	'label "liked" of member_id 5 is 7, neither 0 nor 1', 'a refresh that fails');
more_jobs_in_one(1);
wait_until('two', 'three failures', "count(*) = 3 FROM limaml.job WHERE job > $last AND state = 'failed'");
my $pauses = $node->safe_psql('two', qq{
	SELECT string_agg(extract(epoch FROM pause)::numeric(5, 1)::text, ' ' ORDER BY job), bool_and(pause >= CASE number WHEN 2 THEN interval '2 s' ELSE interval '4 s' END), bool_and(state = 'failed')
	FROM (SELECT job, state, row_number() OVER w AS number, started_at - lag(started_at) OVER w AS pause FROM limaml.job WHERE job > $last WINDOW w AS (ORDER BY job)) _ WHERE number > 1});
like($pauses, qr/\|t\|t$/, "is tried again after pauses that double: $pauses");
$node->safe_psql('two', q{DELETE FROM rating WHERE liked = 7});

# Meanwhile: no second job of a model that is being refreshed, however long it takes

sub close_gate
{
	my ($database) = @_;
	my $harness = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr($database) . ' application_name=gate', '-c', q{SELECT pg_advisory_lock(1), pg_sleep(600)} ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
	wait_until($database, 'a closed gate', q{count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'gate' AND wait_event = 'PgSleep'});
	return $harness;
}
sub open_gate
{
	my ($harness) = @_;
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gate'});
	$harness->finish;
	return;
}
my $at_gate = q{count(*) = 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
	WHERE datname = current_database() AND locktype = 'advisory' AND classid = 0 AND objid = 1 AND objsubid = 1 AND NOT granted};
my $stop_at_gate = q{INSERT INTO rating VALUES (150, 7, clock_timestamp(), 1)};

my $gate = close_gate('one');
$node->safe_psql('one', $stop_at_gate);
wait_until('one', 'a worker at the gate', $at_gate);
my $job = $node->safe_psql('one', q{SELECT max(job) FROM limaml.job});
sleep(4);
is($node->safe_psql('one', q{SELECT max(job), count(*) FILTER (WHERE state = 'running') FROM limaml.job}), "$job|1", 'no second job while one runs');
is($node->safe_psql('one', q{SELECT count(*) <= 2 FROM pg_stat_activity WHERE backend_type = 'limaml worker' AND datname = 'one'}), 't', 'nor workers that wait for it');
open_gate($gate);
wait_until('one', 'the end', "state = 'done' FROM limaml.job WHERE job = $job");

# By now, or soon, what was mended is refreshed

wait_until('two', 'a refresh after the failures', $up_to_date);
is($node->safe_psql('two', $exact), "$members|t", 'a model that is mended is refreshed again');
wait_until('two', 'two in a row', q{bool_and(state = 'done') FROM (SELECT state FROM limaml.job ORDER BY job DESC LIMIT 2) _});
pass('as often as before');

# Interrupted by the server's end: the launcher goes on with the same job, also
# where it does not start any itself

for my $way ('immediate', 'kill9')
{
	$gate = close_gate('one');
	$node->safe_psql('one', $stop_at_gate);
	wait_until('one', 'a worker at the gate', $at_gate);
	my $one = $node->safe_psql('one', q{SELECT max(job) FROM limaml.job WHERE state = 'running'});
	$node->safe_psql('two', q{SELECT limaml_set_options('taste', '{"refresh_interval": null}')});
	wait_until('two', 'idleness', q{count(*) = 0 FROM limaml.progress});
	my $second = close_gate('two');
	my $two = $node->safe_psql('two', q{SELECT limaml_refresh_start('taste', workers => 2, only_stale => false)});
	wait_until('two', 'a worker at the gate', $at_gate);
	my $pid = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ ? $1 : die;
	$way eq 'kill9' ? $node->kill9 : $node->stop('immediate');
	$_->finish for $gate, $second;
	for my $try (1 .. 300)
	{
		last unless kill(0, $pid);
		sleep(0.1);
	}

	# its other processes may take a moment to notice
	for my $try (1 .. 50)
	{
		last if $node->start(fail_ok => 1);
		undef $node->{_pid};
		sleep(0.2);
	}
	for (['one', $one], ['two', $two])
	{
		my ($database, $job) = @$_;
		wait_until($database, 'the end of the job', "state <> 'running' FROM limaml.job WHERE job = $job");
		is($node->safe_psql($database, "SELECT state, error FROM limaml.job WHERE job = $job"), 'done|', "$way: job $job of $database goes on and is done");
		is($node->safe_psql($database, "SELECT sum(restarts) > 0, sum(entities) = (SELECT entities FROM limaml.job WHERE job = $job) FROM limaml.stored_worker WHERE job_id = $job"), 't|t', 'each entity once');
		wait_until($database, 'embeddings that are up to date', $up_to_date);
		is($node->safe_psql($database, $exact), "$members|t", 'nothing is wrong or missing');
		like(slurp_file($node->logfile), qr/ limaml scanner LOG:  limaml launcher: job $job was interrupted and goes on/, 'the log says so');
	}
	is($node->safe_psql('two', q{SELECT count(*) FROM limaml.stored_batch}), '0', 'no batch is left');
}

# No two jobs of a model were ever at work at once

for my $database ('one', 'two')
{
	is( $node->safe_psql($database, q{
			SELECT count(*) FROM limaml.stored_job a JOIN limaml.stored_job b ON a.model_id = b.model_id AND a.kind = b.kind AND a.id < b.id
			WHERE tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)}),
		'0', "$database: no two jobs at once");
}

# A database is dropped, and an extension, while the launcher runs

$node->safe_psql('two', q{SELECT limaml_set_options('taste', '{"refresh_interval": "1 second"}')});
my ($status, $out, $err);
for my $try (1 .. 20)
{
	($status, $out, $err) = $node->psql('postgres', 'DROP DATABASE two');
	last if $status == 0;
	sleep(0.1);
}
is($status, 0, 'DROP DATABASE') || diag $err;
more_jobs_in_one(2);
pass('and the others go on');
$node->safe_psql('postgres', q{ALTER DATABASE one ALLOW_CONNECTIONS false});
sleep(2);
$node->safe_psql('postgres', q{ALTER DATABASE one ALLOW_CONNECTIONS true});
more_jobs_in_one(1);
pass('a database that lets nobody in is no problem');
$node->safe_psql('one', q{SET client_min_messages = warning; SET lock_timeout = '30s'; DROP EXTENSION limaml CASCADE});
my $position = -s $node->logfile;
sleep(3);
unlike(slurp_file($node->logfile, $position), qr/ERROR|FATAL|WARNING/, 'nor is one that has the extension no more');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal|could not open relation/, 'no crash');
unlike($log, qr/limaml (scanner|launcher) ERROR/, 'the launcher and its scanners meet no error')
	|| diag grep { /limaml (scanner|launcher) ERROR/ } split /^/, $log;
$node->stop;
done_testing();
