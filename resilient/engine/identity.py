"""Who holds a lease: owner tokens that name their process, and whether that process is gone.

A token is `host|boot|namespace|pid|started|random.count`. Whoever finds a lease held by a process
of the same host, boot and PID namespace can look whether that process is still there, and need not
wait for the lease of a dead one. A PID that the system has given to another process since is told
apart by its start time.

Callers draw tokens and ask who calls through the module, so that a simulation can put its own
processes in the place of this one.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from threading import current_thread
from typing import NamedTuple

from resilient.engine.loops import running_task

__all__ = ["Identity", "caller", "describe", "installed", "is_dead", "is_own", "new_owner"]


class Identity(NamedTuple):
    """The process behind an owner token."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str


class _Tokens:
    """The tokens of this process; drawn anew after a fork, so that a child repeats none."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.own = own = _own_identity()
        self.process = "|".join((own.host, own.boot, own.namespace, str(own.pid), own.started))
        self.prefix = f"{self.process}|{secrets.token_hex(8)}."
        self.count = count(1)


def _drawn() -> str:
    tokens = _tokens()
    return f"{tokens.prefix}{next(tokens.count)}"


def _running() -> object:
    return running_task() or current_thread()


new_owner: Callable[[], str] = _drawn
"""A token that no other process, thread or task has: this process, 64 random bits, a count."""
caller: Callable[[], object] = _running
"""Who calls: the running task, or the thread; both have a name."""


@contextmanager
def installed(owners: Callable[[], str], callers: Callable[[], object]) -> Iterator[None]:
    """Have others say what the next owner token is, and who calls, until exit: in all threads."""
    global new_owner, caller
    before = new_owner, caller
    new_owner, caller = owners, callers
    try:
        yield
    finally:
        new_owner, caller = before


def parse(owner: str) -> Identity | None:
    """The process of a token, or `None` if it is a caller's own text."""
    fields = owner.split("|")
    if len(fields) != 6 or not fields[3].isdigit():
        return None
    return Identity(fields[0], fields[1], fields[2], int(fields[3]), fields[4])


def describe(owner: str) -> str:
    """The holder for people: `pid 812 on host-3`, or the caller's own text."""
    identity = parse(owner)
    return owner if identity is None else f"pid {identity.pid} on {identity.host}"


def is_own(owner: str) -> bool:
    """Whether the token was made by this process."""
    return owner.startswith(_tokens().process + "|")


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this host, boot and PID namespace, and is gone.

    False whenever that cannot be known: another host, a token of the caller's, no `/proc`, or a
    process there that this one may not look at.
    """
    theirs, ours = parse(owner), _tokens().own
    if theirs is None or not theirs.started or not theirs.boot:
        return False
    if (theirs.host, theirs.boot, theirs.namespace) != (ours.host, ours.boot, ours.namespace):
        return False
    try:
        return _start_time(theirs.pid) != theirs.started
    except OSError:
        return _is_gone(theirs.pid)


@cache
def _tokens() -> _Tokens:
    return _Tokens()


def _own_identity() -> Identity:
    pid = os.getpid()
    try:
        started = _start_time(pid)
    except OSError:  # nobody will know whether it is gone
        started = ""
    return Identity(_host(), _boot_id(), _pid_namespace(), pid, started)


@cache
def _host() -> str:
    return socket.gethostname().replace("|", "-")


@cache
def _boot_id() -> str:
    try:
        return _read("/proc/sys/kernel/random/boot_id")[:8]
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").removeprefix("pid:[").removesuffix("]")
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """When a process began, in clock ticks since boot; `""` of one that runs nothing any more.

    Raises:
        OSError: It is gone, or cannot be looked at.
    """
    # Field 22 of /proc/<pid>/stat. The second field, the command, may itself hold spaces and
    # parentheses: count from the last one. The third is the state, of which Z and X are the end.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:  # it has ended since
        raise ProcessLookupError(f"process {pid}")
    return "" if fields[0] in "ZX" else fields[19]


def _is_gone(pid: int) -> bool:
    """Whether there is no such process, rather than none that may be looked at.

    `/proc` hides those of other users where it is mounted so, and without a file descriptor to
    spare nothing there can be read.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's; a number that is no process's
        return False
    return False


def _read(path: str) -> str:
    # Whoever finds a lock held looks at its holder: `open` would cost several times as much.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096).decode(errors="replace").strip()
    finally:
        os.close(file)
