"""The idempotent call, as a plan: claim, run, complete; or wait, and replay.

The claim is a lease. Its owner completes it with the call's outcome, and every write names the
owner, so that one that was taken over changes nothing. Duplicates wait for the outcome and are
woken by it. A result that has no stored form completes the call all the same: it has taken effect,
and must not run again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from resilient import events
from resilient.config import Source
from resilient.engine.guard import guarded
from resilient.engine.identity import describe
from resilient.engine.lease import Lease
from resilient.engine.persistence import asked_again
from resilient.engine.plan import ATTEMPT, Body, Plan
from resilient.engine.waiting import obtained
from resilient.errors import (
    BackendError,
    CallInProgress,
    CodecError,
    FingerprintMismatch,
    ResultUnavailable,
)
from resilient.protocols.idempotency import (
    Claimed,
    Completed,
    IdempotencyStore,
    InProgress,
    Mismatch,
)
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.engine.codecs import Codec

__all__ = ["Settings", "once"]

POLICY = "idempotent"
Answer: TypeAlias = Claimed | InProgress | Completed | Mismatch


class Settings:
    """The options of one idempotent function.

    Attributes:
        source: Where its backend comes from.
        name: The function, for messages.
        codec: Turns its results into their stored form and back.
        ttl: Seconds for which an outcome is kept.
        lease: Seconds for which a claim lives without being renewed.
        wait: Seconds to wait for another owner; 0: not at all; `None`: no limit.
        replay_errors: The exceptions that are outcomes, stored and raised again.
        skip: Whether a call in progress elsewhere skips this one, which then answers `skipped`.
        unguarded: Whether the call runs without its promise when the backend is away.
    """

    __slots__ = (
        "codec",
        "lease",
        "name",
        "replay_errors",
        "skip",
        "skipped",
        "source",
        "ttl",
        "unguarded",
        "wait",
    )

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        codec: Codec,
        ttl: float,
        lease: float,
        wait: float | None,
        replay_errors: tuple[type[Exception], ...],
        skip: bool,
        skipped: Any,
        unguarded: bool,
    ) -> None:
        self.source = source
        self.name = name
        self.codec = codec
        self.ttl = ttl
        self.lease = lease
        self.wait = wait
        self.replay_errors = replay_errors
        self.skip = skip
        self.skipped = skipped
        self.unguarded = unguarded


async def once(settings: Settings, key: str, fingerprint: str) -> Any:
    """Run the body if nobody has, else answer what it answered."""
    backend = settings.source.backend()
    if backend is None:
        return await Body()
    store = backend.idempotency
    assert store is not None  # its source has looked
    began, owner = await ATTEMPT
    contest = ClaimContest(settings, store, key, owner, fingerprint)
    try:
        began, answer = await obtained(contest, backend.hub, settings.wait, began)
    except CallInProgress:
        if settings.skip:
            return settings.skipped
        raise
    except BackendError as error:
        if not settings.unguarded:
            raise
        events.emit(events.BackendTrouble(POLICY, key, error))
        return await Body()
    if type(answer) is Completed:
        return replayed(settings, key, answer)
    if type(answer) is Claimed:
        return await run(settings, store, claim(settings, backend, contest, began, answer))
    raise FingerprintMismatch(
        f"{settings.name} was called under the idempotency key {key!r} with another payload "
        "before: a new request needs a new key",
        key=key,
    )


def claim(
    settings: Settings, backend: Backend, contest: ClaimContest, began: float, answer: Claimed
) -> Lease:
    """The lease of a call that is the caller's to make."""
    if answer.takeover or contest.evicted:
        events.emit(events.CallTakenOver(contest.key, answer.attempt))
    return Lease(
        "call",
        contest.key,
        owner=contest.owner,
        fence=answer.fence,
        ttl=settings.lease,
        began=began,
        renew=contest.renew,
        heartbeat=backend.heartbeat,
    )


async def run(settings: Settings, store: IdempotencyStore, lease: Lease) -> Any:
    """Run the body under its claim, and complete the claim with the outcome."""
    try:
        lease.keep()
        try:
            answer = await Body(lease=lease, cancel=True)
        except settings.replay_errors as error:
            await complete(settings, store, lease, *stored_error(error))
            raise
        await complete(settings, store, lease, *stored(settings.codec, answer))
        return answer
    except BaseException as error:
        # Harmless after a completion; before one, the next caller need not wait for the lease.
        if not lease.inherited and not isinstance(error, BackendError):
            with suppress(BackendError):
                await store.abandon(lease.key, owner=lease.owner)
        raise
    finally:
        lease.drop()


async def complete(
    settings: Settings, store: IdempotencyStore, lease: Lease, outcome: str, result: Encoded
) -> None:
    """Complete the claim with an outcome; `LeaseLost` if it is no longer the caller's."""
    if lease.inherited:
        raise lease.error()

    complete = store.complete
    try:
        accepted = await guarded(
            complete, lease.key, owner=lease.owner, result=result, ttl=settings.ttl, outcome=outcome
        )
    except BackendError as error:

        def ask() -> Plan[bool]:
            return guarded(
                complete,
                lease.key,
                owner=lease.owner,
                result=result,
                ttl=settings.ttl,
                outcome=outcome,
            )

        try:
            # For as long as nobody else may claim the call: it has taken effect.
            accepted = await asked_again(error, ask, until=lease.deadline)
        except BackendError as final:
            final.add_note(
                f"{settings.name} has taken effect under the idempotency key {lease.key!r}, "
                "but that could not be recorded"
            )
            raise
    if not accepted:
        lease.lose("another caller has taken the call over")
        raise lease.error()


def stored(codec: Codec, answer: Any) -> tuple[str, Encoded]:
    """The outcome of a call that returned."""
    try:
        return "value", codec.encode(answer)
    except CodecError as error:
        from resilient.engine import codecs

        return "unstored", codecs.encode(str(error))


def stored_error(error: Exception) -> tuple[str, Encoded]:
    """The outcome of a call that raised one of the errors to be replayed."""
    from resilient.engine import codecs

    try:
        return "error", codecs.encode(error)
    except CodecError as unstorable:
        return "unstored", codecs.encode(f"it raised {error!r}: {unstorable}")


def replayed(settings: Settings, key: str, outcome: Completed) -> Any:
    """What the call answered, or raised, when it ran."""
    if outcome.outcome == "value":
        return settings.codec.decode(outcome.result)
    from resilient.engine import codecs

    reason = codecs.decode(outcome.result)
    if outcome.outcome == "error":
        raise reason
    raise ResultUnavailable(
        f"{settings.name} has taken effect under the idempotency key {key!r}, but its outcome had "
        f"no stored form: {reason}",
        key=key,
    )


class ClaimContest:
    """One caller's attempt to claim one call."""

    __slots__ = ("_settings", "_store", "evicted", "fingerprint", "key", "owner")

    def __init__(
        self, settings: Settings, store: IdempotencyStore, key: str, owner: str, fingerprint: str
    ) -> None:
        self._settings = settings
        self._store = store
        self.key = key
        self.owner = owner
        self.fingerprint = fingerprint
        self.evicted = False

    def ask(self, waiter: str | None) -> Plan[Answer]:
        """Try once."""
        return self._store.claim(
            self.key,
            owner=self.owner,
            lease=self._settings.lease,
            ttl=self._settings.ttl,
            fingerprint=self.fingerprint,
            waiter=waiter,
        )

    def renew(self, ttl: float) -> Plan[bool]:
        """Keep the claim for so many seconds."""
        return self._store.renew(self.key, owner=self.owner, lease=ttl)

    def is_busy(self, answer: Answer) -> bool:
        """Whether the call is being made by somebody else."""
        return type(answer) is InProgress

    def evict(self, owner: str) -> Plan[object]:
        """Give up the claim of an owner that died, perhaps after the call took effect."""
        self.evicted = True
        return self._store.abandon(self.key, owner=owner)

    def withdraw(self, waiter: str | None) -> Plan[object]:
        """Give up what may have been claimed; what is registered as waiting expires."""
        return self._store.abandon(self.key, owner=self.owner)

    def refusal(self, answer: Answer, waited: float) -> CallInProgress:
        """The error that says who makes the call."""
        assert isinstance(answer, InProgress)
        return CallInProgress(
            f"{self._settings.name} is running under the idempotency key {self.key!r} in "
            f"{describe(answer.owner)} (attempt {answer.attempt}, {answer.ttl:.1f} s left unless "
            f"renewed); waited {waited:.1f} s",
            policy=POLICY,
            key=self.key,
            retry_after=answer.ttl,
        )
