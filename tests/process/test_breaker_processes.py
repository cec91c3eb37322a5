"""One circuit breaker between many processes, some of which die, or have a wrong clock."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

import resilient
from resilient import CircuitBreaker, CircuitState, Consecutive, HalfOpen
from resilient.resolving import resolve
from tests.process import breaker_workers
from tests.process.breaker_workers import CONCURRENCY, PERMITS
from tests.support.fixtures import Target, alternating
from tests.support.lateness import Lateness
from tests.support.modes import Mode
from tests.support.processes import Worker, group
from tests.support.scale import measured, scaled
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

PROCESSES = 20
MOST_ROUNDS = 20
OPEN = CircuitState.OPEN


class Fleet:
    """Twenty processes, every other of which uses `async with`, on one backend."""

    def __init__(self, target: Target, workers: list[Worker]) -> None:
        self.target = target
        self._workers = workers
        for worker in workers:
            worker.send(["use", target.url, target.prefix])
        for worker in workers:
            worker.wait_for("done", 60)

    def do(self, name: str, *arguments: Any, one_more: tuple[Any, Any] | None = None) -> list[Any]:
        """Have all do the same, from a common start; what each of them answers.

        Args:
            name: What.
            arguments: How.
            one_more: A last argument for the first of them, and another one for the others.
        """
        for place, worker in enumerate(self._workers):
            last = () if one_more is None else (one_more[place > 0],)
            worker.send([name, *arguments, *last])
        for worker in self._workers:
            worker.wait_for("ready", 60)
        time.sleep(0.2)  # what they have counted so far is on the server
        for worker in reversed(self._workers):
            worker.send()
        return [worker.wait_for("done", 120) for worker in self._workers]


@pytest.fixture(scope="module", name="workers")
def _workers() -> Iterator[list[Worker]]:
    modes = ["sync", "async"] * (PROCESSES // 2)
    with group(breaker_workers.serve, [(mode,) for mode in modes]) as workers:
        yield workers


@pytest.fixture(scope="module", params=["sqlite", "redis"], name="fleet")
def _fleet(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    workers: list[Worker],
) -> Fleet:
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('fleet') / 'state.db'}"
    return Fleet(Target(request.param, url, f"test-{uuid.uuid4().hex[:12]}:"), workers)


def test_all_processes_know_at_once_that_it_is_open(fleet: Fleet) -> None:
    """20 processes: open in half of them within 10 ms, and in each within 100.

    In the best of some rounds, and but for how late threads come to their turns on a busy machine.
    """
    with Lateness() as late:
        middle, latest = _delays(fleet, "see_it_open", scaled(10, 3), 0.01, 0.1)
    measured(f"a trip is seen, {fleet.target.kind}, median", middle * 1000, "ms")
    measured(f"a trip is seen, {fleet.target.kind}, by all", latest * 1000, "ms")
    assert middle <= 0.01 + late.seconds
    assert latest <= 0.1 + late.seconds


@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_all_processes_know_soon_where_nobody_can_tell_them(
    fleet: Fleet, request: pytest.FixtureRequest
) -> None:
    """Within a second where every connection that listens is killed again and again."""
    server = request.getfixturevalue("redis_server")
    if not isinstance(server, RedisServer):
        pytest.skip("the connections are not ours to kill")
    over = threading.Event()

    def kill() -> None:
        with server.client() as client:
            while not over.wait(0.05):
                client.client_kill_filter(_type="pubsub")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        _, latest = _delays(fleet, "see_it_forced", scaled(10, 2), 1, 1)
    finally:
        over.set()
        killer.join()
    measured("a trip is seen by all without pub/sub", latest * 1000, "ms")
    assert latest <= 1


def _delays(
    fleet: Fleet, name: str, rounds: int, limit_of_half: float, limit: float
) -> tuple[float, float]:
    """The median and the longest delay of a round, each in the best of them.

    There are more of them until both limits are kept.
    """
    middle, latest = math.inf, math.inf
    for number in range(MOST_ROUNDS):
        tripped, *seen = fleet.do(name, number, one_more=(True, False))
        middle = min(middle, statistics.median(seen) - tripped)
        latest = min(latest, max(seen) - tripped)
        if number + 1 >= rounds and middle <= limit_of_half and latest <= limit:
            break
    return middle, latest


def test_failures_of_all_processes_count_together(fleet: Fleet) -> None:
    """20 processes that fail nine times each, with ten to open it: few of 180 are let through.

    Until it is so in one of some rounds: a process that gets no turn for a while cannot be told.
    """
    fewest = 9 * PROCESSES
    for number in range(MOST_ROUNDS):
        fewest = min(fewest, sum(fleet.do("share_failures", number)))
        with resilient.using(fleet.target.url, prefix=fleet.target.prefix) as backend:
            assert backend.sync.circuits.view(f"shared-{number}").state is OPEN
        if fewest <= 2 * PROCESSES:
            break
    measured(f"bodies that ran, {fleet.target.kind}", fewest, "of 180")
    assert fewest <= 2 * PROCESSES


def test_exactly_so_many_probes_as_there_are_permits(fleet: Fleet) -> None:
    """20 processes hammer a circuit, round after round: five probes in each, two at once."""
    rounds = scaled(50, 5)
    probes = [
        probe
        for probes in fleet.do("hammer", 0, rounds, one_more=(True, False))
        for probe in probes
    ]
    of_round: dict[float, list[list[float]]] = defaultdict(list)
    for opened, began, ended in probes:
        of_round[opened].append([began, ended])
    found = {number: len(probes) for number, probes in of_round.items()}
    assert found == dict.fromkeys(range(1, rounds + 1), PERMITS)
    live = most = 0
    for _, change in sorted([(p[1], 1) for p in probes] + [(p[2], -1) for p in probes]):
        live += change
        most = max(most, live)
    assert most <= CONCURRENCY


@alternating("async")
def test_the_permit_of_a_killed_probe_comes_back(shared_target: Target, mode: Mode) -> None:
    """By its lease: others are refused until then, and probe within 0.2 s of its end.

    In the best of some rounds, and but for how late threads come to their turns.
    """
    lease, beyond, kind = 2.0, math.inf, shared_target.kind
    for attempt in range(4):
        arguments = (shared_target.url, f"{shared_target.prefix}{attempt}:", mode.name, lease)
        with (
            Lateness() as late,
            group(breaker_workers.probe_when_possible, [arguments]) as (other,),
            group(breaker_workers.probe_and_hang, [arguments]) as (prober,),
        ):
            began = prober.wait_for("probing")
            other.send()
            assert other.wait_for("refused") == "half_open"
            prober.kill()
            waited = other.result() - began
        measured(f"a killed probe's permit comes back, {kind}", waited - lease, "s after its lease")
        assert waited >= lease
        beyond = min(beyond, waited - 5 * late.seconds)
        if waited <= lease + 0.2:
            break
    assert beyond <= lease + 0.2


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_the_permit_of_an_interrupted_probe_comes_back_at_once(
    kind: str, how: str, request: pytest.FixtureRequest
) -> None:
    """Of a task that is cancelled, of a generator that is closed: for all processes, in 50 ms."""
    target = _target(kind, request)
    here, there = (resolve(target.url, target.prefix) for _ in range(2))
    options: dict[str, Any] = {"trip": Consecutive(1), "open_for": 0.05, "min_calls": 1}
    half_open = HalfOpen(permits=1, lease=60)
    one, other = (
        CircuitBreaker("service", half_open=half_open, backend=backend, **options)
        for backend in (here, there)
    )

    @one
    async def call() -> None:
        await asyncio.sleep(60)

    @one
    async def stream() -> AsyncGenerator[int, None]:
        for number in itertools.count():
            yield number

    async def interrupted() -> None:
        if how == "cancelled":
            task = asyncio.create_task(call())
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            numbers = stream()
            assert await anext(numbers) == 0
            await numbers.aclose()

    async def main() -> float:
        best = math.inf
        for _ in range(5):
            await other.at().aforce_open(duration=0.05)
            await asyncio.sleep(0.15)
            await interrupted()
            assert one.at().state is CircuitState.HALF_OPEN
            began = time.perf_counter()
            async with other.guard() as probe:
                assert probe.is_probe
                best = min(best, time.perf_counter() - began)
                probe.fail()
        await here.aclose()
        await there.aclose()
        return best

    took = asyncio.run(main())
    measured(f"a {how} probe's permit, {kind}", took * 1000, "ms")
    assert took <= 0.05


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_the_wall_clock_of_a_process_does_not_matter(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """An hour fast, an hour slow, and right: one time window, one time open, one probe round."""
    target = _target(kind, request)
    arguments = [
        (target.url, target.prefix, mode, hours)
        for mode, hours in (("sync", 1), ("async", -1), ("sync", 0))
    ]
    with group(breaker_workers.in_another_time, arguments) as workers:
        for worker in workers:
            assert worker.wait_for("open", 60) <= 1
        results = [worker.result(30) for worker in workers]
    assert sum(result["probes"] for result in results) == 3
    with resilient.using(target.url, prefix=target.prefix) as backend:
        reasons = [each.reason for each in backend.sync.circuits.history("service")]
    assert reasons == ["probes_passed", "wait_elapsed", "failure_rate"]


def _target(kind: str, request: pytest.FixtureRequest) -> Target:
    prefix: str = request.getfixturevalue("prefix")
    if kind == "redis":
        return Target(kind, request.getfixturevalue("redis_server").url, prefix)
    return Target(kind, f"sqlite:///{request.getfixturevalue('tmp_path') / 'state.db'}", prefix)
