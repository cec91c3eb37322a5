"""`cached.of(f)` and tags: nothing that was computed before an invalidation is served after it."""

from __future__ import annotations

import asyncio
import pickle
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from resilient import MISSING, LocalCache, ainvalidate_tags, cached, invalidate_tags
from resilient.engine.backend import Backend
from resilient.engine.drivers.sync import drive
from resilient.errors import BlockingCallInLoop, ConfigurationError
from resilient.protocols.cache import Busy
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


def counting(mode: Mode, **options: Any) -> tuple[Callable[..., Any], list[int]]:
    """A cached function of `user` that answers how often it has run, and its runs."""
    ran: list[int] = []

    async def f(user: int, page: int = 1) -> int:
        ran.append(user)
        return len(ran)

    return mode.decorate(cached("{user}:{page}", **{"ttl": 60, **options}), f), ran


def invalidated(mode: Mode, *tags: str) -> None:
    """Invalidate tags in the mode's way."""
    mode.call(ainvalidate_tags if mode.is_async else invalidate_tags, *tags)


@pytest.mark.parametrize("local", ["auto", None])
def test_invalidate(mode: Mode, local: Any) -> None:
    """It forgets one value, and says whether there was one."""
    f, _ = counting(mode, local=local)
    assert [mode.call(f, 7), mode.call(f, 8), mode.call(f, 7)] == [1, 2, 1]
    assert mode.call(cached.of(f).invalidate, user=7) is True
    assert mode.call(cached.of(f).invalidate, 7) is False
    assert [mode.call(f, 8), mode.call(f, 7)] == [2, 3]


@pytest.mark.parametrize("local", ["auto", None])
def test_refresh(mode: Mode, local: Any) -> None:
    """It computes now, whether or not there is a value, and that is what is served then."""
    f, _ = counting(mode, local=local)
    assert mode.call(cached.of(f).refresh, 7) == 1
    assert mode.call(cached.of(f).refresh, 7) == 2
    assert mode.call(f, 7) == 2


@pytest.mark.parametrize("local", ["auto", None, LocalCache(copy=True)])
def test_peek(mode: Mode, local: Any) -> None:
    """It tells what is stored, computes nothing, and counts nothing."""
    f, ran = counting(mode, local=local)
    peek = cached.of(f).peek
    assert mode.call(peek, 7) is MISSING
    mode.call(f, 7)
    before = cached.of(f).stats()
    assert mode.call(peek, 7) == 1
    assert cached.of(f).stats() == before
    assert len(ran) == 1


def test_missing_is_falsy_and_one() -> None:
    """`MISSING` is false, tells its name, and stays the same through a pickle."""
    assert not MISSING
    assert repr(MISSING) == "MISSING"
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


def test_uncached(mode: Mode) -> None:
    """It calls the function itself, and neither reads nor stores."""
    f, _ = counting(mode)
    uncached = cached.of(f).uncached
    assert [mode.call(uncached, 7), mode.call(uncached, 7), mode.call(f, 7)] == [1, 2, 3]
    assert mode.call(f, 7) == 3


@pytest.mark.parametrize("local", ["auto", None])
def test_clear(mode: Mode, local: Any) -> None:
    """It forgets every value of the function and of no other."""
    f, _ = counting(mode, local=local)
    g, _ = counting(mode, local=local, namespace="other")
    assert [mode.call(f, user) for user in (1, 2, 3)] == [1, 2, 3]
    assert mode.call(g, 1) == 1
    assert mode.call(cached.of(f).clear) is None
    assert cached.of(f).stats().local_size == 0
    assert [mode.call(f, user) for user in (1, 2, 3)] == [4, 5, 6]
    assert mode.call(g, 1) == 1


@pytest.mark.parametrize("local", ["auto", None])
def test_tags(mode: Mode, local: Any) -> None:
    """One tag forgets what carries it, in all functions, and nothing else."""
    f, _ = counting(mode, local=local, tags=("user:{user}", "page:{page}"))
    g, _ = counting(mode, local=local, tags=("user:{user}",), namespace="g")
    assert [mode.call(f, 1, 1), mode.call(f, 1, 2), mode.call(f, 2, 1)] == [1, 2, 3]
    assert mode.call(g, 1) == 1
    invalidated(mode, "user:1")
    assert mode.call(f, 2, 1) == 3
    assert [mode.call(f, 1, 1), mode.call(f, 1, 2), mode.call(g, 1)] == [4, 5, 2]
    invalidated(mode, "page:1", "page:7")
    assert mode.call(f, 1, 2) == 5
    assert [mode.call(f, 1, 1), mode.call(f, 2, 1)] == [6, 7]
    invalidated(mode)
    assert mode.call(f, 1, 1) == 6


@pytest.mark.parametrize("value", ["a:b", "100%", "{x}", "ü", "", None, 1.5, (1, 2), "\ud800"])
def test_tags_read_as_written(mode: Mode, value: Any) -> None:
    """A scalar stands in a tag as a person writes it, whatever characters it has."""
    ran = []

    async def f(value: Any) -> int:
        ran.append(1)
        return len(ran)

    f = mode.decorate(cached(ttl=60, tags=("v:{value}",)), f)
    assert [mode.call(f, value), mode.call(f, value)] == [1, 1]
    invalidated(mode, f"v:{value}" if not isinstance(value, tuple) else "v:(1,2)")
    assert mode.call(f, value) == 2


def test_tags_of_attributes(mode: Mode) -> None:
    """A tag's field may lead into an object; one that cannot be read is an error."""

    class User:
        def __init__(self, number: int) -> None:
            self.id = number

    async def f(user: Any) -> int:
        return int(user.id)

    f = mode.decorate(cached("{user.id}", ttl=60, tags=("user:{user.id}",)), f)
    assert mode.call(f, User(7)) == 7
    with pytest.raises(ConfigurationError, match=r"user\.id"):
        mode.call(f, 7)


HOW = ["invalidate", "tag", "clear", "refresh", "by hand", "elsewhere"]


@pytest.mark.parametrize("local", ["auto", None])
@pytest.mark.parametrize("how", HOW)
def test_invalidation_while_computing(mode: Mode, backend: Backend, how: str, local: Any) -> None:
    """What was being computed is not stored, and who comes after does not join it."""
    data = {"value": "old"}
    reading, may_end = threading.Event(), threading.Event()

    async def f(user: int) -> str:
        value = data["value"]
        if value == "old":
            reading.set()
            while not may_end.is_set():
                await mode.sleep(0.001)
        return value

    options: dict[str, Any] = {"ttl": 60, "local": local, "namespace": "n", "tags": ("u:{user}",)}
    f = mode.decorate(cached(**options), f)
    twin = mode.decorate(cached(**options), f)  # another function with the same entries

    async def first() -> Any:
        return await mode.within(f, 7)

    async def changed() -> Any:
        while not reading.is_set():
            await mode.sleep(0.001)
        data["value"] = "new"
        controls = cached.of(f)
        if how == "invalidate":
            await mode.within(controls.invalidate, 7)
        elif how == "tag":
            await mode.within(ainvalidate_tags if mode.is_async else invalidate_tags, "u:7")
        elif how == "clear":
            await mode.within(controls.clear)
        elif how == "refresh":
            assert await mode.within(controls.refresh, 7) == "new"
        elif how == "elsewhere":
            await mode.within(cached.of(twin).invalidate, 7)
        else:
            view = backend.aio if mode.is_async else backend.sync
            await mode.within(view.cache.delete, controls.key(7))
        during = await mode.within(f, 7)
        may_end.set()
        return during

    old, during = mode.together(mode.function(first), mode.function(changed))
    assert (old, during) == ("old", "new")
    assert [mode.call(f, 7), mode.call(f, 7), mode.call(cached.of(f).peek, 7)] == ["new"] * 3


class Hooked:
    """A cache store in front of another one, with something to do around one operation."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            self.before.pop(name, bool)()
            answer = await method(*args, **kwargs)
            self.after.pop(name, bool)()
            return answer

        return ask


def test_invalidated_while_it_was_read(mode: Mode, backend: Backend) -> None:
    """A value that is invalidated on its way from the backend is answered, but not kept here."""
    hooked = Hooked(backend.cache)
    backend.cache = hooked
    f, _ = counting(mode, tags=("u:{user}",))
    controls = cached.of(f)
    for message in (controls.key(7), "#u:7", None):
        mode.call(f, 7)
        backend.hub.deliver("cache", controls.key(7))
        hooked.after["fetch"] = partial(backend.hub.deliver, "cache", message)
        assert mode.call(f, 7) == 1
        assert controls.stats().local_size == 0
        assert mode.call(f, 7) == 1
        assert controls.stats().local_size == 1


def test_value_of_a_lost_lease_is_not_kept(mode: Mode, backend: Backend) -> None:
    """Whoever was replaced while computing answers its own caller, and keeps nothing."""
    answers = iter(["old", "new"])

    async def f() -> str:
        answer = next(answers)
        if answer == "old":
            assert backend.cache is not None
            key = cached.of(f).key()
            busy = drive(backend.cache.fetch(key, owner="other", lease=5))
            assert isinstance(busy, Busy)
            drive(backend.cache.abandon(key, owner=busy.owner))
        return answer

    f = mode.decorate(cached(ttl=60), f)
    assert [mode.call(f), mode.call(f), mode.call(f)] == ["old", "new", "new"]


def test_read_while_it_is_invalidated(mode: Mode, backend: Backend) -> None:
    """Where no broadcast comes either, what was read before the invalidation took effect goes."""
    hooked = Hooked(backend.cache)
    silent = Backend("without signals", cache=hooked)
    f, _ = counting(mode, backend=silent, local=LocalCache(), tags=("u:{user}",), namespace="n")
    g, _ = counting(Mode("sync"), backend=silent, local=LocalCache(), namespace="n")
    controls = cached.of(f)
    ends: list[tuple[str, Callable[[], Any]]] = [
        ("delete", lambda: controls.invalidate(7)),
        ("invalidate_tags", controls.clear),
    ]
    mode.call(f, 7)
    for operation, end in ends:
        # Another function with the same entries has it at hand when this one invalidates it.
        hooked.before[operation] = partial(g, 7)
        mode.call(end)
        assert cached.of(g).peek(7) is MISSING
        assert g(7) == mode.call(f, 7)


def test_no_stale_value_after_an_invalidation() -> None:
    """Readers in threads, a writer that changes and invalidates: no read is ever stale."""
    chance = random.Random(3)
    version = [0]
    stop = threading.Event()

    @cached(ttl=60, tags=("v",))
    def f() -> int:
        seen = version[0]
        if chance.random() < 0.3:
            threading.Event().wait(0.0005)
        return seen

    def read() -> None:
        while not stop.is_set():
            f()

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    ends: list[Callable[[], Any]] = [
        cached.of(f).invalidate,
        cached.of(f).clear,
        lambda: invalidate_tags("v"),
    ]
    stale = 0
    for _ in range(400):
        version[0] += 1
        chance.choice(ends)()
        stale += f() < version[0]
        stale += f() < version[0]
    stop.set()
    for reader in readers:
        reader.join()
    assert stale == 0


def test_another_process_is_heard(mode: Mode, backend: Backend) -> None:
    """What the backend broadcasts empties the layer here: a key, a tag, or a doubt."""
    f, _ = counting(mode, tags=("u:{user}",))
    assert mode.call(f, 7) == 1
    for number, message in enumerate([cached.of(f).key(7), "#u:7", None]):
        backend.hub.deliver("cache", message)
        assert cached.of(f).stats().local_size == 0
        assert mode.call(f, 7) == 1, "the backend has it still"
        assert mode.call(f, 7) == 1
        assert cached.of(f).stats().local_hits == number + 1


def test_stats_start_at_zero(mode: Mode) -> None:
    """Before the first call everything is zero."""
    f, _ = counting(mode)
    stats = cached.of(f).stats()
    assert (stats.hits, stats.misses, stats.computed, stats.local_size) == (0, 0, 0, 0)


def test_blocking_form_in_a_loop() -> None:
    """`invalidate_tags` in a thread that runs a loop warns."""

    async def main() -> None:
        with pytest.warns(BlockingCallInLoop, match="ainvalidate_tags"):
            invalidate_tags("x")

    asyncio.run(main())


@pytest.mark.parametrize("tag", ["", 7, None])
def test_bad_tags(tag: Any) -> None:
    """A tag is a text."""
    with pytest.raises(ConfigurationError, match="tag"):
        invalidate_tags(tag)
