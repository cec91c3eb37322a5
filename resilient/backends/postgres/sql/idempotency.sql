-- Idempotent calls: one row a key, claimed and then completed.

CREATE TABLE {schema}.idempotency (
  key text COLLATE "C" PRIMARY KEY,
  state text NOT NULL,
  owner text NOT NULL,
  fence bigint NOT NULL,
  attempt bigint NOT NULL,
  until bigint NOT NULL,
  expires bigint NOT NULL,
  takeover boolean NOT NULL,
  fingerprint text NOT NULL,
  outcome text NOT NULL,
  result bytea NOT NULL,
  queue {schema}.waiting[] NOT NULL
) WITH (fillfactor = 50);
INSERT INTO {schema}.sweep VALUES ('idempotency');

-- What has become of a call: "claimed" or "taken over" (the number is its fence), "busy" (the detail
-- is its owner), "completed" (its outcome), "mismatch" (its fingerprint) or "unknown"; else the number
-- is the time that is left. Few columns: each costs both sides.
CREATE TYPE {schema}.call AS
  (answer text, detail text, number bigint, attempt bigint, result bytea);

-- The answer to a claim that nothing changes any more; else null.
CREATE FUNCTION {schema}.call_settled(_call {schema}.idempotency, _fingerprint text, _t bigint)
RETURNS {schema}.call LANGUAGE plpgsql AS $$
BEGIN
  IF _fingerprint <> '' AND _call.fingerprint <> '' AND _fingerprint <> _call.fingerprint THEN
    RETURN ROW('mismatch', _call.fingerprint, 0, 0, ''::bytea)::{schema}.call;
  ELSIF _call.state = 'completed' THEN
    RETURN ROW('completed', _call.outcome, _call.expires - _t, _call.attempt,
      _call.result)::{schema}.call;
  END IF;
  RETURN NULL;
END
$$;

-- A replay only reads: no lock, nothing to log.
CREATE FUNCTION {schema}.call_replay(_key text, _owner text, _lease bigint, _ttl bigint,
  _fingerprint text, _address text, _takeover boolean) RETURNS TABLE (answer text, detail text,
  number bigint, attempt bigint, result bytea)
LANGUAGE sql STABLE AS $$
  SELECT 'completed', c.outcome, c.expires - {schema}.clock(), c.attempt, c.result
  FROM {schema}.idempotency AS c
  WHERE c.key = _key AND c.state = 'completed' AND c.expires > {schema}.clock()
    AND (_fingerprint = '' OR c.fingerprint = '' OR c.fingerprint = _fingerprint)
$$;

CREATE FUNCTION {schema}.call_claim(_key text, _owner text, _lease bigint, _ttl bigint,
  _fingerprint text, _address text, _takeover boolean) RETURNS {schema}.call
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 2);
  _call {schema}.idempotency;
  _fence bigint := 0;
  _queue {schema}.waiting[] := '{}';
BEGIN
  SELECT * INTO _call FROM {schema}.idempotency WHERE key = _key;
  IF _call.key IS NOT NULL THEN
    _fence := _call.fence;
    IF _call.expires <= _t THEN
      _call := NULL;
    END IF;
  END IF;
  IF _call.key IS NOT NULL THEN
    IF _call.state = 'completed' OR _fingerprint <> '' AND _call.fingerprint <> ''
        AND _fingerprint <> _call.fingerprint THEN
      RETURN {schema}.call_settled(_call, _fingerprint, _t);
    END IF;
    IF _call.state = 'claimed' AND _call.owner = _owner THEN
      UPDATE {schema}.idempotency SET until = _t + _lease,
        expires = greatest(_call.expires, _t + _ttl, _t + _lease) WHERE key = _key;
      RETURN ROW(CASE WHEN _call.takeover THEN 'taken over' ELSE 'claimed' END, '', _fence,
        _call.attempt, ''::bytea)::{schema}.call;
    ELSIF _call.state = 'claimed' AND _call.until > _t THEN
      IF _address <> '' THEN
        _queue := {schema}.joined(_call.queue, _address, _t);
        IF _queue IS DISTINCT FROM _call.queue THEN
          UPDATE {schema}.idempotency SET queue = _queue WHERE key = _key;
        END IF;
      END IF;
      RETURN ROW('busy', _call.owner, _call.until - _t, _call.attempt, ''::bytea)::{schema}.call;
    ELSIF _call.state = 'claimed' AND NOT _takeover THEN
      RETURN ROW('unknown', '', 0, _call.attempt, ''::bytea)::{schema}.call;
    END IF;
    _queue := _call.queue;
  END IF;
  _fence := greatest(_fence + 1, _t);
  INSERT INTO {schema}.idempotency AS x VALUES (_key, 'claimed', _owner, _fence,
    coalesce(_call.attempt, 0) + 1, _t + _lease, _t + greatest(_lease, _ttl),
    coalesce(_call.state = 'claimed', false),
    CASE WHEN _fingerprint = '' THEN coalesce(_call.fingerprint, '') ELSE _fingerprint END,
    '', '', _queue)
  ON CONFLICT (key) DO UPDATE SET state = 'claimed', owner = _owner, fence = excluded.fence,
    attempt = excluded.attempt, until = excluded.until, expires = excluded.expires,
    takeover = excluded.takeover, fingerprint = excluded.fingerprint, outcome = '', result = '',
    queue = excluded.queue;
  IF random() < 0.004 THEN
    PERFORM {schema}.sweep('idempotency', _t);
  END IF;
  RETURN ROW(CASE WHEN _call.state = 'claimed' THEN 'taken over' ELSE 'claimed' END, '', _fence,
    coalesce(_call.attempt, 0) + 1, ''::bytea)::{schema}.call;
END
$$;

CREATE FUNCTION {schema}.call_renew(_key text, _owner text, _lease bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 2);
BEGIN
  UPDATE {schema}.idempotency SET until = _t + _lease, expires = greatest(expires, _t + _lease)
  WHERE key = _key AND expires > _t AND state = 'claimed' AND owner = _owner;
  RETURN FOUND;
END
$$;

CREATE FUNCTION {schema}.call_complete(_key text, _owner text, _result bytea, _ttl bigint,
  _outcome text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 2);
  _state text;
  _queue {schema}.waiting[];
BEGIN
  SELECT state, queue INTO _state, _queue FROM {schema}.idempotency
  WHERE key = _key AND expires > _t AND owner = _owner;
  IF _state = 'claimed' THEN
    UPDATE {schema}.idempotency SET state = 'completed', outcome = _outcome, result = _result,
      until = 0, expires = _t + _ttl, queue = '{}' WHERE key = _key;
    IF cardinality(_queue) > 0 THEN
      PERFORM {schema}.wake_all(_queue);
    END IF;
  END IF;
  RETURN coalesce(_state IN ('claimed', 'completed'), false);
END
$$;

CREATE FUNCTION {schema}.call_abandon(_key text, _owner text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 2);
  _state text;
  _queue {schema}.waiting[];
BEGIN
  SELECT state, queue INTO _state, _queue FROM {schema}.idempotency
  WHERE key = _key AND expires > _t AND owner = _owner;
  IF _state = 'claimed' THEN
    UPDATE {schema}.idempotency SET state = 'abandoned', until = 0, queue = '{}' WHERE key = _key;
    PERFORM {schema}.wake_all(_queue);
  END IF;
  RETURN coalesce(_state IN ('claimed', 'abandoned'), false);
END
$$;

CREATE FUNCTION {schema}.call_expire(_key text, _owner text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 2);
  _until bigint;
  _queue {schema}.waiting[];
BEGIN
  SELECT until, queue INTO _until, _queue FROM {schema}.idempotency
  WHERE key = _key AND expires > _t AND owner = _owner AND state = 'claimed';
  IF _until > _t THEN
    UPDATE {schema}.idempotency SET until = _t, queue = '{}' WHERE key = _key;
    PERFORM {schema}.wake_all(_queue);
  END IF;
  RETURN _until IS NOT NULL;
END
$$;

-- No row where nothing binds a caller.
CREATE FUNCTION {schema}.call_get(_key text) RETURNS SETOF {schema}.call LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.clock();
  _call {schema}.idempotency;
BEGIN
  SELECT * INTO _call FROM {schema}.idempotency WHERE key = _key AND expires > _t;
  IF _call.state = 'completed' THEN
    RETURN NEXT {schema}.call_settled(_call, '', _t);
  ELSIF _call.state = 'claimed' AND _call.until > _t THEN
    RETURN NEXT ROW('busy', _call.owner, _call.until - _t, _call.attempt, ''::bytea)::{schema}.call;
  ELSIF _call.state = 'claimed' THEN
    RETURN NEXT ROW('unknown', '', 0, _call.attempt, ''::bytea)::{schema}.call;
  END IF;
END
$$;

-- The row stays for a while, expired: the next fence is larger.
CREATE FUNCTION {schema}.call_delete(_key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 2);
  _queue {schema}.waiting[];
BEGIN
  SELECT queue INTO _queue FROM {schema}.idempotency WHERE key = _key AND expires > _t;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE {schema}.idempotency SET expires = _t, result = '', queue = '{}' WHERE key = _key;
  PERFORM {schema}.wake_all(_queue);
  RETURN true;
END
$$;
