# Background jobs: what workers do together, what they leave when one of them
# is terminated, killed or cancelled or meets an error, and who may ask for it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# One of the worker slots is the logical replication launcher's.
my $workers = 3;
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', qq{
	max_connections = 30
	max_worker_processes = @{[$workers + 1]}
	max_parallel_workers_per_gather = 0
	max_parallel_maintenance_workers = 0
	restart_after_crash = on
	log_statement = none
});
$node->start;

# A row of member 1500 takes as long as somebody holds the lock of the gate, and
# the first row of any member as long as the table slow says.
my $members = 2000;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, (m * 7 + n * 3) % 50 AS item_id, n AS at, ((m + n) % 3 = 0)::int AS liked
	FROM generate_series(1, $members) m, generate_series(1, 6) n;
	CREATE INDEX ON rating (member_id, at);
	ANALYZE rating;
	CREATE TABLE slow AS SELECT 0.0 AS seconds;
	CREATE FUNCTION gate(member_id integer, item_id integer, at integer) RETURNS integer LANGUAGE plpgsql STABLE AS \$\$
	BEGIN
		IF member_id = 1500 THEN
			PERFORM pg_advisory_xact_lock_shared(1);
		END IF;
		IF at = 1 THEN
			PERFORM pg_sleep(seconds) FROM public.slow WHERE seconds > 0;
		END IF;
		RETURN item_id;
	END \$\$;
	CREATE VIEW gated AS SELECT member_id, gate(member_id, item_id, at) AS item_id, at, liked FROM rating;
	SELECT limaml_create_model('taste', 'gated', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('taste');
});

my %output;
sub run_in_background
{
	my ($name, $sql) = @_;
	my $output = $output{$name} = { out => '', err => '' };
	return IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . " application_name=$name", '-c', $sql ],
		'<', \undef, '>', \$output->{out}, '2>', \$output->{err});
}

sub wait_until
{
	my ($what, $sql) = @_;
	$node->poll_query_until('postgres', "SELECT $sql") || die "it does not come to: $what";
	return;
}

sub close_gate
{
	my $lock = shift // 1;
	my $harness = run_in_background('gate', "SELECT pg_advisory_lock($lock), pg_sleep(600)");
	wait_until('a closed gate', q{count(*) = 1 FROM pg_stat_activity WHERE application_name = 'gate' AND wait_event = 'PgSleep'});
	return $harness;
}

sub open_gate
{
	my ($harness) = @_;
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gate'});
	$harness->finish;
	return;
}

# The server has no worker left, and when it has noticed, slots for new ones.
sub wait_for_idle
{
	wait_until('no worker', q{count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'limaml worker'});
	sleep(0.1);
	return;
}

# Everything is to be done again
sub forget
{
	wait_for_idle();
	$node->safe_psql('postgres', q{TRUNCATE taste_embedding; DELETE FROM limaml.stored_refresh});
	return;
}

sub start_refresh
{
	my ($arguments) = @_;
	return $node->safe_psql('postgres', "SELECT limaml_refresh_start('taste'$arguments)");
}

# A job that is at the gate; of two workers, when all but one batch are done.
my $at_gate = q{backend_type = 'limaml worker' AND wait_event = 'advisory' AND query LIKE '%refreshing%'};
sub start_at_gate
{
	my ($arguments) = @_;
	my $job = start_refresh($arguments);
	my $one = $arguments =~ /workers => 1/ ? 'true' : 'false';
	wait_until('a worker at the gate', qq{
		($one OR (SELECT count(*) FROM limaml.stored_batch WHERE job_id = $job) = 1)
		AND (SELECT count(*) FROM pg_stat_activity WHERE $at_gate) = 1
		AND (SELECT phase FROM limaml.progress WHERE job = $job) = 'adapting'});
	return $job;
}

my $exact = q{SELECT count(*), bool_and(limaml_adapt('taste', member_id) = embedding) FROM taste_embedding WHERE version = 1};
my $rest = q{
	SELECT (SELECT count(*) FROM limaml.stored_batch), (SELECT count(*) FROM limaml.stored_job WHERE state = 'running'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid > 2)};

sub ends_well
{
	my ($job, $what) = @_;
	is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'done', $what);
	is($node->safe_psql('postgres', $exact), "$members|t", 'nothing is wrong or missing');
	wait_for_idle();
	is($node->safe_psql('postgres', $rest), '0|0|0', 'nothing is left of it');
	return;
}

# Two workers do all entities together

my $gate = close_gate();
my $job = start_at_gate(', workers => 2');
is( $node->safe_psql('postgres', q{
		SELECT count(*), bool_and(query ~ '^limaml: refreshing version 1 of model "taste", \d+ entities adapted here of 2000$') FROM pg_stat_activity
		WHERE backend_type = 'limaml worker' AND datname = 'postgres'}),
	'2|t', 'pg_stat_activity shows the workers and what they do');
is( $node->safe_psql('postgres', "SELECT model, version, phase, workers, done < total AND done > total / 2, total, rows_read = done * 6, elapsed > interval '0' FROM limaml.progress WHERE job = $job"),
	'taste|1|adapting|2|t|2000|t|t', 'limaml.progress shows how far they are');
is( $node->safe_psql('postgres', "SELECT kind, version, only_stale, state, background, workers, started_by, finished_at IS NULL, entities, error FROM limaml.job WHERE job = $job"),
	'refresh|1|t|running|t|2|postgres|t|2000|', 'limaml.job shows what they do');

# Others that would refresh the model meanwhile

my ($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_refresh_start('taste')});
is("$status $out", "0 $job", 'refresh_start during a job returns its id');
like($err, qr/NOTICE:  model "taste" is being refreshed by job $job$/, 'and says so');
($status, $out, $err) = $node->psql('postgres', q{CALL limaml_refresh('taste')});
is($status, 0, 'CALL limaml_refresh during a job is no error');
like($err, qr/NOTICE:  model "taste" is being refreshed by another session/, 'but says so and leaves');
open_gate($gate);
ends_well($job, 'a job of two workers is done');
is( $node->safe_psql('postgres', "SELECT kind, version, state, entities, adapted, interactions, finished_at >= started_at, seconds > 0, reading > 0, adapting > 0, writing > 0, error FROM limaml.job WHERE job = $job"),
	'refresh|1|done|2000|2000|12000|t|t|t|t|t|', 'limaml.job says what was done');
is($node->safe_psql('postgres', "SELECT count(*), bool_and(entities > 0), sum(restarts) FROM limaml.stored_worker WHERE job_id = $job"),
	'2|t|0', 'by both workers');
is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml.progress}), '0', 'and limaml.progress is empty');

# The one-liner; a heartbeat while it runs

forget();
$node->safe_psql('postgres', q{UPDATE slow SET seconds = 0.004});
my $waiter = run_in_background('waiter', q{SELECT limaml_wait(limaml_refresh_start('taste'))});
wait_until('some progress', q{count(*) = 1 FROM limaml.progress WHERE done > 0 AND done < total});
is( $node->safe_psql('postgres', q{
		SELECT phase, done < total, total, clock_timestamp() - heartbeat < interval '2 s', entities_per_second > 0, time_left > interval '0' FROM limaml.progress}),
	'adapting|t|2000|t|t|t', 'limaml.progress while batches are made');
$node->safe_psql('postgres', q{UPDATE slow SET seconds = 0});
$waiter->finish;
is($output{waiter}{out}, "done\n", 'SELECT limaml_wait(limaml_refresh_start())');
is($node->safe_psql('postgres', $exact), "$members|t", 'refreshes all');
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_wait(limaml_refresh_start('taste')), limaml_wait(limaml_refresh_start('taste', 1, 1, false))});
is("$out$err",
	'done|done', 'when nothing is stale, and one after another in a statement');
is($node->safe_psql('postgres', q{SELECT array_agg(adapted ORDER BY job DESC) FROM (SELECT * FROM limaml.job ORDER BY job DESC LIMIT 2) _}),
	'{2000,0}', 'with what they were asked for');

# A worker is terminated: the other takes its batch over, and it comes back

forget();
$gate = close_gate();
$job = start_at_gate(', workers => 2');
my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $at_gate");
my $start = time();
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_until('another at the gate', "count(*) = 1 FROM pg_stat_activity WHERE $at_gate AND pid <> $pid");
ok(time() - $start < 5, 'the batch of a worker that is terminated is taken over');
wait_until('two workers', "workers = 2 FROM limaml.progress WHERE job = $job");
is($node->safe_psql('postgres', "SELECT sum(restarts), bool_and(pid <> $pid) FROM limaml.stored_worker WHERE job_id = $job"),
	'1|t', 'and it comes back');
open_gate($gate);
ends_well($job, 'the job is done');
is($node->safe_psql('postgres', "SELECT adapted FROM limaml.job WHERE job = $job"), '2000', 'and has counted each entity once');

# A job of one worker, terminated: limaml_wait waits until it is back

forget();
$gate = close_gate();
$job = start_at_gate(', workers => 1');
$waiter = run_in_background('waiter', "SELECT limaml_wait($job)");
wait_until('a waiting session', q{count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event = 'Extension'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $at_gate");
wait_until('a restart', "restarts = 1 FROM limaml.stored_worker WHERE job_id = $job");
open_gate($gate);
$waiter->finish;
is($output{waiter}{out}, "done\n", 'limaml_wait outlives the only worker') || diag $output{waiter}{err};
ends_well($job, 'a job whose only worker is terminated is done');

# A worker is killed: the server recovers, and the job ends by itself

forget();
$gate = close_gate();
$job = start_at_gate(', workers => 2');
$pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $at_gate");
kill('KILL', $pid) == 1 || die "cannot kill $pid: $!";
$gate->finish;
wait_until('the job\'s end', "state <> 'running' AND (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'limaml worker') = 0 FROM limaml.job WHERE job = $job");
like(slurp_file($node->logfile), qr/background worker "limaml worker" \(PID $pid\) was terminated by signal 9/, 'a worker that is killed');
ends_well($job, 'does not end the job');
is($node->safe_psql('postgres', "SELECT sum(restarts) > 0 FROM limaml.stored_worker WHERE job_id = $job"), 't', 'its workers have come back');

# limaml_cancel

forget();
$gate = close_gate();
$job = start_at_gate(', workers => 2');
$waiter = run_in_background('waiter', "SELECT limaml_wait($job)");
wait_until('a waiting session', q{count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event = 'Extension'});
$start = time();
is($node->safe_psql('postgres', "SELECT limaml_cancel($job)"), 't', 'limaml_cancel');
$waiter->finish;
ok(time() - $start < 2, 'ends a job within two seconds');
is($output{waiter}{out}, "cancelled\n", 'who waits for it learns so') || diag $output{waiter}{err};
is($node->safe_psql('postgres', "SELECT state, finished_at IS NOT NULL, error FROM limaml.job WHERE job = $job"), 'cancelled|t|canceling statement due to user request', 'and so does limaml.job');
is($node->safe_psql('postgres', "SELECT limaml_cancel($job)"), 'f', 'it cannot be cancelled again');
is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'cancelled', 'nor waited for');
wait_for_idle();
open_gate($gate);
is($node->safe_psql('postgres', $exact) =~ /^(\d+)\|t$/ && $1 > 0 && $1 < $members, 1, 'what its batches have stored remains');
ends_well(start_refresh(', workers => 2'), 'the next refresh does the rest');
is($node->safe_psql('postgres', q{SELECT adapted BETWEEN 1 AND 1000 FROM limaml.job ORDER BY job DESC LIMIT 1}), 't', 'and no more');

# Cancelled at any moment, a job says so and never stands there as running; a
# cancel that comes at once, before all workers have joined, is not lost

$node->safe_psql('postgres', q{UPDATE slow SET seconds = 0.0005});
my %how;
for my $try (1 .. 10)
{
	my ($cancelled) = $node->safe_psql('postgres', q{SELECT limaml_cancel(limaml_refresh_start('taste', 2, only_stale => false))});
	($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_wait(max(job)) FROM limaml.job});
	$how{"$cancelled $out $err"}++;
}
is(join(', ', sort keys %how), 't cancelled ', 'cancelled as soon as it is started') || diag explain \%how;
%how = ();
for my $try (1 .. 8)
{
	$job = start_refresh(', workers => 2, only_stale => false');
	sleep($try * 0.04);
	my $cancelled = $node->safe_psql('postgres', "SELECT limaml_cancel($job)");
	($status, $out, $err) = $node->psql('postgres', "SELECT limaml_wait($job)");
	$how{"$cancelled $out $err"}++;
	wait_for_idle();
}
$node->safe_psql('postgres', q{UPDATE slow SET seconds = 0});
is(join(', ', grep { !/^(t cancelled|[tf] done) $/ } sort keys %how), '', 'cancelled at any moment, it says so')
	|| diag explain \%how;
ok($how{'t cancelled '}, 'and most often is');

# Cancelled, or failed, while a batch is committed

$node->safe_psql('postgres', q{
	CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared(2);
		IF EXISTS (SELECT FROM public.slow WHERE seconds < 0) THEN
			RAISE 'not to be committed';
		END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON taste_embedding DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.member_id = 1500) EXECUTE FUNCTION at_commit();
});
$gate = close_gate(2);
$job = start_refresh(', workers => 1, only_stale => false');
wait_until('a worker in COMMIT', q{count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'limaml worker' AND wait_event = 'advisory'});
is($node->safe_psql('postgres', "SELECT limaml_cancel($job), limaml_wait($job)"), 't|cancelled', 'cancelled during COMMIT');
open_gate($gate);
$node->safe_psql('postgres', q{UPDATE slow SET seconds = -1});
$job = start_refresh(', workers => 1, only_stale => false');
($status, $out, $err) = $node->psql('postgres', "SELECT limaml_wait($job)");
is("$out$err", 'failed', 'an error during COMMIT');
is($node->safe_psql('postgres', "SELECT error FROM limaml.job WHERE job = $job"), 'not to be committed', 'with its text');
$node->safe_psql('postgres', q{UPDATE slow SET seconds = 0; DROP TRIGGER at_commit ON taste_embedding});

# An error ends the job, and says which entity it was

forget();
$node->safe_psql('postgres', q{UPDATE rating SET liked = 7 WHERE member_id = 700 AND at = 6});
$job = start_refresh(', workers => 2');
is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'failed', 'an error ends a job');
is($node->safe_psql('postgres', "SELECT state, error FROM limaml.job WHERE job = $job"),
	'failed|label "liked" of member_id 700 is 7, neither 0 nor 1', 'with its text');
wait_for_idle();
my $kept = $node->safe_psql('postgres', q{SELECT count(*) FROM taste_embedding});
ok($kept > 0 && $kept < $members, "batches before it are kept: $kept");
$node->safe_psql('postgres', q{UPDATE rating SET liked = 0 WHERE member_id = 700 AND at = 6});
ends_well(start_refresh(', workers => 2'), 'the next refresh does the rest');

# Fewer slots than workers

wait_for_idle();
sleep(1);
$gate = close_gate();
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_refresh_start('taste', workers => 4, only_stale => false)});
is($status, 0, 'a job with fewer workers than asked for goes on');
like($err, qr/NOTICE:  job $out has $workers of 4 workers\nHINT:  You may need to increase max_worker_processes \(4\)/, 'and says what is too small');
$job = $out;
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_train_start('taste')});
is($status, 3, 'with no worker at all it is an error');
like($err, qr/ERROR:  could not start a background worker\nHINT:  You may need to increase max_worker_processes \(4\)/, 'that says so too');
is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml.stored_job WHERE kind = 'training'}), '0', 'and leaves no job');
open_gate($gate);
ends_well($job, 'fewer workers do it all');
is($node->safe_psql('postgres', "SELECT count(*) FROM limaml.stored_worker WHERE job_id = $job"), $workers, 'each of them');
for my $number (0, -1, 65, 100000)
{
	($status, $out, $err) = $node->psql('postgres', "SELECT limaml_refresh_start('taste', workers => $number)");
	like($err, qr/ERROR:  workers must be between 1 and 64/, "$number workers");
}

# Training

$job = $node->safe_psql('postgres', q{SELECT limaml_train_start('taste', '{"epochs": 2, "seed": 3}')});
is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'done', 'training in the background');
is( $node->safe_psql('postgres', "SELECT kind, version, options, state, workers, only_stale FROM limaml.job WHERE job = $job"),
	'training|2|{"seed": 3, "epochs": 2}|done|1|', 'is a job');
is($node->safe_psql('postgres', q{SELECT version, deployed, options->>'seed', options->>'epochs' FROM limaml.version WHERE version = 2}),
	'2|f|3|2', 'with the options given');
is( $node->safe_psql('postgres', q{
		SELECT limaml_train('taste', '{"epochs": 2, "seed": 3}');
		SELECT count(DISTINCT network) FROM limaml.version WHERE version IN (2, 3)}) =~ /\n1$/, 1,
	'trains what limaml_train does');
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_train_start('taste', '{"epochs": -1}')});
like($err, qr/ERROR:  .*epochs/, 'wrong options are an error at once');
$node->safe_psql('postgres', q{UPDATE rating SET liked = 9 WHERE member_id = 3});
is($node->safe_psql('postgres', q{SELECT limaml_wait(limaml_train_start('taste'))}), 'failed', 'training that fails');
is($node->safe_psql('postgres', q{SELECT version, state, error ~ 'is 9, neither 0 nor 1' FROM limaml.job ORDER BY job DESC LIMIT 1}), '|failed|t', 'says why');
$node->safe_psql('postgres', q{UPDATE rating SET liked = 0 WHERE member_id = 3});
$job = $node->safe_psql('postgres', q{SELECT limaml_train_start('taste', '{"epochs": 10000, "patience": 10000}')});
wait_until('training', q{count(*) = 1 FROM pg_stat_activity WHERE query = 'limaml: training model "taste"'});
is($node->safe_psql('postgres', q{SELECT phase, workers, done, total FROM limaml.progress}), 'training|1|0|', 'limaml.progress shows training');
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_train_start('taste')});
is("$status $out", "0 $job", 'train_start during training returns its job');
like($err, qr/NOTICE:  model "taste" is being trained by job $job$/, 'and says so');
is($node->safe_psql('postgres', q{SELECT limaml_wait(limaml_refresh_start('taste', 1))}), 'done', 'a refresh goes on beside it');
$start = time();
is($node->safe_psql('postgres', "SELECT limaml_cancel($job), limaml_wait($job)"), 't|cancelled', 'training is cancelled');
ok(time() - $start < 2, 'within two seconds');
is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml.version}), '3', 'and nothing is left of it');
wait_for_idle();

# Within a transaction that has made what the job needs

($status, $out, $err) = $node->psql('postgres', q{
	\set ON_ERROR_STOP off
	BEGIN;
	SELECT limaml_create_model('fresh', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT version FROM limaml_train('fresh') \gset
	SELECT limaml_refresh_start('fresh') AS job \gset
	SAVEPOINT before;
	SELECT limaml_wait(:job);
	ROLLBACK TO before;
	SELECT phase FROM limaml.progress WHERE job = :job;
	COMMIT;
	SELECT limaml_wait(:job);
	SELECT count(*), bool_and(limaml_adapt('fresh', member_id) = embedding) FROM fresh_embedding;
});
like($err, qr/ERROR:  job \d+ waits for this transaction to end\nHINT:  Wait for it after COMMIT\./, 'limaml_wait does not wait for its own transaction');
is($out, "\nwaiting for the transaction that started it\ndone\n$members|t", 'after which the job goes on');
wait_for_idle();
($status, $out, $err) = $node->psql('postgres', q{
	\set ON_ERROR_STOP off
	BEGIN;
	SELECT version FROM limaml_train('fresh') \gset
	SELECT limaml_refresh_start('fresh', version => :version) AS job \gset
	COMMIT;
	SELECT limaml_wait(:job);
	SELECT error FROM limaml.job WHERE job = :job;
	SELECT count(*) FROM fresh_embedding WHERE version = :version;
});
is($out, "done\n\n$members", 'likewise for a version') || diag $err;
wait_for_idle();
($status, $out, $err) = $node->psql('postgres', q{
	\set ON_ERROR_STOP off
	BEGIN;
	SELECT limaml_create_model('gone', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT version FROM limaml_train('gone') \gset
	SELECT limaml_refresh_start('gone') AS job \gset
	ROLLBACK;
});
wait_for_idle();
is($node->safe_psql('postgres', q{SELECT state, error ~ 'does not exist' FROM limaml.stored_job ORDER BY id DESC LIMIT 1}), 'failed|t', 'a job whose model is rolled back fails');
is($node->safe_psql('postgres', $rest), '0|0|0', 'and leaves nothing');

# A transaction that ends without COMMIT does not take its job along
($status, $out, $err) = $node->psql('postgres', q{
	BEGIN;
	SELECT limaml_refresh_start('fresh', only_stale => false) AS job \gset
	ROLLBACK;
	SELECT limaml_wait(:job);
});
is($out, 'done', 'a job goes on when the transaction that started it is rolled back') || diag $err;
wait_for_idle();

# What a transaction holds, its own job may need: an error tells, and nobody waits for ever

for my $holds (q{LOCK TABLE rating IN ACCESS EXCLUSIVE MODE}, q{SELECT 1 FROM taste_embedding WHERE member_id = 1 FOR UPDATE}, q{CALL limaml_refresh('taste')})
{
	($status, $out, $err) = $node->psql('postgres', qq{
		BEGIN;
		$holds;
		SET LOCAL statement_timeout = '6s';
		SELECT limaml_wait(limaml_refresh_start('taste', only_stale => false));
	});
	like($err, qr/ERROR/, "after $holds");
	unlike($err, qr/statement timeout/, 'waiting for a job that waits for oneself is an error');
	wait_until('the end of all jobs', q{count(*) = 0 FROM limaml.progress});
	wait_for_idle();
}

# Who may what

$node->safe_psql('postgres', q{
	CREATE ROLE boss NOLOGIN;
	CREATE ROLE member IN ROLE boss;
	CREATE ROLE reader;
	CREATE ROLE stranger;
	CREATE TABLE ran (who name, session name, work_mem text);
	GRANT SELECT ON rating, slow TO boss;
	GRANT INSERT, SELECT ON ran TO boss;
	GRANT CREATE ON SCHEMA public TO boss;
	-- a volatile function in a view would be run by all that read the view
	CREATE FUNCTION note() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.ran VALUES (current_user, session_user, current_setting('work_mem'));
	END $$;
	CREATE FUNCTION ran(integer, integer, integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$
	BEGIN
		IF $1 = 1 AND $3 = 1 THEN
			PERFORM public.note();
		END IF;
		RETURN public.gate($1, $2, $3);
	END $$;
	SET ROLE boss;
	CREATE VIEW ran_rating AS SELECT member_id, public.ran(member_id, item_id, at) AS item_id, at, liked FROM rating;
	SELECT limaml_create_model('theirs', 'ran_rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('theirs');
	GRANT SELECT ON theirs_embedding TO reader;
	RESET ROLE;
	DELETE FROM ran;
});
sub as
{
	my ($role, $sql) = @_;
	return $node->psql('postgres', "SET ROLE $role; $sql");
}
for my $role ('reader', 'stranger')
{
	for my $sql (q{SELECT limaml_refresh_start('theirs')}, q{SELECT limaml_train_start('theirs')})
	{
		($status, $out, $err) = as($role, $sql);
		like($err, $role eq 'reader' ? qr/ERROR:  must be owner of model "theirs"/ : qr/ERROR:  permission denied for model "theirs"/, "$role: $sql");
	}
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml.job WHERE model = 'theirs'}), '0', 'starts nothing');

$gate = close_gate();
($status, $job, $err) = as('member', q{SELECT limaml_refresh_start('theirs', workers => 2)});
is($status, 0, 'a member of the owner starts a refresh') || diag $err;
wait_until('a worker at the gate', "count(*) = 1 FROM pg_stat_activity WHERE $at_gate");
for my $role ('reader', 'boss')
{
	($status, $out, $err) = as($role, q{SELECT model, state, started_by FROM limaml.job; SELECT model, phase FROM limaml.progress});
	is($out, "theirs|running|member\ntheirs|adapting", "$role sees the jobs of this model") || diag $err;
}
($status, $out, $err) = as('stranger', q{SELECT count(*) FROM limaml.job; SELECT count(*) FROM limaml.progress});
is($out, "0\n0", 'others see none') || diag $err;
($status, $out, $err) = as('reader', "SELECT limaml_cancel($job)");
like($err, qr/ERROR:  must be owner of model "theirs"/, 'a reader does not cancel');
($status, $out, $err) = as('stranger', "SELECT limaml_cancel($job)");
like($err, qr/ERROR:  permission denied for model "theirs"/, 'nor does another');
($status, $out, $err) = as('stranger', "SELECT limaml_wait($job)");
like($err, qr/ERROR:  permission denied for model "theirs"/, 'who does not wait either');
is($node->safe_psql('postgres', "SELECT state FROM limaml.job WHERE job = $job"), 'running', 'and the job runs on');
open_gate($gate);
($status, $out, $err) = as('reader', "SELECT limaml_wait($job)");
is($out, 'done', 'while a reader waits') || diag $err;
is($node->safe_psql('postgres', q{SELECT count(*), bool_and(who = 'boss') FROM ran}), '1|t', 'workers read as the owner, who may not log in');
is($node->safe_psql('postgres', q{SET ROLE boss; SELECT count(*), bool_and(limaml_adapt('theirs', member_id) = embedding) FROM theirs_embedding}),
	"$members|t", 'all that there is');
wait_for_idle();
($status, $job, $err) = as('boss', q{SELECT limaml_train_start('theirs')});
is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'done', 'and train') || diag $err;
is($node->safe_psql('postgres', q{SELECT bool_and(who = 'boss') FROM ran}), 't', 'as the owner, too');
wait_for_idle();
$gate = close_gate();
($status, $job, $err) = as('boss', q{SELECT limaml_refresh_start('theirs', only_stale => false)});
wait_until('a worker at the gate', "count(*) = 1 FROM pg_stat_activity WHERE $at_gate");
($status, $out, $err) = as('member', "SELECT limaml_cancel($job), limaml_wait($job)");
is($out, 't|cancelled', 'a member of the owner cancels') || diag $err;
open_gate($gate);
wait_for_idle();

# A right that is lost meanwhile
$node->safe_psql('postgres', q{REVOKE SELECT ON rating FROM boss});
($status, $job, $err) = as('boss', q{SELECT limaml_refresh_start('theirs', only_stale => false)});
is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'failed', 'rights are looked at when a job runs');
is($node->safe_psql('postgres', "SELECT error FROM limaml.job WHERE job = $job"), 'permission denied for table rating', 'and are the owner\'s');

# What there is not

for my $verb ('limaml_wait', 'limaml_cancel')
{
	($status, $out, $err) = $node->psql('postgres', "SELECT $verb(123456789)");
	like($err, qr/ERROR:  job 123456789 does not exist\nHINT:  The view limaml.job lists the jobs\./, "$verb of a job that does not exist");
}
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_refresh_start('nothing')});
like($err, qr/ERROR:  model "nothing" does not exist/, 'a model that does not exist');
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_refresh_start('taste', version => 99)});
like($err, qr/ERROR:  model "taste" has no version 99/, 'a version that does not exist');
($status, $out, $err) = $node->psql('postgres', q{SELECT limaml_refresh_start(NULL)});
like($err, qr/ERROR:  model must not be null/, 'no model');
($status, $out, $err) = $node->psql('postgres', q{BEGIN READ ONLY; SELECT limaml_refresh_start('taste')});
like($err, qr/ERROR:  cannot execute limaml_refresh_start\(\) in a read-only transaction/, 'a transaction that is to write nothing');
($status, $out, $err) = $node->psql('postgres', q{
	SELECT limaml_create_model('empty', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}');
	SELECT limaml_refresh_start('empty')});
like($err, qr/ERROR:  model "empty" (has no|is not)/, 'a model without a version');

# A model that is dropped, or its table, while a job refreshes it

$node->safe_psql('postgres', q{
	GRANT SELECT ON rating TO boss;
	SELECT limaml_create_model('last', 'gated', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('last');
});

for my $drop (q{SELECT limaml_drop_model('theirs')}, q{SELECT limaml_drop_model('taste')}, q{DROP TABLE last_embedding})
{
	my ($model) = $drop =~ /(taste|theirs|last)/;
	wait_for_idle();
	my $before = -s $node->logfile;
	$gate = close_gate();
	$job = $node->safe_psql('postgres', "SELECT limaml_refresh_start('$model', workers => 2, only_stale => false)");
	wait_until('a worker at the gate', "count(*) = 1 FROM pg_stat_activity WHERE $at_gate");
	my $dropping = run_in_background('drop', $drop);
	# either it waits for the worker, or it is done at once
	wait_until('drop', q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'drop')
		OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'drop' AND wait_event_type = 'Lock')});
	open_gate($gate);
	$dropping->finish;
	is($output{drop}{err}, '', "dropped while it is refreshed: $drop");
	wait_for_idle();
	my @noise = grep { /(ERROR|WARNING|PANIC|FATAL):/ && !/ gate FATAL:/ } split /\n/, slurp_file($node->logfile, $before);
	cmp_ok(scalar(@noise), '<=', 2, 'a line for each worker at most') || diag @noise;
	unlike(join('', @noise), qr/cache lookup failed|could not open relation|tuple concurrently/, 'and one that users may read');
	is( $node->safe_psql('postgres', qq{
			SELECT (SELECT count(*) FROM limaml.stored_batch), (SELECT count(*) FROM limaml.stored_job WHERE state = 'running'),
				(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid > 2)}), '0|0|0', 'nothing is left');
	next if $drop =~ /DROP TABLE/;
	is($node->safe_psql('postgres', "SELECT count(*) FROM limaml.model WHERE model = '$model'"), '0', 'the model is gone');
	($status, $out, $err) = $node->psql('postgres', "SELECT limaml_wait($job)");
	like($err, qr/ERROR:  job $job does not exist/, 'and its jobs with it');
}

# The extension is dropped under a job

$node->safe_psql('postgres', q{
	SELECT limaml_drop_model('last');
	SELECT limaml_create_model('last', 'gated', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('last');
});
$gate = close_gate();
$job = $node->safe_psql('postgres', q{SELECT limaml_refresh_start('last')});
wait_until('a worker at the gate', "count(*) = 1 FROM pg_stat_activity WHERE $at_gate");
my $drop = q{SET client_min_messages = warning; DROP EXTENSION limaml CASCADE};
my $dropping = run_in_background('drop', $drop);
wait_until('drop', q{NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'drop')
	OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'drop' AND wait_event_type = 'Lock')});
open_gate($gate);
$dropping->finish;
$err = $output{drop}{err};

# each has tables that the other wants, and the server ends one of them
(undef, undef, $err) = $node->psql('postgres', $drop) if $err =~ /deadlock detected/;
is($err, '', 'the extension is dropped under a job');
wait_for_idle();
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'limaml worker'}), '0', 'which ends');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|could not open relation/, 'no crash');
is(() = $log =~ /was terminated by signal/g, 1, 'but the one above');
$node->stop;
done_testing();
