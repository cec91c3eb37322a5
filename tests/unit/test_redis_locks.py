"""Locks on Redis: who is next out of turn, and who is told first."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable
from enum import Enum
from statistics import median
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.backends.redis.commands import Asking, Call, Command, Handing, Plain
from resilient.backends.redis.locks import SCRIPTS
from resilient.backends.redis.resp import UNFINISHED, new_reader, pack
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from tests.support.servers import RedisAt

ROUNDS = 20
ATTEMPTS = 20
LONG = 0.1
"""Seconds after which somebody has waited for long."""
TIMESTAMP = 35
"""`SO_TIMESTAMPNS` of Linux, which the module `socket` does not name."""


@pytest.fixture
def url(every_redis: RedisAt) -> str:
    """Of the shared server."""
    return every_redis.url


@pytest.fixture
def backend(served: RedisBackend) -> RedisBackend:
    """A backend on each kind of server."""
    return served


def waits(run: Run, backend: RedisBackend, owner: str) -> Any:
    """Somebody who waits for the lock."""
    waiter, address = run.listen(backend)
    run(backend.require("locks").acquire("k", ttl=30, owner=owner, waiter=address))
    return waiter


def test_out_of_turn_who_came_last_is_next(run: Run, backend: RedisBackend) -> None:
    """The lock is handed over all the same, to the one whose process is the warmest."""
    locks = backend.require("locks")
    for _ in range(ATTEMPTS):
        run(locks.acquire("k", ttl=30, owner="ann"))
        began = time.monotonic()
        waiters = {owner: waits(run, backend, owner) for owner in ("bob", "cid", "dan")}
        served = ["ann"]
        while (held := run(locks.holder("k"))) is not None:
            assert run(locks.release("k", owner=held.owner, fair=False))
            served.append(held.owner)
        assert all(run.wait(waiter, 5) for waiter in waiters.values())
        if time.monotonic() - began < LONG:  # else they have waited for long
            assert served == ["ann", "ann", "dan", "cid", "bob"]
            return
    pytest.fail("the machine was too slow each time")


def test_out_of_turn_whoever_has_waited_for_long_is_next(run: Run, backend: RedisBackend) -> None:
    """However many come later, the longest waiting one has the lock in time."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    patient = waits(run, backend, "bob")
    time.sleep(1.5 * LONG)
    waits(run, backend, "cid")
    assert run(locks.release("k", owner="ann", fair=False))
    assert run(locks.holder("k")).owner == "bob"
    assert run.wait(patient, 5)


def test_a_crowd_that_gives_up_costs_no_more_than_one_each(
    run: Run, backend: RedisBackend, every_redis: RedisAt
) -> None:
    """Whoever has waited longest finds its place in the queue without going through it."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    cost = []
    for many in (100, 3000):
        for number in range(many):
            run(locks.acquire("k", ttl=30, owner=f"bob{number}", waiter=f"channel|{number}"))
        found = []
        with every_redis.client() as client:
            for number in range(100):
                client.config_resetstat()
                run(locks.withdraw("k", owner=f"bob{number}", waiter=f"channel|{number}"))
                stats: Any = client.info("commandstats")
                found.append(stats["cmdstat_evalsha"]["usec"])
        cost.append(median(found))
        held = run(locks.holder("k"))
        assert (held.owner, held.waiters) == ("ann", many - 100)
    print(f"µs with 100 and 3,000 who wait: {cost}")
    assert cost[1] < 5 * cost[0]


def test_who_gives_up_in_the_middle_leaves_nothing(run: Run, backend: RedisBackend) -> None:
    """Wherever it stands, and whoever else waits under that name or in that place."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    for number in range(200):
        run(locks.acquire("k", ttl=30, owner=f"bob{number}", waiter=f"channel|{number}"))
    for left, number in enumerate((63, 64, 65, 128, 199, 0), 1):
        run(locks.withdraw("k", owner=f"bob{number}", waiter=f"channel|{number}"))
        assert run(locks.holder("k")).waiters == 200 - left
    run(locks.withdraw("k", owner="bob1", waiter="channel|2"))
    run(locks.withdraw("k", owner="bob1", waiter="channel|"))
    assert run(locks.holder("k")).waiters == 194


def test_a_hold_that_outlives_its_memory_is_handed_over(
    run: Run, backend: RedisBackend, every_redis: RedisAt
) -> None:
    """The next hold's fence is larger, its release is known again, and nothing lives for ever."""
    locks = backend.require("locks")
    first = run(locks.acquire("k", ttl=30, owner="ann"))
    _, address = run.listen(backend)
    run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
    memory = f"{{{backend.prefix}lock:k}}:memory"
    with every_redis.client() as client:
        assert client.delete(memory)
    assert run(locks.release("k", owner="ann", fence=first.fence))
    held = run(locks.holder("k"))
    assert held.owner == "bob"
    assert held.fence > first.fence
    with every_redis.client() as client:
        assert client.pttl(memory) > 0
    assert run(locks.release("k", owner="ann", fence=first.fence)), "it is sent again"
    assert run(locks.release("k", owner="bob", fence=held.fence))
    assert isinstance(run(locks.acquire("k", ttl=30, owner="cid")), Grant)
    assert run(locks.release("k", owner="bob", fence=held.fence)), "it is sent again"


@pytest.mark.skipif(sys.platform != "linux", reason="nobody tells when something has arrived")
def test_who_waits_is_told_before_who_releases_is_answered(every_redis: RedisAt) -> None:
    """Of a message and the reply to whoever sent it, the server writes the message first."""
    # Of the first ones the kernel may say when they were read: it begins to take the time late.
    assert told_first(every_redis, Handing) > 0.8 * ROUNDS
    assert told_first(every_redis, lambda call: call) < 0.2 * ROUNDS


def test_who_is_alone_pays_nothing_for_others(
    run: Run, backend: RedisBackend, every_redis: RedisAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent in front of a release is sent only while others are there."""
    locks = backend.require("locks")

    def released() -> int:
        """How many more commands a release was."""
        with every_redis.client() as client:
            client.config_resetstat()
            run(locks.release("k", owner="ann"))
            stats: Any = client.info("commandstats")
        return int(stats.get("cmdstat_ping", {}).get("calls", 0))

    run(locks.acquire("k", ttl=30, owner="ann"))
    assert released() == 0
    run(locks.acquire("k", ttl=30, owner="ann"))
    run(locks.acquire("k", ttl=30, owner="bob"))
    assert released() == 1
    run(locks.acquire("k", ttl=30, owner="ann"))
    monkeypatch.setattr("resilient.backends.redis.locks.CROWDED", 0)
    run(locks.acquire("k", ttl=30, owner="bob"))
    assert released() == 0


def test_what_others_wait_for_leaves_at_once(every_redis: RedisAt, prefix: str) -> None:
    """In an event loop a hand-over is sent as it is asked for; what is asked next goes together."""
    backend = from_url(every_redis.url, prefix=prefix)
    transport: Any = backend.require("locks")._transport
    keys = [f"{prefix}lock", f"{prefix}memory", f"{prefix}waiters"]
    release = SCRIPTS["release"](keys, "ann", 1, 0)

    async def main() -> None:
        await transport.asend(release)  # the script is known from now on
        multiplexed = next(iter(transport._loops.values()))
        with every_redis.round_trips() as trips:
            first = transport.asend(Handing(release))
            assert not multiplexed._waiting
            further = [transport.asend(Handing(release)) for _ in range(20)]
            assert len(multiplexed._waiting) == 20
            await asyncio.gather(first, *further)
        assert trips.count <= 2  # a busy server may find both there

    asyncio.run(main())
    backend.close()


class Place(str, Enum):  # noqa: UP042 - a `StrEnum` is formatted as its text
    """Equal to their texts, and no such texts."""

    HOME = "home"


def test_a_member_of_an_enumeration_is_no_text(run: Run, backend: RedisBackend) -> None:
    """Whatever was locked before, the same key is the same lock, and an equal one of its own."""
    locks, member = backend.require("locks"), f"{Place.HOME}"
    for first, second in (("home", Place.HOME), (Place.HOME, "home")):
        run(locks.release("other", owner="ann"))
        grants = [run(locks.acquire(key, ttl=30, owner="ann")) for key in (first, second)]
        assert all(isinstance(grant, Grant) for grant in grants)
        assert run(locks.holder(member)) is not None
        assert run(locks.release(first, owner="ann"))
        assert run(locks.release(second, owner="ann"))
        assert run(locks.holder(member)) is None


def told_first(server: RedisAt, sent_as: Callable[[Call], Command]) -> int:
    """How often a waiter hears of a release before that is answered."""
    keys = ["first:lock", "first:memory", "first:waiters"]
    found = 0
    with server.client() as client, Wire(server) as waits, Wire(server) as releases:
        client.script_load(SCRIPTS["release"].text)
        waits.send(Plain("SUBSCRIBE", "first:channel"))
        waits.answers(1)
        for _ in range(ROUNDS):
            client.delete(*keys)
            for owner, address in (("ann", ""), ("bob", "first:channel|1")):
                client.eval(SCRIPTS["acquire"].text, 3, *keys, owner, 9000, address, 0, 1, 1, "")
            command = sent_as(SCRIPTS["release"](keys, "ann", 1, 0))
            releases.send(command)
            assert releases.answers(command.replies)[-1] == 1
            assert waits.answers(1)[0][2].startswith(b"1=")
            found += waits.arrived < releases.arrived
        client.delete(*keys)
    return found


class Wire:
    """A bare connection, of which the kernel says when something has arrived.

    https://docs.kernel.org/networking/timestamping.html (`SO_TIMESTAMPNS`)
    """

    def __init__(self, server: RedisAt) -> None:
        found = urlsplit(server.url)
        self._socket = socket.create_connection((found.hostname or "", found.port or 6379), 5)
        self._socket.setsockopt(socket.SOL_SOCKET, TIMESTAMP, 1)
        self._reader = new_reader(RuntimeError)
        self.arrived = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, command: Command) -> None:
        """Send it, and wait for nothing."""
        self._socket.sendall(command.packed)

    def answers(self, count: int) -> list[Any]:
        """The next ones."""
        found: list[Any] = []
        while len(found) < count:
            answer = self._reader.gets()
            if answer is UNFINISHED:
                data, told, *_ = self._socket.recvmsg(4096, 64)
                if not told:
                    pytest.skip("nobody tells when something has arrived")
                self.arrived = struct.unpack("ll", told[0][2])
                self._reader.feed(data)
            else:
                found.append(answer)
        return found


def test_a_server_that_has_the_slot_only_soon_is_asked_the_call_itself() -> None:
    """It lets in the very next command, which must not be the one in front of the call."""
    call = SCRIPTS["release"](["k", "m", "w"], "ann", 1, 0)
    asking = Asking(Handing(call))
    assert asking.packed == pack(("ASKING",)) + call.packed
    assert asking.replies == 2
    assert asking.value(["OK", 1]) == 1
    assert asking.in_full() == pack(("ASKING",)) + call.in_full()
