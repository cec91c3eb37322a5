"""`@idempotent` over the memory backend."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import idempotent
from resilient.config import disabled
from resilient.engine.clock import ManualClock, installed
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


class Declined(Exception):
    """The bank says no."""


class Counted:
    """A body that counts its runs, and does what each test wants."""

    def __init__(self, mode: Mode, answer: Any = "done", *, seconds: float = 0.0) -> None:
        self.runs = 0
        self.mode = mode
        self.answer = answer
        self.seconds = seconds

    async def charge(self, order_id: str, amount: int = 5) -> Any:
        """Take effect."""
        self.runs += 1
        if self.seconds:
            await self.mode.sleep(self.seconds)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def decorated(self, template: str = "charge:{order_id}", **options: Any) -> Any:
        """The body under the policy."""
        body = self.charge

        async def charge(order_id: str, amount: int = 5) -> Any:
            return await body(order_id, amount)

        return self.mode.decorate(idempotent(template, **{"ttl": "24h", **options}), charge)


def test_a_call_takes_effect_once(mode: Mode) -> None:
    """The same key is answered with the first call's result; another key runs."""
    body = Counted(mode)
    charge = body.decorated()
    assert [mode.call(charge, "A-7") for _ in range(3)] == ["done"] * 3
    assert body.runs == 1
    mode.call(charge, "A-8")
    assert body.runs == 2


def test_duplicates_at_once_wait_for_the_result(mode: Mode) -> None:
    """64 callers at once: one execution, 64 equal results."""
    with installed(_real()):
        body = Counted(mode, [1, 2], seconds=0.1)
        charge = body.decorated()
        assert mode.together(*[partial(charge, "A-7")] * 64) == [[1, 2]] * 64
        assert body.runs == 1


def _real() -> Any:
    from resilient.engine.clock import SystemClock

    return SystemClock()


def test_a_duplicate_that_will_not_wait_is_refused(mode: Mode) -> None:
    """`wait=0` names the owner; `on_busy="skip"` answers `skipped`."""
    seen: list[Any] = []
    inner = Counted(mode)

    async def body(order_id: str) -> str:
        with pytest.raises(resilient.CallInProgress, match=str(os.getpid())) as info:
            await mode.within(inner.decorated(wait=0, fingerprint=()), order_id)
        seen.append(info.value.retry_after)
        skipping = inner.decorated(wait=0, on_busy="skip", skipped="later", fingerprint=())
        seen.append(await mode.within(skipping, order_id))
        return "done"

    charge = mode.decorate(idempotent("charge:{order_id}", ttl=60), body)
    assert mode.call(charge, "A-7") == "done"
    assert seen[0] == pytest.approx(30, abs=1)
    assert seen[1] == "later"
    assert inner.runs == 0


def test_another_payload_under_the_same_key_is_a_mismatch(mode: Mode) -> None:
    """When it is done, and while it runs."""
    body = Counted(mode)
    charge = body.decorated()
    mode.call(charge, "A-7", 5)
    with pytest.raises(resilient.FingerprintMismatch, match="charge:A-7") as info:
        mode.call(charge, "A-7", 6)
    assert info.value.key == "charge:A-7"

    async def running(order_id: str, amount: int) -> None:
        if amount == 5:
            await mode.within(again, order_id, 6)

    again = mode.decorate(idempotent("run:{order_id}", ttl=60), running)
    with pytest.raises(resilient.FingerprintMismatch):
        mode.call(again, "A-7", 5)
    assert body.runs == 1


def test_the_fingerprint_may_be_chosen(mode: Mode) -> None:
    """Only the named arguments make the payload."""
    body = Counted(mode)
    charge = body.decorated(fingerprint=())
    mode.call(charge, "A-7", 5)
    mode.call(charge, "A-7", 6)
    assert body.runs == 1


def test_an_error_leaves_the_key_free(mode: Mode) -> None:
    """The next call tries again at once."""
    body = Counted(mode, ValueError("no"))
    charge = body.decorated(wait=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            mode.call(charge, "A-7")
    body.answer = "done"
    assert mode.call(charge, "A-7") == "done"
    assert body.runs == 3


def test_chosen_errors_are_outcomes(mode: Mode) -> None:
    """They are stored and raised again, as what they were; subclasses too."""
    body = Counted(mode, Declined("no funds", 7))
    charge = body.decorated(replay_errors=(Declined,))
    for _ in range(3):
        with pytest.raises(Declined) as info:
            mode.call(charge, "A-7")
        assert info.value.args == ("no funds", 7)
    assert body.runs == 1


def test_an_outcome_is_kept_for_its_ttl(mode: Mode, clock: ManualClock) -> None:
    """Afterwards the same key is a new call."""
    body = Counted(mode)
    charge = body.decorated(ttl="1h")
    mode.call(charge, "A-7")
    clock.advance(3599)
    mode.call(charge, "A-7")
    assert body.runs == 1
    clock.advance(2)
    mode.call(charge, "A-7")
    assert body.runs == 2


def test_a_dead_owners_call_is_taken_over(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """After its lease; at once if it was a process of this host; and it is said."""
    seen: list[Any] = []
    unsubscribe = resilient.subscribe(seen.append)
    body = Counted(mode)
    charge = body.decorated(wait=0, fingerprint=())
    backend.sync.idempotency.claim("charge:A-7", owner="elsewhere", lease=30, ttl=60)
    with pytest.raises(resilient.CallInProgress, match="elsewhere"):
        mode.call(charge, "A-7")
    clock.advance(31)
    assert mode.call(charge, "A-7") == "done"
    backend.sync.idempotency.claim("charge:A-8", owner=_owner_of_a_dead_process(), lease=30, ttl=60)
    assert mode.call(charge, "A-8") == "done"
    unsubscribe()
    taken = [event for event in seen if type(event).__name__ == "CallTakenOver"]
    assert [(event.key, event.attempt) for event in taken] == [
        ("charge:A-7", 2),
        ("charge:A-8", 2),
    ]


def _owner_of_a_dead_process() -> str:
    code = "from resilient.engine.identity import new_owner; print(new_owner())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return output.stdout.decode().strip()


def test_a_stale_owners_finish_is_refused(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """An owner that was taken over is told, and changes nothing."""

    async def body(order_id: str) -> str:
        clock.advance(31)
        answer = backend.sync.idempotency.claim("k", owner="other", lease=30, ttl=60)
        assert answer.takeover
        return "late"

    charge = mode.decorate(idempotent("k", ttl=60, fingerprint=()), body)
    with pytest.raises(resilient.LeaseLost, match="taken"):
        mode.call(charge, "A-7")
    assert backend.sync.idempotency.get("k").owner == "other"


def test_a_cancelled_owner_gives_its_claim_up() -> None:
    """Cancelled while it runs or waits: the next caller claims at once."""

    async def main() -> None:
        runs = 0

        @idempotent("k", ttl=60, wait=0)
        async def body() -> str:
            nonlocal runs
            runs += 1
            if runs == 1:
                await asyncio.sleep(60)
            return "done"

        task = asyncio.create_task(body())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await body() == "done"

    with installed(_real()):
        asyncio.run(main())


def test_disabled_calls_pass_through(mode: Mode) -> None:
    """Every call runs."""
    body = Counted(mode)
    charge = body.decorated()
    with disabled():
        mode.call(charge, "A-7")
        mode.call(charge, "A-7")
    assert body.runs == 2


def test_generators_are_refused_when_decorated() -> None:
    """Their body runs after the call has returned."""

    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(resilient.ConfigurationError, match="generator"):
        idempotent("k", ttl=60)(numbers)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ttl": -1}, "ttl"),
        ({"lease": 0}, "lease"),
        ({"lease": float("nan")}, "lease"),
        ({"wait": -1}, "wait"),
        ({"on_busy": "run"}, "on_busy"),
        ({"on_backend_error": "local"}, "on_backend_error"),
        ({"on_takeover": "guess"}, "on_takeover"),
        ({"on_cancel": "run"}, "on_cancel"),
        ({"local": 0}, "local"),
        ({"local": True}, "local"),
        ({"replay_errors": (3,)}, "replay_errors"),
        ({"replay_errors": ValueError}, "replay_errors"),
        ({"fingerprint": ("nosuch",)}, "nosuch"),
        ({"fingerprint": "order_id"}, "fingerprint"),
    ],
)
def test_a_wrong_option_is_named_when_decorated(options: dict[str, Any], named: str) -> None:
    """Before anything is called."""
    decorate: Any = idempotent

    def charge(order_id: str) -> None: ...

    with pytest.raises(resilient.ConfigurationError, match=named):
        decorate("charge:{order_id}", **{"ttl": 60, **options})(charge)


def test_ttl_is_required() -> None:
    """Only the caller knows for how long the same request may come again."""
    decorate: Any = idempotent
    with pytest.raises(resilient.ConfigurationError, match="needs ttl="):
        decorate("k")


def test_the_key_is_global_and_methods_work(mode: Mode) -> None:
    """Two functions of one key share its outcome; `self` is no part of the payload."""

    class Bank:
        def __init__(self, name: str) -> None:
            self.name = name

        def charge(self, order_id: str) -> str:
            return self.name

    Bank.charge = idempotent("bank:{order_id}", ttl=60)(Bank.charge)  # type: ignore[method-assign]  # as a patch does
    assert Bank("one").charge("A-7") == "one"
    assert Bank("two").charge("A-7") == "one"


def test_the_doc_example_runs() -> None:
    """The docstring's example is true."""
    import doctest

    from resilient.policies.idempotent import current, decorator

    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    source = textwrap.dedent(decorator.Idempotent.__call__.__doc__ or "")
    with installed(_real()):
        for thing in (
            decorator.Idempotent.__call__,
            decorator.Idempotent.of,
            current.current_idempotency,
            current.IdempotentCall.derive,
        ):
            for example in finder.find(thing, "idempotent", globs={"idempotent": idempotent}):
                runner.run(example)
    assert ">>>" in source
    assert runner.summarize(verbose=False).failed == 0
