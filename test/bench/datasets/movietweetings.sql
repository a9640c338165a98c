-- The MovieTweetings 100K snapshot as its files have it.

CREATE TABLE rating (member_id int, item_id int, rating int, rated_at bigint,
                     line int GENERATED ALWAYS AS IDENTITY);

CREATE TABLE film (
  item_id int PRIMARY KEY,
  title   text,
  genres  text,
  year    int GENERATED ALWAYS AS (substring(title FROM '\((\d{4})\)$')::int) STORED
);
