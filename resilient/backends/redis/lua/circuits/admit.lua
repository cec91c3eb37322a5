-- ARGV ..., token
-- Answers the verdict, microseconds until a refused caller may ask again, and the view.
local token = ARGV[4]
if not circuit.seen then return {'allowed', 0, view()} end
move_on()
if lets_through() then
  if circuit.generation ~= known.generation then store() end
  return {'allowed', 0, view()}
end
if circuit.state ~= 'half_open' then return {'refused', remaining(), view()} end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', digits(us))
local held, live = redis.call('ZSCORE', KEYS[2], token), redis.call('ZCARD', KEYS[2])
if not held and live + #circuit.outcomes < rules.permits
    and live < (rules.concurrency or live + 1) then
  held = us + rules.lease
  redis.call('ZADD', KEYS[2], digits(held), token)
end
if held then
  store(us + rules.lease)
  return {'probe', 0, view()}
end
local next_free = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if not next_free then  -- all have ended, under rules that asked for more of them
  judge()
  store()
  if lets_through() then return {'allowed', 0, view()} end
  return {'refused', remaining(), view()}
end
store(tonumber(redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]))
return {'refused', next_free - us, view()}
