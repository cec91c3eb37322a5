"""The types that every capability shares."""

from __future__ import annotations

from typing import NewType

__all__ = ["Encoded"]

Encoded = NewType("Encoded", bytes)
"""A value in its stored form, as `resilient.engine.codecs` writes it: bytes to a backend.

A backend stores and returns it untouched. By hand (`backend.sync.cache.set("k", value)`) the
views encode and decode it, so that a caller sees values.
"""
