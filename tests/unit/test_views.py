"""The stores by hand: everything that the reference adapter offers, by our names."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import resilient
from resilient import CapabilityMissing
from resilient.backends.memory import MemoryBackend
from resilient.engine.backend import Backend
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView
from tests.support.fixtures import Target
from tests.support.modes import Mode


@pytest.fixture(name="hand")
def _hand(target: Target, mode: Mode) -> Any:
    """The views of a backend, in this mode."""
    with resilient.using(target.url, prefix=target.prefix) as backend:
        yield backend.aio if mode.is_async else backend.sync
        if mode.is_async:
            mode.call(backend.aclose)


def test_locks_by_hand(hand: Any, mode: Mode) -> None:
    """Acquire with or without an owner, extend, release, force release, is-valid."""
    grant = mode.call(hand.locks.acquire, "k", ttl=30)
    assert mode.call(hand.locks.is_held, "k", owner=grant.owner)
    held = mode.call(hand.locks.acquire, "k", ttl=30, owner="me")
    assert (held.owner, held.fence) == (grant.owner, grant.fence)
    assert mode.call(hand.locks.renew, "k", owner=grant.owner, ttl=60)
    assert 55 < mode.call(hand.locks.holder, "k").ttl <= 60
    assert not mode.call(hand.locks.release, "k", owner="me")
    assert mode.call(hand.locks.release, "k", owner=grant.owner)
    mine = mode.call(hand.locks.acquire, "k", ttl=30, owner="me")
    assert (mine.owner, mine.fence > grant.fence) == ("me", True)
    assert mode.call(hand.locks.force_release, "k")
    assert mode.call(hand.locks.holder, "k") is None


def test_circuits_by_hand(hand: Any, mode: Mode) -> None:
    """Get, set, record failure and success, with the maximum."""
    rules = CircuitRules(
        window=10,
        min_calls=10,
        failure_rate=None,
        consecutive=3,
        open_for=30,
        permits=1,
        lease=5,
        ttl=60,
    )
    assert mode.call(hand.circuits.view, "c").state is CircuitState.CLOSED
    mode.call(hand.circuits.record, "c", rules=rules, outcomes="1")
    view = mode.call(hand.circuits.record, "c", rules=rules, outcomes="0")
    assert (view.consecutive, view.calls, view.failures) == (0, 2, 1)
    assert view.last_failure is not None
    assert view.last_success is not None
    view = mode.call(hand.circuits.record, "c", rules=rules, outcomes="111")
    assert view.state is CircuitState.OPEN
    assert mode.call(hand.circuits.force, "c", CircuitState.CLOSED).state is CircuitState.CLOSED
    assert mode.call(hand.circuits.delete, "c")


def test_transitions_by_hand(hand: Any, mode: Mode) -> None:
    """Whoever subscribes hears of every circuit's, until it has enough of them."""
    heard: list[tuple[str, str]] = []
    told = threading.Event()

    def callback(key: str, view: CircuitView) -> None:
        heard.append((key, view.state.value))
        told.set()
        if key == "bad":
            raise ValueError(key)  # which is logged, and harms nobody

    stop = mode.call(hand.circuits.subscribe, callback)
    for key, state in (("bad", CircuitState.OPEN), ("k|1", CircuitState.FORCED_OPEN)):
        told.clear()
        mode.call(hand.circuits.force, key, state)
        assert told.wait(30)
    stop()
    second = threading.Event()
    mode.call(hand.circuits.subscribe, lambda key, view: second.set())
    mode.call(hand.circuits.force, "k|1", CircuitState.CLOSED)
    assert second.wait(30)
    assert heard == [("bad", "open"), ("k|1", "forced_open")]
    assert "subscribe" in dir(hand.circuits)
    with pytest.raises(AttributeError, match="nosuch"):
        hand.circuits.nosuch("k")


def test_where_nobody_is_told_there_is_nothing_to_subscribe_to(mode: Mode) -> None:
    """It is said at once, instead of silence for ever."""
    backend = Backend("silent", circuits=MemoryBackend().circuits)
    view: Any = backend.aio if mode.is_async else backend.sync
    with pytest.raises(CapabilityMissing, match="silent tells no process"):
        mode.call(view.circuits.subscribe, print)


def test_is_connected(hand: Any, mode: Mode) -> None:
    """A backend that answers says so."""
    assert mode.call(hand.is_connected) is True


def test_is_not_connected(mode: Mode) -> None:
    """One that cannot be reached is no error here; nor does it need all capabilities."""
    with resilient.using("redis://127.0.0.1:1/0") as backend:
        assert mode.call((backend.aio if mode.is_async else backend.sync).is_connected) is False
    jobs: Any = Backend("jobs", checkpoints=MemoryBackend().checkpoints)
    assert mode.call((jobs.aio if mode.is_async else jobs.sync).is_connected) is True


def test_the_cache_by_hand(hand: Any, mode: Mode) -> None:
    """Get, set, delete, has, clear and keys; values, not bytes; `None` is a value."""
    assert mode.call(hand.cache.get, "user:1") is None
    mode.call(hand.cache.set, "user:1", {"name": "Ada", "tags": (1, 2)}, ttl=60)
    mode.call(hand.cache.set, "user:2", None, ttl=60)
    mode.call(hand.cache.set, "order:1", "without a TTL")
    entry = mode.call(hand.cache.get, "user:1")
    assert entry.value == {"name": "Ada", "tags": (1, 2)}
    assert 55 < entry.ttl <= 60
    assert mode.call(hand.cache.get, "user:2").value is None
    assert mode.call(hand.cache.get, "order:1").ttl <= 30 * 86400
    assert mode.call(hand.cache.has, "user:2")
    assert sorted(mode.call(hand.cache.keys, "user:*")) == ["user:1", "user:2"]
    assert mode.call(hand.cache.delete, "user:2")
    assert not mode.call(hand.cache.has, "user:2")
    assert mode.call(hand.cache.clear) == 2
    assert mode.call(hand.cache.keys) == []


def test_idempotency_by_hand(hand: Any, mode: Mode) -> None:
    """Get, claim, complete, delete."""
    assert mode.call(hand.idempotency.get, "k") is None
    claim = mode.call(hand.idempotency.claim, "k", owner="me", lease=30, ttl=60)
    assert claim.attempt == 1
    assert mode.call(hand.idempotency.get, "k").owner == "me"
    assert mode.call(hand.idempotency.complete, "k", owner="me", result=(1, "a"), ttl=60)
    assert mode.call(hand.idempotency.get, "k").result == (1, "a")
    again = mode.call(hand.idempotency.claim, "k", owner="other", lease=30, ttl=60)
    assert again.result == (1, "a")
    assert mode.call(hand.idempotency.delete, "k")
    assert mode.call(hand.idempotency.get, "k") is None


def test_checkpoints_by_hand(hand: Any, mode: Mode) -> None:
    """Save, load the latest, load one, list, clean up to N, delete all."""
    for number in range(1, 8):
        saved = mode.call(
            hand.checkpoints.save, "import", {"row": number}, progress=number, eta=9.5, keep=10
        )
        assert (saved.sequence, saved.id) == (number, f"import:{number}")
    latest = mode.call(hand.checkpoints.latest, "import")
    assert (latest.sequence, latest.data, latest.progress) == (7, {"row": 7}, 7)
    assert (latest.task, latest.eta) == ("import", 9.5)
    assert mode.call(hand.checkpoints.load, "import", 3).data == {"row": 3}
    assert [each.sequence for each in mode.call(hand.checkpoints.list, "import")] == [*range(1, 8)]
    assert mode.call(hand.checkpoints.trim, "import", keep=2) == 5
    assert [each.data for each in mode.call(hand.checkpoints.list, "import")] == [
        {"row": 6},
        {"row": 7},
    ]
    assert mode.call(hand.checkpoints.delete, "import")
    assert mode.call(hand.checkpoints.latest, "import") is None
    assert mode.call(hand.checkpoints.list, "import") == []


def test_a_method_that_is_not_there_is_an_attribute_error() -> None:
    """A view has the protocol's methods, and no others."""
    with resilient.using("memory://") as backend:
        assert "acquire" in dir(backend.sync.locks)
        with pytest.raises(AttributeError, match="nosuch"):
            backend.sync.locks.nosuch("k")
