-- KEYS of the lock  ARGV owner, fair (1 or 0), fence of the hold (0: several may have it, or unknown)
local owner, fair, fence = unpack(ARGV)
local one = redis.call('HMGET', KEYS[1], 'owner', 'fence')
local alone = one[1] == owner and not KEYS[4]
-- Out of turn it is theirs who came last: of a crowd a few take turns whose processes are warm,
-- and now and then one of the others. https://arxiv.org/abs/1511.06035 (Malthusian Locks)
local pop = (fair == '1' or us % 16 == 0) and 'ZPOPMIN' or 'ZPOPMAX'
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
