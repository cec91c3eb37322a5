"""`@distributed_lock`: one holder at a time, over all threads, tasks, processes and machines."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import resilient
from resilient import LockNotAcquired, current_lease, distributed_lock

balance = {"alice": 0}


def deposit(account: str, amount: int) -> None:
    """Read, think, write: two at once lose money."""
    before = balance[account]
    time.sleep(0.005)
    balance[account] = before + amount


@distributed_lock("account:{account}", ttl=30, wait=10)
def safe_deposit(account: str, amount: int) -> None:
    """The same, one at a time for each account."""
    deposit(account, amount)


@distributed_lock("report", wait=0)
async def report() -> int:
    """An `async def` is locked by the same decorator."""
    await asyncio.sleep(0.05)
    return current_lease().fence


async def reports() -> None:
    """Two at once, neither of which waits."""
    one, other = await asyncio.gather(report(), report(), return_exceptions=True)
    refused, fence = (one, other) if isinstance(one, LockNotAcquired) else (other, one)
    print(f"one report was made, under the fence {fence}; the other was refused:\n  {refused}")


def main() -> None:
    resilient.configure("memory://")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(deposit, ["alice"] * 20, [1] * 20))
        print("20 deposits of 1, without a lock:", balance["alice"])
        balance["alice"] = 0
        list(pool.map(safe_deposit, ["alice"] * 20, [1] * 20))
        print("20 deposits of 1, one at a time: ", balance["alice"])

    with resilient.lock("nightly", ttl=30) as lease:  # by hand; `async with` works as well
        print(f"held for {lease.remaining():.0f} s more, unless renewed; lost: {lease.lost}")

    asyncio.run(reports())


if __name__ == "__main__":
    main()
