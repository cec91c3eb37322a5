"""Forked children of a process that uses Redis: they share no connection with their parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.testing.conformance import Run
from tests.support.forks import exit_code, forked
from tests.support.servers import RedisAt

pytestmark = pytest.mark.process

CALLS = 100


@pytest.fixture
def backend(every_redis: RedisAt, prefix: str) -> Iterator[RedisBackend]:
    """A backend on each kind of server."""
    backend = from_url(every_redis.url, prefix=prefix)
    yield backend
    backend.close()


class Child:
    """A forked child that does one thing."""

    def __init__(self, work: Callable[[Child], Any]) -> None:
        self._from_child, self._to_parent = os.pipe()
        self._from_parent, self._to_child = os.pipe()

        def child() -> None:
            os.close(self._from_child)
            try:
                self.say(work(self))
            except BaseException as error:
                self.say(repr(error))
                raise

        self.pid = forked(child)
        os.close(self._to_parent)

    def say(self, message: Any) -> None:
        """Tell the parent; in the child."""
        os.write(self._to_parent, json.dumps(message).encode() + b"\n")

    def hear(self) -> Any:
        """What the child says next; in the parent."""
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self._from_child, 1)
            assert piece, "the child ended"
            line += piece
        return json.loads(line)

    def end(self) -> Any:
        """What the child says last."""
        said = self.hear()
        assert exit_code(self.pid) == 0, said
        os.close(self._from_child)
        for end in (self._from_parent, self._to_child):
            os.close(end)
        return said


def owners(backend: RedisBackend, name: str) -> list[str]:
    """Whose locks these are, asked one after the other."""
    locks = backend.require("locks")
    grants = [drive(locks.acquire(f"{name}{n}", ttl=30, owner=f"{name}{n}")) for n in range(CALLS)]
    return [grant.owner for grant in grants]


def test_connections_are_not_shared(backend: RedisBackend) -> None:
    """Parent and child speak to the server at the same time, and each hears its own answers."""
    owners(backend, "before")

    child = Child(lambda _: owners(backend, "child"))
    ours = owners(backend, "parent")

    assert child.end() == [f"child{n}" for n in range(CALLS)]
    assert ours == [f"parent{n}" for n in range(CALLS)]


def test_a_loop_s_connection_is_not_shared(backend: RedisBackend) -> None:
    """The child has a loop of its own; its parent's goes on as if nothing had happened."""
    locks = backend.require("locks")

    async def main(name: str) -> list[str]:
        plans = [locks.acquire(f"{name}{n}", ttl=30, owner=f"{name}{n}") for n in range(CALLS)]
        return [grant.owner for grant in await asyncio.gather(*map(adrive, plans))]

    with asyncio.Runner() as runner:
        runner.run(main("before"))
        child = Child(lambda _: asyncio.run(main("child")))
        assert runner.run(main("parent")) == [f"parent{n}" for n in range(CALLS)]
        assert child.end() == [f"child{n}" for n in range(CALLS)]
        assert runner.run(main("after")) == [f"after{n}" for n in range(CALLS)]


def woken(backend: RedisBackend, name: str) -> bool:
    """Whether a waiter of this process is woken."""
    run, locks = Run("sync"), backend.require("locks")
    drive(locks.acquire(name, ttl=30, owner="ann"))
    waiter, address = run.listen(backend)
    drive(locks.acquire(name, ttl=30, owner="bob", waiter=address))
    drive(locks.release(name, owner="ann"))
    return run.wait(waiter, 5)


def test_a_child_listens_by_itself(backend: RedisBackend) -> None:
    """Waiters of the child are woken in the child, and those of the parent in the parent."""
    assert woken(backend, "before")

    child = Child(lambda _: woken(backend, "child"))

    assert woken(backend, "parent")
    assert child.end() is True
    assert woken(backend, "after")


def test_a_child_does_not_keep_its_parent_s_subscription(
    backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """Else a dead parent would be woken for as long as one of its children lives."""

    def parent(child: Child) -> Any:
        woken(backend, "k")
        with every_redis.client() as client:
            channel = client.pubsub_channels(f"{prefix}*")[0].decode()
        grandchild = Child(lambda _: signal.pause())
        child.say([channel, grandchild.pid])
        os.kill(os.getpid(), signal.SIGKILL)

    child = Child(parent)
    channel, grandchild = child.hear()
    os.waitpid(child.pid, 0)
    try:
        with every_redis.client() as client:
            for _ in range(200):
                if client.pubsub_numsub(channel) == [(channel.encode(), 0)]:
                    break
                time.sleep(0.01)
            else:
                pytest.fail("the server takes the dead process for a listening one")
    finally:
        os.kill(grandchild, signal.SIGKILL)
