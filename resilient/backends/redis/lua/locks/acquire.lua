-- KEYS of the lock
-- ARGV owner, ttl in ms, waiter ('': none), shared, limit, fair (1 or 0), note
local owner, ttl, waiter, shared, limit, fair, note = unpack(ARGV)
local one = lone(KEYS)
local mine = held_by(KEYS, owner, one)
local own = waiter ~= '' and application(waiter, owner, ttl, shared, limit, note)
if mine then
  hold_on(KEYS, owner, tonumber(ttl))
  if own then leave(KEYS, own) end
  return {1, mine}
end
local first = not one[1] and fair == '1' and redis.call('ZRANGE', KEYS[3], 0, 0)[1]
if first and first ~= own then
  -- What became free without a release is theirs who have waited longer.
  first = hand_over(KEYS, own, not KEYS[4])
end
local free = not one[1] and (not first or first == own)
if free and KEYS[4] then
  free = has_room(KEYS, shared, limit)
end
if free then
  local fence, lost = drawn(remembered(KEYS))
  grant(KEYS, owner, ttl, shared, note, fence, lost)
  remember(KEYS)
  if own then leave(KEYS, own) end
  return {1, fence}
end
local left, waiting
if one[1] then
  left = shorten_one(KEYS, one[5])
end
if own then
  waiting = enroll(KEYS, own)
end
return {0, unpack(described(KEYS, one[1] and one, waiting, left))}
