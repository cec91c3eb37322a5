"""Replies of MongoDB that are lost: whatever was done is done once, and answered the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, checkpoints, from_url
from resilient.engine.plan import Plan
from resilient.protocols.cache import Leased
from resilient.protocols.circuits import CircuitRules, CircuitState, Verdict
from resilient.protocols.values import Encoded
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.mongodb import MongoAt, through

pytestmark = pytest.mark.usefixtures("pymongos_sockets")

ONE, TWO, LARGE = Encoded(b"one"), Encoded(b"two"), Encoded(bytes(2 << 20))
RULES = CircuitRules(
    window=10, min_calls=4, failure_rate=0.5, consecutive=None, open_for=0.001, permits=1,
    lease=30, ttl=60,
)  # fmt: skip
KEPT: dict[str, Any] = {"lease": 30, "ttl": 60}

Lossy = Callable[[Plan[Any]], Any]


@pytest.fixture
def url(mongo_server: MongoAt) -> str:
    """Of the shared server."""
    return mongo_server.url


@pytest.fixture
def backend(run: Run, proxy: FaultProxy, prefix: str) -> Iterator[MongoBackend]:
    """A backend behind it."""
    backend = from_url(through(proxy), prefix=prefix)
    with run.closing(backend):
        yield backend


@pytest.fixture
def lossy(run: Run, proxy: FaultProxy) -> Lossy:
    """Run a plan whose first change is made, and answered to nobody."""

    def call(plan: Plan[Any]) -> Any:
        before = proxy.counts.dropped
        proxy.drop_reply_when(lambda request: b"findAndModify" in request)
        answer = run(plan)
        assert proxy.counts.dropped == before + 1
        return answer

    return call


def test_cache(run: Run, lossy: Lossy, backend: MongoBackend) -> None:
    """A lease is given once, a value stored once, and a removal tells what it has removed."""
    cache = backend.require("cache")
    leased = lossy(cache.fetch("k", owner="ann", lease=30))
    assert isinstance(leased, Leased)
    assert run(cache.fetch("k", owner="ann", lease=30)) == leased
    assert lossy(cache.renew("k", owner="ann", lease=30)) is True
    assert lossy(cache.fill("k", ONE, owner="ann", ttl=60, tags=["t"])) is True
    lossy(cache.set("k", TWO, ttl=60))
    entry = run(cache.get("k"))
    assert entry.value == TWO
    again = run(cache.fetch("k2", owner="ann", lease=30))
    assert lossy(cache.abandon("k2", owner="ann")) is True
    assert run(cache.fetch("k2", owner="bob", lease=30)).fence > again.fence
    lossy(cache.delete("k"))
    assert run(cache.get("k")) is None


def test_circuits(run: Run, lossy: Lossy, backend: MongoBackend) -> None:
    """A batch of outcomes counts once, a permit is given once, a probe ends once."""
    circuits = backend.require("circuits")
    assert lossy(circuits.record("c", rules=RULES, outcomes="010")).calls == 3
    opened = lossy(circuits.record("c", rules=RULES, outcomes="1"))
    assert (opened.state is not CircuitState.CLOSED, opened.opened) == (True, 1)
    assert [each.after for each in run(circuits.history("c"))].count(CircuitState.OPEN) == 1
    admission = lossy(circuits.admit("c", rules=RULES, token="t"))
    assert admission.verdict is Verdict.PROBE
    generation = admission.view.generation
    report = circuits.report("c", rules=RULES, token="t", generation=generation, outcome="0")
    assert lossy(report).state is CircuitState.CLOSED
    assert [each.after for each in run(circuits.history("c"))] == ["closed", "half_open", "open"]


def test_jobs(
    run: Run,
    lossy: Lossy,
    proxy: FaultProxy,
    backend: MongoBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run starts once, each checkpoint is one, and what is large is pointed at once."""
    jobs = backend.require("checkpoints")
    started = lossy(jobs.start("j", owner="ann", **KEPT))
    assert started.attempt == 1
    fence = started.fence
    for data in (ONE, LARGE):
        assert lossy(jobs.save("j", data, fence=fence, ttl=60)) is not None
    assert lossy(jobs.save("j", TWO, fence=fence, sequence=3, ttl=60)).sequence == 3
    assert [each.data for each in run(jobs.list("j"))] == [ONE, LARGE, TWO]
    for name, value in (("s", ONE), ("large", LARGE)):
        assert lossy(jobs.step("j", name, value, fence=fence, ttl=60)) is True
    assert dict(run(jobs.steps("j"))) == {"s": ONE, "large": LARGE}
    monkeypatch.setattr(checkpoints, "ROOM_FOR_STEPS", 300)
    names = [f"fetch[{number}]" for number in range(5)]
    before = proxy.counts.dropped
    proxy.drop_reply_when(lambda request: b"$$p.names" in request)  # which makes a volume of them
    for name in names:
        run(jobs.step("j", name, ONE, fence=fence, ttl=60))
    assert proxy.counts.dropped == before + 1
    assert dict(run(jobs.steps("j"))) == {"s": ONE, "large": LARGE, **dict.fromkeys(names, ONE)}
    assert lossy(jobs.stop("j", owner="ann")) is True
    again = lossy(jobs.start("j", owner="bob", **KEPT))
    assert (again.attempt, again.checkpoint.data) == (2, TWO)
    assert lossy(jobs.finish("j", LARGE, fence=again.fence, ttl=60)) is True
    assert run(jobs.runner("j")).result == LARGE
