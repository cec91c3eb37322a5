"""`@distributed_lock` and `lock()`: one holder at a time, and one that lost its lease finds out.

`plan` is the policy, `leases` what a holder holds, `lock` and `decorator` are its two forms.
"""

from resilient.policies.distributed_lock.decorator import distributed_lock
from resilient.policies.distributed_lock.leases import AsyncLease, LockLease, current_lease
from resilient.policies.distributed_lock.lock import Lock, LockInfo, lock

__all__ = [
    "AsyncLease",
    "Lock",
    "LockInfo",
    "LockLease",
    "current_lease",
    "distributed_lock",
    "lock",
]
