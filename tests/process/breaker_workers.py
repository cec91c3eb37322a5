"""What the processes of the breaker tests do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    FailureRate,
    HalfOpen,
    TimeWindow,
)
from resilient.engine import clock
from resilient.engine.circuits import registry
from resilient.events import CircuitChanged, Event
from resilient.policies.circuit_breaker import Call, calls, plan
from tests.support.processes import receive, tell

PERMITS, CONCURRENCY = 5, 2
PROBED_AFTER = 0.3
"""Seconds for which the circuits that are probed stay open."""


class Service:
    """A breaker, used by `with` or by `async with`."""

    def __init__(self, runner: asyncio.Runner | None, name: str, **options: Any) -> None:
        self.breaker = CircuitBreaker(name, **options)
        self.opened = threading.Event()
        """Set when it has opened, also if it has closed again before anybody looked."""
        self._name = name
        self._runner = runner
        resilient.subscribe(self._see)

    def _see(self, event: Event) -> None:
        if isinstance(event, CircuitChanged) and (event.key, event.after) == (self._name, "open"):
            self.opened.set()

    def call(
        self, error: Exception | None = None, seconds: float = 0.0, *, probes_fail_until: int = 0
    ) -> Call | None:
        """One guarded call, which fails by the error; `None` if it was refused.

        Args:
            error: What it raises.
            seconds: How long it takes.
            probes_fail_until: A probe fails while the circuit has opened less often.
        """
        self._let_through: Call | None = None
        self.probed: list[float] = []
        with contextlib.suppress(CircuitOpen, ConnectionError):
            if self._runner is not None:
                self._runner.run(self._acall(error, seconds, probes_fail_until))
            else:
                self._call(error, seconds, probes_fail_until)
        return self._let_through

    def _call(self, error: Exception | None, seconds: float, fail_until: int) -> None:
        with self.breaker.guard() as self._let_through:
            began = time.monotonic()
            if fail_until:
                error = self._probed(self.breaker.at().metrics().opened, fail_until)
            time.sleep(seconds)
            self.probed += [began, time.monotonic()]
            if error is not None:
                raise error

    async def _acall(self, error: Exception | None, seconds: float, fail_until: int) -> None:
        async with self.breaker.guard() as self._let_through:
            began = time.monotonic()
            if fail_until:
                opened = (await self.breaker.at().ametrics()).opened
                error = self._probed(opened, fail_until)
            await asyncio.sleep(seconds)
            self.probed += [began, time.monotonic()]
            if error is not None:
                raise error

    def _probed(self, opened: int, fail_until: int) -> Exception | None:
        self.probed = [opened]
        return ConnectionError() if opened < fail_until else None

    def is_closed(self) -> bool:
        """As this process knows it."""
        return self.breaker.at().state is CircuitState.CLOSED


class Fleet:
    """One process of many, which do together what the test tells them to, again and again."""

    def __init__(self, mode: str) -> None:
        self._runner = runner_of(mode)

    def use(self, url: str, prefix: str) -> None:
        """Share circuits there from now on."""
        if self._runner is not None:
            self._runner.run(resilient.aclose())
        resilient.close()
        resilient.configure(url, prefix=prefix)
        self._service("warm").call()

    def _service(self, name: str, **options: Any) -> Service:
        return Service(self._runner, name, **options)

    def share_failures(self, number: int) -> int:
        """Nine calls that fail, from a common start; how many reached the service."""
        name = f"shared-{number}"
        service = self._service(name, trip=FailureRate(0.5), min_calls=10, open_for=60)
        tell("ready")
        receive(60)
        reached = 0
        for _ in range(9):
            reached += service.call(ConnectionError()) is not None
            time.sleep(0.05)
        return reached

    def see_it_open(self, number: int, trips: bool) -> float:
        """When it was seen that it is open, by one clock for all processes.

        The one that trips it says when: the moment before its last failure.
        """
        name = f"seen-{number}"
        service = self._service(name, trip=Consecutive(3), open_for=60)
        opened: list[float] = []
        is_open = threading.Event()

        def see(event: Event) -> None:
            if isinstance(event, CircuitChanged) and event.key == name:
                opened.append(time.monotonic())
                is_open.set()

        unsubscribe = resilient.subscribe(see)
        try:
            service.call()
            tell("ready")
            receive(60)
            if not trips:
                assert is_open.wait(30)
                return opened[0]
            for _ in range(3):
                moment = time.monotonic()
                service.call(ConnectionError())
            return moment
        finally:
            unsubscribe()

    def see_it_forced(self, number: int, forces: bool) -> float:
        """The same of a circuit in use that one of them opens by hand: when calls are refused."""
        service = self._service(f"forced-{number}")
        service.call()
        tell("ready")
        receive(60)
        moment = time.monotonic()
        if forces:
            circuit = service.breaker.at()
            if self._runner is None:
                circuit.force_open(duration=60)
            else:
                self._runner.run(circuit.aforce_open(duration=60))
            return moment
        while service.call() is not None:
            assert time.monotonic() - moment < 30
            time.sleep(0.02)
        return time.monotonic()

    def hammer(self, number: int, rounds: int, trips: bool) -> list[list[float]]:
        """Call until it has closed again; which probes were under way: round, from, until."""
        # A busy machine is no backend that is away: each would have permits of its own then.
        for module in (calls, plan, registry):
            vars(module)["PATIENCE"] = 60.0
        half_open = HalfOpen(permits=PERMITS, concurrency=CONCURRENCY)
        service = self._service(
            f"probed-{number}", trip=Consecutive(1), open_for=PROBED_AFTER, half_open=half_open
        )
        service.call()
        tell("ready")
        receive(60)
        if trips:
            service.call(ConnectionError())
        assert service.opened.wait(60)
        probes = []
        while not service.is_closed():
            call = service.call(seconds=0.01, probes_fail_until=rounds)
            if call is not None and call.is_probe:
                probes.append(service.probed)
            time.sleep(0.01)
        return probes


def runner_of(mode: str) -> asyncio.Runner | None:
    """The event loop of a process that uses one."""
    return asyncio.Runner() if mode == "async" else None


def serve(mode: str) -> None:
    """Be one of the fleet."""
    fleet = Fleet(mode)
    while (order := receive(180)) is not None:
        tell("done", getattr(fleet, order[0])(*order[1:]))


def probe_and_hang(url: str, prefix: str, mode: str, lease: float) -> None:
    """Take the only permit, say since when at the earliest, and do not come back."""
    service = _probed(url, prefix, mode, lease)
    service.call(ConnectionError())
    while True:  # how long it is open counts from when the server hears of it
        moment = time.monotonic()
        with contextlib.suppress(CircuitOpen), service.breaker.guard() as call:
            if call.is_probe:
                tell("probing", moment)
                receive(60)
        time.sleep(0.01)


def probe_when_possible(url: str, prefix: str, mode: str, lease: float) -> float:
    """Call until a probe is let through; when that was."""
    service = _probed(url, prefix, mode, lease)
    receive(60)
    service.call()
    tell("refused", service.breaker.at().state)
    while True:
        with contextlib.suppress(CircuitOpen):
            call = service.call()
            if call is not None:
                return time.monotonic()
        time.sleep(0.005)


def _probed(url: str, prefix: str, mode: str, lease: float) -> Service:
    resilient.configure(url, prefix=prefix)
    half_open = HalfOpen(permits=1, lease=lease)
    return Service(
        runner_of(mode), "service", trip=Consecutive(1), open_for=0.1, half_open=half_open
    )


def in_another_time(url: str, prefix: str, mode: str, hours: float) -> dict[str, Any]:
    """Fail four times under a wall clock that is wrong, then wait until it has closed again."""
    honest = time.time
    # What reads the clock through the module, and what has it at hand already.
    time.time = clock.wall = lambda: honest() + 3600 * hours
    clock.SystemClock.wall = staticmethod(time.time)
    resilient.configure(url, prefix=prefix)
    options: dict[str, Any] = {"window": TimeWindow(60), "min_calls": 12, "open_for": 1}
    service = Service(runner_of(mode), "service", half_open=HalfOpen(permits=3), **options)
    for _ in range(4):
        service.call(ConnectionError())
    assert service.opened.wait(60)
    tell("open", service.breaker.at().metrics().reopens_in)
    probes = 0
    while not service.is_closed():
        call = service.call(seconds=0.1)
        probes += call is not None and call.is_probe
        time.sleep(0.01)
    return {"probes": probes, "failures": 4}
