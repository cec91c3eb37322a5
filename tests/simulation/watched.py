"""The model server, looked at: what no server may do, whatever it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.model import LockServer, Violation

__all__ = ["Watched"]


class Watched:
    """A server whose every command is looked at: what it may never do, whatever it is asked."""

    def __init__(self, server: LockServer, is_alive: Callable[[str], bool]) -> None:
        self._server = server
        self._is_alive = is_alive
        self._gone: set[str] = set()
        self._newest = 0

    def __call__(self, command: tuple[str, dict[str, Any]], now: float) -> Any:
        """Carry one command out, and look at what became of it."""
        name, arguments = command
        owner: str = arguments["owner"]
        server, holds = self._server, self._server.holds
        waiting, before = list(server.queue), set(holds)
        server.expire(now)
        mine = holds.get(owner)
        fence = None if mine is None else mine.fence
        answer = server(command, now)
        if not holds.keys() <= before:
            for granted in sorted(holds.keys() - before, key=lambda each: holds[each].fence):
                if name != "transfer":  # that is no matter of the queue
                    self._check_grant(granted, owner, name, waiting)
                self._check_fence(granted)
        self._check_queue()
        if name == "acquire" and fence is not None and answer[1] != fence:
            raise Violation(f"{owner} was granted one thing under two fences")
        if name in ("release", "withdraw"):
            self._gone.add(owner)
        if not self._gone.isdisjoint(holds):
            gone = self._gone & holds.keys()
            raise Violation(f"{gone} hold the lock after they gave it back")
        if name == "withdraw" and self._waits(owner):
            raise Violation(f"{owner} stays in line after it gave up")
        return answer

    def _check_fence(self, granted: str) -> None:
        fence = self._server.holds[granted].fence
        if fence <= self._newest:
            raise Violation(f"{granted} was granted the lock under an old fence")
        self._newest = fence

    def _check_grant(
        self, granted: str, asked_by: str, command: str, waiting: list[tuple[str, str, bool]]
    ) -> None:
        is_alive = self._is_alive
        if (granted != asked_by or command != "acquire") and not is_alive(granted):
            raise Violation(f"{granted} is dead, and the lock was handed over to it")
        before = [owner for _, owner, _ in waiting]
        ahead = before[: before.index(granted)] if granted in before else before
        left = [owner for owner in ahead if self._waits(owner) and is_alive(owner)]
        if left:
            raise Violation(f"{granted} was granted before {left}, which have waited for longer")

    def _waits(self, owner: str) -> bool:
        return any(owner == each for _, each, _ in self._server.queue)

    def _check_queue(self) -> None:
        server = self._server
        if server.queue and LockServer.is_free(server, server.queue[0][2]):
            raise Violation(f"the lock is free, and {server.queue[0][1]} was not told")
