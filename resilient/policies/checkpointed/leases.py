"""A runner's lease, and the error that tells of its loss."""

from __future__ import annotations

from resilient.engine.lease import Lease
from resilient.errors import StaleRunner

__all__ = ["RunnerLease"]


class RunnerLease(Lease):
    """A runner's hold on its job."""

    def error(self) -> StaleRunner:
        """The exception that tells the runner that it is stale."""
        return StaleRunner(str(super().error()), key=self.key, fence=self.fence)
