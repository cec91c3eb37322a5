-- KEYS record
local r = redis.call('HMGET', KEYS[1], 'state', 'owner', 'attempt', 'until', 'outcome', 'result')
if r[1] == 'completed' then
  return {'completed', r[5], r[6], redis.call('PTTL', KEYS[1]), r[3]}
end
if r[1] ~= 'claimed' then return false end
local left = r[4] - microseconds()
if left <= 0 then return {'unknown', r[3]} end
return {'busy', r[2], left, r[3]}
