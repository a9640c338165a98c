# Many entities, by passes over their interactions: two workers at once, one
# that dies in the middle, and an embedding that somebody stores meanwhile.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $members = 40_000;
my $node = PostgreSQL::Test::Cluster->new('passes');
$node->init;
$node->append_conf('postgresql.conf', qq{
	autovacuum = off
	restart_after_crash = on
});
$node->start;

# A row of every 13th member waits while the gate is closed: both shares have some
$node->safe_psql('postgres', <<~"SQL");
	CREATE EXTENSION limaml;
	CREATE FUNCTION gate(member_id integer) RETURNS boolean LANGUAGE plpgsql STABLE AS \$\$
	BEGIN
		IF member_id % 13 = 0 THEN
			PERFORM pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1);
		END IF;
		RETURN true;
	END \$\$;
	CREATE TABLE shown AS SELECT n % $members AS member_id, n AS at, (hashint4(n) % 3 = 0)::int AS clicked, n % 11 AS price
	FROM generate_series(1, $members * 3) n;
	ANALYZE shown;
	CREATE VIEW gated AS SELECT member_id, at, clicked, CASE WHEN gate(member_id) THEN price END AS price FROM shown;
	CREATE VIEW few AS SELECT * FROM shown WHERE member_id < 100;
	SELECT limaml_create_model(model, relation::regclass, '{member_id}', 'clicked', 'at', '{price}',
		options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1}')
	FROM (VALUES ('few', 'few'), ('taste', 'gated')) m (model, relation);
	SELECT limaml_train('few');
	SELECT limaml_import('taste', limaml_export('few')), limaml_import('taste', limaml_export('few'));
	SQL

# The second version is what the first is to be: within a transaction keys are listed
$node->safe_psql('postgres', q{BEGIN; CALL limaml_refresh('taste', 2); COMMIT});
my $exact = q{
	SELECT count(*), bool_and(ROW(a.embedding, a.interactions, a.adapted_through, a.loss_before, a.loss_after) IS NOT DISTINCT FROM
		ROW(b.embedding, b.interactions, b.adapted_through, b.loss_before, b.loss_after))
	FROM (SELECT * FROM taste_embedding WHERE version = 1) a FULL JOIN (SELECT * FROM taste_embedding WHERE version = 2) b USING (member_id)};
my $at_gate = q{backend_type = 'limaml worker' AND wait_event = 'advisory' AND query LIKE '%refreshing%'};

sub wait_until
{
	my ($what, $sql) = @_;
	$node->poll_query_until('postgres', "SELECT $sql") || die "it does not come to: $what";
	return;
}

# Closes the gate, starts a refresh of two workers, and waits until both are there
sub start_at_gate
{
	my ($arguments) = @_;
	my $gate = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' application_name=gate', '-c', 'SELECT pg_advisory_lock(1), pg_sleep(600)' ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
	wait_until('a closed gate', q{count(*) = 1 FROM pg_stat_activity WHERE application_name = 'gate' AND wait_event = 'PgSleep'});
	my $job = $node->safe_psql('postgres', "SELECT limaml_refresh_start('taste', 2, 1$arguments)");
	wait_until('both workers at the gate', "count(*) = 2 FROM pg_stat_activity WHERE $at_gate");
	return ($job, $gate);
}

sub open_gate
{
	my ($gate) = @_;
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gate'});
	$gate->finish;
	return;
}

sub ends_well
{
	my ($job, $what) = @_;
	is($node->safe_psql('postgres', "SELECT limaml_wait($job)"), 'done', $what);
	is($node->safe_psql('postgres', $exact), "$members|t", 'and nothing is wrong or missing');
	is($node->safe_psql('postgres', "SELECT entities, adapted, interactions FROM limaml.job WHERE job = $job"),
		"$members|$members|" . 3 * $members, 'nor counted twice');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM limaml.stored_batch}), '0', 'no share is left');
	is(scalar(glob($node->data_dir . '/base/pgsql_tmp/*')), undef, 'and no temporary file');
	return;
}

# Two workers, each a share of its own

my ($job, $gate) = start_at_gate('');
is($node->safe_psql('postgres', "SELECT shares FROM limaml.stored_job WHERE id = $job"), '2', 'a share for each of two workers');
like($node->safe_psql('postgres', "SELECT total FROM limaml.progress WHERE job = $job"), qr/^[34]\d{4}$/, 'limaml.progress knows about how many there are');
open_gate($gate);
ends_well($job, 'two workers do all');
is($node->safe_psql('postgres', "SELECT count(*), min(entities) > 0.4 * $members FROM limaml.stored_worker WHERE job_id = $job"), '2|t', 'each its share');

# An embedding that was not there when the share began

$node->safe_psql('postgres', q{DELETE FROM taste_embedding WHERE version = 1});
($job, $gate) = start_at_gate(', only_stale => false');
$node->safe_psql('postgres', q{INSERT INTO taste_embedding SELECT member_id, 1, limaml_embedding('taste', -1), 1, 1, 1, 1, now() FROM taste_embedding WHERE version = 2 AND member_id = 777});
open_gate($gate);
ends_well($job, 'an embedding that somebody stores meanwhile is no failure');

# A worker is terminated, and one killed, while they read

for my $how ('terminated', 'killed')
{
	for my $new (1, 0)
	{
		$node->safe_psql('postgres', q{DELETE FROM taste_embedding WHERE version = 1}) if $new;
		($job, $gate) = start_at_gate(', only_stale => false');
		my $pid = $node->safe_psql('postgres', "SELECT min(pid) FROM pg_stat_activity WHERE $at_gate");
		if ($how eq 'terminated')
		{
			$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
			wait_until('two others at the gate', "count(*) = 2 AND bool_and(pid <> $pid) FROM pg_stat_activity WHERE $at_gate");
			open_gate($gate);
		}
		else
		{
			kill('KILL', $pid) == 1 || die "cannot kill $pid: $!";
			$gate->finish;
			wait_until('the job\'s end', "state <> 'running' FROM limaml.job WHERE job = $job");
		}
		ends_well($job, "a worker is $how");
		is($node->safe_psql('postgres', "SELECT sum(restarts) > 0 FROM limaml.stored_worker WHERE job_id = $job"), 't', 'and has come back');
	}
}

$node->stop;
done_testing();
