"""Codecs around cached values: every type comes back, and no record that was tampered with does."""

from __future__ import annotations

import math
from typing import Any

import pytest

import resilient
from resilient import CodecError, ConfigurationError, cached
from resilient.engine.codecs import ANY, Json, SignedPickle
from resilient.engine.codecs.compressed import Compressed
from resilient.engine.codecs.encrypted import Encrypted
from resilient.engine.drivers.sync import drive
from resilient.protocols.values import Encoded
from tests.support.fixtures import Target

KEY, OTHER = b"k" * 32, b"o" * 32
PLAIN: list[Any] = [None, True, 0, 1.5, "", "é" * 5000, [1, [2]], {"a": {"b": []}}]
CODECS: list[Any] = [
    None,
    Json(),
    SignedPickle(KEY),
    Compressed(),
    Encrypted(KEY),
    Encrypted(KEY, Compressed()),
    Compressed(Json(), over=0),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_values_come_back(target: Target, codec: Any) -> None:
    """By every codec and backend a value comes back as what it was, computed once."""
    ran: list[int] = []
    with resilient.using(target.url, prefix=target.prefix):

        @cached(ttl=60, local=None, codec=codec, backend_timeout="10s")
        def value(index: int) -> Any:
            ran.append(index)
            return PLAIN[index]

        for _ in range(2):
            assert [value(index) for index in range(len(PLAIN))] == PLAIN
        assert len(ran) == len(PLAIN)


@pytest.mark.parametrize("codec", [SignedPickle(KEY), Encrypted(KEY)], ids=["signed", "encrypted"])
def test_forged_downgraded_and_swapped_records(codec: Any) -> None:
    """Each is a miss and counted; what would have been decoded is never reached."""
    with resilient.using("memory://") as backend:

        @cached(ttl=60, local=None, codec=codec)
        def value(x: int) -> str:
            return f"computed {x}"

        assert [value(1), value(2)] == ["computed 1", "computed 2"]
        keys = [cached.of(value).key(x) for x in (1, 2)]
        store = backend.require("cache")
        one, two = (drive(store.get(key)).value for key in keys)
        changed = one[:-1] + bytes([one[-1] ^ 1])
        foreign = type(codec)(OTHER)
        foreign = foreign.around(ANY) if hasattr(foreign, "around") else foreign
        forged = [two, changed, one[:20], b"", ANY.encode("forged"), foreign.encode("forged")]
        for number, record in enumerate(forged, start=1):
            drive(store.set(keys[0], Encoded(record), ttl=60))
            assert value(1) == "computed 1"
            assert cached.of(value).stats().unreadable == number


def test_json_refuses_what_it_would_change() -> None:
    """What JSON gives back as another type has no form in it."""
    for value in ((1,), {1: 2}, math.nan, math.inf, b"x", {1}):
        with pytest.raises(CodecError):
            Json().encode(value)


def test_compression_is_bounded() -> None:
    """A record that unfolds beyond the limit, or is cut off, is an error."""
    record = Compressed().around(ANY).encode("x" * 100_000)
    assert len(record) < 1000
    small = Compressed(limit=1000).around(ANY)
    for data in (record, Encoded(record[:-2])):
        with pytest.raises(CodecError):
            small.decode(data)
    with pytest.raises(ConfigurationError, match="level"):
        Compressed(level=0)
    with pytest.raises(ConfigurationError, match="16, 24 or 32"):
        Encrypted(b"short")
