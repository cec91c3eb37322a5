"""What the suites of all capabilities share: a fresh backend, the clock, and keys of every kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import pytest

from resilient.engine import clock as clocks
from resilient.engine.backend import Backend, Capability, adopt
from resilient.engine.clock import ManualClock
from resilient.engine.plan import Plan
from resilient.engine.signals import RECHECK
from resilient.testing.conformance._machines.base import Machine, World, run_machine
from resilient.testing.conformance.runs import Run

__all__ = ["LONG", "ODD_KEYS", "SHORT", "Conformance"]

SHORT = 0.1
"""Seconds after which things expire in tests that wait for it."""
LONG = 300.0
"""Seconds after which nothing expires while a test runs, however slow the machine."""

ODD_KEYS = (
    "plain",
    "",
    " ",
    "with space",
    " leading and trailing ",
    "a:b",
    "a:b:c",
    "a",
    ":a",
    "a:",
    "a%3Ab",
    "a%253Ab",
    "100%",
    "%",
    "{a}",
    "{a}b",
    "a}{b",
    "{",
    "}",
    "{}",
    "%7Ba%7D",
    "new\nline",
    "new\\nline",
    "tab\t",
    "carriage\r\n",
    "nul\x00byte",
    "naïve café",
    "nai\u0308ve cafe\u0301",
    "日本語",
    "🔒",
    "UPPER",
    "upper",
    "quote'\"`",
    "semi;colon--",
    "slash/../dot",
    "back\\slash",
    "glob*?[a-z]",
    "like_%",
    "x" * 500,
    "x" * 499,
    "1",
    "01",
    "1.0",
    "a:1",
    "a:01",
    "job:7:8",
    "None",
)
"""Keys that careless quoting, separators or normal forms make meet."""


class Conformance:
    """The base of all suites: inherit one of its subclasses, not this.

    Attributes:
        clock: The clock by which the backend judges, if that is this process's: the suite installs
            it and moves it on. `None`: the backend has a clock of its own, and tests of expiry
            really sleep, a tenth of a second each.
        examples: How many histories the model-based test tries, in each mode.
        steps: How many operations such a history has.
    """

    capability: ClassVar[Capability]
    clock: ClassVar[ManualClock | None] = None
    examples: int = 50
    steps: int = 40

    def backend(self) -> Any:
        """A fresh and empty backend, or a context manager that yields one.

        Called several times in one test it returns backends that share nothing: on one server,
        under prefixes of their own. The suite closes what it gets.
        """
        raise NotImplementedError(f"{type(self).__name__} needs `def backend(self)`")

    def advance(self, seconds: float) -> None:
        """Let time pass for the backend."""
        if self.clock is not None:
            self.clock.advance(seconds)
        else:
            time.sleep(seconds)

    # --- what each capability says about itself

    def mark(self, store: Any, key: str, number: int) -> Plan[Any]:
        """The plan that leaves this number (1, 2, ...) under a key."""
        raise NotImplementedError

    async def marked(self, store: Any, key: str) -> int | None:
        """The number that is under a key."""
        raise NotImplementedError

    # --- fixtures

    @pytest.fixture(params=["sync", "async"], name="run")
    def _run(self, request: pytest.FixtureRequest) -> Iterator[Run]:
        run = Run(request.param)
        yield run
        run.close()

    @pytest.fixture(name="opened")
    def _opened(self, run: Run) -> Iterator[Backend]:
        """A backend, on the clock of the suite."""
        with self._installed(), self._open(run) as backend:
            yield backend

    @pytest.fixture(name="live")
    def _live(self, run: Run) -> Iterator[Backend]:
        """A backend in real time, for tests of signals; skips where it has none."""
        with self._open(run) as backend:
            run.listen(backend)  # whoever listens first may find that nothing can be heard
            if backend.hub.recheck < RECHECK:
                pytest.skip(f"{backend.name} has no signals: its waiters look by themselves")
            yield backend

    @pytest.fixture(name="store")
    def _store(self, opened: Backend) -> Any:
        return opened.require(self.capability)

    @pytest.fixture(name="another")
    def _another(self, run: Run, opened: Backend) -> Iterator[Any]:
        """The store of another namespace."""
        with self._open(run) as backend:
            yield backend.require(self.capability)

    @pytest.fixture(name="world")
    def _world(self, run: Run, opened: Backend, store: Any) -> World:
        """The same for the model-based tests."""
        return World(run, store, self.advance if self.clock else None, opened.max_ttl)

    def try_machine(self, machine: type[Machine], world: World) -> None:
        """Compare the store with its model, over so many histories."""
        run_machine(machine, world, examples=self.examples, steps=self.steps)

    def _installed(self) -> AbstractContextManager[None]:
        return nullcontext() if self.clock is None else clocks.installed(self.clock)

    @contextmanager
    def _open(self, run: Run) -> Iterator[Backend]:
        given = self.backend()
        manager = given if isinstance(given, AbstractContextManager) else nullcontext(given)
        with manager as candidate:
            backend = adopt(candidate)
            if run.mode not in backend.modes:
                pytest.skip(f"{backend.name} does not serve {run.mode} callers")
            with run.closing(backend):
                yield backend

    # --- tests of keys, namespaces and loops, by `mark` and `marked`

    def test_odd_keys_never_meet(self, run: Run, store: Any) -> None:
        """Keys with separators, braces, line ends or 500 characters are all different keys."""
        for number, key in enumerate(ODD_KEYS, start=1):
            run(self.mark(store, key, number))
        found = {key: run(self.marked(store, key)) for key in ODD_KEYS}
        assert found == {key: number for number, key in enumerate(ODD_KEYS, start=1)}

    def test_namespaces_share_nothing(self, run: Run, store: Any, another: Any) -> None:
        """What is stored under one prefix is not there under another."""
        run(self.mark(store, "k", 1))
        assert run(self.marked(another, "k")) is None
        run(self.mark(another, "k", 2))
        assert run(self.marked(store, "k")) == 1
        assert run(self.marked(another, "k")) == 2

    def test_unknown_key(self, run: Run, store: Any) -> None:
        """Nothing is known of a key that was never used."""
        assert run(self.marked(store, "never used")) is None

    def test_two_event_loops(self, run: Run, store: Any) -> None:
        """A backend goes on working in a second event loop after the first was closed."""
        run(self.mark(store, "first", 1))
        run.fresh_loop()
        assert run(self.marked(store, "first")) == 1
        run(self.mark(store, "second", 2))
        run.fresh_loop()
        assert run(self.marked(store, "second")) == 2

    def test_used_again_after_close(self, run: Run, opened: Backend) -> None:
        """A closed backend opens again when it is used again."""
        store = opened.require(self.capability)
        run(self.mark(store, "before", 1))
        opened.close()
        run(self.mark(store, "after", 2))
        assert run(self.marked(store, "after")) == 2

    def test_many_at_once(self, run: Run, store: Any) -> None:
        """Operations of many threads or tasks at once do not disturb each other."""
        keys = [f"key-{number}" for number in range(1, 25)]
        run.together(*(self.mark(store, key, n) for n, key in enumerate(keys, start=1)))
        found = run.together(*(self.marked(store, key) for key in keys))
        assert found == list(range(1, 25))
