"""The steps of a job: each is run once in its life, and its result stored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.engine.plan import Body
from resilient.errors import ConfigurationError

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.run import Run

__all__ = ["Steps"]


class Steps:
    """Those of one run."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def once(self, name: str, codec: Codec, *, retries: int = 0) -> Any:
        """The result of a step: stored earlier, or of the function that is the plan's body."""
        if not name:
            raise ConfigurationError("step(''): a step needs a name")
        if (stored := self._run.known.get(name)) is not None:
            return codec.decode(stored)
        run = self._run
        if run.store is None or run.lease is None:
            return await _attempted(retries)
        run.lease.check()
        await run.settle_left()
        await run.look()
        answer = await (_attempted(retries) if retries else Body())
        value = codec.encode(answer)
        fence = run.lease.fence
        ask = partial(run.store.step, run.task, name, value, fence=fence, ttl=run.ttl)
        if not await run.insisted(ask):
            raise run.refused()
        run.known[name] = value
        return answer


async def _attempted(retries: int) -> Any:
    """What the body answers, in one of so many more tries."""
    while retries:
        try:
            return await Body()
        except Exception:
            retries -= 1
    return await Body()
