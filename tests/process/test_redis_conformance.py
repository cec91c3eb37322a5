"""The Redis backend under many processes, on every server that is installed."""

from __future__ import annotations

import pytest

from resilient.testing.conformance import ProcessConformance
from tests.support.servers import RedisAt


@pytest.mark.process
class TestProcesses(ProcessConformance):
    """Several processes on one Redis."""

    @pytest.fixture(autouse=True)
    def _server(self, every_redis: RedisAt) -> None:
        self._url = every_redis.url

    def url(self) -> str:
        return self._url
