"""What is asked of a server behind a network that loses, is silent or breaks: one text for each."""

from __future__ import annotations

import time
from typing import Any

import pytest

from resilient import Backend
from resilient.errors import BackendError
from resilient.protocols.circuits import CircuitRules
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy

__all__ = ["BadNetwork"]

RULES = CircuitRules(100, 100, 0.5, None, 30.0, 5, 10.0, 600.0)


class BadNetwork:
    """Tests of a backend `behind` a `proxy`, which waits for a second.

    Attributes:
        calls: What is in a request that calls something of ours.
    """

    calls: tuple[bytes, ...]

    def is_call(self, request: bytes) -> bool:
        """Whether a request is one of ours, and none of the driver's own."""
        return any(each in request for each in self.calls)

    def test_a_lost_reply_is_asked_again(
        self, run: Run, proxy: FaultProxy, behind: Backend
    ) -> None:
        """The server did it and the answer was lost: nobody notices: asking twice is safe."""
        store: Any = behind.require("locks")
        first = run(store.acquire("k", ttl=30, owner="ann"))
        run(store.release("k", owner="ann"))

        proxy.drop_reply_when(self.is_call)
        grant = run(store.acquire("k", ttl=30, owner="ann"))
        proxy.drop_reply_when(self.is_call)
        assert run(store.release("k", owner="ann", fence=grant.fence)) is True

        assert grant.fence > first.fence
        assert run(store.holder("k")) is None
        assert proxy.counts.dropped == 2

    def test_a_count_is_not_sent_twice(self, run: Run, proxy: FaultProxy, behind: Backend) -> None:
        """An outcome whose report may have arrived is not counted again: the caller is told."""
        circuits: Any = behind.require("circuits")
        run(circuits.record("k", rules=RULES, outcomes="1"))

        proxy.drop_reply_when(self.is_call)
        with pytest.raises(BackendError) as caught:
            run(circuits.record("k", rules=RULES, outcomes="0"))

        assert caught.value.transient
        assert run(circuits.view("k")).calls == 2

    def test_a_silent_network(self, run: Run, proxy: FaultProxy, behind: Backend) -> None:
        """No answer is an error after the time for one operation; all is well afterwards."""
        store: Any = behind.require("locks")
        run(store.acquire("k", ttl=30, owner="ann"))

        proxy.blackhole()
        started = time.monotonic()
        with pytest.raises(BackendError, match="did not answer in time") as caught:
            run(store.renew("k", owner="ann", ttl=30))
        assert 0.9 < time.monotonic() - started < 5
        assert caught.value.transient

        proxy.restore()
        assert run(store.renew("k", owner="ann", ttl=30)) is True

    def test_a_server_that_does_not_shake_hands(
        self, run: Run, proxy: FaultProxy, behind: Backend
    ) -> None:
        """Connecting is bounded too, where the port accepts and nobody speaks."""
        store: Any = behind.require("locks")
        proxy.blackhole()

        started = time.monotonic()
        with pytest.raises(BackendError) as caught:
            run(store.acquire("k", ttl=30))

        assert time.monotonic() - started < 5
        assert caught.value.transient

    def test_connections_that_die_idle(self, run: Run, proxy: FaultProxy, behind: Backend) -> None:
        """Even what must not be sent twice survives a connection that died while it lay idle."""
        circuits: Any = behind.require("circuits")
        run(circuits.record("k", rules=RULES, outcomes="1"))
        proxy.reset_all()
        time.sleep(1.1)

        assert run(circuits.record("k", rules=RULES, outcomes="0")).calls == 2
