# A streaming standby scores as its primary does, to the bit; what writes says
# that it cannot.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, (m * 7 + n * 3) % 12 + 1 AS item_id, n AS at, (m + n) % 3 = 0 AS liked
	FROM generate_series(1, 20) m, generate_series(1, 10) n;
	SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}', options => '{"epochs": 2}');
	SELECT limaml_train('taste');
	CALL limaml_refresh('taste');
});
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $scores = q{
	SELECT member_id, item_id, float4send(limaml_score('taste', member_id, item_id)), limaml_embedding('taste', member_id),
		limaml_adapt('taste', member_id), float4send(limaml_score_embedding('taste', limaml_embedding('taste', member_id), item_id))
	FROM generate_series(0, 21) member_id, generate_series(1, 13) item_id ORDER BY 1, 2};

my $ranks = q{
	SELECT member_id, string_agg(float4send(score)::text || candidate, ', ' ORDER BY rank),
		(SELECT limaml_top(3, 'taste', member_id, i, i) FROM generate_series(1, 13) i),
		(SELECT array_agg(float4send(limaml_score_vector('taste', member_id, limaml_candidate_vector('taste', i))) ORDER BY i) FROM generate_series(1, 13) i)
	FROM generate_series(0, 21) member_id, limaml_rank('taste', member_id, 'SELECT item_id FROM generate_series(1, 13) item_id', 5) GROUP BY 1 ORDER BY 1};

my $others = q{
	SELECT member_id, (SELECT string_agg(e::text, ', ') FROM limaml_explain('taste', member_id, 7) e), (SELECT string_agg(n::text, ', ') FROM limaml_neighbors('taste', member_id, 5) n),
		(SELECT limaml_adapt_agg(limaml_network('taste'), NULL, r) FROM rating r WHERE r.member_id = m.member_id)
	FROM generate_series(0, 21) m (member_id) ORDER BY 1};

sub same
{
	my ($what) = @_;
	$primary->wait_for_catchup($standby);
	my $expected = $primary->safe_psql('postgres', $scores);
	is($standby->safe_psql('postgres', $scores), $expected, $what);
	is($standby->safe_psql('postgres', $ranks), $primary->safe_psql('postgres', $ranks), "$what, also when ranked");
	is($standby->safe_psql('postgres', $others), $primary->safe_psql('postgres', $others), "$what, also when explained");
	return $expected;
}

my $first = same('scores and embeddings are the same');
is( $standby->safe_psql('postgres', q{SELECT encode(digest, 'hex') FROM limaml.version}),
	$primary->safe_psql('postgres', q{SELECT encode(sha256(overlay(network PLACING convert_to(repeat('0', 64), 'UTF8') FROM 36 FOR 64)), 'hex') FROM limaml.version}),
	'so is the network');

# New rows, new versions
$primary->safe_psql('postgres', q{INSERT INTO rating VALUES (21, 1, 100, true), (1, 1, 100, true); CALL limaml_refresh('taste')});
isnt(same('after a refresh'), $first, 'which changed something');
$primary->safe_psql('postgres', q{SELECT limaml_train('taste', '{"seed": 1}'); CALL limaml_refresh('taste', 2); SELECT limaml_deploy('taste')});
same('after a deployment');

# What writes is refused before it works, and by its name
my $started = time;
for my $verb (
	q{SELECT limaml_train('taste', '{"epochs": 10000, "patience": 10000}')},
	q{CALL limaml_refresh('taste')},
	q{SELECT limaml_deploy('taste', 1)},
	q{SELECT limaml_drop_model('taste')},
	q{SELECT limaml_set_options('taste', '{"items": null}')},
	q{SELECT limaml_enable_pgvector()},
	q{SELECT limaml_import('taste', limaml_export('taste'))},
	q{SELECT limaml_create_model('other', 'rating', '{member_id}', 'liked', 'at', '{item_id}')})
{
	my ($status, $out, $err) = $standby->psql('postgres', $verb);
	my ($function) = $verb =~ /(limaml_(?!export)\w+)/;
	like($err, qr/ERROR:  cannot execute .* (during recovery|in a read-only transaction)/, "$function is refused");
}
ok(time - $started < 5, 'at once');
is($standby->safe_psql('postgres', q{SELECT limaml_export('taste') = network FROM limaml.version WHERE deployed}), 't', 'export is not');

# Promoted, it is a primary like any other
$standby->promote;
my $before = $standby->safe_psql('postgres', $scores);
is($standby->safe_psql('postgres', q{SELECT version FROM limaml_train('taste')}), '3', 'a promoted standby trains');
is($standby->safe_psql('postgres', $scores), $before, 'and scores as before');

unlike(slurp_file($_->logfile), qr/terminated by signal|PANIC|TRAP/, 'no crash') for $primary, $standby;
$standby->stop;
$primary->stop;
done_testing();
