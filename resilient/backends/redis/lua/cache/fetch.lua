-- KEYS value, lease, waiters
-- ARGV owner, lease in ms, waiter ('': none), the earliest birth of a value that may be served, and
-- of a computation that may be waited for
-- Answers hit, busy or leased; what is kept of a value; the time; of a lease its fence; and of
-- another's lease its owner and what is left of it in ms.
local now = microseconds()
local record = record_at(KEYS[1])
local kept = record and record.born >= tonumber(ARGV[4])
local copy = kept and redis.call('GET', KEYS[1])
if kept and record.fresh > now then return {'hit', copy, digits(now)} end
local lease = redis.call('HMGET', KEYS[2], 'owner', 'fence')
if lease[1] and tonumber(lease[2]) < tonumber(ARGV[5]) then lease = {} end  -- its value is a miss
if lease[1] and lease[1] ~= ARGV[1] then
  enlist(KEYS[3], ARGV[3], now)
  return {'busy', copy, digits(now), lease[2], lease[1], redis.call('PTTL', KEYS[2])}
end
local fence = lease[2]
if not lease[1] then
  fence = digits(next_fence(math.max(record and record.born or 0, tonumber(ARGV[5])), now))
  redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'fence', fence)
  if kept then
    disown(KEYS[1])  -- whoever computed it has nothing here now
  elseif record then
    redis.call('DEL', KEYS[1])  -- a tag was invalidated: never served again
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[3]) end
return {'leased', copy, digits(now), fence}
