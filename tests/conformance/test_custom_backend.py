"""The worked example of a custom backend against the conformance suite."""

from custom_backend import dict_backend

import resilient
from resilient.engine.clock import ManualClock
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
)


class Dict(Conformance):
    """A dict of its own each time, judged by a clock that the suite moves."""

    clock = ManualClock()

    def backend(self) -> resilient.Backend:
        return dict_backend()


class TestLocks(Dict, LockConformance):
    """Locks in a dict."""


class TestCircuits(Dict, CircuitConformance):
    """Circuits in a dict."""


class TestCache(Dict, CacheConformance):
    """Cached values in a dict."""


class TestIdempotency(Dict, IdempotencyConformance):
    """Idempotent calls in a dict."""


class TestCheckpoints(Dict, CheckpointConformance):
    """Jobs in a dict."""
