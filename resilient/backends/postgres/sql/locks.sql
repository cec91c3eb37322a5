-- What is done with locks, whose rows are in `lock_rows.sql`.

-- A lock that nobody holds or waits for is the common case: it is granted without the rest, and to
-- most by the statement `lock_take.sql` alone.
CREATE FUNCTION {schema}.lock_acquire(_key text, _owner text, _ttl bigint, _shared boolean,
  _note text, _address text, _most bigint, _fair boolean) RETURNS {schema}.held
LANGUAGE plpgsql AS $$
DECLARE
  _fence bigint;
BEGIN
  PERFORM {schema}.read_committed();
  -- A row that is there is locked from here on, whether it is written or not.
{lock_take}  INTO _fence;
  IF NOT FOUND THEN
    RETURN {schema}.lock_acquire_taken(_key, _owner, _ttl, _address, _shared, _most, _fair, _note,
      {schema}.clock());
  END IF;
  RETURN ROW(true, _owner, _fence, _ttl, 0, '', 0, 0)::{schema}.held;
END
$$;

-- The same, and what has expired is looked for. Where locks are always free, nothing else does that:
-- so now and then it is called instead. Last, for then nobody is waited for any more.
CREATE FUNCTION {schema}.lock_acquire_and_sweep(_key text, _owner text, _ttl bigint,
  _shared boolean, _note text, _address text, _most bigint, _fair boolean) RETURNS {schema}.held
LANGUAGE plpgsql AS $$
DECLARE
  _held {schema}.held :=
    {schema}.lock_acquire(_key, _owner, _ttl, _shared, _note, _address, _most, _fair);
BEGIN
  PERFORM {schema}.sweep('lock', {schema}.clock());
  RETURN _held;
END
$$;

CREATE FUNCTION {schema}.lock_acquire_taken(_key text, _owner text, _ttl bigint, _address text,
  _shared boolean, _most bigint, _fair boolean, _note text, _t bigint) RETURNS {schema}.held
LANGUAGE plpgsql AS $$
DECLARE
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
  _mine integer;
  _hold {schema}.hold;
  _place {schema}.place := ROW(_address, _owner, _ttl, _shared, _most, _note, _t + 10000000);
  _is_first boolean := true;
BEGIN
  IF cardinality(_lock.holds) > 0 THEN
    _mine := {schema}.lock_place(_lock, _owner);
    IF _mine IS NOT NULL THEN
      _hold := _lock.holds[_mine];
      _hold.until := _t + _ttl;
      _lock.holds[_mine] := _hold;
      PERFORM {schema}.lock_put(_lock, _t);
      RETURN ROW(true, _owner, _hold.fence, _ttl, 0, '', 0, 0)::{schema}.held;
    END IF;
  END IF;
  IF _fair AND cardinality(_lock.queue) > 0 THEN
    -- What became free without a release is theirs who have waited longer.
    _lock := {schema}.lock_handed_over(_lock, _address, _t);
    _is_first := cardinality(_lock.queue) = 0 OR (_lock.queue[1]).address = _address;
  END IF;
  IF _is_first AND {schema}.lock_has_room(_lock, _shared, _most) THEN
    IF cardinality(_lock.queue) > 0 AND _address <> '' THEN
      _lock.queue := ARRAY(SELECT q FROM unnest(_lock.queue) AS q WHERE q.address <> _address);
    END IF;
    _lock := {schema}.lock_granted(_lock, _place, _ttl, _t);
    PERFORM {schema}.lock_put(_lock, _t);
    RETURN ROW(true, _owner, _lock.fence, _ttl, 0, '', 0, 0)::{schema}.held;
  END IF;
  IF _address <> '' THEN
    _lock.queue := {schema}.lock_joined(_lock.queue, _place, _t);
  END IF;
  PERFORM {schema}.lock_put(_lock, _t);
  RETURN {schema}.lock_seen(_lock, _t);
END
$$;

-- The queue with this waiter in it; whoever waits already keeps its place.
CREATE FUNCTION {schema}.lock_joined(_queue {schema}.place[], _place {schema}.place, _t bigint)
RETURNS {schema}.place[] LANGUAGE plpgsql AS $$
DECLARE
  _alive {schema}.place[];
BEGIN
  FOR _i IN 1 .. cardinality(_queue) LOOP
    IF (_queue[_i]).address = _place.address THEN
      _queue[_i] := _place;
      RETURN _queue;
    END IF;
  END LOOP;
  _alive := ARRAY(SELECT q FROM unnest(_queue) AS q WHERE q.until > _t);
  RETURN CASE WHEN cardinality(_alive) < 500 THEN _alive || _place ELSE _alive END;
END
$$;

-- A row for each grant, in the order of the keys; or one, of a lock that cannot be had.
CREATE FUNCTION {schema}.lock_acquire_all(_keys text[], _owner text, _ttl bigint, _note text)
RETURNS SETOF {schema}.held LANGUAGE plpgsql AS $$
DECLARE
  _t bigint;
  _lock {schema}.lock;
BEGIN
  -- In an order that all have in common, or they would wait for each other.
  PERFORM {schema}.lock_enter(k) FROM (SELECT DISTINCT k FROM unnest(_keys) AS k ORDER BY k) AS keys;
  _t := {schema}.clock();
  FOR _i IN 1 .. cardinality(_keys) LOOP
    _lock := {schema}.lock_live(_keys[_i], _t);
    CONTINUE WHEN {schema}.lock_place(_lock, _owner) IS NOT NULL;
    IF cardinality(_lock.queue) > 0 AND cardinality(_lock.holds) = 0 THEN
      -- It is theirs who have waited longer, if any of them is still there.
      _lock := {schema}.lock_handed_over(_lock, '', _t);
      PERFORM {schema}.lock_put(_lock, _t);
    END IF;
    IF cardinality(_lock.holds) > 0 THEN
      RETURN NEXT {schema}.lock_seen(_lock, _t);
      RETURN;
    END IF;
  END LOOP;
  FOR _i IN 1 .. cardinality(_keys) LOOP
    RETURN NEXT {schema}.lock_acquire(_keys[_i], _owner, _ttl, false, _note, '', 1, true);
  END LOOP;
END
$$;

CREATE FUNCTION {schema}.lock_renew(_key text, _owner text, _ttl bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.lock_enter(_key);
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
  _mine integer := {schema}.lock_place(_lock, _owner);
  _hold {schema}.hold;
BEGIN
  IF _mine IS NULL THEN
    RETURN false;
  END IF;
  _hold := _lock.holds[_mine];
  _hold.until := _t + _ttl;
  _lock.holds[_mine] := _hold;
  PERFORM {schema}.lock_put(_lock, _t);
  RETURN true;
END
$$;

-- Most are released by the statement `lock_free.sql` alone: those that one holds, and nobody awaits.
CREATE FUNCTION {schema}.lock_release(_key text, _owner text, _fence bigint, _shared boolean,
  _fair boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.lock_enter(_key);
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
BEGIN
  IF {schema}.lock_place(_lock, _owner) IS NULL THEN
    IF _shared THEN
      RETURN EXISTS (SELECT FROM unnest(_lock.released) WHERE owner = _owner);
    END IF;
    -- It was its owner who ended it, unless it is known as lost.
    RETURN _fence <= _lock.fence AND _fence > coalesce(_lock.lost[1], _lock.fence)
      AND _fence <> ALL (_lock.lost);
  END IF;
  PERFORM {schema}.lock_put({schema}.lock_freed(_lock, _owner, _shared, _fair, _t), _t);
  RETURN true;
END
$$;

CREATE FUNCTION {schema}.lock_transfer(_key text, _owner text, _to text, _ttl bigint,
  OUT new_fence bigint, OUT left_over bigint) LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.lock_enter(_key);
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
  _theirs integer := {schema}.lock_place(_lock, _to);
  _mine integer := {schema}.lock_place(_lock, _owner);
  _place {schema}.place;
BEGIN
  IF _theirs IS NOT NULL THEN  -- the reply to the first request may have been lost
    new_fence := (_lock.holds[_theirs]).fence;
    left_over := (_lock.holds[_theirs]).until - _t;
  ELSIF _mine IS NOT NULL THEN
    _place := ROW('', _to, _ttl, false, 1, (_lock.holds[_mine]).note, 0);
    _lock.lost := {schema}.lock_lost(_lock.lost, _lock.holds, (_lock.holds[_mine]).until);
    _lock.holds := '{}';
    _lock := {schema}.lock_granted(_lock, _place, _ttl, _t);
    PERFORM {schema}.lock_put(_lock, _t);
    new_fence := _lock.fence;
    left_over := _ttl;
  END IF;
END
$$;

CREATE FUNCTION {schema}.lock_withdraw(_key text, _owner text, _address text, _shared boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.lock_enter(_key);
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
  _waiting integer := cardinality(_lock.queue);
BEGIN
  IF _waiting > 0 THEN
    _lock.queue := ARRAY(SELECT q FROM unnest(_lock.queue) AS q WHERE q.address <> _address);
  END IF;
  IF {schema}.lock_place(_lock, _owner) IS NOT NULL THEN
    PERFORM {schema}.lock_put({schema}.lock_freed(_lock, _owner, _shared, true, _t), _t);
  ELSIF cardinality(_lock.queue) <> _waiting THEN
    -- It may have stood before others who could hold the lock together with those who do, or have
    -- been woken for a lock that is free.
    PERFORM {schema}.lock_put({schema}.lock_handed_over(_lock, '', _t), _t);
  END IF;
END
$$;

CREATE FUNCTION {schema}.lock_force_release(_key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.lock_enter(_key);
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
BEGIN
  IF cardinality(_lock.holds) = 0 THEN
    RETURN false;
  END IF;
  _lock.lost := {schema}.lock_lost(_lock.lost, _lock.holds, 9223372036854775807);
  _lock.holds := '{}';
  _lock.released := '{}';
  PERFORM {schema}.lock_put({schema}.lock_handed_over(_lock, '', _t), _t);
  RETURN true;
END
$$;

-- No row if nobody holds it.
CREATE FUNCTION {schema}.lock_holder(_key text) RETURNS SETOF {schema}.held LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.clock();
  _lock {schema}.lock := {schema}.lock_live(_key, _t);
BEGIN
  IF cardinality(_lock.holds) > 0 THEN
    RETURN NEXT {schema}.lock_seen(_lock, _t);
  END IF;
END
$$;

CREATE FUNCTION {schema}.lock_is_held(_key text, _owner text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN {schema}.lock_place({schema}.lock_live(_key, {schema}.clock()), _owner) IS NOT NULL;
END
$$;

-- Go on only if the owner holds the lock, and let nobody else have it before the commit.
CREATE FUNCTION {schema}.lock_guard(_key text, _owner text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM {schema}.lock WHERE key = _key FOR SHARE;
  IF NOT {schema}.lock_is_held(_key, _owner) THEN
    RAISE EXCEPTION USING ERRCODE = 'RSL01', MESSAGE = _owner;
  END IF;
  RETURN true;
END
$$;
