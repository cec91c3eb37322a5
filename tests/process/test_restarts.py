"""Servers that are killed again and again, and come back with all that they have acknowledged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.process import restart_workers as workers
from tests.support.fixtures import NETWORKED, PrivateServer, alternating
from tests.support.modes import Mode
from tests.support.processes import group
from tests.support.scale import scaled

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(180)]


@alternating("async", NETWORKED, of="private_server")
def test_a_server_that_is_killed_again_and_again(
    private_server: PrivateServer, mode: Mode, prefix: str, tmp_path: Path
) -> None:
    """A lock that was confirmed is still held after a restart: nobody gets in beside its holder."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    seconds, kills = scaled(30, 3), scaled(6, 2)
    arguments = [(private_server.url, prefix, mode.name, str(counter), seconds)] * 3
    with group(workers.increase, arguments) as crowd:
        for each in crowd:
            each.wait_for("began", 90)
        for _ in range(kills):
            time.sleep(seconds / (kills + 1))
            private_server.kill()
            private_server.start()
        fences = [each.result(seconds + 60) for each in crowd]
    together = [fence for own in fences for fence in own]
    assert len(set(together)) == len(together) == int(counter.read_text())
    assert all(own == sorted(own) for own in fences)
    assert together
