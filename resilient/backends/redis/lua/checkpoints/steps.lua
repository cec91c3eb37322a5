return job.state and redis.call('HGETALL', KEYS[2]) or {}
