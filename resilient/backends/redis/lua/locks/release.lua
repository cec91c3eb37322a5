-- KEYS of the lock  ARGV owner, fair (1 or 0), fence of the hold (0: several may have it, or unknown)
-- The reply to the first request may have been lost.
if not let_go(KEYS, ARGV[1]) then return has_let_go(KEYS, ARGV[1], ARGV[3]) and 1 or 0 end
next_one(KEYS, ARGV[2])
return 1
