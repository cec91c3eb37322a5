-- The operations on circuit breakers.

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
