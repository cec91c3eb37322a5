-- KEYS of the lock  ARGV owner, waiter
forget(KEYS, ARGV[2])
let_go(KEYS, ARGV[1])
-- Who stood behind it may have been waiting for it only.
hand_over(KEYS)
return 0
