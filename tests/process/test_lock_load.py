"""Many leases at once, and many that are short."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

import resilient
from resilient.backends.redis.transport import RedisTransport
from tests.support.scale import scaled
from tests.support.servers import RedisAt, redis_server

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_thousand_leases_are_renewed_together(
    redis_server: RedisAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is lost, two threads at most do it, and each tick is one pipeline."""
    pipelines: list[int] = []
    send_many = RedisTransport.send_many

    def counted(transport: RedisTransport, commands: Sequence[Any]) -> list[Any]:
        pipelines.append(len(commands))
        return send_many(transport, commands)

    monkeypatch.setattr(RedisTransport, "send_many", counted)
    seconds, ttl, many = scaled(60, 5), 3.0, 1000
    before = set(threading.enumerate())
    with resilient.using(redis_server.url, prefix=prefix), contextlib.ExitStack() as stack:
        locks = [resilient.lock(f"k{number}", ttl=ttl, wait=0) for number in range(many)]
        leases = [stack.enter_context(lock) for lock in locks]
        time.sleep(ttl)  # by now they have fallen into step
        pipelines.clear()
        time.sleep(seconds)
        helpers = set(threading.enumerate()) - before
        assert [lease for lease in leases if lease.lost] == []
    print(f"{len(pipelines)} pipelines of {sum(pipelines)} renewals, {len(helpers)} threads")
    assert len(helpers) <= 2
    assert sum(pipelines) >= many * (seconds - 1)
    assert len(pipelines) <= seconds / (ttl / 3) + 2


def test_no_renewal_outlives_a_release(prefix: str) -> None:
    """Leases of 50 ms by the thousand, some of which are being renewed as they end."""
    each, threads, ring = scaled(100_000, 4_000) // 4, 4, 100
    zombies: list[int] = []

    def turns(number: int) -> None:
        chance = random.Random(number)
        with server.client() as client:
            names = [f"{prefix}lock:{number}-{i}" for i in range(ring)]
            for turn in range(each):
                if turn % ring == 0:
                    zombies.append(int(client.exists(*names)))
                # A busy machine may be too slow for 50 ms, and then says so.
                with (
                    contextlib.suppress(resilient.LeaseLost),
                    resilient.lock(f"{number}-{turn % ring}", ttl=0.05, wait=1),
                ):
                    if turn % 25 == 0:
                        time.sleep(chance.uniform(0.015, 0.02))  # the time of a renewal
            zombies.append(int(client.exists(*names)))

    with redis_server() as server, resilient.using(server.url, prefix=prefix):
        workers = [threading.Thread(target=turns, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(zombies) == threads * (each // ring + 1)
    assert sum(zombies) == 0
