-- The job that every script here works on.
-- KEYS run, steps, waiters, what the names of the checkpoints begin with
local us = microseconds()
local r = redis.call('HMGET', KEYS[1], 'state', 'owner', 'fence', 'attempt', 'until', 'first',
  'last', 'ttl', 'kept')
local job = {
  state = r[1],  -- running, idle, finished; none: there is no such job
  owner = r[2],
  fence = r[3],
  attempt = tonumber(r[4]) or 0,
  till = tonumber(r[5]) or 0,  -- when the runner's lease runs out, in microseconds
  first = tonumber(r[6]) or 1,  -- the numbers of the oldest and the newest checkpoint
  last = tonumber(r[7]) or 0,
  ttl = tonumber(r[8]) or 0,
  kept = tonumber(r[9]) or 0,  -- the earliest moment at which a checkpoint or a step is forgotten
}

local function is_running()
  return job.state == 'running' and job.till > us
end

-- Whether the writer is still the one who runs the job.
local function runs(fence)
  return job.state == 'running' and job.fence == fence
end

local function is_cancelled()
  return redis.call('HEXISTS', KEYS[1], 'cancelled')
end

local function name_of(sequence)
  return KEYS[4] .. ':' .. digits(sequence)
end

local function saved(sequence)
  if sequence < job.first or sequence > job.last then return false end
  local c = redis.call('HMGET', name_of(sequence), 'timestamp', 'progress', 'eta', 'label', 'data')
  return c[1] and {digits(sequence), c[1], c[2], c[3], c[4], c[5]}
end

local function drop_before(first)
  local dropped = 0
  for sequence = job.first, first - 1 do
    dropped = dropped + redis.call('DEL', name_of(sequence))
  end
  job.first = math.max(job.first, first)
  return dropped
end

local function lease_for(ms)
  job.till = us + ms * 1000
end

-- Store what has changed, and keep the job for so many ms. What belongs to it is kept for twice as
-- long, and written again only when that is no longer enough: a save costs the same at any history.
local function keep_for(ms)
  job.ttl = tonumber(ms)
  local lives = math.max(job.ttl, math.ceil((job.till - us) / 1000))
  if us + lives * 1000 > job.kept then
    for sequence = job.first, job.last do
      redis.call('PEXPIRE', name_of(sequence), digits(2 * lives))
    end
    redis.call('PEXPIRE', KEYS[2], digits(2 * lives))
    job.kept = us + 2 * lives * 1000
  end
  redis.call('HSET', KEYS[1], 'state', job.state, 'until', digits(job.till), 'first',
    digits(job.first), 'last', digits(job.last), 'ttl', digits(job.ttl), 'kept', digits(job.kept))
  redis.call('PEXPIRE', KEYS[1], digits(lives))
end

