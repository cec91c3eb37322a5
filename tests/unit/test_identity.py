"""Whether a process is gone: whoever believes that takes over what it holds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

import resilient
from resilient.engine.identity import caller, is_dead
from resilient.engine.loops import running_loop

CODE = "from resilient.engine.identity import new_owner; print(new_owner(), flush=True); input()"


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that lives until it is told something, and an owner token of it."""
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()
        child.kill()


def test_a_process_is_dead_when_it_has_ended(process: tuple[subprocess.Popen[str], str]) -> None:
    """So it is before its parent has waited for it, and after that."""
    child, owner = process
    assert not is_dead(owner)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(owner)
    child.wait()
    assert is_dead(owner)


@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENOENT, errno.EACCES])
def test_a_process_that_cannot_be_looked_at_is_not_dead(
    process: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """There is no file descriptor left, or `/proc` hides it: only one that is not there is gone."""
    child, owner = process
    assert not is_dead(owner)  # so that this process knows by now who it is itself

    def refused(path: str, flags: int) -> int:
        raise OSError(reason, os.strerror(reason), path)

    monkeypatch.setattr(os, "open", refused)
    assert not is_dead(owner)
    child.kill()
    child.wait()
    assert is_dead(owner)


def test_a_number_that_is_no_processs() -> None:
    """A token that names an impossible process is no dead one's."""
    from resilient.engine.identity import new_owner

    fields = new_owner().split("|")
    fields[3] = "9" * 30
    assert not is_dead("|".join(fields))


@pytest.mark.parametrize("found", [None, ModuleType("asyncio")], ids=["forbidden", "half there"])
def test_a_thread_calls_while_another_one_imports_asyncio(
    found: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no loop then: it is the thread that calls."""
    with resilient.using("memory://"):
        locked = resilient.distributed_lock("k")(caller)
        locked()
        monkeypatch.setitem(sys.modules, "asyncio", found)
        assert locked() is threading.current_thread()
        assert running_loop() is None
