-- A boolean column for each genre, as ML-100K has them.

SELECT format('ALTER TABLE film ADD %I boolean GENERATED ALWAYS AS (%L = ANY (string_to_array(genres, %L))) STORED',
              translate(lower(genre), '-''', '_'), genre, '|')
FROM (SELECT DISTINCT unnest(string_to_array(genres, '|')) AS genre FROM film) g
ORDER BY genre
\gexec
