-- What every script may use: joined to the front of each of them when it is loaded.

-- The server's time in microseconds since the epoch; exact in a double until the year 2255.
local function microseconds()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

-- The same as text, for less than `digits` of it.
local function moment()
  local now = redis.call('TIME')
  return now[1] .. string.format('%06d', now[2])
end

-- A whole number as text; Lua by itself would write 1.7e+15.
local function digits(number)
  return string.format('%.0f', number)
end

-- Larger than the previous fence, and than every fence that a server gave before it lost its data.
local function next_fence(previous, us)
  return math.max((tonumber(previous) or 0) + 1, us)
end

-- Waiters of one entity: a sorted set of addresses "channel|waiter" by their arrival. A waiter that
-- died without a farewell is dropped by the first wake-up that finds nobody on its channel.
local WAITERS_LIVE = 3600000

-- `arrival`, also as text.
local function enlist(queue, address, arrival, text)
  if address ~= '' then
    local joined = redis.call('ZADD', queue, 'NX', text or digits(arrival), address)
    if joined == 1 or arrival % 64 == 0 then redis.call('PEXPIRE', queue, WAITERS_LIVE) end
  end
end

-- How many processes heard it: none if the waiters' own is gone. A gift is for who is found here:
-- on a cluster ("channel@lane", or "channel@{lane}", which is sharded: `backends/redis/lanes.py`) a
-- message may also reach who is at another server, be it this one's replica.
local function tell(channel, waiters, gift)
  local own, lane = string.match(channel, '^(.*)@({?)%d+}?$')
  if lane == '{' then
    local there = redis.pcall('PUBSUB', 'SHARDNUMSUB', channel)
    local heard = (there[2] or 0) > 0 and redis.pcall('SPUBLISH', channel, waiters .. gift)
    if type(heard) == 'number' then return heard end
    redis.call('PUBLISH', own, waiters)
    return 0
  end
  if lane and redis.call('PUBSUB', 'NUMSUB', channel)[2] == 0 then
    redis.call('PUBLISH', channel, waiters)
    return 0
  end
  return redis.call('PUBLISH', channel, waiters .. gift)
end

local function wake(address, gift)
  local channel, waiter = string.match(address, '^(.*)|([^|]*)$')
  return channel and tell(channel, waiter, gift or '') or 0
end

-- The longest waiting one that is still there: its address and arrival.
local function wake_one(queue)
  while true do
    local first = redis.call('ZPOPMIN', queue)
    if not first[1] or wake(first[1]) > 0 then return first[1], first[2] end
  end
end

-- All of them, with one message a process.
local function wake_all(queue)
  local ids, channels = {}, {}
  for _, address in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    local channel, waiter = string.match(address, '^(.*)|([^|]*)$')
    if channel then
      if not ids[channel] then
        ids[channel] = {}
        channels[#channels + 1] = channel
      end
      table.insert(ids[channel], waiter)
    end
  end
  for _, channel in ipairs(channels) do
    tell(channel, table.concat(ids[channel], ' '), '')
  end
  redis.call('DEL', queue)
end

-- Everybody who listens. On a cluster the channel is "channel@{lane}", unless that is of another
-- server by now: then the servers tell each other.
local function tell_all(channel, message)
  local plain = string.match(channel, '^(.*)@{%d+}$')
  if not plain or type(redis.pcall('SPUBLISH', channel, message)) ~= 'number' then
    redis.call('PUBLISH', plain or channel, message)
  end
end

-- Have a key live for at least so many milliseconds.
local function extend(key, ms)
  if redis.call('PTTL', key) < tonumber(ms) then redis.call('PEXPIRE', key, ms) end
end

