# Training by several processes: to the bit what one makes, whatever is learned;
# and an error, a cancellation or a lost worker ends all of them.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

# Entities of one row and of many; values of a category that few rows have, and
# arrays of any length
$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, abs(hashint4(m * 1000 + n)) % 300 AS item_id, hashint4(n + m) % 100 / 30.0 AS age,
		nullif(n % 9, 0) AS price, (ARRAY['a', 'b', 'c', 'd', 'e'])[1 + n % 3 : 1 + m % 5] AS tags,
		CASE WHEN n % 7 > 0 THEN ARRAY[n % 5, m % 3]::real[] END AS v, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at,
		(hashint4(m * 1000 + n) + m) % 3 = 0 AS liked
	FROM generate_series(1, 1500) m, LATERAL generate_series(1, 1 + m % 61 + CASE m WHEN 7 THEN 1000 ELSE 0 END) n;
	CREATE TABLE member AS SELECT m AS member_id, m % 5 AS country, m % 11 / 10.0 AS days, (ARRAY[1, 2, 3, 4])[m % 4 : m % 7] AS groups FROM generate_series(1, 1500) m;
	CREATE TABLE item AS SELECT i AS item_id, i % 9 AS price, (ARRAY['a', 'b', 'c', 'd', 'e'])[1 + i % 3 : 1 + i % 5] AS tags FROM generate_series(0, 400) i;
	SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,age,price}',
		'member', '{country:category,days}', options => '{"embedding_size": 8, "meta_hidden": [32], "global_hidden": [64, 32],
			"items": "item", "item_key": "item_id", "negatives": 0}');
	SELECT limaml_create_model('arrays', 'rating', '{member_id}', 'liked', 'at', '{tags,age,v}',
		'member', '{country:category,groups}', options => '{"embedding_size": 8, "meta_hidden": [32], "global_hidden": [64, 32],
			"items": "item", "item_key": "item_id", "negatives": 0}');
});

sub processes
{
	my ($stderr) = @_;
	return $stderr =~ /training with (\d) parallel workers/ ? 1 + $1 : 1;
}

# The network of a version, without when and what for; all arms have other code
foreach (
	'{"epochs": 4}',
	'{"epochs": 4, "factor_size": 4, "prior_loss": 0.5, "activation": "tanh", "category_dropout": 0.2}',
	'{"epochs": 4, "order": 1, "adapts": "embedding", "learn_inner_rate": true}',
	'{"epochs": 5, "personalization": "full"}',
	'{"epochs": 5, "personalization": "head", "inner_rate": 0.01}',
	'{"epochs": 25, "personalization": "id"}',
	'{"epochs": 25, "personalization": "none"}',
	'{"epochs": 3, "negatives": 2, "negative_sampling": "popularity"}',
	'arrays {"epochs": 5, "category_dropout": 0.2}',
	'arrays {"epochs": 3, "negatives": 2}',
	'arrays {"epochs": 5, "personalization": "full"}')
{
	my $model = /^arrays/ ? 'arrays' : 'taste';
	my $options = s/^arrays //r;
	my (%digest, %log, @processes);

	foreach my $workers (0, 1, 3)
	{
		my ($status, $out, $err) = $node->psql('postgres', qq{
			SET max_parallel_maintenance_workers = $workers;
			SET client_min_messages = debug1;
			SELECT version FROM limaml_train('$model', '$options') \\gset
			RESET client_min_messages;
			SELECT encode(digest, 'hex') FROM limaml.version WHERE model = '$model' AND version = :version;
			SELECT string_agg(format('%s %s %s', train_loss, validation_loss, validation_auc), ';' ORDER BY refit, epoch)
			FROM limaml.training_log WHERE model = '$model' AND version = :version;
			SELECT limaml_drop_version('$model', :version) WHERE :version > 1}, on_error_stop => 1);
		is($status, 0, "trains $model with $workers workers: $options") or diag($err);
		my ($digest, $log) = split /\n/, $out;
		$digest{$digest} = 1;
		$log{$log} = 1;
		push @processes, processes($err);
	}
	is("@processes", '1 2 4', 'by as many processes');
	is(scalar keys %digest, 1, 'to the same network');
	is(scalar keys %log, 1, 'in the same epochs');
}

# What goes wrong in a worker is the leader's error
my ($status, $out, $err) = $node->psql('postgres', q{
	SET max_parallel_maintenance_workers = 3;
	SET client_min_messages = debug1;
	SELECT limaml_train('taste', '{"epochs": 20, "inner_rate": 1e6, "learn_inner_rate": false}')});
is(processes($err), 4, 'several processes');
like($err, qr/ERROR:  the inner loop diverged for member_id \d+ at step \d/, 'the inner loop diverges');

# limaml_tune trains in subtransactions, and goes on
($status, $out, $err) = $node->psql('postgres', q{
	SET max_parallel_maintenance_workers = 2;
	SET client_min_messages = debug1;
	SELECT version > 0 FROM limaml_tune('taste', '{"inner_rate": [1000000]}', 2)});
is($out, 't', 'a search over options') or diag($err);
is(processes($err), 3, 'with workers');
like($err, qr/trial 2 diverged/, 'outlives a trial that diverges');

# A worker that is ended, and a leader that is cancelled
foreach my $end ("pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'parallel worker' LIMIT 1",
	"pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT limaml_train%' AND backend_type = 'client backend'")
{
	my ($stdout, $stderr) = ('', '');
	my $training = IPC::Run::start(
		['psql', '-Xq', '-d', $node->connstr('postgres'), '-c', 'SET max_parallel_maintenance_workers = 2', '-c',
			q{SELECT limaml_train('taste', '{"epochs": 10000, "patience": 10000}')}],
		'>', \$stdout, '2>', \$stderr);
	$node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'parallel worker'});
	is($node->safe_psql('postgres', "SELECT $end"), 't', 'ends one process');
	$training->finish;
	like($stderr, qr/ERROR:  canceling statement due to user request|terminating (background worker "parallel worker"|connection) due to administrator command/, 'which says so');
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'parallel worker'});
	pass('and no worker is left');
}
is($node->safe_psql('postgres', q{SET client_min_messages = warning; SELECT epochs FROM limaml_train('taste', '{"epochs": 1}')}), '1',
	'training works after it');

$node->stop;
done_testing();
