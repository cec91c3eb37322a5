"""Random numbers of our own: not the module's generator, which others seed and watch."""

from __future__ import annotations

import os
from random import Random

__all__ = ["random", "uniform"]

_own = Random()
os.register_at_fork(after_in_child=_own.seed)  # else it would draw what its parent draws
random = _own.random
uniform = _own.uniform
