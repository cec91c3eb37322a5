-- Locks: one row a lock, which outlives the release for an hour, so that a release that is sent
-- again is answered again.

CREATE TYPE {schema}.hold AS
  (owner text, fence bigint, since bigint, until bigint, shared boolean, note text);
CREATE TYPE {schema}.place AS
  (address text, owner text, ttl bigint, shared boolean, most bigint, note text, until bigint);
CREATE TYPE {schema}.released AS (owner text, at bigint);
CREATE TYPE {schema}.held AS (granted boolean, owner text, fence bigint, ttl bigint, age bigint,
  note text, waiters bigint, holders bigint);

CREATE TABLE {schema}.lock (
  key text COLLATE "C" PRIMARY KEY,
  fence bigint NOT NULL,
  holds {schema}.hold[] NOT NULL,
  released {schema}.released[] NOT NULL,
  queue {schema}.place[] NOT NULL,
  -- Fences of the holds that nobody shared and that were lost; whatever is not larger than the
  -- first counts as lost, too.
  lost bigint[] NOT NULL,
  expires bigint NOT NULL
) WITH (fillfactor = 80);
INSERT INTO {schema}.sweep VALUES ('lock');

-- --- the row

-- Take the row, and make one without a holder if there is none: nobody else changes it before the
-- commit. The next statement of a function sees what was committed before (READ COMMITTED).
CREATE FUNCTION {schema}.lock_enter(_key text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _before bigint := {schema}.clock() - 1;
BEGIN
  PERFORM {schema}.read_committed();
  INSERT INTO {schema}.lock AS x VALUES (_key, _before, '{}', '{}', '{}', ARRAY[_before], 0)
  ON CONFLICT (key) DO UPDATE SET fence = x.fence WHERE false;  -- locks it all the same
  RETURN {schema}.clock();
END
$$;

-- What was lost last, and of it no more than anybody will ask for (`LOSSES_KNOWN`).
CREATE FUNCTION {schema}.lock_lost(_lost bigint[], _holds {schema}.hold[], _t bigint)
RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
  FOR _i IN 1 .. cardinality(_holds) LOOP
    IF NOT (_holds[_i]).shared AND (_holds[_i]).until <= _t THEN
      _lost := _lost || (_holds[_i]).fence;
    END IF;
  END LOOP;
  RETURN _lost[greatest(1, cardinality(_lost) - 15):];
END
$$;

-- The lock without those whose time is over.
CREATE FUNCTION {schema}.lock_live(_key text, _t bigint) RETURNS {schema}.lock
LANGUAGE plpgsql AS $$
DECLARE
  _lock {schema}.lock;
BEGIN
  SELECT * INTO _lock FROM {schema}.lock WHERE key = _key;
  IF _lock.key IS NULL THEN
    _lock := ROW(_key, 0, '{}', '{}', '{}', '{}', 0);
  ELSIF _lock.expires <= _t THEN
    _lock := ROW(_key, _lock.fence, '{}', '{}', '{}',
      {schema}.lock_lost(_lock.lost, _lock.holds, _t), 0);
  ELSIF cardinality(_lock.holds) > 0 AND (cardinality(_lock.holds) > 1 OR (_lock.holds[1]).until <= _t) THEN
    _lock.lost := {schema}.lock_lost(_lock.lost, _lock.holds, _t);
    _lock.holds := ARRAY(SELECT h FROM unnest(_lock.holds) AS h WHERE h.until > _t);
  END IF;
  RETURN _lock;
END
$$;

CREATE FUNCTION {schema}.lock_put(_lock {schema}.lock, _t bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  _until bigint := _t;
BEGIN
  FOR _i IN 1 .. cardinality(_lock.holds) LOOP
    _until := greatest(_until, (_lock.holds[_i]).until);
  END LOOP;
  INSERT INTO {schema}.lock VALUES
    (_lock.key, _lock.fence, _lock.holds, _lock.released, _lock.queue, _lock.lost,
     _until + 3600000000)
  ON CONFLICT (key) DO UPDATE SET fence = excluded.fence, holds = excluded.holds,
    released = excluded.released, queue = excluded.queue, lost = excluded.lost,
    expires = excluded.expires;
  IF random() < 0.004 THEN
    PERFORM {schema}.sweep('lock', _t);
  END IF;
END
$$;

-- Where an owner stands among those who hold the lock; null if it does not.
CREATE FUNCTION {schema}.lock_place(_lock {schema}.lock, _owner text) RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
  FOR _i IN 1 .. cardinality(_lock.holds) LOOP
    IF (_lock.holds[_i]).owner = _owner THEN
      RETURN _i;
    END IF;
  END LOOP;
  RETURN NULL;
END
$$;

CREATE FUNCTION {schema}.lock_has_room(_lock {schema}.lock, _shared boolean, _most bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN cardinality(_lock.holds) = 0 OR (_shared AND (_lock.holds[1]).shared
    AND (_most = 0 OR cardinality(_lock.holds) < _most));
END
$$;

-- The lock with one more holder, under a new fence.
CREATE FUNCTION {schema}.lock_granted(_lock {schema}.lock, _place {schema}.place, _ttl bigint,
  _t bigint) RETURNS {schema}.lock LANGUAGE plpgsql AS $$
DECLARE
  _hold {schema}.hold;
BEGIN
  _lock.fence := greatest(_lock.fence + 1, _t);
  _hold := ROW(_place.owner, _lock.fence, _t, _t + _ttl, _place.shared, _place.note);
  IF cardinality(_lock.lost) = 0 THEN  -- of what was before nothing is known
    _lock.lost := ARRAY[_lock.fence - 1];
  END IF;
  IF cardinality(_lock.holds) = 0 THEN
    _lock.holds := ARRAY[_hold];
  ELSE
    _lock.holds := _lock.holds || _hold;
  END IF;
  -- An owner that comes back after a release must be able to lose this grant.
  IF cardinality(_lock.released) > 0 THEN
    _lock.released := ARRAY(SELECT r FROM unnest(_lock.released) AS r
      WHERE r.owner <> _place.owner AND r.at > _t - 60000000);
  END IF;
  RETURN _lock;
END
$$;

-- The lock after it was given to those who wait, as long as there is room for the first of them;
-- up to the waiter `_before`, who asks by itself.
CREATE FUNCTION {schema}.lock_handed_over(_lock {schema}.lock, _before text, _t bigint)
RETURNS {schema}.lock LANGUAGE plpgsql AS $$
DECLARE
  _place {schema}.place;
BEGIN
  WHILE cardinality(_lock.queue) > 0 LOOP
    _place := _lock.queue[1];
    EXIT WHEN _place.address = _before;
    EXIT WHEN _place.until > _t AND NOT {schema}.lock_has_room(_lock, _place.shared, _place.most);
    _lock.queue := _lock.queue[2:];
    IF _place.until > _t AND {schema}.is_there(_place.address) THEN
      _lock := {schema}.lock_granted(_lock, _place, least(_place.ttl, 2000000), _t);
      PERFORM {schema}.wake(_place.address, _lock.fence::text);
    END IF;
  END LOOP;
  RETURN _lock;
END
$$;

-- The lock after an owner's hold has ended, and the next one has it.
CREATE FUNCTION {schema}.lock_freed(_lock {schema}.lock, _owner text, _shared boolean,
  _fair boolean, _t bigint) RETURNS {schema}.lock LANGUAGE plpgsql AS $$
DECLARE
  _released {schema}.released := ROW(_owner, _t);
  _place {schema}.place;
BEGIN
  IF _shared THEN
    _lock.released :=
      ARRAY(SELECT r FROM unnest(_lock.released) AS r WHERE r.at > _t - 60000000) || _released;
  END IF;
  IF cardinality(_lock.holds) = 1 THEN
    _lock.holds := '{}';
  ELSE
    _lock.holds := ARRAY(SELECT h FROM unnest(_lock.holds) AS h WHERE h.owner <> _owner);
  END IF;
  IF cardinality(_lock.queue) = 0 THEN
    RETURN _lock;
  ELSIF _fair THEN
    RETURN {schema}.lock_handed_over(_lock, '', _t);
  END IF;
  FOREACH _place IN ARRAY _lock.queue LOOP
    IF _place.until > _t AND {schema}.is_there(_place.address) THEN
      PERFORM {schema}.wake(_place.address, '');
      EXIT;
    END IF;
  END LOOP;
  RETURN _lock;
END
$$;

-- The lock as others see it. Without a holder, those who have waited longer are about to take it.
CREATE FUNCTION {schema}.lock_seen(_lock {schema}.lock, _t bigint) RETURNS {schema}.held
LANGUAGE plpgsql AS $$
DECLARE
  _first {schema}.hold;
BEGIN
  IF cardinality(_lock.holds) = 0 THEN
    RETURN ROW(false, '', _lock.fence, 2000000, 0, '', cardinality(_lock.queue), 0)::{schema}.held;
  END IF;
  SELECT * INTO _first FROM unnest(_lock.holds) ORDER BY until LIMIT 1;
  RETURN ROW(false, _first.owner, _lock.fence, _first.until - _t, _t - _first.since, _first.note,
    cardinality(_lock.queue), cardinality(_lock.holds))::{schema}.held;
END
$$;
