"""`on_backend_error="raise"`: no call runs that may not have heard of an open circuit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient import (
    BackendError,
    CircuitBreaker,
    CircuitOpen,
    ConfigurationError,
    Consecutive,
    circuit_breaker,
)
from resilient.engine.circuits.outcomes import FAILURE, SUCCESS
from resilient.engine.clock import ManualClock
from tests.support.modes import Mode
from tests.support.shared_circuits import Shared, Watched, enter, fail, known
from tests.support.waiting import until


@pytest.fixture(name="shared")
def _shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


def test_nothing_runs_while_the_backend_is_away(
    mode: Mode, shared: Shared, clock: ManualClock
) -> None:
    """Decorated or by hand, from the first request on that is not answered, until it is back."""
    calls = 0

    async def call() -> str:
        nonlocal calls
        calls += 1
        return "hello"

    backend = shared.process()
    guarded = mode.decorate(circuit_breaker("s", on_backend_error="raise", backend=backend), call)
    breaker = CircuitBreaker("other", on_backend_error="raise", backend=backend)
    plain = mode.decorate(circuit_breaker("plain", backend=backend), call)
    assert [mode.call(guarded), mode.call(plain)] == ["hello"] * 2
    shared.store.is_away = True
    for _ in range(2):
        with pytest.raises(BackendError, match="'other'"):
            enter(mode, breaker)
        with pytest.raises(BackendError, match="'s' is away, and on_backend_error"):
            mode.call(guarded)
    assert calls == 2
    assert mode.call(plain) == "hello"
    shared.store.is_away = False
    clock.advance(1)
    until(lambda: not backend.outage.is_on)
    assert mode.call(guarded) == "hello"
    enter(mode, breaker)


@pytest.mark.parametrize("consistency", ["eventual", "strict"])
def test_a_permit_that_nobody_gave_is_none(
    mode: Mode, shared: Shared, clock: ManualClock, consistency: str
) -> None:
    """The backend goes away while the circuit is open: who would probe is told so."""
    breaker = CircuitBreaker(
        "s",
        trip=Consecutive(1),
        on_backend_error="raise",
        consistency=consistency,  # type: ignore[arg-type]  # it is one of them
        backend=shared.process(),
    )
    fail(mode, breaker)
    until(lambda: shared.store.outcomes == ["1"])
    with pytest.raises(CircuitOpen):
        enter(mode, breaker)
    clock.advance(30.1)
    shared.store.is_away = True
    with pytest.raises(BackendError):
        enter(mode, breaker)


class Deaf(Watched):
    """A store that is there, but does not hear what has come of calls."""

    def send(self, command: Any) -> Any:
        """Answer a blocking caller."""
        if command[0] == "record":
            raise BackendError("the server is away")
        return super().send(command)


@pytest.mark.parametrize("on_backend_error", ["local", "raise"])
def test_a_trip_that_the_backend_has_not_heard_of(
    mode: Mode,
    shared: Shared,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    on_backend_error: Any,
) -> None:
    """It counts here. Who would probe tells of it first: unheard, who insists does not run."""
    backend = shared.process()
    breaker = CircuitBreaker(
        "s", trip=Consecutive(1), on_backend_error=on_backend_error, backend=backend
    )
    enter(mode, breaker)
    circuits: Any = known(backend)
    circuits.store = Deaf(shared.memory.require("circuits"))
    fail(mode, breaker)
    until(lambda: backend.outage.is_on)
    monkeypatch.setattr(type(circuits), "due", lambda _: None)  # it has not come to it again yet
    clock.advance(1)
    until(lambda: not backend.outage.is_on)
    with pytest.raises(CircuitOpen):
        enter(mode, breaker)

    clock.advance(30)
    if on_backend_error == "raise":
        with pytest.raises(BackendError, match="'s' is away, and on_backend_error"):
            enter(mode, breaker)
    else:
        fail(mode, breaker)  # a probe, by its own judgement
    circuits.store = shared.store
    clock.advance(30)
    until(lambda: not backend.outage.is_on)
    with pytest.raises(CircuitOpen):  # as it is for everybody from now on
        enter(mode, breaker)
    assert shared.store.outcomes == [SUCCESS + FAILURE]


def test_what_asks_no_backend_cannot_insist_on_it() -> None:
    """Neither can an option have another value."""
    with pytest.raises(ConfigurationError, match="on_backend_error"):
        CircuitBreaker("s", on_backend_error="raise", consistency="local")
    with pytest.raises(ConfigurationError, match="on_backend_error='run'"):
        circuit_breaker("s", on_backend_error="run")  # type: ignore[call-overload]  # that is shown
