"""Redis behind sentinels: the primary dies while locks are held, and all else is at work."""

from __future__ import annotations

import pytest

from tests.process.fail_overs import survives
from tests.support.sentinels import sentinels

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def test_a_primary_dies_in_the_middle(prefix: str) -> None:
    """What the replica had is kept and goes on to who waits; the loss of what it had not is told.

    A call that is running ends, once; a job loses no item; a value and an open circuit are there.

    Until its holder hears of that, both it and the next one believe to hold that lock: this is what
    asynchronous replication can lose. The fence of the next one is higher nevertheless, so that
    the late writes of the first are refused.
    """
    with sentinels() as servers:
        survives(
            servers.url,
            prefix,
            servers.primary,
            servers.replica,
            servers.await_promotion,
            mode="sync",
        )
