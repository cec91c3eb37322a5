-- KEYS tag  ARGV ms for which it lives at least, tag, channel, the latest time of all servers
local now = math.max(microseconds(), tonumber(ARGV[4]))
local number = digits(next_fence(redis.call('GET', KEYS[1]), now))
local lives = math.max(tonumber(ARGV[1]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], number, 'PX', digits(lives))
tell_all(ARGV[3], '#' .. ARGV[2])
return 1
