-- ARGV ms for which the fence is remembered
if not job.state then return 0 end
drop_before(job.last + 1)
redis.call('DEL', KEYS[1], KEYS[2])
if job.fence then
  redis.call('HSET', KEYS[1], 'fence', job.fence)
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
wake_all(KEYS[3])
return 1
