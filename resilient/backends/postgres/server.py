"""What the connections of this process to one server have in common."""

from __future__ import annotations

from resilient.backends.postgres.commands import Function, Statement

__all__ = ["Server"]


class Server:
    """What this process knows of the server; shared by all of its connections.

    Attributes:
        schema: Where the tables and functions are.
        is_ready: Whether they have been found there.
        prepares: Whether sessions keep what was prepared in them.
        statements: How many statements were sent, for those who count.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.is_ready = False
        self.prepares = True
        self.statements = 0
        self.known: dict[Function, Statement] = {}
        """The statements of functions that were called."""
