"""Backends that are broken on purpose, each in one way: the conformance suite must notice.

Each wraps one store of the memory backend and does one thing wrong, at the level of the protocol.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.memory import MemoryBackend
from resilient.engine.backend import Capability

BROKEN: dict[str, type[Broken]] = {}

MODEL = "the model-based test"
EXAMPLES = "the tests by example"
NEVER = 1000.0
"""How much longer a lease lives whose expiry is ignored."""


class Broken:
    """A store that hands everything on, but for what its subclass does wrong."""

    capability: Capability
    noticed_by: tuple[str, ...] = (MODEL, EXAMPLES)

    def __init_subclass__(cls) -> None:
        if cls.__doc__:
            BROKEN[cls.__name__] = cls

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    @classmethod
    def backend(cls) -> MemoryBackend:
        """A memory backend with this store in its place."""
        backend = MemoryBackend()
        setattr(backend, cls.capability, cls(getattr(backend, cls.capability)))
        return backend
