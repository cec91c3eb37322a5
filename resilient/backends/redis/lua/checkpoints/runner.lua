if job.state == 'finished' then
  return {'finished', redis.call('HGET', KEYS[1], 'result'), redis.call('PTTL', KEYS[1])}
end
return is_running() and {'running', job.owner, job.till - us, job.attempt, is_cancelled()}
