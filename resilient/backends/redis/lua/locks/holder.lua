-- KEYS of the lock
local found = described(KEYS)
return found[7] > 0 and found
