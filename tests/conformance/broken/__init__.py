"""Backends that are broken on purpose, each in one way: the conformance suite must notice."""

from tests.conformance.broken import cache, checkpoints, circuits, idempotency, locks
from tests.conformance.broken.base import BROKEN, EXAMPLES, MODEL, Broken

__all__ = [
    "BROKEN",
    "EXAMPLES",
    "MODEL",
    "Broken",
    "cache",
    "checkpoints",
    "circuits",
    "idempotency",
    "locks",
]
