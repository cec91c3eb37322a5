"""The conformance suite: what every backend must do, as tests that anybody can inherit.

    from resilient.testing.conformance import CacheConformance, LockConformance

    class TestLocks(LockConformance):
        def backend(self):
            return MyBackend()

    class TestCache(CacheConformance):
        def backend(self):
            return MyBackend()

One class a capability: leave out those that the backend lacks. `backend()` returns a fresh, empty
backend (or namespace of one) each time it is called, or a context manager that yields one; the
suite closes it. Backends judged by the local clock say `clock = ManualClock()`, and no test sleeps.
`ProcessConformance` needs `url()` instead and starts several processes.

Every test runs for sync and for async callers. Needs pytest and hypothesis.
"""

try:
    import hypothesis  # noqa: F401 - only to say in time what is missing
    import pytest
except ImportError as error:
    raise ImportError(
        "the conformance suite needs pytest and hypothesis: "
        "pip install 'resilient-decorators[test]'"
    ) from error

from resilient.engine.backend import CAPABILITIES

# Before they are imported: so that a failing assertion of the suite says what it compared.
pytest.register_assert_rewrite(
    *(f"{__name__}.{capability}" for capability in CAPABILITIES),
    f"{__name__}._machines",
    f"{__name__}.base",
    f"{__name__}.processes",
)

from resilient.testing.conformance.base import Conformance  # noqa: E402 - see above
from resilient.testing.conformance.cache import CacheConformance  # noqa: E402 - see above
from resilient.testing.conformance.checkpoints import CheckpointConformance  # noqa: E402 - see above
from resilient.testing.conformance.circuits import CircuitConformance  # noqa: E402 - see above
from resilient.testing.conformance.idempotency import IdempotencyConformance  # noqa: E402 - see above
from resilient.testing.conformance.locks import LockConformance  # noqa: E402 - see above
from resilient.testing.conformance.processes import ProcessConformance  # noqa: E402 - see above
from resilient.testing.conformance.runs import Run  # noqa: E402 - see above

__all__ = [
    "CacheConformance",
    "CheckpointConformance",
    "CircuitConformance",
    "Conformance",
    "IdempotencyConformance",
    "LockConformance",
    "ProcessConformance",
    "Run",
]
