"""Calls that were let through, and how it is counted what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from resilient.engine.budget import within
from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.outcomes import FAILURE, NEITHER
from resilient.engine.circuits.permits import OwedPermit
from resilient.engine.circuits.registry import FLUSH_BUDGET, PATIENCE, KnownCircuits
from resilient.engine.plan import NOW
from resilient.errors import BackendError

if TYPE_CHECKING:
    from resilient.engine.circuits.in_flight import Flight

__all__ = ["Call", "Probe", "StrictCall"]

T = TypeVar("T")


class Call:
    """One call that was let through.

    Attributes:
        key: The circuit.
        is_probe: Whether it is one of the probes of a half-open circuit.
        said: What the body of a `with` has said about its outcome, if anything.
    """

    __slots__ = ("_answered", "_circuit", "_counter", "_flight", "is_probe", "key", "said")

    def __init__(
        self, circuit: KnownCircuit, counter: Iterator[int], *, is_probe: bool = False
    ) -> None:
        self.key = circuit.key
        self.is_probe = is_probe
        self.said: str | None = None
        self._circuit = circuit
        self._counter = counter
        self._flight: Flight | None = None

    def fail(self) -> None:
        """Count this call as a failure, however its block ends."""
        self.said = FAILURE

    def ignore(self) -> None:
        """Do not count this call."""
        self.said = NEITHER

    def result(self, answer: T) -> T:
        """Judge an answer by the breaker's `record_result`, and give it back."""
        self.said = self._answered(answer)
        return answer

    def begin(self, answered: Callable[[Any], str]) -> None:
        """The function runs from now on; its answer will be judged so."""
        self._answered = answered
        self._flight = self._circuit.begin(self._counter)

    async def ended(self, outcome: str, retry_after: float = 0.0) -> None:
        """Count how it ended."""
        circuit = self._circuit
        circuit.ended(self._counter, circuit.timed(self._flight, outcome), retry_after)


class StrictCall(Call):
    """A call that the server let through, and that is told of its outcome before it returns."""

    __slots__ = ("_circuits", "_generation")

    def __init__(self, circuits: KnownCircuits, circuit: KnownCircuit, generation: int) -> None:
        super().__init__(circuit, circuit.counter)
        self._circuits = circuits
        self._generation = generation

    async def ended(self, outcome: str, retry_after: float = 0.0) -> None:
        """Record it at once; in this process while the server cannot be reached.

        A report that was not answered may have been heard: it is judged here, and not told again.
        """
        circuit, circuits = self._circuit, self._circuits
        outcome = circuit.timed(self._flight, outcome)
        if outcome == NEITHER or circuits.is_away:
            circuit.ended(self._counter, outcome, retry_after)
            return
        version = circuit.version
        record = circuits.store.record(
            self.key,
            rules=circuit.rules,
            outcomes=outcome,
            generation=self._generation,
            retry_after=retry_after,
        )
        try:
            circuit.adopt(await within(PATIENCE, record), version)
        except BackendError as error:
            circuits.trouble(self.key, error)
            circuit.unheard(self._counter, outcome, retry_after)
        except BaseException:
            circuit.unheard(self._counter, outcome, retry_after)
            raise


class Probe(Call):
    """A call that was let through a half-open circuit under a permit."""

    __slots__ = ("_circuits", "_generation", "_is_own", "_token")

    def __init__(
        self,
        circuits: KnownCircuits,
        circuit: KnownCircuit,
        token: str,
        generation: int,
        *,
        is_own: bool,
    ) -> None:
        super().__init__(circuit, circuit.counter, is_probe=True)
        self._circuits = circuits
        self._token = token
        self._generation = generation
        self._is_own = is_own

    def begin(self, answered: Callable[[Any], str]) -> None:
        """The function runs from now on."""
        self._answered = answered
        self._flight = self._circuit.begin(None)

    async def ended(self, outcome: str, retry_after: float = 0.0) -> None:
        """Report to whoever gave the permit: now, or as soon as it can be."""
        circuit, circuits = self._circuit, self._circuits
        until = await NOW + circuit.rules.lease
        outcome = circuit.timed(self._flight, outcome)
        permit = OwedPermit(circuit, self._token, until, self._generation, outcome, retry_after)
        if self._is_own:
            view = await permit.settled(circuits.judge)
            if circuit.is_own:
                circuit.judged(view)
            return
        version = circuit.version
        try:
            view = await within(FLUSH_BUDGET, permit.settled(circuits.store))
        except BackendError as error:
            circuits.trouble(self.key, error)
            circuits.owe(permit)
        except BaseException:
            circuits.owe(permit)
            raise
        else:
            circuit.adopt(view, version)
