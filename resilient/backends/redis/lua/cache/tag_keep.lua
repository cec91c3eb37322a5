-- KEYS tag  ARGV ms for which it lives at least
-- For twice as long, so that it is seldom changed: every process that has the tag hears of that.
local number = redis.call('GET', KEYS[1])
if number and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('PEXPIRE', KEYS[1], digits(2 * ARGV[1]))
end
return number
