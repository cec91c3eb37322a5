-- What a circuit is judged by, with running totals: its latest outcomes, by number or by time.
local window = {calls = 0, failures = 0, slow = 0}

local function tally(calls, failures, slow)
  window.calls = window.calls + calls
  window.failures = window.failures + failures
  window.slow = window.slow + slow
end

local function count_window()
  local ring, first = {}, 1
  local function put(outcome)
    table.insert(ring, outcome)
    tally(1, FAILED[outcome] or 0, SLOW[outcome] or 0)
    if window.calls > rules.window then
      tally(-1, -(FAILED[ring[first]] or 0), -(SLOW[ring[first]] or 0))
      first = first + 1
    end
  end
  for outcome in string.gmatch(circuit.outcomes, '.') do put(outcome) end
  function window.add(outcome)
    if CALLS[outcome] then
      put(outcome == 's' and '2' or outcome)
    elseif outcome == 'f' then  -- the latest slow success was none
      for place = #ring, first, -1 do
        if ring[place] == '2' then
          ring[place] = '3'
          return tally(0, 1, 0)
        end
      end
    end
  end
  function window.keep()
    circuit.outcomes, circuit.buckets = table.concat(ring, '', first), ''
  end
end

local function time_window(age)
  local width = rules.seconds / rules.buckets
  local number = math.floor((us - age) / width)
  local till = math.floor((number + rules.buckets) * width)
  local buckets, newest = live_buckets(), nil
  for _, bucket in ipairs(buckets) do
    tally(bucket.calls, bucket.failures, bucket.slow)
    if bucket.number == number then newest = bucket end
  end
  local function put(bucket, calls, failures, slow)
    bucket.calls, bucket.failures = bucket.calls + calls, bucket.failures + failures
    bucket.slow = bucket.slow + slow
    tally(calls, failures, slow)
  end
  function window.add(outcome)
    if outcome == 'f' then  -- one of the latest slow calls has failed
      table.sort(buckets, function(a, b) return a.number > b.number end)
      for _, bucket in ipairs(buckets) do
        if bucket.slow > 0 and bucket.failures < bucket.calls then return put(bucket, 0, 1, 0) end
      end
    elseif CALLS[outcome] and till > us then
      if not newest then
        newest = {number = number, till = till, calls = 0, failures = 0, slow = 0}
        table.insert(buckets, newest)
      end
      put(newest, 1, FAILED[outcome] or 0, SLOW[outcome] or 0)
    end
  end
  function window.keep()
    local texts = {}
    for _, bucket in ipairs(buckets) do
      table.insert(texts, string.format('%.0f,%.0f,%d,%d,%d;', bucket.number, bucket.till,
        bucket.calls, bucket.failures, bucket.slow))
    end
    circuit.outcomes, circuit.buckets = '', table.concat(texts)
  end
end

local function reason_to_open()
  if rules.consecutive and circuit.consecutive >= rules.consecutive then return 'consecutive' end
  local enough = rules.seconds and rules.min_calls or math.min(rules.min_calls, rules.window)
  if window.calls < enough or window.calls == 0 then return nil end
  if rules.failure_rate and window.failures / window.calls >= rules.failure_rate then
    return 'failure_rate'
  end
  if rules.slow_rate and window.slow / window.calls >= rules.slow_rate then return 'slow_rate' end
end

