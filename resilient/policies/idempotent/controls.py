"""`idempotent.of(f)`: what else can be done with an idempotent function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar

from resilient.engine.identity import describe
from resilient.engine.wrap import Controls
from resilient.errors import CallInProgress, ResultUnavailable
from resilient.policies.idempotent.at_hand import outcomes_at_hand
from resilient.policies.idempotent.outcomes import replayed, unknown
from resilient.policies.idempotent.settings import POLICY
from resilient.protocols.idempotency import Completed, InProgress, Unknown

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.policies.idempotent.decorator import IdempotentLayer

__all__ = ["CallStatus", "IdempotencyControls"]

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)
Status = TypeVar("Status", covariant=True)
Truth = TypeVar("Truth", covariant=True)

STATES: dict[str, Literal["completed", "failed", "unavailable"]] = {
    "value": "completed",
    "error": "failed",
    "unstored": "unavailable",
}


class CallStatus(NamedTuple):
    """What has become of one call.

    Attributes:
        state: `"running"`; `"completed"`, with a result; `"failed"`, with an error that is raised
            to duplicates; `"unavailable"`: it took effect, but its result had no stored form;
            `"unknown"`: its owner died while it ran.
        key: The idempotency key, without the backend's prefix.
        attempt: How often it was begun.
        ttl: Seconds for which that is so: until the record expires, or until the claim of a
            running call does, unless it is renewed.
        owner: Who runs it, such as `pid 812 on host-3`; `""` once nobody does.
    """

    state: Literal["running", "completed", "failed", "unavailable", "unknown"]
    key: str
    attempt: int
    ttl: float
    owner: str = ""


class IdempotencyControls(Controls[Any], Generic[P, Result, Status, Truth]):
    """What else can be done with an idempotent function; awaitable if the function is.

    Arguments are those of a call; all that matters of them is the key that they make. All but `key`
    and `unprotected` raise `BackendError` if the backend is away.
    """

    _layer: IdempotentLayer

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The idempotency key of a call with these arguments, without the backend's prefix."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def status(self, *args: P.args, **kwargs: P.kwargs) -> Status:
        """What has become of the call; `None` if it was not made, failed or was given up."""
        status: Status = self._layer.run(self._status(self.key(*args, **kwargs)))
        return status

    def result(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """The outcome of the call: its result, or its error is raised. It is not made.

        Raises:
            CallInProgress: It is running.
            OutcomeUnknown: Its owner died while it ran.
            ResultUnavailable: It was not made, or its result had no stored form.
        """
        result: Result = self._layer.run(self._result(self.key(*args, **kwargs)))
        return result

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> Truth:
        """Forget the call, so that the next one with this key is made; whether it was known.

        Whoever runs it at this moment is refused when it is done. With `local=`, other processes
        may replay what they have at hand for up to 30 s.
        """
        known: Truth = self._layer.run(self._forgotten(self.key(*args, **kwargs)))
        return known

    def unprotected(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call the function itself: nothing is looked up, nothing is stored."""
        result: Result = self._layer.function(*self._bound, *args, **kwargs)
        return result

    # --- as plans

    async def _record(self, key: str) -> InProgress | Completed | Unknown | None:
        backend = self._backend()
        if backend is None:
            return None
        assert backend.idempotency is not None
        return await backend.idempotency.get(key)

    async def _status(self, key: str) -> CallStatus | None:
        record = await self._record(key)
        if record is None:
            return None
        if isinstance(record, InProgress):
            owner = describe(record.owner)
            return CallStatus("running", key, record.attempt, record.ttl, owner)
        if isinstance(record, Unknown):
            return CallStatus("unknown", key, record.attempt, 0.0)
        return CallStatus(STATES[record.outcome], key, record.attempt, record.ttl)

    async def _result(self, key: str) -> Any:
        settings = self._layer.settings
        record = await self._record(key)
        if isinstance(record, Completed):
            return replayed(settings, key, record)
        if isinstance(record, InProgress):
            raise CallInProgress(
                f"{settings.name} is running under the idempotency key {key!r} in "
                f"{describe(record.owner)}",
                policy=POLICY,
                key=key,
                retry_after=record.ttl,
            )
        if record is not None:
            raise unknown(settings, key, record)
        raise ResultUnavailable(
            f"{settings.name} has not been called under the idempotency key {key!r}, or failed, or "
            "that was too long ago",
            key=key,
        )

    async def _forgotten(self, key: str) -> bool:
        backend = self._backend()
        if backend is None:
            return False
        assert backend.idempotency is not None
        settings = self._layer.settings
        if settings.local is None:
            return await backend.idempotency.delete(key)
        outcomes = outcomes_at_hand(settings, backend, settings.local)
        outcomes.forget(key)
        try:
            return await backend.idempotency.delete(key)
        finally:
            outcomes.forget(key)  # again: it may have been asked for meanwhile

    def _backend(self) -> Backend | None:
        return self._layer.settings.source.backend()
