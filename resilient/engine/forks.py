"""What a forked child must forget: threads that are not there, sockets and leases of its parent."""

from __future__ import annotations

import os
from collections.abc import Callable

from resilient.engine.weak_methods import WeakMethods

__all__ = ["forget_in_child"]

_forget = WeakMethods()
os.register_at_fork(after_in_child=_forget)


def forget_in_child(method: Callable[[], None]) -> None:
    """Have a bound method called in every forked child, for as long as its object lives."""
    _forget.add(method)
