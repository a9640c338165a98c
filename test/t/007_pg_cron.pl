# Refreshes that pg_cron starts.  It does so at the full minute, so all that is
# to be seen is arranged before one.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sharedir = qx{@{[$ENV{PG_CONFIG} || 'pg_config']} --sharedir};
chomp $sharedir;
plan skip_all => 'pg_cron is not installed' unless -e "$sharedir/extension/pg_cron.control";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
	shared_preload_libraries = 'pg_cron'
	cron.database_name = 'postgres'
	cron.use_background_workers = on
	max_worker_processes = 20
	max_parallel_workers_per_gather = 0
});
$node->start;

# Model ctr is free; busy is being refreshed, by a session that waits at a gate.
my $members = 1000;
my $setup = qq{
	CREATE EXTENSION limaml;
	CREATE TABLE impression AS
	SELECT m AS member_id, (m * 7 + n * 3) % 50 AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, (m + n) % 3 = 0 AS clicked
	FROM generate_series(1, $members) m, generate_series(1, 6) n;
	CREATE INDEX ON impression (member_id, at);
	ANALYZE impression;
	SELECT limaml_create_model('ctr', 'impression', '{member_id}', 'clicked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('ctr');
};
my $exact = qq{
	SELECT count(*), count(*) FILTER (WHERE interactions = 7), bool_and(limaml_adapt('ctr', member_id) = embedding), count(DISTINCT xmin::text) > 1
	FROM ctr_embedding};
my $add = q{INSERT INTO impression SELECT m, 7, now(), true FROM unnest('{1,500,1000}'::int[]) m};

$node->safe_psql('postgres', qq{
	CREATE EXTENSION pg_cron;
	$setup
	CREATE FUNCTION gate(member_id integer, item_id integer) RETURNS integer LANGUAGE plpgsql STABLE AS \$\$
	BEGIN
		IF member_id = 700 THEN
			PERFORM pg_advisory_xact_lock_shared(1);
		END IF;
		RETURN item_id;
	END \$\$;
	CREATE VIEW gated AS SELECT member_id, gate(member_id, item_id) AS item_id, at, clicked FROM impression;
	SELECT limaml_create_model('busy', 'gated', '{member_id}', 'clicked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('busy');
});
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', $setup);

# In one database rows have arrived since the last refresh, in the other all is
# yet to be refreshed
$node->safe_psql('postgres', 'CALL limaml_refresh(\'ctr\')');
$node->safe_psql('postgres', $add);
$node->safe_psql('other', $add);

sub run_in_background
{
	my ($name, $sql) = @_;
	return IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . " application_name=$name", '-c', $sql ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
}
my $gate = run_in_background('gate', q{SELECT pg_advisory_lock(1), pg_sleep(600)});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'gate' AND wait_event = 'PgSleep'}) || die;
my $refresh = run_in_background('refresh', q{CALL limaml_refresh('busy')});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'refresh' AND wait_event_type = 'Lock'}) || die;
my $before = $node->safe_psql('postgres', q{SELECT count(*) FROM limaml.job WHERE model = 'busy'});

$node->safe_psql('postgres', q{
	SELECT cron.schedule('ctr', '* * * * *', $$CALL limaml_refresh('ctr')$$);
	SELECT cron.schedule('busy', '* * * * *', $$CALL limaml_refresh('busy')$$);
	SELECT cron.schedule('background', '* * * * *', $$SELECT limaml_refresh_start('busy')$$);
	SELECT cron.schedule('wrong', '* * * * *', $$CALL limaml_refresh('nothing')$$);
	SELECT cron.schedule_in_database('other', '* * * * *', $$CALL limaml_refresh('ctr')$$, 'other');
});
my $ended = q{SELECT count(DISTINCT j.jobname) = 5 FROM cron.job j JOIN cron.job_run_details d USING (jobid) WHERE d.status IN ('succeeded', 'failed')};
$node->poll_query_until('postgres', $ended) || $node->poll_query_until('postgres', $ended) || diag 'not all have ended';
sub ends
{
	my ($job) = @_;
	return $node->safe_psql('postgres', "SELECT d.status, d.return_message FROM cron.job j JOIN cron.job_run_details d USING (jobid) WHERE j.jobname = '$job' ORDER BY d.runid LIMIT 1");
}

like(ends('ctr'), qr/^succeeded\|/, 'pg_cron calls limaml_refresh');
is($node->safe_psql('postgres', $exact), "$members|3|t|t", 'which adapts who has new rows');
is($node->safe_psql('postgres', q{SELECT state, adapted, background FROM limaml.job WHERE model = 'ctr' ORDER BY job LIMIT 1 OFFSET 1}), 'done|3|f', 'and only them');
like(ends('other'), qr/^succeeded\|/, 'and in another database');
is($node->safe_psql('other', $exact), "$members|3|t|t", 'where it adapts all, in batches that it commits');

like(ends('busy'), qr/^succeeded\|/, 'during a refresh of the model it succeeds');
is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml.job WHERE model = 'busy'}), $before, 'having left it alone');
like(ends('background'), qr/^succeeded\|/, 'and so does limaml_refresh_start');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'refresh' AND wait_event_type = 'Lock'}), '1', 'while the refresh goes on');
like(ends('wrong'), qr/^failed\|ERROR: +model "nothing" does not exist/, 'an error is reported');

$node->safe_psql('postgres', q{
	SELECT cron.unschedule(jobid) FROM cron.job;
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gate'});
$_->finish for $gate, $refresh;
is($node->safe_psql('postgres', q{SELECT count(*), bool_and(limaml_adapt('busy', member_id) = embedding) FROM busy_embedding}), "$members|t", 'and ends well');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal|could not open relation|portal snapshot/, 'no crash');
$node->stop;
done_testing();
