-- What a refresh has to do at the very least, by the server's own means.

SET max_parallel_workers_per_gather = 2;
SET work_mem = '64MB';        -- as much as a worker of a refresh has

SELECT clock_timestamp() AS begun \gset
SELECT sum(interactions)
FROM (SELECT member_id, count(*) AS interactions FROM impressions GROUP BY member_id) m
\g /dev/null
SELECT date_part('epoch', clock_timestamp() - :'begun') AS seconds \gset

SELECT format('bare count: SELECT member_id, count(*) … GROUP BY member_id: %s entities/s; the full refresh takes %s × its time',
              round(:entities / :seconds), round((:full / :seconds)::numeric, 1));
