"""`ttl=None`: a record is kept for the `max_ttl` of the configuration, and never for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import cached, idempotent
from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.errors import ConfigurationError
from resilient.integrations.asgi import IdempotencyMiddleware
from tests.support.fixtures import Target
from tests.support.modes import Mode

LONGEST = 7200.0


@pytest.fixture(name="manual")
def _manual() -> Iterator[ManualClock]:
    """A fresh memory backend with a `max_ttl` of two hours, on a clock that moves when told to."""
    with clock.installed(manual := ManualClock()), resilient.using("memory://", max_ttl="2h"):
        yield manual


class Counted:
    """A function that answers how often it was called."""

    def __init__(self, mode: Mode, decorator: Any) -> None:
        self.calls = 0

        async def number(key: str) -> int:
            self.calls += 1
            return self.calls

        self.function = mode.decorate(decorator, number)
        self._mode = mode

    def __call__(self) -> Any:
        return self._mode.call(self.function, "k")


@pytest.mark.parametrize("local", ["auto", None])
def test_a_cached_value(mode: Mode, manual: ManualClock, local: Any) -> None:
    """It is served for so long, and not a moment longer."""
    number = Counted(mode, cached("{key}", ttl=None, local=local))
    assert number() == 1
    manual.advance(LONGEST - 1)
    assert number() == 1
    manual.advance(2)
    assert number() == 2


def test_a_value_of_a_batch_and_one_that_is_set(mode: Mode, manual: ManualClock) -> None:
    """However it comes into the cache."""

    async def read(ids: list[int]) -> dict[int, int]:
        return dict.fromkeys(ids, 7)

    batch = mode.decorate(cached.batch(key_arg="ids", ttl=None, namespace="n"), read)

    async def read_one(x: int) -> int:
        return 0

    one = mode.decorate(cached("set:{x}", ttl=None, soft_ttl=60, jitter=0.1), read_one)
    assert mode.call(batch, [1]) == {1: 7}
    mode.call(cached.of(one).at(1).set, 5)
    manual.advance(LONGEST * 0.89)
    assert mode.call(cached.of(one).peek, 1) == 5  # the jitter takes a tenth at most
    manual.advance(LONGEST * 0.12)
    assert mode.call(cached.of(one).peek, 1) is resilient.MISSING
    assert mode.call(cached.batch.of(batch).invalidate, [1]) == 0


@pytest.mark.parametrize("local", [None, 10])
def test_an_outcome(mode: Mode, manual: ManualClock, local: int | None) -> None:
    """It is replayed for so long; then the call is a new one."""
    number = Counted(mode, idempotent("{key}", ttl=None, local=local))
    assert number() == 1
    assert mode.call(idempotent.of(number.function).status, "k").ttl == pytest.approx(LONGEST)
    manual.advance(LONGEST - 1)
    assert number() == 1
    manual.advance(2)
    assert number() == 2


def test_every_backend_keeps_them_so_long(target: Target, mode: Mode) -> None:
    """By the server's own word."""
    with resilient.using(target.url, prefix=target.prefix, max_ttl="2h") as backend:
        kept = Counted(mode, cached("{key}", ttl=None))
        once = Counted(mode, idempotent("{key}", ttl=None))
        assert (kept(), once(), once()) == (1, 1, 1)
        explained = mode.call(cached.of(kept.function).explain, "k")
        assert explained.ttl is None or LONGEST - 60 < explained.ttl <= LONGEST
        status = mode.call(idempotent.of(once.function).status, "k")
        assert LONGEST - 60 < status.ttl <= LONGEST
        if mode.is_async:
            mode.call(backend.aclose)


def test_it_has_to_be_said() -> None:
    """`None` is a choice, and no default; what lives by being renewed has no such choice."""
    wrong: Any
    for wrong in (cached, idempotent):
        with pytest.raises(ConfigurationError, match="needs ttl="):
            wrong("{key}")
    with pytest.raises(ConfigurationError, match="lease=None"):
        idempotent("{key}", ttl=60, lease=None)  # type: ignore[call-overload]  # that is shown
    with pytest.raises(ConfigurationError, match="ttl=None"):
        resilient.lock("k", ttl=None)  # type: ignore[arg-type]  # that is what is shown
    with pytest.raises(ConfigurationError, match="soft_ttl"):
        cached("{key}", ttl=60, soft_ttl=60)(lambda key: key)


def test_of_a_middleware() -> None:
    """A response is kept for so long, too."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    middleware = IdempotencyMiddleware(app, ttl=None, user=lambda scope: "ana")
    assert middleware._settings.ttl is None
