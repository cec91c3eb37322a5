"""The pipelines that are a circuit's state machine, beside the machine of the other backends."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.backends.mongodb.circuit_windows import runs_of
from resilient.engine.drivers.sync import drive
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView
from resilient.resolving import resolve
from tests.support.mongodb import MongoAt

STATES = (CircuitState.CLOSED, CircuitState.CLOSED, CircuitState.METRICS_ONLY)


@pytest.fixture
def backend(mongo: MongoAt) -> Iterator[MongoBackend]:
    """A backend in a database of its own."""
    backend = from_url(mongo.url)
    yield backend
    backend.close()


def random_rules(chance: random.Random) -> CircuitRules:
    """Rules under which some of the outcomes below open the circuit, and some do not."""
    return CircuitRules(
        window=chance.choice((3, 10, 40)),
        min_calls=chance.choice((1, 2, 8, 60)),
        failure_rate=chance.choice((None, 0.1, 0.5, 0.9)),
        consecutive=chance.choice((None, None, 2, 4)),
        open_for=60,
        permits=1,
        lease=30,
        ttl=600,
        seconds=chance.choice((None, 3600.0)),
        slow_rate=chance.choice((None, 0.3)),
    )


def random_outcomes(chance: random.Random) -> str:
    """Runs of successes of all lengths, and something between them."""
    between = ("", "1", "11", "3", "2", "s", "sf", "so", "f", "o")
    return "".join(
        "0" * chance.choice((0, 1, 2, 3, 9, 50)) + chance.choice(between) for _ in range(4)
    )


def without_times(view: CircuitView) -> tuple[object, ...]:
    """What two stores must agree on, whenever they are asked."""
    seen = (view.state, view.calls, view.failures, view.slow, view.consecutive, view.reason)
    was = (view.last_failure is None, view.last_success is None, view.opened, view.stale)
    return (*seen, *was, view.breach, view.fingerprint)


def test_the_same_as_everywhere(backend: MongoBackend) -> None:
    """Whatever the rules and the outcomes are, both come to the same after each batch of them."""
    other = resolve("memory://")
    stores = [each.require("circuits") for each in (other, backend)]
    for seed in range(60):
        chance = random.Random(seed)
        rules, state, key = random_rules(chance), chance.choice(STATES), f"circuit {seed}"
        if state is not CircuitState.CLOSED:
            for store in stores:
                drive(store.force(key, state))
        for _ in range(4):
            outcomes = random_outcomes(chance)
            expected, seen = [
                without_times(drive(store.record(key, rules=rules, outcomes=outcomes)))
                for store in stores
            ]
            assert seen == expected, (seed, rules, outcomes)
    other.close()


@pytest.mark.parametrize(
    ("outcomes", "runs"),
    [
        ("", ""),
        ("0", "000001"),
        ("00000", "000001000004"),
        ("0110", "000001100001100001000001"),
        ("0" * 100_001, "000001099999000001"),
    ],
)
def test_runs(outcomes: str, runs: str) -> None:
    """Successes in a row are taken together, but for the first."""
    assert runs_of(outcomes) == runs


def test_a_batch_whose_answer_was_lost(backend: MongoBackend) -> None:
    """The command itself, sent twice, counts once."""
    circuits = backend.require("circuits")
    rules = random_rules(random.Random(1))
    rules = rules._replace(window=10, seconds=None, failure_rate=None, consecutive=None)
    plan = circuits.record("c", rules=rules, outcomes="0010")
    ask = plan.send(None)
    for _ in range(2):
        ask.transport.send(ask.command)
    plan.close()
    seen = drive(circuits.view("c"))
    assert (seen.calls, seen.failures) == (4, 1)
