-- $1 key, $2 owner: release a lock that one holds, and nobody waits for. No answer: `lock_release`
-- sees to the rest.
UPDATE {schema}.lock SET holds = '{}', expires = {schema}.clock() + 3600000000
WHERE key = $1 AND cardinality(queue) = 0 AND cardinality(holds) = 1 AND (holds[1]).owner = $2::text
  AND (holds[1]).until > {schema}.clock() AND NOT (holds[1]).shared
RETURNING true
