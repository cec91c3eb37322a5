"""Histories of the real lock plan over the model server, and what must hold in each of them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

from resilient.config import Source
from resilient.engine.plan import Ask, Plan, Sleep
from resilient.errors import BackendError, LeaseLost, LockNotAcquired
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.policies.distributed_lock.plan import guarded
from resilient.policies.distributed_lock.settings import Settings
from resilient.protocols.locks import Grant, Held
from resilient.testing.simulation import Cancelled, Client, Faults, Simulation, Task
from tests.simulation.model import LockServer, Violation
from tests.simulation.watched import Watched

TTL = 1.5
ROUNDS = 2
FAULTS = Faults(delay=0.08, lose_request=0.04, lose_reply=0.06, repeat_reply=0.05, timeout=0.2)


class Kind(NamedTuple):
    """What is held, and by how many.

    Attributes:
        permits: How many hold it side by side.
        exclusive: Whether a holder that does not share excludes all others.
        readers: The share of holders that share.
        clients: How many processes want it.
    """

    permits: int = 1
    exclusive: bool = True
    readers: float = 0.0
    clients: int = 4


LOCK = Kind()
SEMAPHORE = Kind(permits=2, exclusive=False)
READ_WRITE = Kind(readers=0.6, clients=5)


class ModelLocks:
    """The lock store of one client: every method is one command to the model server."""

    def __init__(self, client: Client, *, shared: bool) -> None:
        self._client = client
        self._shared = shared
        self.answered: set[int] = set()
        """The fences of the holds whose release was answered."""

    async def acquire(
        self,
        key: str,
        *,
        ttl: float,
        owner: str | None = None,
        waiter: str | None = None,
        **_: Any,
    ) -> Grant | Held:
        """Take the lock, or learn who holds it."""
        assert owner is not None
        answer = await self._ask(
            "acquire", owner=owner, ttl=ttl, waiter=waiter, shared=self._shared
        )
        if answer[0] == "grant":
            return Grant(owner, answer[1], ttl)
        if answer[1] == owner:
            raise Violation(f"{owner} was told that it is in its own way")
        return Held(*answer[1:])

    async def renew(self, key: str, *, owner: str, ttl: float, **_: Any) -> bool:
        """Renew the lock."""
        return bool(await self._ask("renew", owner=owner, ttl=ttl))

    async def release(self, key: str, *, owner: str, fence: int = 0, **_: Any) -> bool:
        """Free the lock."""
        answer = bool(await self._ask("release", owner=owner, fence=fence))
        self.answered.add(fence)
        return answer

    async def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        """Make another one the holder."""
        answer = await self._ask("transfer", owner=owner, to=to, ttl=ttl)
        return None if answer is None else Grant(to, *answer)

    async def withdraw(self, key: str, *, owner: str, waiter: str, **_: Any) -> None:
        """Wait no longer."""
        await self._ask("withdraw", owner=owner, waiter=waiter)

    def _ask(self, name: str, **arguments: Any) -> Ask:
        return Ask(self._client.link, (name, arguments))


class LateLease(HeldLock):
    """Broken: the deadline is counted from the reply, as in DistributedLock (.NET)."""

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renewed(0.0)

    def renewed(self, began: float, ttl: float | None = None) -> None:
        """Count from now, when the reply is here."""
        super().renewed(self.heartbeat.worker._client.clock(), ttl)  # type: ignore[attr-defined]  # a simulated worker


class HopefulLease(HeldLock):
    """Broken: a release that is sent again is taken for done, whatever the server says to it."""

    __slots__ = ()

    async def _released_later(self, error: BackendError) -> bool:
        await super()._released_later(error)
        return not self.lost


class Stay:
    """One client in the protected section.

    Attributes:
        client: The client.
        lease: Under which lease.
        shared: Whether others may be there at the same time.
        left: When it left.
        handed_on: Whether it has handed the lock on to somebody else.
    """

    __slots__ = ("client", "handed_on", "lease", "left", "shared")

    def __init__(self, client: Client, lease: HeldLock, shared: bool) -> None:
        self.client = client
        self.lease = lease
        self.shared = shared
        self.left = math.inf
        self.handed_on = False


class History:
    """One seed's history: clients that take the lock, work and write, and what becomes of them."""

    def __init__(
        self,
        seed: int,
        kind: Kind = LOCK,
        server: type[LockServer] = LockServer,
        lease: type[HeldLock] = HeldLock,
    ) -> None:
        self.simulation = Simulation(seed, FAULTS)
        self.random = self.simulation.random
        self.kind = kind
        self.server = server(self.simulation.wake, permits=kind.permits, exclusive=kind.exclusive)
        self.holding: list[Stay] = []
        self.stays: dict[int, Stay] = {}
        """By their fences."""
        self.adopting: list[tuple[Client, Task]] = []
        self.settings: dict[str, Settings] = {}
        self.newest_fence = 0
        self.entered = 0
        self.clients: dict[str, tuple[Client, Task]] = {}
        watched = Watched(self.server, self.is_alive)
        for number in range(kind.clients):
            name = f"client-{number}"
            client = self.simulation.client(name, watched, skew=self.random.uniform(-1000, 1000))
            shared = self.random.random() < kind.readers
            self.settings[name] = self.settings_of(client, shared, lease)
            stays: list[Stay] = []
            plan = self.rounds(client, stays)
            task = client.start(plan, partial(self.body, client, shared, stays))
            self.clients[name] = (client, task)
            self.trouble(client, task)
        if self.random.random() < 0.15:
            force = ("force_release", {"owner": "operator"})
            moment = self.random.uniform(0, 5)
            self.simulation.at(moment, lambda: watched(force, self.simulation.now))

    def settings_of(self, client: Client, shared: bool, lease: type[HeldLock]) -> Settings:
        """How one client locks: most are patient, some give up."""
        backend = client.backend(locks=ModelLocks(client, shared=shared))
        return Settings(
            source=Source("locks", "distributed_lock", backend=backend),
            ttl=TTL,
            wait=60 if self.random.random() < 0.7 else self.random.uniform(0, 1.5),
            lease=lease,
        )

    def trouble(self, client: Client, task: Task) -> None:
        """Pause some clients, once for longer than the TTL; cancel some, and kill some."""
        chance = self.random.random()
        moment = self.random.uniform(0, 5)
        if chance < 0.2:
            self.simulation.at(moment, client.kill)
        elif chance < 0.6:
            length = self.random.choice([0.2, TTL, 3 * TTL])
            self.simulation.at(moment, partial(client.pause, length))
        elif chance < 0.8:
            for _ in range(self.random.randrange(1, 4)):
                moment = self.random.uniform(0, 5)
                self.simulation.at(moment, partial(client.resume, task.cancel))

    def is_alive(self, owner: str) -> bool:
        """Whether the process of an owner is there."""
        return self.clients[owner.partition(".")[0]][0].alive

    async def rounds(self, client: Client, stays: list[Stay]) -> None:
        """What one client does: take the lock several times."""
        settings = self.settings[client.name]
        for _ in range(ROUNDS):
            try:
                await Sleep(self.random.uniform(0, 0.5))
                await self.told(stays, guarded(settings, "k"))
            except (BackendError, LockNotAcquired, Cancelled):
                continue

    async def takes_over(self, client: Client, token: str, stays: list[Stay]) -> None:
        """What a client does with a lock that was handed on to it."""
        try:
            await self.told(stays, guarded(self.settings[client.name], "k", token))
        except BackendError:
            return

    async def told(self, stays: list[Stay], plan: Plan[Any]) -> None:
        """Run a plan to its end: a loss is told if it is true, and told if there was one."""
        stays.clear()
        try:
            await plan
        except LeaseLost as error:
            self.check_loss(error)
            return
        for stay in stays:
            self.check_no_loss(stay)

    def check_loss(self, error: LeaseLost) -> None:
        """It was lost at the server, or might have been by its own clock."""
        stay = self.stays.get(error.fence)
        if stay is None:  # nobody was in there under it: the hold that was to be taken over is gone
            return
        how, _ = self.server.ended.get(error.fence, ("", 0.0))
        overdue = stay.client.clock() >= stay.lease.deadline
        if how not in ("expired", "forced") and not overdue:
            raise Violation(f"{stay.lease.owner} was told of a loss that is none: {error}")

    def check_no_loss(self, stay: Stay) -> None:
        """It was not lost before its holder had left, or else the holder could not know."""
        fence = stay.lease.fence
        how, when = self.server.ended.get(fence, ("", math.inf))
        locks = stay.lease.store
        assert isinstance(locks, ModelLocks)
        could_know = fence in locks.answered or (how == "expired" and when < stay.left)
        if how in ("expired", "forced") and could_know and not stay.handed_on:
            raise Violation(f"{stay.lease.owner} has lost the lock ({how}), and was not told")

    async def body(self, client: Client, shared: bool, stays: list[Stay], lease: HeldLock) -> None:
        """The protected section of one client."""
        self.entered += 1
        stay = self.stays[lease.fence] = Stay(client, lease, shared)
        stays.append(stay)
        self.holding.append(stay)
        try:
            for _ in range(self.random.randrange(1, 4)):
                self.work(lease)
                await Sleep(self.random.choice([0.01, 0.1, TTL / 2, TTL]))
                if self.random.random() < 0.1:
                    await lease.extending(self.random.choice([TTL / 2, TTL, 2 * TTL]))
            if self.kind is LOCK and self.random.random() < 0.1:
                token = await lease.transferring(None)
                stay.handed_on = True
                self.hand_on(token)
        finally:
            stay.left = self.simulation.now
            self.holding.remove(stay)

    def hand_on(self, token: str) -> None:
        """Have another client take the lock over, soon."""
        client, _ = self.random.choice(list(self.clients.values()))
        stays: list[Stay] = []
        plan = self.takes_over(client, token, stays)
        task = client.start(plan, partial(self.body, client, False, stays))
        self.adopting.append((client, task))

    def work(self, lease: HeldLock) -> None:
        """Do what the lock protects; a write with a fence older than the newest one is refused."""
        believers = [
            stay for stay in self.holding if stay.client.alive and self.believes(stay.lease)
        ]
        names = [stay.lease.owner for stay in believers]
        if not self.kind.exclusive:
            if len(believers) > self.kind.permits:
                raise Violation(f"{names} hold {self.kind.permits} permits")
            return
        writers = [stay.lease for stay in believers if not stay.shared]
        if writers and len(believers) > 1:
            raise Violation(f"{names} all hold the lock, unfenced")
        if lease.fence < self.newest_fence and lease in writers:
            raise Violation(f"{lease.owner} holds the lock, and its writes are refused")
        self.newest_fence = max(self.newest_fence, lease.fence)

    def believes(self, lease: HeldLock) -> bool:
        """Whether a holder rightly believes that nobody else may hold the lock beside it."""
        how, _ = self.server.ended.get(lease.fence, ("", 0.0))
        if how == "forced" or lease.is_known_lost or lease.released:
            return False  # of what an operator does its holder hears with its next renewal
        return self.stays[lease.fence].client.clock() < lease.deadline

    def run(self) -> None:
        """Let it happen, and check it."""
        try:
            self.simulation.run(until=300)
            self.check()
        finally:
            self.simulation.close()

    def check(self) -> None:
        """What must hold at the end."""
        for client, task in [*self.clients.values(), *self.adopting]:
            if client.alive and task.error is not None:
                raise task.error
            if client.alive and not task.done:
                raise Violation(f"{client.name} still waits for a lock that nobody holds")
        if self.server.fences != sorted(set(self.server.fences)):
            raise Violation(f"the fences do not grow: {self.server.fences}")
        # Whoever comes last finds nobody, whatever the dead have left.
        late = {"owner": "late", "ttl": TTL, "waiter": None, "shared": False}
        self.server.expire(self.simulation.now + 4 * TTL)
        self.server.hand_over(self.simulation.now)
        answer = self.server(("acquire", late), self.simulation.now)
        if self.server.queue or answer[0] != "grant":
            raise Violation(f"{self.server.queue} are left, and {set(self.server.holds)} hold it")
