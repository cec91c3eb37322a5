"""Signals on Redis: who is woken, how soon, and what happens when the connection is away."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.engine.listening import QUIET
from resilient.engine.signals import RECHECK
from resilient.errors import BackendError
from resilient.protocols.circuits import CircuitState, parse_announcement
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.servers import RedisAt, RedisServer, free_port
from tests.support.waiting import soon


@pytest.fixture
def url(every_redis: RedisAt) -> str:
    """Of the shared server."""
    return every_redis.url


@pytest.fixture
def backend(served: RedisBackend) -> RedisBackend:
    """A backend on each kind of server."""
    return served


def listens(backend: RedisBackend) -> bool:
    """Whether everything that is sent now would be heard."""
    return backend.hub.is_listening


def threads() -> list[threading.Thread]:
    """The listening threads of this process."""
    return [each for each in threading.enumerate() if each.name.startswith("resilient-signals")]


def test_the_longest_waiting_is_woken(run: Run, backend: RedisBackend) -> None:
    """One waiter a release, in the order in which they came."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    waiters = []
    for name in ("bob", "cid", "dan"):
        waiter, address = run.listen(backend)
        run(locks.acquire("k", ttl=30, owner=name, waiter=address))
        waiters.append((waiter, address))

    run(locks.release("k", owner="ann"))

    assert run.wait(waiters[0][0], 5)
    assert not run.wait(waiters[1][0], 0.05)
    held = run(locks.holder("k"))
    assert (held.owner, waiters[0][0].gift) == ("bob", str(held.fence))


def test_a_hand_over_is_quick(run: Run, backend: RedisBackend) -> None:
    """From a release to the waiter: milliseconds, not a poll."""
    locks = backend.require("locks")
    run(locks.acquire("warm", ttl=30, owner="ann"))
    taken = []
    for number in range(20):
        run(locks.acquire("k", ttl=30, owner=f"ann{number}"))
        waiter, address = run.listen(backend)
        run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
        started = time.perf_counter()
        run(locks.release("k", owner=f"ann{number}"))
        assert run.wait(waiter, 5)
        taken.append(time.perf_counter() - started)
        run(locks.release("k", owner="bob"))

    assert sorted(taken)[10] < RECHECK / 4


def test_the_dead_are_skipped(run: Run, backend: RedisBackend, every_redis: RedisAt) -> None:
    """A waiter whose process is gone takes no wake-up away from the next one."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    for number in range(3):
        dead = f"gone:signal:{number}|waiter"
        run(locks.acquire("k", ttl=30, owner=dead, waiter=dead))
    waiter, address = run.listen(backend)
    run(locks.acquire("k", ttl=30, owner="bob", waiter=address))

    run(locks.release("k", owner="ann"))

    assert run.wait(waiter, 5)


def test_a_wake_up_that_came_too_late_is_passed_on(run: Run, backend: RedisBackend) -> None:
    """Who gives up just when it is woken leaves the wake-up to the next."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    first, first_address = run.listen(backend)
    second, second_address = run.listen(backend)
    run(locks.acquire("k", ttl=30, owner="bob", waiter=first_address))
    run(locks.acquire("k", ttl=30, owner="cid", waiter=second_address))
    run(locks.release("k", owner="ann"))
    assert run.wait(first, 5)

    run(locks.withdraw("k", owner="bob", waiter=first_address))

    assert run.wait(second, 5)


def test_all_who_wait_for_a_value_are_woken(run: Run, backend: RedisBackend) -> None:
    """Everybody, with one message for this process."""
    cache = backend.require("cache")
    run(cache.fetch("k", owner="ann", lease=30))
    waiters = []
    for number in range(20):
        waiter, address = run.listen(backend)
        run(cache.fetch("k", owner=str(number), lease=30, waiter=address))
        waiters.append(waiter)

    run(cache.fill("k", b"value", owner="ann", ttl=30))

    assert all(run.wait(waiter, 5) for waiter in waiters)


def test_only_what_is_listened_to_is_heard(
    run: Run, backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """A process that only waits for locks is not bothered with the fleet's invalidations."""
    run.listen(backend)
    with every_redis.client() as client:

        def channels() -> set[bytes]:
            return set(client.pubsub_channels(f"{prefix}*"))

        assert [name.startswith(f"{prefix}signal:".encode()) for name in channels()] == [True]

        heard: list[str | None] = []
        backend.hub.listen("cache", heard.append)
        assert f"{prefix}events:cache".encode() in channels()
        assert f"{prefix}events:circuits".encode() not in channels()

        run(backend.require("cache").delete("k"))
        run(backend.require("cache").invalidate_tags(["red"]))
        assert soon(lambda: len(heard) == 2)
        assert heard == ["k", "#red"]


def test_transitions_are_announced(run: Run, backend: RedisBackend) -> None:
    """A circuit that is forced open is open everywhere."""
    heard: list[str | None] = []
    backend.hub.listen("circuits", heard.append)
    view = run(backend.require("circuits").force("a|b:1", CircuitState.OPEN))

    assert soon(lambda: heard)
    key, told = parse_announcement(str(heard[0]))
    assert (key, told.state, told.generation) == ("a|b:1", CircuitState.OPEN, view.generation)
    assert (told.reopens_in, told.reason) == (60.0, view.reason)


def test_a_faulty_listener_harms_nobody(run: Run, backend: RedisBackend) -> None:
    """Its fault is logged, and the others go on hearing."""
    heard: list[str | None] = []

    def faulty(message: str | None) -> None:
        raise RuntimeError("a listener's own fault")

    backend.hub.listen("cache", faulty)
    backend.hub.listen("circuits", heard.append)
    run(backend.require("cache").delete("k"))
    run(backend.require("circuits").force("k", CircuitState.OPEN))

    assert soon(lambda: heard)


def test_a_strange_message_harms_nobody(
    run: Run, backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """Bytes that are no text, which anybody may publish, do not end the listening."""
    heard: list[str | None] = []
    backend.hub.listen("cache", heard.append)
    with every_redis.client() as client:
        client.publish(f"{prefix}events:cache", b"\xff\xfe")
    run(backend.require("cache").delete("k"))
    assert soon(lambda: len(heard) >= 2)
    assert heard == ["\ufffd\ufffd", "k"]


def test_after_a_gap_everybody_is_told(every_redis: RedisAt, prefix: str) -> None:
    """What was sent while the connection was away is lost, and nobody goes on without knowing."""
    with FaultProxy(every_redis.url) as proxy:
        backend = from_url(proxy.url, prefix=prefix)
        heard: list[str | None] = []
        backend.hub.listen("cache", heard.append)
        run = Run("sync")
        waiter, _ = run.listen(backend)

        proxy.refuse()
        time.sleep(0.1)
        assert listens(backend) is False
        assert heard == []
        proxy.accept()

        assert run.wait(waiter, 5)
        assert heard == [None]
        assert listens(backend) is True
        drive(backend.require("cache").delete("k"))
        assert soon(lambda: heard == [None, "k"])
        backend.close()


def test_a_silent_connection_is_noticed(every_redis: RedisAt, prefix: str) -> None:
    """A network that swallows everything: TCP would say nothing for minutes. It is mended, too."""
    with FaultProxy(every_redis.url) as proxy:
        backend = from_url(f"{proxy.url}?socket_timeout=1", prefix=prefix)
        heard: list[str | None] = []
        backend.hub.listen("cache", heard.append, doubts=True)

        proxy.blackhole()
        assert soon(lambda: not backend.hub.is_listening)
        assert soon(lambda: heard == [None])
        proxy.restore()

        assert soon(lambda: heard == [None, None])
        backend.close()


def test_a_sign_of_life_is_asked_for_only_where_somebody_relies_on_it(
    private_redis: RedisServer,
) -> None:
    """A process that only listens is no work for the server; one that waits is, once a second."""
    backend = from_url(private_redis.url, prefix="")
    backend.hub.listen("circuits", lambda message: None)
    with private_redis.client() as client:

        def asked() -> int:
            stats: Any = client.info("commandstats")
            return int(stats.get("cmdstat_ping", {"calls": 0})["calls"])

        time.sleep(2 * QUIET + 0.2)
        assert asked() == 0
        waiter, _ = Run("sync").listen(backend)
        assert soon(lambda: asked() >= 1)
        del waiter
    backend.close()


def test_a_restarted_server(private_redis: RedisServer) -> None:
    """The subscription comes back with the server."""
    backend = from_url(private_redis.url, prefix="")
    run = Run("sync")
    waiter, address = run.listen(backend)
    private_redis.restart()
    assert run.wait(waiter, 5)
    locks = backend.require("locks")
    drive(locks.acquire("k", ttl=30, owner="ann"))
    drive(locks.acquire("k", ttl=30, owner="bob", waiter=address))

    drive(locks.release("k", owner="ann"))

    assert run.wait(waiter, 5)
    backend.close()


def test_no_server_yet() -> None:
    """Listening fails as every operation does, and works once the server is there."""
    port = free_port()
    backend = from_url(f"redis://127.0.0.1:{port}/0", prefix="")
    heard: list[str | None] = []
    started = time.monotonic()
    with pytest.raises(BackendError, match="could not be reached"):
        backend.hub.listen("cache", heard.append)
    assert time.monotonic() - started < 5
    server = RedisServer()
    try:
        server._start_on(port)
        assert soon(lambda: backend.hub.is_listening)
        assert heard == [None]
    finally:
        backend.close()
        server.close()


def test_stopping(every_redis: RedisAt, prefix: str) -> None:
    """Closing ends the thread and the connection at once; a later wait starts them again."""
    assert threads() == []
    backend = from_url(every_redis.url, prefix=prefix)
    run = Run("sync")
    assert threads() == []
    for _ in range(3):
        run.listen(backend)
        assert len(threads()) == 1
        started = time.monotonic()
        backend.close()
        assert time.monotonic() - started < 2
        assert threads() == []
        with every_redis.client() as client:
            assert soon(lambda: not client.pubsub_channels(f"{prefix}*"))


def test_many_start_at_once(every_redis: RedisAt, prefix: str) -> None:
    """One thread, one connection, whoever listens first."""
    backend = from_url(every_redis.url, prefix=prefix)
    start = threading.Barrier(20)
    errors: list[Any] = []

    def one() -> None:
        start.wait()
        try:
            Run("sync").listen(backend)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=one) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert errors == []
    assert len(threads()) == 1
    with every_redis.client() as client:
        assert len(client.pubsub_channels(f"{prefix}*")) == 1
    backend.close()
