-- $1 key, $2 owner, $3 ttl, $4 shared, $5 note: take a lock that nobody holds, waits for, or has lost
-- or shared meanwhile. A row that is there is locked first, and then judged. No answer:
-- `lock_acquire` says why.
INSERT INTO {schema}.lock AS x
SELECT $1, t.now, ARRAY[ROW($2::text, t.now, t.now, t.now + $3::bigint, $4::boolean,
  $5::text)::{schema}.hold], '{}', '{}', ARRAY[t.now - 1],
  t.now + $3::bigint + 3600000000
FROM (SELECT {schema}.clock() AS now OFFSET 0) AS t
-- Each expression is made ready for each call: few of them, and no comparison of whole arrays.
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence, holds = excluded.holds,
  expires = excluded.expires
WHERE x.fence < excluded.fence AND cardinality(x.holds) = 0 AND cardinality(x.queue) = 0
  AND cardinality(x.released) = 0
RETURNING x.fence
