"""Processes that share a MongoDB: contention for what is new."""

from __future__ import annotations

import pytest

from tests.process import mongodb_workers as workers
from tests.support.mongodb import MongoAt
from tests.support.processes import run_all
from tests.support.scale import scaled

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_one_winner_of_32_processes(mongo: MongoAt, prefix: str) -> None:
    """Of 32 processes that want a new lock and a new call, one has each of them, each time."""
    turns = scaled(50, 5)
    (winners,) = run_all(workers.contenders, [(mongo.url, prefix, 32, turns)], timeout=150)
    assert winners == [[1, 1]] * turns
