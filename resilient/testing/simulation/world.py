"""The world of a simulation: a virtual clock, a network, and the processes on it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any

from resilient.engine import clock, identity
from resilient.engine.backend import Backend
from resilient.engine.background import Chore
from resilient.engine.plan import Plan
from resilient.errors import BackendError
from resilient.protocols.signals import Hub
from resilient.testing.simulation.tasks import SimulatedWaiter, Task

__all__ = ["Client", "Faults", "Server", "Simulation"]

Server = Callable[[Any, float], Any]
"""Answers a command that arrives at a moment of the server's clock, or raises."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and how often.

    Attributes:
        delay: The longest time that a message is under way, in seconds.
        lose_request: The share of requests that never arrive.
        lose_reply: The share of replies that never arrive.
        repeat_request: The share of requests that arrive twice.
        repeat_reply: The share of replies that arrive twice.
        timeout: Seconds after which a client gives a reply up.
    """

    delay: float = 0.05
    lose_request: float = 0.0
    lose_reply: float = 0.0
    repeat_request: float = 0.0
    repeat_reply: float = 0.0
    timeout: float = 0.5


class Simulation:
    """A virtual clock, a network and the clients on it."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.random: random.Random = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.active: Client | None = None
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._waiters: dict[str, tuple[Client, SimulatedWaiter]] = {}
        self._ids = count(1)
        self._tasks: list[Task] = []

    def client(self, name: str, server: Server, *, skew: float = 0.0) -> Client:
        """A process of its own, whose clock is `skew` seconds ahead."""
        return Client(self, name, server, skew)

    def at(self, moment: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do something at a moment of the virtual clock."""
        heappush(self._events, (max(moment, self.now), next(self._order), action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do something after a while."""
        moment = max(self.now + seconds, self.now)
        heappush(self._events, (moment, next(self._order), action, arguments))

    def wake(self, waiter: str, gift: str = "") -> bool:
        """The server signals to a waiter; the signal takes its time, and is lost like a reply.

        What the server learns is whether the waiter's process was there to hear it.
        """
        found = self._waiters.get(waiter)
        if found is None or not found[0].alive:
            return False
        if self.random.random() >= self.faults.lose_reply:
            self.after(self.delay(), found[1].wake, gift)
        return True

    def delay(self) -> float:
        """How long the next message is under way."""
        return self.faults.delay * self.random.random()

    def run(self, until: float = math.inf) -> None:
        """Let time pass until nothing happens any more, or until a moment."""
        events = self._events
        with self.installed():
            while events and events[0][0] <= until:
                self.now, _, action, arguments = heappop(events)
                action(*arguments)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have whatever runs until exit be one of these processes, by its own clock."""
        with (
            clock.installed(_VirtualClock(self)),
            identity.installed(lambda: self._running.new_owner(), lambda: self._running),
        ):
            yield

    @property
    def _running(self) -> Client:
        assert self.active is not None
        return self.active

    def close(self) -> None:
        """End what is still under way: plans of killed clients, and of a history cut short."""
        for task in self._tasks:
            task.abandon()
        self._events.clear()

    def register(self, task: Task) -> None:
        """Remember a task until the end."""
        self._tasks.append(task)

    def new_waiter(self, client: Client) -> SimulatedWaiter:
        """A waiter that `wake` finds by its id."""
        waiter = SimulatedWaiter(f"waiter-{next(self._ids)}")
        self._waiters[waiter.id] = (client, waiter)
        return waiter


class _VirtualClock(clock.SystemClock):
    """The clock of whichever client runs now."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def now(self) -> float:
        active = self._simulation.active
        return self._simulation.now if active is None else active.clock()

    def wall(self) -> float:
        return self.now()


class Client:
    """A process: it may be paused and killed, and its backend's heartbeat runs in it."""

    def __init__(self, simulation: Simulation, name: str, server: Server, skew: float) -> None:
        self.simulation: Simulation = simulation
        self.name = name
        self.alive = True
        self.link = Link(self, server)
        self._skew = skew
        self._paused_until = 0.0
        self._owners = count(1)

    def backend(self, **stores: Any) -> Backend:
        """A backend of these stores, whose background work runs in this client."""
        backend = copy(_BACKEND)
        backend.name, backend.hub = f"simulated-{self.name}", copy(_BACKEND.hub)
        backend.__dict__.update(stores, worker=SimulatedWorker(self))
        return backend

    def clock(self) -> float:
        """Seconds on this process's own clock."""
        return self.simulation.now + self._skew

    def new_owner(self) -> str:
        """The next owner token of this process."""
        return f"{self.name}.{next(self._owners)}"

    def start(self, plan: Plan[Any], body: Callable[[Any], Plan[Any]] | None = None) -> Task:
        """Run a plan from now on; where it awaits its `Body`, run the plan that `body` makes."""
        task = Task(self, plan, body)
        if self.simulation.active is not None:
            self.resume(task.step)
        else:  # perhaps before the simulation runs
            with self.simulation.installed():
                self.resume(task.step)
        return task

    def resume(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something in this process: when it is no longer paused, never if it is dead."""
        simulation = self.simulation
        if simulation.now < self._paused_until or simulation.active is not None:
            # One thing after the other, also what one process wants done in the midst of its own.
            simulation.at(self._paused_until, self.resume, action, *arguments)
        elif self.alive:
            # What runs now runs in this client, and reads its clock.
            simulation.active = self
            try:
                action(*arguments)
            finally:
                simulation.active = None

    def pause(self, seconds: float) -> None:
        """Stop the process for so many seconds, as `SIGSTOP` does."""
        self._paused_until = max(self._paused_until, self.simulation.now + seconds)

    def kill(self) -> None:
        """End the process, as `SIGKILL` does: what it has sent still arrives."""
        self.alive = False


class Link:
    """A client's transport: messages are delayed, lost and repeated."""

    def __init__(self, client: Client, server: Server) -> None:
        self._client = client
        self._server = server

    def send(self, command: Any) -> Any:
        """Simulated plans are not driven by blocking."""
        raise AssertionError("a simulated plan was given to the sync driver")

    asend = send

    def ask(self, command: Any, answer: Callable[[Any, BaseException | None], None]) -> None:
        """Send a command and call back once: with its answer, or with a time-out."""
        simulation, faults = self._client.simulation, self._client.simulation.faults
        chance = simulation.random.random
        once = _Once(self._client, answer)
        simulation.after(faults.timeout, once.give_up)
        for _ in range(2 if chance() < faults.repeat_request else 1):
            if chance() >= faults.lose_request:
                simulation.after(simulation.delay(), self._arrive, command, once)

    def _arrive(self, command: Any, once: _Once) -> None:
        simulation = self._client.simulation
        try:
            reply, error = self._server(command, simulation.now), None
        except BackendError as raised:
            reply, error = None, raised
        chance, faults = simulation.random.random, simulation.faults
        for _ in range(2 if chance() < faults.repeat_reply else 1):
            if chance() >= faults.lose_reply:
                simulation.after(simulation.delay(), once, reply, error)


class _Once:
    """Hands the first of several answers to a client."""

    def __init__(self, client: Client, answer: Callable[[Any, BaseException | None], None]) -> None:
        self._client = client
        self._answer = answer
        self._answered = False

    def __call__(self, reply: Any, error: BaseException | None) -> None:
        if not self._answered:
            self._answered = True
            self._client.resume(self._answer, reply, error)

    def give_up(self) -> None:
        """The time for an answer is over."""
        if not self._answered:
            self(None, BackendError("the reply did not come in time"))


class SimulatedSource:
    """Signals arrive by `Simulation.wake`; what was missed is found by a slow look."""

    is_listening = True

    def start(self, hub: Hub) -> None:
        """It always listens."""

    def address(self, waiter: str) -> str:
        """The waiter's id, which no other waiter of any client has."""
        return waiter

    def stop(self) -> None:
        """There is nothing to stop."""


_BACKEND = Backend("simulated", source=SimulatedSource())
"""What every client's backend is a copy of: to make each anew is a fifth of a short history."""
del _BACKEND.nearby  # it would be everybody's; no policy that keeps values at hand is simulated


class SimulatedWorker:
    """The background work of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._chores: list[Chore] = []
        self._running = False
        self.wakes_at = math.inf

    def add(self, chore: Chore) -> None:
        """Do this chore from now on."""
        self._chores.append(chore)

    def nudge(self) -> None:
        """Look again: something is due earlier than `wakes_at`."""
        moments = [due for chore in self._chores if (due := chore.due()) is not None]
        self.wakes_at = min(moments, default=math.inf)
        if moments:
            wait = self.wakes_at - self._client.clock()
            self._client.simulation.after(wait, self._client.resume, self._work)

    def stop(self) -> None:
        """Nothing runs in between."""

    def _work(self) -> None:
        now = self._client.clock()
        for chore in self._chores:
            if (due := chore.due()) is not None and due <= now and not self._running:
                self._running = True
                self._client.start(chore.run()).when_done(self._rest)
                return
        if not self._running and now >= self.wakes_at:
            self.nudge()

    def _rest(self) -> None:
        self._running = False
        self.nudge()
