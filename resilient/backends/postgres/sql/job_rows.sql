-- Resumable jobs: one row a job; its checkpoints and steps are rows that belong to its `life`, and
-- are there as long as it is.

CREATE TABLE {schema}.job (
  key text COLLATE "C" PRIMARY KEY,
  state text NOT NULL,
  life bigint NOT NULL,
  owner text NOT NULL,
  fence bigint NOT NULL,
  attempt bigint NOT NULL,
  until bigint NOT NULL,
  ttl bigint NOT NULL,
  expires bigint NOT NULL,
  version text NOT NULL,
  previous_version text NOT NULL,
  fingerprint text NOT NULL,
  first bigint NOT NULL,
  last bigint NOT NULL,
  saved_by bigint NOT NULL,
  cancelled boolean NOT NULL,
  queue {schema}.waiting[] NOT NULL,
  result bytea NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE {schema}.checkpoint (
  key text COLLATE "C" NOT NULL,
  life bigint NOT NULL,
  sequence bigint NOT NULL,
  at bigint NOT NULL,
  progress double precision,
  eta double precision,
  label text NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (key, life, sequence)
);
CREATE TABLE {schema}.step (
  key text COLLATE "C" NOT NULL,
  life bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  value bytea NOT NULL,
  PRIMARY KEY (key, life, name)
);
INSERT INTO {schema}.sweep VALUES ('job');

CREATE TYPE {schema}.saved AS
  (sequence bigint, at bigint, progress double precision, eta double precision, label text,
   data bytea);
-- What has become of a job: "started", "running", "finished" or "differ".
CREATE TYPE {schema}.run AS (answer text, owner text, number bigint, attempt bigint,
  cancelled boolean, result bytea);

-- What belongs to a job goes with it.
CREATE FUNCTION {schema}.job_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM {schema}.checkpoint WHERE key = OLD.key AND life = OLD.life;
  DELETE FROM {schema}.step WHERE key = OLD.key AND life = OLD.life;
  RETURN NULL;
END
$$;
CREATE TRIGGER job_gone AFTER DELETE ON {schema}.job
  FOR EACH ROW EXECUTE FUNCTION {schema}.job_gone();

-- --- the row

-- The job if its time is not over; else a row with its fence only.
CREATE FUNCTION {schema}.job_live(_key text, _t bigint) RETURNS {schema}.job
LANGUAGE plpgsql AS $$
DECLARE
  _job {schema}.job;
  _gone {schema}.job;
BEGIN
  SELECT * INTO _job FROM {schema}.job WHERE key = _key;
  IF _job.expires > _t THEN
    RETURN _job;
  END IF;
  _gone.fence := coalesce(_job.fence, 0);
  _gone.life := coalesce(_job.life, 0);
  RETURN _gone;
END
$$;

CREATE FUNCTION {schema}.job_put(_job {schema}.job, _ttl bigint, _t bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  _job.ttl := _ttl;
  _job.expires := _t + _ttl;
  INSERT INTO {schema}.job VALUES (_job.*)
  ON CONFLICT (key) DO UPDATE SET state = excluded.state, life = excluded.life,
    owner = excluded.owner, fence = excluded.fence, attempt = excluded.attempt,
    until = excluded.until, ttl = excluded.ttl, expires = excluded.expires,
    version = excluded.version, previous_version = excluded.previous_version,
    fingerprint = excluded.fingerprint, first = excluded.first, last = excluded.last,
    saved_by = excluded.saved_by, cancelled = excluded.cancelled, queue = excluded.queue,
    result = excluded.result;
  IF random() < 0.004 THEN
    PERFORM {schema}.sweep('job', _t);
  END IF;
END
$$;

-- A job that nobody has run or saved before, with nothing left of an earlier one of its name.
CREATE FUNCTION {schema}.job_new(_key text, _before {schema}.job, _t bigint) RETURNS {schema}.job
LANGUAGE plpgsql AS $$
DECLARE
  _life bigint := greatest(_before.life + 1, _t);
BEGIN
  IF _before.life > 0 THEN
    PERFORM FROM {schema}.job WHERE key = _key FOR UPDATE;  -- a late step is in before, or not at all
    DELETE FROM {schema}.checkpoint WHERE key = _key AND life = _before.life;
    DELETE FROM {schema}.step WHERE key = _key AND life = _before.life;
  END IF;
  RETURN ROW(_key, 'idle', _life, '', _before.fence, 0, 0, 0, 0, '', '', '', 1, 0, 0, false, '{}',
    ''::bytea)::{schema}.job;
END
$$;

CREATE FUNCTION {schema}.job_saved(_job {schema}.job, _sequence bigint)
RETURNS SETOF {schema}.saved LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY SELECT c.sequence, c.at, c.progress, c.eta, c.label, c.data
    FROM {schema}.checkpoint AS c
    WHERE c.key = _job.key AND c.life = _job.life AND c.sequence = _sequence
      AND c.sequence BETWEEN _job.first AND _job.last;
END
$$;

CREATE FUNCTION {schema}.job_trimmed(_job {schema}.job, _keep bigint) RETURNS {schema}.job
LANGUAGE plpgsql AS $$
DECLARE
  _first bigint := greatest(_job.first, _job.last - _keep + 1);
BEGIN
  IF _first > _job.first THEN
    -- Not simply what is older: that would read all that was deleted since the last vacuum.
    DELETE FROM {schema}.checkpoint WHERE key = _job.key AND life = _job.life
      AND sequence >= _job.first AND sequence < _first;
    _job.first := _first;
  END IF;
  RETURN _job;
END
$$;

CREATE FUNCTION {schema}.job_seen(_job {schema}.job, _t bigint) RETURNS {schema}.run
LANGUAGE plpgsql AS $$
BEGIN
  IF _job.state = 'finished' THEN
    RETURN ROW('finished', '', _job.expires - _t, _job.attempt, false, _job.result)::{schema}.run;
  END IF;
  RETURN ROW('running', _job.owner, _job.until - _t, _job.attempt, _job.cancelled, ''::bytea)::{schema}.run;
END
$$;
