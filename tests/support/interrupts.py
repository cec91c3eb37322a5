"""Ctrl-C at a certain moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["interrupted"]


@contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    """Interrupt the main thread in the block after so long; the block must end with that.

    By a signal from another thread, as by Ctrl-C: the alarm is pytest's, for tests that hang. One
    that comes after the block has ended interrupts nothing.
    """
    armed = True

    def interrupt(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            try:
                timer.start()
                yield
            finally:
                armed = False
    finally:
        timer.cancel()
        timer.join()
        # What is on its way has been delivered, and ignored, before this is done.
        signal.signal(signal.SIGUSR1, before)
