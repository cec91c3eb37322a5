"""The client library's errors as the library's own."""

from __future__ import annotations

import re

from redis import exceptions as redis_errors

from resilient.engine.guard import NotHeld
from resilient.errors import BackendError

__all__ = ["backend_error", "is_connection_lost", "is_demoted"]

_REFUSED = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.NoPermissionError,
)
_PASSING = (
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.MasterDownError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
)
"""A restart or a fail-over is under way: it ends by itself."""
_OF_CLIENTS = re.compile(r"<redis.*?\)>\)>\)> - ")
"""All that a client was made of, before what it says that a sentinel has answered."""
_PASSING_CODES = ("BUSY", "UNBLOCKED")


def backend_error(where: str, error: BaseException) -> BackendError:
    """What went wrong, at which server, and whether trying again may help; `error` is its cause."""
    if isinstance(error, redis_errors.ResponseError) and str(error).startswith("NOTHELD "):
        return NotHeld(str(error).removeprefix("NOTHELD "))
    made = BackendError(f"{where} {_story(error)}", transient=_is_transient(error))
    made.__cause__ = error
    return made


def is_connection_lost(error: BaseException) -> bool:
    """Whether the connection broke, as opposed to an answer that is late or a refusal."""
    return isinstance(error, redis_errors.ConnectionError) and not isinstance(
        error, (*_REFUSED, *_PASSING)
    )


def is_demoted(answer: object) -> bool:
    """Whether the server refuses writes as a replica, or as a primary that its replicas have left.

    The primary is to be looked for over a new connection then.
    """
    if isinstance(answer, redis_errors.ReadOnlyError):
        return True
    if not isinstance(answer, redis_errors.ResponseError):
        return False
    # Redis 6.2 wraps what a script ran into.
    text = str(answer)
    return "-READONLY" in text or text.startswith("NOREPLICAS")


def _story(error: BaseException) -> str:
    if _wants_a_password(error):
        return "refused access: it wants a password, and none is given"
    if isinstance(error, _REFUSED):
        return f"refused access: {error}"
    if isinstance(error, (redis_errors.TimeoutError, TimeoutError)):
        return f"did not answer in time: {error}"
    if is_connection_lost(error) or isinstance(error, OSError):
        return f"could not be reached: {_OF_CLIENTS.sub('', str(error))}"
    return f"answered {type(error).__name__}: {error}"


def _wants_a_password(error: BaseException) -> bool:
    """Whether a command was too large to be read from somebody unknown: it has no error code."""
    return isinstance(error, redis_errors.ResponseError) and "unauthenticated" in str(error)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, _REFUSED):
        return False
    if isinstance(error, redis_errors.ResponseError) and not isinstance(error, _PASSING):
        # What is left is a fault of ours, or a server out of memory (OOM) or disk (MISCONF).
        return is_demoted(error) or str(error).startswith(_PASSING_CODES)
    return True
