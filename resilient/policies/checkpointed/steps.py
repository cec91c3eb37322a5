"""The steps of a job: each is run once in its life, and its result stored."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.engine.plan import Body
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.results import opened, stored
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
        if (known := run.known.get(name)) is not None:
            return opened(codec, known, run.task, name)
        lease = run.lease
        if lease is None:
            return await _attempted(retries)
        lease.check()
        if run.left:
            await run.settle_left()
        await run.look()
        answer = await (_attempted(retries) if retries else Body())
        value = _stored(run.task, name, codec, answer)
        ask = partial(lease.store.step, run.task, name, value, fence=lease.fence, ttl=run.ttl)
        if not await lease.insisted(ask):
            raise lease.refused()
        run.known[name] = value
        return answer


def _stored(task: str, name: str, codec: Codec, answer: Any) -> Encoded:
    """The stored form of a step's result; where it has none, a warning is logged."""
    value, reason = stored(codec, answer)
    if reason:
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
