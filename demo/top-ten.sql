SELECT title, year, limaml_score('taste', :member, films) AS score
FROM films
WHERE NOT EXISTS (SELECT FROM ratings r WHERE r.member_id = :member AND r.item_id = films.item_id)
ORDER BY score DESC
LIMIT 10;
