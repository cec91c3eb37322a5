"""The conformance suites for a backend at a URL; each module's fixture `url` says where that is."""

from __future__ import annotations

import uuid

import pytest

from resilient.engine.backend import Backend
from resilient.resolving import resolve
from resilient.testing.conformance import Conformance, ProcessConformance

__all__ = ["AtUrl", "ProcessesAtUrl"]


PATIENCE = {
    "postgresql": "timeout=30&connect_timeout=30",
    "mongodb": "timeout=30&serverSelectionTimeoutMS=30000&connectTimeoutMS=30000",
    "redis": "socket_timeout=30&socket_connect_timeout=30",
}


def patient(url: str) -> str:
    """The URL with time for a server that is slow: it has as much to do as the machine has."""
    scheme, _, rest = url.partition("://")
    options = PATIENCE.get(scheme.partition("+")[0])
    if options is None:
        return url
    return f"{url}{'&' if '?' in rest else '?'}{options}"


class AtUrl(Conformance):
    """Random prefixes at one URL."""

    @pytest.fixture(autouse=True)
    def _at_the_url(self, url: str) -> None:
        self._url = url

    def backend(self) -> Backend:
        return resolve(patient(self._url), f"test-{uuid.uuid4().hex[:12]}:")


@pytest.mark.slow
@pytest.mark.timeout(180)
class ProcessesAtUrl(ProcessConformance):
    """Processes that meet at one URL."""

    @pytest.fixture(autouse=True)
    def _at_the_url(self, url: str) -> None:
        self._url = url

    def url(self) -> str:
        return patient(self._url)
