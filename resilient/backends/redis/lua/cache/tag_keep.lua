-- KEYS tag  ARGV ms for which it lives at least
local number = redis.call('GET', KEYS[1])
if number then extend(KEYS[1], ARGV[1]) end
return number
