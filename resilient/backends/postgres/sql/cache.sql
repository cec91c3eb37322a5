-- Cached values, the leases of those who compute them, and tags. A crash of the server empties all
-- three tables together: they are not logged.

CREATE UNLOGGED TABLE {schema}.cache (
  key text COLLATE "C" PRIMARY KEY,
  expires bigint NOT NULL,  -- kept until then
  served bigint NOT NULL,
  fresh bigint NOT NULL,
  born bigint NOT NULL,  -- the time of the lease under which it was computed
  owner text NOT NULL,  -- who computed it; nobody, if it was set by hand
  tags text[] NOT NULL,
  value bytea NOT NULL
) WITH (fillfactor = 80);
CREATE UNLOGGED TABLE {schema}.computation (
  key text COLLATE "C" PRIMARY KEY,
  owner text NOT NULL,
  fence bigint NOT NULL,
  until bigint NOT NULL,  -- 0 once it was abandoned
  expires bigint NOT NULL,
  queue {schema}.waiting[] NOT NULL
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE {schema}.tag (
  key text COLLATE "C" PRIMARY KEY,
  invalidated bigint NOT NULL,
  expires bigint NOT NULL
) WITH (fillfactor = 70);
INSERT INTO {schema}.sweep VALUES ('cache'), ('computation'), ('tag');

CREATE TYPE {schema}.entry AS (value bytea, ttl bigint, fresh bigint, kept bigint, tags text[]);
-- What there is for a key: "entry", "leased" or "busy", with the stale copy for the latter two.
CREATE TYPE {schema}.fetched AS (answer text, value bytea, ttl bigint, fresh bigint, kept bigint,
  tags text[], owner text, number bigint);

-- --- rows

-- Whether each of the tags exists, and none was invalidated after `_born`.
CREATE FUNCTION {schema}.tags_current(_tags text[], _born bigint, _t bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
  RETURN cardinality(_tags) = 0 OR NOT EXISTS (
    SELECT FROM unnest(_tags) AS name LEFT JOIN {schema}.tag ON tag.key = name
    WHERE tag.key IS NULL OR tag.invalidated > _born OR tag.expires <= _t);
END
$$;

CREATE FUNCTION {schema}.cache_copy(_key text, _t bigint) RETURNS {schema}.cache
LANGUAGE plpgsql AS $$
DECLARE
  _row {schema}.cache;
BEGIN
  SELECT * INTO _row FROM {schema}.cache WHERE key = _key AND expires > _t;
  IF _row.key IS NOT NULL AND cardinality(_row.tags) > 0
      AND NOT {schema}.tags_current(_row.tags, _row.born, _t) THEN
    RETURN NULL;
  END IF;
  RETURN _row;
END
$$;

-- Have the tags outlive an entry. One that nobody invalidated yet begins with the entry.
CREATE FUNCTION {schema}.tags_keep(_tags text[], _born bigint, _until bigint, _keep bigint,
  _t bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF cardinality(_tags) > 0 THEN
    -- In an order that all have in common, or they would wait for each other.
    INSERT INTO {schema}.tag AS x
      SELECT DISTINCT name, _born, greatest(_until, _keep) FROM unnest(_tags) AS name ORDER BY name
    ON CONFLICT (key) DO UPDATE SET expires = excluded.expires,
      invalidated = CASE WHEN x.expires > _t THEN x.invalidated ELSE excluded.invalidated END
      WHERE x.expires < _until OR x.expires <= _t;
  END IF;
END
$$;

CREATE FUNCTION {schema}.cache_put(_key text, _value bytea, _born bigint, _owner text,
  _tags text[], _ttl bigint, _fresh bigint, _stale bigint, _t bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO {schema}.cache VALUES
    (_key, _t + _ttl + _stale, _t + _ttl, _t + _fresh, _born, _owner, _tags, _value)
  ON CONFLICT (key) DO UPDATE SET expires = excluded.expires, served = excluded.served,
    fresh = excluded.fresh, born = excluded.born, owner = excluded.owner, tags = excluded.tags,
    value = excluded.value;
  IF random() < 0.004 THEN
    PERFORM {schema}.sweep('cache', _t);
  END IF;
  IF random() < 0.004 THEN
    PERFORM {schema}.sweep('computation', _t);
    PERFORM {schema}.sweep('tag', _t);
  END IF;
END
$$;

-- End whatever lease there is, and wake all who wait.
CREATE FUNCTION {schema}.computation_end(_key text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _queue {schema}.waiting[];
BEGIN
  DELETE FROM {schema}.computation WHERE key = _key RETURNING queue INTO _queue;
  IF cardinality(_queue) > 0 THEN
    PERFORM {schema}.wake_all(_queue);
  END IF;
END
$$;

-- --- reading

-- No row for a miss.
CREATE FUNCTION {schema}.cache_get(_key text) RETURNS SETOF {schema}.entry LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.clock();
  _row {schema}.cache := {schema}.cache_copy(_key, _t);
BEGIN
  IF _row.served > _t THEN
    RETURN NEXT ROW(_row.value, _row.served - _t, _row.fresh - _t, _row.expires - _t,
      _row.tags)::{schema}.entry;
  END IF;
END
$$;

-- What is fresh: a value, by its key and its one tag; by its key; or as `cache_fetch` answers it.
CREATE FUNCTION {schema}.cache_look(_key text, _tag text) RETURNS TABLE (value bytea)
LANGUAGE sql STABLE AS $$
  SELECT c.value FROM {schema}.cache AS c
  JOIN {schema}.tag AS x ON x.key = _tag AND x.invalidated <= c.born AND x.expires > {schema}.clock()
  WHERE c.key = _key AND c.fresh > {schema}.clock() AND c.tags = ARRAY[_tag]
$$;

CREATE FUNCTION {schema}.cache_look(_key text) RETURNS TABLE (value bytea)
LANGUAGE sql STABLE AS $$
  SELECT c.value FROM {schema}.cache AS c
  WHERE c.key = _key AND c.fresh > {schema}.clock() AND (c.tags = '{}' OR NOT EXISTS (
    SELECT FROM unnest(c.tags) AS name LEFT JOIN {schema}.tag AS x ON x.key = name
    WHERE x.key IS NULL OR x.invalidated > c.born OR x.expires <= {schema}.clock()))
$$;

CREATE FUNCTION {schema}.cache_hit(_key text, _owner text, _lease bigint, _tags text[],
  _address text, _keep bigint) RETURNS TABLE (answer text, value bytea, ttl bigint, fresh bigint,
  kept bigint, tags text[], owner text, number bigint)
LANGUAGE sql STABLE AS $$
  SELECT 'entry', c.value, c.served - t.now, c.fresh - t.now, c.expires - t.now, c.tags, '',
    0::bigint
  FROM (SELECT {schema}.clock() AS now OFFSET 0) AS t
  JOIN {schema}.cache AS c ON c.key = _key AND c.fresh > t.now AND (c.tags = '{}' OR NOT EXISTS (
    SELECT FROM unnest(c.tags) AS name LEFT JOIN {schema}.tag AS x ON x.key = name
    WHERE x.key IS NULL OR x.invalidated > c.born OR x.expires <= t.now))
$$;

CREATE FUNCTION {schema}.cache_fetch(_key text, _owner text, _lease bigint, _tags text[],
  _address text, _keep bigint) RETURNS {schema}.fetched LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
  _row {schema}.cache := {schema}.cache_copy(_key, _t);
  _running {schema}.computation;
  _queue {schema}.waiting[];
  _fence bigint;
BEGIN
  IF _row.fresh > _t THEN  -- filled meanwhile
    RETURN ROW('entry', _row.value, _row.served - _t, _row.fresh - _t, _row.expires - _t, _row.tags,
      '', 0)::{schema}.fetched;
  END IF;
  SELECT * INTO _running FROM {schema}.computation WHERE key = _key;
  IF _running.until > _t AND (cardinality(_tags) = 0 OR NOT EXISTS (
      SELECT FROM {schema}.tag WHERE key = ANY (_tags) AND invalidated > _running.fence)) THEN
    IF _running.owner <> _owner THEN
      IF _address <> '' THEN
        _queue := {schema}.joined(_running.queue, _address, _t);
        IF _queue IS DISTINCT FROM _running.queue THEN
          UPDATE {schema}.computation SET queue = _queue WHERE key = _key;
        END IF;
      END IF;
      RETURN ROW('busy', _row.value, _row.served - _t, _row.fresh - _t, _row.expires - _t,
        _row.tags, _running.owner, _running.until - _t)::{schema}.fetched;
    END IF;
    _fence := _running.fence;
    UPDATE {schema}.computation SET until = _t + _lease, expires = _t + _lease WHERE key = _key;
  ELSE
    _fence := greatest(coalesce(_running.fence, 0) + 1, _t + 1);
    PERFORM {schema}.tags_keep(_tags, _t, _t, _t + _keep, _t);
    IF _row.key IS NULL THEN
      DELETE FROM {schema}.cache WHERE key = _key;  -- what a tag has made a miss stays one
    ELSIF _row.owner <> '' THEN
      UPDATE {schema}.cache SET owner = '' WHERE key = _key;  -- who computed it has nothing here
    END IF;
    INSERT INTO {schema}.computation
      VALUES (_key, _owner, _fence, _t + _lease, _t + _lease, coalesce(_running.queue, '{}'))
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, fence = excluded.fence,
      until = excluded.until, expires = excluded.expires, queue = excluded.queue;
  END IF;
  RETURN ROW('leased', _row.value, _row.served - _t, _row.fresh - _t, _row.expires - _t, _row.tags,
    '', _fence)::{schema}.fetched;
END
$$;

-- --- computing

CREATE FUNCTION {schema}.cache_renew(_key text, _owner text, _lease bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
BEGIN
  UPDATE {schema}.computation SET until = _t + _lease, expires = _t + _lease
  WHERE key = _key AND owner = _owner AND until > _t;
  RETURN FOUND;
END
$$;

CREATE FUNCTION {schema}.cache_fill(_key text, _value bytea, _owner text, _ttl bigint,
  _fresh bigint, _stale bigint, _tags text[], _keep bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
  _born bigint;
  _is_current boolean;
BEGIN
  SELECT fence INTO _born FROM {schema}.computation
  WHERE key = _key AND owner = _owner AND until > _t;
  IF NOT FOUND THEN
    RETURN EXISTS (
      SELECT FROM {schema}.cache WHERE key = _key AND expires > _t AND owner = _owner);
  END IF;
  PERFORM {schema}.tags_keep(_tags, _born, _t + _ttl + _stale, _t + _keep, _t);
  _is_current := {schema}.tags_current(_tags, _born, _t);
  IF _is_current THEN
    PERFORM {schema}.cache_put(_key, _value, _born, _owner, _tags, _ttl, _fresh, _stale, _t);
  END IF;
  PERFORM {schema}.computation_end(_key);
  RETURN _is_current;
END
$$;

CREATE FUNCTION {schema}.cache_abandon(_key text, _owner text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
  _running {schema}.computation;
BEGIN
  SELECT * INTO _running FROM {schema}.computation
  WHERE key = _key AND owner = _owner AND expires > _t;
  IF _running.until > 0 THEN
    UPDATE {schema}.computation SET until = 0, expires = _t + 60000000, queue = '{}'
    WHERE key = _key;
    PERFORM {schema}.wake_all(_running.queue);
  END IF;
  RETURN _running.key IS NOT NULL;
END
$$;

-- --- by hand

CREATE FUNCTION {schema}.cache_set(_key text, _value bytea, _ttl bigint, _fresh bigint,
  _stale bigint, _tags text[], _keep bigint, _channel text, _name text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
  _born bigint := _t;
BEGIN
  -- What replaces a value removes it, and that is announced.
  IF EXISTS (SELECT FROM {schema}.cache WHERE key = _key AND expires > _t) THEN
    PERFORM {schema}.announce(_channel, _name);
  END IF;
  IF cardinality(_tags) > 0 THEN
    SELECT greatest(_t, max(invalidated)) INTO _born FROM {schema}.tag WHERE key = ANY (_tags);
  END IF;
  PERFORM {schema}.tags_keep(_tags, _born, _t + _ttl + _stale, _t + _keep, _t);
  PERFORM {schema}.cache_put(_key, _value, _born, '', _tags, _ttl, _fresh, _stale, _t);
  PERFORM {schema}.computation_end(_key);
END
$$;

CREATE FUNCTION {schema}.cache_delete(_key text, _channel text, _name text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
  _row {schema}.cache := {schema}.cache_copy(_key, _t);
BEGIN
  DELETE FROM {schema}.cache WHERE key = _key;
  PERFORM {schema}.computation_end(_key);
  PERFORM {schema}.announce(_channel, _name);
  RETURN coalesce(_row.served > _t, false);
END
$$;

CREATE FUNCTION {schema}.cache_expire(_key text, _channel text, _name text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 5);
  _row {schema}.cache := {schema}.cache_copy(_key, _t);
BEGIN
  UPDATE {schema}.cache SET served = least(served, _t), fresh = least(fresh, _t), owner = ''
  WHERE key = _key AND expires > _t;
  PERFORM {schema}.computation_end(_key);
  PERFORM {schema}.announce(_channel, _name);
  RETURN coalesce(_row.served > _t, false);
END
$$;

CREATE FUNCTION {schema}.cache_invalidate(_tags text[], _names text[], _keep bigint,
  _channel text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.clock();
BEGIN
  INSERT INTO {schema}.tag AS x SELECT DISTINCT name, _t, _t + _keep FROM unnest(_tags) AS name
    ORDER BY name
  ON CONFLICT (key) DO UPDATE SET invalidated = greatest(x.invalidated + 1, excluded.invalidated),
    expires = greatest(x.expires, excluded.expires);
  PERFORM {schema}.announce(_channel, '#' || name) FROM unnest(_names) AS name;
END
$$;

-- --- all keys, in small steps

-- The next keys of a tenant, and whether they have a live value.
CREATE FUNCTION {schema}.cache_step(_prefix text, _after text, _limit bigint)
RETURNS TABLE (name text, is_live boolean) LANGUAGE sql AS $$
  SELECT c.key, c.served > {schema}.clock()
    AND {schema}.tags_current(c.tags, c.born, {schema}.clock())
  FROM {schema}.cache AS c
  WHERE c.key >= _prefix AND c.key <= _prefix || chr(1114111) AND starts_with(c.key, _prefix)
    AND (_after IS NULL OR c.key > _after)
  ORDER BY c.key LIMIT _limit
$$;

CREATE FUNCTION {schema}.computation_step(_prefix text, _after text, _limit bigint)
RETURNS TABLE (name text) LANGUAGE sql AS $$
  SELECT key FROM {schema}.computation
  WHERE key >= _prefix AND key <= _prefix || chr(1114111) AND starts_with(key, _prefix)
    AND (_after IS NULL OR key > _after)
  ORDER BY key LIMIT _limit
$$;

-- Remove these entries, and end what is being computed for these keys.
CREATE FUNCTION {schema}.cache_remove(_keys text[], _names text[], _channel text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(h) FROM
    (SELECT DISTINCT hashtextextended(k, 5) AS h FROM unnest(_keys) AS k ORDER BY 1) AS hashes;
  DELETE FROM {schema}.cache WHERE key = ANY (_keys);
  PERFORM {schema}.computation_end(k) FROM unnest(_keys) AS k;
  PERFORM {schema}.announce(_channel, name) FROM unnest(_names) AS name;
END
$$;
