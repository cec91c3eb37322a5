-- KEYS value
local entry = redis.call('HMGET', KEYS[1], 'value', 'born', 'tags', 'stale', 'lag')
if not entry[1] then return false end
local kept = redis.call('PTTL', KEYS[1])
local left = kept - (tonumber(entry[4]) or 0)
if left <= 0 then return false end
return {entry[1], left, left - (tonumber(entry[5]) or 0), kept, entry[2], entry[3]}
