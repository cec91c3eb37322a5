if not is_running() then return 0 end
redis.call('HSET', KEYS[1], 'cancelled', '1')
return 1
