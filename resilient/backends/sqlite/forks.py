"""Who must be at rest while this process forks.

`resilient.engine.forks` tells a child what to forget. SQLite needs more: that nothing is open in
the moment of the fork.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forkable", "outlive_forks"]


class Forkable(Protocol):
    """Something that comes to rest before a fork."""

    def before_fork(self) -> None:
        """Come to rest, and stay so until one of the others is called in this thread."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        ...


_all: WeakSet[Forkable] = WeakSet()
_resting: list[Forkable] = []


def outlive_forks(forkable: Forkable) -> None:
    """Have it come to rest before every fork, for as long as it lives."""
    _all.add(forkable)


def _before() -> None:
    _resting[:] = list(_all)
    for forkable in _resting:
        forkable.before_fork()


def _after_in_parent() -> None:
    while _resting:
        _resting.pop().after_fork_in_parent()


def _after_in_child() -> None:
    while _resting:
        _resting.pop().after_fork_in_child()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
