"""What the processes of `test_restarts.py` do."""

from __future__ import annotations

import time
from pathlib import Path

import resilient
from tests.support.modes import Mode, ModeName
from tests.support.processes import tell


def increase(url: str, prefix: str, mode_name: ModeName, path: str, seconds: float) -> list[int]:
    """Increase a number in a file under a lock, again and again, whatever becomes of the server.

    Returns:
        The fences under which it was done.
    """
    file = Path(path)
    fences: list[int] = []
    until = time.monotonic() + seconds
    with Mode(mode_name) as mode, resilient.using(url, prefix=prefix):
        tell("began")
        # A hold whose grant nobody heard of keeps all others out until its TTL is over.
        while time.monotonic() < until or (not fences and time.monotonic() < until + 40):
            try:
                with mode.entered(resilient.lock("k", ttl=20, wait=8)) as lease:
                    file.write_text(str(int(file.read_text()) + 1))
                    fences.append(lease.fence)
            except (resilient.BackendError, resilient.LockNotAcquired, resilient.LeaseLost):
                pass  # the server is away; a release that was not heard is told so, too
        if mode.is_async:
            mode.call(resilient.aclose)
    return fences
