"""Jobs and checkpoints that are broken on purpose."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from resilient.protocols.checkpoints import Checkpoint, Started
from resilient.protocols.values import Encoded
from tests.conformance.broken.base import EXAMPLES, NEVER, Broken


class Checkpoints(Broken):
    capability = "checkpoints"

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.fences: dict[str, int] = {}

    async def start(self, task: str, *, lease: float, **options: Any) -> Any:
        answer = await self.store.start(task, lease=lease, **options)
        if isinstance(answer, Started):
            self.fences[task] = answer.fence
        return answer


class SaveWithoutFenceCheck(Checkpoints):
    """A stale runner saves over the one that took over."""

    async def save(
        self, task: str, data: Encoded, *, fence: int | None = None, **options: Any
    ) -> Checkpoint | None:
        fence = fence if fence is None else self.fences.get(task, fence)
        saved: Checkpoint | None = await self.store.save(task, data, fence=fence, **options)
        return saved


class StepWithoutFenceCheck(Checkpoints):
    """A stale runner writes steps."""

    async def step(
        self, task: str, name: str, value: Encoded, *, fence: int, **options: Any
    ) -> bool:
        fence = self.fences.get(task, fence)
        return bool(await self.store.step(task, name, value, fence=fence, **options))


class FinishWithoutFenceCheck(Checkpoints):
    """A stale runner finishes the job."""

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        fence = self.fences.get(task, fence)
        return bool(await self.store.finish(task, result, fence=fence, ttl=ttl))


class SavedTwice(Checkpoints):
    """A save that is sent again is another checkpoint."""

    async def save(
        self, task: str, data: Encoded, *, sequence: int | None = None, **options: Any
    ) -> Checkpoint | None:
        saved: Checkpoint | None = await self.store.save(task, data, **options)
        return saved


class AllAreKept(Checkpoints):
    """Nothing is ever dropped."""

    async def save(
        self, task: str, data: Encoded, *, keep: int = 5, **options: Any
    ) -> Checkpoint | None:
        saved: Checkpoint | None = await self.store.save(task, data, keep=10**6, **options)
        return saved


class RunnersNeverDie(Checkpoints):
    """The runner's lease is ignored."""

    async def start(self, task: str, *, lease: float, **options: Any) -> Any:
        answer = await super().start(task, lease=lease * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER) if hasattr(answer, "owner") else answer


class RunnersAreNotAlone(Checkpoints):
    """By hand it is saved while somebody runs the job."""

    async def save(
        self, task: str, data: Encoded, *, fence: int | None = None, **options: Any
    ) -> Checkpoint | None:
        fence = self.fences.get(task) if fence is None else fence
        saved: Checkpoint | None = await self.store.save(task, data, fence=fence, **options)
        return saved


class RerunRemembers(Checkpoints):
    """A job that is run again keeps its steps."""

    async def start(self, task: str, *, rerun: bool = False, **options: Any) -> Any:
        answer = await super().start(task, rerun=rerun, **options)
        return answer._replace(steps=self.steps[task]) if isinstance(answer, Started) else answer

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.steps: dict[str, dict[str, Encoded]] = defaultdict(dict)

    async def step(self, task: str, name: str, value: Encoded, **options: Any) -> bool:
        self.steps[task].setdefault(name, value)
        return bool(await self.store.step(task, name, value, **options))


class VersionIsTheNewOne(Checkpoints):
    """A runner is told its own version instead of the one before."""

    async def start(self, task: str, *, version: str = "", **options: Any) -> Any:
        answer = await super().start(task, version=version, **options)
        return answer._replace(version=version) if isinstance(answer, Started) else answer


class CancelledForEver(Checkpoints):
    """A job that was cancelled once is cancelled in each later run."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.cancelled: set[str] = set()

    async def cancel(self, task: str) -> bool:
        accepted: bool = await self.store.cancel(task)
        if accepted:
            self.cancelled.add(task)
        return accepted

    async def runner(self, task: str) -> Any:
        answer = await self.store.runner(task)
        is_running = hasattr(answer, "cancelled")
        return answer._replace(cancelled=task in self.cancelled) if is_running else answer


class RewindDropsNothing(Checkpoints):
    """The later checkpoints stay, so that the job goes on from the newest all the same."""

    async def rewind(self, task: str, sequence: int) -> bool:
        return await self.store.load(task, sequence) is not None


class AlwaysTheFirstLife(Checkpoints):
    """A job that begins anew is taken for the one before."""

    noticed_by = (EXAMPLES,)  # few histories forget a job and begin it again

    async def start(self, task: str, *, lease: float, **options: Any) -> Any:
        answer = await super().start(task, lease=lease, **options)
        return answer._replace(life=1) if isinstance(answer, Started) else answer
