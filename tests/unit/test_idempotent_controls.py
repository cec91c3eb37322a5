"""`@idempotent`: what the body knows, what the options mean, and the controls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import idempotent
from resilient.engine.clock import ManualClock, SystemClock, installed
from resilient.errors import BackendError
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


@pytest.fixture(name="clock", autouse=True)
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock):
        yield clock


class Failed(Exception):
    """An outcome."""


class Counting:
    """Counts the store's operations, and fails them when told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: list[str] = []
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            if name in self.failing:
                raise BackendError("away", transient=False)
            return await operation(*args, **kwargs)

        return counted


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


# --- an owner that died


def test_an_unknown_outcome_is_reported(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """Every caller is told, until somebody has looked and forgets the key."""
    runs: list[int] = []

    async def body(number: int) -> str:
        runs.append(number)
        return "done"

    call = mode.decorate(idempotent("k:{number}", ttl=600, on_takeover="raise"), body)
    backend.sync.idempotency.claim("k:1", owner="elsewhere", lease=30, ttl=600)
    clock.advance(31)
    for _ in range(2):
        with pytest.raises(resilient.OutcomeUnknown, match="attempt 1") as info:
            mode.call(call, 1)
        assert info.value.key == "k:1"
    controls = idempotent.of(call)
    with pytest.raises(resilient.OutcomeUnknown):
        mode.call(controls.result, 1)
    status = mode.call(controls.status, 1)
    assert (status.state, status.attempt) == ("unknown", 1)
    assert mode.call(controls.forget, 1) is True
    assert mode.call(call, 1) == "done"
    assert runs == [1]


def test_who_waits_for_the_dead_is_told(mode: Mode, backend: resilient.Backend) -> None:
    """One that waits when the lease runs out gets the report as well."""

    async def body() -> str:
        return "done"

    call = mode.decorate(idempotent("k", ttl=600, on_takeover="raise", wait=10), body)
    with installed(SystemClock()):
        backend.sync.idempotency.claim("k", owner="elsewhere", lease=0.2, ttl=600)
        answers = mode.together(*[call] * 5, return_exceptions=True)
    assert [type(answer) for answer in answers] == [resilient.OutcomeUnknown] * 5


def test_a_failed_call_is_not_unknown(mode: Mode) -> None:
    """What its owner itself gave up is free."""
    failing = [ValueError("no")]

    async def body() -> str:
        if failing:
            raise failing.pop()
        return "done"

    call = mode.decorate(idempotent("k", ttl=600, on_takeover="raise"), body)
    with pytest.raises(ValueError, match="no"):
        mode.call(call)
    assert mode.call(call) == "done"


def test_takeover_is_known_to_the_body(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """`is_takeover` tells it to look first."""

    async def body() -> tuple[int, bool]:
        call = resilient.current_idempotency()
        return call.attempt, call.is_takeover

    backend.sync.idempotency.claim("k", owner="elsewhere", lease=30, ttl=600)
    clock.advance(31)
    assert mode.call(mode.decorate(idempotent("k", ttl=600), body)) == (2, True)


# --- interruptions


@pytest.mark.parametrize("on_cancel", ["release", "keep"])
def test_an_interrupted_call(mode: Mode, clock: ManualClock, on_cancel: Any) -> None:
    """Its key is free at once, or when its lease is over."""
    ran: list[str] = []

    async def body(name: str) -> str:
        ran.append(name)
        if name == "first":
            raise KeyboardInterrupt
        return name

    decorator = idempotent("k", ttl=60, wait=0, fingerprint=(), on_cancel=on_cancel)
    call = mode.decorate(decorator, body)
    if mode.is_async:
        # A task that raises KeyboardInterrupt ends its loop as well.
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(call("first"))
    else:
        with pytest.raises(KeyboardInterrupt):
            call("first")
    if on_cancel == "keep":
        with pytest.raises(resilient.CallInProgress, match=str(os.getpid())):
            mode.call(call, "second")
        clock.advance(31)
    assert mode.call(call, "third") == "third"
    assert ran == ["first", "third"]


@pytest.mark.parametrize("on_cancel", ["release", "keep"])
def test_a_cancelled_call(on_cancel: Any) -> None:
    """The same for a task."""

    async def main() -> None:
        ran: list[int] = []

        @idempotent("k", ttl=60, wait=0, lease=0.4, on_cancel=on_cancel)
        async def body() -> str:
            ran.append(1)
            if len(ran) == 1:
                await asyncio.sleep(60)
            return "done"

        task = asyncio.create_task(body())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if on_cancel == "keep":
            with pytest.raises(resilient.CallInProgress):
                await body()
            await asyncio.sleep(0.45)
        assert await body() == "done"

    with installed(SystemClock()):
        asyncio.run(main())


def test_a_call_that_took_effect_is_never_given_up(mode: Mode, store: Counting) -> None:
    """Whatever happens to its completion: nobody runs it again inside the lease."""
    ran: list[int] = []

    async def body() -> str:
        ran.append(1)
        return "done"

    call = mode.decorate(idempotent("k", ttl=60, wait=0), body)
    store.failing.add("complete")
    with pytest.raises(BackendError) as info:
        mode.call(call)
    assert "has taken effect" in info.value.__notes__[0]
    store.failing.clear()
    with pytest.raises(resilient.CallInProgress):
        mode.call(call)
    assert ran == [1]
    assert "abandon" not in store.asked


def test_without_a_backend_by_choice(mode: Mode, store: Counting) -> None:
    """`on_backend_error="run"`: before the body and after it, the answer is the caller's."""
    ran: list[int] = []

    async def body() -> str:
        ran.append(1)
        return "done"

    call = mode.decorate(idempotent("k", ttl=60, on_backend_error="run"), body)
    for failing in ("claim", "complete"):
        store.failing = {failing}
        assert mode.call(call) == "done"
    assert ran == [1, 1]


# --- waiting together


def test_duplicates_of_a_process_share_one_wait(mode: Mode, store: Counting) -> None:
    """40 duplicates: one asks the backend until there is an outcome, which all of them get."""
    ran: list[int] = []

    async def body() -> dict[str, int]:
        ran.append(1)
        await mode.sleep(0.25)
        return {"n": 1}

    call = mode.decorate(idempotent("k", ttl=60, wait=20), body)
    with installed(SystemClock()):
        answers = mode.together(*[call] * 40)
    assert ran == [1]
    assert answers == [{"n": 1}] * 40
    assert len({id(answer) for answer in answers}) == 40, "each its own copy"
    # Each asks once, unless it comes when somebody waits already; then the leader, twice.
    assert store.asked.count("claim") <= 40 + 2 + 1


def test_a_new_leader_is_elected(mode: Mode, store: Counting) -> None:
    """When the owner fails, one of those who wait makes the call, and the rest wait for it."""
    ran: list[int] = []

    async def body() -> str:
        ran.append(1)
        number = len(ran)
        await mode.sleep(0.1)
        if number < 3:
            raise ValueError(number)
        return "done"

    call = mode.decorate(idempotent("k", ttl=60, wait=20), body)
    with installed(SystemClock()):
        answers = mode.together(*[call] * 12, return_exceptions=True)
    assert sorted(map(str, answers)) == ["1", "2", *["done"] * 10]
    assert len(ran) == 3


def test_a_follower_keeps_to_its_own_patience(mode: Mode) -> None:
    """One that will wait for less is refused while the others go on waiting."""
    body_seconds = 0.8

    async def body() -> str:
        await mode.sleep(body_seconds)
        return "done"

    patient = mode.decorate(idempotent("k", ttl=60, wait=20), body)
    hasty = mode.decorate(idempotent("k", ttl=60, wait=0.2), body)

    async def late() -> Any:
        await mode.sleep(0.1)
        return await mode.within(hasty)

    delayed = mode.function(late)
    with installed(SystemClock()):
        answers = mode.together(patient, patient, delayed, delayed, return_exceptions=True)
    assert answers[:2] == ["done"] * 2
    assert [type(each) for each in answers[2:]] == [resilient.CallInProgress] * 2


def test_a_cancelled_leader_leaves_its_followers_another() -> None:
    """Cancelled while it waits for all: they elect the next."""

    async def main() -> None:
        @idempotent("k", ttl=60, wait=20)
        async def body() -> str:
            await asyncio.sleep(0.3)
            return "done"

        owner = asyncio.create_task(body())
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(body()) for _ in range(4)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        assert await asyncio.gather(*waiting[1:], owner) == ["done"] * 4
        assert waiting[0].cancelled()

    with installed(SystemClock()):
        asyncio.run(main())


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
