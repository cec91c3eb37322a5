"""The options of one breaker, as its calls use them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from resilient import config
from resilient.config import Source
from resilient.engine.circuits.catalogue import Table
from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.outcomes import FAILURE, NEITHER, SUCCESS
from resilient.engine.circuits.registry import KnownCircuits, known_circuits
from resilient.errors import Rejected
from resilient.protocols.circuits import CircuitRules, CircuitStore
from resilient.resolving import resolve

if TYPE_CHECKING:
    from resilient.engine.circuits.in_flight import Flight

__all__ = ["BELOW", "POLICY", "Consistency", "Errors", "FallbackOn", "OnBackendError", "Settings"]

POLICY = "circuit_breaker"
log = logging.getLogger("resilient")
Errors = tuple[type[Exception], ...]
Consistency = Literal["eventual", "strict", "local"]
FallbackOn = Literal["open", "error"]
OnBackendError = Literal["local", "raise"]
LOCAL = "_circuits_of_this_process"
BELOW = {
    "fallback": "calls that failed count as successes, for they have been answered",
    "retry": "all the attempts of a call count as one, and go on while the circuit is open",
    "cached": "stored values count as successes, and are refused while the circuit is open",
    "idempotent": "stored answers count as successes, and are refused while the circuit is open",
}
"""What stands below a breaker by mistake, and what goes wrong then."""


class Memo:
    """The circuits to look into, for as long as the configuration stays what it was."""

    __slots__ = ("circuits", "epoch")

    def __init__(self, epoch: int, circuits: Table) -> None:
        self.epoch = epoch
        self.circuits = circuits


class Settings:
    """The options of one breaker.

    Attributes:
        source: Where its backend comes from.
        rules: When a circuit opens and closes.
        record: The exceptions that are failures of the dependency.
        ignore: Those that are neither failures nor successes.
        record_result: Whether what the function has answered is a failure.
        retry_after: For how long a failure asks that the dependency be left alone.
        consistency: What is asked of the backend, and when.
        insists: Whether a call is refused while the backend cannot be asked.
        memo: What the fast path knows.
    """

    __slots__ = (
        "consistency",
        "ignore",
        "insists",
        "memo",
        "record",
        "record_result",
        "retry_after",
        "rules",
        "source",
    )

    def __init__(
        self,
        source: Source,
        *,
        rules: CircuitRules,
        record: Errors,
        ignore: Errors,
        record_result: Callable[[Any], bool] | None = None,
        retry_after: Callable[[Exception], float] | None = None,
        consistency: Consistency = "eventual",
        insists: bool = False,
    ) -> None:
        self.source = source
        self.rules = rules
        self.record = record
        self.ignore = ignore
        self.record_result = record_result
        self.retry_after = retry_after
        self.consistency = consistency
        self.insists = insists
        self.memo = Memo(-2, {})  # no configuration has this number

    def circuits(self) -> KnownCircuits | None:
        """The circuits of the backend of this call; `None` while policies are disabled."""
        epoch = config.epoch
        backend = self.source.backend()
        if backend is None:
            return None
        if self.consistency == "local":
            own = vars(backend).get(LOCAL)
            backend = own or vars(backend).setdefault(LOCAL, resolve("memory://"))
        circuits = known_circuits(backend, _own_judge)
        if self.memo.epoch != epoch >= 0 and self.is_fast:
            self.memo = Memo(epoch, circuits.catalogue.table(self.rules))
        return circuits

    @property
    def is_fast(self) -> bool:
        """Whether there is a fast path: it asks nobody, not even whether the backend is away."""
        return self.consistency != "strict" and not self.insists

    def outcome(self, error: BaseException) -> str:
        """What an exception of the function says about the dependency.

        A cancellation says nothing, and neither does a call that another policy of ours refused.
        """
        if not isinstance(error, Exception) or isinstance(error, (Rejected, *self.ignore)):
            return NEITHER
        return FAILURE if isinstance(error, self.record) else SUCCESS

    def answered(self, answer: Any) -> str:
        """What an answer of the function says about the dependency."""
        if self.record_result is not None and self.record_result(answer):
            return FAILURE
        return SUCCESS

    def pause(self, outcome: str, error: BaseException) -> float:
        """For how long a failure asks that the dependency be left alone."""
        if self.retry_after is None or outcome != FAILURE or not isinstance(error, Exception):
            return 0.0
        try:
            pause = float(self.retry_after(error))
        except Exception:  # the function's own error is the one to be counted, and to be raised
            log.exception("retry_after= of a circuit breaker failed")
            return 0.0
        return pause if 0 < pause < math.inf else 0.0

    def raised(
        self,
        circuit: KnownCircuit,
        counter: Iterator[int],
        error: BaseException,
        flight: Flight | None = None,
    ) -> None:
        """Count a call that ended with an exception."""
        outcome = self.outcome(error)
        pause = self.pause(outcome, error)
        if flight is not None:
            outcome = circuit.timed(flight, outcome)
        circuit.ended(counter, outcome, pause)


def _own_judge() -> CircuitStore:
    judge: CircuitStore = resolve("memory://").require("circuits")
    return judge
