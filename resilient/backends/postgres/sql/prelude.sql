-- What all operations share: the clock, one operation at a time for an entity, waiters, and the
-- collection of what has expired. Times are microseconds of the server's clock.

-- Rows are looked at for expiry in the order of their keys, a thousand with one write in 250. There
-- is no index on `expires`: it would be written with every renewal, and no update could be HOT. How
-- full pages are made was measured, too (`benchmarks/fillfactors.py`).
CREATE TABLE {schema}.sweep (name text PRIMARY KEY, last text COLLATE "C" NOT NULL DEFAULT '');

CREATE TYPE {schema}.waiting AS (address text, until bigint);

CREATE FUNCTION {schema}.clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint
$$;

-- What waits for others must see then what they have committed.
CREATE FUNCTION {schema}.read_committed() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION USING ERRCODE = 'RSL03', MESSAGE = 'resilient needs the isolation level '
      '"read committed", and transactions of this role begin as ' ||
      current_setting('transaction_isolation');
  END IF;
END
$$;

-- Wait for whoever works on this entity; the time from then on. The next statement of a function
-- sees all that was committed. It locks no row that may not be there yet.
CREATE FUNCTION {schema}.enter(_key text, _kind integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _nothing text := pg_advisory_xact_lock(hashtextextended(_key, _kind))::text;
BEGIN
  PERFORM {schema}.read_committed();
  RETURN {schema}.clock();
END
$$;

-- A waiter's address is `rsl_process|id`. Whoever listens to a process's channel holds a lock of
-- that name, which the server frees as soon as the connection is gone.
CREATE FUNCTION {schema}.is_there(_address text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN starts_with(_address, 'rsl_') AND NOT
    pg_try_advisory_xact_lock_shared(hashtextextended(split_part(_address, '|', 1), 7));
END
$$;

CREATE FUNCTION {schema}.wake(_address text, _gift text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF starts_with(_address, 'rsl_') AND octet_length(_address) < 200 THEN
    PERFORM pg_notify(left(split_part(_address, '|', 1), 60),
      split_part(_address, '|', 2) || CASE WHEN _gift = '' THEN '' ELSE '=' || _gift END);
  END IF;
END
$$;

CREATE FUNCTION {schema}.wake_all(_queue {schema}.waiting[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM {schema}.wake(address, '') FROM unnest(_queue);
END
$$;

-- A payload has less than 8000 bytes. An empty one says that something was missed.
CREATE FUNCTION {schema}.announce(_channel text, _message text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify(_channel, CASE WHEN octet_length(_message) < 8000 THEN _message ELSE '' END);
END
$$;

-- The queue with this waiter in it; whoever waits already keeps its place.
CREATE FUNCTION {schema}.joined(_queue {schema}.waiting[], _address text, _t bigint)
RETURNS {schema}.waiting[] LANGUAGE plpgsql AS $$
DECLARE
  _entered {schema}.waiting := ROW(_address, _t + 10000000);
  _alive {schema}.waiting[];
BEGIN
  FOR _i IN 1 .. cardinality(_queue) LOOP
    IF (_queue[_i]).address = _address THEN
      IF (_queue[_i]).until <= _t + 5000000 THEN
        _queue[_i] := _entered;
      END IF;
      RETURN _queue;
    END IF;
  END LOOP;
  _alive := ARRAY(SELECT w FROM unnest(_queue) AS w WHERE w.until > _t);
  RETURN CASE WHEN cardinality(_alive) < 500 THEN _alive || _entered ELSE _queue END;
END
$$;

-- Look at the next rows of a table, and remove those that expired ten minutes ago: until then an
-- expired row still says which fence came before.
CREATE FUNCTION {schema}.sweep(_table text, _t bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _last text;
BEGIN
  SELECT last INTO _last FROM {schema}.sweep WHERE name = _table FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  EXECUTE format($sql$
    WITH step AS (SELECT key, expires FROM {schema}.%1$I WHERE key > $1 ORDER BY key LIMIT 1000),
    free AS (
      SELECT key FROM {schema}.%1$I
      WHERE key IN (SELECT key FROM step WHERE expires < $2) FOR UPDATE SKIP LOCKED
    ),
    gone AS (DELETE FROM {schema}.%1$I AS x USING free WHERE x.key = free.key AND x.expires < $2)
    SELECT CASE WHEN count(*) = 1000 THEN max(key) ELSE '' END FROM step
  $sql$, _table) INTO _last USING _last, _t - 600000000;
  UPDATE {schema}.sweep SET last = _last WHERE name = _table;
END
$$;
