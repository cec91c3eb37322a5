"""Several locks at once, semaphores, readers and writers: crowds, and who is inside with whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process import lock_family_workers as workers
from tests.support.fixtures import Target
from tests.support.processes import group
from tests.support.scale import scaled

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]

MEMBERS = 8
MODES = {
    "memory": "sync",
    "sqlite": "async",
    "redis": "sync",
    "postgres": "async",
    "mongodb": "sync",
}


@pytest.mark.parametrize("kind", ["lock_all", "semaphore", "read_write"])
def test_nobody_is_inside_who_may_not_be(kind: str, target: Target, tmp_path: Path) -> None:
    """All or nothing of random subsets, never a fourth permit, no reader beside a writer.

    Everybody gets in again and again: there is no deadlock, and nobody starves.
    """
    mode = MODES[target.kind]
    if (kind, target.kind) == ("lock_all", "redis"):
        mode = "async"
    # Random subsets of several locks need the most turns until they have met in every order.
    full = 30 if kind == "lock_all" and target.kind != "memory" else 10
    seconds = scaled(full, 1)
    arguments = (kind, target.url, target.prefix, mode, MEMBERS, seconds, str(tmp_path))
    with group(workers.crowd, [arguments]) as (nursery,):
        outcomes = nursery.result(seconds + 90)
    assert [text for text in outcomes if not text.isdigit()] == []
    visits = [int(text) for text in outcomes]
    print(f"{kind} on {target.kind}: {sum(visits)} visits, {min(visits)} to {max(visits)} each")
    assert min(visits) > 0
