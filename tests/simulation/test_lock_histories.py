"""Thousands of seeded histories of the lock plan, and the broken variants that they must catch."""

from __future__ import annotations

import pytest

from resilient.engine.drivers import aio, immediate, sync
from resilient.engine.plan import Ask, Body
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.testing.simulation import tasks
from tests.simulation.histories import History, LateLease
from tests.simulation.model import (
    FenceStartsAgain,
    ForgetfulAcquire,
    LockServer,
    NoOwnerCheck,
    Violation,
    ZombieRenewal,
)

HISTORIES = 2000


def test_two_holders_never_overlap_unfenced() -> None:
    """No history of killed, paused and delayed clients and lost replies breaks a promise."""
    entered = 0
    for seed in range(HISTORIES):
        history = History(seed)
        history.run()
        entered += history.entered
    assert entered > 5 * HISTORIES, "the clients hardly got to work"


@pytest.mark.parametrize(
    ("server", "lease"),
    [
        pytest.param(NoOwnerCheck, HeldLock, id="no owner check"),
        pytest.param(LockServer, LateLease, id="deadline counted from the reply"),
        pytest.param(ForgetfulAcquire, HeldLock, id="acquire not idempotent on retry"),
        pytest.param(ZombieRenewal, HeldLock, id="renewal after release"),
        pytest.param(FenceStartsAgain, HeldLock, id="fence not growing"),
    ],
)
def test_every_broken_variant_is_caught(server: type[LockServer], lease: type[HeldLock]) -> None:
    """Each defect that real locks have had shows in one of the histories."""
    with pytest.raises(Violation):
        for seed in range(HISTORIES):
            History(seed, server, lease).run()


def test_one_seed_is_one_history() -> None:
    """The same seed gives the same history to the letter."""
    first, second = History(7), History(7)
    first.run()
    second.run()
    assert first.server.fences == second.server.fences
    assert first.simulation.now == second.simulation.now


def test_the_three_drivers_answer_the_same_operations() -> None:
    """An operation that one driver knows, all know."""
    blocking = {*sync.ANSWERS, Body}
    awaiting = {*aio.ANSWERS, *immediate.ANSWERS, Body, Ask}
    simulated = {*tasks.ANSWERED_AT_ONCE, *tasks.ANSWERED_LATER}
    assert blocking == awaiting == simulated
