local found = {}
if not job.state then return found end
for sequence = job.first, job.last do
  found[#found + 1] = saved(sequence) or nil
end
return found
