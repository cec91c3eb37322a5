"""Cached values against their model."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from resilient.protocols.values import Encoded
from resilient.testing.conformance._machines.base import LEASES, READY, Machine, World
from resilient.testing.conformance.models.cache import CacheModel, Leased

__all__ = ["CacheMachine"]

KEYS = st.sampled_from(["a", "a", "a", "b", "a:1"])
OWNERS = st.sampled_from(["ann", "bob"])
TAGS = st.lists(st.sampled_from(["red", "blue"]), max_size=2, unique=True)
TTLS = LEASES
FRESH = st.one_of(st.none(), LEASES)
STALE = st.one_of(st.just(0.0), LEASES)
VALUES = st.sampled_from([b"", b"one", b"two\x00\xff\n"]).map(Encoded)
LATE = Encoded(b"late")
"""What is computed under a tag while that is invalidated."""
PATTERNS = st.sampled_from(["*", "a*", "a:?", "?", "[a-b]", "c*", "a"])


class CacheMachine(Machine):
    """Few entries, computed and stored by hand, with tags."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = CacheModel(world.max_ttl)
        self._tags: dict[str, tuple[str, ...]] = {}
        """The tags under which the value of each key is being computed."""
        self.ask(self.store.clear())

    def agree(self, key: str, expected: Any, actual: Any, field: str = "") -> None:
        """Tags have other names at the store."""
        if field == "tags":
            expected = tuple(self._named(expected))
        super().agree(key, expected, actual, field)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        expected = self.model.get(key)
        self.agree(key, expected, self.ask(self.store.get(self.name(key))))

    @rule(key=KEYS)
    def has(self, key: str) -> None:
        expected = self.model.has(key)
        self.agree(key, expected, self.ask(self.store.has(self.name(key))))

    @rule(key=KEYS, tags=TAGS)
    def look(self, key: str, tags: list[str]) -> None:
        """What a look finds is the fresh value; it may find nothing."""
        copy = self.model.copy(key)
        found = self.ask(self.store.look(self.name(key), tags=tuple(self._named(tags))))
        assert found is None or (copy is not None and copy.fresh > 0 and found == copy.value)

    @rule(key=KEYS, owner=OWNERS, lease=LEASES, tags=TAGS, times=st.integers(1, 2))
    def fetch(self, key: str, owner: str, lease: float, tags: list[str], times: int) -> None:
        if key in dict(self.model.leased()):
            tags = list(self._tags[key])  # who computes the same value does so under the same tags
        for _ in range(times):
            expected = self.model.fetch(key, owner=owner, lease=lease, tags=tags)
            actual = self.ask(
                self.store.fetch(self.name(key), owner=owner, lease=lease, tags=self._named(tags))
            )
            self.agree(key, expected, actual)
            if isinstance(expected, Leased):
                self._tags[key] = tuple(tags)

    @rule(key=KEYS, owner=OWNERS, lease=LEASES, ready=READY)
    def renew(self, key: str, owner: str, lease: float, ready: bool) -> None:
        self._compute(key, owner, ready)
        expected = self.model.renew(key, owner=owner, lease=lease)
        actual = self.ask(self.store.renew(self.name(key), owner=owner, lease=lease))
        self.agree(key, expected, actual)

    @rule(
        key=KEYS,
        owner=OWNERS,
        value=VALUES,
        ttl=TTLS,
        times=st.integers(1, 2),
        ready=READY,
        fresh=FRESH,
        stale=STALE,
    )
    def fill(
        self,
        key: str,
        owner: str,
        value: Encoded,
        ttl: float,
        times: int,
        ready: bool,
        fresh: float | None = None,
        stale: float = 0.0,
    ) -> None:
        self._compute(key, owner, ready)
        tags = self._tags.get(key, ())
        answers = []
        for _ in range(times):
            expected = self.model.fill(
                key, value, owner=owner, ttl=ttl, tags=tags, fresh=fresh, stale=stale
            )
            actual = self.ask(
                self.store.fill(
                    self.name(key),
                    value,
                    owner=owner,
                    ttl=ttl,
                    fresh=fresh,
                    stale=stale,
                    tags=self._named(tags),
                )
            )
            self.agree(key, expected, actual)
            answers.append(actual)
            if expected is True:
                self._tags.pop(key, None)
        assert answers[0] is not True or all(answers), "a fill sent again is not confirmed again"
        self.get(key)

    @rule(key=KEYS, owner=OWNERS, ready=READY)
    def abandon(self, key: str, owner: str, ready: bool) -> None:
        self._compute(key, owner, ready)
        expected = self.model.abandon(key, owner=owner)
        self.agree(key, expected, self.ask(self.store.abandon(self.name(key), owner=owner)))
        if expected is True:
            self._tags.pop(key, None)

    @rule(
        key=KEYS,
        value=VALUES,
        ttl=st.one_of(st.none(), TTLS),
        tags=TAGS,
        fresh=FRESH,
        stale=STALE,
    )
    def set(
        self,
        key: str,
        value: Encoded,
        ttl: float | None,
        tags: list[str],
        fresh: float | None,
        stale: float,
    ) -> None:
        self.model.set(key, value, ttl=ttl, tags=tags, fresh=fresh, stale=stale)
        self._tags.pop(key, None)
        answer = self.ask(
            self.store.set(
                self.name(key), value, ttl=ttl, fresh=fresh, stale=stale, tags=self._named(tags)
            )
        )
        assert answer is None

    @rule(key=KEYS, ready=READY)
    def expire(self, key: str, ready: bool = False) -> None:
        self._compute(key, "ann", ready)
        expected = self.model.expire(key)
        self._tags.pop(key, None)
        self.agree(key, expected, self.ask(self.store.expire(self.name(key))))

    @rule(key=KEYS, ready=READY)
    def delete(self, key: str, ready: bool = False) -> None:
        self._compute(key, "ann", ready)
        expected = self.model.delete(key)
        self._tags.pop(key, None)
        self.agree(key, expected, self.ask(self.store.delete(self.name(key))))

    @rule(key=KEYS, tags=TAGS, ready=READY, next_one=st.booleans())
    def invalidate_tags(self, key: str, tags: list[str], ready: bool, next_one: bool) -> None:
        """Whoever computed under such a tag may store its value or not: it is never served."""
        if ready:
            self.fetch(key, "ann", 200.0, tags, 1)
        self.model.invalidate_tags(tags)
        answer = self.ask(self.store.invalidate_tags(self._named(tags)))
        assert answer is None
        for key, owner in self.model.leased():
            if not set(tags) & set(self._tags[key]):
                continue
            if next_one:
                self.fetch(key, "bob" if owner == "ann" else "ann", 200.0, [], 1)
                self.fill(key, owner, LATE, 200.0, 1, False)
            else:
                self._fill_late(key, owner)
                self.delete(key)

    @rule(pattern=PATTERNS)
    def keys(self, pattern: str) -> None:
        must, may = self.model.keys(pattern)
        found = self.ask(self.store.keys(self.name(pattern)))
        assert isinstance(found, list)
        assert len(found) == len(set(found)), "a key is listed twice"
        listed = {key.removeprefix(self.name("")) for key in found}
        assert must <= listed <= may

    @rule()
    def clear(self) -> None:
        """What becomes of computations in flight is left open: there are none here."""
        for key, _ in self.model.leased():
            self.delete(key)
        fewest, most = self.model.clear()
        assert fewest <= self.ask(self.store.clear()) <= most
        assert self.ask(self.store.keys()) == []

    def _fill_late(self, key: str, owner: str) -> None:
        """Whether it is stored or refused is open, and so whether an older value is still there."""
        tags = self._tags.pop(key)
        fill = self.store.fill(self.name(key), LATE, owner=owner, ttl=200.0, tags=self._named(tags))
        assert type(self.ask(fill)) is bool
        older = self.model.get(key)
        found = self.ask(self.store.get(self.name(key)))
        if found is not None:
            self.agree(key, older, found)
        self.model.fill(key, LATE, owner=owner, ttl=200.0, tags=tags)

    def _compute(self, key: str, owner: str, ready: bool) -> None:
        if ready and not self.model.has(key):
            self.fetch(key, owner, 200.0, ["red"], 1)

    def _named(self, tags: list[str] | tuple[str, ...]) -> list[str]:
        return [self.name(tag) for tag in tags]
