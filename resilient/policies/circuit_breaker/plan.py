"""The circuit breaker, as a plan: let the call through, or refuse it; then count how it ended.

A call through a closed circuit asks nobody: it is counted here and sent later
(`resilient.engine.circuits`). The server is asked before the first call under a key, and for the
permit of a probe once an open circuit's time is over. Where it cannot be reached, this process goes
by its own judgement, under the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from resilient import config
from resilient.config import Source, resolve
from resilient.engine.circuits.known import FAILURE, NEITHER, SUCCESS, KnownCircuit
from resilient.engine.circuits.registry import KnownCircuits, Table, known_circuits
from resilient.engine.plan import NEW_OWNER, NOW, Body
from resilient.errors import BackendError, CircuitOpen, Rejected
from resilient.protocols.circuits import (
    Admission,
    CircuitRules,
    CircuitState,
    CircuitStore,
    Verdict,
)

__all__ = ["Call", "Memo", "Settings", "guarded", "known"]

POLICY = "circuit_breaker"
SLOW_SERVER_PAUSE = 0.05
"""Seconds after which a server that owes an answer may be asked for a permit."""

Errors = tuple[type[Exception], ...]


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
        memo: What the fast path knows.
    """

    __slots__ = ("ignore", "memo", "record", "rules", "source")

    def __init__(
        self, source: Source, *, rules: CircuitRules, record: Errors, ignore: Errors
    ) -> None:
        self.source = source
        self.rules = rules
        self.record = record
        self.ignore = ignore
        self.memo = Memo(-2, {})  # no configuration has this number

    def circuits(self) -> KnownCircuits | None:
        """The circuits of the backend of this call; `None` while policies are disabled."""
        epoch = config.epoch
        backend = self.source.backend()
        if backend is None:
            return None
        circuits = known_circuits(backend, _own_judge)
        if self.memo.epoch != epoch >= 0:
            self.memo = Memo(epoch, circuits.table(self.rules))
        return circuits

    def outcome(self, error: BaseException) -> str:
        """What an exception of the function says about the dependency.

        A cancellation says nothing, and neither does a call that another policy of ours refused.
        """
        if not isinstance(error, Exception) or isinstance(error, (Rejected, *self.ignore)):
            return NEITHER
        return FAILURE if isinstance(error, self.record) else SUCCESS

    def raised(self, circuit: KnownCircuit, counter: Iterator[int], error: BaseException) -> None:
        """Count a call that ended with an exception."""
        circuit.ended(counter, self.outcome(error))


def _own_judge() -> CircuitStore:
    judge: CircuitStore = resolve("memory://").require("circuits")
    return judge


class Call:
    """One call that was let through.

    Attributes:
        key: The circuit.
        is_probe: Whether it is one of the probes of a half-open circuit.
    """

    __slots__ = ("_circuit", "_counter", "is_probe", "key")

    def __init__(
        self, circuit: KnownCircuit, counter: Iterator[int], *, is_probe: bool = False
    ) -> None:
        self.key = circuit.key
        self.is_probe = is_probe
        self._circuit = circuit
        self._counter = counter

    async def ended(self, outcome: str) -> None:
        """Count how it ended."""
        self._circuit.ended(self._counter, outcome)


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

    async def ended(self, outcome: str) -> None:
        """Report to whoever gave the permit; failing that, its lease frees it."""
        circuit, circuits = self._circuit, self._circuits
        store = circuits.judge if self._is_own else circuits.store
        version = circuit.version
        try:
            view = await store.report(
                self.key,
                rules=circuit.rules,
                token=self._token,
                generation=self._generation,
                outcome=outcome,
            )
        except BackendError as error:
            circuits.trouble(self.key, error)
            return
        if not self._is_own:
            circuit.adopt(view, version)
        elif circuit.is_own:
            circuit.judged(view)


async def guarded(settings: Settings, key: str, fallback: bool = False) -> Any:
    """Run the body if the circuit lets it through.

    A refused call raises, or, with a fallback, runs the body with the refusal as its value.
    """
    circuits = settings.circuits()
    if circuits is None:
        return await Body()
    circuit = await known(circuits, key, settings.rules)
    call = await admitted(circuits, circuit)
    if call is not None:
        return await counted(settings, call)
    if fallback:
        return await Body(refusal(circuit, await NOW))
    raise refusal(circuit, await NOW)


async def counted(settings: Settings, call: Call) -> Any:
    """Run the body and count how it ended."""
    try:
        answer = await Body(call)
    except BaseException as error:
        await call.ended(settings.outcome(error))
        raise
    await call.ended(SUCCESS)
    return answer


async def known(circuits: KnownCircuits, key: str, rules: CircuitRules) -> KnownCircuit:
    """The circuit of a key; asked for once, and told of its changes from then on."""
    circuit = circuits.circuit(key, rules)
    if circuit.is_known:
        return circuit
    if not circuits.is_away and not circuits.is_slow:
        version = circuit.version
        try:
            await circuits.listen()  # first, so that no change is missed in between
            circuit.adopt(await circuits.store.view(key), version)
            return circuit
        except BackendError as error:
            circuits.trouble(key, error)
    circuit.judged(await circuits.judge.view(key))
    return circuit


async def admitted(circuits: KnownCircuits, circuit: KnownCircuit) -> Call | None:
    """Let a call through, as one of many or as a probe; `None` if it is refused."""
    counter = circuit.hits
    if counter is not None:
        return Call(circuit, counter)
    if await NOW < circuit.ask_at:
        return None
    may_ask = not circuits.is_away and not circuits.is_slow
    if may_ask and circuit.is_own and circuit.has_unsent:
        # This process alone has opened it: that is to be judged before a permit is asked for.
        await circuits.send(circuit)
        return await admitted(circuits, circuit)
    if not may_ask and not circuits.is_away:
        circuit.put_off(SLOW_SERVER_PAUSE)
        return None
    token = await NEW_OWNER
    answer = await asked(circuits, circuit, token) if may_ask else None
    admission = answer or await judged(circuits, circuit, token)
    if admission.verdict is Verdict.PROBE:
        return Probe(circuits, circuit, token, admission.view.generation, is_own=answer is None)
    if admission.verdict is Verdict.ALLOWED:
        return Call(circuit, circuit.counter)
    circuit.put_off(admission.retry_after)
    return None


async def asked(circuits: KnownCircuits, circuit: KnownCircuit, token: str) -> Admission | None:
    """Ask the server for a permit; `None` if it cannot be reached."""
    version, rules = circuit.version, circuit.rules
    try:
        admission = await circuits.store.admit(circuit.key, rules=rules, token=token)
    except BackendError as error:
        circuits.trouble(circuit.key, error)
        return None
    except BaseException:
        await withdrawn(circuits.store, circuit, token)
        raise
    circuit.adopt(admission.view, version)
    return admission


async def withdrawn(store: CircuitStore, circuit: KnownCircuit, token: str) -> None:
    """Give back the permit that an interrupted call may have won; failing that, its lease does."""
    with suppress(BackendError):
        # The same token is given the same permit, and so its generation is known.
        admission = await store.admit(circuit.key, rules=circuit.rules, token=token)
        if admission.verdict is Verdict.PROBE:
            await store.report(
                circuit.key,
                rules=circuit.rules,
                token=token,
                generation=admission.view.generation,
                outcome=NEITHER,
            )


async def judged(circuits: KnownCircuits, circuit: KnownCircuit, token: str) -> Admission:
    """Go by this process's own judgement while the server is away."""
    circuits.want()
    key, rules, judge = circuit.key, circuit.rules, circuits.judge
    if (await judge.view(key)).state is CircuitState.CLOSED:
        # Others opened it, and its time is over: it is probed here as it would be there.
        await judge.force(key, CircuitState.HALF_OPEN, rules=rules)
    admission = await judge.admit(key, rules=rules, token=token)
    circuit.judged(admission.view)
    return admission


def refusal(circuit: KnownCircuit, now: float) -> CircuitOpen:
    """The error that says why, since when, and when to come back: a fresh one each time."""
    wait = max(circuit.ask_at - now, 0.0)
    if circuit.state is CircuitState.HALF_OPEN:
        says = "is half-open, and all its probes are under way"
    else:
        says = f"is open for {max(now - circuit.since, 0.0):.1f} s"
    because = f" ({circuit.reason})" if circuit.reason else ""
    return CircuitOpen(
        f"the circuit {circuit.key!r} {says}{because}; it may let calls through in {wait:.1f} s",
        policy=POLICY,
        key=circuit.key,
        retry_after=wait,
    )
