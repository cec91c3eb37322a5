"""Codecs: values to stored bytes and back, each as what it was.

    codec_for(function)    guided by the function's return annotation; for every decorator
    codec_of(type)         guided by a type, such as the `State` of a job
    ANY                    guided by nothing: the stored form describes itself
    SignedPickle(key)      by explicit choice, for what nothing else can store
    Json()                 by explicit choice, for what other programs read
    Compressed(), Encrypted(key)    around another one; each needs an extra

A value goes by the annotation only if its whole type tree matches it exactly. Otherwise the
stored form says what the value is. What neither can tell is a `CodecError` when it is stored:
nothing ever comes back as a different type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.engine.codecs.base import Codec, reason_of
from resilient.engine.codecs.guided import codec_for, codec_of
from resilient.engine.codecs.pickled import SignedPickle
from resilient.engine.codecs.plain_json import Json
from resilient.engine.codecs.tagged import ANY, decode, encode

if TYPE_CHECKING:
    from resilient.engine.codecs.compressed import Compressed
    from resilient.engine.codecs.encrypted import Encrypted

__all__ = [
    "ANY",
    "Codec",
    "Compressed",
    "Encrypted",
    "Json",
    "SignedPickle",
    "codec_for",
    "codec_of",
    "decode",
    "encode",
    "reason_of",
]


def __getattr__(name: str) -> Any:
    """What needs an extra is imported when it is first used."""
    from importlib import import_module

    if name in ("Compressed", "Encrypted"):
        return getattr(import_module(f"{__name__}.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
