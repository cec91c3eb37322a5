"""A server that speaks MongoDB's protocol and that the tests start: it comes inside a wheel.

There is no real MongoDB on the package indexes. SecantusDB's `secantusd-rs` is a reimplementation:
good for atomicity, contention, errors, change streams and restarts; not for what MongoDB's own
replication does. `MONGODB_URI` has the same tests run on a real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from resilient.testing.faults import FaultProxy
from tests.support.servers import PortTaken, ServerDidNotStart, start_on_a_port

__all__ = ["MongoAt", "MongoServer", "mongo_server", "through"]

START_TIMEOUT = 20.0


class MongoAt:
    """A server at an address; whose it is does not matter."""

    def __init__(self, url: str = "") -> None:
        self.url = url

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A new blocking client; `with` closes it."""
        return MongoClient(self.url, **options)

    @contextlib.contextmanager
    def database(self) -> Iterator[MongoAt]:
        """An empty database for the length of the block."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        base, mark, options = self.url.partition("?")
        scheme, _, rest = base.partition("://")
        try:
            yield MongoAt(f"{scheme}://{rest.partition('/')[0]}/{name}{mark}{options}")
        finally:
            with self.client() as client:
                client.drop_database(name)


class MongoServer(MongoAt):
    """One server process of our own, with data in a directory of its own."""

    def __init__(self, *, standalone: bool = False) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="rsl-mongo-"))
        self.port = 0
        self._standalone = standalone
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; after a kill, on the same port with its data."""
        start_on_a_port(self._start_on, self.port)

    def kill(self) -> None:
        """SIGKILL the server, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the process without ending it: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its directory."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)

    def _start_on(self, port: int) -> None:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        # The size: with the default one, a restart after a kill takes ten seconds.
        command = [
            *(str(_binary()), "--port", str(port), "--storage-path", str(data)),
            *("--sync-on-commit", "--log-file-max", "64MB", "--cache-size", "256M"),
            *(["--standalone"] if self._standalone else []),
        ]
        logged_before = len(self._log())
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        url = f"mongodb://127.0.0.1:{port}/resilient"
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                said = self._log()[logged_before:]
                kind = PortTaken if "in use" in said.lower() else ServerDidNotStart
                raise kind(f"the server on port {port} ended at once:\n{said}")
            if _answers(url):
                self._process, self.port, self.url = process, port, url
                return
            time.sleep(0.02)
        process.kill()
        process.wait()
        raise ServerDidNotStart(f"the server on port {port} did not answer:\n{self._log()}")

    def _log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""


def _answers(url: str) -> bool:
    try:
        with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=200) as client:
            return bool(client.admin.command("ping")["ok"])
    except PyMongoError:
        return False


def _binary() -> Path:
    """Where the wheel's server is; the test is skipped where there is no such wheel."""
    with contextlib.suppress(PackageNotFoundError):
        for file in files("secantusdb") or ():
            if file.name == "secantusd-rs":
                return Path(os.path.normpath(str(file.locate())))
    if sys.platform == "linux" and sys.version_info < (3, 14):
        raise ServerDidNotStart("secantusd-rs is not installed (SecantusDB)")
    pytest.skip("SecantusDB has no wheel for this Python: set MONGODB_URI")


@contextlib.contextmanager
def mongo_server(*, standalone: bool = False) -> Iterator[MongoServer]:
    """A server for the length of the block; `standalone`: without change streams."""
    server = MongoServer(standalone=standalone)
    try:
        server.start()
        yield server
    finally:
        server.close()


def through(proxy: FaultProxy, options: str = "") -> str:
    """The URL of a network; else a client would find the server itself behind it."""
    return f"{proxy.url}?directConnection=true{options}"
