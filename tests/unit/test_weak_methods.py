"""Bound methods that are called later, such as what a forked child must forget."""

from __future__ import annotations

import pytest

from resilient.engine.weak_methods import WeakMethods


class Told:
    """Something that is told, and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.times = 0
        self.error = error

    def tell(self) -> None:
        self.times += 1
        if self.error is not None:
            raise self.error


def test_one_that_fails_keeps_no_other_from_being_told() -> None:
    """A child that forgot one backend only would use the sockets of its parent's others."""
    first, second, third = Told(), Told(OSError("bad file")), Told()
    methods = WeakMethods()
    for each in (first, second, third):
        methods.add(each.tell)
    with pytest.raises(OSError, match="bad file"):
        methods()
    assert [each.times for each in (first, second, third)] == [1, 1, 1]


def test_nothing_is_kept_alive() -> None:
    """Who is gone is told nothing."""
    methods, told = WeakMethods(), Told()
    methods.add(told.tell)
    del told
    methods()
