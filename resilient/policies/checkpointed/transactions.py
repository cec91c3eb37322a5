"""`job.transaction(conn)`: effects outside of a loop that are committed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.engine.drivers.sync import drive
from resilient.policies.checkpointed.places import here

if TYPE_CHECKING:
    from resilient.policies.checkpointed.ledger import Ledger
    from resilient.policies.checkpointed.places import Place
    from resilient.policies.checkpointed.run import Run

__all__ = ["AsyncTransaction", "Transaction"]


class TransactionInHand:
    """One transaction in the life of a job.

    Attributes:
        done: Whether an earlier run has committed it: there is nothing to do.
    """

    def __init__(self, run: Run, place: Place, ledger: Ledger) -> None:
        self._run = run
        self._place = place
        self._ledger = ledger
        self.done: bool = False

    async def _begin(self) -> None:
        await self._run.settle_left()
        await self._ledger.claim()
        self.done = self._place.is_complete
        if not self.done:
            await self._ledger.begin()
            self._ledger.in_hand = 1, None, b""

    async def _end(self, error: BaseException | None) -> None:
        if self.done:
            return
        self._place.is_open = False
        if error is not None:
            await self._ledger.roll_back()
            return
        if await self._ledger.end():
            await self._run.tend()


class Transaction(TransactionInHand):
    """What `Job.transaction` gives, for `with`."""

    def __enter__(self) -> Transaction:
        drive(self._begin())
        here.set(self._place)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        here.set(self._place.around)
        drive(self._end(error))


class AsyncTransaction(TransactionInHand):
    """What `AsyncJob.transaction` gives, for `async with`."""

    async def __aenter__(self) -> AsyncTransaction:
        from resilient.engine.drivers.aio import adrive

        await adrive(self._begin())
        here.set(self._place)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        from resilient.engine.drivers.aio import adrive

        here.set(self._place.around)
        await adrive(self._end(error))
