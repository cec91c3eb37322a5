"""Random numbers of our own: not the module's generator, which others seed and watch."""

from __future__ import annotations

from random import SystemRandom

__all__ = ["random", "uniform"]

_own = SystemRandom()  # without a state that a fork's child would share
random = _own.random
uniform = _own.uniform
