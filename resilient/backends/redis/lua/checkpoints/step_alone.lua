-- A step that writes nothing else of its job: the next renewal or save sees to lease and lifetime.
-- KEYS run, steps
-- ARGV fence, name, value, ttl in ms
local run = redis.call('HMGET', KEYS[1], 'state', 'fence')
if run[1] ~= 'running' or run[2] ~= ARGV[1] then return 0 end
-- The job's next write counts it as one of that moment, which comes within the job's own lifetime.
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 1 then
  local lives = math.max(tonumber(ARGV[4]), redis.call('PTTL', KEYS[1]))
  redis.call('PEXPIRE', KEYS[2], digits(3 * lives))
end
return 1
