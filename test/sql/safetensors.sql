--
-- limaml_export and limaml_import: the safetensors file, and every way in
-- which one can be wrong.
--
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE SCHEMA safetensors_test;
SET search_path = safetensors_test, public;
CREATE TABLE rating AS
SELECT m AS member_id, n % 5 AS item_id, n AS at, n % 7 AS year, 'k' || n % 3 AS kind, hashint4(m * 100 + n) % 2 = 0 AS liked
FROM generate_series(1, 10) m, generate_series(1, 12) n;
CREATE TABLE member AS SELECT m AS member_id, m % 5 AS age, CASE m % 3 WHEN 0 THEN 'free' ELSE 'paid' END AS plan FROM generate_series(1, 10) m;
CREATE FUNCTION create_small(model text, options jsonb DEFAULT '{}', features text[] DEFAULT '{item_id:category,year,kind}', meta_features text[] DEFAULT '{age,plan}') RETURNS void LANGUAGE sql AS $$
	SELECT limaml_create_model(model, 'rating', '{member_id}', 'liked', 'at', features, 'member', meta_features,
		options => '{"embedding_size": 4, "meta_hidden": [3], "global_hidden": [5], "epochs": 1, "category_size": 2}' || options)
$$;
SELECT create_small('taste');
SELECT create_small('copy');
SELECT version FROM limaml_train('taste');

-- Taking a file apart and putting one together
CREATE FUNCTION header_length(file bytea) RETURNS int LANGUAGE sql IMMUTABLE AS $$
	SELECT get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2)
$$;
CREATE FUNCTION header(file bytea) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT convert_from(substr(file, 9, header_length(file)), 'UTF8')::jsonb
$$;
CREATE FUNCTION numbers(file bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT substr(file, 9 + header_length(file))
$$;
CREATE FUNCTION metadata(file bytea) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT (header(file) -> '__metadata__' ->> 'limaml')::jsonb
$$;
CREATE FUNCTION file(header bytea, numbers bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT decode(lpad(to_hex(length(header) % 256), 2, '0') || lpad(to_hex(length(header) / 256 % 256), 2, '0') || lpad(to_hex(length(header) / 65536), 2, '0') || '0000000000', 'hex') || header || numbers
$$;
CREATE FUNCTION file(header jsonb, numbers bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT file(convert_to(header::text, 'UTF8'), numbers)
$$;

-- Without a digest, so that a change is judged by itself
CREATE FUNCTION undigested(header jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT header #- '{__metadata__,digest}'
$$;
CREATE FUNCTION with_metadata(file bytea, metadata jsonb) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT file(jsonb_set(undigested(header(file)), '{__metadata__,limaml}', to_jsonb(metadata::text)), numbers(file))
$$;

-- The error of an import, which has to change nothing
CREATE FUNCTION state() RETURNS text LANGUAGE sql AS $$
	SELECT (SELECT count(*) FROM limaml.version) || ' ' || (SELECT count(*) FROM limaml.training_log) || ' ' || (SELECT count(*) FROM pg_class) || ' ' || (SELECT string_agg(m::text, ' ' ORDER BY id) FROM limaml.model m)
$$;
CREATE FUNCTION try_import(file bytea, model text DEFAULT 'copy') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	before text := state();
	message text;
BEGIN
	PERFORM limaml_import(model, file);
	RETURN 'imported';
EXCEPTION WHEN OTHERS THEN
	message := SQLSTATE || ': ' || SQLERRM;
	IF state() <> before THEN
		message := 'changed something: ' || message;
	END IF;
	RETURN message;
END
$$;

-- XX001 is data_corrupted, 22xxx data_exception
CREATE FUNCTION is_refused(message text) RETURNS boolean LANGUAGE sql AS $$ SELECT message ~ '^(XX001|22...): ' $$;

-- A file goes round: the same digest, the same embeddings and scores, whoever rewrote it
CREATE TABLE network AS SELECT limaml_export('taste') AS file;
SELECT pg_typeof(limaml_export('taste')), limaml_export('taste', 1) = limaml_export('taste') AS deployed, (SELECT file FROM network) = limaml_export('taste') AS same;
SELECT key AS tensor, value -> 'shape' AS shape FROM network, jsonb_each(header(file)) WHERE key <> '__metadata__' ORDER BY key COLLATE "C";
SELECT length(numbers(file)) = (SELECT max((value -> 'data_offsets' ->> 1)::int) FROM jsonb_each(header(file)) WHERE key <> '__metadata__') AS every_byte, header_length(file) % 8 = 0 AS aligned FROM network;
SELECT limaml_import('copy', file) FROM network;
SELECT limaml_import('copy', file) FROM network;
SELECT limaml_import('copy', file(undigested(header(file)), numbers(file))) FROM network;
SELECT limaml_import('taste', with_metadata(file, metadata(file))) FROM network;
SELECT v.model, v.version, v.deployed, v.digest = t.digest AS digest, v.network = t.network AS bytes, v.options = t.options AS options,
	v.epochs, v.entities, v.interactions, v.train_loss, v.validation_loss, v.validation_auc, v.baseline_auc
FROM limaml.version v, limaml.version t WHERE t.model = 'taste' AND t.version = 1 AND v <> t ORDER BY 1, 2;
CALL limaml_refresh('taste');
CALL limaml_refresh('copy');
SELECT count(*), bool_and(a.embedding = b.embedding) AS embeddings, bool_and(limaml_score('taste', member_id, r) = limaml_score('copy', member_id, r)) AS scores
FROM taste_embedding a JOIN copy_embedding b USING (member_id, version) JOIN rating r USING (member_id);
SELECT limaml_deploy('copy', 3, force => true);
SELECT bool_and(limaml_adapt('copy', member_id) = embedding) AS embeddings FROM taste_embedding;
SELECT limaml_deploy('copy', 1);

-- Into a model that is another
SELECT create_small('wider', '{"embedding_size": 5}'), create_small('fewer', features => '{item_id:category,year}'), create_small('others', features => '{item_id:category,kind,year}'),
	create_small('more_known', meta_features => '{age,plan,member_id}'),
	create_small('squared', '{"loss": "squared"}'), create_small('deeper', '{"meta_hidden": [3, 3], "activation": "gelu"}');
SELECT model, try_import(file, model) FROM network, unnest('{wider,fewer,others,more_known,nobody}'::text[]) model;
SELECT model, try_import(file, model) FROM network, unnest('{squared,deeper}'::text[]) model;
SELECT limaml_import('copy', NULL) IS NULL AS null, limaml_import(NULL, '') IS NULL AS also;

-- Truncated at every length, and longer than it is
SELECT count(*), count(*) FILTER (WHERE NOT is_refused(try_import(substr(file, 1, n)))) AS not_refused
FROM network, generate_series(0, length(file) - 1) n WHERE n < 64 OR n % 37 = 0 OR n > length(file) - 20;
SELECT n, try_import(substr(file, 1, n)) FROM network, unnest('{0,7}'::int[]) n;
SELECT is_refused(try_import(file || '\x00')) AS longer, is_refused(try_import(file || file)) AS twice FROM network;
SELECT try_import(file(undigested(header(file)), numbers(file) || '\x00000000')) FROM network;

-- Every byte flipped: the digest knows, unless it is its own name that is changed
SELECT count(*), count(*) FILTER (WHERE NOT is_refused(try_import(set_byte(file, n, get_byte(file, n) # mask)))) AS not_refused
FROM network, generate_series(0, length(file) - 1) n, unnest('{1,128}'::int[]) mask WHERE (n < 120 OR n % 11 = 0) AND n NOT BETWEEN 26 AND 31;
SELECT convert_from(substr(file, 27, 6), 'UTF8') AS name FROM network;
SELECT try_import(set_byte(file, length(file) - 1, get_byte(file, length(file) - 1) # 1)) FROM network;
SELECT digest, try_import(file(jsonb_set(header(file), '{__metadata__,digest}', digest), numbers(file)))
FROM network, unnest(ARRAY['""', '"x"', to_jsonb(repeat('0', 64)), to_jsonb(repeat('A', 64)), to_jsonb(repeat('0', 63)), '1', 'null', '{}']::jsonb[]) digest;

-- The header's length, and what is no header
SELECT length, try_import(decode(length, 'hex') || substr(file, 9)) FROM network, unnest('{0000000000000000,0100000000000000,ffffffff00000000,ffffffffffffffff,ffffffffffffff7f,00e1f50500000000,01e1f50500000000}'::text[]) length;
SELECT header, try_import(file(convert_to(header, 'UTF8'), '')) FROM unnest(ARRAY['', ' ', '{', '[]', '1', 'null', '"x"', '{}', '{"a"}', '{"__metadata__": {}}', '{"__metadata__": 1}', '{"__metadata__": null}', '{"__metadata__": []}',
	'{"__metadata__": {"limaml": 1}}', '{"__metadata__": {"limaml": null}}', '{"__metadata__": {"limaml": ""}}', '{"__metadata__": {"limaml": "{"}}', '{"__metadata__": {"limaml": "[]"}}', '{"__metadata__": {"limaml": "{}"}}', '{"__metadata__": {"other": "x"}}']) header;
SELECT try_import(file(convert_to('{"a": "', 'UTF8') || '\xff' || convert_to('"}', 'UTF8'), '')) AS not_utf8, try_import(file(convert_to('{}', 'UTF8') || '\x00', '')) AS zero_byte;
SELECT is_refused(try_import(file(convert_to(repeat('[', 100000), 'UTF8'), ''))) OR try_import(file(convert_to(repeat('[', 100000), 'UTF8'), '')) ~ '^54001' AS deep;
SELECT is_refused(try_import(convert_to('PK' || repeat('not a safetensors file at all', 100), 'UTF8'))) AS something_else;

-- A safetensors file of other software: sound, and not ours
SELECT try_import(file('{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'::jsonb, '\x00000000000000000000000000000000'));

-- Each tensor's description
\a\t
SELECT field, left(value::text, 40), regexp_replace(try_import(file(jsonb_set(undigested(header(file)), ARRAY['global.0.weight', field], value), numbers(file))), 'tensor "[^"]*" does not begin', 'tensor does not begin')
FROM network, (VALUES ('dtype', '"F16"'::jsonb), ('dtype', '"F64"'), ('dtype', '"f32"'), ('dtype', '""'), ('dtype', '32'), ('dtype', 'null'),
	('shape', '[]'), ('shape', '[1]'), ('shape', '[5]'), ('shape', '[5, 11, 1]'), ('shape', '[-5, -11]'), ('shape', '[5.5, 10]'), ('shape', '["5", 11]'), ('shape', '5'), ('shape', 'null'), ('shape', '{}'), ('shape', '[1e400, 0]'),
	('shape', '[4294967296, 4294967296]'), ('shape', '[65536, 65536]'), ('shape', '[2147483647, 2147483647]'), ('shape', '[0, 0]'), ('shape', '[null, 5]'), ('shape', '[[5], 11]'),
	('data_offsets', '[]'), ('data_offsets', '[0]'), ('data_offsets', '[0, 4, 8]'), ('data_offsets', '[4, 0]'), ('data_offsets', '[-4, 0]'), ('data_offsets', '[0, 0]'), ('data_offsets', '[0, 1000000000]'), ('data_offsets', '[0, 9223372036854775807]'),
	('data_offsets', '[4294967296, 4294967300]'), ('data_offsets', '["0", "4"]'), ('data_offsets', '[0.5, 4.5]'), ('data_offsets', 'null'), ('data_offsets', '"0"')) _(field, value);
\a\t
SELECT value, try_import(file(undigested(header(file)) || jsonb_build_object('global.0.weight', value), numbers(file))) FROM network, unnest(ARRAY['null', '1', '[]', '{}', '"x"']::jsonb[]) value;
SELECT field, try_import(file(undigested(header(file)) #- ARRAY['global.0.weight', field], numbers(file))) FROM network, unnest('{dtype,shape,data_offsets}'::text[]) field;

-- Every tensor, left out, overlapped, moved, transposed or doubled
CREATE TABLE tensor AS SELECT key AS name, (value -> 'data_offsets' ->> 0)::int AS "from", (value -> 'data_offsets' ->> 1)::int AS "to", value -> 'shape' AS shape FROM network, jsonb_each(header(file)) WHERE key <> '__metadata__';
SELECT count(*), bool_and(is_refused(try_import(file(undigested(header(file)) - name, numbers(file))))) AS left_out,
	bool_and(is_refused(try_import(file(jsonb_set(undigested(header(file)), ARRAY[name, 'data_offsets'], jsonb_build_array("from" + 4, "to" + 4)), numbers(file))))) AS moved,
	bool_and("from" = 0 OR is_refused(try_import(file(jsonb_set(undigested(header(file)), ARRAY[name, 'data_offsets'], jsonb_build_array(0, "to" - "from")), numbers(file))))) AS overlapped,
	bool_and(is_refused(try_import(file(jsonb_set(undigested(header(file)), ARRAY[name, 'shape'], shape || '1'), numbers(file))))) AS another_dimension,
	bool_and(jsonb_array_length(shape) < 2 OR shape -> 0 = shape -> 1 OR is_refused(try_import(file(jsonb_set(undigested(header(file)), ARRAY[name, 'shape'], jsonb_build_array(shape -> 1, shape -> 0)), numbers(file))))) AS transposed,
	bool_and(is_refused(try_import(file((undigested(header(file)) - name) || jsonb_build_object(name || '2', header(file) -> name), numbers(file))))) AS renamed
FROM network, tensor;
SELECT try_import(file(undigested(header(file)) - 'inner_rate' || jsonb_build_object('rate', header(file) -> 'inner_rate'), numbers(file))) FROM network;
SELECT try_import(file(undigested(header(file)) || jsonb_build_object('more', jsonb_build_object('dtype', 'F32', 'shape', '[1]'::jsonb, 'data_offsets', jsonb_build_array(length(numbers(file)), length(numbers(file)) + 4))), numbers(file) || '\x00000000')) FROM network;

-- A number that is none, in every tensor
SELECT number, count(*), bool_and(try_import(file(undigested(header(file)), overlay(numbers(file) PLACING decode(number, 'hex') FROM "to" - 3 FOR 4))) = 'XX001: invalid limaml network: "' || name || '" has a number that is not finite') AS refused
FROM network, tensor, unnest('{0000c07f,0000807f,000080ff,010080ff}'::text[]) number WHERE "to" > "from" GROUP BY number ORDER BY number;
SELECT try_import(file(undigested(header(file)), overlay(numbers(file) PLACING '\x0000803f000080bf' FROM "from" + 1 FOR 8))) FROM network, tensor WHERE name = 'inner_rate';

-- Every field of the metadata: left out, and of every wrong type
CREATE TABLE field AS
SELECT ARRAY[key] AS path FROM network, jsonb_object_keys(metadata(file)) key
UNION ALL
SELECT ARRAY[list, (n - 1)::text, key] FROM network, unnest('{features,meta_features}'::text[]) list, LATERAL jsonb_array_elements(metadata(file) -> list) WITH ORDINALITY AS f(f, n), jsonb_object_keys(f) key;
SELECT path, try_import(with_metadata(file, metadata(file) #- path)) FROM network, field ORDER BY path COLLATE "C";
SELECT count(*), string_agg(path || ' ' || value || ' ' || message, E'\n' ORDER BY path) AS not_refused
FROM (SELECT path::text, value::text, try_import(with_metadata(file, jsonb_set(metadata(file), path, value))) AS message
	FROM network, field, unnest(ARRAY['null', 'true', '-1', '1.5', '1e400', '99999999999999999999', '"x"', '""', '[]', '{}', '[1]', '[null]', '[[]]', '[{}]', '{"a": 1}']::jsonb[]) value
	WHERE value IS DISTINCT FROM metadata(file) #> path) _
WHERE NOT is_refused(message)
	-- what is a value of that field
	AND NOT (path = '{recency}' AND value IN ('null', '1.5')) AND NOT (path = '{options}' AND value IN ('{}'))
	AND NOT (path IN ('{label}', '{event_time}') AND value IN ('null', '"x"', '""'))
	AND NOT (path LIKE '%,mean}' AND value IN ('-1', '1.5', '99999999999999999999')) AND NOT (path LIKE '%,sd}' AND value IN ('1.5', '99999999999999999999')) ;
\a\t
SELECT path, left(value::text, 40), try_import(with_metadata(file, jsonb_set(metadata(file), path::text[], value))) FROM network, (VALUES
	('{format}', '2'::jsonb), ('{format}', '0'), ('{activation}', '"TANH"'), ('{loss}', '"hinge"'), ('{adapts}', '"all"'), ('{inner_weighting}', '"sum"'), ('{personalization}', '"id"'),
	('{inner_steps}', '65'), ('{recency}', '0'), ('{recency}', '-5'), ('{support_rows}', '0'), ('{support_rows}', '16385'), ('{embedding_size}', '5'), ('{embedding_size}', '0'), ('{factor_size}', '5'), ('{factor_size}', '1'),
	('{meta}', '[3, 3, 5]'), ('{meta}', '[3, 4]'), ('{meta}', '[4]'), ('{meta}', '[3, 0, 4]'), ('{meta}', '[3, 1000000, 4]'), ('{meta}', '[3,1,1,1,1,1,1,1,1,1,1,4]'), ('{meta}', '[3, 3, 4, 4]'), ('{global}', '[7, 5, 2]'), ('{global}', '[8, 5, 1]'), ('{global}', '[7, 1]'),
	('{features}', '[]'), ('{meta_features}', '[]'), ('{features,0,kind}', '"numeric"'), ('{features,1,kind}', '"category"'), ('{features,0,kind}', '"vector"'), ('{features,0,kind}', '"bag"'), ('{features,0,name}', '"year"'), ('{features,0,name}', '"film"'), ('{meta_features,0,name}', '"plan"'),
	('{features,0,size}', '3'), ('{features,0,size}', '0'), ('{features,0,size}', '1000000000'), ('{features,0,outside}', '0'), ('{features,0,outside}', '2'), ('{features,0,outside}', '2000000000'), ('{features,0,values}', '"text"'), ('{features,2,values}', '"integer"'),
	('{features,0,vocabulary}', '[1, 2, 3, 4]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, 4]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, 4.0]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, 5.5]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, 1e30]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, 9223372036854775808]'),
	('{features,0,vocabulary}', '[1, 2, 3, 4, "5"]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, null]'), ('{features,0,vocabulary}', '[1, 2, 3, 4, [5]]'), ('{features,2,vocabulary}', '["k0", "k1", "k1"]'), ('{features,2,vocabulary}', '["k0", "k1", 2]'), ('{features,2,vocabulary}', '["k0", "k1", {}]'),
	('{features,1,mean}', '1e400'), ('{features,1,sd}', '0'), ('{features,1,sd}', '-1'), ('{features,1,sd}', '1e-400'), ('{features,1,missing}', 'true'), ('{features,1,missing}', '"false"'), ('{features,1}', '[]'), ('{features,1}', '"year"'), ('{features,3}', '{}')
) _(path, value);
\a\t

-- Its options are read when it adapts, so an import refuses those it could not read
SELECT options, is_refused(try_import(with_metadata(file, jsonb_set(metadata(file), '{options}', options)))) FROM network, unnest(ARRAY['{"weight": 1}', '{"seed": "x"}', '{"unknown": 1}']::jsonb[]) options;

-- After all that, what there was still scores
SELECT bool_and(limaml_score('taste', member_id, r) = limaml_score('copy', member_id, r)) AS scores FROM rating r;

-- Values that JSON has to escape, and that are not ASCII
CREATE TABLE words AS SELECT n % 3 AS member_id, n AS at, n % 2 = 0 AS liked, (ARRAY['quote"', E'back\\slash', E'new\nline', 'ünï', '', ' ', '日本', E'\t', 'null', '1'])[1 + n % 10] AS word FROM generate_series(1, 60) n;
SELECT limaml_create_model('words', 'words', '{member_id}', 'liked', 'at', '{word}', options => '{"embedding_size": 4, "epochs": 1, "category_size": 2}');
SELECT version FROM limaml_train('words');
SELECT limaml_import('words', limaml_export('words'));
SELECT count(DISTINCT digest) FROM limaml.version WHERE model = 'words';
SELECT count(DISTINCT limaml_score('words', 1, word)), count(DISTINCT word) FROM words;
SELECT jsonb_array_length(metadata(limaml_export('words')) #> '{features,0,vocabulary}');
\set VERBOSITY terse
SELECT count(limaml_drop_model(model)::text) FROM limaml.model;
DROP SCHEMA safetensors_test CASCADE;
