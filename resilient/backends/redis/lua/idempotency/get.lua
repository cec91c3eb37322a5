-- KEYS record
local r = redis.call('HMGET', KEYS[1], 'state', 'owner', 'attempt', 'until', 'outcome', 'result')
if r[1] == 'completed' then
  return {'completed', r[5], r[6], redis.call('PTTL', KEYS[1]), r[3]}
end
local left = r[1] == 'claimed' and r[4] - microseconds() or 0
return left > 0 and {'busy', r[2], left, r[3]}
