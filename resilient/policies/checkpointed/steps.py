"""The steps of a job: each is run once in its life, and its result stored."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.engine import clock
from resilient.engine.guard import guarded
from resilient.engine.persistence import asked_again
from resilient.engine.plan import Body
from resilient.errors import BackendError, ConfigurationError
from resilient.policies.checkpointed.results import opened, unstored
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.run import Run

__all__ = ["once"]

log = logging.getLogger("resilient")


BODY = Body()


async def once(run: Run, name: str, codec: Codec, *, retries: int = 0) -> Any:
    """The result of a step: stored earlier, or of the function that is the plan's body."""
    if not name:
        raise ConfigurationError("step(''): a step needs a name")
    if (known := run.known.get(name)) is not None:
        return opened(codec, known, run.task, name)
    lease = run.lease
    if lease is None:
        return await _attempted(retries)
    # What many small steps do is spelled out: one may cost little more than its write.
    now = clock.now()
    if now >= lease.deadline or lease.reason is not None:
        raise lease.error()
    if run.left:
        await run.settle_left()
    if now >= run.look_due:
        await run.look()
    answer = await (_attempted(retries) if retries else BODY)
    try:
        value = codec.encode(answer)
    except Exception as error:
        value = _unstored(run.task, name, codec, error)
    ask = partial(lease.store.step, run.task, name, value, fence=lease.fence, ttl=run.ttl)
    try:
        accepted = await guarded(ask)
    except BackendError as error:
        accepted = await asked_again(error, partial(guarded, ask), until=lease.deadline)
    if not accepted:
        raise lease.refused()
    run.known[name] = value
    return answer


def _unstored(task: str, name: str, codec: Codec, error: Exception) -> Encoded:
    """Word that a step's result has no stored form; a warning is logged."""
    value, reason = unstored(codec, error)
    log.warning(
        "The step %r of the job %r is done, but its result has no stored form (%s): if the job "
        "is resumed, that step raises ResultUnavailable.",
        name, task, reason,
    )  # fmt: skip
    return value


async def _attempted(retries: int) -> Any:
    """What the body answers, in one of so many more tries."""
    while retries:
        try:
            return await Body()
        except Exception:
            retries -= 1
    return await Body()
