-- KEYS record  ARGV owner, lease in ms
local r = redis.call('HMGET', KEYS[1], 'state', 'owner')
if r[1] ~= 'claimed' or r[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', digits(microseconds() + ARGV[2] * 1000))
extend(KEYS[1], ARGV[2])
return 1
