-- ARGV keep
if not job.state then return 0 end
local dropped = drop_before(job.last - tonumber(ARGV[1]) + 1)
redis.call('HSET', KEYS[1], 'first', digits(job.first))
return dropped
