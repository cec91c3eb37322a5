-- KEYS value, lease, waiters
-- ARGV owner, lease in ms, waiter ('': none), the earliest birth of a value that may be served, and
-- of a computation that may be waited for
local entry = redis.call('HMGET', KEYS[1], 'value', 'born', 'tags')
if entry[1] and tonumber(entry[2]) >= tonumber(ARGV[4]) then
  return {'hit', entry[1], redis.call('PTTL', KEYS[1]), entry[2], entry[3]}
end
local lease = redis.call('HMGET', KEYS[2], 'owner', 'fence')
if lease[1] and tonumber(lease[2]) < tonumber(ARGV[4]) then lease = {} end  -- its value is a miss
if lease[1] and lease[1] ~= ARGV[1] then
  enlist(KEYS[3], ARGV[3], microseconds())
  return {'busy', lease[1], redis.call('PTTL', KEYS[2]), lease[2]}
end
local fence = lease[2]
if not lease[1] then
  fence = digits(next_fence(math.max(tonumber(entry[2]) or 0, tonumber(ARGV[4])), microseconds()))
  redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'fence', fence)
  if entry[1] then redis.call('DEL', KEYS[1]) end  -- a tag was invalidated: never served again
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[3]) end
return {'leased', fence}
