-- KEYS value, lease, waiters
-- ARGV value, tags, key, channel; for how long it is kept, and of that not served, and not fresh
local before = redis.call('HGET', KEYS[1], 'born')
local lease = redis.call('HGET', KEYS[2], 'fence')
local born = next_fence(lease, next_fence(before, microseconds()))
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'born', digits(born), 'tags', ARGV[2], 'owner', '',
  'stale', ARGV[6], 'lag', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
if before then redis.call('PUBLISH', ARGV[4], ARGV[3]) end  -- what it replaces is removed
return 1
