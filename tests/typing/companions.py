"""What the companions make of a function's type."""

from __future__ import annotations

from typing import assert_type

from resilient import bulkhead, fallback, timeout


def instead(error: Exception, n: int) -> str:
    """Answers something else than the function."""
    return str(n)


async def ainstead(error: Exception, n: int) -> str:
    """The same, awaited."""
    return str(n)


@fallback(instead, on=(OSError, LookupError))
def function(n: int) -> bytes:
    """One of the two answers."""
    return bytes(n)


@fallback(instead)
async def async_function(n: int) -> bytes:
    """The same of an async function."""
    return bytes(n)


@fallback(ainstead, on=lambda error: True)
async def async_both(n: int) -> bytes:
    """What is awaited counts."""
    return bytes(n)


@bulkhead(2, on_busy="skip", skipped=0.5)
async def skipping(n: int) -> bytes:
    """What stands for a skipped call appears."""
    return bytes(n)


@bulkhead(2, wait="1s")
@timeout("2s", thread=True)
def limited(n: int) -> bytes:
    """The type that it had."""
    return bytes(n)


@timeout(2)
async def alimited(n: int) -> bytes:
    """The same of an async function."""
    return bytes(n)


async def kept() -> None:
    """Both know what comes of them."""
    assert_type(function(1), bytes | str)
    assert_type(await async_function(1), bytes | str)
    assert_type(await async_both(1), bytes | str)
    assert_type(await skipping(1), bytes | float)
    assert_type(limited(1), bytes)
    assert_type(await alimited(1), bytes)
    function("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    timeout()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    bulkhead("2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


fallback(ainstead)(function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fallback(instead, on=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
