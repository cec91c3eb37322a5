"""`cached.of(f)`: what is stored, expired, explained, warmed and passed by, by hand."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import MISSING, CodecError, cached
from resilient.engine import clock
from resilient.engine.clock import ManualClock
from tests.support.fixtures import Target
from tests.support.modes import Mode


@pytest.mark.parametrize("local", ["auto", None])
def test_set(mode: Mode, target: Target, local: Any) -> None:
    """A value that is set is served in the place of a computed one, and tagged like it."""
    ran = []

    async def f(user: int) -> str:
        ran.append(user)
        return "computed"

    f = mode.decorate(
        cached("{user}", ttl=60, tags=("user:{user}",), local=local, backend_timeout="10s"), f
    )
    with resilient.using(target.url, prefix=target.prefix):
        assert mode.call(f, 7) == "computed"
        assert mode.call(cached.of(f).at(7).set, "by hand") is None
        assert [mode.call(f, 7), mode.call(f, 7)] == ["by hand", "by hand"]
        assert mode.call(cached.of(f).at(user=8).set, "new") is None
        assert mode.call(f, 8) == "new"
        resilient.invalidate_tags("user:8")
        assert mode.call(f, 8) == "computed"
    assert ran == [7, 8]


def test_set_follows_the_options(mode: Mode) -> None:
    """What would not have been kept is not: the entry is removed; and no form is an error."""

    async def f() -> Any:
        return "computed"

    f = mode.decorate(cached(ttl=60, cache_if=lambda value: value != "never"), f)
    with resilient.using("memory://"):
        entry = cached.of(f).at()
        mode.call(entry.set, "kept")
        assert mode.call(entry.peek) == "kept"
        mode.call(entry.set, "never")
        assert mode.call(entry.peek) is MISSING
        with pytest.raises(CodecError):
            mode.call(entry.set, object())


@pytest.mark.parametrize("local", ["auto", None])
def test_expire(mode: Mode, target: Target, local: Any) -> None:
    """What is expired is computed anew, and served again only if that fails."""
    broken = [False]

    async def f() -> str:
        if broken[0]:
            raise OSError("the source is down")
        return "value"

    f = mode.decorate(cached(ttl=60, stale_if_error="1h", local=local, backend_timeout="10s"), f)
    with resilient.using(target.url, prefix=target.prefix):
        entry = cached.of(f).at()
        assert mode.call(entry.expire) is False
        mode.call(f)
        assert mode.call(entry.expire) is True
        assert mode.call(entry.peek) is MISSING
        broken[0] = True
        assert mode.call(f) == "value"
        mode.call(entry.invalidate)
        with pytest.raises(OSError, match="down"):
            mode.call(f)


def test_explain(mode: Mode) -> None:
    """It says where a call would be answered from, and changes nothing of that."""

    async def f(user: int) -> int:
        return user

    kept = mode.decorate(cached("{user}", ttl=60, tags=("user:{user}",)), f)
    asked = mode.decorate(cached("{user}", ttl=60, soft_ttl=20, local=None, namespace="other"), f)
    with clock.installed(ManualClock()), resilient.using("memory://"):
        controls = cached.of(kept)
        explained = mode.call(controls.explain, 7)
        assert (explained.answer, explained.ttl) == ("computed", None)
        assert mode.call(controls.explain, 7) == explained
        assert explained.key == controls.key(7)
        assert "user:7" in explained.tags
        mode.call(kept, 7)
        assert mode.call(controls.explain, 7).answer == "local"
        mode.call(asked, 7)
        stored = mode.call(cached.of(asked).explain, 7)
        assert (stored.answer, stored.ttl, stored.fresh) == ("stored", 60, 20)
        assert stored.backend_is_away is False
        assert controls.stats().computed == 1


def test_warm(mode: Mode, target: Target) -> None:
    """It computes what is missing of some calls, and nothing twice."""
    ran = []

    async def f(user: int, page: int = 1) -> int:
        ran.append((user, page))
        return user

    f = mode.decorate(cached(ttl=60, backend_timeout="10s"), f)
    with resilient.using(target.url, prefix=target.prefix):
        mode.call(f, 1)
        mode.call(cached.of(f).warm, [(1,), (2,), (2, 1), (3, 2)])
        assert ran == [(1, 1), (2, 1), (3, 2)]
        assert mode.call(f, 3, page=2) == 3
    assert len(ran) == 3


def test_bypass(mode: Mode) -> None:
    """Within it, calls of this thread or task reach the function, and store nothing."""
    ran = []

    async def f() -> int:
        ran.append(1)
        return len(ran)

    f = mode.decorate(cached(ttl=60), f)

    async def inside() -> list[int]:
        with cached.of(f).bypass():
            return [await mode.within(f), await mode.within(f)]

    with resilient.using("memory://"):
        assert mode.call(f) == 1
        assert mode.call(mode.function(inside)) == [2, 3]
        assert [mode.call(f), mode.call(f)] == [1, 1]
        assert cached.of(f).stats().local_hits == 2


class Asked:
    """A cache store in front of another one, which writes down what that asks its server."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            return await Counted(method(*args, **kwargs), partial(self.asked.append, name))

        return ask


class Counted:
    """A plan; each of its operations is counted."""

    def __init__(self, plan: Any, count: Callable[[], None]) -> None:
        self.plan, self.count = plan, count

    def __await__(self) -> Generator[Any, Any, Any]:
        answer = None
        while True:
            try:
                operation = self.plan.send(answer)
            except StopIteration as stop:
                return stop.value
            self.count()
            answer = yield operation


def test_to_clear_is_one_request(mode: Mode, every_target: Target) -> None:
    """Of a function, of a batch, and by hand of entries with a tag: however many there are."""

    async def f(n: int) -> int:
        return n

    async def g(ids: list[int]) -> dict[int, int]:
        return {n: n for n in ids}

    one = mode.decorate(cached(ttl=60, local=None, backend_timeout="10s"), f)
    many = mode.decorate(cached.batch(key_arg="ids", ttl=60, backend_timeout="10s"), g)
    with resilient.using(every_target.url, prefix=every_target.prefix) as backend:
        store: Any = Asked(backend.cache)
        backend.cache = store
        by_hand: Any = (backend.aio if mode.is_async else backend.sync).cache
        mode.call(many, list(range(30)))
        for n in range(30):
            mode.call(one, n)
            mode.call(partial(by_hand.set, f"hand:{n}", b"n", ttl=60, tags=["hand"]))
        clear: list[Callable[[], Any]] = [
            cached.of(one).clear,
            cached.batch.of(many).clear,
            partial(by_hand.invalidate_tags, ["hand"]),
        ]
        for each in clear:
            store.asked.clear()
            mode.call(each)
            assert store.asked == ([] if every_target.kind == "memory" else ["invalidate_tags"])
        assert mode.call(partial(by_hand.has, "hand:7")) is False
        assert mode.call(cached.of(one).peek, 7) is MISSING
        mode.call(many, list(range(30)))
        assert cached.batch.of(many).stats().computed == 2
