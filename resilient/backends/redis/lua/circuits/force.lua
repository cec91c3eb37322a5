-- ARGV ..., state, reason, microseconds that it lasts ('': it has no end)
circuit.opened = ARGV[4] == 'open' and 1 or 0
enter(ARGV[4], ARGV[5], ARGV[6] ~= '' and function() return tonumber(ARGV[6]) end)
store()
return view()
