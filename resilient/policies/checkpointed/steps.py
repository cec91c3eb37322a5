"""The steps of a job: each is run once in its life, and its result stored."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.engine.plan import Body
from resilient.errors import ConfigurationError, ResultUnavailable
from resilient.policies.checkpointed.record import Unstored
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.run import Run

__all__ = ["Steps"]

log = logging.getLogger("resilient")


class Steps:
    """Those of one run."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def once(self, name: str, codec: Codec, *, retries: int = 0) -> Any:
        """The result of a step: stored earlier, or of the function that is the plan's body."""
        if not name:
            raise ConfigurationError("step(''): a step needs a name")
        run = self._run
        if (stored := run.known.get(name)) is not None:
            return _replayed(run.task, name, codec.decode(stored))
        if run.store is None or run.lease is None:
            return await _attempted(retries)
        run.lease.check()
        await run.settle_left()
        await run.look()
        answer = await (_attempted(retries) if retries else Body())
        value = _stored(run.task, name, codec, answer)
        fence = run.lease.fence
        ask = partial(run.store.step, run.task, name, value, fence=fence, ttl=run.ttl)
        if not await run.insisted(ask):
            raise run.refused()
        run.known[name] = value
        return answer


def _stored(task: str, name: str, codec: Codec, answer: Any) -> Encoded:
    """The stored form of a step's result; word of it, where it has none.

    The step has taken effect: nothing that a codec raises may have it run again.
    """
    try:
        return codec.encode(answer)
    except Exception as error:
        from resilient.engine.codecs import reason_of

        reason = reason_of(error)
        log.warning(
            "The step %r of the job %r is done, but its result has no stored form (%s): if the job "
            "is resumed, that step raises ResultUnavailable.",
            name, task, reason,
        )  # fmt: skip
        return codec.encode(Unstored(reason))


def _replayed(task: str, name: str, answer: Any) -> Any:
    """What a step answered when it ran."""
    if isinstance(answer, Unstored):
        raise ResultUnavailable(
            f"the step {name!r} of the job {task!r} is done, but its result had no stored form: "
            f"{answer.reason}",
            key=task,
        )
    return answer


async def _attempted(retries: int) -> Any:
    """What the body answers, in one of so many more tries."""
    while retries:
        try:
            return await Body()
        except Exception:
            retries -= 1
    return await Body()
