-- ARGV fence ('': by hand), sequence ('': the next), data, progress, eta, label, keep, ttl in ms,
--      lease in ms ('': as it is)
local fence, sequence = ARGV[1], tonumber(ARGV[2])
if fence == '' then
  if is_running() then return false end
  if not job.state then
    redis.call('DEL', KEYS[2])  -- of a job of this name that has expired
    job.state = 'idle'
  end
elseif not runs(fence) then
  return false
end
local is_any_kept = job.last >= job.first
if sequence and is_any_kept then
  -- The reply to the first request may have been lost.
  if sequence == job.last and redis.call('HGET', name_of(sequence), 'fence') == fence then
    return saved(sequence)
  end
  if sequence ~= job.last + 1 then return false end
end
sequence = sequence or job.last + 1
if not is_any_kept then job.first = sequence end
job.last = sequence
drop_before(sequence - tonumber(ARGV[7]) + 1)
if ARGV[9] ~= '' then lease_for(ARGV[9]) end
redis.call('HSET', name_of(sequence), 'timestamp', digits(us), 'progress', ARGV[4], 'eta', ARGV[5],
  'label', ARGV[6], 'data', ARGV[3], 'fence', fence)
local lives = math.max(tonumber(ARGV[8]), math.ceil((job.till - us) / 1000))
redis.call('PEXPIRE', name_of(sequence), digits(2 * lives))
job.kept = math.min(job.kept, us + 2 * lives * 1000)
keep_for(ARGV[8])
return {digits(sequence), digits(us), ARGV[4], ARGV[5], ARGV[6], ''}
