-- The five statements on real ratings, as a first user would meet them.

CREATE EXTENSION limaml;

-- Three members of different taste, and the one who will rate a film.
\set scifi 197
\set animation 352
\set romance 493
\set rater :scifi

\echo
\echo 'A like is a rating of four stars or more.  The newest 20 % of each member\'s ratings are held out.'
\echo
\set ECHO queries
CREATE VIEW likes AS
SELECT r.member_id, r.rating >= 4 AS liked, r.rated_at, f.*
FROM ratings r JOIN films f USING (item_id)
WHERE NOT r.held_out;
\set ECHO none

\echo
\echo '--- 1. Declare a model: who acts, on what, and what tells good from bad'
\echo
\set ECHO queries
SELECT limaml_create_model(
  model         => 'taste',
  interactions  => 'likes',
  entity_key    => '{member_id}',
  label         => 'liked',
  event_time    => 'rated_at',
  features      => '{item_id:category, year, action, adventure, animation, children,
                     comedy, crime, documentary, drama, fantasy, film_noir, horror, imax,
                     musical, mystery, romance, sci_fi, thriller, war, western}',
  entities      => NULL,
  meta_features => '{}');
\set ECHO none

\echo '--- 2. Train it'
\echo
\set ECHO queries
SELECT version, epochs, entities, interactions, round(validation_auc::numeric, 4) AS validation_auc,
       round(seconds::numeric, 1) AS seconds
FROM limaml_train('taste');
\set ECHO none

\echo '--- 3. Refresh: one small vector per member'
\echo
\set ECHO queries
CALL limaml_refresh('taste');
\set ECHO none

\echo
\echo '--- 4. Score: the ten films that each would like best among those not rated yet'
\set member :scifi
\i likes.sql
\set ECHO queries
\i top-ten.sql
\set ECHO none
\set member :animation
\i likes.sql
\i top-ten.sql
\set member :romance
\i likes.sql
\i top-ten.sql

\echo 'Is it any good?  Training the same network without adaptation, to compare ...'
\echo
\i compare.sql

-- What the rater is shown now, to see what a rating does to it.
CREATE TEMPORARY TABLE before AS
SELECT item_id, title, score, row_number() OVER (ORDER BY score DESC, item_id) AS rank
FROM (SELECT item_id, title, limaml_score('taste', :rater, films) AS score
      FROM films
      WHERE NOT EXISTS (SELECT FROM ratings r WHERE r.member_id = :rater AND r.item_id = films.item_id)) unrated;

SELECT item_id AS film, title AS film_title FROM before WHERE rank = 1 \gset

\echo
\echo '--- 5. Member' :rater 'sees' :film_title 'and gives it one star.  Refresh: only who is stale'
\echo
\set ECHO queries
INSERT INTO ratings (member_id, item_id, rating, rated_at) VALUES (:rater, :film, 1.0, now());
CALL limaml_refresh('taste');
\set ECHO none

\echo
\echo 'Member' :rater 'is now shown:'
SELECT row_number() OVER (ORDER BY now.score DESC, item_id) AS rank, before.rank AS was,
       round(now.score::numeric, 3) AS score, round(before.score::numeric, 3) AS score_was, before.title
FROM before
JOIN (SELECT item_id, limaml_score('taste', :rater, films) AS score FROM films) now USING (item_id)
WHERE before.item_id <> :film
ORDER BY rank
LIMIT 10;
