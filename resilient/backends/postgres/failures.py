"""The server's errors as the library's own."""

from __future__ import annotations

import psycopg

from resilient.backends.postgres.schema import WRONG_VERSION
from resilient.engine.guard import NotHeld
from resilient.errors import BackendError, ConfigurationError

__all__ = ["ConnectionLost", "Refused", "raised"]

NOT_HELD = "RSL01"
_PASSING = ("08", "25006", "40", "53", "55P03", "57")
"""Beginnings of SQLSTATEs of what ends by itself: a restart, a fail-over, a server that is full.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


class ConnectionLost(Exception):
    """The connection broke, or could not be made: whether the statement ran is not known."""


class Refused(Exception):
    """The server has answered with an error; the connection is as good as before.

    Attributes:
        error: psycopg's.
        state: Its SQLSTATE.
    """

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error
        self.state = error.sqlstate or ""


def raised(where: str, error: BaseException) -> Exception:
    """What a caller gets; the server's or the system's own error is its cause."""
    if isinstance(error, Refused):
        state, cause = error.state, error.error
        message = str(cause).strip()
        if state == NOT_HELD:
            return NotHeld(cause.diag.message_primary or message)
        if state == WRONG_VERSION:
            return ConfigurationError(f"{where}: {cause.diag.message_primary}")
        hint = ""
        if state == "42501":
            hint = (
                "; a role that may not create the tables needs them made by another one "
                "(resilient.backends.postgres.ddl)"
            )
        made = BackendError(
            f"{where} answered {type(cause).__name__} ({state}): {message}{hint}",
            transient=state.startswith(_PASSING),
        )
        made.__cause__ = cause
        return made
    story = "did not answer in time" if isinstance(error, TimeoutError) else "could not be reached"
    made = BackendError(f"{where} {story}: {str(error).strip()}", transient=True)
    made.__cause__ = error.__cause__ or error
    return made
