"""The memory backend against the conformance suite."""

import pytest

from resilient.backends.memory import MemoryBackend
from resilient.engine.clock import ManualClock
from resilient.protocols.values import Encoded
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
)
from resilient.testing.conformance._machines.base import World
from resilient.testing.conformance._machines.cache import CacheMachine


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

    @pytest.mark.parametrize("next_one", [True, False])
    def test_an_older_value_outlives_one_that_came_too_late(
        self, world: World, next_one: bool
    ) -> None:
        """A value that a tag has outdated may be refused: then one without tags is still there."""
        machine = CacheMachine(world)
        machine.set("a", Encoded(b"older"), ttl=None, tags=[], fresh=50.0, stale=0.0)
        machine.time_passes(60.0)
        machine.invalidate_tags("a", ["red"], ready=True, next_one=next_one)


class TestIdempotency(Memory, IdempotencyConformance):
    """Idempotent calls in memory."""


class TestCheckpoints(Memory, CheckpointConformance):
    """Jobs in memory."""
