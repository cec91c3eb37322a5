"""`@timeout`, `@bulkhead` and `@fallback`: too long, too many, and an answer all the same."""

from __future__ import annotations

import asyncio

from resilient import BulkheadFull, TimedOut, bulkhead, fallback, timeout

last_known = {"EUR": 1.08}
"""Rates of yesterday."""


def of_yesterday(error: Exception, currency: str) -> float:
    """Answers for the service: it is told why, and for which call."""
    print(f"  yesterday's rate of {currency}, for: {error}")
    return last_known[currency]


@fallback(of_yesterday, on=TimedOut)
@timeout("50ms")
async def rate(currency: str) -> float:
    """Asks a service that never answers."""
    await asyncio.Event().wait()
    return 0.0


running = 0


@bulkhead(2, wait="10s")
async def report(number: int) -> str:
    """Two of them at a time; the others wait for their turn."""
    global running
    running += 1
    print(f"  report {number} begins, of {running} at a time")
    await asyncio.sleep(0.01)
    running -= 1
    return f"report {number}"


@bulkhead(1)
async def inventory(*, again: bool) -> str:
    """One at a time, and nobody waits."""
    return await inventory(again=False) if again else "counted"


async def main() -> None:
    print(f"a euro is {await rate('EUR')} dollars")
    print(await asyncio.gather(*(report(number) for number in range(5))))
    print(await inventory(again=False))
    try:
        await inventory(again=True)
    except BulkheadFull as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    asyncio.run(main())
