-- KEYS of the lock  ARGV owner, fair (1 or 0), fence of the hold (0: several may have it, or unknown)
local owner, fair, fence = unpack(ARGV)
local one = lone(KEYS)
local alone = one[1] == owner and not KEYS[4]
if alone and fair == '1' and pass_on(KEYS, one[2]) then return 1 end
-- The reply to the first request may have been lost.
if not let_go(KEYS, owner, one) then return has_let_go(KEYS, owner, fence) and 1 or 0 end
if fair == '0' then
  wake_first(KEYS)
elseif not alone then
  hand_over(KEYS)
end
return 1
