--
-- A network's file: exported, imported, and refused when anything is wrong.
--
SET client_min_messages = warning;
CREATE SCHEMA network_file_test;
SET search_path = network_file_test, public;

CREATE TABLE rating AS
SELECT m AS member_id, i AS item_id, timestamptz '2024-01-01 UTC' + n * interval '1 day' AS at,
	(i + m) % 2 = 0 AS liked
FROM generate_series(1, 20) m, generate_series(1, 10) n, LATERAL (SELECT (m * 7 + n * 3) % 12 + 1 AS i) _;
SELECT limaml_create_model('taste', 'rating', '{member_id}', 'liked', 'at', '{item_id:category}',
	options => '{"embedding_size": 4, "meta_hidden": [3], "global_hidden": [5], "category_size": 2, "epochs": 1}');
SELECT version FROM limaml_train('taste');

-- What is exported is what is imported, to the byte
CREATE TABLE file AS SELECT limaml_export('taste') AS bytes;
SELECT limaml_import('taste', bytes) AS version FROM file;
SELECT limaml_export('taste', 2) = bytes AS same FROM file;
SELECT count(DISTINCT digest) FROM limaml.version WHERE model = 'taste';

-- The header in JSON, and a file made of a header and the numbers. The digest
-- is left out, so that a mutation meets its own check and not the digest's.
CREATE FUNCTION header(file bytea) RETURNS jsonb LANGUAGE sql AS $$
	SELECT convert_from(substr(file, 9, get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2)), 'UTF8')::jsonb
		#- '{__metadata__,digest}'
$$;
CREATE FUNCTION numbers(file bytea) RETURNS bytea LANGUAGE sql AS $$
	SELECT substr(file, 9 + get_byte(file, 0) + 256 * get_byte(file, 1) + 65536 * get_byte(file, 2))
$$;
CREATE FUNCTION file_of(header jsonb, numbers bytea) RETURNS bytea LANGUAGE sql AS $$
	SELECT decode(string_agg(lpad(to_hex((octet_length(convert_to(header::text, 'UTF8')) >> (8 * b)) & 255), 2, '0'), '' ORDER BY b), 'hex')
		|| '\x00000000' || convert_to(header::text, 'UTF8') || numbers
	FROM generate_series(0, 3) b
$$;
CREATE FUNCTION metadata(file bytea) RETURNS jsonb LANGUAGE sql AS $$
	SELECT (header(file) #>> '{__metadata__,limaml}')::jsonb
$$;
CREATE FUNCTION with_metadata(file bytea, metadata jsonb) RETURNS bytea LANGUAGE sql AS $$
	SELECT file_of(jsonb_set(header(file), '{__metadata__,limaml}', to_jsonb(metadata::text)), numbers(file))
$$;
CREATE FUNCTION try_import(file bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM limaml_import('taste', file);
	RETURN 'imported';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- Without a digest it is another program's file, and as good
SELECT try_import(file_of(header(bytes), numbers(bytes))) FROM file;

-- A byte changed anywhere, an end cut off anywhere
SELECT try_import(set_byte(bytes, octet_length(bytes) - 3, 1)) FROM file;
SELECT count(*) AS cut, count(*) FILTER (WHERE try_import(substr(bytes, 1, n)) ~ '^(XX001|22)') AS refused
FROM file, generate_series(0, octet_length(bytes) - 1, 7) n;
SELECT try_import(bytes || '\x00') FROM file;
SELECT try_import('\xffffffffffffffff'::bytea);

-- Each entry of the header left out, and each of its fields
SELECT key, try_import(file_of(header(bytes) - key, numbers(bytes)))
FROM file, jsonb_object_keys(header(bytes)) key ORDER BY key COLLATE "C";
SELECT field, value, try_import(file_of(jsonb_set(header(bytes), ARRAY['meta.0.weight', field], value), numbers(bytes)))
FROM file, (VALUES ('dtype', '"F64"'::jsonb), ('dtype', '1'), ('shape', '[3]'), ('shape', '[0, 3]'), ('shape', '[-3, 0]'), ('shape', '[1.5]'),
	('shape', '[]'), ('shape', '"3"'), ('shape', '[1, 1, 1]'), ('shape', '[2000000000, 2000000000]'), ('data_offsets', '[0, 4]'),
	('data_offsets', '[8, 0]'), ('data_offsets', '[0]'), ('data_offsets', '[0, 1e30]'), ('data_offsets', '[0, 2000000000]'), ('data_offsets', 'null')) v(field, value);
SELECT try_import(file_of(jsonb_set(header(bytes), '{meta.1.weight,data_offsets}', header(bytes) #> '{meta.1.bias,data_offsets}'), numbers(bytes))) FROM file;

-- Each field of the metadata left out, and of another type
SELECT key, try_import(with_metadata(bytes, metadata(bytes) - key)),
	try_import(with_metadata(bytes, jsonb_set(metadata(bytes), ARRAY[key], '"x"'))),
	try_import(with_metadata(bytes, jsonb_set(metadata(bytes), ARRAY[key], '-1')))
FROM file, jsonb_object_keys(metadata(bytes)) key ORDER BY key COLLATE "C";
SELECT key, try_import(with_metadata(bytes, metadata(bytes) #- ARRAY['features', '0', key])),
	try_import(with_metadata(bytes, jsonb_set(metadata(bytes), ARRAY['features', '0', key], 'true')))
FROM file, jsonb_object_keys(metadata(bytes) #> '{features,0}') key ORDER BY key COLLATE "C";
SELECT try_import(with_metadata(bytes, jsonb_set(metadata(bytes), path, value)))
FROM file, (VALUES ('{features,0,vocabulary}'::text[], '[1, 1]'::jsonb), ('{features,0,vocabulary}', '[1.5]'), ('{features,0,vocabulary}', '[1e30]'),
	('{features,0,vocabulary,0}', '"one"'), ('{features,0,outside}', '0'), ('{features,0,size}', '100000'), ('{features,0,name}', '"other"'),
	('{meta,1}', '0'), ('{meta,2}', '5'), ('{global,0}', '7'), ('{global,2}', '2'), ('{format}', '2'), ('{inner_steps}', '1000')) v(path, value);

-- Numbers that are none: the first of the first tensor is NaN
SELECT try_import(file_of(header(bytes), '\x0000c07f'::bytea || substr(numbers(bytes), 5))) FROM file;

-- Nothing of all that left a version behind
SELECT count(*) FROM limaml.version WHERE model = 'taste';
SELECT limaml_drop_model('taste');
DROP SCHEMA network_file_test CASCADE;
