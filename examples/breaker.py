"""`@circuit_breaker`: a failing dependency is left alone, and asked again when it had time."""

from __future__ import annotations

import asyncio
import time

import resilient
from resilient import CircuitOpen, Consecutive, HalfOpen, circuit_breaker

down = True


@circuit_breaker("payments", trip=Consecutive(3), open_for=0.5, half_open=HalfOpen(permits=1))
def charge(amount: int) -> str:
    """Ask a dependency that takes its time to fail."""
    time.sleep(0.05)
    if down:
        raise ConnectionError("no route to host")
    return f"charged {amount}"


def last_known(refusal: CircuitOpen, currency: str) -> float:
    """What is answered while the circuit is open."""
    return 1.08


@circuit_breaker("rates", trip=Consecutive(1), fallback=last_known)
async def rate(currency: str) -> float:
    """An `async def`, with an answer for bad times."""
    raise ConnectionError("no route to host")


async def rates() -> None:
    try:
        await rate("EUR")
    except ConnectionError as error:
        print(f"first rate: {error}; second, from the fallback: {await rate('EUR')}")


def attempt(amount: int) -> None:
    """Charge, and tell how it went and how long it took."""
    began = time.perf_counter()
    try:
        outcome = charge(amount)
    except (ConnectionError, CircuitOpen) as error:
        outcome = f"{type(error).__name__}: {error}"
    print(f"{1000 * (time.perf_counter() - began):6.2f} ms  {outcome}")


def main() -> None:
    global down
    resilient.configure("memory://")
    for amount in range(1, 6):  # three failures open the circuit; the others fail at once
        attempt(amount)
    down = False
    time.sleep(0.5)
    for amount in range(6, 8):  # the first is the probe that closes it
        attempt(amount)
    asyncio.run(rates())


if __name__ == "__main__":
    main()
