"""Jobs on MongoDB whose state is larger than a document, or whose steps are many."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, checkpoints, from_url
from resilient.backends.mongodb.parts import Parts
from resilient.engine.backend import Backend
from resilient.engine.drivers.sync import drive
from resilient.errors import BackendError
from resilient.protocols.checkpoints import Finished, Started
from resilient.protocols.values import Encoded
from tests.support.mongodb import MongoAt

DAY = 86400.0
LARGE = Encoded(os.urandom(1 << 20))


@pytest.fixture
def backend(mongo: MongoAt) -> Iterator[MongoBackend]:
    """A backend in a database of its own."""
    backend = from_url(mongo.url)
    yield backend
    backend.close()


class Raw:
    """The store by hand, whose bytes are what it is given."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.require("checkpoints")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)
        return lambda *args, **options: drive(method(*args, **options))


def parts(mongo: MongoAt) -> list[dict[str, Any]]:
    """What lies beside documents."""
    with mongo.client() as client:
        found = client.get_default_database()["resilient.parts"].find({}, {"gone": 1})
        return list(found)


def started(backend: Backend, owner: str, ttl: float = DAY, **options: Any) -> Started:
    """The job as its runner finds it."""
    answer = Raw(backend).start("job", owner=owner, lease=30, ttl=ttl, **options)
    assert isinstance(answer, Started)
    return answer


def test_a_state_larger_than_a_document(backend: MongoBackend, mongo: MongoAt) -> None:
    """State and result of 17 MB, more than a document holds, come back; the old ones are gone."""
    jobs, huge = Raw(backend), Encoded(os.urandom(17 << 20))
    fence = started(backend, "ann").fence
    for _ in range(2):
        assert jobs.save("job", huge, fence=fence, keep=1, ttl=DAY) is not None
    assert len(parts(mongo)) == 3, "of 8 MB each, and those of the first one removed"
    latest = jobs.latest("job")
    assert latest is not None
    assert latest.data == huge
    assert jobs.finish("job", huge, fence=fence, ttl=DAY) is True
    finished = jobs.runner("job")
    assert isinstance(finished, Finished)
    assert finished.result == huge
    assert jobs.delete("job") is True
    assert parts(mongo) == []


def test_a_stale_runner_leaves_nothing(backend: MongoBackend, mongo: MongoAt) -> None:
    """What a stale runner has written beside the job is pointed at by nothing, and removed."""
    jobs = Raw(backend)
    stale = started(backend, "ann").fence
    jobs.stop("job", owner="ann")
    started(backend, "bob")
    assert jobs.save("job", LARGE, fence=stale, sequence=1, ttl=DAY) is None
    assert jobs.step("job", "s", LARGE, fence=stale, ttl=DAY) is False
    assert jobs.finish("job", Encoded(LARGE * 2), fence=stale, ttl=DAY) is False
    assert parts(mongo) == []
    assert (jobs.latest("job"), dict(jobs.steps("job"))) == (None, {})


def test_a_large_save_sent_again(backend: MongoBackend, mongo: MongoAt) -> None:
    """The save that came first counts, and what the second one wrote is removed."""
    jobs = Raw(backend)
    fence = started(backend, "ann").fence
    for data in (LARGE, Encoded(LARGE[::-1])):
        saved = jobs.save("job", data, fence=fence, sequence=1, ttl=DAY)
        assert saved is not None
    loaded = jobs.load("job", 1)
    assert loaded is not None
    assert (loaded.data, len(parts(mongo))) == (LARGE, 1)


def test_killed_before_it_is_pointed_at(
    backend: MongoBackend, mongo: MongoAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is as it was before; what was written is the server's to remove."""
    jobs = Raw(backend)
    fence = started(backend, "ann").fence
    jobs.save("job", Encoded(b"before"), fence=fence, ttl=DAY)
    put = Parts.put

    async def killed(self: Parts, value: bytes, limit: int, keep: int) -> Any:
        await put(self, value, limit, keep)
        raise BackendError("killed")

    monkeypatch.setattr(Parts, "put", killed)
    with pytest.raises(BackendError):
        jobs.save("job", LARGE, fence=fence, ttl=DAY)
    latest = jobs.latest("job")
    assert latest is not None
    assert latest.data == b"before"
    [left] = parts(mongo)
    assert left["gone"] is not None


def test_many_steps(backend: MongoBackend, mongo: MongoAt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are bound into volumes beside the job; of each, the first result counts."""
    monkeypatch.setattr(checkpoints, "ROOM_FOR_STEPS", 1000)
    jobs = Raw(backend)
    fence = started(backend, "ann").fence
    names = [f"fetch[{number}]" for number in range(40)]
    for name in names:
        assert jobs.step("job", name, Encoded(name.encode()), fence=fence, ttl=DAY) is True
    assert 3 <= len(parts(mongo)) < len(names) / 2
    for name in names[:3]:  # they lie in a volume
        assert jobs.step("job", name, Encoded(b"again"), fence=fence, ttl=DAY) is True
    assert jobs.step("job", names[0], LARGE, fence=fence, ttl=DAY) is True
    expected = {name: name.encode() for name in names}
    assert dict(jobs.steps("job")) == expected
    jobs.stop("job", owner="ann")
    assert dict(started(backend, "bob").steps) == expected


def test_a_large_step(backend: MongoBackend) -> None:
    """A large result lies beside the job, and the first one counts there too."""
    jobs = Raw(backend)
    fence = started(backend, "ann").fence
    for value in (LARGE, Encoded(b"small"), Encoded(LARGE[::-1])):
        assert jobs.step("job", "s", value, fence=fence, ttl=DAY) is True
    assert dict(jobs.steps("job")) == {"s": LARGE}


def test_parts_outlive_the_job(backend: MongoBackend, mongo: MongoAt) -> None:
    """They are kept anew while the job lives on, also when it is kept for longer than before."""
    jobs = Raw(backend)
    fence = started(backend, "ann", ttl=60).fence
    jobs.save("job", LARGE, fence=fence, ttl=60)
    [before] = parts(mongo)
    assert jobs.save("job", Encoded(b"small"), fence=fence, ttl=DAY) is not None
    [after] = parts(mongo)
    assert before["gone"].timestamp() - time.time() < DAY < after["gone"].timestamp() - time.time()


def test_a_save_whose_answer_was_lost(backend: MongoBackend) -> None:
    """The command itself, sent twice, saves once, also where it names no number."""
    jobs = backend.checkpoints
    assert jobs is not None
    plan = jobs.save("job", Encoded(b"state"), ttl=DAY)
    ask = plan.send(None)
    answers = [ask.transport.send(ask.command) for _ in range(2)]
    plan.close()
    assert [answer["turn"] for answer in answers] == ["saved", "again"]
    assert [each.sequence for each in Raw(backend).list("job")] == [1]


def beside_a_reader(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Have somebody change the job between a reader's look at it and at what lies beside it."""
    get = Parts.get

    async def late(self: Parts, stored: Any) -> list[bytes]:
        monkeypatch.setattr(Parts, "get", get)
        change()
        return await get(self, stored)

    monkeypatch.setattr(Parts, "get", late)


@pytest.mark.parametrize("read", ["latest", "list", "load"])
def test_a_save_beside_a_reader(
    read: str, backend: MongoBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads a checkpoint that is replaced meanwhile gets the new one, or none; never half."""
    jobs, newer = Raw(backend), Encoded(LARGE[::-1])
    jobs.save("job", LARGE, keep=1, ttl=DAY)
    beside_a_reader(monkeypatch, lambda: jobs.save("job", newer, keep=1, ttl=DAY))
    if read == "load":
        assert jobs.load("job", 1) is None
        return
    found = [jobs.latest("job")] if read == "latest" else jobs.list("job")
    assert [(each.sequence, each.data) for each in found] == [(2, newer)]


def test_a_take_over_beside_a_start(backend: MongoBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is lost while it begins, to one that has saved since, begins anew after that."""
    jobs, newer, fences = Raw(backend), Encoded(LARGE[::-1]), [0]
    jobs.save("job", LARGE, keep=1, ttl=DAY)

    def taken_over() -> None:
        jobs.stop("job", owner="ann")
        fences.append(started(backend, "bob").fence)
        jobs.save("job", newer, fence=fences[-1], keep=1, ttl=DAY)
        jobs.stop("job", owner="bob")

    beside_a_reader(monkeypatch, taken_over)
    begun = started(backend, "ann")
    assert begun.fence > fences[-1] > 0
    assert begun.checkpoint is not None
    assert begun.checkpoint.data == newer


def test_a_result_beside_a_reader(backend: MongoBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large result that is replaced while it is read: the new one is answered."""
    jobs, results = Raw(backend), [Encoded(LARGE * 2), Encoded(LARGE[::-1] * 2)]

    def finish(result: Encoded) -> None:
        fence = started(backend, "ann", rerun=True).fence
        assert jobs.finish("job", result, fence=fence, ttl=DAY) is True

    finish(results[0])
    beside_a_reader(monkeypatch, lambda: finish(results[1]))
    finished = jobs.runner("job")
    assert isinstance(finished, Finished)
    assert finished.result == results[1]


def test_steps_beside_a_reader(backend: MongoBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a job that is deleted while they are read: none, and no part of them."""
    jobs = Raw(backend)
    fence = started(backend, "ann").fence
    assert jobs.step("job", "s", LARGE, fence=fence, ttl=DAY) is True
    beside_a_reader(monkeypatch, lambda: jobs.delete("job"))
    assert dict(jobs.steps("job")) == {}


def test_a_part_that_is_lost(backend: MongoBackend, mongo: MongoAt) -> None:
    """It is said, and not for want of trying; what is left is no checkpoint, result or step."""
    jobs, huge = Raw(backend), Encoded(bytes(9 << 20))
    fence = started(backend, "ann").fence
    jobs.step("job", "s", huge, fence=fence, ttl=DAY)
    jobs.save("job", huge, fence=fence, ttl=DAY)
    jobs.finish("job", huge, fence=fence, ttl=DAY)
    with mongo.client() as client:
        lost = client.get_default_database()["resilient.parts"].delete_many(
            {"_id": {"$regex": ":1$"}}
        )
    assert lost.deleted_count == 3
    for read in (jobs.latest, jobs.list, jobs.steps, jobs.runner):
        with pytest.raises(BackendError, match="1 of 2 parts are missing") as caught:
            read("job")
        assert not caught.value.transient
    assert jobs.delete("job") is True
    assert jobs.latest("job") is None
