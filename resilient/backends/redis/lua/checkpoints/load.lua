-- ARGV sequence ('': the newest)
return job.state and saved(tonumber(ARGV[1]) or job.last)
