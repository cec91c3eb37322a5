-- KEYS of the lock  ARGV owner, waiter
local channel, waiter = addressed(ARGV[2])
for _, applied in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local wants = cmsgpack.unpack(applied)
  if wants[1] == channel and wants[2] == waiter then leave(KEYS, applied) end
end
let_go(KEYS, ARGV[1])
-- Who stood behind it may have been waiting for it only.
hand_over(KEYS)
return 0
