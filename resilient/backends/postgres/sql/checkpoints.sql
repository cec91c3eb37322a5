-- What is done with jobs, whose rows are in `job_rows.sql`.

-- --- running

CREATE FUNCTION {schema}.job_start(_key text, _owner text, _lease bigint, _ttl bigint,
  _version text, _fingerprint text, _rerun boolean, _address text,
  OUT answer text, OUT owner text, OUT number bigint, OUT attempt bigint, OUT cancelled boolean,
  OUT result bytea, OUT version text, OUT life bigint, OUT sequence bigint, OUT at bigint,
  OUT progress double precision, OUT eta double precision, OUT label text, OUT data bytea,
  OUT step_names text[], OUT step_values bytea[]) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
  _queue {schema}.waiting[];
  _run {schema}.run;
  _saved {schema}.saved;
BEGIN
  IF _job.key IS NOT NULL AND _fingerprint <> '' AND _job.fingerprint <> ''
      AND _fingerprint <> _job.fingerprint THEN
    answer := 'differ';
    owner := _job.fingerprint;
    RETURN;
  END IF;
  IF _job.state = 'finished' AND NOT _rerun
      OR _job.state = 'running' AND _job.owner <> _owner AND _job.until > _t THEN
    IF _job.state = 'running' AND _address <> '' THEN
      _queue := {schema}.joined(_job.queue, _address, _t);
      IF _queue IS DISTINCT FROM _job.queue THEN
        UPDATE {schema}.job SET queue = _queue WHERE key = _key;
      END IF;
    END IF;
    _run := {schema}.job_seen(_job, _t);
    answer := _run.answer;
    owner := _run.owner;
    number := _run.number;
    attempt := _run.attempt;
    cancelled := _run.cancelled;
    result := _run.result;
    RETURN;
  END IF;
  IF _job.state = 'running' AND _job.owner = _owner THEN
    _job.until := _t + _lease;
  ELSE
    IF _job.state = 'finished' AND _fingerprint = '' THEN
      _fingerprint := _job.fingerprint;
    END IF;
    IF _job.key IS NULL OR _job.state = 'finished' THEN
      _job := {schema}.job_new(_key, _job, _t);
    ELSIF _job.last < _job.first THEN  -- nothing to go on from: the numbers begin anew
      _job.first := 1;
      _job.last := 0;
    END IF;
    _job.state := 'running';
    _job.owner := _owner;
    _job.fence := greatest(_job.fence + 1, _t + 1);
    _job.attempt := _job.attempt + 1;
    _job.until := _t + _lease;
    _job.previous_version := _job.version;
    _job.version := _version;
    _job.cancelled := false;
    _job.result := '';
    IF _fingerprint <> '' THEN
      _job.fingerprint := _fingerprint;
    END IF;
  END IF;
  PERFORM {schema}.job_put(_job, greatest(_ttl, _lease), _t);
  SELECT * INTO _saved FROM {schema}.job_saved(_job, _job.last);
  SELECT array_agg(s.name ORDER BY s.name), array_agg(s.value ORDER BY s.name)
    INTO step_names, step_values
    FROM {schema}.step AS s WHERE s.key = _key AND s.life = _job.life;
  answer := 'started';
  number := _job.fence;
  attempt := _job.attempt;
  version := _job.previous_version;
  life := _job.life;
  sequence := _saved.sequence;
  at := _saved.at;
  progress := _saved.progress;
  eta := _saved.eta;
  label := _saved.label;
  data := _saved.data;
END
$$;

CREATE FUNCTION {schema}.job_renew(_key text, _owner text, _lease bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
BEGIN
  UPDATE {schema}.job SET until = _t + _lease, ttl = greatest(ttl, _lease),
    expires = _t + greatest(ttl, _lease)
  WHERE key = _key AND expires > _t AND state = 'running' AND owner = _owner;
  RETURN FOUND;
END
$$;

CREATE FUNCTION {schema}.job_finish(_key text, _result bytea, _fence bigint, _ttl bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
BEGIN
  IF _job.key IS NULL OR _job.fence <> _fence OR _job.state = 'idle' THEN
    RETURN false;
  END IF;
  IF _job.state = 'running' THEN
    PERFORM {schema}.wake_all(_job.queue);
    UPDATE {schema}.job SET state = 'finished', until = 0, result = _result, queue = '{}',
      ttl = _ttl, expires = _t + _ttl WHERE key = _key;
  END IF;
  RETURN true;
END
$$;

CREATE FUNCTION {schema}.job_stop(_key text, _owner text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
BEGIN
  IF _job.key IS NULL OR _job.owner <> _owner OR _job.state = 'finished' THEN
    RETURN false;
  END IF;
  IF _job.state = 'running' THEN
    PERFORM {schema}.wake_all(_job.queue);
    UPDATE {schema}.job SET state = 'idle', until = 0, queue = '{}', expires = _t + ttl
    WHERE key = _key;
  END IF;
  RETURN true;
END
$$;

-- No row if it is neither running nor finished.
CREATE FUNCTION {schema}.job_runner(_key text) RETURNS SETOF {schema}.run LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.clock();
  _job {schema}.job := {schema}.job_live(_key, _t);
BEGIN
  IF _job.state = 'finished' OR _job.state = 'running' AND _job.until > _t THEN
    RETURN NEXT {schema}.job_seen(_job, _t);
  END IF;
END
$$;

-- --- saving

-- No row for a stale runner. By hand the fence is null.
CREATE FUNCTION {schema}.job_save(_key text, _data bytea, _fence bigint, _sequence bigint,
  _progress double precision, _eta double precision, _label text, _keep bigint, _ttl bigint,
  _lease bigint) RETURNS SETOF {schema}.saved LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
BEGIN
  IF _fence IS NULL THEN
    IF _job.key IS NULL THEN
      _job := {schema}.job_new(_key, _job, _t);
    ELSIF _job.state = 'running' AND _job.until > _t THEN
      RETURN;
    END IF;
  ELSIF _job.key IS NULL OR _job.state <> 'running' OR _job.fence <> _fence THEN
    RETURN;
  END IF;
  IF _sequence = _job.last AND coalesce(_fence, 0) = _job.saved_by THEN
    RETURN QUERY SELECT * FROM {schema}.job_saved(_job, _sequence);  -- the same save, sent again
    RETURN;
  ELSIF _sequence <> _job.last + 1 THEN
    RETURN;
  END IF;
  _job.last := _job.last + 1;
  _job.saved_by := coalesce(_fence, 0);
  _job.until := coalesce(_t + _lease, _job.until);
  INSERT INTO {schema}.checkpoint
    VALUES (_key, _job.life, _job.last, _t, _progress, _eta, _label, _data);
  _job := {schema}.job_trimmed(_job, _keep);
  PERFORM {schema}.job_put(_job, greatest(_ttl, _lease), _t);
  RETURN NEXT ROW(_job.last, _t, _progress, _eta, _label, ''::bytea)::{schema}.saved;
END
$$;

CREATE FUNCTION {schema}.job_step(_key text, _name text, _value bytea, _fence bigint, _ttl bigint,
  _lease bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _life bigint;
BEGIN
  SELECT life INTO _life FROM {schema}.job
  WHERE key = _key AND expires > _t AND state = 'running' AND fence = _fence;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO {schema}.step VALUES (_key, _life, _name, _value) ON CONFLICT DO NOTHING;
  IF _lease IS NOT NULL THEN
    UPDATE {schema}.job SET until = _t + _lease, ttl = greatest(_ttl, _lease),
      expires = _t + greatest(_ttl, _lease) WHERE key = _key;
  END IF;
  RETURN true;
END
$$;

-- --- by hand

CREATE FUNCTION {schema}.job_cancel(_key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
BEGIN
  UPDATE {schema}.job SET cancelled = true
  WHERE key = _key AND expires > _t AND state = 'running' AND until > _t;
  RETURN FOUND;
END
$$;

CREATE FUNCTION {schema}.job_rewind(_key text, _sequence bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
BEGIN
  IF _job.key IS NULL OR _job.state = 'running' AND _job.until > _t
      OR NOT EXISTS (SELECT FROM {schema}.job_saved(_job, _sequence)) THEN
    RETURN false;
  END IF;
  DELETE FROM {schema}.checkpoint AS c
  WHERE c.key = _key AND c.life = _job.life AND c.sequence > _sequence;
  UPDATE {schema}.job SET state = 'idle', until = 0, last = _sequence, result = '',
    expires = _t + ttl WHERE key = _key;
  RETURN true;
END
$$;

CREATE FUNCTION {schema}.job_steps(_key text) RETURNS TABLE (name text, value bytea)
LANGUAGE sql STABLE AS $$
  SELECT s.name, s.value FROM {schema}.job AS j JOIN {schema}.step AS s USING (key, life)
  WHERE j.key = _key AND j.expires > {schema}.clock() ORDER BY s.name
$$;

-- The checkpoints that are kept, the oldest first; or one of them; or, for 0, the newest.
CREATE FUNCTION {schema}.job_list(_key text, _sequence bigint) RETURNS SETOF {schema}.saved
LANGUAGE sql STABLE AS $$
  SELECT c.sequence, c.at, c.progress, c.eta, c.label, c.data
  FROM {schema}.job AS j JOIN {schema}.checkpoint AS c USING (key, life)
  WHERE j.key = _key AND j.expires > {schema}.clock() AND c.sequence BETWEEN j.first AND j.last
    AND (_sequence IS NULL OR c.sequence = CASE WHEN _sequence = 0 THEN j.last ELSE _sequence END)
  ORDER BY c.sequence
$$;

CREATE FUNCTION {schema}.job_trim(_key text, _keep bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
  _before bigint := _job.first;
BEGIN
  IF _job.key IS NULL THEN
    RETURN 0;
  END IF;
  _job := {schema}.job_trimmed(_job, _keep);
  UPDATE {schema}.job SET first = _job.first WHERE key = _key;
  RETURN _job.first - _before;
END
$$;

-- The row stays for a while, expired: the next fence is larger.
CREATE FUNCTION {schema}.job_delete(_key text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _t bigint := {schema}.enter(_key, 3);
  _job {schema}.job := {schema}.job_live(_key, _t);
BEGIN
  IF _job.key IS NULL THEN
    RETURN false;
  END IF;
  PERFORM {schema}.wake_all(_job.queue);
  -- The row first: a late step is in before, or not at all.
  UPDATE {schema}.job SET state = 'gone', expires = _t, queue = '{}', result = '' WHERE key = _key;
  DELETE FROM {schema}.checkpoint WHERE key = _key AND life = _job.life;
  DELETE FROM {schema}.step WHERE key = _key AND life = _job.life;
  RETURN true;
END
$$;
