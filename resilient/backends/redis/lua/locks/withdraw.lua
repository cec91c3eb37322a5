-- KEYS of the lock  ARGV owner, waiter
local channel, waiter = addressed(ARGV[2])
-- As its `application` begins, after the byte that tells how much it holds.
local own = string.sub(cmsgpack.pack({channel, waiter, ARGV[1]}), 2)
-- Who gives up has mostly waited longest, and stands in front.
local from, step = 0, 64
repeat
  local some = redis.call('ZRANGE', KEYS[3], from, from + step - 1)
  for _, applied in ipairs(some) do
    if string.sub(applied, 2, 1 + #own) == own then
      leave(KEYS, applied)
      some = {}
      break
    end
  end
  from = from + step
until #some < step
let_go(KEYS, ARGV[1])
-- Who stood behind it may have been waiting for it only.
hand_over(KEYS)
return 0
