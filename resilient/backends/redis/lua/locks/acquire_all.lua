-- KEYS of each lock in turn, three each
-- ARGV owner, ttl in ms, note
local owner, ttl, note = unpack(ARGV)
local locks = {}
for i = 1, #KEYS, 3 do locks[#locks + 1] = {KEYS[i], KEYS[i + 1], KEYS[i + 2]} end
for _, k in ipairs(locks) do
  if not held_by(k, owner) then
    -- A free one is theirs who have waited longer, if any of them is still there.
    local taken = redis.call('EXISTS', k[1]) == 1 or hand_over(k, nil, true)
    if taken then return {0, unpack(described(k))} end
  end
end
local fences = {1}
for _, k in ipairs(locks) do
  local fence = held_by(k, owner)
  if fence then
    hold_on(k, owner, tonumber(ttl))
  else
    local lost
    fence, lost = drawn(remembered(k))
    grant(k, owner, ttl, '0', note, fence, lost)
    remember(k)
  end
  fences[#fences + 1] = fence
end
return fences
