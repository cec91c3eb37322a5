"""What each decorator adds to a call over the memory backend, beside tenacity's first success."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FunctionType
from typing import Any

import resilient
from benchmarks.checkpoints import finished_job, one_job
from benchmarks.harness import Group, Mode, Place, bare
from benchmarks.retries import tenacity_retry


def groups() -> list[Group]:
    """Calls, sync and async; and what it takes to decorate."""
    return [_overhead("sync"), _overhead("async"), _decorating()]


def _overhead(mode: Mode) -> Group:
    group = Group("overhead over the memory backend", mode)
    group.case("tenacity, the first try succeeds")(tenacity_retry)
    group.case("the bare function")(lambda place: place.body)
    for name, decorate in DECORATORS.items():
        group.case(f"resilient {name}")(decorate)
    return group


def _decorating() -> Group:
    group = Group("decorating a function", "sync")

    @group.case("dataclass, three fields")
    def _dataclass(_: Place) -> Any:
        return lambda n: dataclass(type(f"Point{n}", (), {"__annotations__": FIELDS}))

    group.case("resilient cached, the first of its parameters")(_first_of_its_kind)
    for name, decorate in DECORATING.items():
        group.case(f"resilient {name}")(partial(_repeated, decorate))
    return group


def _repeated(decorate: Callable[[Any], Any], place: Place) -> Any:
    backend = place.backend("memory")
    return lambda _: decorate(backend)


def _first_of_its_kind(place: Place) -> Any:
    backend, numbers = place.backend("memory"), count()

    def decorate(_: int) -> Any:
        name = f"n{next(numbers)}"
        function = FunctionType(bare.__code__.replace(co_varnames=(name,)), {})
        return resilient.cached(f"{{{name}}}", ttl=60, backend=backend)(function)

    return decorate


def _job(job: resilient.Job, n: int) -> int:
    return n


FIELDS = {"x": int, "y": int, "z": int}
DECORATING: dict[str, Callable[[Any], Any]] = {
    "retry": lambda _: resilient.retry(on=OSError)(bare),
    "circuit_breaker": lambda backend: resilient.circuit_breaker("k", backend=backend)(bare),
    "cached": lambda backend: resilient.cached("{n}", ttl=60, backend=backend)(bare),
    "distributed_lock": lambda backend: resilient.distributed_lock("k:{n}", backend=backend)(bare),
    "idempotent": lambda backend: resilient.idempotent("k:{n}", ttl=60, backend=backend)(bare),
    "checkpointed": lambda backend: resilient.checkpointed("k:{n}", backend=backend)(_job),
}


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
