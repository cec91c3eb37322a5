"""Backends that are broken on purpose, each in one way: the conformance suite must notice.

Each wraps one store of the memory backend and does one thing wrong, at the level of the protocol.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from resilient.backends.memory import MemoryBackend
from resilient.engine.backend import Capability
from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.checkpoints import Checkpoint, Started
from resilient.protocols.circuits import Admission, CircuitRules, CircuitState, CircuitView
from resilient.protocols.idempotency import Claimed, Completed, InProgress, Mismatch
from resilient.protocols.locks import Grant, Held
from resilient.protocols.values import Encoded

BROKEN: dict[str, type[Broken]] = {}

MODEL = "the model-based test"
EXAMPLES = "the tests by example"
NEVER = 1000.0
"""How much longer a lease lives whose expiry is ignored."""


class Broken:
    """A store that hands everything on, but for what its subclass does wrong."""

    capability: Capability
    noticed_by: tuple[str, ...] = (MODEL, EXAMPLES)

    def __init_subclass__(cls) -> None:
        if cls.__doc__:
            BROKEN[cls.__name__] = cls

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    @classmethod
    def backend(cls) -> MemoryBackend:
        """A memory backend with this store in its place."""
        backend = MemoryBackend()
        setattr(backend, cls.capability, cls(getattr(backend, cls.capability)))
        return backend


class Locks(Broken):
    capability = "locks"


class ReleaseWithoutOwnerCheck(Locks):
    """Anybody may release."""

    async def release(self, key: str, *, owner: str) -> bool:
        held = await self.store.holder(key)
        return bool(await self.store.release(key, owner=held.owner if held else owner))


class RenewWithoutOwnerCheck(Locks):
    """Anybody may renew."""

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        held = await self.store.holder(key)
        return bool(await self.store.renew(key, owner=held.owner if held else owner, ttl=ttl))


class RenewalTakesTheLock(Locks):
    """A renewal of a free lock acquires it: a renewal that outlives its release."""

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        return isinstance(await self.store.acquire(key, ttl=ttl, owner=owner), Grant)


class RenewalDoesNothing(Locks):
    """A renewal is confirmed, and the TTL stays."""

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        return bool(await self.store.is_held(key, owner=owner))


class FenceStandsStill(Locks):
    """Every grant has the same fence."""

    async def acquire(self, key: str, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, **options)
        return answer._replace(fence=1_700_000_000_000_000)


class FenceCountsFromOne(Locks):
    """Fences begin at 1 in every store, and so again after a loss of data."""

    noticed_by = (EXAMPLES,)

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.fences: list[int] = []

    async def acquire(self, key: str, **options: Any) -> Any:
        return self.small(await self.store.acquire(key, **options))

    async def holder(self, key: str) -> Any:
        held = await self.store.holder(key)
        return None if held is None else self.small(held)

    def small(self, answer: Any) -> Any:
        if answer.fence not in self.fences:
            self.fences.append(answer.fence)
        return answer._replace(fence=self.fences.index(answer.fence) + 1)


class LockNeverExpires(Locks):
    """The TTL is ignored."""

    async def acquire(self, key: str, *, ttl: float, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, ttl=ttl * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER)


class AcquireIsNotRepeatable(Locks):
    """An owner that asks again is refused."""

    async def acquire(self, key: str, *, owner: str | None = None, **options: Any) -> Grant | Held:
        held: Held | None = await self.store.holder(key)
        if held is not None and held.owner == owner:
            return held
        answer: Grant | Held = await self.store.acquire(key, owner=owner, **options)
        return answer


class ReleaseIsNotRepeatable(Locks):
    """A release that is sent again is denied."""

    async def release(self, key: str, *, owner: str) -> bool:
        if not await self.store.is_held(key, owner=owner):
            return False
        return bool(await self.store.release(key, owner=owner))


class WithdrawLeavesTheGrant(Locks):
    """Who stops waiting keeps what it was granted meanwhile."""

    async def withdraw(self, key: str, *, owner: str, waiter: str) -> None:
        await self.store.withdraw(key, owner="", waiter=waiter)


class NobodyIsWoken(Locks):
    """Waiters are not registered."""

    noticed_by = (EXAMPLES,)

    async def acquire(self, key: str, *, waiter: str | None = None, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, **options)
        return answer


class KeysMeet(Locks):
    """Keys are cleaned of what the store does not like."""

    noticed_by = (EXAMPLES,)

    async def acquire(self, key: str, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key.strip(), **options)
        return answer

    async def holder(self, key: str) -> Held | None:
        held: Held | None = await self.store.holder(key.strip())
        return held


class PrefixIsIgnored(Locks):
    """Every backend has the same locks."""

    noticed_by = (EXAMPLES,)
    shared = MemoryBackend().locks

    def __init__(self, store: Any) -> None:
        super().__init__(self.shared)


class Circuits(Broken):
    capability = "circuits"


class ProbesAreUnlimited(Circuits):
    """Everybody may probe."""

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        rules = rules._replace(permits=10**6)
        answer: Admission = await self.store.admit(key, rules=rules, token=token)
        return answer


class DeadProbesKeepTheirPermits(Circuits):
    """The lease of a probe is ignored."""

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        rules = rules._replace(lease=rules.lease * NEVER)
        answer: Admission = await self.store.admit(key, rules=rules, token=token)
        return answer


class StaleOutcomesCount(Circuits):
    """The generation of an outcome is ignored."""

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, generation: int | None = None
    ) -> CircuitView:
        view: CircuitView = await self.store.record(key, rules=rules, outcomes=outcomes)
        return view


class StaleReportsCount(Circuits):
    """The generation of a report is ignored."""

    async def report(self, key: str, *, generation: int, **options: Any) -> CircuitView:
        now = (await self.store.view(key)).generation
        view: CircuitView = await self.store.report(key, generation=now, **options)
        return view


class WindowIsTooWide(Circuits):
    """Outcomes leave the window too late."""

    async def record(self, key: str, *, rules: CircuitRules, **options: Any) -> CircuitView:
        rules = rules._replace(window=rules.window + 1)
        view: CircuitView = await self.store.record(key, rules=rules, **options)
        return view


class MinimumOfCallsIsIgnored(Circuits):
    """One failure is a rate of 100 %."""

    async def record(self, key: str, *, rules: CircuitRules, **options: Any) -> CircuitView:
        rules = rules._replace(min_calls=1)
        view: CircuitView = await self.store.record(key, rules=rules, **options)
        return view


class RunsOfFailuresAreIgnored(Circuits):
    """Only the rate is judged."""

    async def record(self, key: str, *, rules: CircuitRules, **options: Any) -> CircuitView:
        rules = rules._replace(consecutive=None)
        view: CircuitView = await self.store.record(key, rules=rules, **options)
        return view


class OnlyTheLastOutcomeIsJudged(Circuits):
    """Outcomes that arrive together are judged once, after the last."""

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, **options: Any
    ) -> CircuitView:
        lax = rules._replace(failure_rate=None, consecutive=None)
        for outcome in outcomes[:-1]:
            await self.store.record(key, rules=lax, outcomes=outcome, **options)
        view: CircuitView = await self.store.record(
            key, rules=rules, outcomes=outcomes[-1], **options
        )
        return view


class ProbedTooEarly(Circuits):
    """A circuit that was forced open does not stay so."""

    async def force(
        self, key: str, state: CircuitState, *, rules: CircuitRules | None = None
    ) -> CircuitView:
        if rules is not None:
            rules = rules._replace(open_for=rules.open_for / 10)
        view: CircuitView = await self.store.force(key, state, rules=rules)
        return view

    noticed_by = (MODEL,)


class GenerationsReturn(Circuits):
    """A forgotten circuit begins with the generations of the one before."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.known: dict[str, list[int]] = defaultdict(list)

    async def view(self, key: str) -> CircuitView:
        return self.small(key, await self.store.view(key))

    async def record(
        self, key: str, *, generation: int | None = None, **options: Any
    ) -> CircuitView:
        if generation:
            known = self.known[key]
            generation = known[generation - 1] if generation <= len(known) else -1
        return self.small(key, await self.store.record(key, generation=generation, **options))

    async def delete(self, key: str) -> bool:
        self.known.pop(key, None)
        return bool(await self.store.delete(key))

    def small(self, key: str, view: CircuitView) -> CircuitView:
        known = self.known[key]
        if view.generation and view.generation not in known:
            known.append(view.generation)
        return view._replace(generation=known.index(view.generation) + 1 if known else 0)


class Cache(Broken):
    capability = "cache"


class FillWithoutLease(Cache):
    """A value is stored whose lease was lost."""

    async def fill(self, key: str, value: Encoded, *, owner: str, **options: Any) -> bool:
        if not await self.store.fill(key, value, owner=owner, **options):
            await self.store.set(key, value, **options)
        return True


class TagsAreForgotten(Cache):
    """An invalidation of tags does nothing."""

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        return


class TagsMissComputations(Cache):
    """A value computed before an invalidation is stored as if it was computed after it."""

    async def fill(self, key: str, value: Encoded, *, owner: str, **options: Any) -> bool:
        if not await self.store.renew(key, owner=owner, lease=60.0):
            return bool(await self.store.fill(key, value, owner=owner, **options))
        await self.store.set(key, value, **options)
        return True


class OutdatedIsAwaited(Cache):
    """Callers wait for a computation whose value will be a miss."""

    async def fetch(
        self, key: str, *, tags: Sequence[str] = (), **options: Any
    ) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, **options)
        return answer


class ValuesNeverExpire(Cache):
    """The TTL is ignored."""

    async def set(
        self, key: str, value: Encoded, *, ttl: float | None = None, tags: Sequence[str] = ()
    ) -> None:
        await self.store.set(key, value, ttl=None if ttl is None else ttl * NEVER, tags=tags)


class EverybodyComputes(Cache):
    """Nobody is told to wait."""

    async def fetch(self, key: str, **options: Any) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, **options)
        return Leased(1) if isinstance(answer, Busy) else answer


class DeadLeadersLead(Cache):
    """The lease of a computation is ignored."""

    async def fetch(self, key: str, *, lease: float, **options: Any) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, lease=lease * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER) if isinstance(answer, Busy) else answer


class DeletionMissesComputations(Cache):
    """A deletion leaves the lease of a computation in flight."""

    async def delete(self, key: str) -> bool:
        return bool(await self.store.has(key) and await self.store.delete(key))


class EmptyIsMissing(Cache):
    """An empty value counts as none."""

    async def get(self, key: str) -> Entry | None:
        entry: Entry | None = await self.store.get(key)
        return entry if entry is not None and entry.value else None


class KeptForEver(Cache):
    """Without a TTL nothing expires."""

    async def set(
        self, key: str, value: Encoded, *, ttl: float | None = None, tags: Sequence[str] = ()
    ) -> None:
        await self.store.set(key, value, ttl=1e9 if ttl is None else ttl, tags=tags)


class PatternIsIgnored(Cache):
    """Every key is listed."""

    async def keys(self, pattern: str = "*") -> list[str]:
        keys: list[str] = await self.store.keys()
        return keys


class FollowersAreNotWoken(Cache):
    """Waiters are not registered."""

    noticed_by = (EXAMPLES,)

    async def fetch(
        self, key: str, *, waiter: str | None = None, **options: Any
    ) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, **options)
        return answer


Claim = Claimed | InProgress | Completed | Mismatch


class Idempotency(Broken):
    capability = "idempotency"


class CompleteWithoutOwnerCheck(Idempotency):
    """A late owner overwrites the outcome of the one that took over."""

    async def complete(self, key: str, *, owner: str, **options: Any) -> bool:
        record = await self.store.get(key)
        owner = record.owner if isinstance(record, InProgress) else owner
        return bool(await self.store.complete(key, owner=owner, **options))


class FingerprintIsIgnored(Idempotency):
    """Any payload gets the stored result."""

    async def claim(self, key: str, *, fingerprint: str = "", **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, **options)
        return answer


class FingerprintIsIgnoredLater(Idempotency):
    """A claim that has run out is taken over by another payload."""

    async def claim(self, key: str, *, fingerprint: str = "", **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, fingerprint=fingerprint, **options)
        if isinstance(answer, Mismatch) and await self.store.get(key) is None:
            answer = await self.store.claim(key, **options)
        return answer


class TakeoverIsNotTold(Idempotency):
    """A takeover looks like a first claim."""

    async def claim(self, key: str, **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, **options)
        return answer._replace(takeover=False) if isinstance(answer, Claimed) else answer


class ClaimsNeverRunOut(Idempotency):
    """The lease is ignored."""

    async def claim(self, key: str, *, lease: float, **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, lease=lease * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER) if isinstance(answer, InProgress) else answer


class AbandonedIsForgotten(Idempotency):
    """A call that was given up loses its attempts and its fingerprint."""

    async def abandon(self, key: str, *, owner: str) -> bool:
        return bool(await self.store.abandon(key, owner=owner) and await self.store.delete(key))


class ClaimIsNotRepeatable(Idempotency):
    """An owner that asks again is told that the call is in progress."""

    async def claim(self, key: str, *, owner: str, **options: Any) -> Claim:
        record = await self.store.get(key)
        if isinstance(record, InProgress) and record.owner == owner:
            return record
        answer: Claim = await self.store.claim(key, owner=owner, **options)
        return answer


class FirstOutcomeIsOverwritten(Idempotency):
    """A completion that is sent again by somebody else replaces the first."""

    async def complete(self, key: str, *, owner: str, **options: Any) -> bool:
        if isinstance(await self.store.get(key), Completed):
            return True
        return bool(await self.store.complete(key, owner=owner, **options))


class Checkpoints(Broken):
    capability = "checkpoints"

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.fences: dict[str, int] = {}

    async def start(self, task: str, *, lease: float, **options: Any) -> Any:
        answer = await self.store.start(task, lease=lease, **options)
        if isinstance(answer, Started):
            self.fences[task] = answer.fence
        return answer


class SaveWithoutFenceCheck(Checkpoints):
    """A stale runner saves over the one that took over."""

    async def save(
        self, task: str, data: Encoded, *, fence: int | None = None, **options: Any
    ) -> Checkpoint | None:
        fence = fence if fence is None else self.fences.get(task, fence)
        saved: Checkpoint | None = await self.store.save(task, data, fence=fence, **options)
        return saved


class StepWithoutFenceCheck(Checkpoints):
    """A stale runner writes steps."""

    async def step(
        self, task: str, name: str, value: Encoded, *, fence: int, **options: Any
    ) -> bool:
        fence = self.fences.get(task, fence)
        return bool(await self.store.step(task, name, value, fence=fence, **options))


class FinishWithoutFenceCheck(Checkpoints):
    """A stale runner finishes the job."""

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        fence = self.fences.get(task, fence)
        return bool(await self.store.finish(task, result, fence=fence, ttl=ttl))


class SavedTwice(Checkpoints):
    """A save that is sent again is another checkpoint."""

    async def save(
        self, task: str, data: Encoded, *, sequence: int | None = None, **options: Any
    ) -> Checkpoint | None:
        saved: Checkpoint | None = await self.store.save(task, data, **options)
        return saved


class AllAreKept(Checkpoints):
    """Nothing is ever dropped."""

    async def save(
        self, task: str, data: Encoded, *, keep: int = 5, **options: Any
    ) -> Checkpoint | None:
        saved: Checkpoint | None = await self.store.save(task, data, keep=10**6, **options)
        return saved


class RunnersNeverDie(Checkpoints):
    """The runner's lease is ignored."""

    async def start(self, task: str, *, lease: float, **options: Any) -> Any:
        answer = await super().start(task, lease=lease * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER) if hasattr(answer, "owner") else answer


class RunnersAreNotAlone(Checkpoints):
    """By hand it is saved while somebody runs the job."""

    async def save(
        self, task: str, data: Encoded, *, fence: int | None = None, **options: Any
    ) -> Checkpoint | None:
        fence = self.fences.get(task) if fence is None else fence
        saved: Checkpoint | None = await self.store.save(task, data, fence=fence, **options)
        return saved


class RerunRemembers(Checkpoints):
    """A job that is run again keeps its steps."""

    async def start(self, task: str, *, rerun: bool = False, **options: Any) -> Any:
        answer = await super().start(task, rerun=rerun, **options)
        return answer._replace(steps=self.steps[task]) if isinstance(answer, Started) else answer

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.steps: dict[str, dict[str, Encoded]] = defaultdict(dict)

    async def step(self, task: str, name: str, value: Encoded, **options: Any) -> bool:
        self.steps[task].setdefault(name, value)
        return bool(await self.store.step(task, name, value, **options))


class VersionIsTheNewOne(Checkpoints):
    """A runner is told its own version instead of the one before."""

    async def start(self, task: str, *, version: str = "", **options: Any) -> Any:
        answer = await super().start(task, version=version, **options)
        return answer._replace(version=version) if isinstance(answer, Started) else answer
