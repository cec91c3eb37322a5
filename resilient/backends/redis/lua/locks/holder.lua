-- KEYS lock
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'granted')
if not held[1] then return false end
return {held[1], held[2], redis.call('PTTL', KEYS[1]), microseconds() - held[3]}
