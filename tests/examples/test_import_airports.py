"""The main job: killed, stopped, refused or repeated, its result is the same to the byte."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.fixtures import Target, everywhere, with_fleets
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1500
KILLS = 5
NOTHING_DONE = "  0 % "
LEFT_BY_CTRL_C = "ignore:unclosed <socket:ResourceWarning"
"""`socket.create_connection` leaves it to the collector when it is interrupted; sockets of ours are
looked for by other tests."""
NOBODY = "http://127.0.0.1:1"
"""A service that would be down, if it were asked."""


class Importer:
    """The example as a user runs it: in a directory, with a backend in the environment."""

    def __init__(self, directory: Path, target: Target | None = None) -> None:
        self.directory = directory
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RESILIENT_")}
        self._env = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        if target is not None:
            self._env |= {"RESILIENT_URL": target.url, "RESILIENT_PREFIX": target.prefix}

    @contextlib.contextmanager
    def started(
        self, *options: str, ignored: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Start it; killed at the end if it is still there."""
        options = options or ("--delay", "0.04", "--outage", "0")
        with subprocess.Popen(
            [
                sys.executable,
                *("-W", "error", *(f"-W{each}" for each in ignored)),
                str(ROOT / "examples" / "import_airports.py"),
                *("--limit", str(LIMIT), *options),
            ],
            cwd=self.directory,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *options: str, expect: int = 0) -> str:
        """Run it to its end; what it prints."""
        with self.started(*(options or ("--delay", "0"))) as process:
            output, _ = process.communicate(timeout=50)
        assert process.returncode == expect, output
        assert "Traceback" not in output
        return output

    def result(self) -> bytes:
        """The result database, in the form that depends on nothing but its content."""
        copy = self.directory / "copy.db"
        copy.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self.directory / "airports.db")) as database:
            database.execute("VACUUM INTO ?", [str(copy)])
        return copy.read_bytes()


def await_progress(process: subprocess.Popen[str], *, some_done: bool = False) -> str:
    """Wait until the job is in its loop, or has done a part of it; what was printed until then."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if " batches" in line and not (some_done and line.startswith(NOTHING_DONE)):
            return output
    raise AssertionError(f"it has ended: {output}")


def summary(output: str) -> str:
    """What it says of the result, which is the same each time."""
    return output.partition("Done: ")[2].splitlines()[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """The result of a run that nobody disturbs, and what it says of it."""
    importer = Importer(tmp_path_factory.mktemp("undisturbed"))
    output = importer.run("--delay", "0", "--failures", "0", "--outage", "0")
    return importer.result(), summary(output)


@pytest.fixture
def importer(tmp_path: Path) -> Importer:
    """On the embedded default: nothing in the environment, nothing on disk."""
    return Importer(tmp_path)


@pytest.mark.process
@everywhere
def test_killed_at_random_moments(
    shared_target: Target, tmp_path: Path, undisturbed: tuple[bytes, str]
) -> None:
    """After five SIGKILLs it goes on each time at once, and the result is an undisturbed run's."""
    importer = Importer(tmp_path, shared_target)
    chance = random.Random()
    for attempt in range(1, KILLS + 1):
        with importer.started() as process:
            output = await_progress(process)
            assert (f"attempt {attempt}: going on" in output) == (attempt > 1)
            time.sleep(chance.uniform(0, 0.25))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    output = importer.run()
    assert f"attempt {KILLS + 1}: going on" in output
    assert (importer.result(), summary(output)) == undisturbed


@pytest.mark.process
def test_killed_while_it_starts(importer: Importer, undisturbed: tuple[bytes, str]) -> None:
    """SIGKILLs before, in and after the first moments of the job do no harm either."""
    chance = random.Random()
    for _ in range(KILLS):
        with importer.started() as process:
            time.sleep(chance.uniform(0.2, 0.8))
            process.kill()
    assert summary(importer.run()) == undisturbed[1]
    assert importer.result() == undisturbed[0]


@with_fleets
def test_the_same_on_every_backend(
    every_target: Target, tmp_path: Path, undisturbed: tuple[bytes, str]
) -> None:
    """The program is unchanged, the URL is another: the result is the same, byte for byte."""
    importer = Importer(tmp_path, every_target)
    output = importer.run()
    assert (importer.result(), summary(output)) == undisturbed
    if every_target.kind != "memory":  # which knows nothing of an earlier process
        assert "Done before" in importer.run("--service", NOBODY)


@pytest.mark.process
def test_interrupted(shared_target: Target, tmp_path: Path) -> None:
    """Ctrl-C ends it with one line and exit code 130, and it goes on where it stopped."""
    importer = Importer(tmp_path, shared_target)
    with importer.started("--delay", "0.2", ignored=[LEFT_BY_CTRL_C]) as process:
        await_progress(process, some_done=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "Stopped. What is done is saved: run it again to go on."
    assert "Traceback" not in output
    again = importer.run()
    assert "attempt 2: going on" in again
    assert NOTHING_DONE not in again


@pytest.mark.process
def test_two_at_once(shared_target: Target, tmp_path: Path) -> None:
    """The second importer says who is at work, and goes on at once when that one is killed."""
    importer = Importer(tmp_path, shared_target)
    with importer.started() as first:
        await_progress(first)
        output = importer.run(expect=1)
        assert "Another importer is at work" in output
        assert f"held by pid {first.pid} on " in output
    assert "attempt 2: going on" in importer.run()


def test_done_before(shared_target: Target, tmp_path: Path) -> None:
    """Run again when it is done, it answers what is stored, and asks the service nothing."""
    importer = Importer(tmp_path, shared_target)
    first = importer.run().splitlines()[-2:]
    again = importer.run("--service", NOBODY).splitlines()[-2:]
    assert again[0] == first[0].replace("Done: ", "Done before: ")
    assert again[1].partition("asked again.")[2] == first[1].partition("asked again.")[2]


def test_anew(importer: Importer, undisturbed: tuple[bytes, str]) -> None:
    """It begins anew with `--fresh`, and when the result is gone; not with other arguments."""
    importer.run()
    assert "--fresh begins anew" in importer.run("--limit", "100", expect=1)
    assert "Done: 100 airports" in importer.run("--limit", "100", "--fresh")
    (importer.directory / "airports.db").unlink()
    assert summary(importer.run()) == undisturbed[1]
    assert importer.result() == undisturbed[0]


@pytest.mark.process
def test_service_goes_away(importer: Importer, undisturbed: tuple[bytes, str]) -> None:
    """It gives up when the service is down for good, and goes on when that is back."""
    port = free_port()
    with flaky_service(port) as service:
        url = f"http://127.0.0.1:{port}"
        with importer.started("--service", url) as process:
            await_progress(process)
            service.kill()
            output, _ = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "closed → open" in output
    assert "The service is down" in output.splitlines()[-2]
    output = importer.run()
    assert (importer.result(), summary(output)) == undisturbed


@contextlib.contextmanager
def flaky_service(port: int) -> Iterator[subprocess.Popen[str]]:
    """The service by itself, as a user starts it."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "flaky_service.py"), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            assert "serving at" in service.stdout.readline()
            yield service
        finally:
            service.kill()


def test_bad_surroundings(tmp_path: Path) -> None:
    """A server that is not there, an unknown URL, a file that cannot be: one clear line each."""
    importer = Importer(tmp_path, Target("redis", "redis://127.0.0.1:1/0", ""))
    assert "127.0.0.1:1" in importer.run(expect=1)
    importer = Importer(tmp_path, Target("none", "carrier-pigeon://", ""))
    assert "no known scheme" in importer.run(expect=1)
    importer = Importer(tmp_path)
    assert "unable to open database file" in importer.run("--output", "no/where.db", expect=1)


def test_help(importer: Importer) -> None:
    """`--help` names every option."""
    output = importer.run("--help")
    options = ("output", "limit", "fresh", "service", "delay", "failures", "outage", "seed")
    assert [option for option in options if f"--{option} " not in output] == []
