-- Circuit breakers. What a circuit is (its state, and how it came there) is a logged row, written
-- by transitions only; what is counted in that state is a row of its own, which is not logged: a
-- crash of the server forgets the window, never that a circuit is open. The two belong together if
-- they are of one generation; a window without a circuit is that of one that was never moved.
-- The transitions are those of `resilient.protocols.circuit_table`.

CREATE TYPE {schema}.permit AS (token text, until bigint);
CREATE TYPE {schema}.bucket AS
  (number bigint, until bigint, calls bigint, failures bigint, slow bigint);
CREATE TYPE {schema}.node AS (name text, until bigint, breached boolean);
CREATE TYPE {schema}.move AS (at bigint, before text, after text, reason text, generation bigint);
CREATE TYPE {schema}.rules AS (size bigint, min_calls bigint, failure_rate double precision,
  consecutive bigint, open_for bigint, permits bigint, lease bigint, ttl bigint, seconds bigint,
  buckets bigint, slow_rate double precision, factor double precision, longest bigint,
  jitter double precision, calm bigint, concurrency bigint, all_must_pass boolean, quorum bigint,
  quorum_share double precision);

CREATE TABLE {schema}.circuit (
  key text COLLATE "C" PRIMARY KEY,
  state text NOT NULL,
  generation bigint NOT NULL,
  until bigint NOT NULL,
  reason text NOT NULL,
  opened bigint NOT NULL,
  since bigint NOT NULL,
  lives bigint NOT NULL,  -- at least until then; longer, if its window does
  history {schema}.move[] NOT NULL,
  expires bigint NOT NULL
) WITH (fillfactor = 70);
CREATE UNLOGGED TABLE {schema}.circuit_window (
  key text COLLATE "C" PRIMARY KEY,
  generation bigint NOT NULL,
  outcomes text NOT NULL,
  consecutive bigint NOT NULL,
  last_failure bigint,
  last_success bigint,
  permits {schema}.permit[] NOT NULL,
  buckets {schema}.bucket[] NOT NULL,
  stale bigint NOT NULL,
  breach text NOT NULL,
  fingerprint text NOT NULL,
  nodes {schema}.node[] NOT NULL,
  expires bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO {schema}.sweep VALUES ('circuit'), ('circuit_window');

-- Both together: what the functions here work on. Without a state there is no circuit.
CREATE TYPE {schema}.breaker AS (state text, generation bigint, until bigint, outcomes text,
  consecutive bigint, last_failure bigint, last_success bigint, reason text,
  permits {schema}.permit[], buckets {schema}.bucket[], opened bigint, since bigint, stale bigint,
  breach text, fingerprint text, nodes {schema}.node[]);
CREATE TYPE {schema}.circuit_view AS (state text, generation bigint, reopens_in bigint,
  calls bigint, failures bigint, consecutive bigint, last_failure bigint, last_success bigint,
  reason text, slow bigint, stale bigint, opened bigint, age bigint, breach text,
  fingerprint text);

-- --- the rows

CREATE FUNCTION {schema}.breaker_load(_key text, _t bigint) RETURNS {schema}.breaker
LANGUAGE plpgsql AS $$
DECLARE
  _c {schema}.circuit;
  _w {schema}.circuit_window;
  _b {schema}.breaker;
BEGIN
  SELECT * INTO _c FROM {schema}.circuit WHERE key = _key;
  SELECT * INTO _w FROM {schema}.circuit_window WHERE key = _key;
  IF _w.expires > _t AND (_c.key IS NULL OR _w.generation > _c.generation) THEN
    _b.state := 'closed';
    _b.until := 0;
    _b.reason := '';
    _b.opened := 0;
  ELSIF _c.lives > _t OR _w.generation = _c.generation AND _w.expires > _t THEN
    _b.state := _c.state;
    _b.until := _c.until;
    _b.reason := _c.reason;
    _b.opened := _c.opened;
    _b.since := _c.since;
    IF _w.generation IS DISTINCT FROM _c.generation THEN  -- lost in a crash
      _w := ROW(_key, _c.generation, '', 0, NULL, NULL, '{}', '{}', 0, '', '', '{}', 0);
    END IF;
  ELSE
    _b.generation := greatest(_c.generation, _w.generation, 0);
    RETURN _b;
  END IF;
  _b.generation := _w.generation;
  _b.outcomes := _w.outcomes;
  _b.consecutive := _w.consecutive;
  _b.last_failure := _w.last_failure;
  _b.last_success := _w.last_success;
  _b.permits := _w.permits;
  _b.buckets := _w.buckets;
  _b.stale := _w.stale;
  _b.breach := _w.breach;
  _b.fingerprint := _w.fingerprint;
  _b.nodes := _w.nodes;
  RETURN _b;
END
$$;

-- The circuit as it begins in a state: nothing counted, no probe under way.
CREATE FUNCTION {schema}.breaker_entered(_b {schema}.breaker, _state text, _reason text,
  _until bigint, _opened bigint, _t bigint) RETURNS {schema}.breaker LANGUAGE plpgsql AS $$
BEGIN
  RETURN ROW(_state, greatest(_b.generation + 1, _t), _until, '', 0, _b.last_failure,
    _b.last_success, _reason, '{}', '{}', _opened, _t, coalesce(_b.stale, 0), '',
    coalesce(_b.fingerprint, ''), '{}')::{schema}.breaker;
END
$$;

-- A new circuit. Its generation comes from the clock: none that was lost is used again.
CREATE FUNCTION {schema}.breaker_new(_b {schema}.breaker, _t bigint) RETURNS {schema}.breaker
LANGUAGE plpgsql AS $$
BEGIN
  RETURN ROW('closed', greatest(_b.generation + 1, _t), 0, '', 0, NULL, NULL, '', '{}', '{}', 0,
    NULL, 0, '', '', '{}')::{schema}.breaker;
END
$$;

CREATE FUNCTION {schema}.failures_in(_outcomes text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT length(_outcomes)::bigint - length(translate(_outcomes, '13f', ''))
$$;
CREATE FUNCTION {schema}.slow_in(_outcomes text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT length(_outcomes)::bigint - length(translate(_outcomes, '23s', ''))
$$;
CREATE FUNCTION {schema}.calls_in(_outcomes text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT length(_outcomes)::bigint - length(translate(_outcomes, '0123s', ''))
$$;

CREATE FUNCTION {schema}.breaker_view(_b {schema}.breaker, _t bigint)
RETURNS {schema}.circuit_view LANGUAGE plpgsql AS $$
DECLARE
  _calls bigint := 0;
  _failures bigint := 0;
  _slow bigint := 0;
  _state text := _b.state;
BEGIN
  IF _b.state IS NULL THEN
    RETURN ROW('closed', 0, 0, 0, 0, 0, NULL, NULL, '', 0, 0, 0, 0, '', '')::{schema}.circuit_view;
  END IF;
  IF _state IN ('forced_closed', 'metrics_only', 'disabled') AND _t >= _b.until THEN
    _state := 'closed';
  END IF;
  IF cardinality(_b.buckets) > 0 THEN
    SELECT coalesce(sum(calls), 0), coalesce(sum(failures), 0), coalesce(sum(slow), 0)
      INTO _calls, _failures, _slow FROM unnest(_b.buckets) WHERE until > _t;
  END IF;
  RETURN ROW(_state, _b.generation, greatest(_b.until - _t, 0), length(_b.outcomes) + _calls,
    {schema}.failures_in(_b.outcomes) + _failures, _b.consecutive, _t - _b.last_failure,
    _t - _b.last_success, _b.reason, {schema}.slow_in(_b.outcomes) + _slow, _b.stale, _b.opened,
    coalesce(_t - _b.since, 0), _b.breach, _b.fingerprint)::{schema}.circuit_view;
END
$$;

-- Keep a circuit that has changed; a transition is remembered and announced too.
CREATE FUNCTION {schema}.breaker_store(_key text, _before {schema}.breaker,
  _after {schema}.breaker, _ttl bigint, _channel text, _name text, _t bigint)
RETURNS {schema}.circuit_view LANGUAGE plpgsql AS $$
DECLARE
  _view {schema}.circuit_view := {schema}.breaker_view(_after, _t);
  _move {schema}.move;
  _lives bigint := _after.until;
BEGIN
  IF _after IS NOT DISTINCT FROM _before THEN
    RETURN _view;
  END IF;
  IF cardinality(_after.permits) > 0 THEN
    SELECT max(until) INTO _lives FROM unnest(_after.permits);
  END IF;
  _lives := greatest(_lives, _t) + _ttl;
  INSERT INTO {schema}.circuit_window VALUES (_key, _after.generation, _after.outcomes,
    _after.consecutive, _after.last_failure, _after.last_success, _after.permits, _after.buckets,
    _after.stale, _after.breach, _after.fingerprint, _after.nodes, _lives)
  ON CONFLICT (key) DO UPDATE SET generation = excluded.generation,
    outcomes = excluded.outcomes, consecutive = excluded.consecutive,
    last_failure = excluded.last_failure, last_success = excluded.last_success,
    permits = excluded.permits, buckets = excluded.buckets, stale = excluded.stale,
    breach = excluded.breach, fingerprint = excluded.fingerprint, nodes = excluded.nodes,
    expires = excluded.expires;
  IF _after.generation <> _before.generation THEN
    _move := ROW(_t, _before.state, _after.state, _after.reason, _after.generation);
    INSERT INTO {schema}.circuit AS x VALUES (_key, _after.state, _after.generation, _after.until,
      _after.reason, _after.opened, _t, _lives, ARRAY[_move], greatest(_lives, _t + 2592000000000))
    ON CONFLICT (key) DO UPDATE SET state = excluded.state, generation = excluded.generation,
      until = excluded.until, reason = excluded.reason, opened = excluded.opened,
      since = excluded.since, lives = excluded.lives, expires = excluded.expires,
      history = excluded.history ||
        CASE WHEN x.expires > _t THEN x.history[1:19] ELSE '{}' END;
    PERFORM {schema}.announce(_channel, concat_ws('|', _view.state, _view.generation,
      round(_view.reopens_in / 1000000.0, 3), _view.opened, _view.reason, _name));
  END IF;
  IF random() < 0.004 THEN
    PERFORM {schema}.sweep('circuit', _t);
    PERFORM {schema}.sweep('circuit_window', _t);
  END IF;
  RETURN _view;
END
$$;

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

-- --- operations

CREATE FUNCTION {schema}.circuit_now(_key text) RETURNS {schema}.circuit_view
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.clock();
BEGIN
  RETURN {schema}.breaker_view({schema}.breaker_load(_key, _t), _t);
END
$$;

CREATE FUNCTION {schema}.circuit_record(_key text, _channel text, _name text,
  _rules {schema}.rules, _outcomes text, _generation bigint, _age bigint, _retry bigint,
  _fingerprint text, _node text, _breached boolean) RETURNS {schema}.circuit_view
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 4);
  _was {schema}.breaker := {schema}.breaker_load(_key, _t);
  _is_theirs boolean;
  _now {schema}.breaker;
  _after {schema}.breaker;
  _view {schema}.circuit_view;
BEGIN
  IF _outcomes = '' AND _node = '' OR _was.state IS NULL AND _generation <> 0 THEN
    RETURN {schema}.breaker_view(_was, _t);  -- the latter is of a circuit that was lost
  END IF;
  IF _was.state IS NULL THEN
    _was := {schema}.breaker_new(_was, _t);
  END IF;
  _is_theirs := coalesce(_generation IN (0, _was.generation), true);
  _now := {schema}.breaker_time_over(_was, _rules, _t);
  PERFORM {schema}.breaker_store(_key, _was, _now, _rules.ttl, _channel, _name, _t);
  _after := _now;
  IF _now.state IN ('open', 'half_open', 'forced_open') OR NOT _is_theirs THEN
    _after.stale := _after.stale + {schema}.calls_in(_outcomes);
  ELSIF _now.state <> 'disabled' THEN
    _after := {schema}.breaker_polled(_now, _node, _breached, _rules, _retry, _t);
    IF _after.generation = _now.generation THEN
      _after := {schema}.breaker_recorded(_after, _outcomes, _rules, _age, _retry, _t);
    END IF;
  END IF;
  IF _now.state <> 'disabled' OR NOT _is_theirs THEN
    _after.fingerprint := _fingerprint;
  END IF;
  _view := {schema}.breaker_store(_key, _now, _after, _rules.ttl, _channel, _name, _t);
  _view.fingerprint := _was.fingerprint;
  RETURN _view;
END
$$;

CREATE FUNCTION {schema}.circuit_admit(_key text, _channel text, _name text,
  _rules {schema}.rules, _token text, OUT verdict text, OUT retry_after bigint,
  OUT seen {schema}.circuit_view) LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 4);
  _was {schema}.breaker := {schema}.breaker_load(_key, _t);
  _now {schema}.breaker;
  _permit {schema}.permit := ROW(_token, _t + _rules.lease);
  _is_probing boolean := false;
  _live bigint;
BEGIN
  retry_after := 0;
  IF _was.state IS NULL THEN
    verdict := 'allowed';
    seen := {schema}.breaker_view(_was, _t);
    RETURN;
  END IF;
  _now := {schema}.breaker_time_over(_was, _rules, _t);
  PERFORM {schema}.breaker_store(_key, _was, _now, _rules.ttl, _channel, _name, _t);
  _was := _now;
  IF _now.state = 'half_open' THEN
    -- The permits of probes whose lease ran out are free again.
    _now.permits := ARRAY(SELECT p FROM unnest(_now.permits) AS p WHERE p.until > _t);
    _live := cardinality(_now.permits);
    IF EXISTS (SELECT FROM unnest(_now.permits) WHERE token = _token) THEN
      _is_probing := true;
    ELSIF _live + length(_now.outcomes) < _rules.permits
        AND _live < coalesce(_rules.concurrency, _live + 1) THEN
      _is_probing := true;
      _now.permits := _now.permits || _permit;
    ELSIF _live = 0 THEN  -- all have ended, under rules that asked for more of them
      _now := {schema}.breaker_judged(_now, _rules, 0, _t);
    END IF;
  END IF;
  seen := {schema}.breaker_store(_key, _was, _now, _rules.ttl, _channel, _name, _t);
  IF _is_probing THEN
    verdict := 'probe';
  ELSIF seen.state NOT IN ('open', 'half_open', 'forced_open') THEN
    verdict := 'allowed';
  ELSE
    verdict := 'refused';
    IF _now.state = 'half_open' THEN
      -- A probe may report at any moment, and its permit is free by then at the latest.
      SELECT coalesce(min(until) - _t, 0) INTO retry_after FROM unnest(_now.permits);
    ELSE
      retry_after := greatest(_now.until - _t, 0);
    END IF;
  END IF;
END
$$;

CREATE FUNCTION {schema}.circuit_report(_key text, _channel text, _name text,
  _rules {schema}.rules, _token text, _generation bigint, _outcome text, _retry bigint)
RETURNS {schema}.circuit_view LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 4);
  _was {schema}.breaker := {schema}.breaker_load(_key, _t);
  _now {schema}.breaker := _was;
BEGIN
  IF _was.state IS NULL THEN
    RETURN {schema}.breaker_view(_was, _t);
  ELSIF _was.generation <> _generation THEN
    _now.stale := _now.stale + {schema}.calls_in(_outcome);
  ELSIF EXISTS (SELECT FROM unnest(_was.permits) WHERE token = _token AND until > _t) THEN
    _now.permits := ARRAY(SELECT p FROM unnest(_now.permits) AS p WHERE p.token <> _token);
    IF _outcome <> '-' THEN
      _now.outcomes := _now.outcomes || _outcome;
      _now.consecutive :=
        CASE WHEN _outcome IN ('1', '3') THEN _now.consecutive + 1 ELSE 0 END;
      _now := {schema}.breaker_dated(_now, _outcome, _t);
      _now := {schema}.breaker_judged(_now, _rules, _retry, _t);
    END IF;
  END IF;
  RETURN {schema}.breaker_store(_key, _was, _now, _rules.ttl, _channel, _name, _t);
END
$$;

-- For how long: null where that state has no end.
CREATE FUNCTION {schema}.circuit_force(_key text, _channel text, _name text, _ttl bigint,
  _state text, _reason text, _lasts bigint) RETURNS {schema}.circuit_view LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 4);
  _was {schema}.breaker := {schema}.breaker_load(_key, _t);
BEGIN
  IF _was.state IS NULL THEN
    _was := {schema}.breaker_new(_was, _t);
  END IF;
  RETURN {schema}.breaker_store(_key, _was, {schema}.breaker_entered(_was, _state, _reason,
    coalesce(_t + _lasts, 0), (_state = 'open')::integer, _t), _ttl, _channel, _name, _t);
END
$$;

CREATE FUNCTION {schema}.circuit_restore(_key text, _channel text, _name text, _ttl bigint,
  _state text, _generation bigint, _left bigint, _opened bigint) RETURNS {schema}.circuit_view
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 4);
  _was {schema}.breaker := {schema}.breaker_load(_key, _t);
BEGIN
  IF _was.since IS NOT NULL AND _was.generation >= _generation THEN
    RETURN {schema}.breaker_view(_was, _t);
  ELSIF _was.state IS NULL THEN
    _was := {schema}.breaker_new(_was, _t);
  END IF;
  RETURN {schema}.breaker_store(_key, _was, {schema}.breaker_entered(_was, _state, 'restored',
    _t + _left, _opened, _t), _ttl, _channel, _name, _t);
END
$$;

-- The latest transitions, the newest first, with the time since each of them.
CREATE FUNCTION {schema}.circuit_history(_key text)
RETURNS TABLE (age bigint, before text, after text, reason text, generation bigint)
LANGUAGE sql STABLE AS $$
  SELECT {schema}.clock() - m.at, m.before, m.after, m.reason, m.generation
  FROM {schema}.circuit AS c, unnest(c.history) WITH ORDINALITY
    AS m(at, before, after, reason, generation, place)
  WHERE c.key = _key AND c.expires > {schema}.clock() ORDER BY m.place
$$;

CREATE FUNCTION {schema}.circuit_delete(_key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 4);
  _was {schema}.breaker := {schema}.breaker_load(_key, _t);
BEGIN
  IF _was.state IS NULL THEN
    RETURN false;
  END IF;
  DELETE FROM {schema}.circuit WHERE key = _key;
  DELETE FROM {schema}.circuit_window WHERE key = _key;
  RETURN true;
END
$$;
