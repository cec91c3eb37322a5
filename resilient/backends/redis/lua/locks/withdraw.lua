-- KEYS lock, memory, waiters
-- ARGV owner, waiter, ms for which the memory lives
redis.call('ZREM', KEYS[3], ARGV[2])
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[2], 'released', ARGV[1])
elseif owner then
  return 0  -- its release will wake the next one
end
local woken, arrived = wake_one(KEYS[3])
if woken then redis.call('HSET', KEYS[2], 'woken', woken, 'arrived', arrived) end
if owner or woken then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 0
