"""Backends side by side, and backends of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resilient
from resilient import Job
from resilient.backends.postgres import from_url as postgres
from resilient.backends.redis import from_url as redis
from resilient.engine.drivers.sync import drive
from resilient.errors import BackendError, CapabilityMissing
from resilient.resolving import resolve
from tests.support.fixtures import Target
from tests.support.postgres import PostgresAt
from tests.support.servers import RedisAt

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
from custom_backend import dict_backend

def from_url(url, *, prefix):
    assert url == "mine://somewhere/0?option=1"
    backend = dict_backend()
    backend.prefix = prefix
    return backend
"""
PROGRAM = """
import resilient

backend = resilient.configure("mine://somewhere/0?option=1", prefix="shop:")
assert backend.prefix == "shop:"

@resilient.distributed_lock("k")
def locked():
    return backend.sync.locks.holder("k") is not None

@resilient.cached("{n}", ttl=60)
def computed(n):
    print("computed")
    return n

print(locked(), computed(1), computed(1), backend.sync.locks.holder("k"))
try:
    resilient.configure("other://somewhere")
except resilient.ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize("default", ["redis", "postgres"])
def test_cache_on_redis_jobs_on_postgresql(
    default: str, redis_server: RedisAt, postgres_server: PostgresAt, prefix: str
) -> None:
    """Each capability lies where it was configured to lie, and nowhere else."""

    @resilient.cached("{n}", ttl=60, namespace="squares")
    def square(n: int) -> int:
        return n * n

    @resilient.checkpointed("add-up")
    def add_up(job: Job) -> int:
        return sum(square(n) for n in job.iterate([1, 2, 3]))

    in_redis, in_postgres = redis_server.url, postgres_server.url
    with (
        resilient.using(in_redis, prefix=prefix, checkpoints=in_postgres)
        if default == "redis"
        else resilient.using(in_postgres, prefix=prefix, cache=in_redis)
    ):
        assert add_up() == 14

    for backend, keys, jobs in (
        (redis(in_redis, prefix=prefix), 3, 0),
        (postgres(in_postgres, prefix=prefix), 0, 1),
    ):
        assert len(backend.sync.cache.keys("*")) == keys
        assert (backend.sync.checkpoints.runner("add-up") is not None) is bool(jobs)
        backend.close()


def test_what_a_backend_says_of_itself(every_target: Target) -> None:
    """A lock that asks for replicas gets an answer about them just where it is said to."""
    backend = resolve(every_target.url, every_target.prefix)
    assert backend.traits is not None
    with pytest.raises(BackendError if backend.traits.replicas else CapabilityMissing):
        drive(backend.require("locks").acquire("k", ttl=30, replicas=7))
    backend.close()


def test_a_backend_of_somebody_elses_package(tmp_path: Path) -> None:
    """An installed distribution with an entry point is found by the scheme of its URLs."""
    (tmp_path / "their_backend.py").write_text(MODULE)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[resilient.backends]\nmine = their_backend:from_url\n")
    path = os.pathsep.join(map(str, (tmp_path, ROOT / "examples", ROOT)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    computed, answers, error = done.stdout.splitlines()
    assert (computed, answers) == ("computed", "True 1 1 None")
    assert "other://" in error
    assert "mine://" in error
