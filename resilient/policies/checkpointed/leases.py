"""A runner's lease: what is written under it, and the error that tells of its loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from resilient.engine.guard import guarded
from resilient.engine.lease import Lease
from resilient.engine.persistence import asked_again
from resilient.engine.plan import Plan
from resilient.errors import BackendError, StaleRunner
from resilient.protocols.checkpoints import CheckpointStore, Running

__all__ = ["RunnerLease"]

T = TypeVar("T")


class RunnerLease(Lease):
    """A runner's hold on its job."""

    store: CheckpointStore

    async def insisted(self, ask: Callable[[], Plan[T]], until: float | None = None) -> T:
        """Ask, again after lost replies: for as long as it lasts, or until then."""
        try:
            return await guarded(ask)
        except BackendError as error:
            until = self.deadline if until is None else until
            return await asked_again(error, partial(guarded, ask), until=until)

    async def is_cancelled(self) -> bool:
        """Whether somebody has asked the runner to stop."""
        try:
            runner = await self.store.runner(self.key)
        except BackendError:
            return False  # renewals and saves see to an outage
        # Of another runner the next save tells, and with more right.
        return isinstance(runner, Running) and runner.owner == self.owner and runner.cancelled

    def refused(self) -> StaleRunner:
        """The server has refused a write of this run: the error that says so."""
        return self.stale("the server says that it has another runner, or was forgotten")

    def stale(self, reason: str) -> StaleRunner:
        """The job has another runner now: the error that says so."""
        self.lose(reason)
        return self.error()

    def error(self) -> StaleRunner:
        """The exception that tells the runner that it is stale."""
        return StaleRunner(str(super().error()), key=self.key, fence=self.fence)
