"""What `@idempotent` answers a duplicate, on each backend: the same value, of the same type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
import redis

import resilient
from resilient import idempotent
from resilient.engine.codecs import decode
from resilient.policies.idempotent.outcomes import stored
from resilient.protocols.values import Encoded
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.servers import RedisAt


class Colour(Enum):
    """An enum."""

    RED = "r"


@dataclass
class Receipt:
    """A dataclass."""

    order: str
    amount: Decimal
    lines: tuple[int, ...] = ()


class Struct(msgspec.Struct):
    """A msgspec model."""

    at: datetime
    colours: list[Colour]


class Model(pydantic.BaseModel):
    """A pydantic model."""

    at: datetime
    prices: dict[int, Decimal]


@attrs.define
class Attrs:
    """An attrs class."""

    number: int
    inner: Receipt


class Named(NamedTuple):
    """A named tuple."""

    number: int
    data: bytes


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
RECEIPT = Receipt("A-7", Decimal("9.90"), (1, 2))
PLAIN = [
    None, 0, False, "", b"", [], {}, (), set(), 0.0, -1.5, 2**80, "é\x00", b"\x00\xff",
    (1, "a", None), [(1,), [2]], {1: "a", 2: "b"}, {"1": (1, 2)}, {(1, 2): {3}},
    {1, 2}, frozenset("a"),
    Decimal("1.10"), datetime(2026, 1, 2), NOON, date(2026, 1, 2), time(1, 2), timedelta(1, 2),
    UUID(int=7), Colour.RED, 1 + 2j, RECEIPT, [RECEIPT], {"receipt": RECEIPT}, Named(1, b"x"),
    Struct(NOON, [Colour.RED]), Model(at=NOON, prices={1: Decimal("0.10")}), Attrs(7, RECEIPT),
]  # fmt: skip
"""With nothing to guide them."""
GUIDED: list[tuple[Any, Any]] = [
    (Receipt, RECEIPT),
    (list[Receipt], [RECEIPT]),
    (dict[int, Decimal], {1: Decimal("1.10")}),
    (tuple[int, ...], (1, 2)),
    (Struct, Struct(NOON, [Colour.RED])),
    (Model, Model(at=NOON, prices={1: Decimal("0.10")})),
    (list[Model], [Model(at=NOON, prices={})]),
    (Attrs, Attrs(7, RECEIPT)),
    (Struct | None, None),
    (int, "no int"),
]
"""By an annotation, which one of them does not keep to."""


def types_of(value: Any) -> Any:
    """The type of a value and those of what is in it."""
    match value:
        case dict():
            inner: Any = [(types_of(key), types_of(each)) for key, each in value.items()]
        case list() | tuple():
            inner = [types_of(each) for each in value]
        case set() | frozenset():
            inner = {type(each) for each in value}
        case _:
            inner = None
    return type(value), inner


def answering(
    mode: Mode, template: str, answer: Any, annotation: Any = Any
) -> tuple[Any, list[int]]:
    """An idempotent function that answers this, and its runs."""
    runs: list[int] = []

    async def body() -> Any:
        runs.append(1)
        return answer

    body.__annotations__["return"] = annotation
    return mode.decorate(idempotent(template, ttl=60, lease=30), body), runs


def test_a_replayed_result_is_equal_and_of_the_same_type(target: Target, mode: Mode) -> None:
    """Nothing falsy is lost, no tuple becomes a list, no int key a text; each runs once."""
    cases = [(Any, answer) for answer in PLAIN] + GUIDED
    with resilient.using(target.url, prefix=target.prefix):
        for number, (annotation, answer) in enumerate(cases):
            call, runs = answering(mode, f"k:{number}", answer, annotation)
            for _ in range(2):
                given = mode.call(call)
                assert given == answer, annotation
                assert types_of(given) == types_of(answer), annotation
            assert runs == [1], answer
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_result_without_a_stored_form_is_never_run_again(target: Target, mode: Mode) -> None:
    """3 calls, 1 execution: the first gets it, the others learn that it took effect."""
    answer = object()
    with resilient.using(target.url, prefix=target.prefix):
        call, runs = answering(mode, "k", answer)
        assert mode.call(call) is answer
        for _ in range(2):
            with pytest.raises(resilient.ResultUnavailable, match="object"):
                mode.call(call)
        assert runs == [1]
        if mode.is_async:
            mode.call(resilient.aclose)


class Declined(Exception):
    """An error that keeps what has no stored form, and cannot even be written."""

    def __str__(self) -> str:
        """Fail."""
        raise LookupError


def test_an_answer_that_breaks_its_encoder_is_never_run_again(mode: Mode) -> None:
    """Half-made objects raise anything when looked at; the call has taken effect all the same."""
    half_made = Model.__new__(Model)
    declined = Declined(object())

    async def fails() -> None:
        failed.append(1)
        raise declined

    failed: list[int] = []
    with resilient.using("memory://"):
        for annotation in (Any, Model):
            call, runs = answering(mode, str(annotation), half_made, annotation)
            assert mode.call(call) is half_made
            for _ in range(2):
                with pytest.raises(resilient.ResultUnavailable, match="Model"):
                    mode.call(call)
            assert runs == [1]
        call = mode.decorate(idempotent("fails", ttl=60, replay_errors=(Declined,)), fails)
        with pytest.raises(Declined) as caught:
            mode.call(call)
        assert caught.value is declined
        for _ in range(2):
            with pytest.raises(resilient.ResultUnavailable, match="Declined"):
                mode.call(call)
        assert failed == [1]


class BrokenCodec:
    """A codec with a fault of its own."""

    def encode(self, value: Any) -> Encoded:
        """Fail."""
        raise Declined

    def decode(self, data: Encoded) -> Any:
        """Fail."""
        raise Declined


def test_a_fault_of_a_codec_is_an_outcome_without_a_value() -> None:
    """Nothing that a codec raises may keep a call that took effect from being recorded."""
    outcome, reason = stored(BrokenCodec(), "done")
    assert (outcome, decode(reason)) == ("unstored", "Declined")


def test_no_key_is_without_a_ttl(redis_server: RedisAt, prefix: str, mode: Mode) -> None:
    """Of a call that runs, was given up, was completed, or died."""

    def fails() -> None:
        raise LookupError

    def looks() -> None:
        live.extend(keys())

    def keys() -> list[bytes]:
        found = list(client.scan_iter(match=f"{prefix}*", count=1000))
        assert [key for key in found if client.pttl(key) < 0] == []
        return found

    live: list[bytes] = []
    bodies: dict[str, Callable[[], None]] = {"fails": fails, "looks": looks}
    with (
        redis.Redis.from_url(redis_server.url) as client,
        resilient.using(redis_server.url, prefix=prefix),
    ):
        for name, body in bodies.items():
            call = mode.decorate(idempotent(name, ttl=60), body)
            for _ in range(2):
                try:
                    mode.call(call)
                except LookupError:
                    continue
        if mode.is_async:
            mode.call(resilient.aclose)
        assert len(live) == 2
        assert len(keys()) == 2
