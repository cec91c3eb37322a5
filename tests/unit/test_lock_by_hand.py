"""Leases that are extended, handed on and given back by hand, whatever else is under way."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import resilient
from resilient import distributed_lock, lock
from resilient.engine.clock import ManualClock
from resilient.engine.drivers.sync import drive
from tests.support.modes import Mode
from tests.support.waiting import soon


@pytest.fixture(name="store")
def _store(clock: ManualClock) -> Iterator[Any]:
    with resilient.using("memory://") as backend:
        yield backend.require("locks")


class SlowRenewal:
    """A renewal of the heartbeat's that reaches the server when it is told to."""

    def __init__(self, store: Any) -> None:
        self._renew = store.renew
        self.begun, self.arrives = threading.Event(), threading.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Renew it."""
        if threading.current_thread().name.startswith("resilient-worker"):
            self.begun.set()
            assert self.arrives.wait(20)
        return await self._renew(*args, **kwargs)


@pytest.mark.parametrize("transfers", [False, True], ids=["extended", "handed on"])
def test_a_renewal_that_arrives_late_does_not_shorten_a_lease(
    mode: Mode, store: Any, clock: ManualClock, transfers: bool
) -> None:
    """It was sent before the TTL was changed: the longer one is the server's last word."""
    seen = resilient.lock("k")

    def left() -> float:
        info: Any = mode.call(seen.ainfo) if mode.is_async else seen.info()
        return float(info.ttl)

    with mode.entered(lock("k", ttl=30)) as lease:
        store.renew = renewal = SlowRenewal(store)
        clock.advance(11)
        assert renewal.begun.wait(20)
        mode.call(lease.transfer if transfers else lease.extend, 600)
        assert left() == 600
        assert transfers or lease.remaining() <= 30  # the renewal may still shorten it
        clock.advance(5)
        assert left() == 595
        renewal.arrives.set()
        assert soon(lambda: left() == 600)
        assert transfers or soon(lambda: lease.remaining() > 590)
        clock.advance(31)
        assert left() > 560
        assert not lease.is_missing


def test_an_extension_that_fails_leaves_the_ttl(
    mode: Mode, store: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is renewed later is renewed by the TTL that it had before."""

    async def refuses(*args: Any, **kwargs: Any) -> bool:
        raise resilient.BackendError("no", transient=False)

    with mode.entered(lock("k", ttl=30)) as lease:
        with monkeypatch.context() as patched, pytest.raises(resilient.BackendError):
            patched.setattr(store, "renew", refuses)
            mode.call(lease.extend, 600)
        assert lease.ttl == 30
        assert not lease.lost


def test_an_extension_that_comes_too_late_is_a_loss(
    mode: Mode, store: Any, clock: ManualClock
) -> None:
    """The server agrees, but its answer comes after everybody was told of the loss."""
    lease: Any = None

    async def agrees_late(*args: Any, **kwargs: Any) -> bool:
        clock.advance(31)
        lease.lose(lease.overdue)
        return True

    def hold() -> None:
        nonlocal lease
        with mode.entered(lock("k", ttl=30, on_lost=lambda lease: None)) as lease:
            store.renew = agrees_late
            with pytest.raises(resilient.LeaseLost):
                mode.call(lease.extend, 600)
            assert lease.remaining() == 0
            lease.check()

    with pytest.raises(resilient.LeaseLost, match="not renewed in time"):
        hold()


def test_no_extension_goes_past_max_hold(mode: Mode, store: Any, clock: ManualClock) -> None:
    """Neither on the server nor by the holder's own account: the next one has it from then on."""
    with (
        pytest.raises(resilient.LeaseLost, match="max_hold"),
        mode.entered(lock("k", ttl=30, max_hold=60, on_lost=lambda lease: None)) as lease,
    ):
        clock.advance(5)
        mode.call(lease.extend, 1000)
        assert 50 < lease.remaining() <= 55
        clock.advance(55.1)
        with mode.entered(lock("k", wait=0)):
            pass


def test_a_generator_goes_on_after_it_has_given_its_lock_back(
    mode: Mode, store: Any, clock: ManualClock
) -> None:
    """What is given back is not lost, however late it is."""

    @distributed_lock("k", ttl=30)
    async def asteps() -> AsyncIterator[int]:
        lease: Any = resilient.current_lease()
        yield 1
        await lease.release()
        clock.advance(31)
        yield 2
        yield 3

    @distributed_lock("k", ttl=30)
    def steps() -> Iterator[int]:
        lease: Any = resilient.current_lease()
        yield 1
        lease.release()
        clock.advance(31)
        yield 2
        yield 3

    async def collected() -> list[int]:
        return [number async for number in asteps()]

    assert (mode.call(collected) if mode.is_async else list(steps())) == [1, 2, 3]


def test_a_shorter_ttl_counts_from_the_request_on(mode: Mode, store: Any) -> None:
    """It may be over before the answer comes: until then nobody believes in the longer one."""
    seen: list[float] = []

    async def answers_late(*args: Any, **kwargs: Any) -> bool:
        seen.append(lease.remaining())
        return True

    with mode.entered(lock("k", ttl=300)) as lease:
        store.renew, renew = answers_late, store.renew
        mode.call(lease.extend, 30)
        store.renew = renew
    assert seen[0] <= 30


def test_a_renewal_says_nothing_of_a_ttl_that_was_changed_twice(
    mode: Mode, store: Any, clock: ManualClock
) -> None:
    """Shortened, and not lengthened again in vain: the server keeps to the shorter one."""
    renew = store.renew
    begun, answered, failed = threading.Event(), threading.Event(), threading.Event()

    async def renews(*args: Any, ttl: float, **kwargs: Any) -> bool:
        if threading.current_thread().name.startswith("resilient-worker"):
            if begun.is_set():
                failed.set()
                raise resilient.BackendError("away")
            held: bool = await renew(*args, ttl=ttl, **kwargs)
            begun.set()
            assert answered.wait(20)  # what is sent meanwhile is the server's last word
            return held
        if ttl == 60:
            answered.set()
            assert soon(lambda: lease.asked is None or failed.is_set())
            raise resilient.BackendError("no", transient=False)
        return bool(await renew(*args, ttl=ttl, **kwargs))

    with mode.entered(lock("k", ttl=60)) as lease:
        store.renew = renews
        clock.advance(21)
        assert begun.wait(20)
        mode.call(lease.extend, 10)
        with pytest.raises(resilient.BackendError):
            mode.call(lease.extend, 60)
        assert lease.remaining() <= 10
        store.renew = renew


def test_a_lease_says_what_it_is(mode: Mode, store: Any, clock: ManualClock) -> None:
    """Which lock, which fence, and for how much longer it is held."""
    with (
        pytest.raises(resilient.LeaseLost),
        mode.entered(lock("k", ttl=30, on_lost="flag")) as lease,
    ):
        shown = rf"<\w*Lease of lock 'k', fence {lease.fence}: 2\d\.\d s left>"
        assert re.fullmatch(shown, repr(lease))
        clock.advance(60)
        assert repr(lease).endswith(": lost>")
    with mode.entered(lock("k", ttl=30)) as lease:
        pass
    assert repr(lease).endswith(": given back>")


def test_a_shorter_ttl_is_renewed_in_time() -> None:
    """The heartbeat does not sleep until the longer one wants to be renewed."""
    with resilient.using("memory://") as backend, lock("k", ttl=300) as lease:
        worker = backend.worker
        assert soon(lambda: worker.wakes_at == lease.due)
        lease.extend(60)
        assert soon(lambda: worker.wakes_at == lease.due)


def test_a_release_whose_reply_was_lost_is_no_loss(
    mode: Mode, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if others have had the lock, and given it back, before it is asked again."""
    release = store.release
    others: list[Any] = []

    async def loses_the_reply(*args: Any, **kwargs: Any) -> bool:
        released: bool = await release(*args, **kwargs)
        if others:
            return released
        others.append(await store.acquire("k", ttl=30, owner="another"))
        await release("k", owner="another")
        raise resilient.BackendError("connection reset", transient=True)

    with mode.entered(lock("k")):
        monkeypatch.setattr(store, "release", loses_the_reply)
    assert others[0].owner == "another"


def test_a_loss_is_told_also_when_the_reply_to_the_release_was_lost(
    mode: Mode, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again, the server knows from the fence that the lock was taken away before."""
    release = store.release
    replies: list[bool] = []

    async def loses_the_reply(*args: Any, **kwargs: Any) -> bool:
        replies.append(await release(*args, **kwargs))
        if len(replies) == 1:
            raise resilient.BackendError("connection reset", transient=True)
        return replies[-1]

    with pytest.raises(resilient.LeaseLost, match="taken over"), mode.entered(lock("k")):
        drive(store.force_release("k"))
        monkeypatch.setattr(store, "release", loses_the_reply)
    assert replies == [False, False]


def test_a_release_that_is_refused_is_a_loss_all_the_same(mode: Mode, store: Any) -> None:
    """No reply was lost: somebody took it away."""
    with pytest.raises(resilient.LeaseLost, match="taken over"), mode.entered(lock("k")):
        force = lock("k")
        mode.call(force.aforce_release if mode.is_async else force.force_release, reason="a test")
