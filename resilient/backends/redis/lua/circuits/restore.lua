-- ARGV ..., state, generation, microseconds left, opened
-- Not if a transition is known of that is as late as the one that is told.
if circuit.since == 0 or circuit.generation < tonumber(ARGV[5]) then
  circuit.generation = math.max(circuit.generation, tonumber(ARGV[5]))
  circuit.opened = tonumber(ARGV[7])
  enter(ARGV[4], 'restored', function() return tonumber(ARGV[6]) end)
  store()
end
return view()
