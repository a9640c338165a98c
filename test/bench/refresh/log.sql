-- Every second row of the log, from :first on.  Two sessions write it at once,
-- so its order in the table is that of time but for a few pages.

INSERT INTO impressions
SELECT i.*
FROM generate_series(:first::bigint, :entities::bigint * :rows - 1, 2) AS n,
     LATERAL impression(n, shown_to(n, :entities, :rows),
                        :'log_end'::timestamptz - interval '90 days' * (1 - n / (:entities::bigint * :rows)::double precision)) AS i;
