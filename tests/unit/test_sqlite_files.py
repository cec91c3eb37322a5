"""The file of the SQLite backend: how a URL names it, and what may be wrong with it."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.errors import BackendError, CodecError, ConfigurationError
from resilient.protocols.locks import Grant, Held
from resilient.protocols.values import Encoded
from tests.support.processes import run_all
from tests.support.sqlite import acquire


@pytest.fixture(name="backend")
def _backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path)
    yield backend
    backend.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///state.db", "{cwd}/state.db"),
        ("sqlite:///./.resilient/state.db", "{cwd}/.resilient/state.db"),
        ("sqlite:////var/lib/state.db", "/var/lib/state.db"),
        ("sqlite:////tmp/with%20space%3F%23.db", "/tmp/with space?#.db"),
    ],
)
def test_url_names_a_file(url: str, path: str) -> None:
    """Three slashes and a relative path, or four and an absolute one, percent-decoded."""
    assert from_url(url, prefix="").path == path.format(cwd=os.getcwd())


def test_relative_path_is_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the working directory does not move the file."""
    monkeypatch.chdir(tmp_path)
    backend = from_url("sqlite:///state.db", prefix="")
    monkeypatch.chdir("/")
    acquire(backend, "k")
    backend.close()
    assert (tmp_path / "state.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://state.db", "three slashes"),
        ("sqlite://host/state.db", "three slashes"),
        ("sqlite:///x.db?cache=shared", "unknown option cache"),
        ("sqlite:///x.db?timeout=-1", "timeout"),
        ("sqlite:///x.db?timeout=soon", "timeout"),
        ("sqlite:///x.db?timeout=nan", "timeout"),
        ("sqlite:///x.db?synchronous=off", "synchronous='off': it is 'normal' or 'full'"),
        ("sqlite:///x.db?synchronous=", "synchronous=''"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    """A URL that names no file, or an option that there is not, is refused and says why."""
    with pytest.raises(ConfigurationError, match=message):
        from_url(url, prefix="")


@pytest.mark.parametrize(("text", "expected"), [("2.5", 2.5), ("500ms", 0.5)])
def test_timeout_option(text: str, expected: float) -> None:
    """`?timeout=` is a duration."""
    backend = from_url(f"sqlite:///x.db?timeout={text}", prefix="")
    assert backend._transport._database.timeout == expected


@pytest.mark.parametrize(("option", "level"), [("", 1), ("?synchronous=full", 2)])
def test_synchronous_option(path: Path, option: str, level: int) -> None:
    """All connections commit as durably as the URL says: those that are kept, and the next ones."""
    backend = from_url(f"sqlite:///{path}{option}", prefix="")
    database = backend._transport._database
    with (
        database.connection() as first,
        database.connection() as second,
        closing(database.open()) as third,  # as that which looks for signals
    ):
        for connection in (first, second, third):
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    backend.close()


def test_synchronous_argument(path: Path) -> None:
    """It is looked at when the backend is made, before there is a file."""
    wrong: Any = "extra"
    with pytest.raises(ConfigurationError, match="synchronous='extra': it is 'normal' or 'full'"):
        SqliteBackend(path, synchronous=wrong)
    assert SqliteBackend(path, synchronous="full")._transport._database.synchronous == "full"
    assert not path.exists()


def test_a_directory(tmp_path: Path) -> None:
    """A directory in the place of the file is named."""
    with pytest.raises(ConfigurationError, match=f"{tmp_path} is a directory"):
        acquire(SqliteBackend(tmp_path), "k")


def test_not_a_database(path: Path) -> None:
    """Another kind of file is named, and left alone."""
    content = b"A letter to the editor.\n" * 200
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"state\.db.*not a SQLite database"):
        acquire(SqliteBackend(path), "k")
    assert path.read_bytes() == content


def test_a_file_where_a_directory_must_be(path: Path) -> None:
    """A path through a file is named."""
    path.write_text("x")
    with pytest.raises(ConfigurationError, match=r"state\.db"):
        acquire(SqliteBackend(path / "deeper.db"), "k")


def test_another_programs_database(path: Path) -> None:
    """Somebody else's tables are never mixed with ours: the file stays as it is, to the byte."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (id INTEGER)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"state\.db is another program's database"):
        acquire(SqliteBackend(path), "k")
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [1, 99])
def test_another_version(backend: SqliteBackend, path: Path, version: int) -> None:
    """Tables of an earlier version, or of one that is not known, are not touched."""
    acquire(backend, "k")
    backend.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(ConfigurationError, match=f"of version {version}, and this one knows 2"):
        acquire(backend, "k")


def test_a_record_that_does_not_read(backend: SqliteBackend, path: Path) -> None:
    """A damaged record is an error of our tree, not of the decoder's."""
    acquire(backend, "k")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE clustered SET data = ?", (b"\xc1",))
    connection.close()
    with pytest.raises(CodecError, match="'lock'"):
        acquire(backend, "k", "bob")


def test_text_that_is_none(backend: SqliteBackend) -> None:
    """A key with a lone surrogate has no stored form, and that is said."""
    with pytest.raises(ConfigurationError, match="no text that can be stored"):
        acquire(backend, "\ud800")
    assert isinstance(acquire(backend, "k"), Grant)


def fill_the_disk(path: str) -> list[str]:
    """Write until the file may not grow any more, then with room again."""
    import resource

    backend = SqliteBackend(path)
    cache = backend.cache
    assert cache is not None
    drive(cache.set("first", Encoded(b"1"), ttl=60))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    found = []
    try:
        for number in range(100):
            drive(cache.set(f"big{number}", Encoded(b"x" * 20_000), ttl=60))
    except BackendError as error:
        found.append(str(error))
        found.append(str(error.transient))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    drive(cache.set("last", Encoded(b"2"), ttl=60))
    for key in ("first", "last"):
        entry = drive(cache.get(key))
        found.append(entry.value.decode() if entry else "lost")
    backend.close()
    return found


@pytest.mark.process
def test_no_room_left(path: Path) -> None:
    """A write that finds no room is a `BackendError` that names the file; later ones work again."""
    ((message, transient, *values),) = run_all(fill_the_disk, [(str(path),)])
    assert str(path) in message
    assert transient == "False"
    assert values == ["1", "2"]


def test_removed_while_open(backend: SqliteBackend, path: Path) -> None:
    """When the file is removed, everybody begins anew in the next one: nobody keeps the old."""
    other = SqliteBackend(path)
    assert isinstance(acquire(backend, "k"), Grant)
    assert isinstance(acquire(other, "k", "bob"), Held)
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        path.with_name(name).unlink()
    assert isinstance(acquire(other, "k", "bob"), Grant)
    assert isinstance(acquire(backend, "k"), Held)
    other.close()
