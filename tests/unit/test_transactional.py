"""What all transactional stores share beyond the conformance suite, seen on the memory backend."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from resilient.backends.memory import MemoryBackend, MemoryStore
from resilient.engine.clock import ManualClock
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Record
from resilient.protocols.cache import Leased
from resilient.protocols.circuits import CircuitRules, CircuitState, Verdict
from resilient.protocols.idempotency import Claimed, Completed
from resilient.protocols.values import Encoded
from tests.support.memory import acquire, store_of


@pytest.fixture(name="backend")
def _backend(clock: ManualClock) -> MemoryBackend:
    return MemoryBackend()


def jobs_of(backend: MemoryBackend) -> Any:
    """The checkpoints of a backend."""
    return backend.checkpoints


def test_a_save_costs_the_same_whatever_was_saved(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save writes two records and removes one, with 5 checkpoints kept and 2,000 steps done."""
    jobs = jobs_of(backend)
    fence = drive(jobs.start("j", owner="ann", lease=30, ttl=60)).fence
    for number in range(2_000):
        drive(jobs.step("j", f"s{number}", Encoded(b"x"), fence=fence, ttl=60, lease=30))
    for _ in range(10):
        drive(jobs.save("j", Encoded(b"x"), fence=fence, ttl=60, lease=30))
    calls: list[str] = []
    for name in ("get", "put", "delete", "scan"):
        original = getattr(MemoryStore, name)

        def counted(*args: Any, _name: str = name, _original: Any = original, **kw: Any) -> Any:
            calls.append(_name)
            return _original(*args, **kw)

        monkeypatch.setattr(MemoryStore, name, counted)
    drive(jobs.save("j", Encoded(b"x"), fence=fence, ttl=60, lease=30))
    assert sorted(calls) == ["delete", "get", "put", "put"]


def test_steps_outlive_a_long_run(backend: MemoryBackend, clock: ManualClock) -> None:
    """What was saved at first is still there as long as the job is kept by later writes."""
    jobs = jobs_of(backend)
    fence = drive(jobs.start("j", owner="ann", lease=30, ttl=60)).fence
    drive(jobs.step("j", "first", Encoded(b"1"), fence=fence, ttl=60, lease=30))
    drive(jobs.save("j", Encoded(b"one"), fence=fence, ttl=60, lease=30))
    for _ in range(50):
        clock.advance(20)
        assert drive(jobs.renew("j", owner="ann", lease=30))
    resumed = drive(jobs.start("j", owner="ann", lease=30, ttl=60))
    assert resumed.steps == {"first": b"1"}
    assert resumed.checkpoint.data == b"one"


def test_a_short_ttl_does_not_shorten_what_a_longer_one_keeps(
    backend: MemoryBackend, clock: ManualClock
) -> None:
    """A checkpoint saved with a TTL of a second lives on under a later write with a longer one."""
    jobs = jobs_of(backend)
    fence = drive(jobs.start("j", owner="ann", lease=1, ttl=600)).fence
    drive(jobs.save("j", Encoded(b"one"), fence=fence, ttl=1))
    assert drive(jobs.step("j", "s", Encoded(b"1"), fence=fence, ttl=600, lease=1))
    clock.advance(500)
    assert drive(jobs.latest("j")).data == b"one"


def test_an_expired_job_leaves_nothing_to_the_next(
    backend: MemoryBackend, clock: ManualClock
) -> None:
    """A job that was forgotten starts anew, though its steps are collected later."""
    jobs = jobs_of(backend)
    fence = drive(jobs.start("j", owner="ann", lease=30, ttl=60)).fence
    drive(jobs.step("j", "s", Encoded(b"1"), fence=fence, ttl=60, lease=30))
    drive(jobs.save("j", Encoded(b"one"), fence=fence, ttl=60, lease=30))
    clock.advance(61)
    again = drive(jobs.start("j", owner="bob", lease=30, ttl=60))
    assert (again.attempt, again.checkpoint, dict(again.steps)) == (1, None, {})
    drive(jobs.save("j", Encoded(b"two"), fence=again.fence, ttl=60, lease=30))
    assert [c.data for c in drive(jobs.list("j"))] == [b"two"]


def test_jobs_with_alike_names_share_no_steps(backend: MemoryBackend) -> None:
    """However task and step names are cut, the steps of one job are never another's."""
    jobs = jobs_of(backend)
    found = {}
    for task in ("a", "a:", "a:1", "1:a", ""):
        fence = drive(jobs.start(task, owner="ann", lease=30, ttl=60)).fence
        drive(jobs.step(task, "1:s", Encoded(task.encode()), fence=fence, ttl=60, lease=30))
    for task in ("a", "a:", "a:1", "1:a", ""):
        found[task] = dict(drive(jobs.start(task, owner="ann", lease=30, ttl=60)).steps)
    assert found == {task: {"1:s": task.encode()} for task in found}


def test_a_fill_is_not_confirmed_once_another_computes(backend: MemoryBackend) -> None:
    """Whoever stored a value that was invalidated has stored nothing for the next computation."""
    cache = backend.cache
    assert cache is not None
    for owner in ("ann", "bob"):
        leased = drive(cache.fetch("k", owner=owner, lease=30, tags=["t"]))
        assert isinstance(leased, Leased)
        if owner == "ann":
            assert drive(cache.fill("k", Encoded(b"1"), owner="ann", ttl=60, tags=["t"]))
            drive(cache.invalidate_tags(["t"]))
    assert not drive(cache.fill("k", Encoded(b"2"), owner="ann", ttl=60, tags=["t"]))
    assert drive(cache.fill("k", Encoded(b"3"), owner="bob", ttl=60, tags=["t"]))
    entry = drive(cache.get("k"))
    assert entry is not None
    assert entry.value == b"3"


RULES = CircuitRules(
    window=10,
    min_calls=4,
    failure_rate=0.5,
    consecutive=None,
    open_for=30,
    permits=2,
    lease=10,
    ttl=3600,
)


def test_fewer_permits_than_before_do_not_strand_a_round(
    backend: MemoryBackend, clock: ManualClock
) -> None:
    """A round that has enough outcomes under new rules is judged by whoever asks next."""
    circuits = backend.circuits
    assert circuits is not None
    drive(circuits.record("c", rules=RULES, outcomes="1111"))
    clock.advance(30)
    many = RULES._replace(permits=5)
    for token in ("a", "b"):
        admission = drive(circuits.admit("c", rules=many, token=token))
        assert admission.verdict is Verdict.PROBE
        generation = admission.view.generation
        drive(circuits.report("c", rules=many, token=token, generation=generation, outcome="0"))
    admission = drive(circuits.admit("c", rules=RULES, token="c"))
    assert admission.verdict is Verdict.ALLOWED
    assert admission.view.state is CircuitState.CLOSED


def test_generations_are_never_used_again(backend: MemoryBackend) -> None:
    """A circuit that was forgotten begins above every generation it had."""
    circuits = backend.circuits
    assert circuits is not None
    seen = []
    for _ in range(5):
        seen.append(drive(circuits.record("c", rules=RULES, outcomes="0")).generation)
        seen.append(drive(circuits.record("c", rules=RULES, outcomes="111")).generation)
        drive(circuits.delete("c"))
    assert seen == sorted(set(seen))


def test_a_claim_is_one_transaction(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading first, whether the call was made before, would save no writer anything here."""
    store = store_of(backend)
    transactions: list[Any] = []
    change = store.change

    def counted(work: Any) -> Any:
        transactions.append(work)
        return change(work)

    monkeypatch.setattr(store, "change", counted)
    calls = backend.sync.idempotency
    assert isinstance(calls.claim("k", owner="a", lease=30, ttl=60), Claimed)
    assert calls.complete("k", owner="a", result=7, ttl=60)
    assert isinstance(calls.claim("k", owner="b", lease=30, ttl=60), Completed)
    assert len(transactions) == 3


def test_the_garbage_collector_sees_no_records(backend: MemoryBackend) -> None:
    """However much is stored: its passes take no longer for it."""
    for n in range(100):
        acquire(backend, f"k{n}", "owner")
    gc.collect()
    seen = [each for each in gc.get_objects() if isinstance(each, Record)]
    entries = [
        entry for records in store_of(backend)._tables.values() for entry in records.values()
    ]
    assert len(entries) == 100
    assert seen == []
    assert not any(map(gc.is_tracked, entries))
