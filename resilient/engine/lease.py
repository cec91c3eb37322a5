"""Leases: whatever is held, by whom, until when; and the one heartbeat that renews them all.

A lock, an idempotent call, a job and the computation of a missing value are all held in the same
way: under a random owner token, with a fence that only grows, until a deadline that is counted from
*before* the request was sent. The heartbeat renews them at a third of their TTL, all of one backend
in one trip, and keeps trying until the deadline; then, or when the server says that somebody else
has it, the lease is lost and its holder is told.

The drift allowance is Redlock's: https://redis.io/docs/latest/develop/use/patterns/distributed-locks/
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from resilient import events
from resilient.engine import clock
from resilient.engine.budget import within
from resilient.engine.forks import forget_in_child
from resilient.engine.plan import NOW, Plan, Together
from resilient.errors import LeaseLost

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["RENEW_AFTER", "Heartbeat", "Lease", "safe_until"]

log = logging.getLogger("resilient")

SAFE_SHARE = 0.99
DRIFT_SECONDS = 0.002
RENEW_AFTER = 1 / 3
EARLY = 1 / 6
"""The share of its TTL by which a lease is renewed early, when another one is due: so that leases
that began one after the other fall into step, and are renewed in one trip."""
RETRY_AFTER = 1 / 20


class Renewing(Protocol):
    """The store of something that is held."""

    def renew(self, key: str, /, *, owner: str, lease: float) -> Plan[bool]:
        """Keep it for so many seconds from now; false when somebody else holds it."""
        ...


class Lease:
    """One hold on one key.

    Args:
        kind: What is held, such as `"lock"`; for messages and events.
        key: The key, without the backend's prefix.
        owner: The token under which it is held.
        fence: Larger than that of every earlier holder.
        ttl: Seconds for which it lives unless renewed.
        began: When the request that won it was sent, on the local clock.
        store: Where it is held.
        heartbeat: What renews it.
    """

    # What most leases never change lies in the class: no slots, which would have to be filled.
    inherited = False
    asked: tuple[float, float] | None = None
    """When the heartbeat's renewal that is under way was sent, and for how many seconds: it may
    reach the server after whatever is sent later."""
    trouble: Exception | None = None
    reason: str | None = None
    """Why it is lost, once that has been noticed."""
    _callbacks: list[Callable[[], object]] | None = None
    ttl: float
    changes = 0
    """How often its TTL was changed: a renewal that was sent before the last time says nothing of
    what the server has now, even if the TTL is the same again."""

    def __init__(
        self,
        kind: str,
        key: str,
        owner: str,
        fence: int,
        ttl: float,
        began: float,
        store: Any,
        heartbeat: Heartbeat,
    ) -> None:
        self.kind = kind
        self.key = key
        self.owner = owner
        self.fence = fence
        self.store = store
        self.heartbeat = heartbeat
        self.ttl = ttl
        self.deadline = began + ttl * SAFE_SHARE - DRIFT_SECONDS
        self.due = began + ttl * RENEW_AFTER

    def __repr__(self) -> str:
        what = f"{type(self).__name__} of {self.kind} {self.key!r}"
        return f"<{what}, fence {self.fence}: {self.state}>"

    @property
    def state(self) -> str:
        """Whether it is held, in words."""
        return "lost" if self.lost else f"{self.remaining():.1f} s left"

    def renew(self, ttl: float) -> Plan[bool]:
        """Keep it for so many seconds; the answer is false when somebody else holds it."""
        store: Renewing = self.store
        return store.renew(self.key, owner=self.owner, lease=ttl)

    def keep(self) -> None:
        """Have the heartbeat renew it from now on."""
        heartbeat = self.heartbeat
        heartbeat.leases.add(self)
        if self.due < heartbeat.worker.wakes_at:
            heartbeat.worker.nudge()

    def drop(self) -> None:
        """Have the heartbeat renew it no longer; before its release, so that none outlives it."""
        self.heartbeat.leases.discard(self)

    def renewed(self, began: float, ttl: float | None = None) -> None:
        """A request sent at `began` made it live for `ttl` seconds (its own TTL by default)."""
        if ttl is None:
            ttl = self.ttl
        else:
            self.ttl = ttl
        self.deadline = safe_until(began, ttl)
        if self.asked is not None:
            self.deadline = min(self.deadline, safe_until(*self.asked))
        self.due = began + ttl * RENEW_AFTER

    @property
    def is_exclusive(self) -> bool:
        """Whether nobody else holds the key at the same time: fences order what is written."""
        return True

    def remaining(self) -> float:
        """Seconds for which it is certainly held; 0 once it is lost."""
        return 0.0 if self.lost else self.deadline - clock.now()

    @property
    def lost(self) -> bool:
        """Whether somebody else may hold it now."""
        return self.reason is not None or clock.now() >= self.deadline

    @property
    def is_missing(self) -> bool:
        """Whether it is lost, and was not given back by its holder."""
        return self.lost

    @property
    def is_known_lost(self) -> bool:
        """Whether its loss has been noticed, by the heartbeat or from the server's own words."""
        return self.reason is not None

    def check(self) -> None:
        """Raise `LeaseLost` if it is lost; call it before a write that must not be stale."""
        if self.lost:
            raise self.error()

    @property
    def overdue(self) -> str:
        """Why it is lost when its deadline is over."""
        why = "" if self.trouble is None else f": {self.trouble!r}"
        return f"it was not renewed in time{why}"

    def error(self) -> LeaseLost:
        """The exception that tells its holder of the loss."""
        reason = self.reason or self.overdue
        error = LeaseLost(
            f"the {self.kind} {self.key!r} (fence {self.fence}) is lost: {reason}",
            key=self.key,
            fence=self.fence,
        )
        error.__cause__ = self.trouble
        return error

    def lose(self, reason: str) -> None:
        """Mark it lost and tell whoever asked to be told."""
        if self.reason is not None:
            return
        self.reason = reason
        events.emit(events.LeaseWasLost(self.kind, self.key, self.fence, reason))
        self._tell()

    def when_lost(self, callback: Callable[[], object]) -> None:
        """Have a function called when it is lost, on the heartbeat's thread; at once if it is."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        if self.reason is not None:
            self._tell()

    def _tell(self) -> None:
        """Call who asked to be told: each once, though two threads may be here."""
        callbacks = self._callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # the other thread has taken the last one
                return
            _told(callback)

    def inherit(self) -> None:
        """This process is a forked child: the lease is its parent's, and not its to release."""
        self.inherited = True
        self.reason = "it belongs to the parent of this forked process"
        self._callbacks = None

    def settle(self, answer: object, began: float, ttl: float, changes: int) -> None:
        """Take the answer to a renewal for `ttl` seconds that was sent at `began`, when the TTL had
        been changed so many times.
        """
        if answer is False:
            self.lose("the server says that it has expired or was taken over")
        elif changes != self.changes:
            # It was changed meanwhile: nobody knows which request the server saw last.
            self.deadline = min(self.deadline, safe_until(began, ttl))
        elif answer is True:
            self.trouble = None
            self.renewed(began)
        else:  # an error: try again until the deadline
            self.due = min(clock.now() + self.ttl * RETRY_AFTER, self.deadline)
            assert isinstance(answer, Exception)
            self.trouble = answer


def _told(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:  # one holder's fault must not keep the others' losses from being told
        log.exception("a function that is called when a lease is lost failed")


def safe_until(began: float, ttl: float) -> float:
    """Until when a request for `ttl` seconds that was sent at `began` keeps something for sure."""
    return began + ttl * SAFE_SHARE - DRIFT_SECONDS


class Heartbeat:
    """Renews every lease held on one backend; its thread starts with the first lease."""

    def __init__(self, backend: Backend) -> None:
        self.worker = backend.worker
        self.prefix = backend.prefix
        self.leases: set[Lease] = set()
        """Those that are kept: `Lease.keep` and `Lease.drop`."""
        self.worker.add(self)
        forget_in_child(self._forget)

    def due(self) -> float | None:
        """When the next lease wants to be renewed."""
        return min((lease.due for lease in list(self.leases)), default=None)

    async def run(self) -> None:
        """Renew what is due in one trip, and tell the holders of what is lost."""
        began = await NOW
        leases = list(self.leases)
        due = [lease for lease in leases if lease.due - lease.ttl * EARLY <= began]
        alive = [lease for lease in due if lease.deadline > began]
        alive.sort(key=lambda lease: lease.deadline)  # the most urgent first: time may run short
        # A server that does not answer must not keep us from telling of the first loss in time.
        left = [lease.deadline - began for lease in leases]
        patience = min([seconds for seconds in left if seconds > 0], default=0.0)
        await within(patience, self._renewed(alive, began))
        ended = await NOW
        for lease in due:
            if lease not in self.leases:
                continue
            if ended >= lease.deadline:
                lease.lose(lease.overdue)
            if lease.lost:
                lease.drop()

    async def _renewed(self, leases: Sequence[Lease], began: float) -> None:
        """Renew leases; those whose TTL is changed meanwhile again, so that it is the last word.

        Whoever changed it may have handed the hold on by now: it is kept for the next holder.
        """
        while leases:
            sent = []
            for lease in leases:
                lease.asked = began, lease.ttl
                sent.append((lease, lease.asked[1], lease.changes))
            answers = await Together([lease.renew(ttl) for lease, ttl, _ in sent])
            leases = []
            for (lease, ttl, changes), answer in zip(sent, answers, strict=True):
                lease.asked = None
                if lease in self.leases:
                    lease.settle(answer, began, ttl, changes)
                if lease.changes != changes and answer is not False:
                    leases.append(lease)
            began = await NOW

    async def finish(self) -> None:
        """Go on with what is held: to close a backend gives back no lock."""
        if self.leases:
            self.worker.go_on()

    def _forget(self) -> None:
        for lease in self.leases:
            lease.inherit()
        self.leases.clear()
