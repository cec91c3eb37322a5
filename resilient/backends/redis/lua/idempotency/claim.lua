-- KEYS record, waiters
-- ARGV owner, lease in ms, ttl in ms, fingerprint, waiter ('': none), whether to take over ('': no)
local r = redis.call('HMGET', KEYS[1], 'state', 'fingerprint', 'owner', 'fence', 'attempt', 'until',
  'takeover', 'outcome', 'result')
local state, fingerprint, attempt = r[1], r[2] or '', r[5]
if fingerprint ~= '' and ARGV[4] ~= '' and fingerprint ~= ARGV[4] then
  return {'mismatch', fingerprint}
end
if state == 'completed' then
  return {'completed', r[8], r[9], redis.call('PTTL', KEYS[1]), attempt}
end
local us = microseconds()
local lives = digits(math.max(tonumber(ARGV[2]), tonumber(ARGV[3])))
if state == 'claimed' then
  if r[3] == ARGV[1] then
    redis.call('HSET', KEYS[1], 'until', digits(us + ARGV[2] * 1000))
    extend(KEYS[1], lives)
    return {'claimed', r[4], attempt, r[7]}
  end
  if tonumber(r[6]) > us then
    enlist(KEYS[2], ARGV[5], us)
    return {'busy', r[3], r[6] - us, attempt}
  end
  if ARGV[6] == '' then return {'unknown', attempt} end
end
local fence = digits(next_fence(r[4], us))
local takeover = state == 'claimed' and 1 or 0
attempt = (tonumber(attempt) or 0) + 1
redis.call('HSET', KEYS[1], 'state', 'claimed', 'owner', ARGV[1], 'fence', fence,
  'attempt', attempt, 'until', digits(us + ARGV[2] * 1000), 'takeover', takeover,
  'fingerprint', ARGV[4] ~= '' and ARGV[4] or fingerprint)
redis.call('PEXPIRE', KEYS[1], lives)
if ARGV[5] ~= '' then redis.call('ZREM', KEYS[2], ARGV[5]) end
return {'claimed', fence, attempt, takeover}
