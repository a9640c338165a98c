# With the option "staleness": "changes" no change is ever lost: three writers
# run ten thousand random statements while refreshes run, are killed and
# cancelled, the server crashes twice, and second versions are trained, filled
# and deployed.  Afterwards one refresh leaves every embedding as limaml_adapt
# makes it, bit for bit, no key in the queue, and nothing to do for the next.
#
# That is so after each of three rounds.  In the first nothing has entities
# adapted but their changes; in the second there are two versions; in the third
# come TRUNCATE and refreshes of all entities, which hide what was lost before.
#
# LIMAML_SEED=n makes the writers run the statements of an earlier run; when
# what happens is up to the machine all the same.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $seed = $ENV{LIMAML_SEED} // (time() * 1000) % 1_000_000;
note "LIMAML_SEED=$seed";

my @models = qw(by_member by_pair);
my $writers = 3;
my $rounds = 3;
my $chunks = 4;           # of a round
my $transactions = 90;    # of a chunk
my $members = 600;
my $most_seconds = 150;    # of a round

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
	max_connections = 30
	max_worker_processes = 16
	restart_after_crash = on
	deadlock_timeout = 50ms
	autovacuum_naptime = 1s
	log_min_messages = warning
	log_statement = none
});
$node->start;

# What refreshes store is slowed down, for something to happen meanwhile.
$node->safe_psql('postgres', qq{
	CREATE EXTENSION limaml;
	CREATE SEQUENCE rating_id;
	CREATE TABLE rating (id bigint NOT NULL DEFAULT nextval('rating_id'), member_id int, channel int NOT NULL,
		item_id int, year int, at timestamptz, liked boolean, PRIMARY KEY (id, channel)) PARTITION BY LIST (channel);
	CREATE TABLE rating_0 PARTITION OF rating FOR VALUES IN (0);
	CREATE TABLE rating_1 PARTITION OF rating FOR VALUES IN (1);
	CREATE TABLE rating_2 PARTITION OF rating FOR VALUES IN (2);
	CREATE INDEX ON rating (member_id, channel, at);
	CREATE TABLE member (member_id int PRIMARY KEY, age int);
	CREATE FUNCTION ratings(members int, each int) RETURNS SETOF rating LANGUAGE sql AS \$\$
		SELECT nextval('rating_id'), m, (m + n) % 3, abs(hashint4(m * 100 + n)) % 40, n % 5,
			timestamptz '2024-01-01 UTC' + n % 7 * interval '1 day', (m * 7 + n * 3) % 5 < 2
		FROM generate_series(1, members) m, generate_series(1, each) n \$\$;
	INSERT INTO rating SELECT * FROM ratings($members, 6);
	INSERT INTO member SELECT m, m % 60 FROM generate_series(1, $members) m;
	SELECT limaml_create_model(model, 'rating', key, 'liked', 'at', '{item_id:category,year}', 'member', meta, options =>
		'{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1, "support_rows": 16, "staleness": "changes"}')
	FROM (VALUES ('by_member', '{member_id}'::text[], '{age}'::text[])) AS v (model, key, meta);
	SELECT limaml_create_model('by_pair', 'rating', '{member_id,channel}', 'liked', 'at', '{item_id:category,year}', options =>
		'{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 1, "support_rows": 16, "staleness": "changes"}');
	SELECT limaml_train('by_member'), limaml_train('by_pair');
	CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM pg_sleep(random() * 0.02);
		RETURN NULL;
	END \$\$;
	CREATE TRIGGER slow AFTER INSERT ON by_member_embedding FOR EACH STATEMENT EXECUTE FUNCTION slow();
	CREATE TRIGGER slow AFTER INSERT ON by_pair_embedding FOR EACH STATEMENT EXECUTE FUNCTION slow();
	ANALYZE;
});

#
# What the writers do
#

srand($seed);

sub one_of { return $_[ int rand @_ ]; }
sub member { return 1 + int rand($members * 1.1); }
sub moment { return "timestamptz '2024-01-01 UTC' + " . int(rand(400) - 100) . " * interval '6 hours'"; }
sub table { return rand() < 0.8 ? 'rating' : 'rating_' . int rand 3; }
sub some { return 'member_id = ' . member() . (rand() < 0.6 ? ' AND id % 3 = ' . int rand 3 : ''); }

my @statements = (
	[ 24, sub { sprintf 'INSERT INTO rating (member_id, channel, item_id, year, at, liked) VALUES (%d, %d, %d, %d, %s, %s)',
		member(), rand 3, rand 45, rand 6, moment(), one_of('true', 'false') } ],
	[ 8, sub { my $c = int rand 3; sprintf 'INSERT INTO rating_%d (member_id, channel, item_id, year, at, liked) SELECT %d + n * 7, %d, n, %d, %s, n %% 2 = 0 FROM generate_series(1, %d) n',
		$c, member(), $c, rand 6, moment(), 1 + rand 6 } ],
	[ 4, sub { join "\n", 'COPY rating (member_id, channel, item_id, year, at, liked) FROM STDIN;',
		(map { join "\t", member(), int rand 3, int rand 40, int rand 6, sprintf('2024-01-%02d 00:00:00+00', 1 + int rand 28), one_of(qw(t f)) } 0 .. int rand 4), "\\.\n" } ],
	[ 10, sub { sprintf 'UPDATE %s SET liked = NOT liked WHERE %s', table(), some() } ],
	[ 8, sub { sprintf 'UPDATE %s SET item_id = %d, year = %d WHERE %s', table(), rand 45, rand 6, some() } ],
	[ 8, sub { sprintf 'UPDATE %s SET at = %s WHERE %s', table(), moment(), some() } ],
	[ 8, sub { sprintf 'UPDATE %s SET member_id = %d WHERE %s', table(), member(), some() } ],
	[ 6, sub { sprintf 'UPDATE rating SET channel = %d WHERE %s', rand 3, some() } ],
	[ 3, sub { sprintf 'UPDATE %s SET %s = NULL WHERE %s', table(), one_of(qw(liked at member_id)), some() } ],
	[ 10, sub { sprintf 'DELETE FROM %s WHERE %s', table(), some() } ],
	[ 4, sub { sprintf 'DELETE FROM rating WHERE member_id = %d', member() } ],
	[ 5, sub { sprintf 'INSERT INTO rating (id, member_id, channel, item_id, year, at, liked) SELECT id, member_id, channel, %d, 1, %s, liked FROM rating WHERE %s'
		. ' ON CONFLICT (id, channel) DO UPDATE SET item_id = excluded.item_id, at = excluded.at, member_id = %d', rand 40, moment(), some(), member() } ],
	[ 4, sub { sprintf 'MERGE INTO rating r USING (SELECT %d AS m, %d AS c) s ON r.member_id = s.m AND r.channel = s.c WHEN MATCHED AND year = %d THEN DELETE'
		. ' WHEN MATCHED THEN UPDATE SET item_id = %d WHEN NOT MATCHED THEN INSERT (member_id, channel, item_id, year, at, liked) VALUES (s.m, s.c, 1, 1, %s, true)',
		member(), rand 3, rand 6, rand 40, moment() } ],
	[ 8, sub { sprintf 'UPDATE member SET age = %d WHERE member_id = %d', rand 80, member() } ],
	[ 3, sub { sprintf 'INSERT INTO member VALUES (%d, %d) ON CONFLICT (member_id) DO UPDATE SET age = excluded.age + 1', member(), rand 80 } ],
	[ 2, sub { sprintf 'DELETE FROM member WHERE member_id = %d', member() } ],
	[ 1, sub { sprintf 'WITH gone AS (DELETE FROM rating WHERE %s RETURNING *) INSERT INTO rating (member_id, channel, item_id, year, at, liked) SELECT %d, channel, item_id, year, at, liked FROM gone', some(), member() } ],
);
my @drawn = map { ($_->[1]) x $_->[0] } @statements;
my $count = 0;

sub transaction
{
	my ($truncates) = @_;
	my @sql;

	my $isolation = one_of(('READ COMMITTED') x 6, ('REPEATABLE READ') x 3, 'SERIALIZABLE');
	push @sql, "BEGIN ISOLATION LEVEL $isolation";
	push @sql, 'SELECT 1' if rand() < 0.1;
	push @sql, sprintf 'SELECT pg_sleep(%.2f)', rand(0.2) if $truncates;
	if ($truncates eq 'rating') { push @sql, 'TRUNCATE rating', "INSERT INTO rating SELECT * FROM ratings($members, 5) WHERE random() < 0.8"; }
	elsif ($truncates) { push @sql, "TRUNCATE $truncates"; }
	push @sql, 'INSERT INTO member SELECT m, m % 50 FROM generate_series(5, 500) m' if $truncates eq 'member';
	for (1 .. 1 + int(rand() * rand() * 14))
	{
		my $savepoint = rand() < 0.05;
		push @sql, 'SAVEPOINT s' if $savepoint;
		push @sql, one_of(@drawn)->();
		$count++;
		push @sql, one_of('ROLLBACK TO s', 'RELEASE s') if $savepoint;
		push @sql, sprintf 'SELECT pg_sleep(%.2f)', rand(rand() < 0.1 ? 1.2 : 0.15) if rand() < 0.015;
	}
	push @sql, rand() < 0.1 ? 'ROLLBACK' : 'COMMIT';
	return map { /\n\z/ ? $_ : "$_;\n" } @sql;
}

my $folder = PostgreSQL::Test::Utils::tempdir();
my %truncated = ('1-9' => 'rating', '2-10' => 'rating', '3-9' => 'rating_1', '3-10' => 'member', '1-11' => 'rating_2', '2-9' => 'member', '2-12' => 'rating_0');
for my $writer (1 .. $writers)
{
	for my $chunk (1 .. $rounds * $chunks)
	{
		my $truncates = $truncated{"$writer-$chunk"} // '';
		my $when = int rand $transactions;
		append_to_file("$folder/$writer-$chunk.sql",
			join '', map { transaction($_ == $when ? $truncates : '') } 1 .. $transactions);
	}
}
cmp_ok($count, '>', 10_000, "$count statements, LIMAML_SEED=$seed");

#
# Processes
#

my %process;
my @unexpected;

# Errors that somebody has a right to here.
my $usual = join '|', 'terminating connection due to', 'terminating connection because of crash', 'server closed the connection',
	'connection to server', 'the database system is', 'no connection to the server', 'could not receive data from server',
	'could not send data to server';
# In a transaction that is aborted no COPY begins, and psql takes its data for
# statements.  A row that one writer stores again while another moves it has its
# id in two channels, and can then not follow itself.
my %usual = (
	writer => qr/$usual|deadlock detected|could not serialize access|current transaction is aborted|already moved to another partition|savepoint "s" does not exist|violates unique constraint "rating_\d_pkey"|syntax error at or near "\d+" at character 1$/,
	refresh => qr/$usual|canceling statement due to user request|was interrupted, and nobody works on it/,
	train => qr/$usual/);

sub start
{
	my ($name, $kind, $file) = @_;
	my $err = "$folder/$name.err";
	unlink $err;
	$process{$name} = {
		kind => $kind, file => $file, err => $err,
		harness => IPC::Run::start(
			[ 'psql', '-XAtq', '-v', 'VERBOSITY=terse', '-d', $node->connstr('postgres') . " application_name=$name", '-f', $file ],
			'<', '/dev/null', '>', "$folder/$name.out", '2>', $err) };
	return;
}

# Whether it has ended; then its status is that of psql.
sub ended
{
	my ($name) = @_;
	my $process = $process{$name};
	return 0 if $process->{harness}->pumpable;
	$process->{harness}->finish;
	$process->{status} = $process->{harness}->result;
	push @unexpected, map { "$name: $_" } grep { /(?:ERROR|FATAL|PANIC|WARNING):/ && !/$usual{$process->{kind}}/ } split /\n/, slurp_file($process->{err});
	return 1;
}

sub run_sql
{
	my ($name, $kind, $sql) = @_;
	my $file = "$folder/$name.sql";
	unlink $file;
	append_to_file($file, $sql);
	start($name, $kind, $file);
	return;
}

# '' where the server is not there just now.
sub ask
{
	my ($sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, timeout => 60);
	return defined $status && $status == 0 ? $out : '';
}

sub await_server
{
	my $until = time() + 60;
	sleep 0.05 while ask('SELECT 1') ne '1' && time() < $until;
	die "the server does not come back" if time() >= $until;
	return;
}

#
# What happens
#

my $start = time();
my $round = 0;
my %chunk;
my %happened = map { $_ => 0 } qw(refresh worker call cancel writer crash);
my %version2 = map { $_ => '' } @models;    # '', training, trained, filled
my $next_blow = $start + 1;
my $refusals = 0;

sub next_refresh
{
	my ($model) = @_;
	my $kind = rand();
	my $more = $version2{$model} eq 'trained' ? one_of('', ', version => 2', ', version => 2') : '';

	$more = one_of('', ', version => 2') if $version2{$model} eq 'filled' && rand() < 0.2;
	$more .= ', only_stale => false' if $round == 3 && rand() < 0.1;
	return "CALL limaml_refresh('$model'$more);\n" if $kind < 0.55;
	return "SELECT limaml_wait(limaml_refresh_start('$model', 2$more));\n" if $kind < 0.95;
	return "BEGIN; CALL limaml_refresh('$model'$more); SELECT pg_sleep(0.05); " . one_of('COMMIT', 'ROLLBACK') . ";\n";
}

sub pid_of
{
	my ($condition) = @_;
	return ask("SELECT pid FROM pg_stat_activity WHERE $condition ORDER BY random() LIMIT 1");
}

sub blow
{
	my $worker = q{backend_type = 'limaml worker'};
	my $call = q{application_name LIKE 'refresh%' AND state = 'active' AND query LIKE '%CALL%'};
	my $kind = one_of(qw(worker worker call call cancel cancel writer));
	my $pid;

	# once in the first round, and once in the third
	$kind = 'crash' if $happened{crash} < ($round + 1) / 2 - 0.4 && ($chunk{2} - 1) % $chunks >= 2;
	if ($kind eq 'worker') { $pid = pid_of($worker); }
	elsif ($kind eq 'call') { $pid = pid_of($call); }
	elsif ($kind eq 'writer') { $pid = pid_of(q{application_name LIKE 'writer%'}); }
	elsif ($kind eq 'cancel')
	{
		$happened{cancel}++ if ask(q{SELECT limaml_cancel(job) FROM limaml.job WHERE state = 'running' AND kind = 'refresh' ORDER BY random() LIMIT 1}) eq 't';
		return;
	}
	else
	{
		$pid = pid_of("$worker OR $call") || return;
		kill 9, $pid;
		$happened{crash}++;
		sleep 0.2;
		await_server();
		return;
	}
	$happened{$kind}++ if $pid && ask("SELECT pg_terminate_backend($pid)") eq 't';
	return;
}

sub keep_writing
{
	for my $writer (keys %chunk)
	{
		my $name = "writer$writer";

		if ($process{$name})
		{
			next unless ended($name);
			# one whose connection was lost does it all again
			if ($process{$name}{status} == 0) { $chunk{$writer}++; }
			else { await_server(); }
		}
		delete $process{$name};
		if ($chunk{$writer} <= $round * $chunks) { start($name, 'writer', "$folder/$writer-$chunk{$writer}.sql"); }
		else { delete $chunk{$writer}; }
	}
	return;
}

sub keep_refreshing
{
	my ($model) = @_;
	my $name = "refresh_$model";

	if ($process{$name})
	{
		return unless ended($name);
		await_server() if $process{$name}{status} == 2;
	}
	$happened{refresh} += 3;
	run_sql($name, 'refresh', join '', map { next_refresh($model) } 1 .. 3);
	return;
}

# Trains a second version, and when it has all embeddings deploys it, or not.
sub succeed
{
	my ($model, $deploys) = @_;
	my $train = "train_$model";

	if ($version2{$model} eq '')
	{
		run_sql($train, 'train', "SELECT limaml_train('$model', '{\"seed\": 7}');\n");
		$version2{$model} = 'training';
	}
	elsif ($version2{$model} eq 'training' && ended($train))
	{
		await_server();
		$version2{$model} = ask("SELECT count(*) FROM limaml.version WHERE model = '$model'") > 1 ? 'trained' : '';
	}
	elsif ($version2{$model} eq 'trained'
		&& ask("SELECT complete_at IS NOT NULL FROM limaml.stored_refresh r JOIN limaml.model m ON m.id = model_id WHERE model = '$model' AND version = 2") eq 't')
	{
		# entities that came since the last refresh may have one in the first version only
		if (!$deploys || ask("SELECT limaml_deploy('$model', 2)") eq '2') { $version2{$model} = 'filled'; }
		else { $refusals++; }
	}
	return;
}

my %key = (by_member => [ 'e.member_id', 'member_id' ], by_pair => [ 'ROW(e.member_id, e.channel)', 'member_id, channel' ]);

sub adapted
{
	my ($model) = @_;
	return $node->safe_psql('postgres', "SELECT state, adapted FROM limaml.job WHERE model = '$model' ORDER BY job DESC LIMIT 1");
}

# Every embedding of the deployed version, with no key left that has changed.
sub check
{
	my ($model, $version) = @_;
	my ($entity, $columns) = @{ $key{$model} };

	is($node->safe_psql('postgres', "SELECT deployed FROM limaml.model WHERE model = '$model'"), $version, "round $round, $model: version $version");
	is( $node->safe_psql('postgres', qq{
			SELECT $columns, e.interactions, e.adapted_at FROM ${model}_embedding e
			WHERE version = $version AND limaml_adapt('$model', $entity) IS DISTINCT FROM embedding ORDER BY $columns}),
		'', 'every embedding is what limaml_adapt makes');
	is( $node->safe_psql('postgres', qq{
			SELECT * FROM (SELECT $columns, count(*), max(at) FROM rating WHERE liked IS NOT NULL AND at IS NOT NULL AND member_id IS NOT NULL GROUP BY $columns) i
			FULL JOIN (SELECT $columns, interactions, adapted_through FROM ${model}_embedding WHERE version = $version) e USING ($columns)
			WHERE count IS DISTINCT FROM NULLIF(interactions, 0) OR max IS DISTINCT FROM adapted_through ORDER BY $columns}),
		'', 'every entity has one, of all its rows');
	is($node->safe_psql('postgres', "SELECT DISTINCT * FROM ${model}_embedding_changes"), '', 'no changed key is left');
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM ${model}_embedding WHERE version = $version"), '>', 100, 'and there are embeddings');
	return;
}

sub check_all
{
	for my $model (@models)
	{
		my $changed = $node->safe_psql('postgres', "SELECT count(DISTINCT ROW($key{$model}[1])) FROM ${model}_embedding_changes");

		$node->safe_psql('postgres', "CALL limaml_refresh('$model')");
		is(adapted($model), "done|$changed", "round $round, $model: the last refresh adapts what has changed");
		check($model, $version2{$model} eq 'filled' && $model eq 'by_member' ? 2 : 1);
		$node->safe_psql('postgres', "CALL limaml_refresh('$model')");
		is(adapted($model), 'done|0', 'the next refresh has nothing to do');
	}
	is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM limaml.stored_batch), (SELECT count(*) FROM limaml.job WHERE state = 'running')}),
		'0|0', 'no batch and no job is left over');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'nor a lock');
	return;
}

#
# It happens
#

for (1 .. $rounds)
{
	my $round_start = time();
	my $round_end = $round_start + $most_seconds;

	$round = $_;
	%chunk = map { $_ => 1 + ($round - 1) * $chunks } 1 .. $writers;
	while (%chunk || $round == 2 && grep { $version2{$_} ne 'filled' } @models)
	{
		keep_writing();
		keep_refreshing($_) for @models;
		if ($round == 2) { succeed($_, $_ eq 'by_member') for @models; }
		if (%chunk && time() > $next_blow)
		{
			blow() if $chunk{2};
			$next_blow = time() + rand(0.5);
		}
		die "round $round does not come to an end" if time() > $round_end;
		sleep 0.01;
	}
	for my $name (keys %process)
	{
		until (ended($name)) { sleep 0.01; die "$name does not end" if time() > $round_end; }
	}
	%process = ();

	# jobs whose workers were killed last go on, until they are done
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'limaml worker'})
		|| die 'workers remain';
	my $checks = time();
	check_all();
	note sprintf 'round %d: %.1f s of writing, %.1f s of checks', $round, $checks - $round_start, time() - $checks;
}
note join ', ', "deployment refused $refusals times", map { "$_ $happened{$_}" } sort keys %happened;
is(join("\n", @unexpected), '', 'no error that has no right to be there');
cmp_ok($happened{$_}, '>', 0, "happened: $_") for qw(worker call cancel writer);
is($happened{crash}, 2, 'and the server crashed twice');

# Both versions are up to date, so that the other may be deployed at any time

is($node->safe_psql('postgres', q{SELECT limaml_deploy('by_pair', 2)}), '2', 'the other version is deployed without a refresh');
check('by_pair', 2);
$node->safe_psql('postgres', q{CALL limaml_refresh('by_pair')});
is(adapted('by_pair'), 'done|0', 'nor has a refresh of it anything to do');

unlike(slurp_file($node->logfile), qr/terminated by signal (?!9\b)|PANIC|TRAP/, 'no crash but ours');
diag "LIMAML_SEED=$seed" unless Test::More->builder->is_passing;
$node->stop;
done_testing();
