-- KEYS value, lease, waiters
-- ARGV key, channel
-- Answers the birth and the tags of what was live.
local record = record_at(KEYS[1])
local was = record and record.expires > microseconds()
  and {digits(record.born), tags_of(KEYS[1], record)}
redis.call('DEL', KEYS[1], KEYS[2])
wake_all(KEYS[3])
tell_all(ARGV[2], ARGV[1])
return was
