"""What runs in the background goes on, whatever happens around it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient.backends.memory import MemoryBackend
from resilient.engine.drivers.sync import drive
from resilient.engine.outage import Outage
from resilient.errors import BackendError, LeaseLost

TTL = 2.0


def eventually(fact: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not fact() and time.monotonic() < end:
        time.sleep(0.01)
    return fact()


def lose(backend: resilient.Backend, key: str) -> None:
    """Take a lock away from its holder."""
    assert backend.locks is not None
    drive(backend.locks.force_release(key))


def test_a_function_that_exits_ends_no_renewal() -> None:
    """`sys.exit()` in an `on_lost` function stops the thread of nobody else's locks."""
    backend = MemoryBackend()
    with resilient.using(backend), resilient.lock("other", ttl=TTL) as other:
        told = threading.Event()

        def leave(lease: Any) -> None:
            told.set()
            sys.exit(1)

        with pytest.raises(LeaseLost), resilient.lock("k", ttl=TTL, on_lost=leave):
            lose(backend, "k")
            assert told.wait(10)
        until = other.deadline
        assert eventually(lambda: other.deadline > until)
        assert not other.lost


def test_closing_a_backend_ends_no_renewal() -> None:
    """A lock that is held while its backend is closed is renewed all the same."""
    backend = MemoryBackend()
    with resilient.using(backend), resilient.lock("k", ttl=TTL) as lease:
        backend.close()
        until = lease.deadline
        assert eventually(lambda: lease.deadline > until)
        assert not lease.lost


def test_a_loss_tells_why_nothing_was_renewed() -> None:
    """What the server answered to the renewals is the cause of the loss."""
    backend = MemoryBackend()
    store: Any = backend.locks

    async def refuses(*args: Any, **options: Any) -> bool:
        raise BackendError("NOPERM this user has no permissions", transient=False)

    store.renew = refuses
    with resilient.using(backend):
        with (
            pytest.raises(LeaseLost, match="NOPERM") as caught,
            resilient.lock("k", ttl=TTL) as lease,
        ):
            assert eventually(lambda: lease.lost)
            lease.check()
        assert isinstance(caught.value.__cause__, BackendError)


def test_a_probe_that_fails_in_its_own_way_is_not_repeated_at_once() -> None:
    """A programming error in a probe waits for the next one, as an outage does."""
    backend = MemoryBackend()
    outage = Outage(backend)
    probes = []

    async def broken() -> None:
        probes.append(time.monotonic())
        raise ValueError("a programming error")

    assert outage.begin(broken)
    assert eventually(lambda: len(probes) >= 2)
    time.sleep(0.1)
    assert len(probes) < 10
    backend.close()
