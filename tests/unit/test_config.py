"""Which backend a policy uses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import config, distributed_lock
from resilient.backends.memory import MemoryBackend
from resilient.engine.backend import adopt
from resilient.errors import CapabilityMissing, ConfigurationError
from resilient.resolving import resolve
from tests.support.servers import RedisAt


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(config, "_configured", None)
    monkeypatch.setattr(config, "_prefix", "")
    monkeypatch.delenv("RESILIENT_URL", raising=False)
    monkeypatch.delenv("RESILIENT_PREFIX", raising=False)
    config._changed()
    yield
    resilient.close()


def owner_of(backend: resilient.Backend, key: str) -> Any:
    """Who holds a lock of a backend."""
    return backend.sync.locks.holder(key)


def test_the_default_is_sqlite_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`configure()` needs no server, and survives the process."""
    monkeypatch.chdir(tmp_path)
    resilient.configure()
    assert not (tmp_path / ".resilient").exists(), "nothing is opened before the first use"
    with resilient.lock("k"):
        pass
    assert (tmp_path / ".resilient" / "state.db").exists()


def test_the_environment_names_url_and_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RESILIENT_URL` and `RESILIENT_PREFIX` are what `configure()` falls back to."""
    monkeypatch.setenv("RESILIENT_URL", "memory://")
    monkeypatch.setenv("RESILIENT_PREFIX", "billing:")
    backend = resilient.configure()
    assert isinstance(backend, MemoryBackend)
    assert config._prefix == "billing:"


def test_a_capability_may_have_a_backend_of_its_own(tmp_path: Path) -> None:
    """`cache=`, `locks=` and so on; the same URL twice is one backend."""
    path = f"sqlite:///{tmp_path / 'jobs.db'}"
    default = resilient.configure("memory://", checkpoints=path, idempotency=path)
    active = config._configured
    assert active is not None
    assert active.get("locks") is default
    assert active.get("checkpoints") is active.get("idempotency")
    assert active.get("checkpoints") is not default


def test_using_swaps_every_thread_and_task_and_is_fresh() -> None:
    """Nested and one after the other, each has a store of its own."""
    outer_default = resilient.configure("memory://")

    @distributed_lock("k")
    def where() -> list[bool]:
        return [owner_of(each, "k") is not None for each in seen]

    seen: list[resilient.Backend] = [outer_default]
    with resilient.using("memory://") as outer:
        seen.append(outer)
        assert where() == [False, True]
        with resilient.using("memory://") as inner:
            seen.append(inner)
            answers: list[list[bool]] = []
            thread = threading.Thread(target=lambda: answers.append(where()))
            thread.start()
            thread.join()
            assert answers == [[False, False, True]]
        assert where() == [False, True, False]
    assert where() == [True, False, False]


def test_using_may_be_narrowed_to_the_context() -> None:
    """Two tasks use two backends at the same time."""
    resilient.configure("memory://")

    @distributed_lock("k", wait=0)
    async def meet(barrier: asyncio.Barrier) -> None:
        await barrier.wait()

    async def task(barrier: asyncio.Barrier) -> None:
        with resilient.using("memory://", scope="context"):
            await meet(barrier)

    async def main() -> None:
        barrier = asyncio.Barrier(2)
        await asyncio.gather(task(barrier), task(barrier))

    asyncio.run(main())
    wrong: Any = "thread"
    with (
        pytest.raises(ConfigurationError, match="thread"),
        resilient.using("memory://", scope=wrong),
    ):
        pass


def test_the_epoch_tells_whether_what_was_remembered_still_holds() -> None:
    """Another number after every change; -1 while it depends on the context."""
    resilient.configure("memory://")
    before = config.epoch
    with resilient.using("memory://"):
        within = config.epoch
        with resilient.using("memory://", scope="context"):
            assert config.epoch == -1
        with config.disabled():
            assert config.epoch == -1
    assert len({before, within, config.epoch}) == 3


def test_what_is_shown_under_one_configuration_is_hidden_by_the_next() -> None:
    """A view is shown only under the epoch in force, and hidden by whatever changes it."""

    class View:
        def __init__(self) -> None:
            self.told: list[str] = []

        def show(self) -> None:
            self.told.append("show")

        def hide(self) -> None:
            self.told.append("hide")

    resilient.configure("memory://")
    view, epoch = View(), config.epoch
    config.show_until_changed(epoch, view, view.show)
    assert view.told == ["show"]
    with resilient.using("memory://"):
        assert view.told == ["show", "hide"]
        config.show_until_changed(epoch, view, view.show)
        assert view.told == ["show", "hide"]
        config.show_until_changed(config.epoch, view, view.show)
        assert view.told == ["show", "hide", "show"]
    assert view.told == ["show", "hide", "show", "hide"]


def test_a_decorators_own_backend_wins() -> None:
    """`backend=` is kept under `using`, and shared by those who name the same URL."""
    own = MemoryBackend()

    @distributed_lock("k", backend=own)
    def held() -> bool:
        return owner_of(own, "k") is not None

    with resilient.using("memory://"):
        assert held()
    first = config.Source("locks", "lock", backend="memory://").backend()
    assert first is config.Source("locks", "lock", backend="memory://").backend()


def test_an_object_with_the_attributes_is_a_backend() -> None:
    """It need not subclass anything, and may offer some capabilities only."""

    class Mine:
        name = "mine"
        locks = MemoryBackend().locks
        closed = False

        def close(self) -> None:
            self.closed = True

    mine = Mine()
    with resilient.using(mine):
        with resilient.lock("k"):
            pass
        with pytest.raises(CapabilityMissing, match="mine offers no idempotency"):
            resilient.idempotent("k", ttl=5)(lambda: None)
    adopt(mine).close()
    assert mine.closed
    with pytest.raises(CapabilityMissing, match="checkpoints"):
        resilient.configure("memory://", checkpoints=mine)


def test_a_sync_function_on_an_async_only_backend_is_refused_when_decorated() -> None:
    """And an async one works, with ordinary awaitables in the backend's methods."""

    class Slow:
        """Locks that really suspend."""

        def __init__(self) -> None:
            self._locks: Any = MemoryBackend().locks

        def __getattr__(self, name: str) -> Any:
            async def method(*args: Any, **kwargs: Any) -> Any:
                await asyncio.sleep(0.001)
                return await getattr(self._locks, name)(*args, **kwargs)

            return method

    class Mine:
        name = "loops only"
        modes = frozenset({"async"})
        locks = Slow()

    async def body() -> str:
        await asyncio.sleep(0.5)
        assert not resilient.current_lease().lost
        return "done"

    mine = Mine()
    with pytest.raises(CapabilityMissing, match="loops only serves async callers only"):
        distributed_lock("k", backend=mine)(lambda: None)

    async def main() -> tuple[str, str]:
        locked = distributed_lock("k", ttl=0.3, wait=5, backend=mine)(body)
        first, second = await asyncio.gather(locked(), locked())
        return first, second

    assert asyncio.run(main()) == ("done", "done")


def test_a_sync_call_of_a_store_that_suspends_is_a_clear_error() -> None:
    """A backend that did not declare its mode is found out at the first call."""

    class Suspending:
        async def acquire(self, key: str, **options: Any) -> Any:
            await asyncio.sleep(0)

        release = acquire

    class Mine:
        locks = Suspending()

    with (
        resilient.using(Mine()),
        pytest.raises(CapabilityMissing, match="event loop"),
        resilient.lock("k"),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("nosuch://x", "nosuch"),
        ("redis//localhost", "redis"),
        ("", "scheme"),
        ("memory://host", "memory"),
        ("sqlite://", "sqlite"),
        ("sqlite:///x.db?nosuch=1", "nosuch"),
        ("redis://localhost:port", "redis"),
    ],
)
def test_a_wrong_url_is_a_configuration_error(url: str, named: str) -> None:
    """Before anything is connected, and naming what is wrong."""
    with pytest.raises(ConfigurationError, match=named):
        resilient.configure(url)


def test_a_password_is_never_shown() -> None:
    """Not in the error about the URL it is part of."""
    for url in ("nosuch://user:s3cret@host", "redis://user:s3cret@host:port"):
        with pytest.raises(ConfigurationError) as info:
            resilient.configure(url)
        assert "s3cret" not in str(info.value)


@pytest.mark.parametrize("wrong", [5, object(), lambda: None])
def test_what_is_no_backend_is_refused(wrong: Any) -> None:
    """A number, an object without a capability, a function."""
    with pytest.raises(ConfigurationError):
        resilient.configure(wrong)


def test_the_option_that_is_no_backend_is_named() -> None:
    """A capability's own one, or the prefix."""
    with pytest.raises(ConfigurationError, match=r"^cache=5 is neither a URL"):
        resilient.configure("memory://", cache=5)
    prefix: Any = 5
    with pytest.raises(ConfigurationError, match=r"^prefix=5 is not a text"):
        resilient.configure("memory://", prefix=prefix)


@pytest.mark.parametrize("max_ttl", [-1, 0, None, "soon"])
def test_max_ttl_is_a_duration(max_ttl: Any) -> None:
    """Nothing is kept for ever."""
    with pytest.raises(ConfigurationError, match="max_ttl"):
        resilient.configure("memory://", max_ttl=max_ttl)


def test_using_has_no_other_options() -> None:
    """A misspelt capability is named."""
    with (
        pytest.raises(ConfigurationError, match="lockz"),
        resilient.using("memory://", lockz="memory://"),
    ):
        pass


def test_ready_clients_are_accepted(redis_server: RedisAt, prefix: str) -> None:
    """A `redis.Redis`, a `redis.asyncio.Redis`, or both: sync and async callers are served."""
    import redis
    import redis.asyncio

    blocking = redis.Redis.from_url(redis_server.url, decode_responses=True)
    awaiting = redis.asyncio.Redis.from_url(redis_server.url)
    given: list[Any] = [blocking, awaiting, (blocking, awaiting)]

    async def use() -> int:
        async with resilient.lock("k") as lease:
            fence = lease.fence
        await resilient.aclose()
        return fence

    for client in given:
        with resilient.using(client, prefix=prefix) as backend:
            with resilient.lock("k") as lease:
                assert blocking.exists(f"{prefix}lock:k")
            assert asyncio.run(use()) > lease.fence
            backend.close()
    blocking.close()


def test_close_gives_back_and_the_next_use_opens_again() -> None:
    """No thread is left; the backend works on."""
    before = set(threading.enumerate())
    resilient.configure("memory://")
    with resilient.lock("k"):
        assert set(threading.enumerate()) > before
    resilient.close()
    assert set(threading.enumerate()) <= before
    with resilient.lock("k"):
        pass


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "mongodb", "nosuch"])
def test_no_message_tells_a_password(scheme: str) -> None:
    """Neither that of the user nor one in the query is in what an error says of a URL."""
    url = f"{scheme}://ann:secret@host:port/0?password=secret&no_such_option=1"
    with pytest.raises(ConfigurationError) as caught:
        resolve(url)
    assert "secret" not in str(caught.value)
