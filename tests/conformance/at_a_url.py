"""The conformance suites for a backend at a URL; each module's fixture `url` says where that is."""

from __future__ import annotations

import uuid

import pytest

from resilient.engine.backend import Backend
from resilient.resolving import resolve
from resilient.testing.conformance import Conformance, ProcessConformance

__all__ = ["AtUrl", "ProcessesAtUrl"]


class AtUrl(Conformance):
    """Random prefixes at one URL."""

    @pytest.fixture(autouse=True)
    def _at_the_url(self, url: str) -> None:
        self._url = url

    def backend(self) -> Backend:
        return resolve(self._url, f"test-{uuid.uuid4().hex[:12]}:")


@pytest.mark.slow
@pytest.mark.timeout(180)
class ProcessesAtUrl(ProcessConformance):
    """Processes that meet at one URL."""

    @pytest.fixture(autouse=True)
    def _at_the_url(self, url: str) -> None:
        self._url = url

    def url(self) -> str:
        return self._url
