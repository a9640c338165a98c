-- MovieLens 1M as its files have it.

CREATE TABLE rating (member_id int, item_id int, rating int, rated_at bigint,
                     line int GENERATED ALWAYS AS IDENTITY);

CREATE TABLE film (
  item_id int PRIMARY KEY,
  title   text,
  genres  text,
  year    int GENERATED ALWAYS AS (substring(title FROM '\((\d{4})\)$')::int) STORED
);

-- occupation is a code and so a category, not a number.
CREATE TABLE member (member_id int PRIMARY KEY, age int, gender text, occupation text, zip text);
