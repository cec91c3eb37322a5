"""A loop with `conn=`: its position and the state are committed with the effects of its items.

The user's database is then the one that knows how far the loop is. What the job's own store says
follows it: it is saved after each commit, and is corrected by what is read when the loop begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.connections.cursors import UserCursor
from resilient.connections.drivers import UserConnection, recognised
from resilient.engine import clock
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.record import Record
from resilient.policies.checkpointed.versions import state_of
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.backend import Mode
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.places import Place
    from resilient.policies.checkpointed.run import Run

__all__ = ["Ledger", "ledger_of"]


def ledger_of(run: Run, loop: Place, connection: Any, *, mode: Mode, what: str) -> Ledger:
    """Keep a loop that begins in the user's own database.

    Raises:
        ConfigurationError: It is no known connection, or lies in another such loop.
    """
    if loop.is_provisional:
        loop.is_open = False
        raise ConfigurationError(
            f"{what}: inside of a loop with conn=, whose transaction would be committed half-way"
        )
    ledger = Ledger(run, loop, recognised(connection, mode=mode, what=what))
    loop.has_ledger = True
    run.ledgers.append(ledger)
    return ledger


class Ledger:
    """What one loop has done in the user's database, and what of it is not committed yet.

    Attributes:
        is_claimed: Whether it has been read, and is this run's to write.
        is_open: Whether a transaction of it is open.
    """

    def __init__(self, run: Run, loop: Place, connection: UserConnection) -> None:
        self._run = run
        self._loop = loop
        self._connection = connection
        self._cursor = (
            None
            if run.lease is None
            else UserCursor(
                connection, run.scope + run.task, loop.path, life=run.life, fence=run.lease.fence
            )
        )
        self._pending = 0
        self._after: tuple[Any, bytes] = (None, b"")
        self._due = 0.0
        self._results: list[Any] = []  # of a run of which nothing is kept
        self.is_claimed = False
        self.is_open = False

    async def claim(self) -> None:
        """Go on where the last commit was.

        Raises:
            StaleRunner: A later runner has been here.
        """
        self.is_claimed = True
        await self.begin()
        if self._cursor is None:
            return
        is_ours, data = await self._cursor.claim()
        if not is_ours:
            await self.roll_back()
            raise self._run.stale("a later runner has written to the database")
        loop, total = self._loop, self._loop.total
        before = loop.done, loop.is_complete
        if data is None:
            loop.go_to([0, total, False, {}])
        else:
            record = Record.decode(Encoded(data))
            [position] = record.loops.values()
            loop.go_to(position)
            loop.total = loop.total if total is None else total
            if (loop.done, loop.is_complete) != before:  # else the job's own store knows more
                self._run.state = state_of(self._run.settings, self._run.task, record)
        self._after = loop.cursor, loop.digest
        loop.is_open = not loop.is_complete
        if loop.is_complete:
            await self.roll_back()

    async def begin(self) -> None:
        """Have a transaction open, in which the body makes its effects."""
        if not self.is_open:
            await self._connection.begin()
            self.is_open = True
            self._due = clock.now() + self._run.settings.seconds

    def item_done(self, count: int, cursor: Any, digest: bytes) -> bool:
        """So many items are done; whether it is time to commit."""
        self._pending += count
        self._after = cursor, digest
        self._loop.next_item(0)
        return (
            self._pending >= self._run.settings.every
            or clock.now() >= self._due
            or self._run.is_asked_to_save
        )

    async def settle(self, *, is_complete: bool = False) -> bool:
        """Commit what is done, and that it is done; whether the run has something to `tend`.

        Raises:
            StaleRunner: The loop has another runner; nothing is committed.
        """
        run, loop = self._run, self._loop
        if self._cursor is not None:
            run.check()
            await self.begin()
            position = [loop.done + self._pending, loop.total, is_complete, {}, *self._after]
            if not await self._cursor.move(run.record({loop.name: position}).encode()):
                await self.roll_back()
                raise run.stale("a later runner has written to the database")
        await self._connection.commit()
        self.is_open = False
        loop.cursor, loop.digest = self._after
        pending, self._pending = self._pending, 0
        return run.item_done(loop, pending) if pending else False

    async def roll_back(self) -> None:
        """Undo what is not committed."""
        self.is_open = False
        self._pending = 0
        await self._connection.rollback()

    async def keep(self, result: Any, codec: Codec) -> None:
        """Store what the item in hand has brought, to be committed with it."""
        if self._cursor is None:
            self._results.append(result)
        else:
            await self._cursor.keep(self._loop.done + self._pending, codec.encode(result))

    async def results(self, codec: Codec) -> list[Any]:
        """What all items have brought."""
        if self._cursor is None:
            return self._results
        await self._connection.begin()
        kept = await self._cursor.kept()
        await self._connection.rollback()
        return [codec.decode(Encoded(kept[number])) for number in range(self._loop.done)]
