"""What tells calls and values apart: no two arguments meet, and every value comes back."""

from __future__ import annotations

import math
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import resilient
from resilient import cached
from tests.support.fixtures import Target
from tests.support.modes import Mode

EACH = 5_000


def alike(n: int) -> list[Any]:
    """Values that are equal, or look alike, and of which no two are the same argument."""
    return [
        *(n, float(n), Decimal(n), str(n), f"{n}.0", str(n).encode(), (n,), [n], {n}),
        *(frozenset({n}), {"n": n}, {n: "n"}, (str(n),), [str(n)], ((n,),), (n, None)),
        *(date(2000, 1, 1) + timedelta(n), timedelta(n), UUID(int=n), complex(n)),
    ]


def test_a_hundred_thousand_arguments_never_meet() -> None:
    """As many typed arguments, no two the same, have as many keys: some five billion pairs."""

    @cached(ttl=60)
    def f(argument: Any) -> None: ...

    key = cached.of(f).key
    keys = {key(argument) for n in range(EACH) for argument in alike(n)}
    assert len(keys) == EACH * len(alike(0)) == 100_000


def test_what_looks_alike_is_computed_for_itself(mode: Mode) -> None:
    """By whatever way an entry is found in the process, it is that of the very same argument."""

    async def f(argument: Any) -> tuple[str, str]:
        return type(argument).__name__, repr(argument)

    f = mode.decorate(cached(ttl=60), f)
    arguments = [argument for n in range(20) for argument in [*alike(n), bool(n % 2), None]]
    with resilient.using("memory://"):
        for _ in range(2):
            for argument in arguments:
                assert mode.call(f, argument) == (type(argument).__name__, repr(argument))
        assert cached.of(f).stats().computed == 20 * len(alike(0)) + 3


class Refused(Exception):
    """An exception of the user's, with something to tell."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@pytest.mark.parametrize("local", ["auto", None])
def test_every_outcome_comes_back(mode: Mode, every_target: Target, local: Any) -> None:
    """`None`, nothing and no number, and exceptions that are results: each is computed once."""
    outcomes: list[Any] = [None, 0, 0.0, -0.0, False, "", b"", (), [], {}, math.inf, math.nan]
    errors: list[Exception] = [Refused(7), LookupError("gone", 3), ValueError()]
    ran = []

    async def f(index: int) -> Any:
        ran.append(index)
        if index < len(outcomes):
            return outcomes[index]
        raise errors[index - len(outcomes)]

    f = mode.decorate(
        cached(ttl=60, error_ttl={Exception: 60}, local=local, backend_timeout="10s"), f
    )
    with resilient.using(every_target.url, prefix=every_target.prefix):
        for _ in range(3):
            for index, outcome in enumerate(outcomes):
                found = mode.call(f, index)
                assert (type(found), repr(found)) == (type(outcome), repr(outcome))
            for index, error in enumerate(errors, start=len(outcomes)):
                with pytest.raises(type(error)) as raised:
                    mode.call(f, index)
                assert raised.value.args == error.args
    assert len(ran) == len(outcomes) + len(errors)
