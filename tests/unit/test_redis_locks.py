"""Locks on Redis: who is next out of turn, and who is told first."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from resilient.backends.redis import RedisBackend
from resilient.backends.redis.commands import Asking, Call, Command, Handing, Plain
from resilient.backends.redis.locks import SCRIPTS
from resilient.backends.redis.resp import UNFINISHED, new_reader, pack
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from tests.support.servers import RedisAt

ROUNDS = 20
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


def crowd(run: Run, backend: RedisBackend, names: list[str]) -> list[str]:
    """In which order those who wait have it, where each of them releases it out of turn."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    waiters = {}
    for name in names:
        waiters[name], address = run.listen(backend)
        run(locks.acquire("k", ttl=30, owner=name, waiter=address))
    served = []
    owner = "ann"
    for _ in names:
        assert run(locks.release("k", owner=owner, fair=False))
        owner = run(locks.holder("k")).owner
        assert run.wait(waiters[owner], 5)
        served.append(owner)
    assert run(locks.release("k", owner=owner, fair=False))
    assert run(locks.holder("k")) is None
    return served


def test_out_of_turn_who_came_last_is_next(run: Run, backend: RedisBackend) -> None:
    """The lock is handed over all the same, mostly to the one whose process is the warmest."""
    names = [f"owner-{number}" for number in range(24)]
    served = crowd(run, backend, names)
    assert sorted(served) == sorted(names)  # and to each of them once
    last = 0
    for position, name in enumerate(served):
        waiting = set(served[position:])
        last += name == max(waiting, key=names.index)
    assert last >= len(names) / 2


def test_out_of_turn_whoever_has_waited_long_is_served(run: Run, backend: RedisBackend) -> None:
    """However many come later, the longest waiting one has the lock now and then."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="0"))
    patient, address = run.listen(backend)
    run(locks.acquire("k", ttl=30, owner="patient", waiter=address))
    _, later = run.listen(backend)
    owner = "0"
    for number in range(1, 1000):
        run(locks.acquire("k", ttl=30, owner=str(number), waiter=later))
        run(locks.release("k", owner=owner, fair=False))
        owner = run(locks.holder("k")).owner
        if owner == "patient":
            break
    assert owner == "patient"
    assert run.wait(patient, 5)


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
    assert told_first(every_redis, Handing) == ROUNDS
    assert told_first(every_redis, lambda call: call) == 0


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
                data, [(_, _, moment)], *_ = self._socket.recvmsg(4096, 64)
                self.arrived = struct.unpack("ll", moment)
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
