-- The circuit that every script here works on. Its transitions are those of
-- `resilient.protocols.circuit_table`; the times are the server's, in microseconds.
-- KEYS circuit, probes: the tokens of the half-open round by the moment when their permits lapse
-- ARGV key, channel, rules: JSON, durations in microseconds, ...
local us = microseconds()
local rules = cjson.decode(ARGV[3])
local NUMBERS = {'generation', 'till', 'consecutive', 'opened', 'stale', 'since', 'last_failure',
  'last_success'}
local TEXTS = {'state', 'reason', 'outcomes', 'buckets', 'breach', 'fingerprint', 'nodes'}
local circuit = {seen = redis.call('EXISTS', KEYS[1]) == 1}
for at, value in ipairs(redis.call('HMGET', KEYS[1], unpack(NUMBERS))) do
  circuit[NUMBERS[at]] = tonumber(value) or 0
end
for at, value in ipairs(redis.call('HMGET', KEYS[1], unpack(TEXTS))) do
  circuit[TEXTS[at]] = value or ''
end
if circuit.state == '' then circuit.state = 'closed' end
local known = {generation = circuit.generation, fingerprint = circuit.fingerprint}

local FORCED = {forced_open = true, forced_closed = true, metrics_only = true, disabled = true}

local function lets_through()
  return circuit.state == 'closed' or FORCED[circuit.state] and circuit.state ~= 'forced_open'
end

-- Outcomes: 0 success, 1 failure, 2 slow success, 3 slow failure; s: slow and still under way,
-- f: that one has failed, o: it has not.
local FAILED = {['1'] = 1, ['3'] = 1, f = 1}
local SLOW = {['2'] = 1, ['3'] = 1, s = 1}
local CALLS = {['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, s = 1}

local function count(outcomes, kind)
  local found = 0
  for outcome in string.gmatch(outcomes, '.') do found = found + (kind[outcome] or 0) end
  return found
end

-- A time window is "number,until,calls,failures,slow;" for each part of time.
local function live_buckets()
  local found = {}
  for number, till, calls, failures, slow in
      string.gmatch(circuit.buckets, '(%d+),(%d+),(%d+),(%d+),(%d+);') do
    if tonumber(till) > us then
      table.insert(found, {number = tonumber(number), till = tonumber(till),
        calls = tonumber(calls), failures = tonumber(failures), slow = tonumber(slow)})
    end
  end
  return found
end

local function remaining()
  return math.max(0, circuit.till - us)
end

local function age(moment)
  return moment > 0 and us - moment or -1
end

local function view()
  local calls, failures = #circuit.outcomes, count(circuit.outcomes, FAILED)
  local slow, state = count(circuit.outcomes, SLOW), circuit.state
  for _, bucket in ipairs(live_buckets()) do
    calls, failures = calls + bucket.calls, failures + bucket.failures
    slow = slow + bucket.slow
  end
  if FORCED[state] and us >= circuit.till and lets_through() then state = 'closed' end
  return {state, digits(circuit.generation), remaining(), calls, failures, circuit.consecutive,
    age(circuit.last_failure), age(circuit.last_success), circuit.reason, slow, circuit.stale,
    circuit.opened, math.max(0, age(circuit.since)), circuit.breach, known.fingerprint}
end

local function note(outcome, moment)
  if FAILED[outcome] then
    circuit.last_failure, circuit.consecutive = moment, circuit.consecutive + 1
  elseif outcome ~= 's' then
    circuit.last_success, circuit.consecutive = moment, 0
  end
end

-- Its latest 20 transitions are "moment|before|after|reason|generation" by lines.
local function remember(before)
  local entry = string.format('%.0f|%s|%s|%s|%.0f\n', us, before, circuit.state,
    string.gsub(circuit.reason, '\n', ' '), circuit.generation)
  local kept = {entry}
  for line in string.gmatch(redis.call('HGET', KEYS[1], 'history') or '', '[^\n]*\n') do
    if #kept < 20 then table.insert(kept, line) end
  end
  redis.call('HSET', KEYS[1], 'history', table.concat(kept))
end

-- A transition: nothing counted any more, no probe under way, everybody told.
-- How long it lasts may depend on the generation that begins.
local function enter(state, reason, lasts)
  local before = circuit.state
  circuit.state, circuit.reason = state, string.gsub(reason, '|', '/')
  circuit.generation, circuit.since = next_fence(circuit.generation, us), us
  circuit.till = lasts and us + lasts() or 0
  circuit.outcomes, circuit.buckets, circuit.nodes, circuit.breach = '', '', '', ''
  circuit.consecutive = 0
  redis.call('DEL', KEYS[2])
  remember(before)
  tell_all(ARGV[2], string.format('%s|%.0f|%.3f|%d|%s|', state, circuit.generation,
    remaining() / 1000000, circuit.opened, circuit.reason) .. ARGV[1])
end

-- The jitter is drawn from the generation, as every other store does it.
local function open_time()
  local pause = math.min(rules.open_for * rules.factor ^ math.min(circuit.opened - 1, 64),
    rules.longest or rules.open_for)
  local share = tonumber(string.sub(redis.sha1hex(digits(circuit.generation)), 1, 8), 16) / 2 ^ 32
  return math.floor(pause * (1 + rules.jitter * (2 * share - 1)))
end

local function open(reason, retry_after)
  local calm = circuit.state == 'closed' and circuit.since > 0 and us - circuit.since > rules.calm
  circuit.opened = (calm and 0 or circuit.opened) + 1
  enter('open', reason, function() return math.max(open_time(), tonumber(retry_after) or 0) end)
end

-- What was open, or was done by hand, for a time that is over moves on.
local function move_on()
  if us < circuit.till then return end
  if circuit.state == 'open' then
    enter('half_open', 'wait_elapsed')
  elseif circuit.state == 'forced_open' then
    enter('half_open', 'override_ended')
  elseif FORCED[circuit.state] then
    enter('closed', 'override_ended')
  end
end

-- A half-open round is over when all its probes have ended, or one too many has failed.
local function judge(retry_after)
  local calls, failures = #circuit.outcomes, count(circuit.outcomes, FAILED)
  if rules.all_must_pass and failures > 0 then return open('probes_failed', retry_after) end
  if calls < rules.permits then return end
  local share = rules.failure_rate
  -- Without a rate one failure is too many.
  if not share then share = not rules.consecutive and rules.slow_rate and 2 or 1 / calls end
  local too_slow = rules.slow_rate and count(circuit.outcomes, SLOW) / calls >= rules.slow_rate
  if too_slow or failures / calls >= share then return open('probes_failed', retry_after) end
  enter('closed', 'probes_passed')
end

-- Kept while idle for its TTL, and at least while it is open or probed.
local function store(busy_until)
  local fields = {}
  for _, name in ipairs(NUMBERS) do
    table.insert(fields, name)
    table.insert(fields, digits(circuit[name]))
  end
  for _, name in ipairs(TEXTS) do
    table.insert(fields, name)
    table.insert(fields, circuit[name])
  end
  redis.call('HSET', KEYS[1], unpack(fields))
  local busy = math.max(0, math.max(busy_until or 0, circuit.till) - us)
  local lives = digits(math.ceil((rules.ttl + busy) / 1000))
  redis.call('PEXPIRE', KEYS[1], lives)
  redis.call('PEXPIRE', KEYS[2], lives)
end

