-- The ratings and the films, from the files that fetch leaves.

CREATE TABLE films (
  item_id     int PRIMARY KEY,
  title       text,
  year        int,
  action      boolean,
  adventure   boolean,
  animation   boolean,
  children    boolean,
  comedy      boolean,
  crime       boolean,
  documentary boolean,
  drama       boolean,
  fantasy     boolean,
  film_noir   boolean,
  horror      boolean,
  imax        boolean,
  musical     boolean,
  mystery     boolean,
  romance     boolean,
  sci_fi      boolean,
  thriller    boolean,
  war         boolean,
  western     boolean
);

\copy films FROM 'films.csv' WITH (FORMAT csv, HEADER)

CREATE TEMPORARY TABLE csv (member_id int, item_id int, rating real, rated_at bigint);

\copy csv FROM 'ratings.csv' WITH (FORMAT csv, HEADER)

CREATE TABLE ratings (
  member_id int,
  item_id   int REFERENCES films,
  rating    real,
  rated_at  timestamptz,
  held_out  boolean NOT NULL DEFAULT false,
  PRIMARY KEY (member_id, item_id)
);

-- The newest fifth of each member's ratings is what the model has to foresee.
INSERT INTO ratings
SELECT member_id, item_id, rating, to_timestamp(rated_at),
       row_number() OVER (PARTITION BY member_id ORDER BY rated_at, item_id)
         > floor(0.8 * count(*) OVER (PARTITION BY member_id))
FROM csv
ORDER BY member_id, rated_at, item_id;

CREATE INDEX ON ratings (member_id, rated_at);

ANALYZE;
