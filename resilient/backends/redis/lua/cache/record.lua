-- A value is one string, so that a plain command reads it: its birth, until when it is served, is
-- fresh and is kept (16 digits each, in µs), the digest of whoever computed it (40), how many bytes
-- of tags follow (9), the tags, the value.
local HEAD = 113
local NOBODY = string.rep('-', 40)

-- What others have written there, of whatever type, is no record.
local function record_at(key)
  local head = redis.pcall('GETRANGE', key, 0, HEAD - 1)
  if type(head) == 'table' or #head < HEAD
    or string.find(string.sub(head, 1, 64) .. string.sub(head, 105), '%D') then return false end
  return {
    born = tonumber(string.sub(head, 1, 16)),
    expires = tonumber(string.sub(head, 17, 32)),
    fresh = tonumber(string.sub(head, 33, 48)),
    owner = string.sub(head, 65, 104),
    tags = tonumber(string.sub(head, 105, HEAD)),
  }
end

local function tags_of(key, record)
  if record.tags == 0 then return '' end
  return redis.call('GETRANGE', key, HEAD, HEAD + record.tags - 1)
end

-- For how long it is kept, and of that not served, and not fresh, in ms.
local function store_record(key, value, born, owner, tags, kept, unserved, lag)
  local now = microseconds()
  local expires = now + (kept - unserved) * 1000
  local head = string.format('%016.0f%016.0f%016.0f%016.0f',
    tonumber(born), expires, expires - lag * 1000, now + kept * 1000)
  redis.call('SET', key, head .. owner .. string.format('%09d', #tags) .. tags .. value, 'PX', kept)
end

-- In place: the value may be large.
local function disown(key)
  redis.call('SETRANGE', key, 64, NOBODY)
end

local function end_record(key, record, now)
  local fresh = math.min(record.fresh, now)
  redis.call('SETRANGE', key, 16, string.format('%016.0f%016.0f', now, fresh))
  disown(key)
end
