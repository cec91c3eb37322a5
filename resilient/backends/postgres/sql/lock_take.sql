-- $1 key, $2 owner, $3 ttl, $4 shared, $5 note: take a lock that nobody holds or waits for. A row that
-- is there is locked first, and then judged. No answer: `lock_acquire` says why.
INSERT INTO {schema}.lock AS x
SELECT $1, t.now, ARRAY[ROW($2::text, t.now, t.now, t.now + $3::bigint, $4::boolean,
  $5::text)::{schema}.hold], '{}', '{}', ARRAY[t.now - 1],
  t.now + $3::bigint + 3600000000
FROM (SELECT {schema}.clock() AS now OFFSET 0) AS t
ON CONFLICT (key) DO UPDATE SET fence = greatest(x.fence + 1, excluded.fence),
  holds = ARRAY[ROW($2::text, greatest(x.fence + 1, excluded.fence), excluded.fence,
    excluded.fence + $3::bigint, $4::boolean, $5::text)::{schema}.hold],
  -- An owner that comes back after a release must be able to lose this grant.
  released = CASE WHEN x.expires > excluded.fence AND (x.released[1]).owner <> $2::text
    THEN x.released ELSE '{}' END,
  lost = CASE WHEN x.holds = '{}' THEN x.lost
    ELSE {schema}.lock_lost(x.lost, x.holds, excluded.fence) END,
  expires = excluded.expires
WHERE x.queue = '{}' AND cardinality(x.released) < 2
  AND (x.holds = '{}' OR cardinality(x.holds) = 1 AND (x.holds[1]).until <= excluded.fence)
-- Nothing else may ever sweep the table, where locks are always free.
RETURNING CASE WHEN random() < 0.004 THEN {schema}.lock_swept(fence) ELSE fence END
