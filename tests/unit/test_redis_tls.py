"""Redis through TLS."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for localhost, beside its key; skips where none can be made."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("redis-server") is None or shutil.which("openssl") is None:
        pytest.skip("redis-server and openssl are needed")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@contextmanager
def speaking_tls(certificate: Path, *arguments: str) -> Iterator[str]:
    """A server, or a sentinel, that speaks nothing else: its URL."""
    port = free_port()
    files = ("--tls-cert-file", str(certificate), "--tls-ca-cert-file", str(certificate))
    key = ("--tls-key-file", str(certificate.with_name("key.pem")))
    process = subprocess.Popen(
        [
            *("redis-server", *arguments, "--port", "0", "--tls-port", str(port)),
            *("--tls-auth-clients", "no", "--tls-replication", "yes", *files, *key),
        ],
        stdout=subprocess.DEVNULL,
        cwd=certificate.parent,
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


@pytest.fixture(scope="module")
def tls_server(certificate: Path) -> Iterator[str]:
    """The URL of a server that speaks TLS."""
    with speaking_tls(certificate, "--save", "") as url:
        yield url


@pytest.fixture(scope="module")
def tls_sentinel(certificate: Path, tls_server: str) -> Iterator[str]:
    """The URL of that server as a sentinel finds it."""
    _, port = place_of(tls_server)
    config = certificate.with_name("sentinel.conf")
    config.write_text(
        "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
        f"sentinel monitor main localhost {port} 1\n"
    )
    with speaking_tls(certificate, str(config), "--sentinel") as url:
        host, port = place_of(url)
        yield f"rediss+sentinel://{host}:{port}/main?ssl_ca_certs={certificate}"


@pytest.fixture(scope="module")
def tls_cluster(certificate: Path) -> Iterator[str]:
    """The URL of a cluster of one server."""
    with speaking_tls(
        certificate,
        *("--save", "", "--cluster-enabled", "yes", "--tls-cluster", "yes"),
        *("--cluster-port", str(free_port()), "--cluster-announce-hostname", "localhost"),
        *("--cluster-preferred-endpoint-type", "hostname"),
    ) as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
                time.sleep(0.02)
        host, port = place_of(url)
        yield f"rediss+cluster://{host}:{port}?ssl_ca_certs={certificate}"


def place_of(url: str) -> tuple[str | None, int | None]:
    """Its host and port."""
    parts = urlsplit(url)
    return parts.hostname, parts.port


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_tls_beyond_one_server(
    kind: str, run: Run, request: pytest.FixtureRequest, prefix: str
) -> None:
    """Sentinels and clusters: operations and signals, through TLS alone."""
    backend = from_url(request.getfixturevalue(f"tls_{kind}"), prefix=prefix)
    with run.closing(backend):
        store = locks(backend)
        run(store.acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        run(store.acquire("k", ttl=30, owner="bob", waiter=address))
        run(store.release("k", owner="ann"))
        assert run.wait(waiter, 5)


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
