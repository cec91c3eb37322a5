-- KEYS record, waiters
-- ARGV owner, outcome, result, ttl in ms
local r = redis.call('HMGET', KEYS[1], 'state', 'owner')
if r[2] ~= ARGV[1] then return 0 end
if r[1] ~= 'claimed' then return r[1] == 'completed' and 1 or 0 end
redis.call('HSET', KEYS[1], 'state', 'completed', 'outcome', ARGV[2], 'result', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
wake_all(KEYS[2])
return 1
