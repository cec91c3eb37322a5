"""Decorators that make ordinary functions safe to run many times, in many processes."""

from typing import TYPE_CHECKING, Any

from resilient.config import aclose, close, configure, using
from resilient.engine.backend import Backend
from resilient.errors import (
    BackendError,
    BlockingCallInLoop,
    BulkheadFull,
    CallInProgress,
    CapabilityMissing,
    CircuitOpen,
    CodecError,
    ConfigurationError,
    DecoratorOrder,
    FingerprintMismatch,
    JobCancelled,
    JobCodeChanged,
    JobRunning,
    KeyMissing,
    LeaseLost,
    LockNotAcquired,
    OutcomeUnknown,
    Rejected,
    ResilientError,
    ResultUnavailable,
    SourceChanged,
    StaleRunner,
    TimedOut,
)
from resilient.events import subscribe
from resilient.policies.bulkhead import bulkhead
from resilient.policies.cached import (
    MISSING,
    CacheContext,
    CacheStats,
    LocalCache,
    ainvalidate_tags,
    cached,
    invalidate_tags,
)
from resilient.policies.checkpointed import (
    AsyncJob,
    Job,
    JobCheckpoint,
    JobStatus,
    Progress,
    checkpointed,
    current_job,
)
from resilient.policies.circuit_breaker import (
    Backoff,
    CircuitBreaker,
    CircuitState,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    Outcome,
    Quorum,
    Ramp,
    SlowRate,
    TimeWindow,
    circuit_breaker,
)
from resilient.policies.distributed_lock import (
    AllLocks,
    AsyncLease,
    HeldLocks,
    Lock,
    LockInfo,
    LockLease,
    current_lease,
    distributed_lock,
    lock,
    lock_all,
    read_lock,
    semaphore,
    write_lock,
)
from resilient.policies.fallback import fallback
from resilient.policies.idempotent import (
    IdempotentCall,
    current_idempotency,
    idempotent,
)
from resilient.policies.retry import retry
from resilient.policies.timeout import timeout

if TYPE_CHECKING:
    from resilient import idempotency
    from resilient.connections.redis import AsyncFenced, Fenced, fenced

__all__ = [
    "MISSING",
    "AllLocks",
    "AsyncFenced",
    "AsyncJob",
    "AsyncLease",
    "Backend",
    "BackendError",
    "Backoff",
    "BlockingCallInLoop",
    "BulkheadFull",
    "CacheContext",
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
    "DecoratorOrder",
    "FailureRate",
    "Fenced",
    "FingerprintMismatch",
    "HalfOpen",
    "HeldLocks",
    "IdempotentCall",
    "Job",
    "JobCancelled",
    "JobCheckpoint",
    "JobCodeChanged",
    "JobRunning",
    "JobStatus",
    "KeyMissing",
    "LeaseLost",
    "LocalCache",
    "Lock",
    "LockInfo",
    "LockLease",
    "LockNotAcquired",
    "Outcome",
    "OutcomeUnknown",
    "Progress",
    "Quorum",
    "Ramp",
    "Rejected",
    "ResilientError",
    "ResultUnavailable",
    "SlowRate",
    "SourceChanged",
    "StaleRunner",
    "TimeWindow",
    "TimedOut",
    "aclose",
    "ainvalidate_tags",
    "bulkhead",
    "cached",
    "checkpointed",
    "circuit_breaker",
    "close",
    "configure",
    "current_idempotency",
    "current_job",
    "current_lease",
    "distributed_lock",
    "fallback",
    "fenced",
    "idempotency",
    "idempotent",
    "invalidate_tags",
    "lock",
    "lock_all",
    "read_lock",
    "retry",
    "semaphore",
    "subscribe",
    "timeout",
    "using",
    "write_lock",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What few programs use is imported when it is first used."""
    from importlib import import_module

    if name == "idempotency":
        return import_module("resilient.idempotency")
    if name in ("AsyncFenced", "Fenced", "fenced"):
        return getattr(import_module("resilient.connections.redis"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
