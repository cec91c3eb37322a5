"""The in-process store: expiry, eviction by SIEVE, tags, aliases, and what may meet in one."""

from __future__ import annotations

import gc
import os
import random
import threading
import weakref
from collections import OrderedDict
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.engine.local_store import Entry, LocalStore
from tests.support.forks import exit_code, forked

FOREVER = float("inf")


def looked_up(store: LocalStore, *values: Any) -> Entry | None:
    """What a compiled hit would find."""
    try:
        if len(values) == 1:
            return store.singles[type(values[0])][values[0]]
        return store.tuples[tuple(item for value in values for item in (value, type(value)))]
    except (KeyError, TypeError):
        return None


def alias(*values: Any) -> tuple[Any, ...]:
    """The alias of a call with these arguments."""
    return tuple(item for value in values for item in (value, type(value)))


def test_finds_until_it_expires() -> None:
    """A value is there until the moment of its expiry, and not in it."""
    manual = ManualClock()
    with clock.installed(manual):
        store = LocalStore(10)
        store.put("k", None, manual.now() + 30)
        manual.advance(29.9)
        found = store.find("k")
        assert found is not None
        assert found.value is None
        manual.advance(0.1)
        assert store.find("k") is None


def test_is_bounded() -> None:
    """It never holds more than `maxsize` values, by key or by alias."""
    store = LocalStore(100)
    for number in range(10_000):
        store.put(f"k{number}", number, FOREVER, alias=alias(number), tags=(f"t{number}",))
        assert len(store) <= 100
    assert len(store.entries) == 100
    assert sum(map(len, store.singles.values())) == 100
    assert len(store._tagged) == 100


def test_doubtful_values_are_bounded() -> None:
    """Of what is kept for trouble only, the newest stay, at most `maxsize`, until they expire."""
    manual = ManualClock()
    with clock.installed(manual):
        store = LocalStore(10)
        for number in range(100):
            now = manual.now()
            store.put(f"k{number}", number, now + 1, stale_until=now + 1, kept_until=now + 60)
            if number % 7 == 0:
                store.doubt()
        store.doubt()
        assert list(store._doubtful) == [f"k{number}" for number in range(90, 100)]
        assert store.find_kept("k89") is None
        kept = store.find_kept("k99")
        assert kept is not None
        assert kept.value == 99
        manual.advance(60)
        store.put("new", 1, manual.now() + 1)
        assert not store._doubtful


class Sieve:
    """The algorithm of the paper's figure 1, with a list: newest first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.queue: list[Any] = []
        self.visited: dict[Any, bool] = {}
        self.hand: Any = None

    def access(self, key: Any) -> bool:
        if key in self.visited:
            self.visited[key] = True
            return True
        if len(self.queue) == self.size:
            self._evict()
        self.queue.insert(0, key)
        self.visited[key] = False
        return False

    def _evict(self) -> None:
        at = self.queue.index(self.hand) if self.hand is not None else len(self.queue) - 1
        while self.visited[self.queue[at]]:
            self.visited[self.queue[at]] = False
            at = at - 1 if at > 0 else len(self.queue) - 1
        self.hand = self.queue[at - 1] if at > 0 else None
        del self.visited[self.queue.pop(at)]


def accessed(store: LocalStore, key: str) -> bool:
    """Read a key as the hit path does, else store it."""
    entry = store.find(key)
    if entry is not None:
        entry.hits += 1
        return True
    store.put(key, key, FOREVER)
    return False


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=80))
def test_evicts_as_the_paper_says(size: int, trace: list[int]) -> None:
    """It keeps exactly what the published algorithm keeps, access by access."""
    store, model = LocalStore(size), Sieve(size)
    for number in trace:
        assert accessed(store, str(number)) == model.access(str(number))
        assert set(store.entries) == set(model.visited)


@pytest.mark.parametrize("scan", [0, 300])
def test_hit_ratio_is_not_below_lru(scan: int) -> None:
    """On a Zipf trace, with scans between or without, it hits at least as often as LRU."""
    chance = random.Random(5)
    weights = [1 / rank for rank in range(1, 2001)]
    trace = chance.choices(range(2000), weights, k=20_000)
    for start in range(0, 20_000, 2_000):
        trace[start : start + scan] = range(10_000 + start, 10_000 + start + scan)
    store = LocalStore(200)
    lru: OrderedDict[int, None] = OrderedDict()
    hits = lru_hits = 0
    for number in trace:
        hits += accessed(store, str(number))
        lru_hits += number in lru
        lru[number] = None
        lru.move_to_end(number)
        if len(lru) > 200:
            lru.popitem(last=False)
    assert hits >= lru_hits


def test_expired_values_go_first() -> None:
    """A value that was read often and has expired is no reason to evict another."""
    manual = ManualClock()
    with clock.installed(manual):
        store = LocalStore(2)
        store.put("old", 1, manual.now() + 1)
        store.put("new", 2, FOREVER)
        for key in ("old", "new"):
            assert accessed(store, key)
        manual.advance(2)
        store.put("newest", 3, FOREVER)
        assert set(store.entries) == {"new", "newest"}


def test_nothing_outlives_a_suspended_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks stand still while the machine is suspended: what they measured is forgotten."""
    store, slept = LocalStore(10), 0.0
    monkeypatch.setattr(clock, "_behind", clock.behind())  # and as it was when this is over
    running = clock.now
    monkeypatch.setattr(clock, "now", lambda: running() + slept)
    store.put("k", 1, clock.now() + 60)
    assert store.find("k") is not None
    slept = 3600.0
    monkeypatch.setattr(clock, "believed_until", clock.ticks())  # a tenth of a second has gone by
    assert store.find("k") is None
    assert len(store) == 0
    store.put("k", 2, clock.now() + 60)  # what comes after that is measured from there
    found = store.find("k")
    assert found is not None
    assert found.expires <= clock.ticks() + 60


def test_drops_by_key_tag_and_all() -> None:
    """What is dropped is found neither by its key nor by its alias, whoever holds the dicts."""
    store = LocalStore(10)
    for number in range(4):
        store.put(
            f"k{number}",
            number,
            FOREVER,
            tags=("even" if number % 2 == 0 else "odd",),
            alias=(number, int),
        )
    held = store.singles[int]
    store.drop("k1")
    store.drop("k1")
    assert set(store.entries) == {"k0", "k2", "k3"}
    store.drop_tag("even")
    store.drop_tag("unknown")
    assert set(held) == {3}
    entry = held[3]
    store.drop_tag("odd")
    assert entry.expires < 0, "a reader that has just looked it up sees that it is gone"
    store.put("k", 1, FOREVER, tags=("a", "b"), alias=alias(7))
    store.clear()
    assert (len(store), store.find("k"), looked_up(store, 7)) == (0, None, None)
    store.put("k", 2, FOREVER)
    store.drop_tag("a")
    assert store.find("k") is not None, "the tags of the former entry are forgotten with it"


def test_refuses_what_became_stale() -> None:
    """`unless` is asked when the value is about to be stored, and then it is not."""
    store = LocalStore(10)
    store.put("k", 1, FOREVER)
    assert not store.put("k", 2, FOREVER, unless=lambda: True)
    found = store.find("k")
    assert found is not None
    assert found.value == 1


def test_stale_values_never_come_back() -> None:
    """Once somebody has said that a value is stale, and dropped it, nobody can find it."""
    store = LocalStore(10)
    for _ in range(300):
        stale = threading.Event()
        done = threading.Event()

        def writer(stale: threading.Event = stale, done: threading.Event = done) -> None:
            while not done.is_set():
                store.put("k", "old", FOREVER, unless=stale.is_set)

        thread = threading.Thread(target=writer)
        thread.start()
        stale.set()
        store.drop("k")
        seen = [store.find("k") for _ in range(20)]
        done.set()
        thread.join()
        assert seen == [None] * 20
        assert store.find("k") is None


def test_counts_hits_through_eviction() -> None:
    """The sum of hits survives evictions, drops and clearing."""
    store = LocalStore(3)
    expected = 0
    for number in range(50):
        for _ in range(number % 4):
            expected += accessed(store, str(number))
        expected += accessed(store, str(number // 2))
    assert store.hits == expected
    store.clear()
    assert store.hits == expected


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


SAME_BUT_DIFFERENT: list[tuple[Any, Any]] = [
    (1, True),
    (1, 1.0),
    (0.0, -0.0),
    ((1,), (True,)),
    ((1,), (1.0,)),
    (frozenset({1}), frozenset({True})),
    (Decimal("1.0"), Decimal("1.00")),
    (Number.ONE, 1),
    (Text("a"), "a"),
    (b"a", bytearray(b"a")),
    (datetime(2024, 5, 1, fold=0), datetime(2024, 5, 1, fold=1)),
    (date(2024, 5, 1), datetime(2024, 5, 1)),
]


@pytest.mark.parametrize("others", [(), ("x",)])
@pytest.mark.parametrize(("one", "other"), SAME_BUT_DIFFERENT)
def test_equal_values_that_differ_never_meet(one: Any, other: Any, others: tuple[str, ...]) -> None:
    """Of two values that Python finds equal, neither is found by the other's alias."""
    for first, second in ((one, other), (other, one)):
        store = LocalStore(10)
        store.put("first", 1, FOREVER, alias=alias(first, *others))
        assert looked_up(store, second, *others) is None


@pytest.mark.parametrize("value", [5, "x", b"x", None, True, 1.5, date(2024, 5, 1), Colour.RED])
def test_plain_values_are_found_by_their_alias(value: Any) -> None:
    """Values whose equality says all are found without their key."""
    store = LocalStore(10)
    store.put("one", 1, FOREVER, alias=alias(value))
    store.put("two", 2, FOREVER, alias=alias(value, value))
    one, two = looked_up(store, value), looked_up(store, value, value)
    assert one is not None
    assert two is not None
    assert (one.value, two.value) == (1, 2)


def test_an_entry_has_one_alias() -> None:
    """The latest alias of an entry is the one that counts, so that aliases are bounded too."""
    store = LocalStore(10)
    store.put("user:5", 1, FOREVER, alias=alias(5))
    entry = store.find("user:5")
    assert entry is not None
    store.name(entry, alias("5"))
    assert looked_up(store, 5) is None
    assert looked_up(store, "5") is entry
    store.drop("user:5")
    store.name(entry, alias(5))
    assert looked_up(store, 5) is None, "what was dropped gets no new name"


def test_keeps_no_objects_of_the_callers() -> None:
    """An argument that is no plain value is not kept alive as a part of an alias."""

    class Receiver:
        pass

    receiver = Receiver()
    watched = weakref.ref(receiver)
    store = LocalStore(10)
    store.put("k", 1, FOREVER, alias=alias(receiver))
    store.put("long", 1, FOREVER, alias=alias("x" * 1_000_000))
    del receiver
    gc.collect()
    assert watched() is None
    assert looked_up(store, "x" * 1_000_000) is None


def test_a_destructor_may_come_back() -> None:
    """A value whose destructor uses the store does not block it."""
    store = LocalStore(1)

    class Value:
        def __del__(self) -> None:
            store.drop("other")

    store.put("k", Value(), FOREVER)
    store.put("k2", 1, FOREVER)
    gc.collect()
    assert set(store.entries) == {"k2"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork() -> None:
    """A child starts empty, even if a thread of the parent's held the lock."""
    store = LocalStore(10)
    store.put("k", 1, FOREVER)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()

    def child() -> None:
        assert store.find("k") is None
        store.put("k", 2, FOREVER)
        assert len(store) == 1

    pid = forked(child)
    leave.set()
    thread.join()
    assert exit_code(pid) == 0
    assert store.find("k") is not None
