"""Redis through TLS."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from resilient.backends.redis import RedisBackend, from_url
from resilient.errors import BackendError
from resilient.testing.conformance import Run
from tests.support.servers import free_port


def locks(backend: RedisBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that speaks TLS; skips where none can be made."""
    folder = tmp_path_factory.mktemp("tls")
    binary, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if binary is None or openssl is None:
        pytest.skip("redis-server and openssl are needed")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    process = subprocess.Popen(
        [
            *(binary, "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                with redis.Redis.from_url(url) as client:
                    client.ping()
                break
            except redis.RedisError:
                if process.poll() is not None:
                    pytest.skip("this redis-server speaks no TLS")
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()


def test_tls(tls_server: str, run: Run) -> None:
    """Operations, large values and signals, through TLS."""
    backend = from_url(tls_server, prefix="")
    with run.closing(backend):
        cache, store = backend.require("cache"), locks(backend)
        run(cache.set("k", b"x" * 3_000_000, ttl=30))
        assert len(run(cache.get("k")).value) == 3_000_000
        run(store.acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        run(store.acquire("k", ttl=30, owner="bob", waiter=address))
        run(store.release("k", owner="ann"))
        assert run.wait(waiter, 5)
        run(store.release("k", owner="bob"))  # to whom it was handed over


def test_an_untrusted_server(tls_server: str, run: Run) -> None:
    """A certificate that nobody vouches for: no connection."""
    backend = from_url(tls_server.partition("?")[0], prefix="")
    with run.closing(backend), pytest.raises(BackendError, match="certificate"):
        run(locks(backend).acquire("k", ttl=30))
