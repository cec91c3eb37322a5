"""`lease.bind(connection)`: a transaction of the user's that only the newest holder can commit.

A fence table lies in the user's own database. Binding a transaction raises the fence there to the
lease's own and keeps its row locked until the end of the transaction: so the check and the effects
are one. A holder that was replaced finds a higher fence and is refused; a holder that was replaced
while its bound transaction was open ends it first, and its successor sees all of it or nothing.

The idea is from Kleppmann: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
"""

from __future__ import annotations

from typing import Any

from resilient.connections.drivers import UserConnection
from resilient.connections.tables import SECONDS, UserTable, ensured, swept
from resilient.engine.lease import Lease
from resilient.errors import LeaseLost

__all__ = ["FENCES", "bound"]

FENCES = UserTable(
    "resilient_fences",
    "name",
    "name text PRIMARY KEY, fence bigint NOT NULL, bound_at bigint NOT NULL",
)
MEMORY = 7 * 86400
"""Seconds for which a fence is remembered after the last transaction that was bound to it."""

RAISE = """
INSERT INTO resilient_fences AS known (name, fence, bound_at) VALUES (:name, :fence, {now})
ON CONFLICT (name) DO UPDATE SET fence = excluded.fence, bound_at = excluded.bound_at
WHERE known.fence <= excluded.fence RETURNING fence
"""
NEWEST = "SELECT fence FROM resilient_fences WHERE name = :name"


async def bound(connection: UserConnection, lease: Lease, name: str) -> None:
    """Bind the open transaction, or the one that begins here, to a lease.

    Args:
        connection: Whose transaction.
        lease: The lease under which it writes.
        name: What the lease holds, unique among all that write to this database.

    Raises:
        LeaseLost: A later holder has written already, or the lease is known to be lost; the
            transaction can no longer be committed.
    """
    await connection.begin()
    if lease.lost:
        await connection.doom()
        raise lease.error()
    await ensured(connection, FENCES)
    now = SECONDS[connection.dialect]
    if not await connection.execute(RAISE.format(now=now), name=name, fence=lease.fence):
        [(newest,)] = await connection.execute(NEWEST, name=name)
        await connection.doom()
        raise _replaced(lease, newest)
    await swept(connection, FENCES, "bound_at", memory=MEMORY)


def _replaced(lease: Any, newest: int) -> LeaseLost:
    return LeaseLost(
        f"the {lease.kind} {lease.key!r} (fence {lease.fence}) is lost: a later holder has written "
        f"under the fence {newest}; nothing of this transaction is committed",
        key=lease.key,
        fence=lease.fence,
    )
