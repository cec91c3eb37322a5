"""`@distributed_lock`, `lock()` and its relatives: one holder at a time, who finds out its loss.

`plan` is the policy, `leases` what a holder holds, `settings` what may be chosen; `lock`,
`all_locks` and `decorator` are its forms.
"""

from resilient.policies.distributed_lock.all_locks import AllLocks, HeldLocks, lock_all
from resilient.policies.distributed_lock.decorator import distributed_lock
from resilient.policies.distributed_lock.leases import AsyncLease, LockLease, current_lease
from resilient.policies.distributed_lock.lock import (
    Lock,
    LockInfo,
    lock,
    read_lock,
    semaphore,
    write_lock,
)

__all__ = [
    "AllLocks",
    "AsyncLease",
    "HeldLocks",
    "Lock",
    "LockInfo",
    "LockLease",
    "current_lease",
    "distributed_lock",
    "lock",
    "lock_all",
    "read_lock",
    "semaphore",
    "write_lock",
]
