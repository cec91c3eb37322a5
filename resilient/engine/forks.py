"""What a forked child must forget: threads that are not there, sockets and leases of its parent."""

from __future__ import annotations

import os
from collections.abc import Callable
from weakref import WeakMethod

__all__ = ["forget_in_child"]

_forgetful: list[WeakMethod[Callable[[], None]]] = []


def forget_in_child(method: Callable[[], None]) -> None:
    """Have a bound method called in every forked child, for as long as its object lives."""
    _forgetful[:] = [reference for reference in _forgetful if reference() is not None]
    _forgetful.append(WeakMethod(method))


def _forget() -> None:
    for reference in _forgetful:
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_forget)
