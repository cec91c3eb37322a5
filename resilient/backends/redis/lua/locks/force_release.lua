-- KEYS of the lock
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence and holders(KEYS) == 0 then return 0 end
redis.call('DEL', KEYS[1])
if KEYS[4] then redis.call('DEL', KEYS[4], KEYS[5]) end
redis.call('HDEL', KEYS[2], 'released')
-- Its memory may be gone, if the lock was held for longer than that lives.
if fence then redis.call('HSET', KEYS[2], 'fence', fence) end
remember(KEYS)
hand_over(KEYS)
return 1
