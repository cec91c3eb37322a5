-- KEYS value, lease, waiters
-- ARGV owner, lease in ms, waiter ('': none), the earliest birth of a value that may be served, and
-- of a computation that may be waited for
-- Answers hit, busy or leased; and what is kept of a value: the value, for how long it may be served
-- and is fresh and kept, in ms, its birth and tags.
local entry = redis.call('HMGET', KEYS[1], 'value', 'born', 'tags', 'stale', 'lag')
local kept = {false, 0, 0, 0, 0, ''}
if entry[1] and tonumber(entry[2]) >= tonumber(ARGV[4]) then
  local there = redis.call('PTTL', KEYS[1])
  local left = there - (tonumber(entry[4]) or 0)
  kept = {entry[1], left, left - (tonumber(entry[5]) or 0), there, entry[2], entry[3]}
  if kept[3] > 0 then return {'hit', kept} end
end
local lease = redis.call('HMGET', KEYS[2], 'owner', 'fence')
if lease[1] and tonumber(lease[2]) < tonumber(ARGV[4]) then lease = {} end  -- its value is a miss
if lease[1] and lease[1] ~= ARGV[1] then
  enlist(KEYS[3], ARGV[3], microseconds())
  return {'busy', kept, lease[1], redis.call('PTTL', KEYS[2]), lease[2]}
end
local fence = lease[2]
if not lease[1] then
  fence = digits(next_fence(math.max(tonumber(entry[2]) or 0, tonumber(ARGV[4])), microseconds()))
  redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'fence', fence)
  if kept[1] then
    redis.call('HSET', KEYS[1], 'owner', '')  -- whoever computed it has nothing here now
  elseif entry[1] then
    redis.call('DEL', KEYS[1])  -- a tag was invalidated: never served again
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[3]) end
return {'leased', kept, fence}
