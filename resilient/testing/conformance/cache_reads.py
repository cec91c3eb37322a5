"""What every backend's cache must do when it is looked at, and asked for several values at once."""

from __future__ import annotations

import pytest

from resilient.protocols.cache import Busy, CacheStore, Entry, Filling, Leased
from resilient.protocols.values import Encoded
from resilient.testing.conformance.base import LONG, SHORT, Conformance
from resilient.testing.conformance.runs import Run

__all__ = ["CacheReads"]

ONE, TWO = Encoded(b"one"), Encoded(b"two")
EVERY_BYTE = Encoded(bytes(range(256)))


class CacheReads(Conformance):
    """Looks at single values, and batches."""

    @pytest.fixture(name="cache")
    def _cache(self, store: CacheStore) -> CacheStore:
        return store

    @pytest.mark.parametrize("how", ["delete", "expire", "tag", "time"])
    def test_look(self, run: Run, cache: CacheStore, how: str) -> None:
        """A look may find a fresh value, with its tags or without, and never anything else."""
        lives = SHORT if how == "time" else LONG
        run(cache.set("k", EVERY_BYTE, ttl=lives, tags=["t"]))
        run(cache.fetch("k", owner="ann", lease=LONG, tags=["t"]))
        for tags in (("t",), (), ("t",), ("t", "other"), ("t",)):
            assert run(cache.look("k", tags=tags)) in (None, EVERY_BYTE)
        self.advance(SHORT * 1.2)
        if how == "delete":
            run(cache.delete("k"))
        elif how == "expire":
            run(cache.expire("k"))
        elif how == "tag":
            run(cache.invalidate_tags(["t"]))
        for tags in (("t",), (), ("t",)):
            assert run(cache.look("k", tags=tags)) is None
        assert run(cache.look("never", tags=())) is None

    @pytest.mark.parametrize("how", ["set", "fill"])
    def test_tags_are_told(self, run: Run, cache: CacheStore, how: str) -> None:
        """A value comes with the tags that it was stored with, whichever its reader knows of."""
        tags = ["one", 'tw"o', "dr\u00e9i\n"]
        if how == "set":
            run(cache.set("k", ONE, ttl=LONG, stale=LONG, tags=tags))
        else:
            run(cache.fetch("k", owner="ann", lease=LONG, tags=tags[:1]))
            run(cache.fill("k", ONE, owner="ann", ttl=LONG, stale=LONG, tags=tags))
        run(cache.set("none", ONE, ttl=LONG))
        for key, expected in (("k", tuple(tags)), ("none", ())):
            got = run(cache.get(key))
            fetched = run(cache.fetch(key, owner="bob", lease=LONG, tags=["other"]))
            [batched] = run(cache.fetch_many([key], owner="bob", lease=LONG, tags=[["other"]]))
            for entry in (got, fetched, batched):
                assert isinstance(entry, Entry)
                assert entry.tags == expected
        run(cache.expire("k"))
        for owner, kind in (("bob", Leased), ("cid", Busy)):
            answer = run(cache.fetch("k", owner=owner, lease=LONG, tags=["other"]))
            assert isinstance(answer, kind)
            assert answer.stale is not None
            assert answer.stale.tags == tuple(tags)

    # --- several at once

    def test_several_at_once(self, run: Run, cache: CacheStore) -> None:
        """Each of several keys has an answer of its own, in their order, and is computed by one."""
        run(cache.set("there", ONE, ttl=LONG, tags=["t"]))
        run(cache.set("old", ONE, ttl=LONG, fresh=SHORT))
        run(cache.fetch("busy", owner="bob", lease=LONG))
        self.advance(SHORT * 1.1)
        keys, tags = ["busy", "there", "new", "old"], [[], ["t"], ["t"], []]
        for _ in range(2):  # the second time the backend may know which have a value
            busy, there, new, old = run(
                cache.fetch_many(keys, owner="ann", lease=LONG, tags=tags, waiter=None)
            )
            assert isinstance(busy, Busy)
            assert busy.owner == "bob"
            assert isinstance(there, Entry)
            assert there.value == ONE
            assert isinstance(new, Leased)
            assert isinstance(old, Leased)
            assert old.stale is not None
            assert old.stale.value == ONE
        fillings = [
            Filling("new", TWO, LONG, tags=["t"]),
            Filling("busy", TWO, LONG),
            Filling("old", TWO, LONG),
        ]
        assert run(cache.fill_many(fillings, owner="ann")) == [True, False, True]
        for _ in range(2):
            found = run(cache.fetch_many(["new", "there", "old"], owner="cid", lease=LONG))
            assert [isinstance(each, Entry) for each in found] == [True] * 3
            assert [each.value for each in found if isinstance(each, Entry)] == [TWO, ONE, TWO]
        run(cache.invalidate_tags(["t"]))
        tags = [["t"], ["t"], []]
        found = run(cache.fetch_many(["new", "there", "old"], owner="cid", lease=LONG, tags=tags))
        assert [type(each) for each in found] == [Leased, Leased, Entry]

    def test_none_at_once(self, run: Run, cache: CacheStore) -> None:
        """No keys have no answers."""
        assert run(cache.fetch_many([], owner="ann", lease=LONG)) == []
        assert run(cache.fill_many([], owner="ann")) == []

    def test_several_and_an_invalidation(self, run: Run, cache: CacheStore) -> None:
        """Of several values, those that were invalidated meanwhile are not stored."""
        run(cache.fetch_many(["a", "b", "c"], owner="ann", lease=LONG, tags=[["t"], [], []]))
        run(cache.delete("b"))
        run(cache.invalidate_tags(["t"]))
        fillings = [Filling("a", ONE, LONG, tags=["t"]), *[Filling(k, ONE, LONG) for k in "bc"]]
        stored = run(cache.fill_many(fillings, owner="ann"))
        assert stored[1:] == [False, True]
        assert [run(cache.has(key)) for key in "abc"] == [False, False, True]
