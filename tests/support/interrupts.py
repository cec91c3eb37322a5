"""Ctrl-C at a certain moment."""

from __future__ import annotations

import dis
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

import resilient
from resilient import Backend
from resilient.engine.drivers.sync import drive
from resilient.testing.faults import FaultProxy

__all__ = [
    "at_each_moment",
    "interrupted",
    "nobody_gets_the_answer_to_an_interrupted_question",
]

OURS = os.path.dirname(resilient.__file__)
LOOKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"}
"""Instructions behind which the interpreter looks whether a signal has come."""


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


def nobody_gets_the_answer_to_an_interrupted_question(backend: Backend, proxy: FaultProxy) -> None:
    """Ctrl-C between question and answer: what is asked next gets an answer of its own.

    Args:
        backend: On a server behind the proxy. It is closed.
        proxy: The network between them.
    """
    store = backend.require("locks")
    drive(store.acquire("k", ttl=30, owner="ann"))
    proxy.latency(0.3)

    with interrupted(0.1):
        drive(store.acquire("k", ttl=30, owner="ann"))
    proxy.latency(0)

    assert drive(store.is_held("k", owner="bob")) is False
    assert drive(store.release("k", owner="ann")) is True
    backend.close()


def at_each_moment(operation: Callable[[], object], *besides: ModuleType) -> Iterator[int]:
    """Run it again and again, interrupted one moment later each time, until it ends by itself.

    A moment is one in which the interpreter would have a signal handled, in this package's code and
    that of the modules `besides`.
    Signals mostly come while something blocks: so what a call has begun must be in good hands as
    soon as the call is over.
    """
    places = (OURS, "<resilient", *[str(module.__file__) for module in besides])
    for moment in count(1):
        if not _interrupted_at(moment, operation, places):
            return
        yield moment


def _interrupted_at(moment: int, operation: Callable[[], object], places: tuple[str, ...]) -> bool:
    """Whether it came to that: it ended earlier otherwise."""
    before: dict[FrameType, int] = {}
    left = moment

    def each(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "return":
            before.pop(frame, None)
        elif event == "opcode":
            last, before[frame] = before.get(frame), frame.f_lasti
            if last is not None and _is_moment(frame.f_code, last, frame.f_lasti):
                left -= 1
                if not left:
                    sys.settrace(None)
                    before.clear()
                    raise KeyboardInterrupt
        return each

    def called(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(places):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return each

    others = sys.gettrace()
    sys.settrace(called)
    try:
        operation()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(others)
    return False


def _is_moment(code: CodeType, last: int, here: int) -> bool:
    """Whether a signal would be handled behind the last instruction, and as if before this one.

    It is raised by the last one. Who has the error then is not the same where a block ends.
    """
    is_looked = dis.opname[code.co_code[last]] in LOOKS
    return is_looked and _handler(code, last) == _handler(code, here)


def _handler(code: CodeType, place: int) -> int | None:
    """Where it goes on after an error at this place."""
    for each in _handlers(code):
        if each.start <= place < each.end:
            target: int = each.target
            return target
    return None


@cache
def _handlers(code: CodeType) -> list[Any]:
    parse: Callable[[CodeType], list[Any]] = vars(dis)["_parse_exception_table"]
    return parse(code)
