"""Event loops that use a server: they end in order, and share nothing with each other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

from resilient.backends.redis import from_url
from resilient.engine.backend import Backend
from resilient.engine.drivers.aio import adrive
from resilient.protocols.locks import Grant
from resilient.resolving import resolve
from tests.support.postgres import PostgresAt
from tests.support.servers import RedisAt


def locks(backend: Backend) -> Any:
    """Its locks."""
    return backend.require("locks")


PREAMBLE = """
    import asyncio, gc, logging, sys
    # How long a step of a loop takes is the machine's business.
    logging.getLogger("asyncio").addFilter(lambda record: " took " not in record.getMessage())
    if sys.argv[3:]:
        sys.modules[sys.argv[3]] = None
    from resilient.resolving import resolve
    from resilient.engine.drivers.aio import adrive
    from resilient.engine.drivers.sync import drive
    backend = resolve(sys.argv[1], sys.argv[2])
    locks = backend.locks
    """


def in_a_process(url: str, body: str, *without: str) -> str:
    """What a program prints, with every warning an error and asyncio watchful."""
    program = textwrap.dedent(PREAMBLE) + textwrap.dedent(body)
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-W", "error"),
            *("-c", program, url, uuid.uuid4().hex, *without),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


ENDINGS = {
    "a loop after the other": """
        async def main():
            print((await adrive(locks.acquire("k", ttl=30, owner="ann"))).owner)
            await asyncio.gather(*[adrive(locks.acquire(str(i), ttl=30)) for i in range(9)])
        for _ in range(3):
            asyncio.run(main())
            gc.collect()
        """,
    "closed by hand, and used again": """
        async def main():
            for _ in range(3):
                print((await adrive(locks.acquire("k", ttl=30, owner="ann"))).owner)
                await backend.aclose()
        asyncio.run(main())
        """,
    "closed while something is under way": """
        async def main():
            await adrive(locks.acquire("warm", ttl=30))
            task = asyncio.create_task(adrive(locks.acquire("k", ttl=30, owner="ann")))
            await asyncio.sleep(0)
            await backend.aclose()
            print((await task).owner)
        for _ in range(3):
            asyncio.run(main())
        """,
    "a failing main": """
        async def main():
            print((await adrive(locks.acquire("k", ttl=30, owner="ann"))).owner)
            raise RuntimeError
        for _ in range(3):
            try:
                asyncio.run(main())
            except RuntimeError:
                pass
        """,
    "tasks that are cancelled at the end": """
        async def forever():
            while True:
                await adrive(locks.acquire("k", ttl=30, owner="ann"))
        async def main():
            tasks = [asyncio.create_task(forever()) for _ in range(9)]
            await asyncio.sleep(0.05)
            print("ann")
        for _ in range(3):
            asyncio.run(main())
        """,
    "a clean-up while the loop shuts down": """
        async def steps():
            await adrive(locks.acquire("k", ttl=30, owner="ann"))
            try:
                yield
            finally:
                assert await adrive(locks.release("k", owner="ann"))
                print("ann")
        async def main():
            global kept
            kept = steps()
            await anext(kept)
        for _ in range(3):
            asyncio.run(main())
        assert drive(locks.holder("k")) is None
        backend.close()
        """,
    "a loop that never connected": """
        async def main():
            print("ann")
            task = asyncio.create_task(adrive(locks.acquire("k", ttl=30)))
            await asyncio.sleep(0)
        for _ in range(3):
            asyncio.run(main())
        """,
}


@pytest.fixture(params=["redis", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A server of either kind."""
    server: RedisAt | PostgresAt = request.getfixturevalue(f"{request.param}_server")
    return server.url


@pytest.mark.parametrize("ending", ENDINGS)
def test_loops_end_in_order(ending: str, url: str) -> None:
    """However a loop ends: no warning, no pending task, no open socket; the next one works."""
    assert in_a_process(url, ENDINGS[ending]) == "ann\n" * 3


def test_a_cancelled_task_leaves_order(url: str, prefix: str) -> None:
    """Cancelling some callers of one connection mixes up nobody's answers."""
    backend = resolve(url, prefix)

    async def main() -> None:
        await adrive(locks(backend).acquire("warm", ttl=30))
        for _ in range(20):
            plans = [locks(backend).acquire(f"k{i}", ttl=30, owner=f"o{i}") for i in range(20)]
            tasks = [asyncio.create_task(adrive(plan)) for plan in plans]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            grants = await asyncio.gather(*tasks, return_exceptions=True)
            for number, grant in enumerate(grants):
                if number % 3 == 0:
                    assert isinstance(grant, asyncio.CancelledError)
                else:
                    assert isinstance(grant, Grant)
                    assert grant.owner == f"o{number}"

    asyncio.run(main())
    backend.close()


def test_loops_in_several_threads(redis_server: RedisAt, prefix: str) -> None:
    """Each loop has its own connection, also when they run side by side."""
    backend = from_url(redis_server.url, prefix=prefix)

    async def main(name: str) -> list[str]:
        plans = [locks(backend).acquire(f"{name}{n}", ttl=30, owner=name) for n in range(50)]
        return [(await adrive(plan)).owner for plan in plans]

    def one(name: str) -> list[str]:
        return asyncio.run(main(name))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, "abcd")) == [[name] * 50 for name in "abcd"]
    backend.close()


Kind = Literal["sync", "async"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_without_hiredis(mode: Kind, redis_server: RedisAt) -> None:
    """The same without the compiled parser."""
    drives: dict[Kind, Callable[[str], str]] = {
        "sync": "drive({})".format,
        "async": "asyncio.run(adrive({}))".format,
    }
    call = drives[mode]
    program = f"""
        print({call('locks.acquire("k", ttl=30, owner="ann")')}.owner)
        {call('backend.cache.set("k", b"v" * 200000, ttl=30, tags=["red"])')}
        assert len({call('backend.cache.get("k")')}.value) == 200000
        backend.close()
        """

    assert in_a_process(redis_server.url, program, "hiredis") == "ann\n"
