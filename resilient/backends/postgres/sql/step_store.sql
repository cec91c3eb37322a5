-- $1 key, $2 name, $3 value, $4 fence: store a step that is not there yet. The row of the job is kept
-- as it is until the commit: whoever starts anew writes it first, and finds the step then. No answer:
-- `job_step` says why.
INSERT INTO {schema}.step
SELECT j.key, j.life, $2::text, $3::bytea FROM {schema}.job AS j
WHERE j.key = $1 AND j.expires > {schema}.clock() AND j.state = 'running' AND j.fence = $4::bigint
FOR SHARE
ON CONFLICT DO NOTHING
RETURNING true
