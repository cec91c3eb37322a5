-- In front of a script that writes under a lock; the last key is the lock, the last argument its owner.
local lock, holder = table.remove(KEYS), table.remove(ARGV)
if redis.call('HGET', lock, 'owner') ~= holder then
  return redis.error_reply('NOTHELD ' .. holder)
end
