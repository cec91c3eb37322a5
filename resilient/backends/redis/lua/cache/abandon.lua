-- KEYS lease, waiters  ARGV owner
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
wake_all(KEYS[2])
return 1
