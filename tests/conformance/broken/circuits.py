"""Circuits that are broken on purpose."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from resilient.protocols.circuits import Admission, CircuitRules, CircuitState, CircuitView
from tests.conformance.broken.base import MODEL, NEVER, Broken


class Circuits(Broken):
    capability = "circuits"


class ProbesAreUnlimited(Circuits):
    """Everybody may probe."""

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        rules = rules._replace(permits=10**6)
        answer: Admission = await self.store.admit(key, rules=rules, token=token)
        return answer


class DeadProbesKeepTheirPermits(Circuits):
    """The lease of a probe is ignored."""

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        rules = rules._replace(lease=rules.lease * NEVER)
        answer: Admission = await self.store.admit(key, rules=rules, token=token)
        return answer


class StaleOutcomesCount(Circuits):
    """The generation of an outcome is ignored."""

    async def record(
        self, key: str, *, generation: int | None = None, **options: Any
    ) -> CircuitView:
        view: CircuitView = await self.store.record(key, **options)
        return view


class StaleReportsCount(Circuits):
    """The generation of a report is ignored."""

    async def report(self, key: str, *, generation: int, **options: Any) -> CircuitView:
        now = (await self.store.view(key)).generation
        view: CircuitView = await self.store.report(key, generation=now, **options)
        return view


class WindowIsTooWide(Circuits):
    """Outcomes leave the window too late."""

    async def record(self, key: str, *, rules: CircuitRules, **options: Any) -> CircuitView:
        rules = rules._replace(window=rules.window + 1)
        view: CircuitView = await self.store.record(key, rules=rules, **options)
        return view


class MinimumOfCallsIsIgnored(Circuits):
    """One failure is a rate of 100 %."""

    async def record(self, key: str, *, rules: CircuitRules, **options: Any) -> CircuitView:
        rules = rules._replace(min_calls=1)
        view: CircuitView = await self.store.record(key, rules=rules, **options)
        return view


class RunsOfFailuresAreIgnored(Circuits):
    """Only the rate is judged."""

    async def record(self, key: str, *, rules: CircuitRules, **options: Any) -> CircuitView:
        rules = rules._replace(consecutive=None)
        view: CircuitView = await self.store.record(key, rules=rules, **options)
        return view


class OnlyTheLastOutcomeIsJudged(Circuits):
    """Outcomes that arrive together are judged once, after the last."""

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, **options: Any
    ) -> CircuitView:
        lax = rules._replace(failure_rate=None, consecutive=None)
        for outcome in outcomes[:-1]:
            await self.store.record(key, rules=lax, outcomes=outcome, **options)
        view: CircuitView = await self.store.record(
            key, rules=rules, outcomes=outcomes[-1], **options
        )
        return view


class ProbedTooEarly(Circuits):
    """A circuit that was forced open does not stay so."""

    async def force(
        self, key: str, state: CircuitState, *, rules: CircuitRules | None = None, **options: Any
    ) -> CircuitView:
        if rules is not None:
            rules = rules._replace(open_for=rules.open_for / 10)
        view: CircuitView = await self.store.force(key, state, rules=rules, **options)
        return view

    noticed_by = (MODEL,)


class SlowCallsAreNotCounted(Circuits):
    """A slow call is one like any other."""

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, **options: Any
    ) -> CircuitView:
        fast = outcomes.translate(str.maketrans("23s", "010"))
        view: CircuitView = await self.store.record(key, rules=rules, outcomes=fast, **options)
        return view


class AnyNumberOfProbesAtOnce(Circuits):
    """Only the permits of a round are counted, not those under way."""

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        rules = rules._replace(concurrency=None)
        admission: Admission = await self.store.admit(key, rules=rules, token=token)
        return admission


class ALostCircuitStaysLost(Circuits):
    """What clients tell a server that has lost its data is not believed."""

    async def restore(self, key: str, **options: Any) -> CircuitView:
        view: CircuitView = await self.store.view(key)
        return view


class GenerationsReturn(Circuits):
    """A forgotten circuit begins with the generations of the one before."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.known: dict[str, list[int]] = defaultdict(list)

    async def view(self, key: str) -> CircuitView:
        return self.small(key, await self.store.view(key))

    async def record(
        self, key: str, *, generation: int | None = None, **options: Any
    ) -> CircuitView:
        if generation:
            known = self.known[key]
            generation = known[generation - 1] if generation <= len(known) else -1
        return self.small(key, await self.store.record(key, generation=generation, **options))

    async def delete(self, key: str) -> bool:
        self.known.pop(key, None)
        return bool(await self.store.delete(key))

    def small(self, key: str, view: CircuitView) -> CircuitView:
        known = self.known[key]
        if view.generation and view.generation not in known:
            known.append(view.generation)
        return view._replace(generation=known.index(view.generation) + 1 if known else 0)
