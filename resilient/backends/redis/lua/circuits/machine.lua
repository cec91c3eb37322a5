-- The circuit that every script here works on.
-- KEYS circuit, probes: the tokens of the half-open round by the moment when their permits lapse
-- ARGV key, channel, ttl in ms, ...
local us = microseconds()
local stored = redis.call('HMGET', KEYS[1], 'state', 'generation', 'until', 'reason', 'outcomes',
  'consecutive', 'last_failure', 'last_success')
local circuit = {
  seen = stored[1] and true or false,
  state = stored[1] or 'closed',
  generation = tonumber(stored[2]) or 0,
  till = tonumber(stored[3]) or 0,  -- when an open circuit may be probed, in microseconds
  reason = stored[4] or '',
  outcomes = stored[5] or '',  -- of the window or, half-open, of the round; the oldest first
  consecutive = tonumber(stored[6]) or 0,
  last_failure = stored[7],
  last_success = stored[8],
}

local function failures_in(outcomes)
  local _, count = string.gsub(outcomes, '1', '')
  return count
end

local function reopens_in()
  return circuit.state == 'open' and math.max(0, circuit.till - us) or 0
end

local function age(moment)
  return moment and us - moment or -1
end

local function view()
  return {circuit.state, digits(circuit.generation), reopens_in(), #circuit.outcomes,
    failures_in(circuit.outcomes), circuit.consecutive, age(circuit.last_failure),
    age(circuit.last_success), circuit.reason}
end

local function note(outcome)
  if outcome == '1' then
    circuit.last_failure = digits(us)
    circuit.consecutive = circuit.consecutive + 1
  else
    circuit.last_success = digits(us)
    circuit.consecutive = 0
  end
end

-- A transition: nothing counted any more, no probe under way, everybody told.
local function move(state, reason, open_for)
  circuit.state, circuit.reason = state, reason
  circuit.generation = next_fence(circuit.generation, us)
  circuit.till = state == 'open' and us + open_for * 1000 or 0
  circuit.outcomes, circuit.consecutive = '', 0
  redis.call('DEL', KEYS[2])
  redis.call('PUBLISH', ARGV[2], string.format('%s|%.0f|%.3f|%s|', state, circuit.generation,
    reopens_in() / 1000000, reason) .. ARGV[1])
end

-- Kept while idle for its TTL, and at least while it is open or probed.
local function store(busy_until)
  redis.call('HSET', KEYS[1], 'state', circuit.state, 'generation', digits(circuit.generation),
    'until', digits(circuit.till), 'reason', circuit.reason, 'outcomes', circuit.outcomes,
    'consecutive', circuit.consecutive)
  if circuit.last_failure then redis.call('HSET', KEYS[1], 'last_failure', circuit.last_failure) end
  if circuit.last_success then redis.call('HSET', KEYS[1], 'last_success', circuit.last_success) end
  local busy = math.max(0, (busy_until or circuit.till) - us)
  local lives = digits(tonumber(ARGV[3]) + math.ceil(busy / 1000))
  redis.call('PEXPIRE', KEYS[1], lives)
  redis.call('PEXPIRE', KEYS[2], lives)
end

-- A half-open round whose probes have all ended is over. Without a rate one failure is too many.
local function judge(permits, rate, open_for)
  local calls = #circuit.outcomes
  if calls < permits then return end
  if failures_in(circuit.outcomes) / calls >= (tonumber(rate) or 1 / calls) then
    move('open', 'probes_failed', open_for)
  else
    move('closed', 'probes_passed', 0)
  end
end

