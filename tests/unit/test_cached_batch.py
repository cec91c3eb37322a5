"""`@cached.batch`: many items in one call."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import (
    BackendError,
    ConfigurationError,
    DecoratorOrder,
    LocalCache,
    cached,
    circuit_breaker,
)
from resilient.engine.budget import remaining
from resilient.engine.drivers.sync import drive
from resilient.policies.cached.context import CacheContext
from resilient.protocols.cache import CacheStore, Leased
from resilient.protocols.values import Encoded
from resilient.testing.faults import FaultProxy
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.servers import RedisAt

NO_CONTEXT = CacheContext()


@dataclass(frozen=True)
class User:
    """A value of a class of the user's."""

    name: str


class Source:
    """Computes names, and remembers for which items it was asked."""

    def __init__(self, mode: Mode, **options: Any) -> None:
        self.asked: list[list[int]] = []

        async def names(ids: Iterable[int], realm: str = "a") -> dict[int, User | None]:
            self.asked.append(list(ids))
            return {n: User(f"{realm}{n}") if n else None for n in ids if n != 404}

        options = {"key_arg": "ids", "ttl": 60, "backend_timeout": "10s", **options}
        self.names = mode.decorate(cached.batch(**options), names)


@pytest.mark.parametrize("local", ["auto", None])
def test_computes_what_is_missing_in_one_call(mode: Mode, target: Target, local: Any) -> None:
    """Every item is computed once, whatever batches ask for it; order and values are kept."""
    source = Source(mode, local=local)
    with resilient.using(target.url, prefix=target.prefix):
        first = mode.call(source.names, [3, 1, 3])
        assert list(first.items()) == [(3, User("a3")), (1, User("a1"))]
        found = mode.call(source.names, ids=(1, 0, 2, 3))
        assert list(found) == [1, 0, 2, 3]
        assert found[0] is None
        assert mode.call(source.names, {0, 1}) == {0: None, 1: User("a1")}
        assert mode.call(source.names, []) == {}
        assert mode.call(source.names, [1], realm="b") == {1: User("b1")}
    assert source.asked == [[3, 1], [0, 2], [1]]


def test_items_without_a_value(mode: Mode, target: Target) -> None:
    """What the function leaves out has no value, and is asked for again."""
    source = Source(mode)
    with resilient.using(target.url, prefix=target.prefix):
        for _ in range(2):
            assert mode.call(source.names, [404, 1]) == {1: User("a1")}
    assert source.asked == [[404, 1], [404]]


def test_shares_its_entries(mode: Mode, target: Target) -> None:
    """A function of one item and a batch, of one namespace and template, have the same entries."""
    source = Source(mode, template="{ids}", namespace="users", tags=("user:{ids}",), local=None)

    async def one(n: int) -> User | None:
        return User("computed")

    single = mode.decorate(
        cached("{n}", ttl=60, namespace="users", tags=("user:{n}",), local=None), one
    )
    with resilient.using(target.url, prefix=target.prefix):
        mode.call(source.names, [1, 2])
        assert mode.call(single, 1) == User("a1")
        assert mode.call(single, 3) == User("computed")
        resilient.invalidate_tags("user:2")
        found = mode.call(source.names, [1, 2, 3])
        assert found == {1: User("a1"), 2: User("a2"), 3: User("computed")}
    assert source.asked == [[1, 2], [2]]


def test_controls(mode: Mode, target: Target) -> None:
    """Some or all items are forgotten, and the function itself can be called."""
    source = Source(mode)
    controls = cached.batch.of(source.names)
    with resilient.using(target.url, prefix=target.prefix):
        mode.call(source.names, [1, 2, 3])
        assert mode.call(controls.invalidate, [1, 2, 9]) == 2
        mode.call(source.names, [1, 3])
        mode.call(controls.clear)
        mode.call(source.names, [1, 3])
        assert mode.call(controls.uncached, [1]) == {1: User("a1")}
        assert len(set(controls.keys([1, 2, 1]).values())) == 2
    assert remaining() is None  # no budget is left behind in the thread
    assert source.asked == [[1, 2, 3], [1], [1, 3], [1]]


def test_what_was_invalidated_meanwhile_is_not_kept(mode: Mode, target: Target) -> None:
    """A value computed before an invalidation is served to no later call."""
    number = 0

    async def numbers(ids: list[int]) -> dict[int, int]:
        nonlocal number
        number += 1
        if number == 1:
            backend.sync.cache.delete(cached.batch.of(batch).keys([2])[2])
        return dict.fromkeys(ids, number)

    batch = mode.decorate(cached.batch(key_arg="ids", ttl=60, backend_timeout="10s"), numbers)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        assert mode.call(batch, [1, 2]) == {1: 1, 2: 1}
        assert mode.call(batch, [1, 2]) == {1: 1, 2: 2}


def test_batches_that_overlap_compute_each_item_once(mode: Mode, target: Target) -> None:
    """Batches that want the same at the same time wait for one another, and never for ever."""
    asked: list[int] = []
    lock = threading.Lock()

    async def numbers(ids: list[int]) -> dict[int, int]:
        with lock:
            asked.extend(ids)
        await mode.sleep(0.05)
        return {n: n for n in ids}

    batch = mode.decorate(cached.batch(key_arg="ids", ttl=60, backend_timeout="10s"), numbers)
    wanted = [[n % 6 for n in range(start, start + 4)] for start in range(12)]
    with resilient.using(target.url, prefix=target.prefix):
        found = mode.together(*[partial(batch, ids) for ids in wanted])
    assert found == [{n: n for n in ids} for ids in wanted]
    assert sorted(asked) == list(range(6))


def test_round_trips(mode: Mode, redis_server: RedisAt, prefix: str) -> None:
    """One round trip for all values that are there, and another to store those that are not."""
    source = Source(mode, local=None)
    with resilient.using(redis_server.url, prefix=prefix):
        mode.call(source.names, [-1])  # connects, and makes the namespace's tag
        for ids, trips in ((range(20), 2), (range(20), 1), (range(10, 30), 2)):
            with redis_server.round_trips() as counted:
                mode.call(source.names, ids)
            assert counted.count == trips
    assert source.asked == [[-1], list(range(20)), list(range(20, 30))]


def test_errors_are_raised_and_nothing_stays_behind(mode: Mode, target: Target) -> None:
    """A failed computation is raised, and the next batch computes at once."""
    broken = [True, False]

    async def numbers(ids: list[int]) -> Any:
        if broken.pop(0):
            raise LookupError(ids)
        return {n: n for n in ids}

    batch = mode.decorate(cached.batch(key_arg="ids", ttl=60, backend_timeout="10s"), numbers)
    with resilient.using(target.url, prefix=target.prefix):
        with pytest.raises(LookupError):
            mode.call(batch, [1, 2])
        assert mode.call(batch, [2, 1]) == {2: 2, 1: 1}
    assert broken == []


@pytest.mark.parametrize("otherwise", ["run", "raise"])
def test_without_a_backend(mode: Mode, redis_server: RedisAt, prefix: str, otherwise: Any) -> None:
    """The function is called with everything that is not at hand; or the error is raised."""
    source = Source(mode, on_backend_error=otherwise, backend_timeout="200ms")
    with FaultProxy(redis_server.url) as proxy, resilient.using(proxy.url, prefix=prefix):
        proxy.refuse()
        if otherwise == "raise":
            with pytest.raises(BackendError):
                mode.call(source.names, [2, 3])
        else:
            assert list(mode.call(source.names, [2, 3])) == [2, 3]
            assert list(mode.call(source.names, [3, 4])) == [3, 4]
            assert source.asked == [[2, 3], [3, 4]]


def test_a_record_that_can_neither_be_read_nor_removed(
    mode: Mode, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its item is computed without the backend; the batch does not ask for it for ever."""
    source = Source(mode)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        keys = cached.batch.of(source.names).keys([1, 2])
        cache: CacheStore = backend.require("cache")
        drive(cache.set(keys[1], Encoded(b"\xff\xfe\xfd"), ttl=60))

        async def refuse(key: str) -> None:
            raise BackendError("no right to delete", transient=False)

        monkeypatch.setattr(cache, "delete", refuse)
        assert mode.call(source.names, [1, 2]) == {1: User("a1"), 2: User("a2")}
        assert source.asked == [[2], [1]]  # what could be stored first
        assert cached.batch.of(source.names).stats().backend_errors == 1


def test_methods_and_copies(mode: Mode) -> None:
    """A method of an object that says what it is; each caller has a copy of its own."""

    class Service:
        def __init__(self, name: str) -> None:
            self.name = name

        def __resilient_key__(self) -> str:
            return self.name

        @cached.batch(key_arg="ids", ttl=60, local=LocalCache(copy=True))
        def lists(self, ids: list[int]) -> dict[int, list[str]]:
            return {n: [self.name] for n in ids}

    with resilient.using("memory://"):
        one, other = Service("one"), Service("other")
        one.lists([1])[1].append("spoilt")
        assert one.lists([1]) == {1: ["one"]}
        assert other.lists([1]) == {1: ["other"]}
        assert cached.batch.of(one.lists).invalidate([1]) == 1


@pytest.mark.parametrize("error", [LookupError("no 1"), KeyboardInterrupt()])
def test_an_item_that_raises_keeps_no_lease(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A batch that ends at a stored exception, or is interrupted, lets others compute the rest."""

    async def one(n: int) -> int:
        if n == 1 and isinstance(error, Exception):
            raise error
        return n

    async def many(ids: list[int]) -> dict[int, int]:
        return {n: n for n in ids}

    options: dict[str, Any] = {"ttl": 60, "namespace": "n", "local": None}
    single = mode.decorate(cached("{n}", error_ttl={LookupError: 60}, **options), one)
    batch = mode.decorate(cached.batch("{ids}", key_arg="ids", **options), many)
    with resilient.using("memory://") as backend:
        store: CacheStore = backend.require("cache")
        with suppress(LookupError):
            mode.call(single, 1)
        if not isinstance(error, Exception):

            def interrupt(*_: Any) -> None:
                raise error

            monkeypatch.setattr("resilient.policies.cached.gathering.readable", interrupt)
        with pytest.raises(type(error)):
            mode.call(batch, [3, 1, 2])
        for key in (cached.of(single).key(2), cached.of(single).key(3)):
            assert isinstance(drive(store.fetch(key, owner="other", lease=1)), Leased)


def test_wrong_declarations() -> None:
    """What cannot work is refused when decorated, by name."""

    def numbers(ids: list[int]) -> dict[int, int]:
        return {}

    def contextual(ids: list[int], ctx: CacheContext = NO_CONTEXT) -> dict[int, int]:
        return {}

    decorate: Any = cached.batch
    declarations: list[tuple[Any, dict[str, Any], str]] = [
        (numbers, {"key_arg": "idz"}, "key_arg='idz' names no parameter; known are: ids"),
        (numbers, {"key_arg": "ids", "local": 5}, "local=5"),
        (numbers, {"key_arg": "ids", "on_backend_error": "no"}, "on_backend_error='no'"),
        (numbers, {"key_arg": "ids", "backend_timeout": None}, "backend_timeout=None"),
        (numbers, {"key_arg": "ids", "template": "{x}"}, "x"),
        (contextual, {"key_arg": "ids"}, "CacheContext"),
    ]
    for function, options, message in declarations:
        with pytest.raises(ConfigurationError, match=message):
            decorate(**{"ttl": 60, **options})(function)


def test_wrong_calls() -> None:
    """A text is no collection of items, and a list no mapping of them."""

    @cached.batch(key_arg="ids", ttl=60)
    def numbers(ids: Any) -> Any:
        return list(ids)

    with resilient.using("memory://"):
        with pytest.raises(ConfigurationError, match="no collection of items"):
            numbers("text")
        with pytest.raises(ConfigurationError, match="not a mapping"):
            numbers([1])
        with pytest.raises(ConfigurationError, match=r"not decorated with @cached\.batch"):
            cached.batch.of(cached(ttl=60)(len))


@pytest.mark.parametrize("options", [{"namespace": ""}, {"version": ""}, {"tags": ("{x}",)}])
def test_it_is_called_by_its_own_name(options: dict[str, Any]) -> None:
    """By its controls, by what refuses an option, and by whoever should stand below it."""
    decorate: Any = cached.batch
    with pytest.raises(ConfigurationError, match=r"^@cached\.batch on .*: "):
        decorate(**{"ttl": 60, **options}, key_arg="ids")(names)
    decorated = cached.batch(key_arg="ids", ttl=60)(names)
    assert repr(cached.batch.of(decorated)) == "<the controls of @cached.batch on names>"
    with pytest.warns(DecoratorOrder, match=r"stands above @cached\.batch: .*write @cached\.batch"):
        circuit_breaker("k")(decorated)


def names(ids: list[int]) -> dict[int, str]:
    """A function of many items."""
    return {}
