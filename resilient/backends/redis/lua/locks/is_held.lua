-- KEYS of the lock  ARGV owner
return held_by(KEYS, ARGV[1]) and 1 or 0
