# What runs long can be ended: training within about a second and with nothing
# left behind; a refresh with the batches that it had committed.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, (m * 7 + n * 3) % 50 AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at, (m + n) % 3 = 0 AS liked
	FROM generate_series(1, 5000) m, generate_series(1, 20) n;
	CREATE INDEX ON rating (member_id, at);
	SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}');
});

my $start = time();
my ($status, $out, $err) = $node->psql('postgres',
	q{SET statement_timeout = '2s'; SELECT limaml_train('taste', '{"epochs": 10000, "patience": 10000}')});
like($err, qr/canceling statement due to statement timeout/, 'training honours statement_timeout');
ok(time() - $start < 4, 'within about a second');
is($node->safe_psql('postgres', q{
	SELECT (SELECT count(*) FROM limaml.version), (SELECT count(*) FROM limaml.training_log),
		(SELECT count(*) FROM pg_inherits WHERE inhparent = 'taste_embedding'::regclass)}),
	'0|0|0', 'and leaves nothing behind');

# The third batch of a refresh meets a label that is none
$node->safe_psql('postgres', q{
	SET client_min_messages = warning;
	SELECT limaml_train('taste', '{"epochs": 1}');
	ALTER TABLE rating ALTER liked TYPE int USING liked::int;
	UPDATE rating SET liked = 7 WHERE member_id = 2500;
});
($status, $out, $err) = $node->psql('postgres', q{CALL limaml_refresh('taste')});
like($err, qr/label "liked" of member_id 2500 is 7, neither 0 nor 1/, 'a refresh that fails names the entity');
my $kept = $node->safe_psql('postgres', q{SELECT count(*) FROM taste_embedding});
ok($kept >= 1000 && $kept < 5000, "and keeps the batches before it: $kept");

$node->safe_psql('postgres', q{UPDATE rating SET liked = 0 WHERE member_id = 2500; CALL limaml_refresh('taste')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM taste_embedding}), '5000', 'the next run does the rest');

# Two at once: the second says so and leaves
my $holder = IPC::Run::start(
	['psql', '-Xq', '-d', $node->connstr('postgres'), '-c', q{BEGIN}, '-c', q{CALL limaml_refresh('taste')}, '-c', q{SELECT pg_sleep(600)}],
	'>', '/dev/null', '2>', '/dev/null');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
($status, $out, $err) = $node->psql('postgres', q{CALL limaml_refresh('taste')});
like($err, qr/model "taste" is being refreshed by another session/, 'a second refresh says so and leaves');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
$holder->finish;
($status, $out, $err) = $node->psql('postgres', q{CALL limaml_refresh('taste')});
like($err, qr/refreshed 0 embeddings/, 'and the next one finds the lock free');

$node->stop;
done_testing();
