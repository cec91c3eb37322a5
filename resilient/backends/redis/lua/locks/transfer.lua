-- KEYS of the lock  ARGV owner, the next owner, ttl in ms
local theirs = held_by(KEYS, ARGV[2])
if theirs then return {theirs, redis.call('PTTL', KEYS[1])} end
if not held_by(KEYS, ARGV[1]) then return false end
local note = redis.call('HGET', KEYS[1], 'note') or ''
local fence, lost = drawn(remembered(KEYS))
grant(KEYS, ARGV[2], ARGV[3], '0', note, fence, lost)
remember(KEYS)
return {fence, tonumber(ARGV[3])}
