-- KEYS the user's key, its fence
-- ARGV fence (0: of a call that chose to run without its lock), ms for which it is remembered,
--      command, what follows the key in it
if ARGV[1] ~= '0' then
  local highest = tonumber(redis.call('GET', KEYS[2]) or '0')
  if tonumber(ARGV[1]) < highest then return {0, string.format('%.0f', highest)} end
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
return {1, redis.call(ARGV[3], KEYS[1], unpack(ARGV, 4))}
