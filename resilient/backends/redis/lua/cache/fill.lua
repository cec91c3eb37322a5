-- KEYS value, lease, waiters
-- ARGV owner, value, tags; for how long it is kept, and of that not served, and not fresh, in ms
-- Answers when the value was born: when its lease was given.
local lease = redis.call('HMGET', KEYS[2], 'owner', 'fence')
if lease[1] ~= ARGV[1] then
  -- The reply to the first request may have been lost.
  local entry = redis.call('HMGET', KEYS[1], 'owner', 'born')
  return entry[1] == ARGV[1] and entry[2]
end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'born', lease[2], 'tags', ARGV[3], 'owner', ARGV[1],
  'stale', ARGV[5], 'lag', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
return lease[2]
