"""A position in the user's own database, moved in the transaction of the effects that it counts.

Claiming it raises the fence of its row, and moving it asks for that fence again: so of two that
believe to be its owner, the later one goes on, and the other commits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilient.connections.drivers import UserConnection
from resilient.connections.tables import SECONDS, UserTable, ensured, swept

__all__ = ["CURSORS", "UserCursor"]

CURSORS = UserTable(
    "resilient_cursors",
    "task, place",
    "task text NOT NULL, place text NOT NULL, life bigint NOT NULL, fence bigint NOT NULL, "
    "data bytea, moved_at bigint NOT NULL, PRIMARY KEY (task, place)",
)
MEMORY = 30 * 86400
"""Seconds for which a position is remembered after it was moved."""

CLAIM = """
INSERT INTO resilient_cursors AS known (task, place, life, fence, data, moved_at)
VALUES (:task, :place, :life, :fence, CAST(NULL AS bytea), {now})
ON CONFLICT (task, place) DO UPDATE SET
data = CASE WHEN known.life = excluded.life THEN known.data ELSE NULL END,
life = excluded.life, fence = excluded.fence, moved_at = excluded.moved_at
WHERE known.fence <= excluded.fence RETURNING data
"""
MOVE = """
UPDATE resilient_cursors SET data = :data, moved_at = {now}
WHERE task = :task AND place = :place AND life = :life AND fence = :fence RETURNING fence
"""
KEEP = """
INSERT INTO resilient_cursors (task, place, life, fence, data, moved_at)
VALUES (:task, :place, :life, :fence, :data, {now})
ON CONFLICT (task, place) DO UPDATE SET
life = excluded.life, fence = excluded.fence, data = excluded.data, moved_at = excluded.moved_at
"""
KEPT = """
SELECT place, data FROM resilient_cursors
WHERE task = :task AND life = :life AND substr(place, 1, :length) = :head
"""


class UserCursor:
    """One position.

    Args:
        connection: In whose transactions it is moved.
        task: Whose it is, unique among all that write to this database.
        place: Which one of those.
        life: A position of another life is forgotten.
        fence: Of its owner.
    """

    def __init__(
        self, connection: UserConnection, task: str, place: str, *, life: int, fence: int
    ) -> None:
        self._connection = connection
        self._row: dict[str, Any] = {"task": task, "place": place, "life": life, "fence": fence}
        self._now = SECONDS[connection.dialect]

    async def claim(self) -> tuple[bool, bytes | None]:
        """Become its owner in the open transaction; false if a later one is. And where it is."""
        await ensured(self._connection, CURSORS)
        await swept(self._connection, CURSORS, "moved_at", memory=MEMORY)
        rows = await self._connection.execute(CLAIM.format(now=self._now), **self._row)
        if not rows:
            return False, None
        return True, None if rows[0][0] is None else bytes(rows[0][0])

    async def move(self, data: bytes) -> bool:
        """Store where it is now; false if it has another owner."""
        rows = await self._connection.execute(MOVE.format(now=self._now), data=data, **self._row)
        return bool(rows)

    async def keep(self, number: int, data: bytes) -> None:
        """Store something under a number, beside the position."""
        row = {**self._row, "place": f"{self._row['place']}[{number}]", "data": data}
        await self._connection.execute(KEEP.format(now=self._now), **row)

    async def kept(self) -> Mapping[int, bytes]:
        """What is stored under numbers."""
        head = f"{self._row['place']}["
        rows = await self._connection.execute(
            KEPT,
            task=self._row["task"],
            life=self._row["life"],
            length=len(head),
            head=head,
        )
        found = [(place[len(head) : -1], data) for place, data in rows]
        return {int(number): bytes(data) for number, data in found if number.isdigit()}
