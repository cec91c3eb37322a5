"""Every error that the library raises, as one tree.

    ResilientError
    ├── ConfigurationError         a decorator, an option or a URL is wrong: fix the code
    │   ├── KeyMissing             a key field is None or empty
    │   └── CapabilityMissing      the backend cannot do what the policy needs
    ├── BackendError               the server, the network or the driver failed
    ├── CodecError                 a value cannot be stored, or a record cannot be read
    ├── Rejected                   the call was refused; nothing ran
    │   ├── LockNotAcquired        somebody else holds the lock
    │   ├── CircuitOpen            the dependency is being left alone
    │   ├── BulkheadFull           as many calls are running as may
    │   ├── CallInProgress         the same idempotent call is running elsewhere
    │   └── JobRunning             the same job is running elsewhere
    ├── JobCancelled               somebody has asked a running job to stop
    ├── SourceChanged              a resumed loop gets other items than those that are done
    ├── LeaseLost                  a holder outlived its lease; its writes are refused
    │   └── StaleRunner            ... of a checkpointed job
    ├── FingerprintMismatch        one idempotency key, two different payloads
    ├── TimedOut                   it took longer than it may; also a TimeoutError
    └── ResultUnavailable          the call was made before, and its result cannot be had
        └── OutcomeUnknown         ... since its owner died: whether it took effect is not known

All of them survive pickling, so that they cross process pools unchanged.
"""

from __future__ import annotations

from typing import Any, Self

__all__ = [
    "BackendError",
    "BlockingCallInLoop",
    "BulkheadFull",
    "CallInProgress",
    "CapabilityMissing",
    "CircuitOpen",
    "CodecError",
    "ConfigurationError",
    "DecoratorOrder",
    "FingerprintMismatch",
    "JobCancelled",
    "JobCodeChanged",
    "JobRunning",
    "KeyMissing",
    "LeaseLost",
    "LockNotAcquired",
    "OutcomeUnknown",
    "Rejected",
    "ResilientError",
    "ResultUnavailable",
    "SourceChanged",
    "StaleRunner",
    "TimedOut",
]


class ResilientError(Exception):
    """The root of every error that the library raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The attributes travel as state: keyword-only constructors would otherwise
        # make an exception that pickles but does not unpickle.
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    @classmethod
    def _restore(cls, args: tuple[Any, ...], state: dict[str, Any]) -> Self:
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(state)
        return error


def _rebuild(
    cls: type[ResilientError], args: tuple[Any, ...], state: dict[str, Any]
) -> ResilientError:
    return cls._restore(args, state)


class ConfigurationError(ResilientError):
    """An option, a template, a URL or a combination of them is wrong."""


class KeyMissing(ConfigurationError):
    """A field of a key template is `None` or empty, so the key would not identify anything."""


class CapabilityMissing(ConfigurationError):
    """The backend lacks the capability, or the mode (sync or async), that is asked of it."""


class BackendError(ResilientError):
    """The backend could not be reached or did not answer; the driver's error is the cause.

    Args:
        message: What was asked, of whom, and what went wrong.
        transient: Whether trying again may help (a lost connection, a time-out) or not (a
            refused password, a full disk). Only transient errors are tried again.
    """

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient


class CodecError(ResilientError):
    """A value has no faithful stored form, or a stored record does not read as its type."""


class Rejected(ResilientError):
    """The call was refused before anything ran.

    Args:
        message: What was held, by whom, and for how long.
        policy: The decorator that refused, such as `"distributed_lock"`.
        key: The key, without the backend's prefix.
        retry_after: Seconds after which another try may succeed; `None` if unknown.
    """

    def __init__(
        self, message: str, *, policy: str, key: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.policy = policy
        self.key = key
        self.retry_after = retry_after


class LockNotAcquired(Rejected):
    """Somebody else held the lock for as long as this caller was willing to wait."""


class CircuitOpen(Rejected):
    """The circuit is open, or half-open with every probe taken: the dependency is left alone."""


class BulkheadFull(Rejected):
    """As many calls were running in this process as may; `key` is the function."""


class CallInProgress(Rejected):
    """The same idempotent call is still running elsewhere."""


class JobRunning(Rejected):
    """The same job has a live runner; the message names it."""


class JobCancelled(ResilientError):
    """Somebody has asked this run of a job to stop; what is done is saved.

    Args:
        message: Which job.
        key: The job's key, without the backend's prefix.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class SourceChanged(ResilientError):
    """A loop with `verify=True` reads other items than those that an earlier run has done.

    Args:
        message: Which loop.
        key: The job's key, without the backend's prefix.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class LeaseLost(ResilientError):
    """The holder outlived its lease: somebody else may hold it now, and its writes are refused.

    Args:
        message: What was held, and since when it is lost.
        key: The key of the lease, without the backend's prefix.
        fence: The fence under which it was held.
    """

    def __init__(self, message: str, *, key: str, fence: int) -> None:
        super().__init__(message)
        self.key = key
        self.fence = fence


class StaleRunner(LeaseLost):
    """Another runner has taken the job over; this one changed nothing since."""


class FingerprintMismatch(ResilientError):
    """An idempotency key was used again with another payload.

    Args:
        message: Which function and key, and what to do about it.
        key: The idempotency key, without the backend's prefix.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class ResultUnavailable(ResilientError):
    """The call completed and took effect, but its result has no stored form to replay.

    Args:
        message: Which call, and why its result was not stored.
        key: The idempotency key, without the backend's prefix.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class OutcomeUnknown(ResultUnavailable):
    """The owner of the call died while it ran: whether it took effect is reported, not guessed.

    Raised with `on_takeover="raise"`, until the record expires, the owner turns out to be alive and
    finishes, or somebody who has looked into the matter says `idempotent.of(f).forget(...)`.
    """


class JobCodeChanged(RuntimeWarning):
    """A job goes on with another source of its function than it was saved by, of one version."""


class DecoratorOrder(UserWarning):
    """A decorator stands above one that belongs above it: what goes wrong is in the message."""


class TimedOut(ResilientError, TimeoutError):
    """A call took longer than it may."""


class BlockingCallInLoop(RuntimeWarning):
    """A blocking form was called in a thread that runs an event loop: use the awaitable one."""
