"""A few daemon threads that do what no caller shall wait for, or what would block an event loop."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    import queue

__all__ = ["Crew", "aside"]

log = logging.getLogger("resilient")

LINGER = 10.0
"""Seconds without work after which a thread ends."""

Job = Callable[[], None]
T = TypeVar("T")


class Crew:
    """Runs jobs in the order in which they come. Threads start with work and end without.

    They are daemons: none keeps the interpreter from ending.

    Args:
        name: What the threads are called.
        size: How many there are at most.
        linger: Seconds without work after which one ends; `LINGER` unless it is said.
    """

    def __init__(self, name: str, size: int, *, linger: float | None = None) -> None:
        self._name = name
        self._size = size
        self._linger = linger
        self.forget()

    def forget(self) -> None:
        """Begin anew: the threads and what they had to do are gone (a fork)."""
        self._lock = threading.Lock()
        import queue

        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._unfinished = 0

    def submit(self, job: Job) -> None:
        """Have a job done. What it raises is logged.

        Raises:
            RuntimeError: No thread can be started, since the interpreter ends.
        """
        with self._lock:
            self._add(job)

    def ask(self, loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> asyncio.Future[T]:
        """What becomes of work that an event loop waits for; done even if nobody does any more.

        The loop's own executor is its user's: neither shall wait until the other has done.

        Raises:
            RuntimeError: As for `submit`.
        """
        reply: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            settle: Callable[[], None]
            try:
                settle = partial(reply.set_result, work())
            except BaseException as error:
                settle = partial(reply.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_unless_done, reply, settle)
            del settle  # an error refers to this frame

        self.submit(job)
        return reply

    def offer(self, job: Job) -> bool:
        """Have it done if it need not wait behind others; false, and nothing done, if it must.

        It must also where no thread can be started.
        """
        with self._lock:
            if self._unfinished >= self._size:
                return False
            try:
                self._add(job)
            except RuntimeError:
                return False
        return True

    def _add(self, job: Job) -> None:
        if len(self._threads) < min(self._size, self._unfinished + 1):
            thread = threading.Thread(
                target=self._work, args=(self._jobs,), name=self._name, daemon=True
            )
            thread.start()
            self._threads.add(thread)
        self._jobs.put(job)
        self._unfinished += 1

    def _work(self, jobs: queue.SimpleQueue[Job | None]) -> None:
        import queue

        while True:
            try:
                job = jobs.get(timeout=LINGER if self._linger is None else self._linger)
            except queue.Empty:
                with self._lock:
                    if not jobs.empty():
                        continue
                    self._threads.discard(threading.current_thread())
                return
            if job is None:
                return
            try:
                job()
            except BaseException:  # a thread that died would be missed by all jobs to come
                log.exception("A job failed in a thread of %s.", self._name)
            finally:
                del job  # not to be kept alive while this thread waits for the next
                with self._lock:
                    self._unfinished -= 1

    def stop(self) -> None:
        """End the threads when what was submitted is done; a later job starts others."""
        for thread in self.dismiss():
            if thread is not threading.current_thread():
                thread.join()

    def dismiss(self) -> set[threading.Thread]:
        """The same without waiting for it: the threads that will end."""
        import queue

        with self._lock:
            threads, self._threads = self._threads, set()
            jobs, self._jobs = self._jobs, queue.SimpleQueue()
            for _ in threads:
                jobs.put(None)
        return threads


async def aside(work: Callable[[], T]) -> T:
    """Await what blocks: a thread of its own does it, to the end even if that is cancelled."""
    import asyncio

    crew = Crew("resilient-aside", 1)
    try:
        done = crew.ask(asyncio.get_running_loop(), work)
    except RuntimeError:  # the interpreter ends, and this is the last loop
        return work()
    threads = crew.dismiss()
    result = await done
    for thread in threads:
        thread.join()  # it has done all but end
    return result


def _unless_done(reply: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    if not reply.done():
        settle()
