"""A loop with `conn=`: its position and the state are committed with the effects of its items.

The user's database is then the one that knows how far the loop is. What the job's own store says
follows it: it is saved after each commit, and is corrected by what is read when the loop begins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resilient.connections.cursors import UserCursor
from resilient.connections.drivers import UserConnection, recognised
from resilient.engine import clock
from resilient.errors import ConfigurationError, StaleRunner
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
        ConfigurationError: It is no known connection, lies in another such loop, or was left.
    """
    if loop.is_provisional:
        loop.is_open = False
        raise ConfigurationError(
            f"{what}: inside of a loop with conn=, whose transaction would be committed half-way"
        )
    if any(left.loop is loop for left in run.left):
        loop.is_open = False
        raise ConfigurationError(
            f"{what}: the job {run.task!r} has left its loop {loop.name!r} with conn=, which is "
            "over with that"
        )
    ledger = Ledger(run, loop, connection, recognised(connection, mode=mode, what=what))
    loop.has_ledger = True
    return ledger


class Ledger:
    """What one loop has done in the user's database, and what of it is not committed yet.

    Attributes:
        loop: The loop.
        in_hand: How many items the body has in hand, with the key of the last one and the digest
            of all up to it.
        is_claimed: Whether it has been read, and is this run's to write.
        handled: The error that the body was handling when the loop began.
    """

    def __init__(self, run: Run, loop: Place, own: Any, connection: UserConnection) -> None:
        self.loop = loop
        self.in_hand: tuple[int, Any, bytes] | None = None
        self.is_claimed = False
        self.handled = sys.exc_info()[1]
        self._run = run
        self._own = own
        self._connection = connection
        self._cursor = (
            None
            if run.lease is None
            else UserCursor(
                connection, run.scope + run.task, loop.path, life=run.life, fence=run.lease.fence
            )
        )
        self._pending = 0
        self._after: Sequence[Any] = (None, b"")
        self._due = 0.0
        self._results: list[Any] = []  # of a run of which nothing is kept

    @property
    def is_open(self) -> bool:
        """Whether a transaction of it is open."""
        return self in self._run.ledgers

    async def claim(self) -> None:
        """Go on where the last commit was.

        Raises:
            StaleRunner: A later runner has been here.
            ConfigurationError: The connection is in the middle of another loop.
        """
        self._refuse_shared()
        self.is_claimed = True
        await self.begin()
        if self._cursor is None:
            return
        is_ours, data = await self._cursor.claim()
        if not is_ours:
            await self.roll_back()
            raise self._stale()
        loop, total = self.loop, self.loop.total
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
            # Not undone: what the body has written here before is committed by every run.
            await self._commit()

    def _stale(self) -> StaleRunner:
        lease = self._run.lease
        assert lease is not None  # else there was no fence to compare
        return lease.stale("a later runner has written to the database")

    def _refuse_shared(self) -> None:
        for other in self._run.ledgers:
            if other._own is self._own:
                raise ConfigurationError(
                    f"conn={self._own!r} has the open transaction of the loop {other.loop.name!r}: "
                    "another thread or task is in that, or an error that is still handled has "
                    "left it"
                )

    async def begin(self) -> None:
        """Have a transaction open, in which the body makes its effects."""
        if not self.is_open:
            await self._connection.begin()
            self._run.ledgers.append(self)
            self._due = clock.now() + self._run.settings.seconds

    def item_done(self) -> bool:
        """What the body has in hand is done; whether it is time to commit."""
        if self.in_hand is not None:
            count, *self._after = self.in_hand
            self.in_hand = None
            self._pending += count
            self.loop.next_item(0, self.loop.cursor, self.loop.digest)
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
        run, loop = self._run, self.loop
        if self._cursor is not None:
            run.check()
            await self.begin()
            position = [loop.done + self._pending, loop.total, is_complete, {}, *self._after]
            if not await self._cursor.move(run.record({loop.name: position}).encode()):
                await self.roll_back()
                raise self._stale()
        await self._commit()
        loop.cursor, loop.digest = self._after
        pending, self._pending = self._pending, 0
        return run.item_done(loop, pending, *self._after) if pending else False

    async def end(self) -> bool:
        """The loop is over, and what the body has in hand is done: commit it, as `settle` does.

        So it is too when the body leaves the loop by `break`: what it has written for the item
        cannot be told from what it has written for those before.
        """
        self.item_done()
        is_due = await self.settle(is_complete=True)
        self._run.loop_done(self.loop)
        return is_due

    async def roll_back(self) -> None:
        """Undo what is not committed."""
        self._close()
        self._pending = 0
        self.in_hand = None
        await self._connection.rollback()

    async def _commit(self) -> None:
        await self._connection.commit()
        self._close()

    def _close(self) -> None:
        if self.is_open:
            self._run.ledgers.remove(self)

    async def keep(self, result: Any, codec: Codec) -> None:
        """Store what the item in hand has brought, to be committed with it."""
        if self._cursor is None:
            self._results.append(result)
        else:
            await self._cursor.keep(self.loop.done + self._pending, codec.encode(result))

    async def results(self, codec: Codec) -> list[Any]:
        """What all items have brought."""
        if self._cursor is None:
            return self._results
        await self._connection.begin()
        kept = await self._cursor.kept()
        await self._connection.rollback()
        return [codec.decode(Encoded(kept[number])) for number in range(self.loop.done)]
