-- What :member has liked lately, for the eye to compare with what is proposed.

SELECT string_agg(title, '; ' ORDER BY rated_at DESC, item_id) AS liked_titles
FROM (SELECT title, rated_at, item_id FROM likes
      WHERE member_id = :member AND liked
      ORDER BY rated_at DESC, item_id
      LIMIT 5) latest
\gset

\echo
\echo 'Member' :member 'liked, the latest first:' :liked_titles
\echo
