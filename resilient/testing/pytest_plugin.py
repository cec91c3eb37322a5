"""Fixtures for tests of code that uses the decorators; pytest finds them by itself.

    def test_settles_once(resilient_backend):
        settle(7)
        settle(7)
        assert settled == [7]

    def test_price_is_fresh_the_day_after(resilient_clock):
        price("tea")
        resilient_clock.advance("24h")
        ...

pytest loads this file in every run: what it needs is imported by the fixtures, not here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.engine.clock import ManualClock

__all__ = ["resilient_backend", "resilient_clock", "resilient_disabled"]

MEMORY = "memory://"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where `resilient_backend` keeps its state."""
    text = "the backend of the fixture resilient_backend (default: memory://)"
    parser.getgroup("resilient").addoption("--resilient-url", metavar="URL", help=text)
    parser.addini("resilient_url", help=text, default=MEMORY)


@pytest.fixture
def resilient_backend(pytestconfig: pytest.Config) -> Iterator[Backend]:
    """A fresh backend, in memory, that every decorator uses during the test.

    `--resilient-url` or the ini option `resilient_url` names another one; each test has a prefix of
    its own there. A decorator that names a `backend=` keeps it.
    """
    from resilient.config import using

    url = pytestconfig.getoption("--resilient-url") or pytestconfig.getini("resilient_url")
    with using(url, prefix=f"pytest-{uuid.uuid4().hex[:12]}:") as backend:
        yield backend


@pytest.fixture
def resilient_clock(resilient_backend: Backend) -> Iterator[ManualClock]:
    """A clock that stands still but for `resilient_clock.advance("24h")`, and a fresh backend.

    What sleeps or waits moves it on, and takes no time. A server keeps to its own clock.
    """
    from resilient.engine import clock

    manual = clock.ManualClock(clock.now())
    with clock.installed(manual):
        yield manual


@pytest.fixture
def resilient_disabled() -> Iterator[None]:
    """Every decorator passes its calls through, as if it were not there."""
    from resilient.config import disabled

    with disabled():
        yield
