-- KEYS lock, memory, waiters
-- ARGV owner, ttl in ms, waiter ('': none), ms for which the memory lives
local us = microseconds()
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'granted')
if held[1] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, held[2]}
end
if held[1] then
  if ARGV[3] ~= '' then
    -- Whoever was woken and came too late stands where it stood in the queue.
    local woken = redis.call('HMGET', KEYS[2], 'woken', 'arrived')
    enlist(KEYS[3], ARGV[3], woken[1] == ARGV[3] and woken[2] or us)
  end
  return {0, held[1], held[2], redis.call('PTTL', KEYS[1]), us - held[3]}
end
local memory = redis.call('HMGET', KEYS[2], 'fence', 'released')
local fence = digits(next_fence(memory[1], us))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', fence, 'granted', digits(us))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], 'fence', fence)
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if memory[2] == ARGV[1] then redis.call('HDEL', KEYS[2], 'released') end
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[3]) end
return {1, fence}
