"""What every backend's cache must do."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from resilient.engine.backend import Backend
from resilient.engine.plan import Plan
from resilient.protocols.cache import Busy, CacheStore, Entry, Leased
from resilient.protocols.values import Encoded
from resilient.testing.conformance._machines.base import World
from resilient.testing.conformance._machines.cache import CacheMachine
from resilient.testing.conformance.base import LONG, ODD_KEYS, SHORT
from resilient.testing.conformance.cache_reads import CacheReads
from resilient.testing.conformance.cache_tags import CacheTags
from resilient.testing.conformance.runs import Run

__all__ = ["CacheConformance"]

ONE, TWO = Encoded(b"one"), Encoded(b"two")
EVERY_BYTE = Encoded(bytes(range(256)))
MEGABYTE = Encoded(EVERY_BYTE * 4096)


class CacheConformance(CacheReads, CacheTags):
    """Values that expire, one computation a key, tags that make a miss."""

    capability = "cache"

    def mark(self, store: CacheStore, key: str, number: int) -> Plan[None]:
        """Store the number."""
        return store.set(key, Encoded(b"%d" % number), ttl=LONG)

    async def marked(self, store: CacheStore, key: str) -> int | None:
        """The number that is stored."""
        entry = await store.get(key)
        return None if entry is None else int(entry.value)

    def test_answers_like_the_model(self, world: World) -> None:
        """Whatever is computed, stored and invalidated, each answer is the reference model's."""
        self.try_machine(CacheMachine, world)

    # --- values

    @pytest.mark.parametrize(
        "value", [Encoded(b""), EVERY_BYTE, MEGABYTE], ids=["empty", "every byte", "1 MB"]
    )
    def test_bytes_come_back(self, run: Run, cache: CacheStore, value: Encoded) -> None:
        """A value comes back byte by byte, also an empty one, set by hand or computed."""
        run(cache.set("set", value, ttl=LONG))
        run(cache.fetch("filled", owner="ann", lease=LONG))
        assert run(cache.fill("filled", value, owner="ann", ttl=LONG)) is True
        for key in ("set", "filled"):
            entry = run(cache.get(key))
            assert isinstance(entry, Entry)
            assert entry.value == value
            assert isinstance(entry.value, bytes)
            assert 0 < entry.ttl <= LONG
            assert run(cache.has(key)) is True
            assert isinstance(run(cache.fetch(key, owner="bob", lease=LONG)), Entry)

    def test_births_tell_values_apart(self, run: Run, cache: CacheStore) -> None:
        """A computed value is born with its lease, and one that replaces it later; or none is."""
        leased = run(cache.fetch("k", owner="ann", lease=LONG))
        assert isinstance(leased, Leased)
        run(cache.fill("k", ONE, owner="ann", ttl=LONG))
        computed = run(cache.fetch("k", owner="bob", lease=LONG))
        assert isinstance(computed, Entry)
        run(cache.set("k", ONE, ttl=LONG))
        replaced = run(cache.get("k"))
        assert replaced is not None
        if computed.born or replaced.born:
            assert computed.born == leased.fence < replaced.born

    def test_nothing_is_kept_for_ever(self, run: Run, opened: Backend, cache: CacheStore) -> None:
        """Without a TTL a value is kept for the backend's longest one."""
        run(cache.set("k", ONE))
        entry = run(cache.get("k"))
        assert entry is not None
        assert 0 < entry.ttl <= opened.max_ttl
        opened.max_ttl = LONG
        run(cache.set("k", ONE, ttl=None))
        entry = run(cache.get("k"))
        assert entry is not None
        assert 0 < entry.ttl <= LONG

    def test_expiry(self, run: Run, cache: CacheStore) -> None:
        """A value is served until its TTL is over, and then computed again."""
        run(cache.set("k", ONE, ttl=SHORT))
        run(cache.fetch("filled", owner="ann", lease=LONG))
        run(cache.fill("filled", ONE, owner="ann", ttl=SHORT))
        self.advance(SHORT * 1.2)
        for key in ("k", "filled"):
            assert run(cache.get(key)) is None
            assert run(cache.has(key)) is False
            assert run(cache.delete(key)) is False
            assert isinstance(run(cache.fetch(key, owner="bob", lease=LONG)), Leased)
        assert run(cache.keys()) == []

    def test_delete(self, run: Run, cache: CacheStore) -> None:
        """A deleted value is gone; deleting what is not there is no error."""
        run(cache.set("k", ONE, ttl=LONG))
        assert run(cache.delete("k")) is True
        assert run(cache.get("k")) is None
        assert run(cache.delete("k")) is False

    # --- fresh, live, kept

    @pytest.mark.parametrize("how", ["set", "fill"])
    def test_three_times(self, run: Run, cache: CacheStore, how: str) -> None:
        """A value is fresh, then served while somebody computes it anew, then only kept."""
        # Between its two times there is room for a machine that stands still for a moment.
        for key, ttl, fresh in (("lasts", 2 * LONG, LONG), ("k", 5 * SHORT, SHORT)):
            if how == "set":
                run(cache.set(key, ONE, ttl=ttl, fresh=fresh, stale=LONG))
            else:
                run(cache.fetch(key, owner="ann", lease=LONG))
                run(cache.fill(key, ONE, owner="ann", ttl=ttl, fresh=fresh, stale=LONG))
        found = run(cache.fetch("lasts", owner="bob", lease=LONG))
        assert isinstance(found, Entry)
        assert 0 < found.fresh <= LONG * 1.01
        assert LONG < found.ttl <= LONG * 2.01
        self.advance(SHORT * 1.1)
        assert self._value(run, cache) == ONE
        leased = run(cache.fetch("k", owner="bob", lease=LONG))
        busy = run(cache.fetch("k", owner="cid", lease=LONG))
        assert isinstance(leased, Leased)
        assert isinstance(busy, Busy)
        for stale in (leased.stale, busy.stale):
            assert stale is not None
            assert stale.value == ONE
            assert stale.fresh < 0 < stale.ttl
        self.advance(SHORT * 4)
        assert run(cache.get("k")) is None
        assert run(cache.has("k")) is False
        again = run(cache.fetch("k", owner="bob", lease=LONG))
        assert isinstance(again, Leased)
        assert again.fence == leased.fence
        assert again.stale is not None
        assert again.stale.ttl < 0
        assert run(cache.fill("k", TWO, owner="bob", ttl=LONG)) is True
        assert self._value(run, cache) == TWO

    def test_expire(self, run: Run, cache: CacheStore) -> None:
        """What is expired by hand is served no more, but kept for those who fail to compute it."""
        run(cache.set("k", ONE, ttl=LONG))
        assert run(cache.expire("k")) is True
        assert run(cache.expire("k")) is False
        assert run(cache.get("k")) is None
        assert run(cache.delete("k")) is False
        run(cache.set("k", ONE, ttl=LONG, fresh=SHORT))
        self.advance(SHORT * 1.1)
        run(cache.fetch("k", owner="ann", lease=LONG))
        assert run(cache.expire("k")) is True
        assert run(cache.fill("k", TWO, owner="ann", ttl=LONG)) is False
        answer = run(cache.fetch("k", owner="bob", lease=LONG))
        assert isinstance(answer, Leased)
        assert answer.stale is not None
        assert answer.stale.value == ONE

    def test_no_copy_of_what_was_invalidated(self, run: Run, cache: CacheStore) -> None:
        """What a tag, or a deletion, has made a miss is no copy to fall back on."""
        for key, tags in (("k", ["t"]), ("gone", [])):
            run(cache.set(key, ONE, ttl=LONG, fresh=SHORT, stale=LONG, tags=tags))
        self.advance(SHORT * 1.1)
        run(cache.invalidate_tags(["t"]))
        run(cache.delete("gone"))
        for key in ("k", "gone"):
            answer = run(cache.fetch(key, owner="ann", lease=LONG, tags=["t"]))
            assert isinstance(answer, Leased)
            assert answer.stale is None

    # --- one computation

    def test_one_computes(self, run: Run, cache: CacheStore) -> None:
        """Of many who miss at once, exactly one computes."""
        for turn in range(5):
            answers = run.together(
                *(cache.fetch(f"k{turn}", owner=f"o{n}", lease=LONG) for n in range(16))
            )
            leased = [number for number, a in enumerate(answers) if isinstance(a, Leased)]
            assert len(leased) == 1
            busy = [answer for answer in answers if isinstance(answer, Busy)]
            assert len(busy) == 15
            assert {answer.owner for answer in busy} == {f"o{leased[0]}"}

    def test_lease_asked_for_again(self, run: Run, cache: CacheStore) -> None:
        """Who asks again after a lost reply has the same lease, and is not told to wait."""
        first = run(cache.fetch("k", owner="ann", lease=LONG))
        assert isinstance(first, Leased)
        assert run(cache.fetch("k", owner="ann", lease=LONG)) == first

    def test_fill_sent_again(self, run: Run, cache: CacheStore) -> None:
        """A fill that is sent again is confirmed again."""
        run(cache.fetch("k", owner="ann", lease=LONG))
        assert run(cache.fill("k", ONE, owner="ann", ttl=LONG)) is True
        assert run(cache.fill("k", ONE, owner="ann", ttl=LONG)) is True
        assert run(cache.get("k")) is not None

    def test_dead_leader(self, run: Run, cache: CacheStore) -> None:
        """Who computes for longer than its lease loses it; its late value is not stored."""
        first = run(cache.fetch("k", owner="dead", lease=SHORT))
        self.advance(SHORT * 1.2)
        second = run(cache.fetch("k", owner="next", lease=LONG))
        assert isinstance(first, Leased)
        assert isinstance(second, Leased)
        assert second.fence > first.fence
        assert run(cache.renew("k", owner="dead", lease=LONG)) is False
        assert run(cache.fill("k", ONE, owner="dead", ttl=LONG)) is False
        assert run(cache.abandon("k", owner="dead")) is False
        assert run(cache.get("k")) is None
        assert run(cache.fill("k", TWO, owner="next", ttl=LONG)) is True
        assert run(cache.fill("k", ONE, owner="dead", ttl=LONG)) is False
        assert self._value(run, cache) == TWO

    def test_renewed_leader(self, run: Run, cache: CacheStore) -> None:
        """A renewed lease lives on."""
        run(cache.fetch("k", owner="ann", lease=SHORT))
        renewed = run(cache.renew("k", owner="ann", lease=LONG))
        self.advance(SHORT * 1.2)
        assert run(cache.fill("k", ONE, owner="ann", ttl=LONG)) is renewed

    def test_abandoned(self, run: Run, cache: CacheStore) -> None:
        """Who gives up leaves the computation to the next at once."""
        first = run(cache.fetch("k", owner="ann", lease=LONG))
        assert run(cache.abandon("k", owner="bob")) is False
        assert run(cache.abandon("k", owner="ann")) is True
        second = run(cache.fetch("k", owner="bob", lease=LONG))
        assert isinstance(first, Leased)
        assert isinstance(second, Leased)
        assert second.fence > first.fence
        assert run(cache.fill("k", ONE, owner="ann", ttl=LONG)) is False

    @pytest.mark.parametrize("how", ["delete", "set"])
    def test_invalidation_takes_the_lease(self, run: Run, cache: CacheStore, how: str) -> None:
        """What was computed from data that has changed meanwhile is not stored."""
        run(cache.fetch("k", owner="ann", lease=LONG))
        run(cache.delete("k") if how == "delete" else cache.set("k", TWO, ttl=LONG))
        assert run(cache.renew("k", owner="ann", lease=LONG)) is False
        assert run(cache.fill("k", ONE, owner="ann", ttl=LONG)) is False
        assert self._value(run, cache) == (None if how == "delete" else TWO)

    # --- all keys

    def test_keys(self, run: Run, cache: CacheStore) -> None:
        """All keys are listed as they were given, and a glob chooses among them."""
        for key in ODD_KEYS:
            run(cache.set(key, ONE, ttl=LONG))
        assert sorted(run(cache.keys())) == sorted(ODD_KEYS)
        for key in ("user:1", "user:2", "user:31", "order:1", "User:4"):
            run(cache.set(key, ONE, ttl=LONG))
        found = {
            pattern: sorted(run(cache.keys(pattern)))
            for pattern in ("user:*", "user:?", "user:[1-2]", "order:1", "absent*", "*der:*")
        }
        assert found == {
            "user:*": ["user:1", "user:2", "user:31"],
            "user:?": ["user:1", "user:2"],
            "user:[1-2]": ["user:1", "user:2"],
            "order:1": ["order:1"],
            "absent*": [],
            "*der:*": ["order:1"],
        }

    def test_clear(self, run: Run, cache: CacheStore, another: CacheStore) -> None:
        """All entries are removed, counted, and nothing but them."""
        run(cache.invalidate_tags(["t"]))
        for n in range(700):
            run(cache.set(f"k{n}", ONE, ttl=LONG, tags=["t"]))
        run(another.set("theirs", ONE, ttl=LONG))
        assert len(run(cache.keys())) == 700
        assert run(cache.clear()) == 700
        assert run(cache.keys()) == []
        assert run(cache.clear()) == 0
        assert run(another.has("theirs")) is True

    def test_clear_spares_other_capabilities(
        self, run: Run, opened: Backend, cache: CacheStore
    ) -> None:
        """Locks, calls and jobs are no cache."""
        run(cache.set("k", ONE, ttl=LONG))
        if opened.locks is not None:
            run(opened.locks.acquire("k", ttl=LONG, owner="ann"))
        if opened.checkpoints is not None:
            run(opened.checkpoints.save("k", ONE, ttl=LONG))
        assert run(cache.clear()) == 1
        if opened.locks is not None:
            assert run(opened.locks.is_held("k", owner="ann"))
        if opened.checkpoints is not None:
            assert run(opened.checkpoints.latest("k")) is not None

    # --- signals

    @pytest.mark.parametrize("how", ["fill", "abandon", "set", "delete"])
    def test_followers_are_woken(self, run: Run, live: Backend, how: str) -> None:
        """All who wait for a computation are woken when it ends, in whatever way."""
        cache: CacheStore = live.require("cache")
        run(cache.fetch("k", owner="leader", lease=LONG))
        waiters = []
        for number in range(3):
            waiter, address = run.listen(live)
            answer = run(cache.fetch("k", owner=f"o{number}", lease=LONG, waiter=address))
            assert isinstance(answer, Busy)
            waiters.append(waiter)
        ends: dict[str, Plan[Any]] = {
            "fill": cache.fill("k", ONE, owner="leader", ttl=LONG),
            "abandon": cache.abandon("k", owner="leader"),
            "set": cache.set("k", ONE, ttl=LONG),
            "delete": cache.delete("k"),
        }
        run(ends.pop(how))
        for unused in ends.values():
            unused.close()
        assert [run.wait(waiter, 1.0) for waiter in waiters] == [True] * 3

    @pytest.mark.parametrize("how", ["delete", "tag", "clear"])
    def test_removals_are_announced(self, run: Run, live: Backend, how: str) -> None:
        """Every process hears of a removal within a second: the key, or `#` and the tag."""
        cache: CacheStore = live.require("cache")
        heard: list[str] = []
        arrived = threading.Event()
        key, tag = "a#b: c\nd", "t#: {x}"
        due = f"#{tag}" if how == "tag" else key

        def listener(message: str | None) -> None:
            if message is not None:
                heard.append(message)
                if message == due:
                    arrived.set()

        run(cache.set(key, ONE, ttl=LONG, tags=[tag]))
        live.hub.listen("cache", listener)
        if how == "delete":
            run(cache.delete(key))
        elif how == "tag":
            run(cache.invalidate_tags([tag]))
        else:
            run(cache.clear())
        assert arrived.wait(1.0), f"{due!r} was not announced within a second; heard: {heard}"

    def _value(self, run: Run, cache: CacheStore, key: str = "k") -> Encoded | None:
        entry = run(cache.get(key))
        return None if entry is None else entry.value
