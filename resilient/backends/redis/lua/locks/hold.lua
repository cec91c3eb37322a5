-- What the scripts of locks share. The keys of one lock, `k`, are
--   1 the one holder (owner, fence, granted, note); expires with the hold
--   2 its memory: the newest fence; the last one whose hold was `released` (or is shared);
--     the fences that were `lost`, and what is not larger than the first of them
--   3 who waits, by arrival: `application`s
-- and where several may hold it
--   4 the end of each hold in microseconds; of a hold that was released, minus the moment of that
--   5 of each hold its fence, when it was granted, and a note; under '' the largest TTL
local now = moment()
local us = tonumber(now)
local MEMORY_LIVES = 604800000
local RELEASES_LIVE = 60000
local HANDED_OVER = 2000
local LOSSES_KNOWN = 16

-- Forget the holds that are over, and the releases that nobody will send again.
local function tidy(k)
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', k[4], 0, now)) do
    redis.call('ZREM', k[4], owner)
    redis.call('HDEL', k[5], owner)
  end
  redis.call('ZREMRANGEBYSCORE', k[4], '(' .. digits(RELEASES_LIVE * 1000 - us), '(0')
end

local function holders(k)
  return k[4] and redis.call('ZCOUNT', k[4], '(' .. now, '+inf') or 0
end

-- A server's clock that is stepped back would have a hold live for that much longer: none is left
-- more than its TTL.
local function shorten_one(k, ttl)
  local left = redis.call('PTTL', k[1])
  if left <= tonumber(ttl) then return left end
  redis.call('PEXPIRE', k[1], ttl)
  return tonumber(ttl)
end

local function shorten_all(k)
  local latest = us + tonumber(redis.call('HGET', k[5], '') or 0) * 1000
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', k[4], '(' .. digits(latest), '+inf')) do
    redis.call('ZADD', k[4], digits(latest), owner)
  end
end

local function has_room(k, shared, limit)
  local ttl = redis.call('HGET', k[1], 'ttl')
  if ttl then
    shorten_one(k, ttl)
    return false
  end
  if not k[4] then return true end
  local held = holders(k)
  local room = held == 0 or shared == '1' and (limit == '0' or held < tonumber(limit))
  if not room then shorten_all(k) end
  return room
end

local function note_ttl(k, ttl)
  if ttl > tonumber(redis.call('HGET', k[5], '') or 0) then
    redis.call('HSET', k[5], '', digits(ttl))
  end
end

-- What the memory says of the holds so far.
local function remembered(k)
  return redis.call('HMGET', k[2], 'fence', 'released', 'lost')
end

-- As `next_fence`, as text.
local function after(newest)
  return newest and tonumber(newest) >= us and digits(newest + 1) or now
end

-- The fence of the next grant; and what is lost, if that must be remembered anew: for `grant`.
local function drawn(memory)
  local newest, released, lost = memory[1], memory[2], memory[3]
  local fence = after(newest)
  -- Of what was before nothing is known.
  local known = lost or digits((newest or fence) - 1)
  if newest and newest ~= released then
    known = known .. ' ' .. newest
    if select(2, string.gsub(known, ' ', '')) >= LOSSES_KNOWN then
      known = string.match(known, ' (.*)')
    end
  end
  return fence, known ~= lost and known or nil
end

local function grant_alone(k, owner, ttl, note, fence)
  redis.call('HSET', k[1], 'owner', owner, 'fence', fence, 'granted', now, 'note', note,
    'ttl', ttl)
  redis.call('PEXPIRE', k[1], ttl)
end

-- `ttl` as text.
local function grant(k, owner, ttl, shared, note, fence, lost)
  if shared == '1' then
    tidy(k)
    redis.call('ZADD', k[4], digits(us + ttl * 1000), owner)
    redis.call('HSET', k[5], owner, cmsgpack.pack({fence, now, note}))
    note_ttl(k, tonumber(ttl))
    extend(k[4], digits(ttl + RELEASES_LIVE))
    extend(k[5], digits(ttl + RELEASES_LIVE))
  else
    grant_alone(k, owner, ttl, note, fence)
  end
  redis.call('HSET', k[2], 'fence', fence, shared == '1' and 'released' or 'fence', fence)
  if lost then redis.call('HSET', k[2], 'lost', lost) end
end

local function remember(k)
  redis.call('PEXPIRE', k[2], MEMORY_LIVES)
end

-- The channel of a waiter, and its number there.
local function addressed(address)
  local channel, waiter = string.match(address, '^(.*)|([^|]*)$')
  return channel or '', waiter or address
end

-- What stands in the queue: where to wake who waits, and what it wants. In one piece, so that who
-- ends a hold has to ask for nothing else: whoever is next waits for all that is done then.
local function application(address, owner, ttl, shared, limit, note)
  local channel, waiter = addressed(address)
  return cmsgpack.pack({channel, waiter, owner, ttl, shared, limit, note})
end

-- Register a waiter, unless it waits already: how many wait.
local function enroll(k, applied)
  enlist(k[3], applied, us, now)
  local waiting = redis.call('ZCARD', k[3])
  -- Where there is a queue all the time, it is kept up by one of many who join it.
  if waiting == 1 or us % 64 == 0 then remember(k) end
  return waiting
end

local function leave(k, applied)
  redis.call('ZREM', k[3], applied)
end

-- What is handed over is the waiter's for a short while, until that renews it.
local function at_first(ttl)
  return tonumber(ttl) > HANDED_OVER and HANDED_OVER or ttl
end

-- Give the lock to one who waits: whether it is still there.
local function offer(k, wants)
  local channel, waiter, owner, ttl, shared, _, note = unpack(wants)
  local fence, lost = drawn(remembered(k))
  if tell(channel, waiter, '=' .. fence) == 0 then return false end
  grant(k, owner, at_first(ttl), shared, note, fence, lost)
  return true
end

-- Give a hold that nobody shares to one who waits, taken from the queue already, or to the next
-- one there, in the place of who ends it: whether anybody was there. No loss has to be looked for:
-- its end is known.
local function pass_on(k, ended, applied, pop)
  local fence = after(ended)
  while applied do
    local channel, waiter, owner, ttl, _, _, note = unpack(cmsgpack.unpack(applied))
    if tell(channel, waiter, '=' .. fence) > 0 then
      grant_alone(k, owner, at_first(ttl), note, fence)
      if redis.call('HSET', k[2], 'fence', fence) > 0 then  -- the hold has outlived its memory
        redis.call('HSET', k[2], 'lost', digits(ended - 1))
        remember(k)
      end
      return true
    end
    applied = redis.call(pop, k[3])[1]
  end
  return false
end

-- Give the lock to those who have waited longest, as long as there is room for the first of them,
-- and until it is the turn of `before`, who asks by itself. Who is gone hears nothing: the next.
-- The answer is who is first now. `free`: nobody holds it, which need not be looked up.
local function hand_over(k, before, free)
  while true do
    local first = redis.call('ZRANGE', k[3], 0, 0)[1]
    if not first or first == before then return first end
    local wants = cmsgpack.unpack(first)
    local shared, limit = unpack(wants, 5, 6)
    if not free and not has_room(k, shared, limit) then return first end
    leave(k, first)
    if offer(k, wants) and shared ~= '1' then return first end
  end
end

-- Let the longest waiting one try: whoever is faster has the lock.
local function wake_first(k)
  while true do
    local first = redis.call('ZRANGE', k[3], 0, 0)[1]
    if not first then return end
    local channel, waiter = unpack(cmsgpack.unpack(first))
    if tell(channel, waiter, '') > 0 then return end
    leave(k, first)
  end
end

-- The one holder: owner, fence, time of the grant, note and TTL.
local function lone(k)
  return redis.call('HMGET', k[1], 'owner', 'fence', 'granted', 'note', 'ttl')
end

-- The hold of this owner: its fence, if it is held. `one` is what `lone` has answered.
local function held_by(k, owner, one)
  local held = one or lone(k)
  if held[1] == owner then return held[2] end
  if k[4] then
    local till = tonumber(redis.call('ZSCORE', k[4], owner) or 0)
    if till > us then return cmsgpack.unpack(redis.call('HGET', k[5], owner))[1] end
  end
  return false
end

-- Have this owner, who holds it, do so for so many milliseconds from now.
local function hold_on(k, owner, ttl)
  redis.call('PEXPIRE', k[2], MEMORY_LIVES)  -- however long it is held
  if redis.call('HGET', k[1], 'owner') == owner then
    redis.call('HSET', k[1], 'ttl', digits(ttl))
    redis.call('PEXPIRE', k[1], ttl)
  else
    redis.call('ZADD', k[4], digits(us + ttl * 1000), owner)
    note_ttl(k, ttl)
    extend(k[4], digits(ttl + RELEASES_LIVE))
    extend(k[5], digits(ttl + RELEASES_LIVE))
  end
end

-- End the hold of this owner: whether it held the lock.
local function let_go(k, owner, one)
  local held = one or lone(k)
  if held[1] == owner then
    redis.call('DEL', k[1])
    local made = redis.call('HSET', k[2], 'fence', held[2], 'released', held[2])
    if made > 0 then remember(k) end  -- it was held for longer than its memory lives
    return true
  end
  if not held_by(k, owner, held) then return false end
  redis.call('ZADD', k[4], '-' .. now, owner)
  redis.call('HDEL', k[5], owner)
  return true
end

-- Whether it was this owner who let it go, though not only now; by its fence if it held it alone.
local function has_let_go(k, owner, fence)
  if fence == '0' then
    return k[4] and tonumber(redis.call('ZSCORE', k[4], owner) or 0) < 0
  end
  local newest, released, lost = unpack(remembered(k))
  if fence == released then return true end
  if not lost or tonumber(fence) >= tonumber(newest) then return false end
  local floor = string.match(lost, '^%d+')
  return tonumber(fence) > tonumber(floor) and not string.find(lost, fence, 1, true)
end

-- Who holds it, of several the one whose hold ends first; who is about to, if nobody does.
local function described(k, one, waiting, left)
  waiting = waiting or redis.call('ZCARD', k[3])
  local held = one or lone(k)
  if held[1] then
    left = left or redis.call('PTTL', k[1])
    return {held[1], held[2], left, us - held[3], held[4] or '', waiting, 1}
  end
  local fence = redis.call('HGET', k[2], 'fence') or '0'
  local holding = holders(k)
  if holding == 0 then return {'', fence, HANDED_OVER, 0, '', waiting, 0} end
  local first = redis.call('ZRANGEBYSCORE', k[4], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local _, granted, note = unpack(cmsgpack.unpack(redis.call('HGET', k[5], first[1])))
  return {first[1], fence, math.floor((first[2] - us) / 1000), us - granted, note, waiting,
    holding}
end
