"""Long jobs: what an item, a checkpoint and a resumption cost when there are many."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
import redis

import resilient
from resilient import checkpointed
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.scale import scaled
from tests.support.servers import RedisAt

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.timing
def test_time_is_linear_in_the_items(shared_target: Target) -> None:
    """With a checkpoint for each item, the last half costs at most a fifth more than the first.

    So ten times the items take at most twelve times as long. What a busy machine adds is left out:
    each half counts by the fastest of its stretches, in the best of up to three runs.
    """
    items = scaled(10_000, least=2000)
    stretch = items // 100
    marks: list[float] = []

    @checkpointed("linear:{number}", every=1)
    def run(job: resilient.Job[dict[str, int]], number: int) -> int:
        for item in job.iterate(range(items)):
            if item % stretch == 0:
                marks.append(time.perf_counter())
            job.state["last"] = item
            job.step(f"step {item}", int)
        return job.progress.done

    def growth(number: int) -> float:
        marks.clear()
        assert run(number) == items
        took = [after - before for before, after in pairwise(marks)]
        first, last = min(took[:50]), min(took[50:])
        print(f"{items} items: {sum(took):.2f} s; the last ones cost {last / first:.2f}")
        return last / first

    with resilient.using(shared_target.url, prefix=shared_target.prefix):
        assert any(growth(number) <= 1.2 for number in range(3))


def test_never_more_than_keep_and_no_key_without_a_ttl(redis_server: RedisAt, prefix: str) -> None:
    """Of a thousand checkpoints five are kept, and each key of the job expires."""

    @checkpointed("kept", every=1, keep=5)
    def run(job: resilient.Job[dict[str, int]]) -> None:
        for item in job.iterate(range(scaled(1000, least=100))):
            job.step(f"step {item}", int)
            if item % 20 == 0:
                assert len(checkpoints()) <= 5

    def keys() -> list[bytes]:
        return list(client.scan_iter(match=f"{prefix}*", count=1000))

    def checkpoints() -> list[bytes]:
        return [key for key in keys() if key.startswith(f"{prefix}checkpoint:".encode())]

    with redis.Redis.from_url(redis_server.url) as client:
        with resilient.using(redis_server.url, prefix=prefix):
            run()
        assert len(checkpoints()) == 5
        found = keys()
        assert len(found) >= 7
        assert [key for key in found if client.pttl(key) < 0] == []


def test_three_thousand_steps_are_resumed_in_one_round_trip(
    redis_server: RedisAt, prefix: str, mode: Mode
) -> None:
    """By the server's own count: one to start, and one to end; no step is run again."""
    total = scaled(3000, least=300)
    ran: list[int] = []

    async def body(job: Any, fails: bool) -> None:
        for number in range(total):
            await mode.within(job.step, f"step {number}", lambda: ran.append(1))
        if fails:
            raise LookupError

    run = mode.decorate(checkpointed("steps", fingerprint=()), body)
    with resilient.using(redis_server.url, prefix=prefix):
        with pytest.raises(LookupError):
            mode.call(run, True)
        with redis_server.round_trips() as resumed:
            mode.call(run, False)
        if mode.is_async:
            mode.call(resilient.aclose)
    assert len(ran) == total
    assert resumed.count == 2
