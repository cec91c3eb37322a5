-- ARGV fence, name, value, ttl in ms, lease in ms
if not runs(ARGV[1]) then return 0 end
lease_for(ARGV[5])
redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
local lives = math.max(tonumber(ARGV[4]), tonumber(ARGV[5]))
extend(KEYS[2], digits(2 * lives))
job.kept = math.min(job.kept, us + 2 * lives * 1000)
keep_for(ARGV[4])
return 1
