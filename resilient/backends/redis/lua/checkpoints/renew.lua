-- ARGV owner, lease in ms
if job.state ~= 'running' or job.owner ~= ARGV[1] then return 0 end
lease_for(ARGV[2])
keep_for(job.ttl)
return 1
