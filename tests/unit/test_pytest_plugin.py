"""The pytest plugin, as somebody's test suite uses it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

pytest_plugins = ["pytester"]

APPLICATION = """
from resilient import cached, distributed_lock, idempotent

calls = []

@cached("{name}", ttl="24h")
def price(name):
    calls.append(name)
    return len(calls)

@cached("{name}", ttl="24h")
async def aprice(name):
    calls.append(name)
    return len(calls)

@idempotent("settle:{order}", ttl="7d")
def settle(order):
    calls.append(order)
    return "settled"

@distributed_lock("stock")
def stock():
    calls.append("stock")
    return "taken"
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A directory with an application of somebody's."""
    pytester.makepyfile(application=APPLICATION)
    return pytester


def run(pytester: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    """Run a test module with our plugin, which pytest finds by itself once it is installed."""
    pytester.makepyfile(test_it=f"import asyncio\nfrom application import *\n{test}")
    installed = {point.name for point in metadata.entry_points(group="pytest11")}
    plugin = () if "resilient" in installed else ("-p", "resilient.testing.pytest_plugin")
    others = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    return pytester.runpytest_inprocess("-v", *others, *plugin, *options)


def test_backend_is_fresh_for_each_test(suite: pytest.Pytester) -> None:
    """Inside one test the decorators share a backend; the next test begins with an empty one."""
    test = """
def test_one(resilient_backend):
    assert price("tea") == price("tea")
    assert asyncio.run(aprice("tea")) == 2
    assert (settle(7), settle(7)) == ("settled", "settled")
    assert calls == ["tea", "tea", 7]
    assert resilient_backend.sync.locks.holder("stock") is None
    assert stock() == "taken"

def test_two(resilient_backend):
    del calls[:]
    price("tea")
    settle(7)
    assert calls == ["tea", 7]
"""
    run(suite, test).assert_outcomes(passed=2)


def test_clock(suite: pytest.Pytester) -> None:
    """The clock is moved by hand, for the decorators and for their backend alike."""
    test = """
import time

def test_clock(resilient_clock):
    began = time.monotonic()
    assert price("tea") == 1
    resilient_clock.advance("23h")
    assert price("tea") == 1
    resilient_clock.advance("2h")
    assert price("tea") == 2
    settle(7)
    resilient_clock.advance("6d")
    settle(7)
    assert calls == ["tea", "tea", 7]
    resilient_clock.advance("8d")
    settle(7)
    assert calls == ["tea", "tea", 7, 7]
    assert time.monotonic() - began < 5

def test_system_clock_is_back(resilient_backend):
    from resilient.engine import clock
    assert isinstance(clock.current, clock.SystemClock)

def test_both(resilient_backend, resilient_clock):
    resilient_backend.sync.locks.acquire("k", ttl=60, owner="me")
    assert resilient_backend.sync.locks.is_held("k", owner="me")
    resilient_clock.advance(61)
    assert not resilient_backend.sync.locks.is_held("k", owner="me")
"""
    run(suite, test).assert_outcomes(passed=3)


def test_disabled(suite: pytest.Pytester) -> None:
    """The decorators pass calls through, and need no backend for it."""
    test = """
def test_disabled(resilient_disabled):
    assert [price("tea"), price("tea")] == [1, 2]
    assert asyncio.run(aprice("tea")) == 3
    settle(7), settle(7)
    stock()
    assert calls == ["tea", "tea", "tea", 7, 7, "stock"]

def test_enabled_again(resilient_backend):
    assert price("tea") == price("tea")
"""
    run(suite, test).assert_outcomes(passed=2)


@pytest.mark.parametrize("how", ["option", "ini"])
def test_another_backend(suite: pytest.Pytester, how: str) -> None:
    """The option, or else the ini file, names another backend; tests still share nothing there."""
    url = f"sqlite:///{suite.path / 'state.db'}"
    test = """
import pytest

@pytest.mark.parametrize("turn", [1, 2])
def test_sqlite(resilient_backend, turn):
    assert type(resilient_backend).__name__ == "SqliteBackend"
    assert price("tea") == price("tea") == turn
    settle(7)
    assert len(calls) == 2 * turn
""".replace("== turn\n    settle", "== 2 * turn - 1\n    settle")
    if how == "ini":
        suite.makeini(f"[pytest]\nresilient_url = {url}")
        run(suite, test).assert_outcomes(passed=2)
    else:
        suite.makeini("[pytest]\nresilient_url = nonsense://")
        run(suite, test, "--resilient-url", url).assert_outcomes(passed=2)


def test_fixtures_tell_what_they_are(suite: pytest.Pytester) -> None:
    """`pytest --fixtures` has a line for each."""
    result = run(suite, "", "--fixtures")
    result.stdout.fnmatch_lines_random(
        [
            "resilient_backend -- *",
            "    A fresh backend, in memory, that every decorator uses during the test.",
            "resilient_clock -- *",
            "resilient_disabled -- *",
        ]
    )


def test_plugin_costs_nothing_until_it_is_used() -> None:
    """It is loaded in every run of pytest: it imports nothing of ours beyond the package itself."""
    code = """
import sys, pytest, uuid, resilient
before = set(sys.modules)
import resilient.testing.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["resilient.testing", "resilient.testing.pytest_plugin"]
