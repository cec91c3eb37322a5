"""The controls of `@idempotent`: those of an `async def` are awaited."""

from __future__ import annotations

from typing import assert_type

import resilient
from resilient import IdempotentCall, idempotent
from resilient.policies.idempotent.controls import CallStatus


@idempotent("n:{n}", ttl="24h", on_takeover="raise", on_cancel="keep", local=100)
def function(n: int) -> list[int]:
    """An idempotent function."""
    return [n]


@idempotent("n:{n}", ttl=60)
async def coroutine(n: int) -> list[int]:
    """An idempotent async function."""
    return [n]


def blocking() -> None:
    """The controls take the function's arguments and answer its type."""
    controls = idempotent.of(function)
    assert_type(controls.key(1), str)
    assert_type(controls.status(n=1), CallStatus | None)
    assert_type(controls.result(1), list[int])
    assert_type(controls.forget(1), bool)
    assert_type(controls.unprotected(1), list[int])
    controls.forget("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def awaited() -> None:
    """The same names, awaited."""
    controls = idempotent.of(coroutine)
    assert_type(controls.key(1), str)
    assert_type(await controls.status(1), CallStatus | None)
    assert_type(await controls.result(1), list[int])
    assert_type(await controls.forget(1), bool)
    assert_type(await controls.unprotected(1), list[int])


def within() -> str:
    """What the body can know."""
    call = resilient.current_idempotency()
    assert_type(call, IdempotentCall)
    assert_type(call.attempt, int)
    assert_type(call.is_takeover, bool)
    assert_type(call.fence, int)
    return call.derive("stripe")


idempotent("k", ttl=60, on_takeover="guess")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
