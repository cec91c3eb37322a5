"""A request that is new, and one that was made before."""

from __future__ import annotations

from typing import Any

import resilient
from benchmarks.harness import Group, Mode, Place
from benchmarks.retries import MODES

KINDS = ("redis", "sqlite", "memory")


def groups() -> list[Group]:
    """New and repeated, sync and async."""
    return [made(mode) for mode in MODES for made in (_first, _replay)]


def _first(mode: Mode) -> Group:
    group = Group("idempotent: the first call of a key", mode)

    @group.case("redis-py: SET NX, SET")
    def _(place: Place) -> Any:
        client = place.client

        def call(n: int) -> None:
            key = f"{place.prefix}{place.fresh()}"
            client.set(key, "claim", nx=True, px=30_000)
            client.set(key, "result", px=600_000)

        async def acall(n: int) -> None:
            key = f"{place.prefix}{place.fresh()}"
            await client.set(key, "claim", nx=True, px=30_000)
            await client.set(key, "result", px=600_000)

        return call if mode == "sync" else acall

    def fresh(make: Any) -> Any:
        def made(place: Place) -> Any:
            function = make(place)
            return lambda n: function(place.fresh())

        return made

    for kind in KINDS:
        group.case(f"resilient, {kind}")(fresh(_ours(kind)))
    if mode == "sync":
        group.case("AWS Powertools, redis")(fresh(_powertools))
    return group


def _replay(mode: Mode) -> Group:
    group = Group("idempotent: the same call again", mode)

    @group.case("redis-py: GET")
    def _(place: Place) -> Any:
        with place.server.client() as setter:
            setter.set("raw-record", "result")
        return lambda n: place.client.get("raw-record")

    for kind in KINDS:
        group.case(f"resilient, {kind}")(_ours(kind))
    if mode == "sync":
        group.case("AWS Powertools, redis")(_powertools)
    return group


def _ours(kind: str) -> Any:
    def make(place: Place) -> Any:
        return resilient.idempotent("k:{n}", ttl=600, backend=place.backend(kind))(place.body)

    return make


def _powertools(place: Place) -> Any:
    import os

    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.persistence.redis import (
        RedisCachePersistenceLayer,
    )

    os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "benchmarks")
    layer = RedisCachePersistenceLayer(client=place.client)
    wrapped = idempotent_function(
        data_keyword_argument="n", persistence_store=layer, config=IdempotencyConfig()
    )(place.body)
    return lambda n: wrapped(n=n)
