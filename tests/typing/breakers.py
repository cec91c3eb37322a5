"""`@circuit_breaker`, its fallbacks, and `CircuitBreaker` by hand."""

from __future__ import annotations

from typing import assert_type

from resilient import (
    Backoff,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    SlowRate,
    TimeWindow,
    circuit_breaker,
)

# --- what opens it

circuit_breaker("k", trip=FailureRate(0.5))
circuit_breaker("k", trip=FailureRate(0.5) | Consecutive(5) | FailureRate(0.1))
circuit_breaker("k", window=CountWindow(50), half_open=HalfOpen(5), open_for="1m")
circuit_breaker("k", trip=0.5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
circuit_breaker("k", record=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
circuit_breaker("k", consistency="eventual", record_result=bool)
circuit_breaker("k", window=TimeWindow(60), open_for=Backoff(5), trip=SlowRate(0.8, over=2))
circuit_breaker("k", consistency="lazy")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
circuit_breaker("k", nonsense=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# --- fallbacks


def instead(refusal: CircuitOpen, n: int) -> float:
    """A fallback."""
    return float(n)


async def ainstead(refusal: CircuitOpen, n: int) -> float:
    """An async one."""
    return float(n)


@circuit_breaker("k", fallback=instead)
def function(n: int) -> str:
    """The result may be the fallback's."""
    return str(n)


@circuit_breaker("k", fallback=instead)
async def coroutine(n: int) -> str:
    """An async function may have a plain fallback."""
    return str(n)


@circuit_breaker("k", fallback=ainstead)
async def acoroutine(n: int) -> str:
    """Or an async one."""
    return str(n)


@circuit_breaker("k", fallback=ainstead)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def misfit(n: int) -> str:
    """A plain function cannot await its fallback."""
    return str(n)


assert_type(function(1), str | float)
function("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def awaits() -> None:
    """What it is awaited for."""
    assert_type(await coroutine(1), str | float)
    assert_type(await acoroutine(1), str | float)


class Service:
    """Methods too."""

    @circuit_breaker("{tenant}", fallback=lambda refusal, self, tenant: None)
    def method(self, tenant: str) -> str:
        """A method with a fallback."""
        return tenant


assert_type(Service().method("acme"), str | None)

# --- by hand

breaker = CircuitBreaker("payments:{tenant}", trip=Consecutive(5))


@breaker
def guarded(tenant: str) -> bytes:
    """A breaker keeps the type of what it guards."""
    return tenant.encode()


@breaker
async def aguarded(tenant: str) -> bytes:
    """Of an async function as well."""
    return tenant.encode()


def blocking() -> None:
    """A block, and what can be asked."""
    with breaker.guard(tenant="acme"):
        pass
    assert_type(guarded("acme"), bytes)
    assert_type(breaker.at(tenant="acme").state, CircuitState)
    assert_type(breaker.at(tenant="acme").reset(), None)
    assert_type(circuit_breaker.of(function).at(1).state, CircuitState)
    guarded(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    breaker.guard("acme")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def awaited() -> None:
    """The same, async."""
    async with breaker.guard(tenant="acme"):
        pass
    assert_type(await aguarded("acme"), bytes)
    assert_type(await breaker.at(tenant="acme").areset(), None)
