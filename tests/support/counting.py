"""A store whose operations are counted."""

from __future__ import annotations

from typing import Any

from resilient.errors import BackendError

__all__ = ["Counting"]


class Counting:
    """Counts the store's operations, and fails them when told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: list[str] = []
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            if name in self.failing:
                raise BackendError("away", transient=False)
            return await operation(*args, **kwargs)

        return counted
