"""`@idempotent`: what the body knows, what the options mean, and the controls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import idempotent
from resilient.engine.clock import ManualClock, SystemClock, installed
from tests.support.counting import Counting
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


@pytest.fixture(name="clock", autouse=True)
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock):
        yield clock


class Failed(Exception):
    """An outcome."""


@pytest.fixture(name="store")
def _store(backend: resilient.Backend) -> Counting:
    counting: Any = Counting(backend.idempotency)
    backend.idempotency = counting
    return counting  # type: ignore[no-any-return]  # it stands in for the store


# --- what the body knows


def test_the_body_knows_its_call(mode: Mode, backend: resilient.Backend) -> None:
    """Key, attempt, fence; outside there is none."""
    seen: list[Any] = []

    async def body(number: int) -> int:
        call = resilient.current_idempotency()
        call.check()
        seen.append((call.key, call.attempt, call.is_takeover, call.lost))
        if call.attempt == 1:
            raise ValueError("no")
        return call.fence

    call = mode.decorate(idempotent("k:{number}", ttl=60), body)
    with pytest.raises(ValueError, match="no"):
        mode.call(call, 7)
    assert mode.call(call, 7) > 0
    assert seen == [("k:7", 1, False, False), ("k:7", 2, False, False)]
    with pytest.raises(resilient.ConfigurationError, match="no idempotent call"):
        resilient.current_idempotency()


def test_calls_at_once_do_not_mix(mode: Mode) -> None:
    """Each thread and task has its own; an inner call hides the outer one."""

    async def inner(number: int) -> str:
        return resilient.current_idempotency().key

    inside = mode.decorate(idempotent("inner:{number}", ttl=60), inner)

    async def outer(number: int) -> list[str]:
        before = resilient.current_idempotency().key
        await mode.sleep(0.01)
        return [before, await mode.within(inside, number), resilient.current_idempotency().key]

    call = mode.decorate(idempotent("outer:{number}", ttl=60), outer)
    with installed(SystemClock()):
        answers = mode.together(*[partial(call, n) for n in range(8)])
    assert answers == [[f"outer:{n}", f"inner:{n}", f"outer:{n}"] for n in range(8)]


def test_derived_keys(mode: Mode) -> None:
    """The same in every attempt; another for another name, key or tenant."""
    seen: list[str] = []

    async def body(number: int) -> None:
        call = resilient.current_idempotency()
        seen.extend((call.derive("stripe"), call.derive("mail")))
        if call.attempt == 1:
            raise ValueError("no")
        with pytest.raises(resilient.ConfigurationError, match="name"):
            call.derive("")

    call = mode.decorate(idempotent("k:{number}", ttl=60), body)
    with pytest.raises(ValueError, match="no"):
        mode.call(call, 1)
    mode.call(call, 1)
    assert seen[:2] == seen[2:]
    with pytest.raises(ValueError, match="no"):
        mode.call(call, 2)
    with resilient.using("memory://", prefix="other:"), pytest.raises(ValueError, match="no"):
        mode.call(call, 1)
    assert len(set(seen)) == 6


def test_a_lost_call_says_so(mode: Mode, clock: ManualClock, backend: resilient.Backend) -> None:
    """`check()` stops an owner before an effect that it may no longer make."""
    seen: list[bool] = []

    async def body() -> None:
        clock.advance(31)
        call = resilient.current_idempotency()
        seen.append(call.lost)
        call.check()

    with pytest.raises(resilient.LeaseLost):
        mode.call(mode.decorate(idempotent("k", ttl=60), body))
    assert seen == [True]


# --- outcomes at hand


def test_outcomes_at_hand(mode: Mode, clock: ManualClock, store: Counting) -> None:
    """Replayed without a question for up to 30 s, each a copy; never beyond the TTL."""

    async def body(number: int, amount: int = 1) -> list[int]:
        return [number]

    call = mode.decorate(idempotent("k:{number}", ttl=40, local=2), body)
    first = mode.call(call, 1)
    first.append(7)
    asked = len(store.asked)
    assert [mode.call(call, 1) for _ in range(3)] == [[1]] * 3
    assert len(store.asked) == asked
    with pytest.raises(resilient.FingerprintMismatch):
        mode.call(call, 1, amount=2)
    clock.advance(31)
    assert mode.call(call, 1) == [1]
    assert len(store.asked) == asked + 1
    mode.call(call, 1)
    assert len(store.asked) == asked + 1
    clock.advance(9.5)
    mode.call(call, 1)
    assert store.asked[-1] == "complete", "its time was over"
    for number in range(2, 12):
        mode.call(call, number)
    before = len(store.asked)
    for number in range(2, 12):
        mode.call(call, number)
    assert len(store.asked) - before >= 8, "no more than two are kept"


def test_what_is_at_hand_is_forgotten_too(mode: Mode) -> None:
    """`forget` in this process is heard of at once."""
    ran: list[int] = []

    async def body() -> int:
        ran.append(1)
        return len(ran)

    call = mode.decorate(idempotent("k", ttl=60, local=10), body)
    assert [mode.call(call), mode.call(call)] == [1, 1]
    assert mode.call(idempotent.of(call).forget) is True
    assert mode.call(call) == 2


# --- controls


def test_controls(mode: Mode) -> None:
    """Status, result, forget, and the function itself, of a bound method as well."""

    class Bank:
        async def charge(self, order: str) -> Any:
            if order == "bad":
                raise Failed(order)
            if order == "odd":
                return object()
            if order == "running":
                status = await mode.within(idempotent.of(bank.charge).status, order)
                with pytest.raises(resilient.CallInProgress):
                    await mode.within(idempotent.of(bank.charge).result, order)
                return status.state, str(os.getpid()) in status.owner
            return [order]

    Bank.charge = mode.decorate(  # type: ignore[method-assign]  # as a patch does
        idempotent("bank:{order}", ttl=60, replay_errors=(Failed,)), Bank.charge
    )
    bank: Any = Bank()
    controls: Any = idempotent.of(bank.charge)
    assert controls.key("a/b") == "bank:a/b"
    assert mode.call(controls.status, "A") is None
    with pytest.raises(resilient.ResultUnavailable, match="has not been called"):
        mode.call(controls.result, "A")
    assert mode.call(controls.unprotected, "A") == ["A"]
    assert mode.call(controls.status, "A") is None
    mode.call(bank.charge, "A")
    with pytest.raises(Failed):
        mode.call(bank.charge, "bad")
    mode.call(bank.charge, "odd")
    assert mode.call(bank.charge, "running") == ("running", True)
    states = [mode.call(controls.status, order).state for order in ("A", "bad", "odd")]
    assert states == ["completed", "failed", "unavailable"]
    assert mode.call(controls.result, "A") == ["A"]
    with pytest.raises(Failed):
        mode.call(controls.result, "bad")
    with pytest.raises(resilient.ResultUnavailable, match="object"):
        mode.call(controls.result, "odd")
    assert [mode.call(controls.forget, "A") for _ in range(2)] == [True, False]
    assert mode.call(controls.status, "A") is None
