"""Histories of the real lock plan over the model server, and what must hold in each of them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from resilient.config import Source
from resilient.engine.plan import Ask, Sleep
from resilient.errors import BackendError, LeaseLost, LockNotAcquired
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.policies.distributed_lock.plan import guarded
from resilient.policies.distributed_lock.settings import Settings
from resilient.protocols.locks import Grant, Held
from resilient.testing.simulation import Client, Faults, Simulation, Task
from tests.simulation.model import LockServer, Violation

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

    async def release(self, key: str, *, owner: str, **_: Any) -> bool:
        """Free the lock."""
        return bool(await self._ask("release", owner=owner))

    async def withdraw(self, key: str, *, owner: str, waiter: str, **_: Any) -> None:
        """Wait no longer."""
        await self._ask("withdraw", owner=owner, waiter=waiter)

    async def _ask(self, name: str, **arguments: Any) -> Any:
        return await Ask(self._client.link, (name, arguments))


class LateLease(HeldLock):
    """Broken: the deadline is counted from the reply, as in DistributedLock (.NET)."""

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.renewed(0.0)

    def renewed(self, began: float, ttl: float | None = None) -> None:
        """Count from now, when the reply is here."""
        super().renewed(self.heartbeat.worker._client.clock(), ttl)  # type: ignore[attr-defined]


class Watched:
    """A server whose every command is looked at: what it may never do, whatever it is asked."""

    def __init__(self, server: LockServer, history: History) -> None:
        self._server = server
        self._history = history
        self._gone: set[str] = set()

    def __call__(self, command: tuple[str, dict[str, Any]], now: float) -> Any:
        """Carry one command out, and look at what became of it."""
        name, arguments = command
        owner: str = arguments["owner"]
        waiting = list(self._server.queue)
        before = set(self._server.holds)
        self._server.expire(now)
        mine = self._server.holds.get(owner)
        fence = None if mine is None else mine.fence
        answer = self._server(command, now)
        for granted in self._server.holds.keys() - before:
            self._check_grant(granted, owner, name, waiting)
        self._check_queue()
        if name == "acquire" and fence is not None and answer[1] != fence:
            raise Violation(f"{owner} was granted one thing under two fences")
        if name in ("release", "withdraw"):
            self._gone.add(owner)
        if gone := self._gone & self._server.holds.keys():
            raise Violation(f"{gone} hold the lock after they gave it back")
        return answer

    def _check_grant(
        self, granted: str, asked_by: str, command: str, waiting: list[tuple[str, str, bool]]
    ) -> None:
        is_alive = self._history.is_alive
        if (granted != asked_by or command != "acquire") and not is_alive(granted):
            raise Violation(f"{granted} is dead, and the lock was handed over to it")
        before = [owner for _, owner, _ in waiting]
        ahead = before[: before.index(granted)] if granted in before else before
        left = [owner for owner in ahead if self._waits(owner) and is_alive(owner)]
        if left:
            raise Violation(f"{granted} was granted before {left}, which have waited for longer")

    def _waits(self, owner: str) -> bool:
        return any(owner == each for _, each, _ in self._server.queue)

    def _check_queue(self) -> None:
        server = self._server
        if server.queue and LockServer.is_free(server, server.queue[0][2]):
            raise Violation(f"the lock is free, and {server.queue[0][1]} was not told")


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
        self.holding: list[tuple[Client, HeldLock, bool]] = []
        self.newest_fence = 0
        self.entered = 0
        self.clients: dict[str, tuple[Client, Task]] = {}
        watched = Watched(self.server, self)
        for number in range(kind.clients):
            name = f"client-{number}"
            client = self.simulation.client(name, watched, skew=self.random.uniform(-1000, 1000))
            shared = self.random.random() < kind.readers
            plan = self.rounds(client, self.settings(client, shared, lease))
            self.clients[name] = (client, client.start(plan, partial(self.body, client, shared)))
            self.trouble(client)

    def settings(self, client: Client, shared: bool, lease: type[HeldLock]) -> Settings:
        """How one client locks: most are patient, some give up."""
        backend = client.backend(locks=ModelLocks(client, shared=shared))
        return Settings(
            source=Source("locks", "distributed_lock", backend=backend),
            ttl=TTL,
            wait=60 if self.random.random() < 0.7 else self.random.uniform(0, 1.5),
            lease=lease,
        )

    def trouble(self, client: Client) -> None:
        """Pause some clients, once for longer than the TTL, and kill some."""
        chance = self.random.random()
        moment = self.random.uniform(0, 5)
        if chance < 0.2:
            self.simulation.at(moment, client.kill)
        elif chance < 0.6:
            length = self.random.choice([0.2, TTL, 3 * TTL])
            self.simulation.at(moment, partial(client.pause, length))

    def is_alive(self, owner: str) -> bool:
        """Whether the process of an owner is there."""
        return self.clients[owner.partition(".")[0]][0].alive

    async def rounds(self, client: Client, settings: Settings) -> None:
        """What one client does: take the lock several times."""
        for _ in range(ROUNDS):
            await Sleep(self.random.uniform(0, 0.5))
            try:
                await guarded(settings, "k")
            except (LeaseLost, BackendError, LockNotAcquired):
                continue

    async def body(self, client: Client, shared: bool, lease: HeldLock) -> None:
        """The protected section of one client."""
        self.entered += 1
        entry = (client, lease, shared)
        self.holding.append(entry)
        try:
            for _ in range(self.random.randrange(1, 4)):
                self.work(lease)
                await Sleep(self.random.choice([0.01, 0.1, TTL / 2, TTL]))
        finally:
            self.holding.remove(entry)

    def work(self, lease: HeldLock) -> None:
        """Do what the lock protects; a write with a fence older than the newest one is refused."""
        believers = [
            (each, shared)
            for client, each, shared in self.holding
            if client.alive and not each.is_known_lost and client.clock() < each.deadline
        ]
        names = [each.owner for each, _ in believers]
        if not self.kind.exclusive:
            if len(believers) > self.kind.permits:
                raise Violation(f"{names} hold {self.kind.permits} permits")
            return
        writers = [each for each, shared in believers if not shared]
        if writers and len(believers) > 1:
            raise Violation(f"{names} all hold the lock, unfenced")
        if lease.fence < self.newest_fence and lease in writers:
            raise Violation(f"{lease.owner} holds the lock, and its writes are refused")
        self.newest_fence = max(self.newest_fence, lease.fence)

    def run(self) -> None:
        """Let it happen, and check it."""
        try:
            self.simulation.run(until=300)
            self.check()
        finally:
            self.simulation.close()

    def check(self) -> None:
        """What must hold at the end."""
        for client, task in self.clients.values():
            if client.alive and task.error is not None:
                raise task.error
            if client.alive and not task.done:
                raise Violation(f"{client.name} still waits for a lock that nobody holds")
        if self.server.fences != sorted(set(self.server.fences)):
            raise Violation(f"the fences do not grow: {self.server.fences}")
        # Whoever comes last finds nobody, whatever the dead have left.
        late = {"owner": "late", "ttl": TTL, "waiter": None, "shared": False}
        self.server.expire(self.simulation.now + 2 * TTL)
        self.server.hand_over(self.simulation.now)
        answer = self.server(("acquire", late), self.simulation.now)
        if self.server.queue or answer[0] != "grant":
            raise Violation(f"{self.server.queue} are left, and {set(self.server.holds)} hold it")
