-- ARGV fence, result, ttl in ms
if job.state == 'finished' and job.fence == ARGV[1] then return 1 end
if not runs(ARGV[1]) then return 0 end
job.state, job.till = 'finished', 0
redis.call('HSET', KEYS[1], 'result', ARGV[2])
keep_for(ARGV[3])
wake_all(KEYS[3])
return 1
