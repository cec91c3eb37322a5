"""`lock()` and the controls of `@distributed_lock`."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

import resilient
from resilient import AsyncFenced, Fenced, distributed_lock, fenced, lock
from resilient.policies.distributed_lock import AsyncLease, Lock, LockInfo, LockLease


def sync_block() -> int:
    """`with` binds a lease whose methods block."""
    with lock("k", ttl="1m", wait=timedelta(seconds=5)) as lease:
        assert_type(lease, LockLease)
        assert_type(lease.fence, int)
        assert_type(lease.remaining(), float)
        assert_type(lease.lost, bool)
        assert_type(lease.extend(60), None)
        assert_type(lease.release(), None)
        lease.check()
        return lease.fence


async def async_block() -> int:
    """`async with` binds one whose methods are awaited."""
    async with lock("k", wait=None) as lease:
        assert_type(lease, AsyncLease)
        assert_type(lease.fence, int)
        assert_type(await lease.extend("1m"), None)
        assert_type(await lease.release(), None)
        lease.extend(60)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
        return lease.fence


def after_the_block() -> None:
    """A block raises what its body raises: what follows it is reached only through it."""
    with lock("k") as lease:
        fence = lease.fence
    assert_type(fence, int)


assert_type(lock("k"), Lock)
assert_type(lock("k").info(), LockInfo | None)
assert_type(lock("k").force_release(reason="stuck"), bool)
assert_type(resilient.current_lease(), LockLease | AsyncLease)
lock()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
lock(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
lock("k", 30)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
lock("k").force_release()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
lock("k").acquire()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def controls() -> None:
    """What belongs to no function has both forms."""
    assert_type(await lock("k").ainfo(), LockInfo | None)
    assert_type(await lock("k").aforce_release(reason="stuck"), bool)


@distributed_lock("{n}")
def function(n: int) -> str:
    """Its lock can be asked for."""
    return str(n)


assert_type(distributed_lock.of(function).at(1), Lock)
assert_type(distributed_lock.of(function).key(1), str)
distributed_lock.of(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def fenced_writes(client: Redis, aclient: AsyncRedis) -> None:
    """The form of a fenced key is that of its client."""
    with lock("k") as lease:
        lease.bind(object())
        assert_type(fenced(client, "state", lease), Fenced)
        assert_type(fenced(aclient, "state", lease), AsyncFenced)
        fenced(client, "state")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
