"""Whether a lock on a cluster is handed over to who waits for it."""

from __future__ import annotations

from itertools import count
from typing import Any

from resilient.backends.redis import RedisBackend
from resilient.testing.conformance import Run
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer

__all__ = ["handed_over", "key_at", "locks"]


def locks(backend: RedisBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


def key_at(cluster: Cluster, backend: RedisBackend, server: RedisServer, kind: str = "lock") -> str:
    """A lock, or another kind of thing, that is on this server."""
    names = map("k{}".format, count())
    return next(
        name for name in names if cluster.primary_of(f"{backend.prefix}{kind}:{name}") is server
    )


def handed_over(run: Run, backend: RedisBackend, key: str) -> bool:
    """Whether a lock that is released is handed to who waits for it."""
    assert run(locks(backend).acquire(key, ttl=60, owner="ann"))
    waiter, address = run.listen(backend)
    run(locks(backend).acquire(key, ttl=60, owner="bob", waiter=address))
    run(locks(backend).release(key, owner="ann"))
    held = run(locks(backend).holder(key))
    was_given = held is not None and held.owner == "bob"
    heard = True
    while heard and was_given and waiter.gift != str(held.fence):  # or all were woken, to look
        heard = run.wait(waiter, 20)
    run(locks(backend).withdraw(key, owner="bob", waiter=address))
    return was_given and heard
