return {digits(us), redis.call('HGET', KEYS[1], 'history') or ''}
