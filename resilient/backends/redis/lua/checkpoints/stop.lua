-- ARGV owner
if job.owner ~= ARGV[1] or job.state == 'finished' then return 0 end
if job.state == 'running' then
  job.state, job.till = 'idle', 0
  keep_for(job.ttl)
  wake_all(KEYS[3])
end
return 1
