"""What a user of a Redis server must be allowed, and what happens to one who is not."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from resilient.backends.redis import from_url
from resilient.errors import BackendError
from resilient.protocols.circuits import CircuitRules, CircuitState
from resilient.protocols.locks import LOCK, READ, WRITE
from resilient.testing.conformance import Run
from tests.support.acl import PASSWORD, USER, as_user, let_in
from tests.support.servers import RedisServer, flavours, redis_server

RULES = CircuitRules(100, 100, 0.5, None, 30.0, 5, 10.0, 600.0)


@pytest.fixture(scope="module", params=flavours())
def guarded(request: pytest.FixtureRequest) -> Any:
    """A server with a user who has the rights that the documentation lists."""
    with redis_server(request.param) as server:
        let_in(server, "app:")
        yield server


def test_all_that_the_library_does(run: Run, guarded: RedisServer) -> None:
    """Every capability works with those rights, signals and client tracking included."""
    backend = from_url(as_user(guarded.url), prefix="app:")
    with run.closing(backend):
        locks, cache = backend.require("locks"), backend.require("cache")
        for mode in (LOCK, READ, WRITE):
            run(locks.acquire("k", ttl=30, owner="ann", mode=mode))
            _, address = run.listen(backend)
            run(locks.acquire("k", ttl=30, owner="bob", mode=mode, waiter=address))
            run(locks.renew("k", ttl=30, owner="ann", mode=mode))
            run(locks.withdraw("k", owner="bob", waiter=address, mode=mode))
            run(locks.release("k", owner="ann", mode=mode))
            run(locks.force_release("k", mode=mode))
        run(cache.set("k", b"value", ttl=30, tags=["red"]))
        assert run(cache.get("k")).value == b"value"
        run(cache.fetch("l", owner="ann", lease=30, tags=["red"]))
        run(cache.fill("l", b"value", owner="ann", ttl=30, tags=["red"]))
        run(cache.invalidate_tags(["red"]))
        assert set(run(cache.keys())) == {"k", "l"}
        assert run(cache.clear()) == 2
        circuits = backend.require("circuits")
        run(circuits.record("c", rules=RULES, outcomes="0101"))
        run(circuits.force("c", CircuitState.OPEN))
        assert run(circuits.history("c"))
        run(circuits.delete("c"))
        calls = backend.require("idempotency")
        run(calls.claim("i", owner="ann", lease=30, ttl=60))
        run(calls.complete("i", owner="ann", result=b"done", ttl=60))
        assert run(calls.get("i")).result == b"done"
        jobs = backend.require("checkpoints")
        fence = run(jobs.start("j", owner="ann", lease=30, ttl=60)).fence
        run(jobs.step("j", "count", b"7", fence=fence, ttl=60))
        run(jobs.save("j", b"state", fence=fence))
        run(jobs.finish("j", b"result", fence=fence, ttl=60))
        assert run(jobs.delete("j"))


def test_nothing_else(run: Run, guarded: RedisServer) -> None:
    """Neither other keys nor other commands; another prefix is refused access, for good."""
    with redis.Redis(port=guarded.port, username=USER, password=PASSWORD) as client:
        for words in (("SET", "other", 1), ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
    backend = from_url(as_user(guarded.url), prefix="other:")
    with run.closing(backend):
        with pytest.raises(BackendError) as caught:
            run(backend.require("locks").acquire("k", ttl=30))
        assert not caught.value.transient
        assert PASSWORD not in str(caught.value)
