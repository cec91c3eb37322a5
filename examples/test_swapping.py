"""In tests: the functions of `swap_backend.py` over a fresh store, without a file or a server.

python -m pytest examples/test_swapping.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import swap_backend

import resilient


@pytest.fixture(autouse=True)
def memory() -> Iterator[resilient.Backend]:
    """Every test begins with an empty backend of its own.

    The pytest plugin's fixture `resilient_backend` does the same.
    """
    swap_backend.calls.clear()
    with resilient.using("memory://") as backend:
        yield backend


def test_takes_effect_once() -> None:
    """The second order is answered with the first one's result."""
    assert swap_backend.order("A-7") == swap_backend.order("A-7")
    assert swap_backend.calls == ["order A-7"]


def test_begins_empty() -> None:
    """What another test has ordered is not known here."""
    swap_backend.order("A-7")
    assert swap_backend.calls == ["order A-7"]


def test_is_locked(memory: resilient.Backend) -> None:
    """The store can be asked by hand what the decorators have left in it."""
    swap_backend.everything()
    assert memory.sync.locks.holder("everything") is None
    with resilient.lock("everything"), pytest.raises(resilient.LockNotAcquired):
        resilient.lock("everything", wait=0).__enter__()
