"""The tables and functions, and how they come into being when many processes start at once."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from resilient.errors import ConfigurationError

__all__ = ["SCHEMA", "VERSION", "WRONG_VERSION", "checked_name", "ddl", "script", "version_query"]

SCHEMA = "resilient"
VERSION = 3
WRONG_VERSION = "RSL02"
"""The SQLSTATE for tables that another version has made."""
PARTS = (
    *("prelude", "lock_rows", "locks", "idempotency", "job_rows", "checkpoints", "cache"),
    *("circuit_rows", "circuit_machine", "circuits"),
)
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# One statement, so one transaction on any connection, also behind a pooler. Whoever comes second
# waits for the first one's commit, and finds everything there.
INSTALL = """\
DO $install$
DECLARE
  _version integer;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('resilient schema {schema}', 0));
  IF to_regclass('{schema}.version') IS NOT NULL THEN
    SELECT max(version) INTO _version FROM {schema}.version;
  END IF;
  IF _version <> {version} THEN
    RAISE EXCEPTION USING ERRCODE = '{wrong}', MESSAGE = 'the schema {schema} was made by '
      || CASE WHEN _version > {version} THEN 'a later' ELSE 'an unreleased' END
      || ' version of resilient: it is of version ' || _version
      || ', and this one knows {version}';
  ELSIF _version = {version} THEN
    RETURN;
  END IF;
  IF to_regnamespace('{schema}') IS NULL THEN
    CREATE SCHEMA {schema};
  END IF;
  CREATE TABLE {schema}.version (version integer PRIMARY KEY);
{parts}
  INSERT INTO {schema}.version VALUES ({version});
END
$install$;
"""


def checked_name(schema: str) -> str:
    """The name itself; `ConfigurationError` unless it needs no quotes."""
    if not _NAME.fullmatch(schema):
        raise ConfigurationError(
            f"schema={schema!r}: use a name of lower-case letters, digits and underscores, "
            "at most 63 of them"
        )
    return schema


@cache
def ddl(schema: str = SCHEMA) -> str:
    """The statement that makes everything the backend needs; run again it changes nothing.

    For those who apply it by hand, because the application's role may not create tables. That role
    then needs `USAGE` on the schema, `EXECUTE` on its functions, and `SELECT`, `INSERT`, `UPDATE`
    and `DELETE` on its tables.

    Args:
        schema: The schema to make, as in the URL: `postgresql://...?schema=resilient`.

    Raises:
        ConfigurationError: The name would need quotes.

    Example:
        `python -c "from resilient.backends.postgres import ddl; print(ddl())" | psql`
    """
    checked_name(schema)
    parts = "\n".join(script(f"{part}.sql") for part in PARTS)
    parts = parts.replace("{lock_take}", script("lock_take.sql"))
    whole = INSTALL.replace("{parts}", parts).replace("{version}", str(VERSION))
    return whole.replace("{wrong}", WRONG_VERSION).replace("{schema}", schema)


def script(name: str) -> str:
    """A file of the folder `sql`, without the name of a schema yet."""
    folder = files("resilient.backends.postgres") / "sql"
    return (folder / name).read_text(encoding="utf-8")


def version_query(schema: str) -> str:
    """The statement that asks which version is there; refused where transactions begin wrongly."""
    return f"SELECT max(version), {schema}.read_committed()::text FROM {schema}.version"
