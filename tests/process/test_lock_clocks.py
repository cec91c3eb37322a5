"""Clocks that are wrong, and clocks that step: of the processes, and of the server."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient
from tests.process import lock_fault_workers as workers
from tests.support.faketime import ServerTime
from tests.support.fixtures import Target
from tests.support.processes import group, run_all
from tests.support.scale import scaled
from tests.support.servers import RedisServer, redis_server

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

TTL = 2.0
SLACK = 1.0
"""Seconds that a busy machine may add."""


def test_the_wall_clock_of_a_process_does_not_matter(shared_target: Target) -> None:
    """One an hour fast, one an hour slow, one right: they take turns as if all were right."""
    rounds = scaled(300, 30)
    arguments = [(shared_target.url, shared_target.prefix, hours, rounds) for hours in (1, -1, 0)]
    held = sorted(turn for turns in run_all(workers.in_another_time, arguments) for turn in turns)
    assert len(held) == 3 * rounds
    for (_, until, fence), (since, _, next_fence) in itertools.pairwise(held):
        assert since >= until
        assert next_fence > fence


class Timekeeper:
    """A server whose clock can be stepped while it runs."""

    def __init__(self, server: RedisServer, clock: ServerTime) -> None:
        self.server = server
        self._clock = clock

    def step(self, seconds: int) -> None:
        """Step its clock, and wait until it shows."""
        before = self._now()
        self._clock.shift(seconds)
        while abs(self._now() - before) < abs(seconds) / 2:
            time.sleep(0.005)

    def _now(self) -> int:
        with self.server.client() as client:
            return int(client.time()[0])


@pytest.fixture
def timekeeper(tmp_path: Path) -> Iterator[Timekeeper]:
    """The server, under `libfaketime`."""
    clock = ServerTime(tmp_path / "time")
    with redis_server(env=clock.env) as server:
        yield Timekeeper(server, clock)


@pytest.mark.slow
def test_a_server_clock_that_steps_forward_ends_a_lease_and_its_holder_learns_of_it(
    timekeeper: Timekeeper, prefix: str
) -> None:
    """The server lets the lock expire at once: its holder is told, and writes nothing any more."""
    url = timekeeper.server.url
    ledger = workers.Ledger(f"{url}#{prefix}ledger")
    with (
        resilient.using(url, prefix=prefix),
        group(workers.watch, [(url, prefix, "async", TTL)]) as (holder,),
    ):
        fence = holder.wait_for("holding")
        with pytest.raises(resilient.LeaseLost), resilient.lock("other", ttl=TTL) as blind:
            blind.drop()
            blind.deadline = math.inf
            assert ledger.write(blind, "before")
            timekeeper.step(3600)
            stepped = time.monotonic()
            with resilient.lock("other", ttl=TTL, wait=10) as lease:
                assert ledger.write(lease, "after")
                assert not ledger.write(blind, "stale")
                assert ledger.read() == "after"
        report = holder.result(30)
        print(f"loss seen after {report['lost'] - stepped:.2f} s of TTL {TTL}")
        assert report["lost"] - stepped < TTL / 3 + SLACK
        with resilient.lock("k", ttl=TTL, wait=10) as lease:
            assert lease.fence > fence + 3_000_000_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lock", "semaphore"])
def test_a_server_clock_that_steps_back_keeps_nobody_waiting(
    timekeeper: Timekeeper, prefix: str, kind: str
) -> None:
    """A dead holder's hold would live an hour longer: waiters have it after its TTL even so."""
    url = timekeeper.server.url
    with (
        resilient.using(url, prefix=prefix),
        group(workers.hold_one, [(url, prefix, kind, TTL)]) as (holder,),
    ):
        fence = holder.wait_for("holding")
        holder.stop()  # a dead one of this host would be seen to be dead
        timekeeper.step(-3600)
        stepped = time.monotonic()
        with workers.of_kind(kind, TTL) as lease:
            waited = time.monotonic() - stepped
            assert lease.fence > fence
    print(f"waited {waited:.2f} s for a {kind} of TTL {TTL}")
    assert waited < TTL + 2 * SLACK
