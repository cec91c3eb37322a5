"""What the sync and the async driver share: how a stepped plan ends."""

from __future__ import annotations

from typing import Any

from resilient.engine.plan import Body, Plan

__all__ = ["Done", "is_masked", "resume"]


class Done:
    """A plan has come to its end."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


Outcome = Body | Done


def resume(plan: Plan[Any], answer: Any, error: BaseException | None) -> Any:
    """Step a plan once: the operation that it awaits next, or `Done`."""
    try:
        return plan.send(answer) if error is None else plan.throw(error)
    except StopIteration as stop:
        return Done(stop.value)
    finally:
        error = None  # its traceback holds this frame: a cycle, if the frame holds it


def is_masked(masked: RuntimeError, error: BaseException | None) -> bool:
    """Whether this is the user's own `StopIteration`, which no coroutine lets through (PEP 479)."""
    return isinstance(error, StopIteration | StopAsyncIteration) and masked.__cause__ is error
