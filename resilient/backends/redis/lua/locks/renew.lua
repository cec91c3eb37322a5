-- KEYS of the lock  ARGV owner, ttl in ms
if not held_by(KEYS, ARGV[1]) then return 0 end
hold_on(KEYS, ARGV[1], tonumber(ARGV[2]))
return 1
