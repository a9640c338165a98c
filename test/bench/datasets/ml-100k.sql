-- MovieLens 100K as its files have it.

CREATE TABLE rating (member_id int, item_id int, rating int, rated_at bigint,
                     line int GENERATED ALWAYS AS IDENTITY);

CREATE TABLE film (
  item_id     int PRIMARY KEY,
  title       text,
  released    text,
  video       text,
  url         text,
  unknown     boolean,
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
  musical     boolean,
  mystery     boolean,
  romance     boolean,
  sci_fi      boolean,
  thriller    boolean,
  war         boolean,
  western     boolean,
  year        int GENERATED ALWAYS AS (right(released, 4)::int) STORED
);

CREATE TABLE member (member_id int PRIMARY KEY, age int, gender text, occupation text, zip text);
