"""pymongo's errors as the library's own."""

from __future__ import annotations

from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from resilient.errors import BackendError, ConfigurationError

__all__ = ["FAILURES", "LostRace", "checked", "is_conflict", "is_lost", "is_race", "raised"]


class LostRace(Exception):
    """Another client has inserted the document in the same moment."""


FAILURES = (LostRace, PyMongoError, BSONError, OSError, UnicodeError, OverflowError)
"""What a command may end with."""

_RACES = {11000, 11001}
_PASSING = {
    *(6, 7, 24, 50, 89, 91, 112, 133, 134, 189, 202, 262, 317, 9001, 10107, 11600, 11602),
    *(13388, 13435, 13436),
}
"""Codes of what ends by itself: a fail-over, a shutdown, a conflict, a time that was over.
https://www.mongodb.com/docs/manual/reference/error-codes/"""


def is_race(error: BaseException) -> bool:
    """Whether two clients have inserted one document: who came second finds it when it asks again.

    https://www.mongodb.com/docs/manual/reference/method/db.collection.findAndModify/#upsert
    """
    return isinstance(error, LostRace | DuplicateKeyError) or (
        isinstance(error, OperationFailure) and error.code in _RACES
    )


def is_conflict(error: BaseException) -> bool:
    """Whether a transaction has met another one, and may be tried again."""
    return isinstance(error, PyMongoError) and (
        error.has_error_label("TransientTransactionError")
        or (isinstance(error, OperationFailure) and error.code == 112)
    )


def is_lost(error: BaseException) -> bool:
    """Whether the connection broke, so that nobody knows whether the command ran."""
    return isinstance(error, AutoReconnect) and not error.timeout


def checked(reply: dict[str, object]) -> dict[str, object]:
    """The reply itself; an error if a majority of the servers has not confirmed its write."""
    failed = reply.get("writeConcernError")
    if isinstance(failed, dict):
        raise WriteConcernError(str(failed.get("errmsg")), failed.get("code"), failed)
    return reply


def raised(where: str, error: BaseException) -> Exception:
    """What a caller gets; pymongo's own error is its cause."""
    made: Exception
    if isinstance(error, BSONError | UnicodeError | OverflowError | DocumentTooLarge):
        made = ConfigurationError(f"{where} cannot store that: {error}")
    elif isinstance(error, OperationFailure) and not error.timeout:
        made = BackendError(
            f"{where} answered {type(error).__name__} ({error.code}): {error}",
            transient=error.code in _PASSING or isinstance(error, WriteConcernError),
        )
    else:
        late = isinstance(error, TimeoutError) or (
            isinstance(error, PyMongoError)
            and error.timeout
            and not isinstance(error, ServerSelectionTimeoutError)
        )
        story = "did not answer in time" if late else "could not be reached"
        # What follows is all that pymongo knows of the servers; its own error, the cause, has it.
        short = str(error).partition(", Timeout: ")[0]
        made = BackendError(f"{where} {story}: {short}", transient=True)
    made.__cause__ = error
    return made
