-- KEYS value
local entry = redis.call('HMGET', KEYS[1], 'value', 'born', 'tags')
if not entry[1] then return false end
return {entry[1], redis.call('PTTL', KEYS[1]), entry[2], entry[3]}
