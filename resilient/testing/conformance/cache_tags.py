"""What every backend's cache must make of tags."""

from __future__ import annotations

import pytest

from resilient.protocols.cache import Busy, CacheStore, Leased
from resilient.protocols.values import Encoded
from resilient.testing.conformance.base import LONG, ODD_KEYS, Conformance
from resilient.testing.conformance.runs import Run

__all__ = ["CacheTags"]

ONE, TWO = Encoded(b"one"), Encoded(b"two")


class CacheTags(Conformance):
    """An invalidated tag makes a miss."""

    @pytest.fixture(name="cache")
    def _cache(self, store: CacheStore) -> CacheStore:
        return store

    def test_tags(self, run: Run, cache: CacheStore) -> None:
        """An invalidated tag makes a miss of every entry that has it, and of no other."""
        run(cache.set("red", ONE, ttl=LONG, tags=["r"]))
        run(cache.set("both", ONE, ttl=LONG, tags=["b", "r"]))
        run(cache.set("blue", ONE, ttl=LONG, tags=["b"]))
        run(cache.set("none", ONE, ttl=LONG))
        run(cache.fetch("filled", owner="ann", lease=LONG, tags=["r"]))
        run(cache.fill("filled", ONE, owner="ann", ttl=LONG, tags=["r"]))
        for key in ("red", "both", "blue", "none", "filled"):
            assert run(cache.has(key)) is True
        run(cache.invalidate_tags(["r", "never used"]))
        found = {k: run(cache.has(k)) for k in ("red", "both", "blue", "none", "filled")}
        expected = {"red": False, "both": False, "blue": True, "none": True, "filled": False}
        assert found == expected
        assert run(cache.get("red")) is None
        assert isinstance(run(cache.fetch("both", owner="bob", lease=LONG)), Leased)
        run(cache.set("red", TWO, ttl=LONG, tags=["r"]))
        again = run(cache.get("red"))
        assert again is not None
        assert again.value == TWO

    def test_tag_invalidated_meanwhile(self, run: Run, cache: CacheStore) -> None:
        """A value computed before an invalidation of its tag is never served after it."""
        run(cache.fetch("k", owner="ann", lease=LONG, tags=["t"]))
        run(cache.invalidate_tags(["t"]))
        run(cache.fill("k", ONE, owner="ann", ttl=LONG, tags=["t"]))
        assert run(cache.get("k")) is None

    def test_nobody_waits_for_what_is_outdated(self, run: Run, cache: CacheStore) -> None:
        """Who misses after an invalidation computes, also while an older computation goes on."""
        run(cache.fetch("k", owner="ann", lease=LONG, tags=["t"]))
        run(cache.invalidate_tags(["t"]))
        assert isinstance(run(cache.fetch("k", owner="bob", lease=LONG, tags=["t"])), Leased)
        assert run(cache.renew("k", owner="ann", lease=LONG)) is False
        assert run(cache.fill("k", ONE, owner="ann", ttl=LONG, tags=["t"])) is False
        assert isinstance(run(cache.fetch("k", owner="cid", lease=LONG, tags=["t"])), Busy)
        assert run(cache.fill("k", TWO, owner="bob", ttl=LONG, tags=["t"])) is True
        found = run(cache.get("k"))
        assert found is not None
        assert found.value == TWO

    def test_tag_known_only_at_the_end(self, run: Run, cache: CacheStore) -> None:
        """The same for a tag that is named only with the value."""
        run(cache.set("other", ONE, ttl=LONG, tags=["t"]))
        run(cache.fetch("k", owner="ann", lease=LONG))
        run(cache.invalidate_tags(["t"]))
        run(cache.fill("k", ONE, owner="ann", ttl=LONG, tags=["t"]))
        assert run(cache.get("k")) is None

    def test_odd_tags(self, run: Run, cache: CacheStore) -> None:
        """Tags of all kinds are different tags, and none is taken for a key."""
        for tag in ODD_KEYS:
            run(cache.set(f"under {tag}", ONE, ttl=LONG, tags=[tag]))
            run(cache.set(tag, ONE, ttl=LONG))
        for tag in ODD_KEYS:
            assert run(cache.has(f"under {tag}")) is True
            run(cache.invalidate_tags([tag]))
            assert run(cache.has(f"under {tag}")) is False
            assert run(cache.has(tag)) is True
