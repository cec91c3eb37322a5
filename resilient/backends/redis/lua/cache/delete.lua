-- KEYS value, lease, waiters
-- ARGV key, channel
-- Answers the birth and the tags of what was removed.
local entry = redis.call('HMGET', KEYS[1], 'born', 'tags')
redis.call('DEL', KEYS[1], KEYS[2])
wake_all(KEYS[3])
redis.call('PUBLISH', ARGV[2], ARGV[1])
return entry[1] and entry
