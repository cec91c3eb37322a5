"""What the processes of `ProcessConformance` do.

It is run as a script (`python worker.py TASK OPTIONS`), not imported, so that starting twenty of
them does not mean importing pytest twenty times. A worker says `ready`, waits for a line on its
standard input, does its task and prints what came of it as lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resilient.engine.backend import Backend
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Plan, Sleep
from resilient.protocols.cache import CacheStore
from resilient.protocols.checkpoints import Started
from resilient.protocols.circuits import CircuitRules, Verdict
from resilient.protocols.idempotency import Claimed
from resilient.protocols.locks import Grant
from resilient.protocols.values import Encoded
from resilient.resolving import resolve

POLL = 0.002
SECTION = 0.002
"""Seconds between reading and writing, in which others come who are not kept out."""


def say(value: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def hang() -> None:
    """Wait to be killed."""
    await Sleep(600.0)


async def touch(backend: Backend, name: str) -> None:
    """Open the backend and use whatever it has."""
    done: dict[str, Any] = {}
    if backend.locks is not None:
        done["locks"] = isinstance(await backend.locks.acquire(name, ttl=60, owner=name), Grant)
    if backend.cache is not None:
        await backend.cache.set(name, Encoded(name.encode()), ttl=60)
        entry = await backend.cache.get(name)
        done["cache"] = entry is not None and entry.value == name.encode()
    if backend.checkpoints is not None:
        done["checkpoints"] = await backend.checkpoints.save(name, Encoded(b"x")) is not None
    say(done)


def read_number(path: str) -> int:
    """The number in a file, which stands before the fence of who wrote it."""
    return int(Path(path).read_text().partition(" ")[0])


def write_number(path: str, number: int, fence: int) -> None:
    """Write it again."""
    Path(path).write_text(f"{number} {fence}")


async def count(backend: Backend, path: str, name: str, turns: int) -> None:
    """Increase a number in a file under a lock, so many times; tell the fences."""
    assert backend.locks is not None
    fences = []
    for turn in range(turns):
        owner = f"{name}-{turn}"
        while not isinstance(
            grant := await backend.locks.acquire("counter", ttl=60, owner=owner), Grant
        ):
            await Sleep(POLL)
        # Not atomic on purpose: two holders at once would lose one of their increments.
        number = read_number(path)
        await Sleep(SECTION)
        write_number(path, number + 1, grant.fence)
        fences.append(grant.fence)
        await backend.locks.release("counter", owner=owner)
    say(fences)


async def hold(backend: Backend, key: str, ttl: float) -> None:
    """Hold a lock until killed, or until the test says so; then tell whether it still was."""
    assert backend.locks is not None
    grant = await backend.locks.acquire(key, ttl=ttl, owner="holder")
    say(isinstance(grant, Grant))
    sys.stdin.readline()
    say(await backend.locks.renew(key, owner="holder", ttl=ttl))
    say(await backend.locks.release(key, owner="holder"))


async def claim(backend: Backend, name: str) -> None:
    """Claim a call."""
    assert backend.idempotency is not None
    answer = await backend.idempotency.claim("call", owner=name, lease=60, ttl=600)
    say(isinstance(answer, Claimed))


async def record(backend: Backend, rules: list[Any], turns: int) -> None:
    """Record one success and one failure, so many times."""
    assert backend.circuits is not None
    for _ in range(turns):
        await backend.circuits.record("circuit", rules=CircuitRules(*rules), outcomes="01")
    say(turns)


async def probe(backend: Backend, rules: list[Any], name: str, turns: int, then: str) -> None:
    """Ask for permits to probe."""
    assert backend.circuits is not None
    probes = 0
    for turn in range(turns):
        answer = await backend.circuits.admit(
            "circuit", rules=CircuitRules(*rules), token=f"{name}-{turn}"
        )
        probes += answer.verdict is Verdict.PROBE
    say(probes)
    if then == "hang":
        await hang()


async def save(backend: Backend, lease: float) -> None:
    """Run a job: save and tell so, again and again, until killed."""
    assert backend.checkpoints is not None
    started = await backend.checkpoints.start("job", owner="runner", lease=lease, ttl=600)
    assert isinstance(started, Started)
    for number in range(1, 1_000_000):
        saved = await backend.checkpoints.save(
            "job",
            Encoded(b"%d" % number * 100),
            fence=started.fence,
            sequence=number,
            ttl=600,
            lease=lease,
        )
        say(None if saved is None else saved.sequence)


async def _finds_its_own(cache: CacheStore, name: str, turns: int) -> bool:
    """Whether it reads what it has written, each time."""
    right = True
    for turn in range(turns):
        value = Encoded(f"{name}-{turn}".encode())
        await cache.set(name, value, ttl=60)
        entry = await cache.get(name)
        right = right and entry is not None and entry.value == value
    return right


async def fork(backend: Backend, turns: int) -> None:
    """Use the backend here and, at the same time, in a forked child that inherited it open."""
    assert backend.cache is not None
    await backend.cache.set("before", Encoded(b"fork"), ttl=60)
    child = os.fork()
    if not child:
        right = False
        try:
            right = await _finds_its_own(backend.cache, "child", turns)
        finally:
            os._exit(0 if right else 1)
    right = await _finds_its_own(backend.cache, "parent", turns)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - there is no event loop here
    say([right, os.waitstatus_to_exitcode(status)])


TASKS: dict[str, Callable[..., Plan[None]]] = {
    task.__name__: task for task in (touch, count, hold, claim, record, probe, save, fork)
}


def main() -> None:
    """Do one task, in so many threads or event-loop tasks at once."""
    options = json.loads(sys.argv[1])
    plan = TASKS[options["task"]]
    backend = resolve(options["url"], options["prefix"])  # imports its driver, connects nothing
    say("ready")
    sys.stdin.readline()
    calls = [(backend, *arguments) for arguments in options["calls"]]
    if options["task"] == "fork":  # a child with a half-finished event loop is another matter
        drive(plan(*calls[0]))
    elif options["mode"] == "async":

        async def together() -> None:
            await asyncio.gather(*(adrive(plan(*call)) for call in calls))
            await backend.aclose()

        asyncio.run(together())
    else:
        threads = [threading.Thread(target=lambda c=call: drive(plan(*c))) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        backend.close()


if __name__ == "__main__":
    main()
