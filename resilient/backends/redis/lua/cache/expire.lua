-- KEYS value, lease, waiters
-- ARGV key, channel
-- Answers the birth and the tags of what was live.
local entry = redis.call('HMGET', KEYS[1], 'born', 'tags', 'stale')
local kept = redis.call('PTTL', KEYS[1])
local live = entry[1] and kept > (tonumber(entry[3]) or 0)
if live then redis.call('HSET', KEYS[1], 'stale', kept, 'lag', 0, 'owner', '') end
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
redis.call('PUBLISH', ARGV[2], ARGV[1])
return live and {entry[1], entry[2]}
