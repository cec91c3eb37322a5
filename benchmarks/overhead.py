"""What each decorator adds to a call over the memory backend, beside tenacity's first success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import resilient
from benchmarks.checkpoints import finished_job, one_job
from benchmarks.harness import Group, Mode, Place
from benchmarks.retries import tenacity_retry


def groups() -> list[Group]:
    """Sync and async."""
    return [_overhead("sync"), _overhead("async")]


def _overhead(mode: Mode) -> Group:
    group = Group("overhead over the memory backend", mode)
    group.case("tenacity, the first try succeeds")(tenacity_retry)
    group.case("the bare function")(lambda place: place.body)
    for name, decorate in DECORATORS.items():
        group.case(f"resilient {name}")(decorate)
    return group


def _retry(place: Place) -> Any:
    return resilient.retry(on=OSError)(place.body)


def _breaker(place: Place) -> Any:
    return resilient.circuit_breaker("k", backend=place.backend("memory"))(place.body)


def _cached(place: Place) -> Any:
    return resilient.cached("{n}", ttl=600, backend=place.backend("memory"))(place.body)


def _lock(place: Place) -> Any:
    return resilient.distributed_lock("k:{n}", backend=place.backend("memory"))(place.body)


def _replay(place: Place) -> Any:
    return resilient.idempotent("k:{n}", ttl=600, backend=place.backend("memory"))(place.body)


def _first(place: Place) -> Any:
    function = _replay(place)
    return lambda _: function(place.fresh())


DECORATORS: dict[str, Callable[[Place], Any]] = {
    "retry": _retry,
    "circuit_breaker, closed": _breaker,
    "cached, hit": _cached,
    "distributed_lock": _lock,
    "idempotent, replay": _replay,
    "idempotent, first call": _first,
    "checkpointed, finished job": finished_job("memory"),
    "checkpointed, empty job": one_job("memory"),
}
