"""When a circuit opens, in the words of the decorator's options; and all rules together."""

from __future__ import annotations

from resilient.engine.durations import Duration, seconds
from resilient.engine.options import check_whole_number
from resilient.errors import ConfigurationError
from resilient.policies.circuit_breaker.checks import check, share
from resilient.policies.circuit_breaker.recovery import Backoff, HalfOpen, Quorum, Ramp
from resilient.protocols.circuits import CircuitRules

__all__ = [
    "DEFAULT_HALF_OPEN",
    "DEFAULT_TRIP",
    "DEFAULT_WINDOW",
    "Consecutive",
    "CountWindow",
    "FailureRate",
    "SlowRate",
    "TimeWindow",
    "Trip",
    "Window",
    "circuit_rules",
]

IDLE = 86_400.0
"""Seconds for which a circuit is remembered that nobody uses."""
MOST_BUCKETS = 120
TIMED = 100_000
"""Outcomes that a process keeps of a time window while they cannot be sent."""


class Trip:
    """A condition that opens a circuit; `|` combines several: any of them does."""

    def __or__(self, other: Trip) -> Trip:
        if not isinstance(other, Trip):
            return NotImplemented
        return _AnyOf((*_parts(self), *_parts(other)))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


class FailureRate(Trip):
    """Open when at least this share of the calls in the window has failed.

    Args:
        rate: More than 0, at most 1: `0.5` opens at half. It is judged after every call, once
            there are `min_calls` of them.

    Raises:
        ConfigurationError: The rate is no such number.

    Example:
        >>> import resilient
        >>> resilient.FailureRate(0.5) | resilient.Consecutive(5)
        FailureRate(0.5) | Consecutive(5)
    """

    def __init__(self, rate: float) -> None:
        self.rate = share(rate, "FailureRate")

    def __repr__(self) -> str:
        return f"FailureRate({self.rate})"


class SlowRate(Trip):
    """Open when at least this share of the calls in the window was slow.

    A call counts as slow as soon as it has become so, while it is still under way. What our own
    policies inside the function wait for (a lock, the pause before another attempt) is not its
    time.

    Args:
        rate: More than 0, at most 1.
        over: Seconds, or as `"2s"`, above which a call is slow.

    Raises:
        ConfigurationError: The rate or the duration is wrong.

    Example:
        >>> import resilient
        >>> resilient.SlowRate(0.8, over=2.0)
        SlowRate(0.8, over=2.0)
    """

    def __init__(self, rate: float, *, over: Duration) -> None:
        self.rate = share(rate, "SlowRate")
        self.over = seconds(over, option="SlowRate: over")

    def __repr__(self) -> str:
        return f"SlowRate({self.rate}, over={self.over})"


class Consecutive(Trip):
    """Open after this many failures in a row, however few calls there were.

    Args:
        failures: At least 1. Successes of any process in between begin the count anew.

    Raises:
        ConfigurationError: It is no such number.

    Example:
        >>> import resilient
        >>> resilient.Consecutive(5)
        Consecutive(5)
    """

    def __init__(self, failures: int) -> None:
        check_whole_number("Consecutive", "failures", failures)
        self.failures = failures

    def __repr__(self) -> str:
        return f"Consecutive({self.failures})"


class CountWindow:
    """Judge the latest calls, so many of them.

    Args:
        calls: At least 1.

    Raises:
        ConfigurationError: It is no such number.

    Example:
        >>> import resilient
        >>> resilient.CountWindow(100)
        CountWindow(100)
    """

    def __init__(self, calls: int) -> None:
        check_whole_number("CountWindow", "calls", calls)
        self.calls = calls

    def __repr__(self) -> str:
        return f"CountWindow({self.calls})"


class TimeWindow:
    """Judge the calls of the latest seconds.

    Args:
        duration: How long it is: seconds, or as `"1m"`.
        buckets: In how many parts it moves on; each is forgotten as a whole.

    Raises:
        ConfigurationError: The duration or the number is wrong.

    Example:
        >>> import resilient
        >>> resilient.TimeWindow(60)
        TimeWindow(60.0, buckets=10)
    """

    def __init__(self, duration: Duration, *, buckets: int = 10) -> None:
        self.seconds = seconds(duration, option="TimeWindow: duration")
        check_whole_number("TimeWindow", "buckets", buckets)
        self.buckets = buckets
        if self.buckets > MOST_BUCKETS:
            raise ConfigurationError(f"TimeWindow: {buckets=}: at most {MOST_BUCKETS}")

    def __repr__(self) -> str:
        return f"TimeWindow({self.seconds}, buckets={self.buckets})"


class _AnyOf(Trip):
    def __init__(self, parts: tuple[Trip, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))


def circuit_rules(
    trip: Trip,
    window: Window,
    min_calls: int,
    open_for: Duration | Backoff,
    half_open: HalfOpen,
    ramp: Ramp | None,
    quorum: Quorum | None,
    *,
    policy: str,
) -> CircuitRules:
    """The rules as the stores read them.

    Raises:
        ConfigurationError: An option is of the wrong kind or out of its range.
    """
    check(
        "trip",
        trip,
        (FailureRate, SlowRate, Consecutive, _AnyOf),
        "FailureRate(0.5) | Consecutive(5)",
        policy,
    )
    check("window", window, (CountWindow, TimeWindow), "CountWindow(100)", policy)
    check("half_open", half_open, HalfOpen, "HalfOpen(permits=5, lease=10)", policy)
    check("ramp", ramp, (Ramp, type(None)), "Ramp(over=30)", policy)
    check("quorum", quorum, (Quorum, type(None)), "Quorum(2)", policy)
    check_whole_number(f"@{policy}", "min_calls", min_calls)
    parts = _parts(trip)
    slow = [part for part in parts if isinstance(part, SlowRate)]
    if len({part.over for part in slow}) > 1:
        raise ConfigurationError(f"@{policy}: trip={trip!r}: what is slow has one limit, `over`")
    rates = [part.rate for part in parts if isinstance(part, FailureRate)]
    in_a_row = [part.failures for part in parts if isinstance(part, Consecutive)]
    backoff = open_for if isinstance(open_for, Backoff) else None
    pause = (
        open_for.first if isinstance(open_for, Backoff) else seconds(open_for, option="open_for")
    )
    return CircuitRules(
        window=window.calls if isinstance(window, CountWindow) else TIMED,
        min_calls=min_calls,
        failure_rate=min(rates, default=None),
        consecutive=min(in_a_row, default=None),
        open_for=pause,
        permits=half_open.permits,
        lease=half_open.lease,
        ttl=max(IDLE, 2 * (backoff.max if backoff else pause)),
        seconds=None if isinstance(window, CountWindow) else window.seconds,
        buckets=1 if isinstance(window, CountWindow) else window.buckets,
        slow_rate=min((part.rate for part in slow), default=None),
        slow_over=slow[0].over if slow else None,
        factor=backoff.factor if backoff else 1.0,
        longest=backoff.max if backoff else None,
        jitter=backoff.jitter if backoff else 0.0,
        calm=backoff.calm if backoff else 60.0,
        concurrency=half_open.concurrency,
        all_must_pass=half_open.policy == "all",
        ramp=ramp.over if ramp else None,
        ramp_start=ramp.start if ramp else 0.0,
        quorum=quorum.nodes if quorum else None,
        quorum_share=quorum.fraction if quorum else 0.0,
    )


def _parts(trip: Trip) -> tuple[Trip, ...]:
    return trip.parts if isinstance(trip, _AnyOf) else (trip,)


Window = CountWindow | TimeWindow

DEFAULT_TRIP = FailureRate(0.5)
DEFAULT_WINDOW = CountWindow(100)
DEFAULT_HALF_OPEN = HalfOpen()
