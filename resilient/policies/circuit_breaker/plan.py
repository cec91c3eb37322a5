"""The circuit breaker, as a plan: let the call through, or refuse it; then count how it ended.

A call through a closed circuit asks nobody: it is counted here and sent later
(`resilient.engine.circuits`). The server is asked before the first call under a key, and for the
permit of a probe once an open circuit's time is over. Where it cannot be reached, this process goes
by its own judgement, under the same rules.
"""

from __future__ import annotations

from typing import Any

from resilient.engine import identity
from resilient.engine.budget import within
from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.outcomes import FAILURE
from resilient.engine.circuits.permits import OwedPermit
from resilient.engine.circuits.registry import FLUSH_BUDGET, PATIENCE, KnownCircuits
from resilient.engine.plan import NOW, RANDOM, Body
from resilient.errors import BackendError, CircuitOpen
from resilient.policies.circuit_breaker.calls import Call, Probe, StrictCall
from resilient.policies.circuit_breaker.settings import POLICY, FallbackOn, Settings
from resilient.protocols.circuits import (
    Admission,
    CircuitRules,
    CircuitState,
    Verdict,
)

__all__ = ["guarded", "known"]

SLOW_SERVER_PAUSE = 0.05
"""Seconds after which a server that owes an answer may be asked for a permit."""


async def guarded(settings: Settings, key: str, fallback: FallbackOn | None = None) -> Any:
    """Run the body if the circuit lets it through.

    A refused call raises, or, with a fallback, runs the body with the refusal as its value; so does
    a failed one with its exception, if the fallback is for that too.
    """
    circuits = settings.circuits()
    if circuits is None:
        return await Body()
    circuit = await known(circuits, key, settings.rules)
    if settings.insists and (circuits.is_away or circuits.is_slow):
        raise unanswered(key)
    strict = settings.consistency == "strict"
    call = await admitted(circuits, circuit, strict=strict, insists=settings.insists)
    if call is not None:
        return await counted(settings, call, falls_back=fallback == "error")
    if fallback is not None:
        return await Body(refusal(circuit, await NOW))
    raise refusal(circuit, await NOW)


async def counted(settings: Settings, call: Call, *, falls_back: bool = False) -> Any:
    """Run the body and count how it ended."""
    call.begin(settings.answered)
    try:
        answer = await Body(call)
        outcome = call.said or settings.answered(answer)
    except BaseException as error:
        outcome = settings.outcome(error) if call.said is None else call.said
        await call.ended(outcome, settings.pause(outcome, error))
        if falls_back and outcome == FAILURE:
            return await Body(error)
        raise
    await call.ended(outcome)
    return answer


async def known(circuits: KnownCircuits, key: str, rules: CircuitRules) -> KnownCircuit:
    """The circuit of a key; asked for once, and told of its changes from then on."""
    circuit = circuits.catalogue.circuit(key, rules)
    if circuit.is_known:
        return circuit
    if not circuits.is_away and not circuits.is_slow:
        version = circuit.version
        try:
            circuit.adopt(await within(FLUSH_BUDGET, circuits.heard(key)), version)
            return circuit
        except BackendError as error:
            circuits.trouble(key, error)
    circuit.judged(await circuits.judge.view(key))
    return circuit


async def admitted(
    circuits: KnownCircuits, circuit: KnownCircuit, *, strict: bool = False, insists: bool = False
) -> Call | None:
    """Let a call through, as one of many or as a probe; `None` if it is refused.

    Args:
        circuits: Those of the backend.
        circuit: That of the call.
        strict: Whether the server is asked before each call.
        insists: Whether its error is raised, instead of going by this process's own judgement.
    """
    may_ask = not circuits.is_away and not circuits.is_slow
    if not (strict and may_ask):
        counter = circuit.hits
        if counter is not None:
            return Call(circuit, counter)
        now = await NOW
        if circuit.state.lets_through:
            return await ramped(circuit, now)
        if now < circuit.ask_at:
            return None
    if may_ask and circuit.is_own and circuit.has_unsent:
        # This process alone has opened it: that is to be judged before a permit is asked for.
        await circuits.send(circuit)
        if insists and (circuits.is_away or circuits.is_slow):
            raise unanswered(circuit.key)
        return await admitted(circuits, circuit, strict=strict, insists=insists)
    if not may_ask and not circuits.is_away:
        circuit.put_off(SLOW_SERVER_PAUSE)
        return None
    token = identity.new_owner()
    asks = may_ask and not (circuit.is_own and circuit.rules.quorum is not None)
    answer = await asked(circuits, circuit, token) if asks else None
    if answer is None and asks and insists:
        raise unanswered(circuit.key)
    if answer is None and circuit.state.lets_through:  # only a strict call asks then
        return await ramped(circuit, await NOW)
    admission = answer or await judged(circuits, circuit, token)
    if admission.verdict is Verdict.PROBE:
        return Probe(circuits, circuit, token, admission.view.generation, is_own=answer is None)
    if admission.verdict is Verdict.ALLOWED:
        call = await ramped(circuit, await NOW)
        if call is not None and strict and answer is not None:
            return StrictCall(circuits, circuit, answer.view.generation)
        return call
    circuit.put_off(admission.retry_after)
    return None


async def ramped(circuit: KnownCircuit, now: float) -> Call | None:
    """Let through some of the calls of a circuit that has closed of late, in the end all."""
    rules = circuit.rules
    if rules.ramp is None or now >= circuit.ramp_ends:
        circuit.pass_unasked()
        return Call(circuit, circuit.counter)
    done = max(1 - (circuit.ramp_ends - now) / rules.ramp, 0.0)
    share = rules.ramp_start + (1 - rules.ramp_start) * done
    return Call(circuit, circuit.counter) if await RANDOM < share else None


async def asked(circuits: KnownCircuits, circuit: KnownCircuit, token: str) -> Admission | None:
    """Ask the server for a permit; `None` if it cannot be reached."""
    version, rules = circuit.version, circuit.rules
    permit = OwedPermit(circuit, token, until=await NOW + PATIENCE + rules.lease)
    try:
        ask = circuits.store.admit(circuit.key, rules=rules, token=token)
        admission = await within(PATIENCE, ask)
    except BackendError as error:
        circuits.trouble(circuit.key, error)
        circuits.owe(permit)
        return None
    except BaseException:
        await withdrawn(circuits, permit)
        raise
    circuit.adopt(admission.view, version)
    return admission


async def withdrawn(circuits: KnownCircuits, permit: OwedPermit) -> None:
    """Give back the permit that an interrupted call may have won: now, or as soon as it can be."""
    try:
        await within(PATIENCE, permit.settled(circuits.store))
    except BackendError:
        circuits.owe(permit)


async def judged(circuits: KnownCircuits, circuit: KnownCircuit, token: str) -> Admission:
    """Go by this process's own judgement while the server is away."""
    key, rules, judge = circuit.key, circuit.rules, circuits.judge
    if (await judge.view(key)).state is CircuitState.CLOSED:
        # Others opened it, and its time is over: it is probed here as it would be there.
        await judge.force(key, CircuitState.HALF_OPEN, rules=rules)
    admission = await judge.admit(key, rules=rules, token=token)
    circuit.judged(admission.view)
    return admission


def unanswered(key: str) -> BackendError:
    """The error of a call that nothing but the backend may let through."""
    return BackendError(
        f'the backend of the circuit {key!r} is away, and on_backend_error="raise" does not go by '
        "what this process has seen: nothing has run"
    )


def refusal(circuit: KnownCircuit, now: float) -> CircuitOpen:
    """The error that says why, since when, and when to come back: a fresh one each time."""
    wait = max(circuit.ask_at - now, 0.0)
    since = f"for {max(now - circuit.since, 0.0):.1f} s"
    if circuit.state is CircuitState.HALF_OPEN:
        says = "is half-open, and all its probes are under way"
    elif circuit.state is CircuitState.FORCED_OPEN:
        says = f"is open {since} by hand"
    elif circuit.state is CircuitState.OPEN:
        says = f"is open {since}"
    else:
        says = f"is closed {since}, and lets only some calls through at first"
    because = f" ({circuit.reason})" if circuit.reason else ""
    return CircuitOpen(
        f"the circuit {circuit.key!r} {says}{because}; it may let calls through in {wait:.1f} s",
        policy=POLICY,
        key=circuit.key,
        retry_after=wait,
    )
