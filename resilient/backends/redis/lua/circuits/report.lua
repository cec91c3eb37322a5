-- ARGV ..., token, generation, outcome, permits, rate ('': none), open_for
local permit = redis.call('ZSCORE', KEYS[2], ARGV[4])
if circuit.state ~= 'half_open' or circuit.generation ~= tonumber(ARGV[5])
    or not permit or tonumber(permit) <= us then
  return view()
end
redis.call('ZREM', KEYS[2], ARGV[4])
if ARGV[6] ~= '-' then
  note(ARGV[6])
  circuit.outcomes = circuit.outcomes .. ARGV[6]
  judge(tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]))
end
local last_free = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
store(tonumber(last_free))
return view()
