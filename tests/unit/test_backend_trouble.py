"""What each policy does while its backend is away: the one explicit choice, and a clear error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import (
    AsyncJob,
    BackendError,
    Job,
    cached,
    checkpointed,
    circuit_breaker,
    distributed_lock,
    idempotent,
)
from tests.support.modes import Mode
from tests.support.servers import RedisServer, free_port


@pytest.fixture(name="port", autouse=True)
def _port(mode: Mode) -> Iterator[int]:
    """A port at which nobody listens, as the configured server."""
    port = free_port()
    with resilient.using(f"redis://:s3cret@127.0.0.1:{port}/0") as backend:
        yield port
        if mode.is_async:
            mode.call(backend.aclose)


async def _body() -> str:
    return "ran"


def _job(job: Job) -> str:
    return "ran"


async def _ajob(job: AsyncJob) -> str:
    return "ran"


def policies(mode: Mode, **options: Any) -> dict[str, Any]:
    """The three policies that fail closed."""
    return {
        "lock": mode.decorate(distributed_lock("k", wait=0, **options), _body),
        "idempotent": mode.decorate(idempotent("k", ttl=60, wait=0, **options), _body),
        "checkpointed": checkpointed("k", **options)(_ajob if mode.is_async else _job),
    }


@pytest.mark.parametrize("policy", ["lock", "idempotent", "checkpointed"])
def test_what_must_be_right_fails_closed(mode: Mode, port: int, policy: str) -> None:
    """Nothing runs; the error names the server, not the password, and chains the driver's own."""
    function = policies(mode)[policy]
    with pytest.raises(BackendError, match=f"127.0.0.1:{port}") as info:
        mode.call(function)
    assert "s3cret" not in str(info.value)
    assert info.value.transient
    assert info.value.__cause__ is not None


@pytest.mark.parametrize("policy", ["lock", "idempotent", "checkpointed"])
def test_by_explicit_choice_it_runs_all_the_same(mode: Mode, policy: str) -> None:
    """`on_backend_error="run"`, and an event that says so."""
    seen: list[Any] = []
    unsubscribe = resilient.subscribe(seen.append)
    assert mode.call(policies(mode, on_backend_error="run")[policy]) == "ran"
    unsubscribe()
    trouble = [event for event in seen if isinstance(event, resilient.events.BackendTrouble)]
    assert trouble
    assert isinstance(trouble[0].error, BackendError)


def test_a_cache_and_a_breaker_do_without(mode: Mode) -> None:
    """The calls run, and after the first ones nobody pays for the server's absence."""
    for decorator in (cached(ttl=60), circuit_breaker("c")):
        function = mode.decorate(decorator, _body)
        mode.call(function)
        start = time.monotonic()
        assert [mode.call(function) for _ in range(50)] == ["ran"] * 50
        assert time.monotonic() - start < 2


def test_a_server_that_comes_back_is_used_again(mode: Mode, private_redis: RedisServer) -> None:
    """Killed and restarted in between; no call needs to know."""
    with resilient.using(private_redis.url) as backend:
        lock = policies(mode)["lock"]
        assert mode.call(lock) == "ran"
        private_redis.kill()
        with pytest.raises(BackendError):
            mode.call(lock)
        private_redis.restart()
        assert mode.call(lock) == "ran"
        if mode.is_async:
            mode.call(backend.aclose)


def test_a_wrong_password_is_not_tried_again(mode: Mode, private_redis: RedisServer) -> None:
    """An error that trying again cannot mend is raised at once."""
    with private_redis.client() as client:
        client.config_set("requirepass", "right")
    with resilient.using(f"redis://:wrong@127.0.0.1:{private_redis.port}/0") as backend:
        with pytest.raises(BackendError) as info:
            mode.call(policies(mode)["lock"])
        assert not info.value.transient
        if mode.is_async:
            mode.call(backend.aclose)
    with private_redis.client(password="right") as client:
        client.config_set("requirepass", "")


@pytest.mark.parametrize("what", ["a directory", "no database", "read-only directory"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, mode: Mode, what: str) -> None:
    """A SQLite URL that points at something else."""
    path = tmp_path / "state.db"
    if what == "a directory":
        path.mkdir()
    elif what == "no database":
        path.write_bytes(b"this is no database, and was never one" * 200)
    else:
        path = Path("/proc/nothing/state.db")
    with (
        resilient.using(f"sqlite:///{path}"),
        pytest.raises(resilient.ResilientError, match=str(path)),
    ):
        mode.call(policies(mode)["lock"])
