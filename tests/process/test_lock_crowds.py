"""Crowds at one lock: fairness and throughput beside other libraries, and a storm of crashes."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

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


def hammered(kind: str, server: RedisAt, prefix: str, path: Path) -> dict[str, float]:
    """Throughput, fairness, the longest wait, and round trips an acquisition."""
    seconds = scaled(10, 2)
    mine = f"{prefix}{kind}:"
    if kind == "blpop":
        with server.client() as client:
            client.rpush(mine + "token", "token")
    with (
        server.round_trips() as trips,
        group(crowd.hammer, [(kind, server.url, mine, PROCESSES, seconds, str(path / kind))]) as (
            nursery,
        ),
    ):
        reports: list[dict[str, float]] = nursery.result(120)
    counts = [report["count"] for report in reports]
    figures = {
        "per second": sum(counts) / seconds,
        "jain": jain(counts),
        "longest": max(report["longest"] for report in reports),
        # Connecting, for commands and for signals, takes each process some of its own.
        "trips": (trips.count - CONNECTING * PROCESSES) / sum(counts),
    }
    print(f"{kind:18}", " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures


def test_a_crowd_is_served_fairly_and_fast(
    redis_server: RedisAt, prefix: str, tmp_path: Path
) -> None:
    """8 processes, 1 ms each: all get the same share, without polling, as fast as others do."""
    kinds = ["resilient", "blpop", "redis-py"]
    if importlib.util.find_spec("redis_lock"):
        kinds.append("python-redis-lock")
    found = {kind: hammered(kind, redis_server, prefix, tmp_path) for kind in kinds}
    ours = found["resilient"]
    assert ours["jain"] >= 0.98
    assert ours["trips"] <= 3
    # What a token costs that is lost with whoever has it; a busy machine blurs it.
    assert ours["per second"] >= 0.4 * found["blpop"]["per second"]


def grants(path: Path) -> list[tuple[int, float]]:
    """Fence and time of every grant, in the order of the grants."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(fence), float(moment)) for fence, moment in lines]


def stormed(kind: str, target: Target, path: Path) -> list[tuple[int, float]]:
    """The grants of one storm."""
    seconds, file = scaled(20, 4), path / f"{kind}.grants"
    arguments: list[Any] = [kind, target.url, f"{target.prefix}{kind}:", seconds, 1.0, str(file)]
    with group(crowd.storm, [arguments]) as (nursery,):
        nursery.result(120)
    return grants(file)


def test_a_storm_of_crashes_stalls_nobody(shared_target: Target, tmp_path: Path) -> None:
    """6 processes, one SIGKILL every 0.3 s: as many grants as redis-py's, in order, no stall."""
    ours = stormed("resilient", shared_target, tmp_path)
    stall = max(later - sooner for (_, sooner), (_, later) in itertools.pairwise(ours))
    print(f"{shared_target.kind}: {len(ours)} grants, longest stall {stall:.2f} s")
    fences = [fence for fence, _ in ours]
    assert all(sooner < later for sooner, later in itertools.pairwise(fences))
    assert stall < 1.0 + 0.5 + 1.0  # what a busy machine adds
    if shared_target.kind == "redis":
        theirs = stormed("redis-py", shared_target, tmp_path)
        print(f"redis-py: {len(theirs)} grants")
        # 0.8 and more on a quiet machine: redis-py's are unfair, which costs no hand-over.
        assert len(ours) >= 0.5 * len(theirs)
