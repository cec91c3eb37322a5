"""What the processes of the breaker tests do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import resilient
from resilient import CircuitBreaker, CircuitOpen, CircuitState, Consecutive, FailureRate, HalfOpen
from resilient.policies.circuit_breaker import Call
from tests.support.processes import receive, tell


class Service:
    """A breaker, used by `with` or by `async with`."""

    def __init__(self, url: str, prefix: str, mode: str, **options: Any) -> None:
        resilient.configure(url, prefix=prefix)
        self.breaker = CircuitBreaker("service", **options)
        self._runner = asyncio.Runner() if mode == "async" else None

    def call(self, error: Exception | None = None, seconds: float = 0.0) -> Call | None:
        """One guarded call, which fails by the error; `None` if it was refused."""
        self._let_through: Call | None = None
        with contextlib.suppress(CircuitOpen, ConnectionError):
            if self._runner is not None:
                self._runner.run(self._acall(error, seconds))
            else:
                self._call(error, seconds)
        return self._let_through

    def _call(self, error: Exception | None, seconds: float) -> None:
        with self.breaker.guard() as self._let_through:
            time.sleep(seconds)
            if error is not None:
                raise error

    async def _acall(self, error: Exception | None, seconds: float) -> None:
        async with self.breaker.guard() as self._let_through:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error

    def is_closed(self) -> bool:
        """As this process knows it."""
        return self.breaker.at().state is CircuitState.CLOSED


def see_it_open(url: str, prefix: str, mode: str, trips: bool) -> list[float]:
    """Use the service until it is open, round after round; when that was seen, by one clock.

    The one that trips it says when: the moment before its last failure.
    """
    service = Service(
        url, prefix, mode, trip=Consecutive(3), open_for=0.5, half_open=HalfOpen(permits=1)
    )
    seen = []
    for number in range(3):
        while service.call() is None or not service.is_closed():
            time.sleep(0.01)
        tell("using", number)
        receive(60)
        if trips:
            # The others' successes would come in between, were they still calling.
            service.call(ConnectionError())
            service.call(ConnectionError())
            moment = time.monotonic()
            service.call(ConnectionError())
            seen.append(moment)
        else:
            while service.is_closed():
                time.sleep(0.001)
            seen.append(time.monotonic())
        tell("seen", number)
        receive(60)
    return seen


def share_failures(url: str, prefix: str, mode: str) -> int:
    """Nine calls that fail, from a common start; how many reached the service."""
    service = Service(url, prefix, mode, trip=FailureRate(0.5), min_calls=10, open_for=60)
    assert service.is_closed()
    tell("waiting")
    receive(60)
    reached = 0
    for _ in range(9):
        reached += service.call(ConnectionError()) is not None
        time.sleep(0.05)
    return reached


def hammer(url: str, prefix: str, mode: str, permits: int) -> tuple[int, int]:
    """Call an open circuit until it has closed again; the probes of this process, and refusals."""
    service = Service(
        url, prefix, mode, trip=Consecutive(1), open_for=1, half_open=HalfOpen(permits=permits)
    )
    while service.call() is not None:
        time.sleep(0.001)
    tell("open")
    probes = refused = 0
    while not service.is_closed():
        call = service.call(seconds=0.2)
        probes += call is not None and call.is_probe
        refused += call is None
        time.sleep(0.001)
    return probes, refused


def probe_and_hang(url: str, prefix: str, mode: str, lease: float) -> None:
    """Take the only permit and do not come back."""
    service = _probed(url, prefix, mode, lease)
    service.call(ConnectionError())
    time.sleep(0.15)
    with service.breaker.guard() as call:
        tell("probing", call.is_probe)
        receive(60)


def probe_when_possible(url: str, prefix: str, mode: str, lease: float) -> float:
    """Call until a probe is let through; when that was."""
    service = _probed(url, prefix, mode, lease)
    service.call()
    tell("refused", service.breaker.at().state)
    while True:
        with contextlib.suppress(CircuitOpen):
            call = service.call()
            if call is not None:
                return time.monotonic()
        time.sleep(0.005)


def _probed(url: str, prefix: str, mode: str, lease: float) -> Service:
    half_open = HalfOpen(permits=1, lease=lease)
    return Service(url, prefix, mode, trip=Consecutive(1), open_for=0.1, half_open=half_open)
