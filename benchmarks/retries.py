"""A retried call that succeeds at once: `@retry`, tenacity, stamina."""

from __future__ import annotations

from typing import Any

import resilient
from benchmarks.harness import Group, Mode, Place

MODES: tuple[Mode, ...] = ("sync", "async")


def groups() -> list[Group]:
    """Sync and async."""
    return [_success(mode) for mode in MODES]


def _success(mode: Mode) -> Group:
    group = Group("retry: the first try succeeds", mode)
    group.case("the bare function")(lambda place: place.body)
    group.case("resilient")(lambda place: resilient.retry(on=OSError)(place.body))
    group.case("tenacity")(tenacity_retry)
    group.case("stamina")(_stamina)
    return group


def tenacity_retry(place: Place) -> Any:
    """tenacity around the function."""
    import tenacity

    return tenacity.retry(
        stop=tenacity.stop_after_attempt(5), retry=tenacity.retry_if_exception_type(OSError)
    )(place.body)


def _stamina(place: Place) -> Any:
    import stamina

    return stamina.retry(on=OSError)(place.body)
