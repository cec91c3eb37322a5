"""The memory backend against the conformance suite."""

from resilient.backends.memory import MemoryBackend
from resilient.engine.clock import ManualClock
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
)


class Memory(Conformance):
    """A store of its own each time, judged by a clock that the suite moves."""

    clock = ManualClock()

    def backend(self) -> MemoryBackend:
        return MemoryBackend()


class TestLocks(Memory, LockConformance):
    """Locks in memory."""


class TestCircuits(Memory, CircuitConformance):
    """Circuits in memory."""


class TestCache(Memory, CacheConformance):
    """Cached values in memory."""


class TestIdempotency(Memory, IdempotencyConformance):
    """Idempotent calls in memory."""


class TestCheckpoints(Memory, CheckpointConformance):
    """Jobs in memory."""
