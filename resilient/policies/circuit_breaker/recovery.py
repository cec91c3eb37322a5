"""How a circuit that has opened closes again, in the words of the decorator's options."""

from __future__ import annotations

from typing import Literal

from resilient.engine.durations import Duration, seconds
from resilient.engine.options import check_choice, check_whole_number
from resilient.errors import ConfigurationError
from resilient.policies.circuit_breaker.checks import number, share

__all__ = ["Backoff", "HalfOpen", "Quorum", "Ramp"]


class Backoff:
    """An open circuit waits longer each time that its probes have failed, over all processes.

    Args:
        first: The first time: seconds, or as `"5s"`.
        factor: How many times as long the next one is.
        max: The longest.
        jitter: The share by which a time is varied either way, less than 1: not all circuits of a
            fleet are probed at the same moment.
        calm: After it has been closed for so long the next time is the first again.

    Raises:
        ConfigurationError: One of them is wrong.

    Example:
        >>> import resilient
        >>> resilient.Backoff(5, factor=2, max=300)
        Backoff(5.0, factor=2.0, max=300.0, jitter=0.1, calm=60.0)
    """

    def __init__(
        self,
        first: Duration,
        *,
        factor: float = 2.0,
        max: Duration = 300,  # noqa: A002 - the field's own word
        jitter: float = 0.1,
        calm: Duration = 60,
    ) -> None:
        self.first = seconds(first, option="Backoff: first")
        self.factor = number(factor, 1.0, 1e6, "Backoff: factor")
        self.max = seconds(max, option="Backoff: max")
        self.jitter = number(jitter, 0.0, 0.99, "Backoff: jitter")
        self.calm = seconds(calm, option="Backoff: calm")
        if self.max < self.first:
            raise ConfigurationError(f"Backoff: max={max!r} is less than the first, {first!r}")

    def __repr__(self) -> str:
        return (
            f"Backoff({self.first}, factor={self.factor}, max={self.max}, "
            f"jitter={self.jitter}, calm={self.calm})"
        )


class Ramp:
    """A circuit that has closed lets calls through little by little, in all processes alike.

    Args:
        over: For how long, until all pass: seconds, or as `"30s"`.
        start: The share of calls that passes at first.

    Raises:
        ConfigurationError: The duration or the share is wrong.

    Example:
        >>> import resilient
        >>> resilient.Ramp(over=30, start=0.1)
        Ramp(over=30.0, start=0.1)
    """

    def __init__(self, over: Duration, *, start: float = 0.1) -> None:
        self.over = seconds(over, option="Ramp: over")
        self.start = share(start, "Ramp: start")

    def __repr__(self) -> str:
        return f"Ramp(over={self.over}, start={self.start})"


class Quorum:
    """Open for all only when several processes have found the service bad, each by its own calls.

    Until then a process that has leaves it alone by itself: one bad node opens only itself.

    Args:
        nodes: How many.
        fraction: And at least this share of the processes that have reported of late.

    Raises:
        ConfigurationError: The number or the share is wrong.

    Example:
        >>> import resilient
        >>> resilient.Quorum(2, fraction=0.25)
        Quorum(2, fraction=0.25)
    """

    def __init__(self, nodes: int = 2, *, fraction: float = 0.0) -> None:
        check_whole_number("Quorum", "nodes", nodes)
        self.nodes = nodes
        self.fraction = number(fraction, 0.0, 1.0, "Quorum: fraction")

    def __repr__(self) -> str:
        return f"Quorum({self.nodes}, fraction={self.fraction})"


class HalfOpen:
    """How an open circuit is probed when its time is over.

    Args:
        permits: How many calls are let through, over all processes. When all have ended the
            circuit closes, or opens again if they failed, or were slow, as often as opens it.
        concurrency: How many of them may be under way at once; all, unless you say.
        lease: After how long the permit of a probe that never reported, because its process died,
            is free again: seconds, or as `"10s"`. A probe that takes longer does not count, so
            make it longer than a call takes.
        policy: `"rate"`, or `"all"`: the first failure opens the circuit again.

    Raises:
        ConfigurationError: A number, the duration or the policy is wrong.

    Example:
        >>> import resilient
        >>> resilient.HalfOpen(permits=5, concurrency=2, lease=10)
        HalfOpen(permits=5, concurrency=2, lease=10.0, policy='rate')
    """

    def __init__(
        self,
        permits: int = 5,
        *,
        concurrency: int | None = None,
        lease: Duration = 10,
        policy: Literal["rate", "all"] = "rate",
    ) -> None:
        check_whole_number("HalfOpen", "permits", permits)
        if concurrency is not None:
            check_whole_number("HalfOpen", "concurrency", concurrency)
        self.permits = permits
        self.concurrency = concurrency
        self.lease = seconds(lease, option="HalfOpen: lease")
        check_choice("HalfOpen", "policy", policy, "rate", "all")
        self.policy = policy

    def __repr__(self) -> str:
        return (
            f"HalfOpen(permits={self.permits}, concurrency={self.concurrency}, "
            f"lease={self.lease}, policy={self.policy!r})"
        )
