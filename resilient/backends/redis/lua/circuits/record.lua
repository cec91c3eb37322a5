-- ARGV ..., outcomes, generation ('': any), window, min_calls, rate, consecutive ('': none), open_for
local outcomes, window, minimum = ARGV[4], tonumber(ARGV[6]), tonumber(ARGV[7])
local rate, consecutive, open_for = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local generation = tonumber(ARGV[5]) or 0
if circuit.state ~= 'closed' or outcomes == '' then return view() end
if generation ~= 0 and generation ~= circuit.generation then return view() end
-- Seen from now on: what is admitted now can become stale.
if not circuit.seen then circuit.generation = us end

local ring = circuit.outcomes .. outcomes
local first, calls, failed = 1, #circuit.outcomes, failures_in(circuit.outcomes)

local function reason_to_open()
  if consecutive and circuit.consecutive >= consecutive then return 'consecutive' end
  if rate and calls >= math.min(minimum, window) and failed / calls >= rate then
    return 'failure_rate'
  end
end

for last = #circuit.outcomes + 1, #ring do
  local outcome = string.sub(ring, last, last)
  note(outcome)
  calls = calls + 1
  if outcome == '1' then failed = failed + 1 end
  while calls > window do
    if string.sub(ring, first, first) == '1' then failed = failed - 1 end
    first, calls = first + 1, calls - 1
  end
  local reason = reason_to_open()
  if reason then
    -- What follows was admitted before the transition: it is dropped.
    move('open', reason, open_for)
    store()
    return view()
  end
end
circuit.outcomes = string.sub(ring, first)
store()
return view()
