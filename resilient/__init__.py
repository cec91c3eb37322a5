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
from resilient.policies.cached import (
    MISSING,
    CacheStats,
    LocalCache,
    ainvalidate_tags,
    cached,
    invalidate_tags,
)
from resilient.policies.checkpointed import AsyncJob, Job, checkpointed, current_job
from resilient.policies.circuit_breaker import (
    CircuitBreaker,
    CircuitState,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    circuit_breaker,
)
from resilient.policies.distributed_lock import (
    AsyncLease,
    Lock,
    LockInfo,
    LockLease,
    current_lease,
    distributed_lock,
    lock,
)
from resilient.policies.idempotent import idempotent
from resilient.policies.retry import retry

__all__ = [
    "MISSING",
    "AsyncJob",
    "AsyncLease",
    "Backend",
    "BackendError",
    "BlockingCallInLoop",
    "CacheStats",
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
    "Job",
    "JobRunning",
    "KeyMissing",
    "LeaseLost",
    "LocalCache",
    "Lock",
    "LockInfo",
    "LockLease",
    "LockNotAcquired",
    "Rejected",
    "ResilientError",
    "ResultUnavailable",
    "StaleRunner",
    "aclose",
    "ainvalidate_tags",
    "cached",
    "checkpointed",
    "circuit_breaker",
    "close",
    "configure",
    "current_job",
    "current_lease",
    "distributed_lock",
    "idempotent",
    "invalidate_tags",
    "lock",
    "retry",
    "subscribe",
    "using",
]

__version__ = "0.1.0"
