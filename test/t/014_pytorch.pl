# Networks in PyTorch: one that limaml has trained scores and adapts there as it
# does here, and so does one here that Python has written.  The Python is
# test/t/pytorch/limaml_torch.py, which needs torch and numpy alone.
use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = '/usr/bin/python3';
plan skip_all => "$python has no torch or no numpy" if system("$python -c 'import torch, numpy' >/dev/null 2>&1");
my $check = dirname(__FILE__) . '/pytorch/check.py';
$ENV{PYTHONDONTWRITEBYTECODE} = 1;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
my $dir = $node->basedir;

# All there is to encode: NULLs, numbers beyond the clip, text in all letters,
# values that are rare or never seen; times that are equal; more rows than count.
# Arrays that are NULL, empty, of NULLs alone, repeat values or have new ones.
$node->safe_psql('postgres', q{
	CREATE EXTENSION limaml;
	CREATE TABLE rating AS
	SELECT m AS member_id, i AS item_id, n / 2 AS at, CASE WHEN i % 5 > 0 THEN i % 5 + i / 7.0 END AS price, (ARRAY['a', 'βήτα', 'more than twelve bytes', NULL])[i % 4 + 1] AS kind,
		((i + m) % 3 = 0) <> (hashint4(m * 1000 + i) % 6 = 0) AS label, 0.5 + n % 3 AS w
	FROM generate_series(1, 40) m, generate_series(1, 8 + m % 9) n, LATERAL (SELECT abs(hashint4(m * 100 + n)) % 40 + 1 AS i) _;
	INSERT INTO rating SELECT 7, i, 100 + i, i, 'rare', i % 2 = 0, 2 FROM generate_series(1, 40) i;
	ALTER TABLE rating ADD tags text[], ADD codes int[], ADD v real[];
	UPDATE rating SET tags = CASE WHEN item_id % 7 > 0 THEN (ARRAY['a', NULL, 'βήτα', 'a', 'more than twelve bytes'])[1 : item_id % 6] END,
		codes = CASE WHEN item_id % 5 > 0 THEN ARRAY[item_id % 3, nullif(item_id % 4, 2), -item_id] END,
		v = CASE WHEN item_id % 9 > 0 THEN ARRAY[item_id, nullif(item_id % 4, 1), 1] END;
	CREATE TABLE member AS SELECT m AS member_id, nullif(m % 5, 3) AS age, CASE m % 3 WHEN 0 THEN 'free' WHEN 1 THEN 'paid' END AS plan FROM generate_series(1, 45) m;
	ALTER TABLE member ADD plans int[], ADD known float8[];
	UPDATE member SET plans = CASE WHEN member_id % 6 > 0 THEN ARRAY[member_id % 3, 5] END, known = ARRAY[member_id % 4, nullif(member_id % 7, 1) / 3.0];
	CREATE TABLE candidate AS SELECT n, CASE WHEN n % 11 > 0 THEN n * 2 - 5 END AS item_id, CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN 1e6 ELSE n / 4.0 END AS price,
		(ARRAY['a', 'βήτα', 'more than twelve bytes', NULL, 'a kind that has never been seen', 'ж', ''])[n % 7 + 1] AS kind
	FROM generate_series(1, 40) n;
	INSERT INTO candidate VALUES (41, -7, 1, 'a'), (42, 2147483647, 1, 'a'), (43, -2147483648, 1, 'a');
	ALTER TABLE candidate ADD tags text[], ADD codes int[], ADD v real[];
	UPDATE candidate SET tags = (ARRAY['{a}', NULL, '{}', '{NULL,NULL}', '{βήτα,a,βήτα,NULL}', '{never seen,a}', '{never seen,nor this,""}'])[n % 7 + 1]::text[],
		codes = (ARRAY[NULL, '{1,2}', '{2,1,1,NULL}', '{-7,99999,2147483647}', '{}'])[n % 5 + 1]::int[],
		v = (ARRAY['{3,1,1}', NULL, '{NULL,2,5}', '{1e30,-1e30,1}'])[n % 4 + 1]::real[];
});
write_file('data.json', $node->safe_psql('postgres', q{
	SELECT json_build_object('interactions', (SELECT json_agg(r) FROM rating r), 'entities', (SELECT json_agg(m) FROM member m), 'candidates', (SELECT json_agg(c) FROM candidate c))}));

sub write_file
{
	my ($name, $content) = @_;
	open my $file, '>:raw', "$dir/$name" or die "$name: $!";
	print $file $content;
	close $file;
}

sub run_check
{
	my ($command, @arguments) = @_;
	my $err = '';
	ok(IPC::Run::run([ $python, $check, $command, "$dir/data.json", @arguments ], '2>', \$err), "Python: $command");
	diag $err if $err ne '';
}

sub create_model
{
	my ($model, $options) = @_;
	my ($features, $meta_features) = $model =~ /arrays$/ ? ('tags,codes,v', 'plans,known') : ('item_id:category,price,kind', 'age,plan');
	$node->safe_psql('postgres', qq{
		SELECT limaml_create_model('$model', 'rating', '{member_id}', 'label', 'at', '{$features}', 'member', '{$meta_features}', options => '$options')});
}

# Scores and embeddings of the deployed versions, in PyTorch and here
sub compare
{
	my ($models) = @_;
	for my $model (sort keys %$models)
	{
		$node->safe_psql('postgres', "CALL limaml_refresh('$model', only_stale => false)");
		write_file("$model.safetensors", pack 'H*', $node->safe_psql('postgres', "SELECT encode(limaml_export('$model'), 'hex')"));
	}
	run_check('scores', map { "$dir/$_.safetensors" } sort keys %$models);
	for my $model (sort keys %$models)
	{
		$node->safe_psql('postgres', qq{
			CREATE TABLE torch_$model (member_id int, n int, embedding jsonb, score float8);
			COPY torch_$model FROM '$dir/$model.safetensors.csv' (FORMAT csv)});
		is($node->safe_psql('postgres', qq{
			SELECT count(score), max(abs(t.score - limaml_score('$model', member_id, c))) < 1e-5, count(DISTINCT round(t.score::numeric, 3)) > 100
			FROM torch_$model t JOIN candidate c USING (n)}),
			45 * 43 . '|t|t', "$model: the same scores");
		is($node->safe_psql('postgres', qq{
			SELECT count(DISTINCT member_id), max(abs(x::float8 - y)) < 1e-5, count(DISTINCT round(y::numeric, 3)) > 50
			FROM torch_$model t, LATERAL ROWS FROM (jsonb_array_elements_text(t.embedding), unnest(limaml_embedding('$model', member_id)::real[])) AS _ (x, y)}),
			'45|t|t', "$model: the same embeddings");
	}
}

# Networks that limaml has trained: with all parts, and with the other choices

my %trained = (
	defaults => '"embedding_size": 12, "recency": 5, "category_size": 6',
	paper => '"embedding_size": 8, "factor_size": 0, "adapts": "meta_block", "inner_weighting": "damped", "recency": null, "meta_hidden": [9, 7], "global_hidden": [11], "activation": "relu"',
	worth => '"embedding_size": 8, "loss": "squared", "weight": "w", "inner_weighting": "mean", "inner_rate": 0.5, "activation": "gelu", "support_rows": 16, "learn_inner_rate": true',
	rare => '"embedding_size": 8, "factor_size": 8, "min_count": 14, "inner_weighting": "sqrt_damped", "global_hidden": []',
	nobody => '"embedding_size": 8, "personalization": "none"',
	arrays => '"embedding_size": 8, "category_size": 5, "min_count": 14');
for my $model (sort keys %trained)
{
	create_model($model, "{$trained{$model}, \"epochs\": 3}");
	$node->safe_psql('postgres', "SELECT limaml_train('$model')");
}
compare(\%trained);

# Networks that Python has written

my %written = (
	first => ['"embedding_size": 12, "factor_size": 5', '"adapts": "embedding", "recency": 7'],
	second => ['"embedding_size": 6', '"adapts": "meta_block", "factor_size": 0, "meta_hidden": [5, 4], "global_hidden": [8, 7, 6], "activation": "gelu", "inner_weighting": "sqrt_damped", "inner_steps": 3, "support_rows": 20, "recency": null'],
	own_arrays => ['"embedding_size": 6', '"factor_size": 3']);
run_check('write', map { ("$dir/$_.new", "{$written{$_}[0], $written{$_}[1]}") } sort keys %written);
for my $model (sort keys %written)
{
	create_model($model, "{$written{$model}[0]}");
	is($node->safe_psql('postgres', qq{
		SELECT limaml_import('$model', pg_read_binary_file('$dir/$model.new'));
		SELECT deployed FROM limaml.model WHERE model = '$model'}), "1\n1", "$model: imported and deployed");
}
compare(\%written);

$node->stop;
done_testing();
