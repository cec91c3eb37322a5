"""Codecs: values to stored bytes and back, each as what it was.

    codec_for(function)    guided by the function's return annotation; for every decorator
    codec_of(type)         guided by a type, such as the `State` of a job
    ANY                    guided by nothing: the stored form describes itself
    SignedPickle(key)      by explicit choice, for what nothing else can store
    Json()                 by explicit choice, for what other programs read
    Compressed(), Encrypted(key)    around another one; in modules of their own, with their extras

A value goes by the annotation only if its whole type tree matches it exactly. Otherwise the
stored form says what the value is. What neither can tell is a `CodecError` when it is stored:
nothing ever comes back as a different type.
"""

from __future__ import annotations

from resilient.engine.codecs.base import Codec, reason_of
from resilient.engine.codecs.guided import codec_for, codec_of
from resilient.engine.codecs.pickled import SignedPickle
from resilient.engine.codecs.plain_json import Json
from resilient.engine.codecs.tagged import ANY, decode, encode

__all__ = [
    "ANY",
    "Codec",
    "Json",
    "SignedPickle",
    "codec_for",
    "codec_of",
    "decode",
    "encode",
    "reason_of",
]
