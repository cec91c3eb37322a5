"""Generators under a policy: held from the first step to the last, each step in its own context.

The lease of a generator is current while its body runs and not in between, when its consumer runs:
so all its steps, and those of the plan around it, run in a context of their own.
"""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import Any

from resilient.engine.drivers.steps import Done
from resilient.engine.drivers.sync import advance
from resilient.engine.plan import Plan

__all__ = ["agenerate", "generate"]


def generate(
    plan: Plan[Any], make: Callable[[Any], Generator[Any, Any, Any]]
) -> Generator[Any, Any, Any]:
    """Run a generator where the plan awaits its `Body`."""
    context = copy_context()
    step = context.run(advance, plan)
    if isinstance(step, Done):
        return step.value
    try:
        answer = yield from _in_context(context, make(step.value))
    except BaseException as error:
        ended = context.run(advance, plan, None, error)
    else:
        ended = context.run(advance, plan, answer)
    assert isinstance(ended, Done), "a generator runs once"
    return ended.value


def _in_context(context: Context, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        item = context.run(next, steps)
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                context.run(steps.close)
                raise
            except BaseException as error:
                item = context.run(steps.throw, error)
            else:
                item = context.run(steps.send, sent)
    except StopIteration as stop:
        return stop.value


async def agenerate(
    plan: Plan[Any], make: Callable[[Any], AsyncGenerator[Any, Any]]
) -> AsyncGenerator[Any, Any]:
    """Run an async generator where the plan awaits its `Body`."""
    # The event loop's driver is imported with the first async function, not before.
    from resilient.engine.drivers.aio import Interruption, Stepper

    context = copy_context()
    stepper = Stepper(plan)
    step = await _awaited(context, stepper.advance())
    if isinstance(step, Done):
        return
    watch = Interruption(step.lease) if step.lease is not None and step.cancel else None
    steps = make(step.value)
    try:
        item = await _step(context, watch, steps.asend(None))
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                await _awaited(context, steps.aclose())
                raise
            except BaseException as error:
                item = await _step(context, watch, steps.athrow(error))
            else:
                item = await _step(context, watch, steps.asend(sent))
    except StopAsyncIteration:
        await _awaited(context, stepper.advance())
    except BaseException as error:
        await _awaited(context, stepper.advance(error=error))


async def _step(context: Context, watch: Any, awaitable: Awaitable[Any]) -> Any:
    """One step of the body: cancelled if the lease is lost meanwhile, or was in between."""
    if watch is None:
        return await _awaited(context, awaitable)
    return await watch.guard(_awaited(context, awaitable))


@types.coroutine
def _awaited(context: Context, awaitable: Awaitable[Any]) -> Generator[Any, Any, Any]:
    """Await something in a context of its own."""
    steps = _coroutine(awaitable)
    error: BaseException | None = None
    while True:
        try:
            waited_for = (
                context.run(steps.send, None) if error is None else context.run(steps.throw, error)
            )
        except StopIteration as stop:
            return stop.value
        error = None
        try:
            yield waited_for
        except BaseException as raised:
            error = raised


async def _coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
