"""`@idempotent` when an owner dies, is cancelled or takes long, and who waits for it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import resilient
from resilient import idempotent
from resilient.engine.clock import ManualClock, SystemClock, installed
from resilient.errors import BackendError
from tests.support.counting import Counting
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


@pytest.fixture(name="store")
def _store(backend: resilient.Backend) -> Counting:
    counting: Any = Counting(backend.idempotency)
    backend.idempotency = counting
    return counting  # type: ignore[no-any-return]  # it stands in for the store


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
