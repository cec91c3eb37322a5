-- ARGV owner, lease in ms, ttl in ms, version, fingerprint, rerun (1 or 0), waiter ('': none)
local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'version', 'before', 'result', 'life')
local fingerprint, version, before = known[1] or '', known[2] or '', known[3] or ''
local life = known[5]

local function started()
  return {'started', job.fence, job.attempt, before, saved(job.last),
    redis.call('HGETALL', KEYS[2]), life}
end

if fingerprint ~= '' and ARGV[5] ~= '' and fingerprint ~= ARGV[5] then
  return {'differ', fingerprint}
end
if job.state == 'finished' then
  if ARGV[6] == '0' then return {'finished', known[4], redis.call('PTTL', KEYS[1])} end
  drop_before(job.last + 1)
  job.first, job.last = 1, 0  -- the numbers begin anew, as those of a new job
  redis.call('DEL', KEYS[2])
  redis.call('HDEL', KEYS[1], 'result')
  job.attempt, life = 0, false
elseif job.state == 'running' and job.owner == ARGV[1] then
  lease_for(ARGV[2])
  keep_for(ARGV[3])
  return started()
elseif is_running() then
  enlist(KEYS[3], ARGV[7], us)
  return {'running', job.owner, job.till - us, job.attempt, is_cancelled()}
elseif not job.state then
  redis.call('DEL', KEYS[2])  -- of a job of this name that has expired
end
before = version
job.state, job.fence, job.attempt = 'running', digits(next_fence(job.fence, us)), job.attempt + 1
life = life or job.fence
redis.call('HDEL', KEYS[1], 'cancelled')
redis.call('HSET', KEYS[1], 'life', life, 'owner', ARGV[1], 'fence', job.fence, 'attempt', job.attempt,
  'version', ARGV[4], 'before', before, 'fingerprint', ARGV[5] ~= '' and ARGV[5] or fingerprint)
lease_for(ARGV[2])
keep_for(ARGV[3])
if ARGV[7] ~= '' then redis.call('ZREM', KEYS[3], ARGV[7]) end
return started()
