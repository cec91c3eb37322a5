"""All circuits that this process knows on one backend, and the one flusher that speaks for them.

The flusher is a chore of the backend's worker. What the circuits have counted goes to the server
in one trip, failures within 5 ms and successes within 100 ms, and the answers are the new views.
Transitions that others cause are heard on the channel `"circuits"`.

After an error the server is left alone, so that no call has to wait for it, until
`resilient.engine.outage` has found it again. Then everything has to be asked for anew.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient import events
from resilient.engine import clock
from resilient.engine.budget import NotAsked, within
from resilient.engine.circuits.catalogue import Catalogue, is_ordinary
from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.outcomes import Batch, Run
from resilient.engine.circuits.permits import OwedPermit, OwedPermits
from resilient.engine.drivers.steps import Done, resume
from resilient.engine.drivers.sync import drive
from resilient.engine.forks import forget_in_child
from resilient.engine.plan import NOW, Listen, Plan, Together
from resilient.engine.signals import new_waiter_id
from resilient.errors import BackendError
from resilient.protocols.circuits import CircuitStore, CircuitView, parse_announcement

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.engine.circuits.in_flight import TimedCircuit

__all__ = ["KnownCircuits", "known_circuits"]

ATTRIBUTE = "_known_circuits"
CHANNEL = "circuits"
MOST_AT_ONCE = 500
"""Circuits that are sent, or asked for, in one trip."""
PATIENCE = 0.25
"""Seconds that a caller waits for the server; a flush that takes longer shows that it is slow."""
FLUSH_BUDGET = 1.0
"""Seconds that the background waits for the answers to a flush, and the first call for a view: the
server may have to be connected to, and a file to be made, first."""

UNFORESEEN = 1.0
"""Seconds after which permits are given back again after an error that is not the server's."""
SOON = 0.02
"""Seconds by which outcomes are sent early when others are sent anyway."""

_making = threading.Lock()


def known_circuits(backend: Backend, make_judge: Callable[[], CircuitStore]) -> KnownCircuits:
    """The circuits of a backend, which live as long as it does.

    Args:
        backend: Where they are shared.
        make_judge: Makes a store of circuits in this process's memory.
    """
    found: KnownCircuits | None = vars(backend).get(ATTRIBUTE)
    if found is None:
        with _making:
            found = vars(backend).get(ATTRIBUTE)
            if found is None:
                found = vars(backend)[ATTRIBUTE] = KnownCircuits(backend, make_judge())
    return found


class KnownCircuits:
    """The circuits of one backend.

    Args:
        backend: Where they are shared.
        judge: A store of circuits in this process's memory: its own judgement.
    """

    def __init__(self, backend: Backend, judge: CircuitStore) -> None:
        self.store: CircuitStore = backend.require("circuits")
        self.judge = judge
        self._backend = backend
        self.catalogue = Catalogue(self)
        self._begin()
        self._listens = False
        backend.worker.add(self)
        self._outage = backend.outage
        self._outage.when_over(self._is_back)
        forget_in_child(self._forget)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._dirty: dict[KnownCircuit, None] = {}
        self._watched: dict[TimedCircuit, None] = {}
        self._owed = OwedPermits()
        self._settles_at = -math.inf
        self._node = new_waiter_id()
        self._must_reread = False
        self._unread: list[KnownCircuit] = []
        self._asking_since = math.inf

    def _forget(self) -> None:
        # What was counted is the parent's to send, and what it heard since is not heard here.
        self.catalogue.forget()
        self._begin()

    # --- what the circuits and the calls ask for

    def touch(self, circuit: KnownCircuit) -> None:
        """A circuit has something to send, or to judge, when it is due."""
        self._dirty[circuit] = None
        if circuit.due < self._backend.worker.wakes_at:
            self._backend.worker.nudge()

    def watch(self, circuit: TimedCircuit) -> None:
        """A circuit has calls under way that may become slow."""
        self._watched[circuit] = None
        if circuit.looks_at < self._backend.worker.wakes_at:
            self._backend.worker.nudge()

    def own_judgement(
        self, circuit: KnownCircuit, outcomes: str, retry_after: float
    ) -> CircuitView:
        """What this process finds by itself of a closed circuit after these outcomes."""
        rules = circuit.rules
        if rules.quorum is not None:
            rules = rules._replace(quorum=None)
        return drive(
            self.judge.record(circuit.key, rules=rules, outcomes=outcomes, retry_after=retry_after)
        )

    def begin_anew(self, circuit: KnownCircuit) -> None:
        """The circuit has closed: what this process has found of it is over."""
        drive(self.judge.delete(circuit.key))

    def send_at_once(self, circuit: KnownCircuit) -> None:
        """Tell a store in this very process what tripped; any other is told in the background."""
        if self.is_away or "sync" not in self._backend.modes:
            return
        batch = circuit.collect()
        if batch is None:
            return
        plan = self._record(circuit, batch)
        try:
            step = resume(plan, None, None)
        except Exception:  # the flusher will meet it again, and say so
            circuit.keep(batch, sent=False)
            return
        if type(step) is Done:
            circuit.adopt(step.value, batch.version)
        else:  # it has asked its transport something, which was not sent
            plan.close()
            circuit.keep(batch, sent=False)

    @property
    def is_away(self) -> bool:
        """Whether the server is left alone after an error."""
        return self._outage.is_on

    @property
    def is_slow(self) -> bool:
        """Whether the server has owed an answer for too long: whoever asks now would wait too."""
        return clock.now() - self._asking_since > PATIENCE

    async def send(self, circuit: KnownCircuit) -> None:
        """Send what this circuit has counted now, and take the answer."""
        batch = circuit.collect()
        if batch is not None:
            await self._send([(circuit, batch)])

    async def listen(self) -> None:
        """Hear every transition from now on."""
        hub = self._backend.hub
        if self._listens and hub.is_listening:
            return
        with self._lock:  # nobody may think that it listens before it is enlisted
            first = not self._listens
            if first:
                hub.enlist(CHANNEL, self._hear)
                self._listens = True
        await Listen(hub, broadcasts=True)  # which does not block an event loop
        if not first:
            self._must_reread = True

    async def heard(self, key: str) -> CircuitView:
        """What the server knows of a circuit, of whose transitions it tells from now on."""
        await self.listen()  # first, so that no change is missed in between
        return await self.store.view(key)

    def trouble(self, key: str, error: BackendError) -> None:
        """The server did not answer: leave it alone until it does."""
        if self._outage.begin(partial(self._answers, key)):
            events.emit(events.BackendTrouble("circuit_breaker", key, error))

    async def _answers(self, key: str) -> None:
        await self.store.view(key)
        await within(0, self.listen())  # it must be heard, too, but others need this thread

    def owe(self, permit: OwedPermit) -> None:
        """What became of this permit is to be told when the server answers."""
        self._owed.add(permit)
        self._backend.worker.nudge()

    def _is_back(self) -> None:
        """It was away: whatever was heard last is out of date, and some is to be told."""
        self._must_reread = True
        for circuit in self.catalogue.all():
            if circuit.has_unsent:
                circuit.wake()
        self._backend.worker.nudge()

    # --- the chore

    def due(self) -> float | None:
        """When to send or ask next."""
        if (self._must_reread or self._unread) and not self.is_away:
            return -math.inf
        moment = min((circuit.due for circuit in list(self._dirty)), default=math.inf)
        if self._owed and not self.is_away:
            moment = min(moment, self._settles_at)
        for circuit in list(self._watched):
            moment = min(moment, circuit.looks_at)
        return None if moment == math.inf else moment

    async def run(self) -> None:
        """Send what is due, in one trip."""
        now = await NOW
        self._look_at_calls(now)
        if self.is_away:
            self._digest(now)
            return
        with suppress(BackendError):  # while nothing is heard, what is sent is answered
            await within(0, self.listen())
        await self._settle(now)
        if self._must_reread or self._unread:
            await self._reread()
        await self._send(self._collected(now))

    async def finish(self) -> None:
        """Send everything: the backend is being closed. A later call wakes the flusher again."""
        if not self.is_away:
            self._settles_at = -math.inf
            await self._settle(await NOW)
        for _ in range(0, len(self._dirty), MOST_AT_ONCE):
            if not self.is_away:
                await self._send(self._collected(math.inf))
        for circuit in list(self._dirty):
            self._dirty.pop(circuit, None)
            circuit.rest()

    def _look_at_calls(self, now: float) -> None:
        """Count the calls that have become slow."""
        for circuit in list(self._watched):
            if circuit.looks_at <= now:
                self._watched.pop(circuit, None)  # first: a call that begins now puts it back
                if circuit.look(now):
                    self._watched[circuit] = None

    def _collected(self, now: float) -> list[tuple[KnownCircuit, Batch]]:
        """What is due, and what would be due soon: it goes with it."""
        batches: list[tuple[KnownCircuit, Batch]] = []
        for circuit in list(self._dirty):
            if circuit.due <= now + SOON and len(batches) < MOST_AT_ONCE:
                batch = self._take(circuit)
                if batch is not None:
                    batches.append((circuit, batch))
        return batches

    def _take(self, circuit: KnownCircuit) -> Batch | None:
        self._dirty.pop(circuit, None)  # first, so that whoever touches it now puts it back
        batch = circuit.collect()
        if circuit.due < math.inf:  # there may be more by then
            self._dirty[circuit] = None
        return batch

    def _digest(self, now: float) -> None:
        for circuit in list(self._dirty):
            if circuit.due <= now:
                self._dirty.pop(circuit, None)
                circuit.digest()
                if not circuit.is_idle:
                    self._dirty[circuit] = None

    async def _send(self, batches: list[tuple[KnownCircuit, Batch]]) -> None:
        answers = await self._ask([self._record(circuit, batch) for circuit, batch in batches])
        for (circuit, batch), answer in zip(batches, answers, strict=True):
            if isinstance(answer, NotAsked):
                # Of several runs, the first ones may have been recorded.
                circuit.keep(batch, sent=len(batch.runs) > 1)
                self.touch(circuit)
            elif isinstance(answer, BaseException):
                circuit.keep(batch, sent=True)
            elif answer.generation < batch.generation:
                circuit.repeat(batch, answer.generation)
            else:
                circuit.adopt(answer, batch.version)
                circuit.compare(answer)
        self._look_at(answers)

    async def _settle(self, now: float) -> None:
        """Give back the permits that nobody may know to be free."""
        if now < self._settles_at:
            return
        owed = self._owed.take(now)
        try:
            answers = await self._ask([permit.settled(self.store) for permit in owed])
        except BaseException:
            for permit in owed:
                self._owed.add(permit)
            raise
        for permit, answer in zip(owed, answers, strict=True):
            if isinstance(answer, CircuitView):
                # As below: what has opened it here is to be judged first.
                if not permit.circuit.has_unsent:
                    permit.circuit.adopt(answer)
                continue
            self._owed.add(permit)
            if not isinstance(answer, BackendError):
                self._settles_at = now + UNFORESEEN
        self._look_at(answers)

    async def _reread(self) -> None:
        """Ask for every circuit in use; the others are asked for when they are used again.

        For as many as one trip takes: others want this thread between two.
        """
        if self._must_reread:
            self._must_reread, self._unread = False, []
            for circuit in self.catalogue.all():
                if circuit.is_idle and is_ordinary(circuit):
                    circuit.forget()
                elif circuit.is_known:
                    self._unread.append(circuit)
        some, self._unread = self._unread[:MOST_AT_ONCE], self._unread[MOST_AT_ONCE:]
        versions = [circuit.version for circuit in some]
        answers = await self._ask([self.store.view(circuit.key) for circuit in some])
        for circuit, version, answer in zip(some, versions, answers, strict=True):
            # What has opened it here is to be judged first: the answer to that will do.
            if isinstance(answer, NotAsked):
                self._unread.append(circuit)
            elif not isinstance(answer, BaseException) and not circuit.has_unsent:
                circuit.adopt(answer, version)
        self._look_at(answers)

    async def _ask(self, plans: list[Plan[CircuitView]]) -> list[Any]:
        if not plans:
            return []
        self._asking_since = await NOW
        try:
            return await within(FLUSH_BUDGET, _together(plans))
        finally:
            self._asking_since = math.inf

    def _look_at(self, answers: list[Any]) -> None:
        for answer in answers:
            if isinstance(answer, NotAsked):
                continue
            if isinstance(answer, BackendError):
                self.trouble(CHANNEL, answer)
            elif isinstance(answer, BaseException):
                raise answer

    async def _record(self, circuit: KnownCircuit, batch: Batch) -> CircuitView:
        if batch.lost is not None:
            return await self.store.restore(circuit.key, rules=circuit.rules, view=batch.lost)
        *earlier, latest = batch.runs
        for run in earlier:
            await self._record_run(circuit, batch, run)
        return await self._record_run(circuit, batch, latest)

    async def _record_run(self, circuit: KnownCircuit, batch: Batch, run: Run) -> CircuitView:
        return await self.store.record(
            circuit.key,
            rules=circuit.rules,
            outcomes=run.outcomes,
            generation=batch.generation,
            age=max(0.0, clock.now() - run.moment),
            retry_after=batch.retry_after,
            node="" if circuit.rules.quorum is None else self._node,
            breached=batch.breached,
        )

    # --- what the source of signals calls

    def _hear(self, message: str | None) -> None:
        if message is None:  # it is heard again, so it is there
            self._must_reread = True
            self._outage.hurry()
            self._backend.worker.nudge()
            return
        key, view = parse_announcement(message)
        for circuit in self.catalogue.of_key(key):
            circuit.adopt(view)


async def _together(plans: list[Plan[CircuitView]]) -> list[Any]:
    return await Together(plans)
