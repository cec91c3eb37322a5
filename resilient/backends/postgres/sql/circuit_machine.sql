-- The circuit breaker's state machine: how outcomes, permits and hands move a circuit. The
-- transitions are those of `resilient.protocols.circuit_table`.

-- --- transitions

CREATE FUNCTION {schema}.circuit_target(_state text, _event text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE _state || ' ' || _event
    WHEN 'closed failure_rate' THEN 'open'
    WHEN 'closed slow_rate' THEN 'open'
    WHEN 'closed consecutive' THEN 'open'
    WHEN 'closed quorum' THEN 'open'
    WHEN 'open wait_elapsed' THEN 'half_open'
    WHEN 'half_open probes_passed' THEN 'closed'
    WHEN 'half_open probes_failed' THEN 'open'
    WHEN 'forced_open override_ended' THEN 'half_open'
    WHEN 'forced_closed override_ended' THEN 'closed'
    WHEN 'metrics_only override_ended' THEN 'closed'
    WHEN 'disabled override_ended' THEN 'closed'
  END
$$;

-- The circuit after the transition that this event causes.
CREATE FUNCTION {schema}.breaker_moved(_b {schema}.breaker, _event text, _rules {schema}.rules,
  _retry bigint, _t bigint) RETURNS {schema}.breaker LANGUAGE plpgsql AS $$
DECLARE
  _state text := {schema}.circuit_target(_b.state, _event);
  _generation bigint := greatest(_b.generation + 1, _t);
  _opened bigint := _b.opened;
  _until bigint := 0;
  _pause double precision;
  _share double precision;
BEGIN
  IF _state = 'open' THEN
    IF _b.state = 'closed' AND _b.since IS NOT NULL AND _t - _b.since > _rules.calm THEN
      _opened := 0;
    END IF;
    _opened := _opened + 1;
    -- Further openings in a row make it wait no longer.
    _pause := least(_rules.open_for * power(_rules.factor, least(_opened - 1, 64)),
      coalesce(nullif(_rules.longest, 0), _rules.open_for));
    -- The jitter is drawn from the generation: whoever computes it again comes to the same.
    _share := ('x' || left(encode(sha256(_generation::text::bytea), 'hex'), 8))::bit(32)::bigint
      / 4294967296.0;
    _until := _t + greatest((_pause * (1 + _rules.jitter * (2 * _share - 1)))::bigint, _retry);
  END IF;
  RETURN {schema}.breaker_entered(_b, _state, _event, _until, _opened, _t);
END
$$;

-- What was open, or was done by hand, for a time that is over moves on; else as it is.
CREATE FUNCTION {schema}.breaker_time_over(_b {schema}.breaker, _rules {schema}.rules, _t bigint)
RETURNS {schema}.breaker LANGUAGE plpgsql AS $$
BEGIN
  IF _b.state IN ('closed', 'half_open') OR _t < _b.until THEN
    RETURN _b;
  END IF;
  RETURN {schema}.breaker_moved(_b,
    CASE _b.state WHEN 'open' THEN 'wait_elapsed' ELSE 'override_ended' END, _rules, 0, _t);
END
$$;

-- --- closed

-- The circuit after these outcomes, as far as it remembers when they were.
CREATE FUNCTION {schema}.breaker_dated(_b {schema}.breaker, _outcomes text, _at bigint)
RETURNS {schema}.breaker LANGUAGE plpgsql AS $$
BEGIN
  IF _outcomes ~ '[13f]' THEN
    _b.last_failure := _at;
  END IF;
  IF _outcomes ~ '[02o]' THEN
    _b.last_success := _at;
  END IF;
  RETURN _b;
END
$$;

-- Why a closed circuit must open; null if it need not.
CREATE FUNCTION {schema}.breaker_verdict(_calls bigint, _failures bigint, _slow bigint,
  _consecutive bigint, _rules {schema}.rules) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF _consecutive >= _rules.consecutive THEN
    RETURN 'consecutive';
  ELSIF _calls = 0 OR _calls < (CASE WHEN _rules.seconds IS NULL
      THEN least(_rules.min_calls, _rules.size) ELSE _rules.min_calls END) THEN
    RETURN NULL;
  ELSIF _failures::double precision / _calls >= _rules.failure_rate THEN
    RETURN 'failure_rate';
  ELSIF _slow::double precision / _calls >= _rules.slow_rate THEN
    RETURN 'slow_rate';
  END IF;
  RETURN NULL;
END
$$;

-- One outcome in a time window; `_number` and `_until` are of the part of time that it belongs to.
CREATE FUNCTION {schema}.buckets_with(_buckets {schema}.bucket[], _outcome text, _number bigint,
  _until bigint, _t bigint) RETURNS {schema}.bucket[] LANGUAGE plpgsql AS $$
DECLARE
  _at integer;
  _bucket {schema}.bucket;
BEGIN
  IF _outcome = 'f' THEN  -- one of the latest slow calls has failed
    SELECT place INTO _at FROM unnest(_buckets) WITH ORDINALITY
        AS b(number, until, calls, failures, slow, place)
      WHERE slow > 0 AND failures < calls ORDER BY number DESC LIMIT 1;
    IF FOUND THEN
      _bucket := _buckets[_at];
      _bucket.failures := _bucket.failures + 1;
      _buckets[_at] := _bucket;
    END IF;
  ELSIF _outcome IN ('0', '1', '2', '3', 's') AND _until > _t THEN
    FOR _i IN 1 .. cardinality(_buckets) LOOP
      IF (_buckets[_i]).number = _number THEN
        _at := _i;
      END IF;
    END LOOP;
    IF _at IS NULL THEN
      _bucket := ROW(_number, _until, 0, 0, 0);
      _buckets := _buckets || _bucket;
      _at := cardinality(_buckets);
    END IF;
    _bucket := _buckets[_at];
    _bucket.calls := _bucket.calls + 1;
    _bucket.failures := _bucket.failures + {schema}.failures_in(_outcome);
    _bucket.slow := _bucket.slow + {schema}.slow_in(_outcome);
    _buckets[_at] := _bucket;
  END IF;
  RETURN _buckets;
END
$$;

-- One outcome in a ring of the latest so many.
CREATE FUNCTION {schema}.ring_with(_ring text, _outcome text, _size bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  _from_end integer;
BEGIN
  IF _outcome IN ('0', '1', '2', '3', 's') THEN
    RETURN right(_ring || CASE _outcome WHEN 's' THEN '2' ELSE _outcome END, _size::integer);
  ELSIF _outcome = 'f' THEN  -- the latest slow success was none
    _from_end := strpos(reverse(_ring), '2');
    IF _from_end > 0 THEN
      RETURN overlay(_ring PLACING '3' FROM length(_ring) - _from_end + 1 FOR 1);
    END IF;
  END IF;
  RETURN _ring;
END
$$;

-- A circuit that lets calls through after these outcomes, judged after each of them. Outcomes after
-- a transition belong to calls that were admitted before it: they are dropped.
CREATE FUNCTION {schema}.breaker_recorded(_b {schema}.breaker, _outcomes text,
  _rules {schema}.rules, _age bigint, _retry bigint, _t bigint) RETURNS {schema}.breaker
LANGUAGE plpgsql AS $$
DECLARE
  _is_timed boolean := _rules.seconds IS NOT NULL;
  _width double precision := _rules.seconds::double precision / _rules.buckets;
  _number bigint := floor((_t - _age) / _width);
  _until bigint := floor((_number + _rules.buckets) * _width);
  _outcome text;
  _breach text;
  _calls bigint;
  _failures bigint;
  _slow bigint;
BEGIN
  IF _is_timed THEN
    _b.outcomes := '';
    _b.buckets := ARRAY(SELECT b FROM unnest(_b.buckets) AS b WHERE b.until > _t);
  ELSE
    _b.outcomes := right(_b.outcomes, _rules.size::integer);
    _b.buckets := '{}';
  END IF;
  FOR _i IN 1 .. length(_outcomes) LOOP
    _outcome := substr(_outcomes, _i, 1);
    IF _is_timed THEN
      _b.buckets := {schema}.buckets_with(_b.buckets, _outcome, _number, _until, _t);
      SELECT coalesce(sum(calls), 0), coalesce(sum(failures), 0), coalesce(sum(slow), 0)
        INTO _calls, _failures, _slow FROM unnest(_b.buckets);
    ELSE
      _b.outcomes := {schema}.ring_with(_b.outcomes, _outcome, _rules.size);
      _calls := length(_b.outcomes);
      _failures := {schema}.failures_in(_b.outcomes);
      _slow := {schema}.slow_in(_b.outcomes);
    END IF;
    IF _outcome <> 's' THEN
      _b.consecutive := CASE WHEN _outcome IN ('1', '3', 'f') THEN _b.consecutive + 1 ELSE 0 END;
    END IF;
    _breach := {schema}.breaker_verdict(_calls, _failures, _slow, _b.consecutive, _rules);
    IF _breach IS NOT NULL AND _b.state = 'closed' AND _rules.quorum IS NULL THEN
      _b := {schema}.breaker_dated(_b, left(_outcomes, _i), _t - _age);
      RETURN {schema}.breaker_moved(_b, _breach, _rules, _retry, _t);
    END IF;
    _b.breach := CASE WHEN _b.state = 'closed' THEN '' ELSE coalesce(_breach, '') END;
  END LOOP;
  RETURN {schema}.breaker_dated(_b, _outcomes, _t - _age);
END
$$;

-- A circuit after a node's word on the service; enough bad words open a closed one.
CREATE FUNCTION {schema}.breaker_polled(_b {schema}.breaker, _node text, _breached boolean,
  _rules {schema}.rules, _retry bigint, _t bigint) RETURNS {schema}.breaker
LANGUAGE plpgsql AS $$
DECLARE
  _lives bigint := greatest(60000000, _rules.seconds, 2 * _rules.open_for);
  _said {schema}.node := ROW(_node, _t + _lives, _breached);
  _bad bigint;
BEGIN
  IF _rules.quorum IS NULL OR _node = '' THEN
    RETURN _b;
  END IF;
  _b.nodes :=
    ARRAY(SELECT n FROM unnest(_b.nodes) AS n WHERE n.name <> _node AND n.until > _t) || _said;
  SELECT count(*) INTO _bad FROM unnest(_b.nodes) WHERE breached;
  IF _b.state = 'closed'
      AND _bad >= greatest(_rules.quorum, ceil(_rules.quorum_share * cardinality(_b.nodes))) THEN
    RETURN {schema}.breaker_moved(_b, 'quorum', _rules, _retry, _t);
  END IF;
  RETURN _b;
END
$$;

-- --- half-open

-- The round is judged when all of its probes have ended, or one too many.
CREATE FUNCTION {schema}.breaker_judged(_b {schema}.breaker, _rules {schema}.rules, _retry bigint,
  _t bigint) RETURNS {schema}.breaker LANGUAGE plpgsql AS $$
DECLARE
  _calls double precision := length(_b.outcomes);
  _failures bigint := {schema}.failures_in(_b.outcomes);
  _failing double precision;
BEGIN
  IF _rules.all_must_pass AND _failures > 0 THEN
    RETURN {schema}.breaker_moved(_b, 'probes_failed', _rules, _retry, _t);
  ELSIF _calls < _rules.permits THEN
    RETURN _b;
  END IF;
  -- The share of failures at which it has failed: without a rate one is too many.
  _failing := coalesce(_rules.failure_rate, CASE
    WHEN _rules.consecutive IS NULL AND _rules.slow_rate IS NOT NULL THEN 2 ELSE 1 / _calls END);
  IF coalesce({schema}.slow_in(_b.outcomes) / _calls >= _rules.slow_rate, false)
      OR _failures / _calls >= _failing THEN
    RETURN {schema}.breaker_moved(_b, 'probes_failed', _rules, _retry, _t);
  END IF;
  RETURN {schema}.breaker_moved(_b, 'probes_passed', _rules, 0, _t);
END
$$;
