"""A service behind a breaker, as the tests of `@circuit_breaker` use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitState, circuit_breaker
from tests.support.modes import Mode

__all__ = ["Service", "by_hand", "fail", "state", "succeed", "trip"]


class Service:
    """What is guarded: it fails while it is told to, and counts its calls."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.error: BaseException | None = None
        self.calls = 0

    def guarded(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """The service's call behind a breaker of these options."""

        async def call(tenant: str = "acme") -> str:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return f"hello {tenant}"

        return self.mode.decorate(circuit_breaker(*(args or ("service",)), **options), call)

    def fails(self, call: Callable[..., Any], times: int, *args: Any) -> None:
        """Call it while it is failing."""
        self.error = ConnectionError("reset")
        for _ in range(times):
            with pytest.raises(ConnectionError):
                self.mode.call(call, *args)
        self.error = None

    def succeeds(self, call: Callable[..., Any], times: int, *args: Any) -> None:
        """Call it while it is well."""
        self.error = None
        for _ in range(times):
            assert self.mode.call(call, *args).startswith("hello")


def state(call: Callable[..., Any], *args: Any) -> CircuitState:
    """The state of the circuit behind a call, as this process knows it."""
    return circuit_breaker.of(call).at(*args).state


def trip(mode: Mode, breaker: CircuitBreaker, **fields: Any) -> None:
    """Let one guarded block fail."""
    with pytest.raises(ConnectionError), mode.entered(breaker.guard(**fields)):
        raise ConnectionError


def fail(mode: Mode, breaker: CircuitBreaker, times: int = 1, error: Any = None) -> None:
    """So many guarded blocks that fail."""
    for _ in range(times):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard()):
            raise error or ConnectionError


def succeed(mode: Mode, breaker: CircuitBreaker, times: int = 1) -> None:
    """So many guarded blocks that end well."""
    for _ in range(times):
        with mode.entered(breaker.guard()):
            pass


def by_hand(
    mode: Mode, breaker: CircuitBreaker, name: str, *, tenant: str | None = None, **options: Any
) -> Any:
    """A control of its circuit, or of a tenant's, in the form of this mode."""
    circuit = breaker.at() if tenant is None else breaker.at(tenant=tenant)
    control: Callable[..., Any] = getattr(circuit, f"a{name}" if mode.is_async else name)
    return mode.call(control, **options)
