-- ARGV ..., outcomes, generation ('': any), age and retry_after in microseconds, fingerprint,
-- node ('': none), 1 if the node finds the service bad
local outcomes, generation = ARGV[4], tonumber(ARGV[5]) or 0
local age, retry_after, node = tonumber(ARGV[6]), ARGV[7], ARGV[9]
if outcomes == '' and node == '' then return view() end
if not circuit.seen and generation ~= 0 then return view() end  -- of a circuit that was lost
local is_theirs = generation == 0 or generation == circuit.generation
-- Seen from now on: what is admitted now can become stale.
if not circuit.seen then circuit.generation = us end
move_on()
if not lets_through() or not is_theirs then
  circuit.stale = circuit.stale + count(outcomes, CALLS)
  store(tonumber((redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2])))
  return view()
end
if circuit.state == 'disabled' then return view() end
circuit.fingerprint = ARGV[8]

-- A node's word on the service: "name,until,1 if it is bad;" for each that is heard of late.
local function poll()
  local lives = math.max(60000000, rules.seconds or 0, 2 * rules.open_for)
  local words, live, bad = {}, 1, tonumber(ARGV[10])
  for name, till, breached in string.gmatch(circuit.nodes, '([^,]+),(%d+),(%d);') do
    if name ~= node and tonumber(till) > us then
      table.insert(words, string.format('%s,%s,%s;', name, till, breached))
      live, bad = live + 1, bad + tonumber(breached)
    end
  end
  table.insert(words, string.format('%s,%.0f,%s;', node, us + lives, ARGV[10]))
  circuit.nodes = table.concat(words)
  return bad >= math.max(rules.quorum, math.ceil(rules.quorum_share * live))
end

if rules.quorum and node ~= '' and poll() and circuit.state == 'closed' then
  open('quorum', retry_after)
  store()
  return view()
end

if rules.seconds then time_window(age) else count_window() end
for outcome in string.gmatch(outcomes, '.') do
  window.add(outcome)
  note(outcome, us - age)
  local reason = reason_to_open()
  circuit.breach = circuit.state ~= 'closed' and reason or ''
  if reason and circuit.state == 'closed' and not rules.quorum then
    -- What follows was admitted before the transition: it is dropped.
    open(reason, retry_after)
    store()
    return view()
  end
end
window.keep()
store()
return view()
