"""Which decorator stands above which: what is easily mistaken is said when decorated."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    DecoratorOrder,
    bulkhead,
    cached,
    checkpointed,
    circuit_breaker,
    distributed_lock,
    fallback,
    idempotent,
    retry,
)
from tests.support.modes import Mode

DECORATORS: dict[str, Any] = {
    "fallback": fallback(lambda error, *args: None),
    "checkpointed": checkpointed("k"),
    "idempotent": idempotent("k", ttl=60),
    "cached": cached(ttl=60),
    "distributed_lock": distributed_lock("k"),
    "retry": retry(on=OSError),
    "circuit_breaker": circuit_breaker("k"),
    "bulkhead": bulkhead(1),
}
"""From the outermost to the innermost, as they go well together."""
MISTAKEN = {
    ("circuit_breaker", "fallback"): "count as successes",
    ("retry", "fallback"): "never tried again",
    ("circuit_breaker", "retry"): "count as one",
    ("circuit_breaker", "cached"): "refused while the circuit is open",
    ("circuit_breaker", "idempotent"): "refused while the circuit is open",
    ("distributed_lock", "cached"): "waits for the lock",
}


@pytest.mark.parametrize(
    ("above", "below"), [(a, b) for a in DECORATORS for b in DECORATORS if a != b]
)
def test_two_decorators(mode: Mode, above: str, below: str) -> None:
    """Those that go wrong warn, with what goes wrong and the way out; all others say nothing."""

    async def call(job: Any) -> None: ...

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inner = mode.decorate(DECORATORS[below], call)
        DECORATORS[above](inner)
    told = [str(each.message) for each in caught]
    if (above, below) not in MISTAKEN:
        assert told == []
        return
    assert len(told) == 1
    assert told[0].startswith(f"@{above} on ")
    assert MISTAKEN[above, below] in told[0]
    assert f"write @{below} above @{above}" in told[0]


def test_all_of_them_in_their_order(mode: Mode) -> None:
    """Nothing is said."""

    async def call(job: Any) -> None: ...

    decorated = mode.function(call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in reversed(DECORATORS):
            decorated = DECORATORS[name](decorated)


def test_where_it_is_told() -> None:
    """At the line that decorates, also of a method, with others in between, and of a breaker."""
    breaker = CircuitBreaker("k")
    with pytest.warns(DecoratorOrder) as caught:

        class Service:
            @circuit_breaker("k")
            @distributed_lock("k")
            @retry(on=OSError)
            def method(self) -> None: ...

            @classmethod
            @breaker
            @retry(on=OSError)
            def of_the_class(cls) -> None: ...

    assert [each.filename for each in caught] == [__file__] * 2
    assert "Service.method stands above @retry" in str(caught[0].message)


def test_it_may_be_meant() -> None:
    """Then the warning is ignored like any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DecoratorOrder)
        circuit_breaker("k")(retry(on=OSError)(lambda: None))
