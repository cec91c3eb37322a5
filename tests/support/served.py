"""Fixtures for tests of a backend on a server: the fixture `url` of their module says on which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.engine.backend import Backend
from resilient.resolving import resolve
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy


@pytest.fixture
def served(run: Run, url: str, prefix: str) -> Iterator[Backend]:
    """A backend there, under a prefix of its own."""
    backend = resolve(url, prefix)
    with run.closing(backend):
        yield backend


@pytest.fixture
def proxy(url: str) -> Iterator[FaultProxy]:
    """A network in front of the server."""
    with FaultProxy(url) as proxy:
        yield proxy
