-- KEYS value, lease, waiters
-- ARGV key, channel
-- Answers the birth and the tags of what was live.
local now = microseconds()
local record = record_at(KEYS[1])
local was = record and record.expires > now and {digits(record.born), tags_of(KEYS[1], record)}
if was then end_record(KEYS[1], record, now) end
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
tell_all(ARGV[2], ARGV[1])
return was
