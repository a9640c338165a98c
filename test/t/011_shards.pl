# Interactions and entities on three servers, by a hash of the key, behind
# postgres_fdw: adapting and scoring's sort are sent to them whole, a refresh
# runs there, and all of it has the bits of one server that holds everything;
# although each has another TimeZone, other digits and other OIDs.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @zones = ('UTC', 'Asia/Kathmandu', 'America/St_Johns', 'Pacific/Chatham', 'Australia/Eucla');
my @digits = (1, 3, 0, -15, 2);
my $nodes = 0;

sub node
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $number = $nodes++;

	$node->init;
	$node->append_conf('postgresql.conf', "TimeZone = '$zones[$number]'\nextra_float_digits = $digits[$number]\nbytea_output = " . ($number % 2 ? 'escape' : 'hex'));
	$node->start;

	# OIDs of its own
	$node->safe_psql('postgres', join('', map { "CREATE TYPE other$_ AS (x int);" } 1 .. $number) . 'CREATE EXTENSION limaml');
	return $node;
}

my %columns = (
	rating => 'member_id int NOT NULL, item_id int, at timestamptz, year int, kind text, price float8, liked boolean',
	member => 'member_id int NOT NULL, age int, plan text',
	item => 'item_id int NOT NULL, year int, kind text, price float8');
my %key = (rating => 'member_id', member => 'member_id', item => 'item_id');

# members that nobody knows, ties in time and more rows than support_rows
my %rows = (
	rating => q{SELECT m, i, '2024-01-01 00:00+00'::timestamptz + n / 3 * interval '7 hours', i % 7, 'k' || i % 3, i / 7.0, ((i + m) % 2 = 0) <> (hashint4(m * 1000 + i) % 6 = 0)
		FROM generate_series(1, 60) m, generate_series(1, 20) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _},
	member => q{SELECT m, m % 5, CASE m % 3 WHEN 0 THEN 'free' ELSE 'paid' END FROM generate_series(1, 55) m},
	item => q{SELECT i, i % 7, 'k' || i % 3, i / 7.0 FROM generate_series(1, 3000) i});
my $declare = q{SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category,year,kind,price}', 'member', '{age,plan}',
	options => '{"embedding_size": 8, "meta_hidden": [8], "global_hidden": [8], "epochs": 2, "support_rows": 6}');};

my $single = node('single');
for my $table (sort keys %columns)
{
	$single->safe_psql('postgres', "CREATE TABLE $table ($columns{$table}); INSERT INTO $table $rows{$table}");
}
$single->safe_psql('postgres', "$declare; SELECT limaml_train('taste'); CALL limaml_refresh('taste')");

my $coordinator = node('coordinator');
$coordinator->safe_psql('postgres', 'CREATE EXTENSION postgres_fdw; ' .
	join('', map { "CREATE TABLE $_ ($columns{$_}) PARTITION BY HASH ($key{$_});" } sort keys %columns));
my @shards = map { node("shard$_") } 1 .. 3;
for my $s (1 .. 3)
{
	my ($host, $port, $remainder) = ($shards[$s - 1]->host, $shards[$s - 1]->port, $s - 1);

	$coordinator->safe_psql('postgres', qq{
		CREATE SERVER shard$s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres',
			extensions 'limaml', use_remote_estimate 'true', async_capable 'true', fdw_tuple_cost '0.2', batch_size '100');
		CREATE USER MAPPING FOR CURRENT_USER SERVER shard$s;
	});
	for my $table (sort keys %columns)
	{
		$shards[$s - 1]->safe_psql('postgres', "CREATE TABLE $table ($columns{$table}); CREATE INDEX ON $table ($key{$table})");
		$coordinator->safe_psql('postgres', "CREATE FOREIGN TABLE ${table}_$s PARTITION OF $table FOR VALUES WITH (MODULUS 3, REMAINDER $remainder)
			SERVER shard$s OPTIONS (table_name '$table')");
	}
}
$coordinator->safe_psql('postgres', "INSERT INTO $_ $rows{$_}; ANALYZE $_") for sort keys %columns;
$_->safe_psql('postgres', 'ANALYZE') for @shards;
is(join(' ', map { $_->safe_psql('postgres', "SELECT count(DISTINCT member_id) > 10 AND 'meta_embedding'::regtype::oid <> " .
	$coordinator->safe_psql('postgres', q{SELECT 'meta_embedding'::regtype::oid}) . ' FROM rating') } @shards), 't t t', 'every shard has its part, and OIDs of its own');

# The network travels as a value
my $network = $single->safe_psql('postgres', q{SELECT encode(limaml_export('taste'), 'hex')});
my $import = "SELECT limaml_import('taste', decode('$network', 'hex'))";
$coordinator->safe_psql('postgres', "$declare; $import");

my $settings = 'SET enable_partitionwise_join = on; SET enable_partitionwise_aggregate = on; ';
my $deployed = q{(SELECT network FROM limaml.version WHERE model = 'taste' AND deployed)};
my $stored = 'SELECT member_id, embedding FROM taste_embedding ORDER BY 1';

sub plan_of
{
	my ($query) = @_;
	my $plan = $coordinator->safe_psql('postgres', $settings . "EXPLAIN (VERBOSE, COSTS OFF) $query");

	# how the network is looked up is no matter
	$plan =~ s/^( *)InitPlan .*\n(?:\1 +.*\n?)*//mg;
	return $plan;
}

sub matches
{
	my ($text, $pattern) = @_;
	return scalar(() = $text =~ /$pattern/g);
}

# Adapting
my $adapt = qq{SELECT i.member_id, limaml_adapt_agg($deployed, limaml_row(m.age, m.plan), limaml_row(i.liked, i.at, i.item_id, i.year, i.kind, i.price)) AS embedding
	FROM rating i LEFT JOIN member m ON m.member_id = i.member_id GROUP BY i.member_id};
my $plan = plan_of($adapt);
note $plan;
is(matches($plan, qr/Async Foreign Scan/), 3, 'adapting is three scans at a time');
is(matches($plan, qr/Remote SQL: SELECT \S+, public\.limaml_adapt_agg\(.* GROUP BY 1/), 3, 'that aggregate where the rows are');
unlike($plan, qr/HashAggregate|GroupAggregate|Finalize|Join/, 'and nothing is left for the coordinator');
is( $coordinator->safe_psql('postgres', "$settings SELECT * FROM ($adapt) _ ORDER BY 1"),
	$single->safe_psql('postgres', $stored), 'the embeddings are those of one server, bit for bit');
is( $coordinator->safe_psql('postgres', "$settings SELECT * FROM ($adapt) _ ORDER BY 1" =~ s/GROUP/WHERE i.member_id = 7 GROUP/r),
	$single->safe_psql('postgres', q{SELECT member_id, embedding FROM taste_embedding WHERE member_id = 7}), 'so is one of them');
is( $coordinator->safe_psql('postgres', "SELECT * FROM ($adapt) _ ORDER BY 1"),
	$single->safe_psql('postgres', $stored), 'also when the coordinator does the work');

# The same without meta features, and with a weight
my $plain = q{SELECT limaml_create_model('plain', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"embedding_size": 4, "epochs": 1, "weight": "price"}')};
$single->safe_psql('postgres', "$plain; SELECT limaml_train('plain'); CALL limaml_refresh('plain')");
$coordinator->safe_psql('postgres', "$plain; SELECT limaml_import('plain', decode('" . $single->safe_psql('postgres', q{SELECT encode(limaml_export('plain'), 'hex')}) . "', 'hex'))");
my $weighted = q{SELECT i.member_id, limaml_adapt_agg((SELECT limaml_network('plain')), NULL::record, limaml_row(i.liked, i.at, i.item_id, i.price)) AS embedding
	FROM rating i GROUP BY i.member_id};
is(matches(plan_of($weighted), qr/Remote SQL: SELECT \S+, public\.limaml_adapt_agg\(.* GROUP BY 1/), 3, 'entities may be nothing, and a network may come from a function in a subquery');
is( $coordinator->safe_psql('postgres', "$settings SELECT * FROM ($weighted) _ ORDER BY 1"),
	$single->safe_psql('postgres', 'SELECT member_id, embedding FROM plain_embedding ORDER BY 1'), 'with the same bits');
sub sent { return matches(plan_of($adapt =~ s/\Qm.age, m.plan\E/$_[0]/r), qr/Remote SQL: SELECT \S+, public\.limaml_adapt_agg\(.* GROUP BY 1/) }
is(sent('1, m.plan'), 3, 'constants may be in a row that is sent');
is(sent(q{1, 'free'::text}), 0, 'unless all its texts are');
is(sent('m.age::numeric, m.plan::varchar'), 3, 'and expressions');

# Scoring
$coordinator->safe_psql('postgres', "INSERT INTO taste_embedding SELECT member_id, 1, embedding, 0, NULL, 0, 0, now() FROM ($adapt) _");
my $score = qq{SELECT i.item_id FROM item i ORDER BY limaml_score_embedding($deployed, (SELECT limaml_embedding('taste', 7)), i.item_id, i.year, i.kind, i.price) DESC, i.item_id LIMIT 20};
$plan = plan_of($score);
note $plan;
is(matches($plan, qr/Remote SQL: .* ORDER BY public\.limaml_score_embedding\(/), 3, 'scores are sorted where the candidates are');
like($plan, qr/Merge Append/, 'and merged');
unlike($plan, qr/\bSort\b(?! Key)/, 'not sorted');
my $best = $single->safe_psql('postgres', $score);
is($coordinator->safe_psql('postgres', $settings . $score), $best, 'in the order of one server');
$single->safe_psql('postgres', q{CREATE TABLE item_2 AS SELECT * FROM item WHERE item_id = ANY ('} .
	$coordinator->safe_psql('postgres', 'SELECT array_agg(item_id) FROM item_2') . q{')});
my $of_shard = $score =~ s/item i/item_2 i/r;
like(plan_of($of_shard), qr/^Foreign Scan on public\.item_2 .*\n.*\n.*ORDER BY public\.limaml_score_embedding\(.* LIMIT 20/, 'of one shard the limit is sent, too');
is($coordinator->safe_psql('postgres', $of_shard), $single->safe_psql('postgres', $of_shard), 'and the best are the same');

# Refreshing.  Each shard has the model, declared on the part that it holds, and
# the network; its refresh reads and writes nothing elsewhere.
$_->safe_psql('postgres', "$declare; $import; CALL limaml_refresh('taste')") for @shards;
is(join("\n", sort { $a <=> $b } map { split /\n/, $_->safe_psql('postgres', 'SELECT member_id FROM taste_embedding') } @shards),
	join("\n", 1 .. 60), 'a refresh on each shard adapts its members');
is($_->safe_psql('postgres', q{SELECT encode(digest, 'hex') FROM limaml.version WHERE model = 'taste'}), $single->safe_psql('postgres', q{SELECT encode(digest, 'hex') FROM limaml.version WHERE model = 'taste'}), 'by one and the same network') for @shards;

# The coordinator sees their embeddings in place of its own
$coordinator->safe_psql('postgres', q{
	ALTER TABLE taste_embedding DROP CONSTRAINT taste_embedding_pkey;
	DROP TABLE taste_embedding_v1;
	CREATE TABLE taste_embedding_v1 PARTITION OF taste_embedding FOR VALUES IN (1) PARTITION BY HASH (member_id);
} . join('', map { "CREATE FOREIGN TABLE taste_embedding_v1_$_ PARTITION OF taste_embedding_v1 FOR VALUES WITH (MODULUS 3, REMAINDER @{[$_ - 1]})
	SERVER shard$_ OPTIONS (table_name 'taste_embedding_v1');" } 1 .. 3));
is($coordinator->safe_psql('postgres', $stored), $single->safe_psql('postgres', $stored), 'where the coordinator finds them, and they are those of one server');

my $scores = q{SELECT member_id, item_id, encode(float4send(limaml_score('taste', member_id, i)), 'hex') FROM generate_series(1, 61, 5) member_id, item i WHERE item_id % 500 = 0 ORDER BY 1, 2};
is($coordinator->safe_psql('postgres', $scores), $single->safe_psql('postgres', $scores), 'and scores with them');

# rows and their members' embeddings meet where both are
my $joined = qq{SELECT i.member_id, max(limaml_score_embedding($deployed, e.embedding, i.item_id, i.year, i.kind, i.price)) AS score
	FROM rating i JOIN taste_embedding_v1 e ON e.member_id = i.member_id GROUP BY i.member_id};
$plan = plan_of($joined);
note $plan;
is(matches($plan, qr/Async Foreign Scan/), 3, 'rows are scored with the embeddings beside them');
unlike($plan, qr/HashAggregate|GroupAggregate|Finalize|Join\b(?! Cond)(?!.*public)/, 'by the shards alone');
is( $coordinator->safe_psql('postgres', "$settings SELECT member_id, encode(float4send(score), 'hex') FROM ($joined) _ ORDER BY 1"),
	$single->safe_psql('postgres', "SELECT member_id, encode(float4send(score), 'hex') FROM ($joined) _ ORDER BY 1"), 'to the bit');

# New rows come through the coordinator, and a refresh of its model sends its
# batches to the shards, which adapt and store
sub add
{
	my ($time) = @_;
	$_->safe_psql('postgres', "INSERT INTO rating SELECT m, 7, '$time 00:00+00', 3, 'k1', 1, m % 2 = 0 FROM generate_series(21, 62) m") for $coordinator, $single;
	$single->safe_psql('postgres', q{CALL limaml_refresh('taste')});
	isnt($coordinator->safe_psql('postgres', $stored), $single->safe_psql('postgres', $stored), 'new rows make embeddings stale');
}

add('2030-01-01');
my @log = map { -s $_->logfile } @shards;
$coordinator->safe_psql('postgres', q{CALL limaml_refresh('taste')});
is($coordinator->safe_psql('postgres', $stored), $single->safe_psql('postgres', $stored), 'a refresh on the coordinator brings them up to date');
is($coordinator->safe_psql('postgres', q{SELECT entities, adapted FROM limaml.job WHERE model = 'taste' AND state = 'done'}), '42|42', 'those alone');
my $sent = join('', map { slurp_file($shards[$_]->logfile, $log[$_]) } 0 .. 2);
my @cursors = $sent =~ /DECLARE c\d+ CURSOR FOR\s+(SELECT .*)/g;
is(scalar(grep { /^SELECT \S+, public\.limaml_adapt_agg\(.* GROUP BY 1/ } @cursors), 3, 'each shard adapted its own');
ok(matches($sent, qr/DELETE FROM public\.taste_embedding_v1 WHERE/) >= 3, 'deleted what it had stored');
ok(matches($sent, qr/INSERT INTO public\.taste_embedding_v1/) >= 3, 'and stored it');
is(scalar(grep { !/limaml_adapt_agg/ && /\bliked\b.* FROM / } @cursors), 0, 'no row went to the coordinator');
is($coordinator->safe_psql('postgres', q{CALL limaml_refresh('taste', only_stale => false)}) . $coordinator->safe_psql('postgres', $stored), $single->safe_psql('postgres', $stored), 'of all members, too');
is($coordinator->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE e.interactions = r.count AND e.adapted_through = r.max) FROM taste_embedding e JOIN (SELECT member_id, count(*), max(at) FROM rating GROUP BY 1) r USING (member_id)}), '62|62', 'with what is stored beside them');

# An entity without rows is no longer stored
$_->safe_psql('postgres', q{DELETE FROM rating WHERE member_id = 62}) for $coordinator, $single;
$coordinator->safe_psql('postgres', q{CALL limaml_refresh('taste', only_stale => false)});
is($coordinator->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE member_id = 62), count(*) FROM taste_embedding}), '0|61', 'a member without rows is left to its prior');
$_->safe_psql('postgres', q{DELETE FROM taste_embedding WHERE member_id = 62}) for $single;

# Wrong ones
$coordinator->safe_psql('postgres', q{INSERT INTO member VALUES (9, 1, 'free')});
my ($status, $out, $err) = $coordinator->psql('postgres', q{CALL limaml_refresh('taste', only_stale => false)});
like($err, qr/ERROR:  entities relation public\.member has more than one row of member_id 9/, 'a member that is there twice is refused');
$coordinator->safe_psql('postgres', q{DELETE FROM member WHERE member_id = 9 AND age = 1});
$coordinator->safe_psql('postgres', q{
	SELECT limaml_create_model('pair', 'rating', '{member_id,kind}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 1}');
	SELECT limaml_train('pair');
	ALTER TABLE pair_embedding DROP CONSTRAINT pair_embedding_pkey;
	CREATE FOREIGN TABLE elsewhere PARTITION OF pair_embedding FOR VALUES IN (7) SERVER shard1;
});
($status, $out, $err) = $coordinator->psql('postgres', q{CALL limaml_refresh('pair')});
like($err, qr/ERROR:  embeddings of model "pair" are in foreign tables, and its key has 2 columns\nHINT:  Refresh them on the servers that hold them/, 'so is a key of several columns');

# Or the shards refresh by themselves, asked all at once
add('2031-01-01');
is($coordinator->safe_psql('postgres', q{
	CREATE EXTENSION dblink;
	DO $$ BEGIN PERFORM dblink_connect(shard, shard), dblink_send_query(shard, 'CALL limaml_refresh(''taste'')') FROM unnest('{shard1,shard2,shard3}'::text[]) shard; END $$;
	SELECT shard, status FROM unnest('{shard1,shard2,shard3}'::text[]) shard, LATERAL dblink_get_result(shard) AS _ (status text) ORDER BY 1;
}), "shard1|CALL\nshard2|CALL\nshard3|CALL", 'shards can be asked for a refresh, too');
is($coordinator->safe_psql('postgres', $stored), $single->safe_psql('postgres', $stored), 'of their own, and embeddings are up to date');

done_testing();
