"""Decorators that make ordinary functions safe to run many times, in many processes."""

from resilient.config import aclose, close, configure, using
from resilient.engine.backend import Backend
from resilient.errors import (
    BackendError,
    BlockingCallInLoop,
    CallInProgress,
    CapabilityMissing,
    CircuitOpen,
    CodecError,
    ConfigurationError,
    FingerprintMismatch,
    JobRunning,
    KeyMissing,
    LeaseLost,
    LockNotAcquired,
    Rejected,
    ResilientError,
    ResultUnavailable,
    StaleRunner,
)
from resilient.events import subscribe
from resilient.policies.circuit_breaker import (
    CircuitBreaker,
    CircuitState,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    circuit_breaker,
)
from resilient.policies.distributed_lock import current_lease, distributed_lock, lock

__all__ = [
    "Backend",
    "BackendError",
    "BlockingCallInLoop",
    "CallInProgress",
    "CapabilityMissing",
    "CircuitBreaker",
    "CircuitOpen",
    "CircuitState",
    "CodecError",
    "ConfigurationError",
    "Consecutive",
    "CountWindow",
    "FailureRate",
    "FingerprintMismatch",
    "HalfOpen",
    "JobRunning",
    "KeyMissing",
    "LeaseLost",
    "LockNotAcquired",
    "Rejected",
    "ResilientError",
    "ResultUnavailable",
    "StaleRunner",
    "aclose",
    "circuit_breaker",
    "close",
    "configure",
    "current_lease",
    "distributed_lock",
    "lock",
    "subscribe",
    "using",
]

__version__ = "0.1.0"
