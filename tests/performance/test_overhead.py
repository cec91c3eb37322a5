"""What a decorator adds to a call over the memory backend, in ratios of the same run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import tenacity

import resilient
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.protocols.values import Encoded
from tests.performance.ratios import Call, Costs
from tests.support.modes import Mode

Plan = Callable[[resilient.Backend, str], Coroutine[Any, Any, Any]]
NUMBERS = itertools.count()


@pytest.fixture(autouse=True, name="backend")
def _backend() -> Iterator[resilient.Backend]:
    with resilient.using("memory://") as backend:
        yield backend


def bare(n: int) -> int:
    """What is decorated."""
    return n


async def abare(n: int) -> int:
    """The same, async."""
    return n


def job(job: resilient.Job, n: int) -> int:
    """A job that does nothing."""
    return n


async def ajob(job: resilient.AsyncJob, n: int) -> int:
    """The same, async."""
    return n


def body(mode: Mode) -> Call:
    """The function of this mode."""
    return abare if mode.is_async else bare


def fresh(function: Callable[[int], Any], mode: Mode) -> Call:
    """The function with another number each time."""
    if not mode.is_async:
        return lambda _: function(next(NUMBERS))

    async def call(_: int) -> Any:
        return await function(next(NUMBERS))

    return call


def tenacious(mode: Mode) -> Call:
    """What all is measured by: tenacity around a function that succeeds."""
    decorated: Call = tenacity.retry(stop=tenacity.stop_after_attempt(5))(body(mode))
    return decorated


def _checkpointed(mode: Mode) -> Call:
    decorate = resilient.checkpointed("k:{n}")
    return decorate(ajob) if mode.is_async else decorate(job)


WHOLE: dict[str, Callable[[Mode], Call]] = {
    "retry": lambda mode: resilient.retry(on=OSError)(body(mode)),
    "breaker": lambda mode: resilient.circuit_breaker("k")(body(mode)),
    "cached hit": lambda mode: resilient.cached("{n}", ttl=60)(body(mode)),
    "idempotent replay": lambda mode: resilient.idempotent("k:{n}", ttl=60)(body(mode)),
    "finished job": _checkpointed,
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_call_adds_less_than_half_of_tenacity(name: str, mode: Mode) -> None:
    """All that the decorator adds, the backend's work included, is at most half of tenacity's."""
    costs = Costs({"bare": body(mode), "tenacity": tenacious(mode), "ours": WHOLE[name](mode)})

    def ratio(costs: Costs) -> float:
        return (costs["ours"] - costs["bare"]) / (costs["tenacity"] - costs["bare"])

    assert costs.settle(ratio, 0.5) <= 0.5


async def lock_operations(backend: resilient.Backend, key: str) -> None:
    """What a locked call asks of the store."""
    assert backend.locks is not None
    await backend.locks.acquire(key, ttl=30, owner=key)
    await backend.locks.release(key, owner=key)


async def claim_operations(backend: resilient.Backend, key: str) -> None:
    """What the first call of a key asks of it."""
    store = backend.idempotency
    assert store is not None
    await store.claim(key, owner=key, lease=30, ttl=60, fingerprint="f")
    await store.complete(key, owner=key, result=Encoded(b"7"), ttl=60)


async def job_operations(backend: resilient.Backend, key: str) -> None:
    """What a job without steps and items asks of it."""
    store = backend.checkpoints
    assert store is not None
    started: Any = await store.start(key, owner=key, lease=30, ttl=60)
    await store.finish(key, Encoded(b"7"), fence=started.fence, ttl=60)


LEASED: dict[str, tuple[Callable[[Mode], Call], Plan, float]] = {
    "lock": (
        lambda mode: resilient.distributed_lock("k:{n}")(body(mode)),
        lock_operations,
        0.5,
    ),
    "idempotent first": (
        lambda mode: fresh(resilient.idempotent("k:{n}", ttl=60)(body(mode)), mode),
        claim_operations,
        0.5,
    ),
    # A new job has a state, a tree of loops and steps: made once for what are many items.
    "job": (lambda mode: fresh(_checkpointed(mode), mode), job_operations, 0.75),
}


@pytest.mark.parametrize("name", LEASED)
def test_a_lease_adds_less_than_half_of_tenacity_to_its_operations(
    name: str, mode: Mode, backend: resilient.Backend
) -> None:
    """What holds a lease adds at most half of tenacity's to the backend's own two operations."""
    decorated, plan, limit = LEASED[name]

    def operations(_: int) -> None:
        drive(plan(backend, f"o:{next(NUMBERS)}"))

    async def aoperations(_: int) -> None:
        await adrive(plan(backend, f"o:{next(NUMBERS)}"))

    costs = Costs(
        {
            "bare": body(mode),
            "tenacity": tenacious(mode),
            "operations": aoperations if mode.is_async else operations,
            "ours": decorated(mode),
        }
    )

    def ratio(costs: Costs) -> float:
        added = costs["ours"] - costs["bare"] - costs["operations"]
        return added / (costs["tenacity"] - costs["bare"])

    assert costs.settle(ratio, limit) <= limit


def test_a_hit_is_as_cheap_as_a_dictionary() -> None:
    """A hit in the process's own layer costs at most five hits of `functools.lru_cache`."""
    costs = Costs(
        {
            "lru_cache": functools.lru_cache(bare),
            "ours": resilient.cached("{n}", ttl=60)(bare),
        },
        calls=2000,
    )
    assert costs.settle(lambda costs: costs["ours"] / costs["lru_cache"], 5) <= 5


def test_a_success_is_not_worth_a_plan(mode: Mode) -> None:
    """A retried call that succeeds costs at most ten bare ones."""
    costs = Costs({"bare": body(mode), "ours": resilient.retry(on=OSError)(body(mode))}, calls=2000)
    assert costs.settle(lambda costs: costs["ours"] / costs["bare"], 10) <= 10


def test_a_closed_circuit_is_not_worth_a_plan(mode: Mode) -> None:
    """A call through a closed circuit costs at most twelve bare ones."""
    guarded = resilient.circuit_breaker("k")(body(mode))
    costs = Costs({"bare": body(mode), "ours": guarded}, calls=2000)
    assert costs.settle(lambda costs: costs["ours"] / costs["bare"], 12) <= 12
