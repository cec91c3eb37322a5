"""A real PgBouncer that the tests start where it is installed (`apt-get install pgbouncer`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.support.servers import ServerDidNotStart, free_port

__all__ = ["installed", "pgbouncer"]

START_TIMEOUT = 10.0
SETTINGS = """\
[databases]
* = host={host} port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {sessions}
max_client_conn = 500
"""


def installed() -> str | None:
    """Where the program is, or `None`."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def pgbouncer(url: str, *, sessions: int, mode: str = "transaction") -> Iterator[str]:
    """A pooler with so few sessions in front of a server; its URL."""
    with tempfile.TemporaryDirectory(prefix="rsl-bouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text('"postgres" ""\n')
        try:
            place, process = _start(url, folder, sessions, mode)
        except ServerDidNotStart:  # somebody else may have taken the port
            place, process = _start(url, folder, sessions, mode)
        try:
            yield place
        finally:
            process.kill()
            process.wait()


def _start(url: str, folder: Path, sessions: int, mode: str) -> tuple[str, subprocess.Popen[bytes]]:
    program = installed()
    assert program is not None
    parts, port = urlsplit(url), free_port()
    settings = {"host": parts.hostname, "server": parts.port, "port": port}
    text = SETTINGS.format(users=folder / "users", sessions=sessions, mode=mode, **settings)
    (folder / "settings").write_text(text)
    # It refuses to run as root.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [program, "-q", *user, str(folder / "settings")], stderr=subprocess.DEVNULL
    )
    place = parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
    try:
        _await(place, process)
    except ServerDidNotStart:
        process.kill()
        process.wait()
        raise
    return place, process


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
            return
        time.sleep(0.02)
    raise ServerDidNotStart("PgBouncer did not answer")
