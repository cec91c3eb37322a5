"""Who holds a lock, looked up by hand."""

from __future__ import annotations

import resilient


async def held_by(backend: resilient.Backend, key: str) -> str | None:
    """The owner of a lock, looked up by hand."""
    holder = await backend.aio.locks.holder(key)
    return None if holder is None else str(holder.owner)


def is_free(backend: resilient.Backend, key: str) -> bool:
    """Whether nobody holds a lock."""
    return backend.sync.locks.holder(key) is None
