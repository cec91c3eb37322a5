-- ARGV ..., token, permits, lease in ms, rate ('': none), open_for
-- Answers the verdict, microseconds until a refused caller may ask again, and the view.
local token, permits, lease = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if circuit.state == 'closed' then return {'allowed', 0, view()} end
if circuit.state == 'open' then
  if us < circuit.till then return {'refused', circuit.till - us, view()} end
  move('half_open', 'wait_elapsed', 0)
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', digits(us))
local held = redis.call('ZSCORE', KEYS[2], token)
if not held and redis.call('ZCARD', KEYS[2]) + #circuit.outcomes < permits then
  held = us + lease * 1000
  redis.call('ZADD', KEYS[2], digits(held), token)
end
if held then
  store(us + lease * 1000)
  return {'probe', 0, view()}
end
local next_free = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if not next_free then  -- all have ended, under rules that asked for more of them
  judge(permits, ARGV[7], tonumber(ARGV[8]))
  store()
  if circuit.state == 'closed' then return {'allowed', 0, view()} end
  return {'refused', reopens_in(), view()}
end
return {'refused', next_free - us, view()}
