"""Processes that share a MongoDB: contention for what is new, and a server that is killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.process import mongodb_workers as workers
from tests.support.mongodb import MongoAt, mongo_server
from tests.support.processes import group, run_all
from tests.support.scale import scaled

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_one_winner_of_32_processes(mongo: MongoAt, prefix: str) -> None:
    """Of 32 processes that want a new lock and a new call, one has each of them, each time."""
    turns = scaled(50, 5)
    (winners,) = run_all(workers.contenders, [(mongo.url, prefix, 32, turns)], timeout=150)
    assert winners == [[1, 1]] * turns


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_that_is_killed_again_and_again(prefix: str, tmp_path: Path) -> None:
    """A lock that was confirmed is still held after a restart: nobody gets in beside its holder."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    seconds, kills = scaled(30, 4), scaled(6, 2)
    with mongo_server() as server:
        url = f"{server.url}?serverSelectionTimeoutMS=500&timeout=2"
        arguments = [(url, prefix, str(counter), seconds)] * 3
        with group(workers.increase, arguments) as crowd:
            for each in crowd:
                each.wait_for("began", 90)
            for _ in range(kills):
                time.sleep(seconds / (kills + 1))
                server.kill()
                server.start()
            fences = [each.result(seconds + 60) for each in crowd]
    together = [fence for own in fences for fence in own]
    assert len(set(together)) == len(together) == int(counter.read_text())
    assert all(own == sorted(own) for own in fences)
    assert together
