"""A call through a closed circuit: in this process, and shared through Redis."""

from __future__ import annotations

from typing import Any

import resilient
from benchmarks.harness import Group, Mode, NotHere, Place
from benchmarks.retries import MODES


def groups() -> list[Group]:
    """In this process and shared, sync and async."""
    return [_local(mode) for mode in MODES] + [_shared(mode) for mode in MODES]


def _local(mode: Mode) -> Group:
    group = Group("breaker: a call through a closed circuit, in this process", mode)
    group.case("the bare function")(lambda place: place.body)
    _ours(group, "memory")
    _ours(group, "redis")

    @group.case("resilient, memory, slow calls too")
    def _(place: Place) -> Any:
        trip = resilient.FailureRate(0.5) | resilient.SlowRate(0.8, over=2)
        breaker = resilient.circuit_breaker("slow", trip=trip, backend=place.backend("memory"))
        return breaker(place.body)

    @group.case("circuitbreaker")
    def _(place: Place) -> Any:
        import circuitbreaker

        return circuitbreaker.circuit(failure_threshold=5, recovery_timeout=30)(place.body)

    @group.case("pybreaker")
    def _(place: Place) -> Any:
        import pybreaker

        if mode == "async":
            raise NotHere("left out: its async calls are tornado's")
        return pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)(place.body)

    @group.case("purgatory")
    def _(place: Place) -> Any:
        import purgatory

        if mode == "sync":
            return purgatory.SyncCircuitBreakerFactory()("k")(place.body)
        return purgatory.AsyncCircuitBreakerFactory()("k")(place.body)

    @group.case("interlock-cb")
    def _(place: Place) -> Any:
        import interlock

        return interlock.CircuitBreaker(name="k")(place.body)

    return group


def _shared(mode: Mode) -> Group:
    group = Group("breaker: a call through a closed circuit, shared by processes", mode)

    @group.case("redis-py: GET")
    def _(place: Place) -> Any:
        return lambda n: place.client.get("raw-circuit")

    _ours(group, "redis")
    _ours(group, "sqlite")
    if mode == "sync":
        group.case("pybreaker, redis")(_pybreaker)

    @group.case("purgatory, redis")
    def _(place: Place) -> Any:
        import purgatory

        url = place.server.url
        if mode == "sync":
            unit = purgatory.SyncRedisUnitOfWork(url)
            return purgatory.SyncCircuitBreakerFactory(uow=unit)("k")(place.body)
        aunit = purgatory.AsyncRedisUnitOfWork(url)
        return purgatory.AsyncCircuitBreakerFactory(uow=aunit)("k")(place.body)

    @group.case("interlock-cb, redis")
    def _(place: Place) -> Any:
        import interlock
        from interlock.integrations.redis import AsyncRedisStorage, RedisStorage

        storage = RedisStorage if mode == "sync" else AsyncRedisStorage
        return interlock.CircuitBreaker(name="k", storage=storage(place.client))(place.body)

    return group


def _ours(group: Group, kind: str) -> None:
    @group.case(f"resilient, {kind}")
    def _(place: Place) -> Any:
        return resilient.circuit_breaker("k", backend=place.backend(kind))(place.body)


def _pybreaker(place: Place) -> Any:
    import pybreaker

    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, place.client)
    return pybreaker.CircuitBreaker(state_storage=storage)(place.body)
