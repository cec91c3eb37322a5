"""Forked children: whatever happens in one, it ends there, and never goes on as its parent.

One that came back into pytest would run the tests after it a second time, and tell of them on the
connection of the worker that it is a copy of: which ends the whole run.
"""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable

__all__ = ["exit_code", "forked", "in_child"]

LIFETIME = 90
"""Seconds after which a child that hangs is killed, before the test of its parent is given up."""


def forked(work: Callable[[], object], *, lifetime: int = LIFETIME) -> int:
    """Run this in a child process: its id.

    Args:
        work: What it does.
        lifetime: Seconds after which it is killed; 0 is never.

    The child's exit code is 0, or 1 when `work` raises, which it tells on stderr, or answers False.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # to fork beside threads: the point
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it was pytest's
        signal.alarm(lifetime)
        code = int(work() is False)
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """How the child ended, once it has; it does not outlive the wait for it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def in_child(work: Callable[[], object]) -> int:
    """Run this in a child process, and wait for it: its exit code."""
    return exit_code(forked(work))
