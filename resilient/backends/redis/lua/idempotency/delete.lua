-- KEYS record, waiters  ARGV ms for which the fence is remembered
local r = redis.call('HMGET', KEYS[1], 'state', 'fence')
if not r[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'fence', r[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
wake_all(KEYS[2])
return 1
