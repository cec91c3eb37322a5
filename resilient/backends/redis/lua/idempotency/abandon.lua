-- KEYS record, waiters  ARGV owner
local r = redis.call('HMGET', KEYS[1], 'state', 'owner')
if r[2] ~= ARGV[1] then return 0 end
if r[1] ~= 'claimed' then return r[1] == 'abandoned' and 1 or 0 end
redis.call('HSET', KEYS[1], 'state', 'abandoned')
wake_all(KEYS[2])
return 1
