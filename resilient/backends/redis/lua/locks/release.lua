-- KEYS of the lock  ARGV owner, fair (1 or 0)
-- The reply to the first request may have been lost.
if not let_go(KEYS, ARGV[1]) then return has_let_go(KEYS, ARGV[1]) and 1 or 0 end
next_one(KEYS, ARGV[2])
return 1
