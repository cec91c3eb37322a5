-- KEYS of the lock
-- ARGV owner, ttl in ms, waiter ('': none), shared, limit, fair (1 or 0), note
local owner, ttl, waiter, shared, limit, fair, note = unpack(ARGV)
local one = lone(KEYS)
local mine = held_by(KEYS, owner, one)
if mine then
  hold_on(KEYS, owner, tonumber(ttl))
  if waiter ~= '' then forget(KEYS, waiter) end
  return {1, mine}
end
local left
if one[1] then
  left = shorten_one(KEYS, one[5])
else
  one = nil
  local free = not KEYS[4]  -- nobody holds it, which need not be looked up
  -- What became free without a release is theirs who have waited longer.
  local first = fair == '1' and hand_over(KEYS, waiter, free)
  if (not first or first == waiter) and (free or has_room(KEYS, shared, limit)) then
    local fence, lost = drawn(remembered(KEYS))
    grant(KEYS, owner, tonumber(ttl), shared, note, fence, lost)
    remember(KEYS)
    if waiter ~= '' then forget(KEYS, waiter) end
    return {1, fence}
  end
end
local waiting
if waiter ~= '' then
  waiting = enroll(KEYS, waiter, cmsgpack.pack({owner, ttl, shared, limit, note}))
end
return {0, unpack(described(KEYS, one, waiting, left))}
