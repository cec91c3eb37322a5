"""What the sync and the async driver share: how a stepped plan ends."""

from __future__ import annotations

from typing import Any

from resilient.engine.plan import Body, Plan

__all__ = ["Closing", "Done", "is_masked", "resume", "thrown"]


class Done:
    """A plan has come to its end."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


Outcome = Body | Done


class Closing(BaseException):
    """What a plan is told instead of `GeneratorExit` when the generator in it is closed early.

    Thrown into a coroutine, `GeneratorExit` is not passed on to the one that it awaits: that one is
    closed, and may await nothing any more, not even to give back what it holds.
    """


def thrown(plan: Plan[Any], error: BaseException) -> Any:
    """Throw an error into a plan: the operation that it awaits next."""
    try:
        return plan.throw(Closing() if isinstance(error, GeneratorExit) else error)
    finally:
        del error  # its traceback holds this frame: a cycle, if the frame holds it


def resume(plan: Plan[Any], answer: Any, error: BaseException | None) -> Any:
    """Step a plan once: the operation that it awaits next, or `Done`."""
    try:
        if error is None:
            return plan.send(answer)
        return thrown(plan, error)
    except StopIteration as stop:
        return Done(stop.value)
    except Closing:
        raise GeneratorExit from None
    finally:
        error = None  # its traceback holds this frame: a cycle, if the frame holds it


def is_masked(masked: RuntimeError, error: BaseException | None) -> bool:
    """Whether this is the user's own `StopIteration`, which no coroutine lets through (PEP 479)."""
    return isinstance(error, StopIteration | StopAsyncIteration) and masked.__cause__ is error
