-- KEYS tag  ARGV ms for which it lives at least half
-- Before the lease of a value that will have the tag: so the value is not older than the tag.
local number = redis.call('GET', KEYS[1])
if number then
  if redis.call('PTTL', KEYS[1]) < ARGV[1] / 2 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
  return number
end
number = digits(microseconds())
redis.call('SET', KEYS[1], number, 'PX', ARGV[1])
return number
