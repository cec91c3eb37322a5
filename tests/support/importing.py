"""An importing job for tests, which fails where each of them wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from resilient import checkpointed
from tests.support.jobs import each
from tests.support.modes import Mode


@dataclass
class State:
    """What a job has made of its items."""

    rows: int = 0
    order: list[int] = field(default_factory=list)


class Flaky(Exception):
    """Raised by a body once."""


class Importing:
    """A job over numbers, that fails where each test wants."""

    def __init__(self, mode: Mode, count: int = 10, **options: Any) -> None:
        self.mode = mode
        self.count = count
        self.seen: list[int] = []
        self.fails_at: dict[int, BaseException] = {}
        options = {"state": State, "every": 3, **options}
        self.run = mode.decorate(checkpointed("import:{path}", **options), self._body())

    def _body(self) -> Any:
        async def load(job: Any, path: str) -> int:
            async for item in each(job.iterate(range(self.count), total=self.count)):
                job.state.rows += 1
                job.state.order.append(item)
                self.seen.append(item)
                await self.mode.sleep(0)
                if item in self.fails_at:
                    raise self.fails_at.pop(item)
            rows: int = job.state.rows
            return rows

        return load

    def at(self, path: str = "x") -> Any:
        """The job's controls."""
        return checkpointed.of(self.run).at(path)
