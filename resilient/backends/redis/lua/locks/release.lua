-- KEYS of the lock  ARGV owner, fair (1 or 0), fence of the hold (0: several may have it, or unknown)
local owner, fair, fence = unpack(ARGV)
local one = redis.call('HMGET', KEYS[1], 'owner', 'fence')
local alone = one[1] == owner and not KEYS[4]
local first = alone and fair == '1' and redis.call('ZPOPMIN', KEYS[3])[1]
if first then
  if pass_on(KEYS, one[2], first) then return 1 end
end
local ended = let_go(KEYS, owner, one)
if not ended then
  -- The reply to the first request may have been lost.
  return has_let_go(KEYS, owner, fence) and 1 or 0
end
if fair == '0' then
  wake_first(KEYS)
  return 1
end
if not alone then
  hand_over(KEYS)
end
return 1
