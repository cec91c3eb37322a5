"""The third driver: thousands of plans on a virtual clock, with everything that can go wrong.

A seed makes one history, repeatable to the letter: clients run the real plans against a server
given as a plain function, over a network that delays, loses and repeats messages, and are paused
and killed at random. What must never happen is checked by the test that owns the simulation.

Example:
    >>> simulation = Simulation(seed=1)
    >>> client = simulation.client("a", server=lambda command, now: command * 2)
    >>> async def plan() -> int:
    ...     await Sleep(5)
    ...     return await Ask(client.link, 21)
    >>> task = client.start(plan())
    >>> simulation.run()
    >>> task.value
    42
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from resilient.engine import clock
from resilient.engine.backend import Backend
from resilient.engine.background import Chore
from resilient.engine.drivers.steps import Done, resume
from resilient.engine.plan import (
    NEW_OWNER,
    NOW,
    RANDOM,
    Ask,
    Body,
    Drop,
    IsDead,
    Keep,
    Listen,
    Plan,
    Sleep,
    Together,
    Wait,
)
from resilient.errors import BackendError

__all__ = ["Client", "Faults", "Simulation", "Task"]

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
        timeout: Seconds after which a client gives a reply up.
    """

    delay: float = 0.05
    lose_request: float = 0.0
    lose_reply: float = 0.0
    repeat_request: float = 0.0
    timeout: float = 0.5


class Simulation:
    """A virtual clock, a network and the clients on it."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.active: Client | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._waiters: dict[str, SimulatedWaiter] = {}
        self._ids = count(1)
        self._tasks: list[Task] = []

    def client(self, name: str, server: Server, *, skew: float = 0.0) -> Client:
        """A process of its own, whose clock is `skew` seconds ahead."""
        return Client(self, name, server, skew)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Do something at a moment of the virtual clock."""
        heapq.heappush(self._events, (max(moment, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after a while."""
        self.at(self.now + seconds, action)

    def wake(self, waiter: str) -> None:
        """The server signals to a waiter; the signal takes its time, and is lost like a reply."""
        if self.random.random() >= self.faults.lose_reply:
            self.after(self.delay(), lambda: self._wake(waiter))

    def _wake(self, waiter: str) -> None:
        if waiter in self._waiters:
            self._waiters[waiter].wake()

    def delay(self) -> float:
        """How long the next message is under way."""
        return self.random.uniform(0.0, self.faults.delay)

    def run(self, until: float = math.inf) -> None:
        """Let time pass until nothing happens any more, or until a moment."""
        with clock.installed(_VirtualClock(self)):
            while self._events and self._events[0][0] <= until:
                self.now, _, action = heapq.heappop(self._events)
                action()

    def close(self) -> None:
        """End what is still under way: plans of killed clients, and of a history cut short."""
        for task in self._tasks:
            task.abandon()
        self._events.clear()

    def register(self, task: Task) -> None:
        """Remember a task until the end."""
        self._tasks.append(task)

    def new_waiter(self) -> SimulatedWaiter:
        """A waiter that `wake` finds by its id."""
        waiter = SimulatedWaiter(f"waiter-{next(self._ids)}")
        self._waiters[waiter.id] = waiter
        return waiter

    @contextmanager
    def on(self, client: Client) -> Iterator[None]:
        """What runs now runs in this client, and reads its clock."""
        before, self.active = self.active, client
        try:
            yield
        finally:
            self.active = before


class _VirtualClock(clock.SystemClock):
    """The clock of whichever client runs now."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def now(self) -> float:
        active = self._simulation.active
        return self._simulation.now if active is None else active.clock()

    def wall(self) -> float:
        return self.now()


class SimulatedWaiter:
    """One plan's wait."""

    __slots__ = ("__weakref__", "_resume", "_woken", "id")

    def __init__(self, name: str) -> None:
        self.id = name
        self._woken = False
        self._resume: Callable[[bool], None] | None = None

    def wake(self) -> None:
        """Wake it; a wake-up before the wait counts."""
        self._woken = True
        if self._resume is not None:
            self._settle()

    def begin(self, resume: Callable[[bool], None]) -> None:
        """Wait from now on."""
        self._resume = resume
        if self._woken:
            self._settle()

    def expire(self, resume: Callable[[bool], None]) -> None:
        """The time of this wait is over."""
        if self._resume is resume:
            self._settle()

    def _settle(self) -> None:
        resume, woken = self._resume, self._woken
        self._resume, self._woken = None, False
        assert resume is not None
        resume(woken)


class Client:
    """A process: it may be paused and killed, and its backend's heartbeat runs in it."""

    def __init__(self, simulation: Simulation, name: str, server: Server, skew: float) -> None:
        self.simulation = simulation
        self.name = name
        self.alive = True
        self.link = Link(self, server)
        self._skew = skew
        self._paused_until = 0.0
        self._owners = count(1)

    def backend(self, **stores: Any) -> Backend:
        """A backend of these stores, whose background work runs in this client."""
        backend = Backend(f"simulated-{self.name}", **stores)
        backend.__dict__["worker"] = SimulatedWorker(self)
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
        self.resume(task.step)
        return task

    def resume(self, action: Callable[[], None]) -> None:
        """Do something in this process: when it is no longer paused, never if it is dead."""
        self.simulation.at(self._paused_until, lambda: self._act(action))

    def _act(self, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.simulation.now < self._paused_until:
            self.resume(action)
            return
        with self.simulation.on(self):
            action()

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
        timeout = BackendError("the reply did not come in time")
        simulation.after(faults.timeout, lambda: once(None, timeout))
        copies = 2 if chance() < faults.repeat_request else 1
        for _ in range(copies):
            if chance() >= faults.lose_request:
                simulation.after(simulation.delay(), lambda: self._arrive(command, once))

    def _arrive(self, command: Any, once: _Once) -> None:
        simulation = self._client.simulation
        try:
            reply, error = self._server(command, simulation.now), None
        except BackendError as raised:
            reply, error = None, raised
        if simulation.random.random() >= simulation.faults.lose_reply:
            simulation.after(simulation.delay(), lambda: once(reply, error))


class _Once:
    """Hands the first of several answers to a client."""

    def __init__(self, client: Client, answer: Callable[[Any, BaseException | None], None]) -> None:
        self._client = client
        self._answer = answer
        self._answered = False

    def __call__(self, reply: Any, error: BaseException | None) -> None:
        if not self._answered:
            self._answered = True
            self._client.resume(lambda: self._answer(reply, error))


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
            self._client.simulation.after(wait, lambda: self._client.resume(self._work))

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


class _Abandoned(BaseException):
    """The process of a plan is no more."""


class Task:
    """One plan on its way in one client.

    Attributes:
        done: Whether it has come to its end.
        value: What it returned.
        error: What it raised.
    """

    def __init__(
        self, client: Client, plan: Plan[Any], body: Callable[[Any], Plan[Any]] | None = None
    ) -> None:
        self.client = client
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._plan = plan
        self._body = body
        self._callbacks: list[Callable[[], None]] = []
        client.simulation.register(self)

    def abandon(self) -> None:
        """End the plan without answering anything that it still asks."""
        while not self.done:
            try:
                self._plan.throw(_Abandoned())
            except (_Abandoned, StopIteration):
                self.done = True

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back when the plan has ended, in the same client."""
        self._callbacks.append(callback)

    def step(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Step the plan until it waits for something, or ends."""
        while True:
            try:
                operation = resume(self._plan, answer, error)
            except Exception as raised:
                self._end(None, raised)
                return
            if isinstance(operation, Done):
                self._end(operation.value, None)
                return
            answer = error = None
            kind = type(operation)
            if kind in IMMEDIATE:
                answer = IMMEDIATE[kind](self, operation)
            else:
                SUSPENDING[kind](self, operation)
                return

    def _end(self, value: Any, error: BaseException | None) -> None:
        self.done, self.value, self.error = True, value, error
        for callback in self._callbacks:
            callback()

    def later(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Go on with an answer, when the client runs."""
        self.client.resume(lambda: self.step(answer, error))

    def _ask(self, operation: Ask) -> None:
        operation.transport.ask(operation.command, self.step)  # type: ignore[attr-defined]

    def _sleep(self, operation: Sleep) -> None:
        self.client.simulation.after(operation.seconds, self.later)

    def _wait(self, operation: Wait) -> None:
        waiter = operation.waiter
        assert isinstance(waiter, SimulatedWaiter)
        go_on = self.later
        self.client.simulation.after(operation.seconds, lambda: waiter.expire(go_on))
        waiter.begin(go_on)

    def _run_body(self, operation: Body) -> None:
        if self._body is None:
            self.later()
        else:
            self._follow(Task(self.client, self._body(operation.value)))

    def _follow(self, task: Task) -> None:
        task.when_done(lambda: self.later(task.value, task.error))
        self.client.resume(task.step)

    def _together(self, operation: Together) -> None:
        tasks = [Task(self.client, plan) for plan in operation.plans]
        if not tasks:
            self.later([])

        def ended() -> None:
            if all(task.done for task in tasks):
                self.later([task.error or task.value for task in tasks])

        for task in tasks:
            task.when_done(ended)
            self.client.resume(task.step)


IMMEDIATE: dict[type, Callable[[Task, Any], Any]] = {
    type(NOW): lambda task, _: task.client.clock(),
    type(RANDOM): lambda task, _: task.client.simulation.random.random(),
    type(NEW_OWNER): lambda task, _: task.client.new_owner(),
    IsDead: lambda task, operation: False,
    Keep: lambda task, operation: operation.lease.keep(),
    Drop: lambda task, operation: operation.lease.drop(),
    Listen: lambda task, operation: task.client.simulation.new_waiter(),
}
SUSPENDING: dict[type, Callable[[Task, Any], None]] = {
    Ask: Task._ask,
    Sleep: Task._sleep,
    Wait: Task._wait,
    Body: Task._run_body,
    Together: Task._together,
}
