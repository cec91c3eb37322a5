-- Circuit breakers. What a circuit is (its state, and how it came there) is a logged row, written
-- by transitions only; what is counted in that state is a row of its own, which is not logged: a
-- crash of the server forgets the window, never that a circuit is open. The two belong together if
-- they are of one generation; a window without a circuit is that of one that was never moved.

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
