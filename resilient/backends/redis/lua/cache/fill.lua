-- KEYS value, lease, waiters
-- ARGV owner, value, tags; for how long it is kept, and of that not served, and not fresh, in ms
-- Answers when the value was born: when its lease was given.
local lease = redis.call('HMGET', KEYS[2], 'owner', 'fence')
local owner = redis.sha1hex(ARGV[1])
if lease[1] ~= ARGV[1] then
  -- The reply to the first request may have been lost.
  local record = record_at(KEYS[1])
  return record and record.owner == owner and digits(record.born)
end
store_record(KEYS[1], ARGV[2], lease[2], owner, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
return lease[2]
