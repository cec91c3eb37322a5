"""Damaged, foreign and hostile bytes: a codec error, and no code that runs."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.engine.codecs import ANY, SignedPickle, codec_of, decode, encode
from resilient.errors import CodecError
from resilient.protocols.values import Encoded
from tests.support.encoded import HERE, Message, Row, Shape


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=30), st.sampled_from([b"", b"\x01", b"\x01\xc7", b"\x02"]))
def test_foreign_bytes_are_a_codec_error(noise: bytes, head: bytes) -> None:
    """Whatever the bytes are, the error is ours; or they happen to be a value."""
    for codec in (ANY, codec_of(Row), SignedPickle(bytes(32))):
        try:
            codec.decode(Encoded(head + noise))
        except CodecError:
            continue
        assert head + noise[:1] != b""


@pytest.mark.parametrize("value", [[1, Row("a"), Message("b")], {"k": (1, {2})}, Row("a")])
def test_truncated_and_trailing_bytes_are_a_codec_error(value: Any) -> None:
    """No prefix of a record reads as a value, and nothing may follow it."""
    for codec in (ANY, codec_of(Row)):
        stored = codec.encode(value)
        for end in range(len(stored)):
            with pytest.raises(CodecError):
                codec.decode(Encoded(stored[:end]))
        with pytest.raises(CodecError):
            codec.decode(Encoded(stored + b"\x00"))


def forged(code: int, name: str, content: Any) -> Encoded:
    """Return what somebody with access to the store could write."""
    data = msgspec.msgpack.encode([name, content])
    return Encoded(b"\x01" + msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data)))


@pytest.mark.parametrize("code", [64, 65, 66, 67, 68, 69, 99, 0])
@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:dict",
        "subprocess:Popen",
        f"{HERE}:Plain",
        f"{HERE}:Finalized",
        f"{HERE}:collections.deque",
        f"{HERE}:dataclasses.Field",
        f"{HERE}:assert_kept",
        f"{HERE}:",
        ":",
        "",
        "no.such:Thing",
    ],
)
def test_a_record_names_no_code_to_run(code: int, name: str) -> None:
    """Only classes of the known kinds are built, by their own names."""
    contents: list[Any] = [{}, [], "x", [[], {}], None]
    for content in contents:
        with pytest.raises(CodecError):
            decode(forged(code, name, content))


def test_a_class_is_built_only_as_its_own_kind() -> None:
    """An enum is not built like a record, and a record not like an exception."""
    assert decode(forged(69, f"{HERE}:Row", {"name": "a"})) == Row("a")
    for code, name in ((69, "Color"), (65, "Row"), (64, "Row"), (69, "Refused"), (66, "Message")):
        with pytest.raises(CodecError):
            decode(forged(code, f"{HERE}:{name}", {}))
    with pytest.raises(CodecError, match="no such class"):
        decode(forged(69, f"{HERE}:Renamed", {"name": "a"}))
    with pytest.raises(CodecError, match="1 fields"):
        decode(forged(66, f"{HERE}:Pair", [1]))


def test_reading_imports_nothing_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module is imported only from a package that the program has imported itself."""
    package = tmp_path / "ourpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("raise SystemExit('ran')")
    row = "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    x: int\n"
    (package / "rows.py").write_text(row)
    (tmp_path / "stranger.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    ours = forged(69, "ourpackage.rows:Row", {"x": 1})

    for stored in (
        ours,
        forged(69, "stranger:Row", {}),
        forged(69, "antigravity:Row", {}),
        forged(69, "xml.sax.expatreader:Row", {}),
    ):
        with pytest.raises(CodecError):
            decode(stored)
    assert not {"ourpackage", "stranger", "antigravity", "xml.sax.expatreader"} & set(sys.modules)

    monkeypatch.setitem(sys.modules, "ourpackage", __import__("ourpackage"))
    assert decode(ours).x == 1
    with pytest.raises(CodecError):
        decode(forged(69, "ourpackage.__main__:Row", {}))
    sys.modules.pop("ourpackage.rows")


def test_a_record_follows_a_class_that_gained_a_field_with_a_default() -> None:
    """What was stored before has the default; a new field without one is an error."""
    assert decode(forged(69, f"{HERE}:Row", {"name": "a"})) == Row("a", 0, set())
    assert decode(forged(69, f"{HERE}:Shape", {"name": "a", "_secret": "s"})) == Shape("a")
    assert decode(forged(67, f"{HERE}:Message", [{"text": "a", "gone": 1}, {}])) == Message("a")
    with pytest.raises(CodecError, match="has no 'name'"):
        decode(forged(69, f"{HERE}:Row", {"count": 1}))
    with pytest.raises(CodecError):
        decode(forged(69, f"{HERE}:Point", {"x": 1, "y": 1.0, "gone": 1}))


def test_a_class_of_the_main_module_has_its_importable_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script's own classes are found by the script and by the processes that it spawns."""
    for main in ("__main__", "__mp_main__"):
        script: Any = types.ModuleType(main)
        script.__file__ = "/srv/jobs.py"
        script.Report = dataclasses.make_dataclass("Report", [("x", int)])
        script.Report.__module__ = main
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
            patch.setitem(sys.modules, main, script)
            stored = encode(script.Report(1))
            assert stored.count(b"jobs:Report") == 1
            assert decode(stored) == script.Report(1)
