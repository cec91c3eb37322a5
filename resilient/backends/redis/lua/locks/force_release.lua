-- KEYS lock, memory, waiters
-- ARGV ms for which the memory lives
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], 'released')
redis.call('HSET', KEYS[2], 'fence', fence)  -- lost, if the lock was held for longer than it lives
redis.call('PEXPIRE', KEYS[2], ARGV[1])
local woken, arrived = wake_one(KEYS[3])
if woken then redis.call('HSET', KEYS[2], 'woken', woken, 'arrived', arrived) end
return 1
