"""A thread that is interrupted (Ctrl-C, a time limit by a signal), at whatever moment.

What it held may have to wait for the end of a TTL; but nothing is renewed for it, and nobody else
is kept waiting by what it has left behind.
"""

from __future__ import annotations

import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import Job, bulkhead, cached, checkpointed, idempotent, lock, lock_all
from resilient.backends.sqlite import SqliteBackend
from resilient.engine.flights import Flight
from resilient.policies.distributed_lock import all_locks
from tests.support.interrupts import at_each_moment

pytestmark = [
    # A plan that is interrupted between two steps is closed in the middle.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def _goes_on_as_before() -> Iterator[None]:
    """The thread has no budget, lease or flight left over, which all later calls would be under."""
    before = _surroundings()
    yield
    assert _surroundings() == before


def _surroundings() -> dict[str, Any]:
    found = {variable.name: value for variable, value in copy_context().items() if value}
    return {name: value for name, value in found.items() if name.startswith("resilient.")}


@pytest.fixture(params=["memory", "sqlite"], name="backend")
def _backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[resilient.Backend]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/state.db"
    with resilient.using(url) as backend:
        backend.sync.locks.release("nobody's", owner="nobody")  # the file is there
        yield backend


def with_lock() -> None:
    with lock("k", ttl=30, wait=0):
        pass


def with_locks() -> None:
    with lock_all("k", "l", ttl=30, wait=0):
        pass


@idempotent("k", ttl=60, wait=0)
def call() -> int:
    return 1


@checkpointed("k", every=1, wait=0)
def job(job: Job) -> int:
    return sum(job.iterate(range(2)))


@pytest.mark.parametrize("operation", [with_lock, with_locks, call, job])
def test_nothing_is_renewed_for_it(
    backend: resilient.Backend, operation: Callable[[], object]
) -> None:
    """And every other thread reads and writes what it likes at once."""
    _leaves_nothing(backend, operation)


def test_locks_that_are_taken_one_after_the_other(
    backend: resilient.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it has had already are not renewed for it either."""

    async def nowhere(*_: Any) -> None:
        """No server has all of them in one slot."""

    monkeypatch.setattr(all_locks, "at_once", nowhere)
    _leaves_nothing(backend, with_locks)


def _leaves_nothing(backend: resilient.Backend, operation: Callable[[], object]) -> None:
    moments = 0
    with ThreadPoolExecutor(1) as others, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for moments in at_each_moment(operation):
            assert not backend.heartbeat.leases, moments
            others.submit(_all_is_free, backend).result(20)
    assert moments > 50


def test_its_place_is_free_again() -> None:
    """Of a bulkhead, wherever it was on its way in or out."""
    moments = 0

    @bulkhead(1)
    def alone() -> int:
        return 1

    for moments in at_each_moment(alone):
        gc.collect()  # a plan that was interrupted between two steps is closed by this
        assert alone() == 1, moments
    assert moments > 5


@pytest.mark.parametrize("options", [{}, {"soft_ttl": 30, "compute_timeout": 20}])
def test_nobody_waits_for_a_value_that_it_would_have_brought(
    backend: resilient.Backend, options: dict[str, Any]
) -> None:
    """Its flight is over, and what it has kept of values at hand is in order."""

    @cached("{n}", ttl=60, **options)
    def value(n: int) -> int:
        return n

    def there() -> int:
        backend.sync.cache.delete(cached.of(value).key(1))  # and with it the right to compute
        return value(1)

    moments = 0
    with ThreadPoolExecutor(1) as others, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for moments in at_each_moment(lambda: value(1)):
            assert others.submit(_all_have_landed, backend).result(20), moments
            assert not backend.heartbeat.leases, moments
            assert others.submit(there).result(20) == 1
            cached.of(value).clear()
    assert moments > 20


def test_the_others_go_on_to_hear_what_is_signalled(backend: resilient.Backend) -> None:
    """Who begins to wait nudges the thread that listens, and can leave no lock behind for it."""
    backend.hub.start()
    with ThreadPoolExecutor(1) as others:
        for moments in at_each_moment(backend.hub.start, threading):
            others.submit(backend.hub.start).result(20)
            assert backend.hub.is_listening, moments


def _all_have_landed(backend: resilient.Backend) -> bool:
    """Whether no flight is left over, once those of the crew's threads have come to their end.

    But for those that the next caller will fly.
    """
    flying: dict[str, Flight] = backend.nearby.flights._flying
    deadline = time.monotonic() + 10
    while any(not each.is_waiting for each in list(flying.values())):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _all_is_free(backend: resilient.Backend) -> None:
    """Another thread can do anything; what was held is taken away by it."""
    for key in ("k", "l"):
        backend.sync.locks.force_release(key)
        backend.sync.idempotency.delete(key)
        backend.sync.checkpoints.delete(key)
    if isinstance(backend, SqliteBackend):
        database: Any = backend._transport._database
        assert (database._users, len(database._used)) == (0, 0)
