-- KEYS lock, memory, waiters
-- ARGV owner, ms for which the memory lives
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  -- The reply to the first request may have been lost.
  return redis.call('HGET', KEYS[2], 'released') == ARGV[1] and 1 or 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'released', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local woken, arrived = wake_one(KEYS[3])
if woken then redis.call('HSET', KEYS[2], 'woken', woken, 'arrived', arrived) end
return 1
