"""Crowds at one lock: fairness and throughput beside other libraries, and a storm of crashes."""

from __future__ import annotations

import importlib.util
import itertools
from operator import truediv
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process import lock_crowd_workers as crowd
from tests.support.fixtures import Target
from tests.support.processes import group
from tests.support.scale import scaled
from tests.support.servers import RedisAt

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]

PROCESSES = 8
CONNECTING = 12


def jain(counts: list[float]) -> float:
    """Jain's index of fairness: 1 if all got the same, 1/n if one got all."""
    total: float = sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))
    return total


def hammered(
    kinds: list[str], server: RedisAt, prefix: str, path: Path, seconds: float, rounds: int = 1
) -> dict[str, Figures]:
    """What each kind of lock does for a crowd."""
    with server.client() as client:
        client.rpush(f"{prefix}token", "token")
    arguments = [kinds, server.url, prefix, PROCESSES, seconds, rounds, str(path / "waits")]
    with group(crowd.hammer, [arguments]) as (nursery,):
        reports: list[dict[str, list[list[float]]]] = nursery.result(200)
    found = {}
    for kind in kinds:
        own = [[len(waits) for waits in report[kind]] for report in reports]
        together = [
            sorted(itertools.chain(*of_one))
            for of_one in zip(*(r[kind] for r in reports), strict=True)
        ]
        found[kind] = Figures(
            per_second=[len(waits) / seconds for waits in together],
            p50=[waits[len(waits) // 2] for waits in together],
            p99=[waits[len(waits) * 99 // 100] for waits in together],
            jain=jain([sum(counts) for counts in own]),
            longest=max(waits[-1] for waits in together),
        )
        print(f"{kind:18}", found[kind])
    return found


class Figures(NamedTuple):
    """Of each round the throughput and the waits (in seconds), of all together the rest."""

    per_second: list[float]
    p50: list[float]
    p99: list[float]
    jain: float
    longest: float

    def share(self, other: Figures) -> float:
        """The share of another's throughput, in the best of the rounds."""
        best: float = max(map(truediv, self.per_second, other.per_second))
        return best

    def times(self, other: Figures) -> tuple[float, float]:
        """How many times as long as for another is waited, in the best round: p50 and p99."""
        return min(map(truediv, self.p50, other.p50)), min(map(truediv, self.p99, other.p99))

    def __str__(self) -> str:
        rounds = [
            f"{per_second:.0f}/s {1000 * p50:.1f} {1000 * p99:.1f} ms"
            for per_second, p50, p99 in zip(self.per_second, self.p50, self.p99, strict=True)
        ]
        return f"Jain {self.jain:.3f}, longest {self.longest:.2f} s, {', '.join(rounds)}"


def test_a_crowd_costs_no_polling(redis_server: RedisAt, prefix: str, tmp_path: Path) -> None:
    """8 processes, 1 ms each: three round trips an acquisition at most, however many wait."""
    seconds = scaled(10, 1)
    with redis_server.round_trips() as trips:
        ours = hammered(["resilient"], redis_server, prefix, tmp_path, seconds)["resilient"]
    # Connecting, for commands and for signals, takes each process some of its own.
    each = (trips.count - CONNECTING * PROCESSES) / (ours.per_second[0] * seconds)
    print(f"{each:.2f} round trips an acquisition")
    assert each <= 3


@pytest.mark.timing
def test_a_crowd_on_sqlite_is_served_fairly(
    redis_server: RedisAt, prefix: str, tmp_path: Path
) -> None:
    """8 processes, 1 ms each, one file: all get the same share."""
    kind = f"sqlite:///{tmp_path / 'state.db'}"
    ours = hammered([kind], redis_server, prefix, tmp_path, scaled(10, 1))[kind]
    assert ours.jain >= 0.98


@pytest.mark.timing
def test_a_crowd_is_served_fairly_and_fast(
    redis_server: RedisAt, prefix: str, tmp_path: Path
) -> None:
    """8 processes, 1 ms each: all get the same share, about as fast as by other locks."""
    kinds = ["resilient", "async", "blpop", "barging", "redis-py"]
    if importlib.util.find_spec("redis_lock"):
        kinds.append("python-redis-lock")
    found = hammered(kinds, redis_server, prefix, tmp_path, scaled(5, 1), rounds=3)
    ours = found["resilient"]
    shares = {kind: round(ours.share(found[kind]), 2) for kind in kinds}
    barging = found["barging"].share(found["redis-py"])
    p50, p99 = ours.times(found["blpop"])
    print(f"shares of theirs: {shares}, barging {barging:.2f} of redis-py's")
    print(f"waits: p50 {p50:.2f} and p99 {p99:.2f} of a token's")
    assert ours.jain >= 0.98
    assert found["async"].jain >= 0.98
    assert found["async"].share(ours) >= 0.5
    # A token is lost with whoever has it; fair is what python-redis-lock means to be; redis-py's
    # lets whoever is first have it. All are 0.8 and more on a quiet machine.
    assert shares["blpop"] >= 0.6
    assert p50 <= 1.8
    assert p99 <= 3
    assert shares.get("python-redis-lock", 1) >= 0.75
    assert barging >= 0.75


def grants(path: Path) -> list[tuple[int, float]]:
    """Fence and time of every grant, in the order of the grants."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(fence), float(moment)) for fence, moment in lines]


def stormed(
    kind: str, target: Target, path: Path, seconds: float, number: int = 0
) -> list[tuple[int, float]]:
    """The grants of one storm."""
    file = path / f"{kind}.{number}.grants"
    prefix = f"{target.prefix}{kind}:{number}:"
    arguments: list[Any] = [kind, target.url, prefix, seconds, 1.0, str(file)]
    with group(crowd.storm, [arguments]) as (nursery,):
        nursery.result(120)
    return grants(file)


@pytest.mark.timing
def test_a_storm_of_crashes_stalls_nobody(shared_target: Target, tmp_path: Path) -> None:
    """6 processes, one SIGKILL every 0.3 s: as many grants as redis-py's, in order, no stall."""
    # On Redis in turns with redis-py's, so that what loads the machine hits both.
    turns = 2 if shared_target.kind == "redis" else 1
    shares = []
    for number in range(turns):
        seconds = scaled(20, 4) / turns
        ours = stormed("resilient", shared_target, tmp_path, seconds, number)
        stall = max(later - sooner for (_, sooner), (_, later) in itertools.pairwise(ours))
        print(f"{shared_target.kind}: {len(ours)} grants, longest stall {stall:.2f} s")
        fences = [fence for fence, _ in ours]
        assert all(sooner < later for sooner, later in itertools.pairwise(fences))
        assert stall < 1.0 + 0.5 + 1.0  # what a busy machine adds
        if shared_target.kind == "redis":
            theirs = stormed("redis-py", shared_target, tmp_path, seconds, number)
            print(f"redis-py: {len(theirs)} grants")
            shares.append(len(ours) / len(theirs))
    # Short storms are mostly processes that start, on a busy machine: ours have a thread to start.
    assert max(shares, default=1) >= (0.8 if scaled(20, 4) >= 20 else 0.55)
