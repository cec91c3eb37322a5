"""`consistency=`: who is asked before a call, and told after it."""

from __future__ import annotations

import contextlib

import pytest

import resilient
from resilient import BackendError, CircuitBreaker, CircuitOpen, Consecutive
from resilient.engine.budget import remaining
from resilient.engine.circuits.registry import FLUSH_BUDGET
from resilient.engine.clock import ManualClock
from tests.support.flaky import flaky_memory
from tests.support.guarded import fail, succeed
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


def test_strict_asks_and_reports_each_call(mode: Mode, clock: ManualClock) -> None:
    """Two requests a call; a failure elsewhere is known to the very next one."""
    with resilient.using("memory://") as backend:
        breaker = CircuitBreaker("s", trip=Consecutive(2), consistency="strict")
        succeed(mode, breaker)
        fail(mode, breaker)
        store = backend.sync.circuits
        assert store.view("s")[3:5] == (2, 1)
        store.record("s", rules=breaker.rules, outcomes="1")
        with pytest.raises(CircuitOpen):
            succeed(mode, breaker)


AWAY = BackendError("the server is away")
ALL = {"admit", "record", "view"}


class Stop(BaseException):
    """Ends a call from outside."""


@pytest.mark.parametrize(
    ("error", "broken"), [(AWAY, ALL), (AWAY, ALL - {"admit"}), (Stop(), {"record"})]
)
def test_strict_judges_here_what_the_server_may_not_have_heard(
    mode: Mode, clock: ManualClock, error: BaseException, broken: set[str]
) -> None:
    """A failure whose report fails, or is cut short, opens the circuit in this process."""
    with flaky_memory("circuits") as (flaky, _):
        breaker = CircuitBreaker("s", trip=Consecutive(2), consistency="strict")
        fail(mode, breaker)
        succeed(mode, breaker)
        flaky.broken, flaky.error = broken, error
        for _ in range(2):
            with contextlib.suppress(Stop):
                fail(mode, breaker)
        flaky.broken, flaky.error = ALL, AWAY
        with pytest.raises(CircuitOpen):
            succeed(mode, breaker)


def test_a_first_call_waits_no_longer_for_a_listener_than_for_an_answer(
    mode: Mode, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have one budget."""
    left: list[float] = []
    with flaky_memory("circuits") as (flaky, backend):
        monkeypatch.setattr(backend.hub, "start", lambda: left.append(remaining() or 0.0))
        succeed(mode, CircuitBreaker("s"))
    assert [0 < each <= FLUSH_BUDGET for each in (*left, flaky.budgets["view"])] == [True, True]


def test_local_tells_nobody(mode: Mode, clock: ManualClock) -> None:
    """A breaker of this process alone: nothing is stored."""
    with resilient.using("memory://") as backend:
        breaker = CircuitBreaker("s", trip=Consecutive(2), consistency="local")
        fail(mode, breaker, 2)
        with pytest.raises(CircuitOpen):
            succeed(mode, breaker)
        assert backend.sync.circuits.view("s").generation == 0
