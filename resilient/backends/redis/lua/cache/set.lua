-- KEYS value, lease, waiters
-- ARGV value, ttl in ms, tags, key, channel
local before = redis.call('HGET', KEYS[1], 'born')
local lease = redis.call('HGET', KEYS[2], 'fence')
local born = next_fence(lease, next_fence(before, microseconds()))
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'born', digits(born), 'tags', ARGV[3], 'owner', '')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
if before then redis.call('PUBLISH', ARGV[5], ARGV[4]) end  -- what it replaces is removed
return 1
