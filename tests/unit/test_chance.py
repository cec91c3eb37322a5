"""Random numbers of our own."""

from __future__ import annotations

import os
import random

import pytest

from resilient.engine import chance
from tests.support.forks import in_child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_draws_other_numbers_than_its_parent() -> None:
    """Its jitter is its own: or all workers of a server would come back at the same moment."""
    reader, writer = os.pipe()
    assert in_child(lambda: os.write(writer, chance.random().hex().encode())) == 0
    theirs = float.fromhex(os.read(reader, 64).decode())
    os.close(reader)
    os.close(writer)
    assert theirs != chance.random()


def test_seeding_the_module_leaves_it_alone() -> None:
    """Whoever calls `random.seed` in every process gives them no common jitter."""
    random.seed(7)
    first = chance.random()
    random.seed(7)
    assert chance.random() != first
