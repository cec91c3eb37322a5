"""Thousands of seeded histories of the lock plan, and the broken variants that they must catch."""

from __future__ import annotations

import math

import pytest

from resilient.engine.drivers import aio, immediate, sync
from resilient.engine.plan import Ask, Body, Together
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.testing.simulation import tasks
from tests.simulation import model
from tests.simulation.histories import (
    LOCK,
    READ_WRITE,
    SEMAPHORE,
    History,
    HopefulLease,
    Kind,
    LateLease,
)
from tests.simulation.model import LockServer, Violation
from tests.support.scale import SCALE

PARTS = 8
"""Tests for each kind of lock, of other seeds each: for as many processes."""
HISTORIES = round(100_000 * min(SCALE / 0.3, 1) ** 2)
"""Of all kinds together: 100,000 in CI and at full scale, 11,000 by default."""
KINDS = [
    pytest.param(k, id=i)
    for k, i in ((LOCK, "lock"), (SEMAPHORE, "semaphore"), (READ_WRITE, "read-write"))
]

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_no_history_breaks_a_promise(kind: Kind, part: int) -> None:
    """Killed, paused, cancelled and delayed clients, replies lost and repeated.

    Two holders overlap only where the fence stops one of them, nobody is overtaken, nobody is left
    waiting beside a free lock, whose hold was lost is told so and nobody else is, and at the end
    the queue is empty.
    """
    seeds = range(part, max(300, math.ceil(HISTORIES / len(KINDS))), PARTS)
    entered = 0
    for seed in seeds:
        history = History(seed, kind)
        history.run()
        entered += history.entered
    assert entered > 4 * len(seeds), "the clients hardly got to work"


@pytest.mark.parametrize(
    ("kind", "server", "lease"),
    [
        pytest.param(LOCK, model.NoOwnerCheck, HeldLock, id="no owner check"),
        pytest.param(LOCK, LockServer, LateLease, id="deadline counted from the reply"),
        pytest.param(LOCK, model.ForgetfulAcquire, HeldLock, id="acquire not idempotent on retry"),
        pytest.param(LOCK, model.DuplicateGrant, HeldLock, id="granted again on retry"),
        pytest.param(SEMAPHORE, model.DuplicateGrant, HeldLock, id="permit granted again on retry"),
        pytest.param(LOCK, model.ZombieRenewal, HeldLock, id="renewal after release"),
        pytest.param(LOCK, model.FenceStartsAgain, HeldLock, id="fence not growing"),
        pytest.param(LOCK, model.GrantToTheDead, HeldLock, id="dead waiter not skipped"),
        pytest.param(LOCK, model.ForgetfulWithdraw, HeldLock, id="given up and kept"),
        pytest.param(LOCK, model.StaysInLine, HeldLock, id="cancelled and still in line"),
        pytest.param(LOCK, model.OneReleaseIsRemembered, HeldLock, id="told of no loss"),
        pytest.param(LOCK, model.EveryReleaseIsConfirmed, HeldLock, id="loss taken for a release"),
        pytest.param(LOCK, LockServer, HopefulLease, id="second reply to a release ignored"),
        pytest.param(LOCK, model.TransferKeepsTheFence, HeldLock, id="handed on with its fence"),
        pytest.param(LOCK, model.LostWakeUp, HeldLock, id="release tells nobody"),
        pytest.param(READ_WRITE, model.ReaderPastWriter, HeldLock, id="reader past a writer"),
        pytest.param(READ_WRITE, model.ReaderBesideWriter, HeldLock, id="reader beside a writer"),
        pytest.param(SEMAPHORE, model.OneTooMany, HeldLock, id="one permit too many"),
    ],
)
def test_every_broken_variant_is_caught(
    kind: Kind, server: type[LockServer], lease: type[HeldLock]
) -> None:
    """Each defect that real locks have had shows in one of the histories."""
    with pytest.raises(Violation):
        for seed in range(2000):
            History(seed, kind, server, lease).run()


@pytest.mark.parametrize("seed", [1960, 26111])
def test_what_a_hundred_thousand_histories_found(seed: int) -> None:
    """An extension that met the heartbeat: after the loss, and before an older renewal."""
    History(seed, READ_WRITE).run()


def test_one_seed_is_one_history() -> None:
    """The same seed gives the same history to the letter."""
    first, second = History(7), History(7)
    first.run()
    second.run()
    assert first.server.fences == second.server.fences
    assert first.simulation.now == second.simulation.now


def test_the_three_drivers_answer_the_same_operations() -> None:
    """An operation that one driver knows, all know."""
    blocking = {*sync.ANSWERS, Body, Ask}
    awaiting = {*aio.ANSWERS, *immediate.ANSWERS, Body, Ask, Together}
    simulated = {*tasks.ANSWERED_AT_ONCE, *tasks.ANSWERED_LATER}
    assert blocking == awaiting == simulated
