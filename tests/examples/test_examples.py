"""Every example runs, in a directory of its own, and shows its point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fixtures import Target, with_fleets

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HELPERS = {"display", "flaky_service", "import_airports", "test_swapping"}
"""The main job and its parts have tests of their own, in `test_import_airports.py`."""

SHOWN = {
    "breaker": ["ConnectionError: no route", "CircuitOpen: the circuit 'payments'", "charged 7"],
    "cache": ["computed: ['profile 7']", "51 calls: ['square 3', 'square 3.0']"],
    "checkpoints": ["power cut at 67 %", "the sum is 66", "row once: [0, 1, 2, 3, 4, 5, 6, 7, 8,"],
    "custom_backend": ["monday, written under fence", "Entry(value='hello'"],
    "idempotency": ["10 requests at once: 1 charge", "declined: 1000 is too much"],
    "limits": ["a euro is 1.08", "of 2 at a time", "'report 4'", "refused: inventory"],
    "lock": ["one at a time:  20", "the other was refused"],
    "payments_api": [
        "meanwhile: 409 Request is running, retry after 1 s",
        '{"payment":1,"amount":5}, replayed',
        "422 Idempotency-Key is used already",
        "400 Idempotency-Key is missing",
        "payments: ['5', '7']",
    ],
    "retry": ["attempt 2 failed", "the page at https://example.org/async", "not retried"],
    "swap_backend": ["memory", "sqlite", "6 calls of the functions"],
}


def run(*command: str, cwd: Path, **env: str) -> str:
    """What a command prints that must succeed, with every warning an error."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RESILIENT_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(EXAMPLES.parent), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_no_example_is_forgotten() -> None:
    """What each small example has to show is written down here."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SHOWN.keys() | HELPERS


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_example(name: str, tmp_path: Path) -> None:
    """A small example shows its point."""
    output = run(str(EXAMPLES / f"{name}.py"), cwd=tmp_path)
    assert [text for text in SHOWN[name] if text not in output] == []


def test_small_examples_leave_nothing_behind(tmp_path: Path) -> None:
    """They write no file."""
    run(str(EXAMPLES / "swap_backend.py"), cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@with_fleets
def test_swapping_the_backend(tmp_path: Path, every_target: Target) -> None:
    """What changes from one backend to another is one line; the answers and the calls are equal."""
    output = run(str(EXAMPLES / "swap_backend.py"), cwd=tmp_path, RESILIENT_URL=every_target.url)
    memory, sqlite, chosen = [line.split(maxsplit=1) for line in output.splitlines()]
    assert chosen[0] == every_target.url.partition(":")[0]
    assert memory[1] == sqlite[1] == chosen[1]
    assert chosen[1].endswith("6 calls of the functions")


@with_fleets
def test_the_service_on_every_backend(tmp_path: Path, every_target: Target) -> None:
    """The web service is unchanged, the URL is another: its clients see the same."""
    where = {"RESILIENT_URL": every_target.url, "RESILIENT_PREFIX": every_target.prefix}
    output = run(str(EXAMPLES / "payments_api.py"), cwd=tmp_path, **where)
    assert [text for text in SHOWN["payments_api"] if text not in output] == []


def test_swapping_the_backend_in_a_test(tmp_path: Path) -> None:
    """The example of a test passes as a test."""
    output = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
        str(EXAMPLES / "test_swapping.py"), cwd=tmp_path,
    )  # fmt: skip
    assert "3 passed" in output
