"""The memory backend, as its tests ask it and look into it."""

from __future__ import annotations

from typing import Any

from resilient.backends.memory import MemoryBackend, MemoryStore
from resilient.engine.drivers.sync import drive


def store_of(backend: MemoryBackend) -> MemoryStore:
    """The dict behind a backend."""
    store: MemoryStore = backend.locks._store  # type: ignore[union-attr]  # white box
    return store


def size(backend: MemoryBackend) -> int:
    """How many entries there are, live or expired."""
    return sum(map(len, store_of(backend)._tables.values()))


def acquire(
    backend: MemoryBackend, key: str, owner: str, waiter: str | None = None, fair: bool = True
) -> Any:
    """Ask for a lock for 30 seconds."""
    assert backend.locks is not None
    return drive(backend.locks.acquire(key, ttl=30, owner=owner, waiter=waiter, fair=fair))


def release(backend: MemoryBackend, key: str, owner: str, fair: bool = True) -> bool:
    """Release a lock."""
    assert backend.locks is not None
    return drive(backend.locks.release(key, owner=owner, fair=fair))
