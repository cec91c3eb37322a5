-- ARGV sequence
local sequence = tonumber(ARGV[1])
if not job.state or is_running() or not saved(sequence) then return 0 end
for number = sequence + 1, job.last do
  redis.call('DEL', name_of(number))
end
job.state, job.till, job.last = 'idle', 0, sequence
redis.call('HDEL', KEYS[1], 'result')
keep_for(job.ttl)
return 1
