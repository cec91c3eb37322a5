-- ARGV ..., token, generation, outcome, retry_after in microseconds
local permit = redis.call('ZSCORE', KEYS[2], ARGV[4])
if not circuit.seen then return view() end
if circuit.generation ~= tonumber(ARGV[5]) then
  circuit.stale = circuit.stale + count(ARGV[6], CALLS)
  store(tonumber((redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2])))
  return view()
end
if circuit.state ~= 'half_open' or not permit or tonumber(permit) <= us then return view() end
redis.call('ZREM', KEYS[2], ARGV[4])
if ARGV[6] ~= '-' then
  note(ARGV[6], us)
  circuit.outcomes = circuit.outcomes .. ARGV[6]
  judge(ARGV[7])
end
store(tonumber((redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2])))
return view()
