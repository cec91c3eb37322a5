"""Histories of the real lock plan over the model server, and what must hold in each of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from resilient.config import Source
from resilient.engine.plan import Ask, Plan, Sleep
from resilient.errors import BackendError, LeaseLost
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.policies.distributed_lock.plan import Settings, guarded
from resilient.protocols.locks import Grant, Held
from resilient.testing.simulation import Client, Faults, Simulation, Task
from tests.simulation.model import LockServer, Violation

TTL = 1.5
CLIENTS = 4
ROUNDS = 3
FAULTS = Faults(delay=0.08, lose_request=0.04, lose_reply=0.06, timeout=0.2)


class ModelLocks:
    """The lock store of one client: every method is one command to the model server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def acquire(
        self, key: str, *, ttl: float, owner: str | None = None, waiter: str | None = None
    ) -> Grant | Held:
        """Take the lock, or learn who holds it."""
        assert owner is not None
        answer = await self._ask("acquire", owner=owner, ttl=ttl, waiter=waiter)
        if answer[0] == "grant":
            return Grant(owner, answer[1], ttl)
        if answer[1] == owner:
            raise Violation(f"{owner} was told that it is in its own way")
        return Held(*answer[1:])

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        """Renew the lock."""
        return bool(await self._ask("renew", owner=owner, ttl=ttl))

    async def release(self, key: str, *, owner: str) -> bool:
        """Free the lock."""
        return bool(await self._ask("release", owner=owner))

    async def withdraw(self, key: str, *, owner: str, waiter: str) -> None:
        """Wait no longer."""
        await self._ask("withdraw", owner=owner, waiter=waiter)

    async def _ask(self, name: str, **arguments: Any) -> Any:
        return await Ask(self._client.link, (name, arguments))


class LateLease(HeldLock):
    """Broken: the deadline is counted from the reply, as in DistributedLock (.NET)."""

    __slots__ = ()

    def renewed(self, began: float, ttl: float | None = None) -> None:
        """Count from now, when the reply is here."""
        super().renewed(self.heartbeat.worker._client.clock(), ttl)  # type: ignore[attr-defined]


class History:
    """One seed's history: clients that take the lock, work and write, and what becomes of them."""

    def __init__(
        self,
        seed: int,
        server: type[LockServer] = LockServer,
        lease: type[HeldLock] = HeldLock,
    ) -> None:
        self.simulation = Simulation(seed, FAULTS)
        self.random = self.simulation.random
        self.server = server(self.simulation.wake)
        self.holding: list[tuple[Client, HeldLock]] = []
        self.newest_fence = 0
        self.entered = 0
        self.tasks: list[tuple[Client, Task]] = []
        for number in range(CLIENTS):
            client = self.simulation.client(
                f"client-{number}", self.server, skew=self.random.uniform(-1000, 1000)
            )
            backend = client.backend(locks=ModelLocks(client))
            settings = Settings(
                Source("locks", "distributed_lock", backend=backend), ttl=TTL, wait=60, lease=lease
            )
            self.tasks.append((client, client.start(self.rounds(client, settings))))
            self.trouble(client)

    def trouble(self, client: Client) -> None:
        """Pause some clients, once for longer than the TTL, and kill some."""
        chance = self.random.random()
        moment = self.random.uniform(0, 6)
        if chance < 0.2:
            self.simulation.at(moment, client.kill)
        elif chance < 0.6:
            length = self.random.choice([0.2, TTL, 3 * TTL])
            self.simulation.at(moment, partial(client.pause, length))

    async def rounds(self, client: Client, settings: Settings) -> None:
        """What one client does: take the lock several times."""
        for _ in range(ROUNDS):
            await Sleep(self.random.uniform(0, 0.5))
            task = client.start(guarded(settings, "k"), partial(self.body, client))
            while not task.done:
                await Sleep(0.05)
            if task.error is not None and not isinstance(task.error, LeaseLost | BackendError):
                raise task.error

    def body(self, client: Client, lease: HeldLock) -> Plan[None]:
        """The protected section of one client."""
        return self._body(client, lease)

    async def _body(self, client: Client, lease: HeldLock) -> None:
        self.entered += 1
        self.holding.append((client, lease))
        try:
            for _ in range(self.random.randrange(1, 5)):
                self.write(lease)
                await Sleep(self.random.choice([0.01, 0.1, TTL / 2, TTL]))
        finally:
            self.holding.remove((client, lease))

    def write(self, lease: HeldLock) -> None:
        """Write to what the lock protects; it refuses a fence older than one it has seen."""
        believers = [
            each
            for client, each in self.holding
            if client.alive and not each.is_known_lost and client.clock() < each.deadline
        ]
        if len(believers) > 1:
            raise Violation(f"{[each.owner for each in believers]} all hold the lock, unfenced")
        if lease.fence < self.newest_fence and lease in believers:
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
        for client, task in self.tasks:
            if client.alive and task.error is not None:
                raise task.error
            if client.alive and not task.done:
                raise Violation(f"{client.name} still waits for a lock that nobody holds")
        if self.server.fences != sorted(set(self.server.fences)):
            raise Violation(f"the fences do not grow: {self.server.fences}")
