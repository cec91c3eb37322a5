-- KEYS record, waiters  ARGV owner
local r = redis.call('HMGET', KEYS[1], 'state', 'owner', 'until')
if r[1] ~= 'claimed' or r[2] ~= ARGV[1] then return 0 end
local us = microseconds()
if tonumber(r[3]) > us then
  redis.call('HSET', KEYS[1], 'until', digits(us))
  wake_all(KEYS[2])
end
return 1
