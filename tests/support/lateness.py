"""How late threads of this process come to their turns: what a busy machine adds to a time."""

from __future__ import annotations

import threading
import time
from typing import Self

__all__ = ["Lateness"]

STEP = 0.01


class Lateness:
    """The worst that a thread overslept inside the block, on a machine at rest a millisecond.

    A time that is promised is asserted with this added to it: so the assertion is as strict as the
    machine allows.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sleep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _sleep(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            time.sleep(STEP)
            self.seconds = max(self.seconds, time.monotonic() - began - STEP)
