-- KEYS of the lock  ARGV owner, fair (1 or 0), fence of the hold (0: several may have it, or unknown)
local owner, fair, fence = unpack(ARGV)
local one = redis.call('HMGET', KEYS[1], 'owner', 'fence')
local alone = one[1] == owner and not KEYS[4]
-- Out of turn it is theirs who came last, unless somebody has waited for long: of a crowd a few take
-- turns, whose processes are warm. https://arxiv.org/abs/1511.06035 (Malthusian Locks)
local pop = 'ZPOPMIN'
if alone and fair == '0' then
  local long_ago = string.format('%.0f', us - 100000)
  if redis.call('ZCOUNT', KEYS[3], '-inf', long_ago) == 0 then pop = 'ZPOPMAX' end
end
local first = alone and redis.call(pop, KEYS[3])[1]
if first then
  if pass_on(KEYS, one[2], first, pop) then return 1 end
end
local ended = let_go(KEYS, owner, one)
if not ended then
  -- The reply to the first request may have been lost.
  return has_let_go(KEYS, owner, fence) and 1 or 0
end
if alone then return 1 end
if fair == '0' then
  wake_first(KEYS)
  return 1
end
hand_over(KEYS)
return 1
