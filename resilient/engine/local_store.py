"""A bounded store of ready values in this process: read without a lock, evicted by SIEVE.

A reader looks an entry up in a plain dict, compares its expiry with the ticks and counts the hit.
The count is all that the eviction needs to know, so a hit writes nothing else and takes no lock;
only those who store or remove do.

SIEVE keeps entries in the order in which they came and moves a hand from the oldest to the newest:
an entry that was read since the hand's last visit stays where it is, one that was not goes. It
beats LRU's hit ratio on most traces without moving anything on a hit: Zhang et al., "SIEVE is
Simpler than LRU", NSDI '24, https://www.usenix.org/conference/nsdi24/presentation/zhang-yazhuo
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import date
from enum import Enum
from typing import Any, TypeAlias

from resilient.engine import clock
from resilient.engine.forks import forget_in_child

__all__ = ["Alias", "Entry", "LocalStore"]

Alias: TypeAlias = tuple[Any, ...]
"""Values and their types in turn, `(5, int, "x", str)`: a key that costs less than its text."""

SINGLE = 2
"""The length of the alias of one value."""

PLAIN: frozenset[type] = frozenset({int, str, bool, type(None), bytes, float, date})
"""Types of which two values that are equal are the same in every respect; but for 0.0 and -0.0."""

LONGEST = 512
"""Longer texts are not kept as aliases: they are in the entry's key, which is short, already."""

NEVER = float("-inf")


class Entry:
    """A value in the store.

    Attributes:
        value: What was stored.
        expires: When it is no hit any more, in ticks (`clock.ticks`); so are the others.
        stale_until: Until when it may be served while it is computed anew.
        kept_until: Until when it may be fallen back on in trouble.
        hits: How often it was served since the eviction's hand passed last. Threads that count at
            the same moment may lose one.
        key: Its key.
        tags: Its tags.
        born: Its birth at the backend; 0 where that does not say.
    """

    __slots__ = (
        "_alias",
        "_newer",
        "_older",
        "born",
        "expires",
        "hits",
        "kept_until",
        "key",
        "stale_until",
        "tags",
        "value",
    )

    def __init__(self, key: str, value: Any, expires: float, tags: tuple[str, ...]) -> None:
        self.key = key
        self.value = value
        self.expires = expires
        self.stale_until = self.kept_until = expires
        self.tags = tags
        self.born = 0
        self.hits = 0
        self._alias: Alias | None = None
        self._newer: Entry | None = None
        self._older: Entry | None = None


class LocalStore:
    """Values by key, at most `maxsize` of them.

    Attributes:
        entries: By key. Whoever looks here compares `expires`, believes ticks for no longer than
            `clock.believed_until`, and counts `hits` itself.
        singles: The same entries by the aliases of one value: `singles[type][value]`.
        tuples: The same by longer aliases.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.entries: dict[str, Entry] = {}
        self.singles: dict[type, dict[Any, Entry]] = {}
        self.tuples: dict[Alias, Entry] = {}
        self._tagged: dict[str, set[Entry]] = {}
        self._newest: Entry | None = None
        self._oldest: Entry | None = None
        self._hand: Entry | None = None
        self._past_hits = 0
        self._doubtful: dict[str, Entry] = {}
        # Reentrant: the garbage collector may run a destructor here that comes back to this store.
        self._lock = threading.RLock()
        forget_in_child(self._forget)
        clock.forget_when_suspended(self.clear)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def hits(self) -> int:
        """How often a value was served from here; approximate where threads read at once."""
        with self._lock:
            return self._past_hits + sum(entry.hits for entry in self.entries.values())

    def find(self, key: str) -> Entry | None:
        """The live entry of a key; not counted as a hit."""
        now = _ticks()  # first: it may empty the store
        entry = self.entries.get(key)
        return entry if entry is not None and entry.expires > now else None

    def find_stale(self, key: str) -> Entry | None:
        """The entry of a key that may be served while it is computed anew."""
        now = _ticks()  # first: it may empty the store
        entry = self.entries.get(key)
        return entry if entry is not None and entry.stale_until > now else None

    def find_kept(self, key: str) -> Entry | None:
        """What is left of a key to fall back on in trouble, doubtful or not."""
        now = _ticks()  # first: it may empty the store
        entry = self.entries.get(key) or self._doubtful.get(key)
        return entry if entry is not None and entry.kept_until > now else None

    def put(
        self,
        key: str,
        value: Any,
        expires: float,
        *,
        stale_until: float | None = None,
        kept_until: float | None = None,
        tags: Iterable[str] = (),
        alias: Alias | None = None,
        born: int = 0,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        """Store a value, in the place of an earlier one, and evict another if the store is full.

        Args:
            key: Its key.
            value: What to store.
            expires: When it may no longer be served, on the local clock.
            stale_until: Until when it may be served while it is computed anew; `None`: no longer.
            kept_until: Until when it may be fallen back on in trouble; `None`: no longer.
            tags: What it can be dropped by.
            alias: Another way to find it.
            born: Its birth at the backend.
            unless: Asked under the store's lock; true: nothing is stored. So whoever first says
                that a value is stale and then drops its key is sure that it does not come back.
        """
        with self._lock:
            if unless is not None and unless():
                return False
            self._doubtful.pop(key, None)
            self._remove(self.entries.get(key))
            while len(self.entries) >= self.maxsize:
                self._evict()
            self._prune(_ticks())
            behind = clock.behind()
            entry = Entry(key, value, expires - behind, tuple(tags))
            entry.born = born
            if stale_until is not None:
                entry.stale_until = max(stale_until - behind, entry.expires)
            if kept_until is not None:
                entry.kept_until = max(kept_until - behind, entry.stale_until)
            self._link(entry)
            for tag in entry.tags:
                self._tagged.setdefault(tag, set()).add(entry)
            self.entries[key] = entry
            if alias is not None:
                self.name(entry, alias)
        return True

    def name(self, entry: Entry, alias: Alias) -> None:
        """Let an entry be found by an alias too, instead of an earlier one.

        An alias that could meet another one without being the same in every respect (`(1,)` is
        equal to `(True,)`) is not used: the entry is found by its key.
        """
        if not _is_plain(alias):
            return
        with self._lock:
            if self.entries.get(entry.key) is not entry:
                return
            self._unname(entry)
            entry._alias = alias
            if len(alias) == SINGLE:
                self.singles.setdefault(alias[1], {})[alias[0]] = entry
            else:
                self.tuples[alias] = entry

    def has_tag(self, tag: str) -> bool:
        """Whether an entry has this tag."""
        return tag in self._tagged

    def drop(self, key: str, *, but: int = -1) -> None:
        """Remove the entry of a key; not the one of this birth."""
        with self._lock:
            entry = self.entries.get(key)
            if entry is None or entry.born != but:
                self._doubtful.pop(key, None)
                self._remove(entry)

    def drop_tag(self, tag: str, *, before: float = math.inf) -> None:
        """Remove every entry with this tag that was born before."""
        with self._lock:
            for entry in [e for e in self._tagged.get(tag, ()) if e.born < before]:
                self._remove(entry)
            for entry in [e for e in self._doubtful.values() if tag in e.tags and e.born < before]:
                del self._doubtful[entry.key]

    def doubt(self) -> None:
        """Serve nothing of all this any more; keep what may be fallen back on in trouble."""
        with self._lock:
            now = _ticks()
            kept = {**self._doubtful, **self.entries}
            self.clear()
            worth = [
                (key, entry)
                for key, entry in kept.items()
                if entry.kept_until > max(entry.stale_until, now)
            ]
            self._doubtful = dict(worth[-self.maxsize :])  # the newest are last

    def clear(self) -> None:
        """Remove every entry."""
        with self._lock:
            self._past_hits = self.hits
            # In place: readers hold these very dicts.
            self.entries.clear()
            self._doubtful.clear()
            self.tuples.clear()
            for single in self.singles.values():
                single.clear()
            self._tagged.clear()
            self._newest = self._oldest = self._hand = None

    def _forget(self) -> None:
        # A thread of the parent's may have been at work here in the moment of the fork.
        self._lock = threading.RLock()
        self.clear()

    # --- eviction

    def _prune(self, now: float) -> None:
        """Remove doubtful entries that are over, from the oldest to the first that is not."""
        while self._doubtful:
            key = next(iter(self._doubtful))
            if self._doubtful[key].kept_until > now:
                break
            del self._doubtful[key]

    def _evict(self) -> None:
        now = clock.ticks()
        entry = self._hand or self._oldest
        while entry is not None and entry.hits and entry.expires > now:
            self._past_hits += entry.hits
            entry.hits = 0
            entry = entry._newer or self._oldest
        if entry is not None:
            self._hand = entry._newer
            self._remove(entry)

    def _link(self, entry: Entry) -> None:
        entry._older = self._newest
        if self._newest is None:
            self._oldest = entry
        else:
            self._newest._newer = entry
        self._newest = entry

    def _remove(self, entry: Entry | None) -> None:
        if entry is None or self.entries.get(entry.key) is not entry:
            return
        del self.entries[entry.key]
        entry.expires = entry.stale_until = entry.kept_until = NEVER
        self._past_hits += entry.hits
        self._unname(entry)
        for tag in entry.tags:
            tagged = self._tagged.get(tag)
            if tagged is not None:
                tagged.discard(entry)
                if not tagged:
                    del self._tagged[tag]
        self._unlink(entry)

    def _unlink(self, entry: Entry) -> None:
        older, newer = entry._older, entry._newer
        if self._hand is entry:
            self._hand = newer
        if older is None:
            self._oldest = newer
        else:
            older._newer = newer
        if newer is None:
            self._newest = older
        else:
            newer._older = older
        entry._older = entry._newer = None

    def _unname(self, entry: Entry) -> None:
        alias, entry._alias = entry._alias, None
        if alias is None:
            return
        # Where there is none, the thread that named it was interrupted before it could.
        single = len(alias) == SINGLE
        names: dict[Any, Entry] = self.singles.get(alias[1], {}) if single else self.tuples
        name = alias[0] if len(alias) == SINGLE else alias
        if names.get(name) is entry:
            del names[name]


def _ticks() -> float:
    """The ticks, to be believed: stores are empty if the machine was suspended."""
    now = clock.ticks()
    if now >= clock.believed_until:
        clock.look()
    return now


def _is_plain(alias: Alias) -> bool:
    """Whether whatever equals this alias, types included, is the same in every respect."""
    for value, kind in zip(alias[::2], alias[1::2], strict=True):
        if type(value) is not kind:
            return False
        if kind not in PLAIN and not _is_uuid(kind) and not _is_member(value):
            return False
        if kind is float and value == 0:
            return False
        if isinstance(value, str | bytes) and len(value) > LONGEST:
            return False
    return True


def _is_member(value: Any) -> bool:
    """Whether it is an enum member that is equal to itself only."""
    return isinstance(value, Enum) and type(value).__eq__ is object.__eq__


def _is_uuid(kind: type) -> bool:
    # Its module is slow to import; whoever has a UUID has done so.
    module = sys.modules.get("uuid")
    return module is not None and kind is module.UUID
