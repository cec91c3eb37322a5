"""What the stores need of a transport beyond sending commands."""

from __future__ import annotations

from typing import Protocol

from resilient.backends.redis.commands import Command
from resilient.engine.plan import Transport

__all__ = ["Server"]


class Server(Transport[Command], Protocol):
    """One server, or a cluster of them."""

    def address(self, waiter: str | None, key: str) -> str:
        """Under what address a waiter is woken by what has this key; none for no waiter."""
        ...

    def broadcast(self, channel: str, key: str) -> str:
        """On what channel everybody is told something about this key."""
        ...
