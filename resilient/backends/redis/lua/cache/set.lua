-- KEYS value, lease, waiters
-- ARGV value, tags, key, channel; for how long it is kept, and of that not served, and not fresh;
-- the latest of its tags, where others' clocks tell them
local before = record_at(KEYS[1])
local lease = redis.call('HGET', KEYS[2], 'fence')
local now = math.max(microseconds(), tonumber(ARGV[8]))
local born = next_fence(lease, next_fence(before and before.born, now))
store_record(KEYS[1], ARGV[1], born, NOBODY, ARGV[2], ARGV[5], ARGV[6], ARGV[7])
redis.call('DEL', KEYS[2])
wake_all(KEYS[3])
if before then tell_all(ARGV[4], ARGV[3]) end  -- what it replaces is removed
return 1
