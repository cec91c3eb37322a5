"""What the library stores under a lock: refused once the lock is lost, by the lock's own server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import resilient
from resilient.errors import LeaseLost
from tests.support.fixtures import Target
from tests.support.modes import Mode


@pytest.fixture
def backend(target: Target, mode: Mode) -> Iterator[Any]:
    with resilient.using(target.url, prefix=target.prefix) as backend:
        yield backend
        if mode.is_async:
            mode.call(resilient.aclose)


def take_away(backend: Any) -> None:
    """End the lock behind its holder's back, so that only the server knows."""
    backend.sync.locks.force_release("k")


def locked(mode: Mode, body: Callable[..., Any]) -> Callable[..., Any]:
    return mode.decorate(resilient.distributed_lock("k", ttl=60), body)


def test_a_value_computed_under_a_lost_lock_is_not_cached(backend: Any, mode: Mode) -> None:
    """The lock reports its loss, and the next caller computes again."""
    computed: list[int] = []

    async def compute() -> int:
        computed.append(1)
        if len(computed) == 1:
            take_away(backend)
        return len(computed)

    cached = mode.decorate(resilient.cached("value", ttl=60), compute)

    async def body() -> Any:
        return await mode.within(cached)

    section = locked(mode, body)
    with pytest.raises(LeaseLost):
        mode.call(section)
    assert (mode.call(section), mode.call(section)) == (2, 2)


def test_an_outcome_under_a_lost_lock_is_not_recorded(backend: Any, mode: Mode) -> None:
    """The call of a stale holder does not count; its successor makes it."""
    runs: list[int] = []

    async def charge(order: int) -> int:
        runs.append(order)
        if len(runs) == 1:
            take_away(backend)
        return len(runs)

    charged = mode.decorate(resilient.idempotent("charge:{order}", ttl=60, lease=30), charge)

    async def body() -> Any:
        return await mode.within(charged, 7)

    section = locked(mode, body)
    with pytest.raises(LeaseLost, match="'k'"):
        mode.call(section)
    assert (mode.call(section), mode.call(section)) == (2, 2)
    assert runs == [7, 7]


@dataclass
class Count:
    rows: int = 0


def test_a_checkpoint_under_a_lost_lock_is_not_saved(backend: Any, mode: Mode) -> None:
    """The job of a stale holder stops at the save, and its successor goes on from the last one."""
    stopped = [False]

    def job_body(job: Any) -> int:
        for row in job.iterate(range(4)):
            if row == 2 and not stopped[0]:
                stopped[0] = True
                take_away(backend)
            job.state.rows += 1
        return int(job.state.rows)

    async def ajob_body(job: Any) -> int:
        async for row in job.iterate(range(4)):
            if row == 2 and not stopped[0]:
                stopped[0] = True
                take_away(backend)
            job.state.rows += 1
        return int(job.state.rows)

    decorate = resilient.checkpointed("job", state=Count, version="1", every=1, lease=30, ttl=60)
    if mode.is_async:
        ajob_body.__annotations__["job"] = resilient.AsyncJob[Count]
        job: Any = decorate(ajob_body)
    else:
        job_body.__annotations__["job"] = resilient.Job[Count]
        job = decorate(job_body)

    async def body() -> Any:
        return await mode.within(job)

    section = locked(mode, body)
    with pytest.raises(LeaseLost, match="'k'"):
        mode.call(section)
    assert mode.call(section) == 4


@pytest.mark.parametrize("what", ["step", "end"])
def test_what_a_job_does_under_a_lost_lock_is_not_stored(
    backend: Any, mode: Mode, what: str
) -> None:
    """The steps and the result of a stale holder's job are not its successor's."""
    runs: list[str] = []

    def once(name: str) -> str:
        runs.append(name)
        if len(runs) == 1:
            take_away(backend)
        return f"{name} {len(runs)}"

    def job_body(job: resilient.Job) -> str:
        return job.step("a", once, "step") if what == "step" else once("end")

    async def ajob_body(job: resilient.AsyncJob) -> str:
        return await job.step("a", once, "step") if what == "step" else once("end")

    decorate = resilient.checkpointed("job", version="1", lease=30, ttl=60)
    job: Any = decorate(ajob_body) if mode.is_async else decorate(job_body)

    async def body() -> Any:
        return await mode.within(job)

    section = locked(mode, body)
    with pytest.raises(LeaseLost, match="'k'"):
        mode.call(section)
    assert (mode.call(section), mode.call(section)) == (f"{what} 2", f"{what} 2")


def test_an_outer_lock_counts_too(backend: Any, mode: Mode) -> None:
    """Every lock around a write must be held, not the innermost alone."""
    inner = resilient.lock("inner", ttl=60)

    async def fill() -> int:
        take_away(backend)
        return 1

    charged = mode.decorate(resilient.idempotent("outer", ttl=60, lease=30), fill)

    async def body() -> None:
        if mode.is_async:
            async with inner:
                await mode.within(charged)
        else:
            with inner:
                await mode.within(charged)

    with pytest.raises(LeaseLost, match="'k'"):
        mode.call(locked(mode, body))
    assert backend.sync.locks.holder("inner") is None


def test_what_is_written_after_a_release_needs_no_lock(backend: Any, mode: Mode) -> None:
    """A lock that was given back early is nobody's business any more."""

    async def value() -> int:
        return 3

    charged = mode.decorate(resilient.idempotent("after", ttl=60, lease=30), value)

    async def body() -> Any:
        await mode.within(resilient.current_lease().release)
        return await mode.within(charged)

    assert mode.call(locked(mode, body)) == 3


def test_a_lock_elsewhere_is_looked_at_here(mode: Mode) -> None:
    """Where the lock lies on another server, what its holder knows of it decides."""

    async def value() -> int:
        resilient.current_lease().lose("a test says so")
        return 1

    with resilient.using("memory://", locks="memory://"):
        charged = mode.decorate(resilient.idempotent("elsewhere", ttl=60, lease=30), value)

        async def body() -> None:
            await mode.within(charged)

        with contextlib.suppress(LeaseLost):
            mode.call(locked(mode, body))
        status = mode.call(mode.decorate(resilient.idempotent("elsewhere", ttl=60), _two))
    assert status == 2


async def _two() -> int:
    return 2
