"""The table of `docs/backends.md`, of what the backends say of themselves.

`python -m tests.support.capability_table` writes it anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from resilient.engine.backend import CAPABILITIES, Backend
from resilient.resolving import resolve

__all__ = ["BACKENDS", "PAGE", "current", "table"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
MARKED = re.compile(r"(<!-- capabilities -->\n).*?(<!-- /capabilities -->)", re.DOTALL)
BACKENDS = {
    "memory": "memory://",
    "SQLite": "sqlite:///state.db",
    "Redis, Valkey": "redis://localhost",
    "PostgreSQL": "postgresql://localhost",
    "MongoDB": "mongodb://localhost",
}
"""By the name that the table gives them. Nothing is connected to."""
STORES = {
    "locks": "locks, semaphores, read and write locks",
    "circuits": "circuit breakers",
    "cache": "cached values",
    "idempotency": "idempotent calls",
    "checkpoints": "resumable jobs",
}


def table() -> str:
    """The table, in Markdown."""
    backends = [resolve(url) for url in BACKENDS.values()]
    rows = [["", *BACKENDS], ["---"] * (len(BACKENDS) + 1)]
    for capability in CAPABILITIES:
        has = [_yes(getattr(each, capability) is not None) for each in backends]
        rows.append([STORES[capability], *has])
    rows.append(["callers", *[" and ".join(sorted(each.modes)[::-1]) for each in backends]])
    for name, title in (
        ("shared_by", "is shared by"),
        ("survives", "the state outlives"),
        ("waking", "waiters are woken by"),
        ("several_locks", "`lock_all` is"),
        ("replicas", "`replicas=` of a lock"),
    ):
        rows.append([title, *[_word(each, name) for each in backends]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _word(backend: Backend, name: str) -> str:
    traits = backend.traits
    assert traits is not None, f"{backend.name} says nothing of itself"
    value = getattr(traits, name)
    return _yes(value) if isinstance(value, bool) else str(value)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def current() -> str:
    """What the page has."""
    found = MARKED.search(PAGE.read_text())
    assert found is not None, "the page has no place for the table"
    return found.group().removeprefix(found.group(1)).removesuffix(found.group(2))


if __name__ == "__main__":
    PAGE.write_text(MARKED.sub(lambda m: m.group(1) + table() + m.group(2), PAGE.read_text()))
