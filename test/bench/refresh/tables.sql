-- A log of impressions, the same for the same :entities and :rows but for the
-- day it ends on, which is today: new rows are to be newer than all of it.

CREATE EXTENSION limaml;

-- The nth of independent numbers between 0 and 1.
CREATE FUNCTION chance(n bigint, of integer) RETURNS double precision
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN (hashint8extended(n, of) & 9007199254740991) / 9007199254740992.0::double precision;

CREATE TABLE item AS
SELECT item_id, category_id, 'category ' || category_id AS category,
       round((5 + 95 * chance(item_id, 1) ^ 3)::numeric, 2)::double precision AS price,
       2 * chance(item_id, 2) - 1 AS appeal
FROM generate_series(0, 4999) AS item_id,
     LATERAL (SELECT 1 + floor(20 * chance(item_id, 3))::int AS category_id) c;
ALTER TABLE item ADD PRIMARY KEY (item_id);

CREATE TABLE impressions (
  member_id bigint NOT NULL,
  shown_at  timestamptz NOT NULL,
  item_id   integer NOT NULL,
  dwell     real,              -- seconds on the page before, where there was one
  price     numeric(8,2) NOT NULL,
  position  smallint NOT NULL,
  clicked   boolean NOT NULL,
  category  text NOT NULL
);

-- The nth impression: of an item that is popular or not, clicked by how much
-- it appeals to all, how much this member likes its category, and how far up
-- it stood.
CREATE FUNCTION impression(n bigint, member_id bigint, shown_at timestamptz) RETURNS SETOF impressions
STABLE LANGUAGE sql AS $$
  SELECT member_id, shown_at, i.item_id,
         CASE WHEN chance(n, 11) > 0.05 THEN -20 * ln(chance(n, 12) + 1e-9) END::real,
         (i.price * (0.9 + 0.2 * chance(n, 13)))::numeric(8,2),
         p.position,
         chance(n, 14) < 1 / (1 + exp(1.5 - i.appeal - 4 * (chance(member_id * 32 + i.category_id, 15) - 0.5) + 0.15 * p.position)),
         i.category
  FROM item AS i, (SELECT 1 + (hashint8extended(n, 16) & 7)::smallint AS position) AS p
  WHERE i.item_id = floor(5000 * chance(n, 10) ^ 2)::int
$$;

-- Who the nth impression of the log is shown to.  Every :rows-th goes to the
-- next member, so that each has one; of the others a member's share falls with
-- its rank, as 1 / (rank + 0.5 % of all): the most active have some forty
-- times the mean, most have less than half of it.
CREATE FUNCTION shown_to(n bigint, entities bigint, rows integer) RETURNS bigint
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN CASE WHEN n % rows = 0 THEN n / rows
            ELSE floor(entities * (201 ^ chance(n, 20) - 1) / 200)::bigint END
       -- the rank has nothing to do with the id
       * 7368787 % entities + 1;
