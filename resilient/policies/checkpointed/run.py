"""One run of a job: what its runner knows, and what it saves of that.

An item is done when the body asks for the next one. Only then is the state what the items that are
done have made of it, so that only then it is taken, together with the loops' positions: what is
saved never holds half an item.
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from resilient.engine import clock
from resilient.engine.backend import made_once
from resilient.engine.persistence import BUDGET
from resilient.engine.plan import NOW
from resilient.errors import BackendError, JobCancelled, LeaseLost
from resilient.policies.checkpointed.leases import RunnerLease
from resilient.policies.checkpointed.places import Place, here, place_in
from resilient.policies.checkpointed.progress import Meter, Progress, progress_over
from resilient.policies.checkpointed.record import Record
from resilient.policies.checkpointed.results import stored
from resilient.policies.checkpointed.turn import Turn
from resilient.policies.checkpointed.versions import refuse_version, state_of
from resilient.protocols.checkpoints import Started
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.policies.checkpointed.bars import Display
    from resilient.policies.checkpointed.job import AnyJob
    from resilient.policies.checkpointed.ledger import Ledger
    from resilient.policies.checkpointed.plan import Settings

__all__ = ["Run"]

SMALL = 4096
"""Bytes of a stored state up to which it is taken after each item, and not with each save only."""
LOOK_EVERY = 1.0
"""Seconds between two looks whether somebody has cancelled the job."""


class Run(Place):
    """One run of a job; without a lease, one of which nothing is kept.

    It is the place around the outermost loops of the job.

    Attributes:
        settings: The options of the job's function.
        task: The job's key.
        lease: Under which the job is run; its store is where that is saved.
        ttl: Seconds for which what is saved is kept.
        attempt: 1 in the first run of the job.
        scope: What tells it from jobs of its name in other tenants.
        life: What tells it from an earlier job of its name.
        known: The results of steps that are stored, by name; those of earlier runs too.
        ledgers: Of the loops that have a transaction open in the user's own database.
        left: Those of them that the body has left, and that are not settled yet.
        state: The body's own, as it is now.
        unsaved: Items done since the last save.
        look_due: When to `look`.
    """

    name = ""  # as a place
    is_open = True
    unsaved = 0
    left: tuple[Ledger, ...] = ()
    _meter: Meter | None = None
    _display: Display | None = None
    _at_end: Progress | None = None  # how far it had come when it was over
    _save_due = math.inf
    _sequence: int | None = None  # of the next checkpoint; `None`: the server knows
    _label: str | None = None  # of the save that is made when the item in hand is done
    _boundary: Encoded | None = None  # the state when the last item was done
    _last: Encoded | None = None  # the state in the checkpoint that this run saved last
    _is_small = True
    _has_news = False  # whether a loop has come to its end since the last save

    def __init__(
        self,
        settings: Settings,
        task: str,
        lease: RunnerLease | None = None,
        ttl: float = 0.0,
        attempt: int = 1,
        scope: str = "",
        life: int = 0,
        began: float = math.inf,
    ) -> None:
        self.settings = settings
        self.task = task
        self.lease = lease
        self.ttl = ttl
        self.attempt = attempt
        self.scope = scope
        self.life = life
        self.ledgers: list[Ledger] = []
        self.state: Any = settings.state.make()
        # As a place. It does not refer to itself, which would be a cycle.
        self.around = here.get()
        self.loops = {}
        self._job: ref[AnyJob] | None = None
        self.look_due = began + LOOK_EVERY
        self.known: dict[str, Encoded] = {}

    @property
    def run(self) -> Run:
        """This one."""
        return self

    @property
    def job(self) -> AnyJob:
        """What the body sees of this: one object for as long as somebody has it."""
        job = None if self._job is None else self._job()
        if job is None:
            job = self.settings.job(self)
            self._job = ref(job)
        return job

    @made_once
    def _turn(self) -> Turn:
        """Whose turn it is to save."""
        return Turn()

    # --- resuming

    async def resume(self, started: Started) -> None:
        """Go on from where the last run was saved.

        Raises:
            ConfigurationError: That was a run of another version.
            CodecError: What was saved cannot be read.
        """
        self.known.update(started.steps)
        checkpoint = started.checkpoint
        if checkpoint is not None:
            record = Record.decode(checkpoint.data)
            self.state = state_of(self.settings, self.task, record)
            self.restore(record.loops)
            self._sequence = checkpoint.sequence + 1
        elif self.known and started.version != self.settings.version:
            if self.settings.migrate is None:
                # The store has our version now: leave word that the steps are of the other one.
                with suppress(BackendError):
                    await self._saved(self._encoded_state(), version=started.version)
            refuse_version(self.settings, self.task, started.version)

    # --- in the body

    def begin_loop(self, name: str | None, items: object, total: int | None) -> Place:
        """The loop that begins where the caller is."""
        if self._meter is None:
            self._meter = Meter()
            self._save_due = clock.now() + self.settings.seconds
            self._display = self.settings.display(self.task)
        return place_in(self).enter(name, items, total)

    def item_done(
        self, loop: Place, count: int = 1, cursor: Any = None, digest: bytes = b""
    ) -> bool:
        """What was in hand, so many items, is done; whether there is something to `tend`.

        Args:
            loop: The loop.
            count: How many items.
            cursor: The key of the last of them.
            digest: Of all up to it.

        Raises:
            StaleRunner: The job may have another runner now.
            CodecError: The state has no stored form.
        """
        now = clock.now()
        meter, lease = self._meter, self.lease
        assert meter is not None
        state, is_saved = None, lease is not None and not loop.is_provisional
        if is_saved:
            state = self._reached()  # first: if it has no stored form, this item is not done
            self._boundary = None  # nor does the old one belong to the new position
        loop.next_item(count, cursor, digest)
        if loop.around is self:
            meter.add(count)
            if now >= meter.due:
                meter.mark(now)
            if self._display is not None and now >= self._display.due:
                self._display.show(self.progress(), now)
        if lease is not None and (now >= lease.deadline or lease.reason is not None):
            raise lease.error()
        if not is_saved:
            return False
        self.unsaved += count
        self._boundary = state
        return self._is_save_due(now) or now >= self.look_due

    def _is_save_due(self, now: float) -> bool:
        return (
            self.unsaved >= self.settings.every or now >= self._save_due or self._label is not None
        )

    @property
    def is_asked_to_save(self) -> bool:
        """Whether the body has asked for a save, when the item in hand is done."""
        return self._label is not None

    def check(self) -> None:
        """Raise `StaleRunner` if the job is lost."""
        if self.lease is not None:
            self.lease.check()

    def record(self, loops: dict[str, Any]) -> Record:
        """These positions, and the state of now."""
        settings = self.settings
        return Record(settings.version, loops, self._encoded_state(), code=settings.code.digest)

    async def tend(self) -> None:
        """Save what is due, and look now and then whether the job has been cancelled.

        Raises:
            JobCancelled: It has.
            StaleRunner: The job has another runner now.
        """
        if self._is_save_due(await NOW):
            await self.save_due()
        await self.look()

    async def look(self) -> None:
        """Look now and then whether the job has been cancelled; `JobCancelled` if so."""
        if (now := clock.now()) < self.look_due or self.lease is None:
            return
        self.look_due = now + LOOK_EVERY
        if await self.lease.is_cancelled():
            raise JobCancelled(
                f"the job {self.task!r} was cancelled; its next call goes on from here",
                key=self.task,
            )

    def loop_done(self, loop: Place) -> None:
        """The loop has come to its end."""
        if loop.is_provisional:
            loop.complete()
            return
        state = None if self.lease is None else self._reached()  # first, as above
        self._boundary = None
        loop.complete()
        self._has_news = True
        self._boundary = state

    def progress(self) -> Progress:
        """How far it is."""
        if self._at_end is not None:
            return self._at_end
        return progress_over(self.loops.values(), self._meter)

    async def settle_left(self) -> None:
        """Commit what was done in loops with `conn=` that the body has left by `break`.

        Not while it handles an error that came since: that may have left the loop in the middle
        of an item.
        """
        for ledger in self.left:
            if ledger.handled is sys.exc_info()[1]:
                self.left = tuple(left for left in self.left if left is not ledger)
                if ledger.is_open:
                    await ledger.end()

    async def save(self, label: str) -> None:
        """Save now; in a loop, as soon as the item in hand is done."""
        if self.lease is None:
            return
        self.lease.check()
        self._label = label
        if place_in(self) is self:
            await self.settle_left()
            await self.save_due()

    # --- saving

    async def save_due(self, *, always: bool = False) -> None:
        """Save, unless another task of the body has just done so."""
        if self.lease is None:
            return
        await self._turn.take()
        try:
            if always or self._is_dirty or self._label is not None:
                await self._saved(self._encoded_state(), label=self._label or "")
        finally:
            self._turn.give()

    async def finish(self, answer: Any) -> None:
        """Save what is not saved yet, then store the job's result."""
        if self._display is not None:
            self._display.close(self.progress())
        while self.ledgers:  # of loops that were left by `break`
            await self.ledgers[0].end()
        lease = self.lease
        if lease is None:
            return
        if lease.inherited:
            raise lease.error()
        is_news = self._last is not None and self._last != self._encoded_state()
        if self.unsaved or self._label is not None or is_news:
            await self.save_due(always=True)
        result, _ = stored(self.settings.result, answer)
        lease.drop()  # first, so that no renewal outlives the run
        finish, fence = lease.store.finish, lease.fence
        try:
            accepted = await lease.insisted(
                lambda: finish(self.task, result, fence=fence, ttl=self.ttl)
            )
        except BackendError as error:
            error.add_note(
                f"the job {self.task!r} has run to its end, but its result could not be stored: "
                "the next call goes on from the last checkpoint"
            )
            raise
        if not accepted:
            raise lease.refused()

    async def abandon(self, error: BaseException) -> None:
        """Save what is done, and let the next runner start at once."""
        if self._display is not None:
            self._display.close(None)
        for ledger in [*self.ledgers]:
            with suppress(Exception):  # whatever the user's driver says: it is not committed
                await ledger.roll_back()
        if self.lease is None:
            return
        try:
            if not self.lease.lost and self._is_dirty and self._boundary is not None:
                until = min(self.lease.deadline, await NOW + BUDGET)
                await self._saved(self._boundary, until=until)
        except (BackendError, LeaseLost) as failure:
            error.add_note(f"the last {self.unsaved} items done could not be saved: {failure}")
        finally:
            self.lease.drop()
            if not self.lease.inherited:
                with suppress(BackendError):
                    await self.lease.store.stop(self.task, owner=self.lease.owner)

    def close(self) -> None:
        """It is over: leave no cycle behind, which only the garbage collector would free."""
        self.is_open = False
        if self.loops:
            self._at_end = self.progress()
            self.clear()

    async def _saved(
        self,
        state: Encoded,
        *,
        label: str = "",
        version: str | None = None,
        until: float | None = None,
    ) -> None:
        """Save this state, and with it where the loops are now."""
        assert self.lease is not None
        settings, count = self.settings, self.unsaved
        version = settings.version if version is None else version
        progress = self.progress()
        ask = partial(
            self.lease.store.save,
            self.task,
            Record(version, self.stored(), state, progress.rate, settings.code.digest).encode(),
            fence=self.lease.fence,
            sequence=self._sequence,
            progress=progress.percent,
            eta=progress.eta,
            label=label,
            keep=settings.keep,
            ttl=self.ttl,
            lease=settings.lease,
        )
        asked, self._label = self._label, None
        self._boundary, self._has_news = state, False
        # Until the answer is there, nobody here knows whether the number has been used.
        self._sequence = None
        began = await NOW
        try:
            saved = await self.lease.insisted(ask, until)
        except BaseException:
            self._has_news = True
            if self._label is None:  # else there is a later one
                self._label = asked
            raise
        if saved is None:
            raise self.lease.refused()
        self._sequence = saved.sequence + 1
        self.unsaved -= count
        self._last = state
        self._save_due = began + settings.seconds
        self.lease.renewed(began)

    @property
    def _is_dirty(self) -> bool:
        return self.unsaved > 0 or self._has_news

    def _reached(self) -> Encoded | None:
        """The state between two items, unless that would cost too much after each of them."""
        return self._encoded_state() if self._is_small else None

    def _encoded_state(self) -> Encoded:
        state = self.settings.state.codec.encode(self.state)
        self._is_small = len(state) <= SMALL
        return state
