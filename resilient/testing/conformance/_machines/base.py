"""What the machines of all capabilities share: keys of their own, the clock, and the comparison."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Protocol, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from resilient.testing.conformance.models.answers import ANYTHING
from resilient.testing.conformance.runs import Run

__all__ = ["LEASES", "READY", "Machine", "World", "run_machine"]

LEASES = st.sampled_from([50.0, 200.0])
"""Seconds that some steps of the clock outlast, where the machine may move it."""
READY = st.sampled_from([True, True, False])
"""Whether an owner who is about to write begins before, if nobody has: most histories would
otherwise be writes that are refused."""
STEPS_OF_TIME = st.sampled_from([1.0, 60.0, 250.0])
MOMENT = 0.001
"""Seconds that every operation takes: a clock never stands still."""

SECONDS = frozenset(
    {"ttl", "fresh", "kept", "age", "reopens_in", "retry_after", "last_failure", "last_success"}
)
NUMBERS = frozenset({"fence", "generation"})


class Model(Protocol):
    """What the machines need of every model."""

    now: float


class World:
    """One store under test, and how to call it and move its clock.

    Args:
        run: Drives the store's plans.
        store: The store.
        advance: Moves the clock by which it judges; `None` if only real time does.
        max_ttl: Its longest TTL, in seconds.
    """

    def __init__(
        self,
        run: Run,
        store: Any,
        advance: Callable[[float], None] | None,
        max_ttl: float,
    ) -> None:
        self.run = run
        self.store = store
        self.advance = advance
        self.max_ttl = max_ttl
        self.histories = count(1)


class Numbers:
    """The store's fences (or generations): equal where the model's are, and growing with them."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {0: 0}

    def check(self, expected: int, actual: object) -> None:
        """The model's number stands for this one of the store's."""
        assert type(actual) is int, f"{actual!r} is no int"
        known = self._known.get(expected)
        if known is not None:
            assert actual == known, f"number {actual} where it was {known} before"
            return
        earlier = max(number for mine, number in self._known.items() if mine < expected)
        assert actual > earlier, f"number {actual} does not grow: it follows {earlier}"
        self._known[expected] = actual

    def __getitem__(self, expected: int) -> int:
        return self._known[expected]

    def forget(self, expected: int) -> None:
        """The store may number this one anew."""
        self._known.pop(expected, None)


class Machine(RuleBasedStateMachine):
    """One history: operations on a store and on its model.

    Every history has keys of its own, so that all of them share one backend.
    """

    model: Any

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.store = world.store
        self._history = next(world.histories)
        self._began = time.monotonic()
        self._numbers: dict[str, Numbers] = {}

    @precondition(lambda self: self.world.advance is not None)
    @rule(seconds=STEPS_OF_TIME)
    def time_passes(self, seconds: float) -> None:
        """The clock moves on."""
        self._advance(seconds)

    # --- calling both

    def name(self, key: str) -> str:
        """The key at the store."""
        return f"{self._history}/{key}"

    def ask(self, plan: Any) -> Any:
        """The store's answer; a moment passes."""
        answer = self.world.run(plan)
        if self.world.advance is not None:
            self._advance(MOMENT)
        return answer

    def numbers(self, key: str) -> Numbers:
        """The fences or generations of a key."""
        return self._numbers.setdefault(key, Numbers())

    def _advance(self, seconds: float) -> None:
        assert self.world.advance is not None
        self.world.advance(seconds)
        self.model.now += seconds

    # --- comparing

    def agree(self, key: str, expected: Any, actual: Any, field: str = "") -> None:
        """The store's answer is the model's, but for what no protocol fixes."""
        if expected is ANYTHING:
            return
        if field in NUMBERS:
            self.numbers(key).check(expected, actual)
        elif field in SECONDS and expected is not None:
            self._agree_on_seconds(expected, actual, field)
        elif hasattr(expected, "_fields"):
            self._agree_on_tuple(key, expected, actual)
        elif isinstance(expected, Mapping):
            assert isinstance(actual, Mapping), f"{actual!r} is no mapping"
            assert dict(actual) == dict(expected)
        elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            assert type(actual) is type(expected), f"{actual!r} is no {type(expected).__name__}"
            assert len(actual) == len(expected)
            for one, other in zip(expected, actual, strict=True):
                self.agree(key, one, other)
        elif isinstance(expected, bool | bytes | None):
            # 1 for true, or text for bytes, would pass `==` in one place and fail in another.
            assert type(actual) is type(expected), f"{actual!r} where {expected!r} was due"
            assert actual == expected
        else:
            assert actual == expected

    def _agree_on_tuple(self, key: str, expected: Any, actual: Any) -> None:
        assert type(actual).__name__ == type(expected).__name__, f"{actual!r}, not {expected!r}"
        for name in expected._fields:
            try:
                self.agree(key, getattr(expected, name), getattr(actual, name), name)
            except AssertionError as error:
                error.add_note(f"in {name} of {actual!r}, where {expected!r} was due")
                raise

    def _agree_on_seconds(self, expected: float, actual: Any, field: str) -> None:
        assert isinstance(actual, float | int), f"{actual!r} is no number of seconds"
        # The model's clock stands still in real time, the store's does not; a moment is the step
        # of the model's own clock, and servers round to milliseconds.
        real = 0.0 if self.world.advance is not None else time.monotonic() - self._began
        tolerance = real + 3 * MOMENT
        assert abs(actual - expected) <= tolerance, f"{field} is {actual}, not {expected}"


def run_machine(machine: type[Machine], world: World, *, examples: int, steps: int) -> None:
    """Try so many histories of so many operations; repeatable where `CI` is set."""
    run_state_machine_as_test(
        # It takes whatever makes a machine, and is typed for classes only.
        cast(type[RuleBasedStateMachine], lambda: machine(world)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize="CI" in os.environ,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
